"""Whether what lies in packs is what snapshots say: the digest of every file, over bytes that opened."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gigglekit.backup import names
from gigglekit.backup.manifest import digest_of
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.repository import Repository, backup_key, manifest_key
from gigglekit.backup.section import PackEntry, Section
from gigglekit.crypto import chunked

_Places = tuple[tuple[str, int, int], ...]
"""Where a content lies: pack, offset and length of each piece, in order."""


@dataclass
class Contents:
    """What snapshots say of contents, each of which is looked at once, however many files and snapshots have it.

    Arguments:
        roots: root keys of users by vault id.

    Attributes:
        compared: how many contents were compared with what is said of them.
        wrong: one sentence for each file, of each snapshot, that is said to be something else.
    """

    roots: Mapping[str, bytes]
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    _said: dict[str, dict[_Places, dict[str, tuple[SnapshotName, str]]]] = field(default_factory=lambda: defaultdict(dict))
    _alone: dict[str, list[_Places]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: SnapshotName, vault: str, section: Section) -> None:
        """Take in what a snapshot says of a user's files."""
        said = self._said[vault]
        for file in section.files:
            places = tuple((section.packs[part.pack].id, part.offset, part.length) for part in file.extents)
            if places not in said:
                said[places] = {}
                if len(places) == 1:
                    self._alone[places[0][0]].append(places)
            said[places].setdefault(file.digest, (name, file.path))

    def of_pack(self, pack: str) -> PackHashes:
        """Return what works out the digests of the contents that lie in this pack alone."""
        return PackHashes(self._alone.get(pack, ()))

    def compare(self, vault: str, hashes: Iterable[tuple[_Places, str | None]]) -> None:
        """Compare contents with what is said of them.

        Arguments:
            vault: whose they are.
            hashes: where each lies, and its SHA-256; None if it reaches beyond the end of its pack.
        """
        key = manifest_key(self.roots[vault])
        for places, sha256 in hashes:
            self.compared += 1
            right = digest_of(key, sha256) if sha256 is not None else ""
            for digest, (name, path) in self._said[vault].get(places, {}).items():
                if digest != right:
                    where = ", ".join(sorted({names.DATA + pack for pack, _, _ in places})) or "it is empty"
                    self.wrong.append(
                        f"{path} of vault {vault} in {name.object} is not what was saved: its digest is that of another content ({where}), "
                        "although all of it opens. No restore writes it. Restore the clip from another snapshot."
                    )

    def compare_the_rest(
        self, repository: Repository, packs: Mapping[str, PackEntry], opened: Collection[str], progress: Callable[[int], None]
    ) -> None:
        """Compare contents that lie in several packs, all of which opened, and those that lie in none.

        Arguments:
            repository: it.
            packs: all of them, by id.
            opened: ids of those that were read and are as they were written.
            progress: told the bytes that were read of each piece.

        Raises:
            DamagedError, MissingError: a pack has changed since it was read.
        """
        for vault, said in self._said.items():
            rest = [places for places in said if len(places) != 1 and all(pack in opened for pack, _, _ in places)]
            self.compare(vault, ((places, self._sha256(repository, packs, vault, places, progress)) for places in rest))

    def _sha256(
        self, repository: Repository, packs: Mapping[str, PackEntry], vault: str, places: _Places, progress: Callable[[int], None]
    ) -> str | None:
        total = hashlib.sha256()
        key = backup_key(self.roots[vault])
        for pack, offset, length in places:
            try:
                reader = chunked.Reader(key, names.pack_context(pack), packs[pack].header, packs[pack].size)
                start, end = reader.span(offset, length)
                total.update(reader.open(repository.bucket.read(names.DATA + pack, start, end - start), start, offset, length))
            except chunked.DamagedError:
                return None
            progress(end - start)
        return total.hexdigest()


class PackHashes:
    """Digests of pieces of a pack, worked out while its plaintext goes by.

    Arguments:
        contents: where each lies; they may overlap.
    """

    def __init__(self, contents: Iterable[_Places]) -> None:
        self._todo = sorted(contents, key=lambda places: places[0][1], reverse=True)
        self._active: list[tuple[_Places, hashlib._Hash]] = []
        self._done: list[tuple[_Places, str | None]] = []
        self._position = 0

    def update(self, plain: bytes) -> None:
        """Take in the next bytes."""
        start, end = self._position, self._position + len(plain)
        self._position = end
        while self._todo and self._todo[-1][0][1] < end:
            self._active.append((self._todo.pop(), hashlib.sha256()))
        active, self._active = self._active, []
        view = memoryview(plain)
        for places, digest in active:
            _, offset, length = places[0]
            digest.update(view[max(0, offset - start) : offset + length - start])
            if offset + length <= end:
                self._done.append((places, digest.hexdigest()))
            else:
                self._active.append((places, digest))

    def finish(self) -> Iterator[tuple[_Places, str | None]]:
        """Yield where each content lies, and its SHA-256; None if it reaches beyond the end."""
        yield from self._done
        yield from ((places, None) for places, _ in self._active)
        yield from ((places, None) for places in self._todo)
