"""Locks between commands that run at the same time; the kernel drops them when a holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
    path = _path(what)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + seconds
    while True:
        with path.open("a") as handle:
            if _taken(handle):
                # Whoever held it before may have removed the file meanwhile; a lock on nothing keeps nobody out.
                if _still_there(path, handle):
                    yield
                    return
                continue
        if time.monotonic() > deadline:
            raise TrialError(
                f"Another trial command has been holding {path} for {seconds:.0f} s, so this one gave up. "
                "Wait for it to end, or end it (fuser -v shows who it is), then run this again."
            )
        time.sleep(0.1)


def forget(what: str) -> None:
    """Remove the trace of a lock that nobody will ask for again; only its holder may."""
    _path(what).unlink(missing_ok=True)


def _path(what: str) -> Path:
    return images_directory() / ".locks" / what


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
