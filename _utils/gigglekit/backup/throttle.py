"""How fast bytes go out, counted over all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Throttle:
    """A token bucket: as many bytes in a second as allowed, with bursts of at most a quarter of a second.

    Arguments:
        bytes_per_second: the limit; 0 = none.
        clock: a monotonic clock, in seconds.
        sleep: waits, in seconds.
    """

    _BURST_SECONDS = 0.25

    def __init__(
        self, bytes_per_second: int, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_from = clock()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate > 0

    def take(self, count: int) -> None:
        """Return when `count` more bytes may go out.

        Each caller books its place under the lock and waits for it outside, so that threads get their turn in the order they came.
        """
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            self._free_from = max(self._free_from, now - self._BURST_SECONDS) + count / self._rate
            wait = self._free_from - now
        if wait > 0:
            self._sleep(wait)
