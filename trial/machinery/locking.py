"""Locks between commands that run at the same time; the kernel drops them when a holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import TrialError
from .settings import images_directory


@contextmanager
def held(what: str, seconds: float = 900) -> Iterator[None]:
    """Hold the lock called `what` for the duration of the block.

    Arguments:
        what: the lock's name, e.g. `network` or `trial-staging`.
        seconds: how long to wait for somebody else to finish.

    Raises:
        TrialError: it was not free within that time.
    """
    folder = images_directory() / ".locks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / what
    deadline = time.monotonic() + seconds
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrialError(
                        f"Another trial command has been holding {path} for {seconds:.0f} s, so this one gave up. "
                        "Wait for it to end, or end it (fuser -v shows who it is), then run this again."
                    ) from None
                time.sleep(0.1)
        yield
