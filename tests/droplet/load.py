"""Several clients that ask without a pause, and count what they got."""

from __future__ import annotations

import collections
import dataclasses
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .conftest import Droplet

_PATIENCE = 90
"""Seconds a client waits for one answer: longer than any start of the app takes."""


@dataclasses.dataclass
class Load:
    """What happened to the requests so far.

    Arguments:
        answers: how often each status came, as a number, or what went wrong, as a text.
        slowest: seconds that the slowest answer took.
    """

    answers: collections.Counter[int | str] = dataclasses.field(default_factory=collections.Counter)
    slowest: float = 0.0

    @property
    def lost(self) -> dict[int | str, int]:
        """Return whatever was not answered with 200."""
        return {what: times for what, times in self.answers.items() if what != 200}


@contextmanager
def under_load(droplet: Droplet, clients: int = 4, path: str = "/api/health") -> Iterator[Load]:
    """Have `clients` ask for `path` through nginx over HTTPS during the block; look at the result after it."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer: int | str = droplet.request(path=path, timeout=_PATIENCE).status
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
            with lock:
                load.answers[answer] += 1
                load.slowest = max(load.slowest, time.monotonic() - began)
            # As fast as it goes would measure this machine's processors, which the droplet shares.
            stop.wait(0.05)

    assert droplet.info  # looked up once, before several threads want it
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(_PATIENCE + 10)
