"""Puts the end of a lease off again and again, and knows until when it surely holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gigglekit.fleet.errors import LeaseError, LostError
from gigglekit.fleet.lease import Lease, Leases


def since_boot() -> float:
    """Return seconds by a clock that nobody sets and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heart(threading.Thread):
    """Renews a lease ten times in its life.

    A thread, and one that nobody waits for: neither the search for a server's address nor a server that says nothing has an end by
    itself, and the job has to be stopped in time all the same.
    """

    def __init__(self, leases: Leases, lease: Lease, taken: float, clock: Callable[[], float] = since_boot) -> None:
        """Arguments: of what; `taken` is when it was asked for, by `clock`."""
        super().__init__(daemon=True, name="lease")
        self._leases, self._lease, self._clock = leases, lease, clock
        self._stopped = threading.Event()
        self._until = taken + leases.seconds
        self._lost = False

    @property
    def left(self) -> float:
        """Seconds for which the lease surely holds; the database counts them from a later moment."""
        return 0.0 if self._lost else self._until - self._clock()

    def run(self) -> None:
        """Renew until it is stopped or the lease is lost."""
        while not self._stopped.wait(self._leases.seconds / 10):
            asked = self._clock()
            try:
                self._leases.renew(self._lease)
            except LostError:
                self._lost = True
                return
            except LeaseError:
                continue  # the database may be back before it is too late
            self._until = asked + self._leases.seconds

    def stop(self) -> None:
        """Renew no more."""
        self._stopped.set()
