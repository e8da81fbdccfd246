"""Pieces of packs: read by few requests, opened, and given out only as what was put in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from gigglekit.backup import names
from gigglekit.backup.errors import DamagedError
from gigglekit.backup.repository import Repository
from gigglekit.backup.section import FileEntry, PackEntry
from gigglekit.crypto import chunked


@dataclass(frozen=True)
class Piece:
    """Encrypted bytes of a pack, and what opens them."""

    reader: chunked.Reader
    data: bytes
    start: int
    name: str

    def open(self, offset: int, length: int) -> bytes:
        """Return a part of the pack; raises DamagedError if it is not what was put in."""
        try:
            return self.reader.open(self.data, self.start, offset, length)
        except chunked.DamagedError as error:
            raise _damaged(self.name, error) from None


@dataclass
class Fetcher:
    """Reads pieces of packs; of each pack the key is worked out once."""

    repository: Repository
    packs: tuple[PackEntry, ...]
    key: bytes
    readers: dict[int, chunked.Reader] = field(default_factory=dict)

    def contents(self, files: list[FileEntry]) -> Iterator[tuple[FileEntry, list[memoryview]]]:
        """Yield the content of files that each are one piece of the same pack, sorted by where they lie."""
        first, last = files[0].extents[0], files[-1].extents[0]
        pack = self.packs[first.pack]
        if len(files) > 1 and first.offset == 0 and last.offset + last.length == _plain_size(pack) and not _overlap(files):
            yield from self._whole(pack, files)
            return
        piece = self.fetch(first.pack, first.offset, last.offset + last.length - first.offset)
        for file in files:
            part = file.extents[0]
            yield file, [memoryview(piece.open(part.offset, part.length))]

    def _whole(self, pack: PackEntry, files: list[FileEntry]) -> Iterator[tuple[FileEntry, list[memoryview]]]:
        """Yield all files of a pack while it arrives, so that it is never in memory as a whole."""
        flow, held, end, before = self._flow(pack), memoryview(b""), 0, None
        content: list[memoryview] = []
        for file in files:
            part = file.extents[0]
            # Files of the same content are stored once.
            if part != before:
                content, before = [], part
                while end <= part.offset:
                    held = memoryview(next(flow))
                    end += len(held)
                held = held[len(held) - (end - part.offset) :]
                missing = part.length - len(held)
                while missing > 0:
                    content.append(held)
                    held = memoryview(next(flow))
                    end += len(held)
                    missing -= len(held)
                content.append(held[: len(held) + missing])
            yield file, content

    def _flow(self, pack: PackEntry) -> Iterator[bytes]:
        """Yield what is in a pack. What comes last is only given out when the pack is known to end there."""
        name = names.DATA + pack.id
        decryptor = chunked.Decryptor(self.key, names.pack_context(pack.id))
        # What else this key has encrypted is not this pack, even under its name.
        expected, last = pack.header, b""
        try:
            for sealed in self.repository.bucket.stream(name):
                yield last
                if not sealed.startswith(expected[: len(sealed)]):
                    raise chunked.DamagedError("encrypted by another key or for another context")
                expected = expected[len(sealed) :]
                last = decryptor.update(sealed)
            rest = decryptor.finish()
        except chunked.DamagedError as error:
            raise _damaged(name, error) from None
        yield last
        yield rest
        raise _damaged(name, ValueError("it is shorter than what was written"))

    def fetch(self, index: int, offset: int, length: int) -> Piece:
        """Read what holds a part of one of the packs, by one request.

        Raises:
            MissingError, DamagedError: it is not there, or not as it was written.
        """
        pack = self.packs[index]
        name = names.DATA + pack.id
        try:
            if index not in self.readers:
                self.readers[index] = chunked.Reader(self.key, names.pack_context(pack.id), pack.header, pack.size)
            start, end = self.readers[index].span(offset, length)
        except chunked.DamagedError as error:
            raise _damaged(name, error) from None
        return Piece(self.readers[index], self.repository.bucket.read(name, start, end - start), start, name)


def _plain_size(pack: PackEntry) -> int:
    """Return how many bytes of clips a pack holds; -1 if it can be no pack."""
    try:
        return chunked.plaintext_size(pack.size)
    except chunked.DamagedError:
        return -1


def _overlap(files: list[FileEntry]) -> bool:
    """Tell whether pieces of a pack overlap that are not the same."""
    parts = [file.extents[0] for file in files]
    return any(one != other and one.offset + one.length > other.offset for one, other in itertools.pairwise(parts))


def _damaged(name: str, error: Exception) -> DamagedError:
    return DamagedError(
        name, f"{name} in the bucket is not as it was written: {error}. What lies in it cannot be restored from this snapshot."
    )
