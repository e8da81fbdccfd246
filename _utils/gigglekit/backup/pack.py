"""Packs: small clips of one user, one after the other, encrypted as one object. Source: docs/FORMAT.md, "Packs"."""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass, field

from gigglekit.backup import names
from gigglekit.crypto import chunked

PACK_BYTES = 41 << 19
"""About how many bytes of clips a pack holds: 20.5 MiB.

Source: measured with bench/sync. Larger ones need fewer requests; with more of them than four at once, a sync would take more memory than
restic does.
"""


@dataclass(frozen=True)
class Finished:
    """A pack, ready to be stored.

    Arguments:
        id: its name below `data/`.
        body: all of it.
        plain: bytes of clips in it.
        memory: what the body lies in; fit for another pack when this one is stored.
    """

    id: str
    body: memoryview = field(repr=False)
    plain: int
    memory: memoryview = field(repr=False)

    @property
    def header(self) -> bytes:
        """Its first bytes, which random access needs."""
        return bytes(self.body[: chunked.HEADER_BYTES])


def memory(capacity: int = PACK_BYTES) -> memoryview:
    """Return memory for a pack of so many bytes of clips; the kernel gives it when it is written to, so a small pack takes little."""
    pages = mmap.mmap(-1, chunked.ciphertext_size(capacity), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        # By the 2 MiB instead of the 4 KiB, where the kernel can: it is asked 500 times less often.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


class Builder:
    """A pack that is being filled. What is put in is encrypted at once, into one buffer.

    Arguments:
        key: the user's backup key.
        capacity: bytes of clips that it takes.
        name: what it is called below `data/`; a new name if None.
        buffer: `memory` of a pack of that capacity that is stored; new memory if None.
    """

    def __init__(self, key: bytes, capacity: int = PACK_BYTES, name: str | None = None, buffer: memoryview | None = None) -> None:
        self.id = names.new_id() if name is None else name
        self.plain = 0
        self._capacity = capacity
        self._encryptor = chunked.Encryptor(key, names.pack_context(self.id))
        self._buffer = memory(capacity) if buffer is None else buffer
        self._written = 0

    @property
    def room(self) -> int:
        """Bytes that it still takes."""
        return self._capacity - self.plain

    def add(self, data: bytes | memoryview) -> None:
        """Put bytes at the end; not more than there is room for."""
        if len(data) > self.room:
            raise ValueError("more than the pack has room for")
        self._written += self._encryptor.update_into(data, self._buffer[self._written :])
        self.plain += len(data)

    def finish(self) -> Finished:
        """Return the pack; nothing can be added after that."""
        rest = self._encryptor.finish()
        self._buffer[self._written : self._written + len(rest)] = rest
        return Finished(self.id, self._buffer[: self._written + len(rest)], self.plain, self._buffer)
