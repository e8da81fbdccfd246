"""Whether what lies in packs is what snapshots say: the digest of every file, over bytes that opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gigglekit.backup import names
from gigglekit.backup.digests import Digester, Digests, is_earlier
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
    _digests: dict[str, Digests] = field(default_factory=dict)

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

    def of_pack(self, vault: str, pack: str) -> PackDigests:
        """Return what works out the digests of a user's contents that lie in this pack alone."""
        said = self._said[vault]
        return PackDigests((places for places in self._alone.get(pack, ()) if places in said), lambda places: self._begin(vault, places))

    def _begin(self, vault: str, places: _Places) -> list[Digester]:
        """Return what works out the digests of a content: one of each kind that something is said of."""
        if vault not in self._digests:
            self._digests[vault] = Digests(manifest_key(self.roots[vault]))
        kinds = {is_earlier(digest): digest for digest in self._said[vault][places]}
        return [self._digests[vault].begin(like) for like in kinds.values()]

    def compare(self, vault: str, found: Iterable[tuple[_Places, Collection[str]]]) -> None:
        """Compare contents with what is said of them.

        Arguments:
            vault: whose they are.
            found: where each lies, and its digests; none if it reaches beyond the end of its pack.
        """
        for places, right in found:
            self.compared += 1
            for digest, (name, path) in self._said[vault].get(places, {}).items():
                if digest not in right:
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
            self.compare(vault, ((places, self._digests_of(repository, packs, vault, places, progress)) for places in rest))

    def _digests_of(
        self, repository: Repository, packs: Mapping[str, PackEntry], vault: str, places: _Places, progress: Callable[[int], None]
    ) -> list[str]:
        digesters = self._begin(vault, places)
        key = backup_key(self.roots[vault])
        for pack, offset, length in places:
            try:
                reader = chunked.Reader(key, names.pack_context(pack), packs[pack].header, packs[pack].size)
                start, end = reader.span(offset, length)
                plain = reader.open(repository.bucket.read(names.DATA + pack, start, end - start), start, offset, length)
            except chunked.DamagedError:
                return []
            for digester in digesters:
                digester.update(plain)
            progress(end - start)
        return [digester.finish() for digester in digesters]


class PackDigests:
    """Digests of pieces of a pack, worked out while its plaintext goes by.

    Arguments:
        contents: where each lies; they may overlap.
        begin: returns what works out the digests of one.
    """

    def __init__(self, contents: Iterable[_Places], begin: Callable[[_Places], list[Digester]]) -> None:
        self._todo = sorted(contents, key=lambda places: places[0][1], reverse=True)
        self._begin = begin
        self._active: list[tuple[_Places, list[Digester]]] = []
        self._done: list[tuple[_Places, list[str]]] = []
        self._position = 0

    def update(self, plain: bytes) -> None:
        """Take in the next bytes."""
        start, end = self._position, self._position + len(plain)
        self._position = end
        while self._todo and self._todo[-1][0][1] < end:
            places = self._todo.pop()
            self._active.append((places, self._begin(places)))
        active, self._active = self._active, []
        view = memoryview(plain)
        for places, digesters in active:
            _, offset, length = places[0]
            for digester in digesters:
                digester.update(view[max(0, offset - start) : offset + length - start])
            if offset + length <= end:
                self._done.append((places, [digester.finish() for digester in digesters]))
            else:
                self._active.append((places, digesters))

    def finish(self) -> Iterator[tuple[_Places, list[str]]]:
        """Yield where each content lies, and its digests; none if it reaches beyond the end."""
        yield from self._done
        yield from ((places, []) for places, _ in self._active)
        yield from ((places, []) for places in self._todo)
