"""Being the only one at something, or one of several, for as long as a block lasts or its process lives."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_one(path: Path, *, seconds: float, busy: Callable[[], Exception], pause: float = 0.1) -> Iterator[None]:
    """Hold the lock at `path` during the block. A process that is killed holds it no longer.

    Arguments:
        path: the file, which is made if it is not there; its folder has to be.
        seconds: how long to wait for others; 0 for not at all.
        busy: makes what is raised if somebody else held it for all that time.
        pause: seconds between two looks.

    Raises:
        OSError: the file cannot be opened; a link is refused.

    Source: flock(2).
    """
    with _held(path, fcntl.LOCK_EX, seconds, busy, pause):
        yield


@contextmanager
def with_others(path: Path, *, seconds: float, busy: Callable[[], Exception], pause: float = 0.1) -> Iterator[None]:
    """Hold the lock at `path` during the block together with whoever else holds it so; nobody is the only one meanwhile.

    Arguments, raises: as `only_one`.
    """
    with _held(path, fcntl.LOCK_SH, seconds, busy, pause):
        yield


@contextmanager
def _held(path: Path, kind: int, seconds: float, busy: Callable[[], Exception], pause: float) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise busy() from None
            time.sleep(pause)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock on a file now (flock(2)). Nobody does if it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Had for no longer than this look; whoever wants it asks again.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
