"""The server of bench/sync: moto, or the strict proxy of the tests in front of it. Each is a process of its own.

What they take is time of the same processors as the tools', which a bucket elsewhere does not take. So they do with large bodies as
little as can be done: the proxy checks one where moto keeps it, in memory that both share and that was there before anybody was measured
(to get it from the machine below takes longer than to fill it), and tells moto only the place. What is asked of a request, and how
an answer looks, is the same as without that.

Usage: server.py moto ROOM | server.py proxy ROOM [ARGUMENT ...]. ROOM is the descriptor of shared memory, the arguments are the proxy's.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import struct
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

LARGE = 64 * 1024
"""Bytes of a body from which on it is shared."""
_PLACE = re.compile(rb"bench: ([0-9]+) bytes at ([0-9]+)\n")
_BEFORE = struct.Struct("<Q")
"""What stands before the bodies: how much of the room is taken."""
_FIRST = mmap.PAGESIZE


class Room:
    """Memory for bodies, one behind the other, until all of them are forgotten.

    Arguments:
        descriptor: of the memory.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._view = memoryview(self._memory)
        self._guard = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Have the whole room again; nobody may be filling it."""
        _BEFORE.pack_into(self._memory, 0, _FIRST)

    def take(self, size: int) -> tuple[int, memoryview] | None:
        """Return room for a body and where it is; None if there is no more. Only one process takes."""
        with self._guard:
            (start,) = _BEFORE.unpack_from(self._memory)
            if start + size > len(self._memory):
                return None
            _BEFORE.pack_into(self._memory, 0, start + size)
        return start, self._view[start : start + size]

    def read(self, start: int, size: int) -> bytes:
        """Return a body."""
        return self._memory[start : start + size]


def moto(room: Room) -> None:
    """Serve until standard input ends, and say the port."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    from moto.s3.models import FakeKey, S3Backend
    from werkzeug.wsgi import LimitedStream

    # It tells of every request, and nobody reads that.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Of itself it copies the bytes of everything in a bucket to list its versions, and each body five times more than it has to. And it
    # takes the MD5 of each body, which the proxy has compared with the digest in its request already: more than everything else that it
    # does with a large one. So large ones get a tag that is none, as those have that came in parts.

    def keep(key: Any, content: bytes) -> None:  # noqa: ANN401 (moto has no types)
        place = _PLACE.fullmatch(content)
        key.contentsize = int(place[1]) if place else len(content)
        key._value_buffer = Kept(int(place[2]), int(place[1])) if place else io.BytesIO(content)

    class Kept:
        def __init__(self, start: int, size: int) -> None:
            self.start, self.size = start, size

        def getvalue(self) -> bytes:
            return room.read(self.start, self.size)

        def close(self) -> None:
            """Keep it."""

    def etag(key: Any) -> str:  # noqa: ANN401 (moto has no types)
        if key._etag is None:
            large = key.contentsize >= LARGE
            key._etag = f"{uuid.uuid4().hex}-1" if large else hashlib.md5(key.value, usedforsecurity=False).hexdigest()
        return f'"{key._etag}"'

    def forget(backend: Any, reset: Any = S3Backend.reset) -> None:  # noqa: ANN401 (moto has no types)
        reset(backend)
        room.forget()

    def at_once(stream: Any) -> bytes:  # noqa: ANN401 (private to werkzeug)
        content: bytes = stream._stream.read(stream.limit - stream._pos)
        stream._pos += len(content)
        return content

    FakeKey.__deepcopy__ = lambda key, _: key  # type: ignore[attr-defined]
    FakeKey.value = property(lambda key: key._value_buffer.getvalue(), keep)  # type: ignore[assignment]
    FakeKey.etag = property(etag)  # type: ignore[assignment]
    S3Backend.reset = forget  # type: ignore[method-assign]
    LimitedStream.readall = at_once  # type: ignore[method-assign]
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


def proxy(room: Room) -> None:
    """Serve until killed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trial/neighbours/files/opt/neighbours"))
    import b2_proxy

    pass_on = b2_proxy.B2Proxy._stream_up

    def keep(stream: Any, request: Any, server: Any, head: bytes, forwarded: int, digests: Any) -> None:  # noqa: ANN401 (the tests' own)
        taken = room.take(request.length) if request.length >= LARGE and forwarded == request.length else None
        if taken is None:
            pass_on(stream, request, server, head, forwarded, digests)
            return
        start, body = taken
        checked, done = 0, stream.read_into(body)
        # TLS gives 16 KiB at a time, so this is done once for each of them.
        read, length = stream.connection.recv_into, request.length
        while done < length:
            count = read(body[done:])
            if not count:
                raise b2_proxy.Gone
            done += count
            if done - checked >= b2_proxy.CHUNK:
                digests.update(body[checked:done])
                checked = done
        digests.update(body[checked:])
        request.unread = 0
        digests.verify()
        place = b"bench: %d bytes at %d\n" % (request.length, start)
        before, _, _ = head.rpartition(b"\r\nContent-Length: ")
        server.connection.sendall(b"%s\r\nContent-Length: %d\r\n\r\n%s" % (before, len(place), place))

    b2_proxy.B2Proxy._stream_up = staticmethod(keep)
    b2_proxy.main()


def main() -> None:
    """Be what the first argument says."""
    role, descriptor = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    (moto if role == "moto" else proxy)(Room(descriptor))


if __name__ == "__main__":
    main()
