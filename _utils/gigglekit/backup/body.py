"""What a request carries: bytes that are in memory already, sent without a copy of them."""

from __future__ import annotations

import os
import threading
from collections import Counter

from gigglekit.backup.throttle import Throttle

SEND_BYTES = 1 << 20
"""What goes out at once where nothing is limited."""


class Requests:
    """What was asked of the bucket so far, for records and measurements; counts every attempt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.methods: Counter[str] = Counter()
        self.bytes_sent = 0
        self.bytes_received = 0

    def add(self, method: str = "", *, sent: int = 0, received: int = 0) -> None:
        """Count a request by its method, or bytes of bodies."""
        with self._lock:
            if method:
                self.methods[method] += 1
            self.bytes_sent += sent
            self.bytes_received += received

    @property
    def total(self) -> int:
        """How many requests there were."""
        return sum(self.methods.values())

    def summary(self) -> dict[str, int]:
        """Return all counts, for a record."""
        with self._lock:
            return {**dict(sorted(self.methods.items())), "bytes_sent": self.bytes_sent, "bytes_received": self.bytes_received}


class Body:
    """A file over a piece of memory, for one attempt to send it.

    Slices are views, so a pack is in memory once however many attempts there are. The same bytes are read a second time where the
    payload is signed, over http; only what is read for sending is limited and counted, which begins with `sending()`.

    Arguments:
        data: the bytes; they must not change until the request is over.
        throttle: the limit for all threads.
        requests: where the bytes are counted.
    """

    def __init__(self, data: bytes | bytearray | memoryview, throttle: Throttle, requests: Requests) -> None:
        self._view = memoryview(data).cast("B")
        self._throttle = throttle
        self._requests = requests
        self._position = 0
        self._sending = False

    def sending(self) -> None:
        """Say that what is read from now on goes out."""
        self._position = 0
        self._sending = True

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int | None = -1) -> memoryview:
        """Return the next bytes: at most `size`, but large pieces where they go out as fast as they can.

        Source: http.client asks for 16 KiB at a time, and sends whatever it is given; each time the threads change places.
        """
        if self._sending and not self._throttle.is_limited and size is not None and size >= 0:
            size = max(size, SEND_BYTES)
        end = len(self._view) if size is None or size < 0 else min(self._position + size, len(self._view))
        part = self._view[self._position : end]
        self._position = end
        if self._sending and len(part):
            self._throttle.take(len(part))
            self._requests.add(sent=len(part))
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the bytes."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        self._position = max(0, min(base + offset, len(self._view)))
        return self._position

    def tell(self) -> int:
        """Return the place in the bytes."""
        return self._position

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        # Lets go of the memory, so that a bytearray can be filled anew.
        self._view.release()
