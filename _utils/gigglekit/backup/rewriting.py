"""Snapshots that stay, and what they need of packs: written anew where a pack was lost, is mostly waste, or is one of many small ones.

Nothing that is written anew takes the place of the old before it is there: packs first, then every snapshot that names them, then the
manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gigglekit.backup import names
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.healing import Healer, Moved, Piece
from gigglekit.backup.learning import WHOLE
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.pack import Builder
from gigglekit.backup.repository import Opened, Repository, backup_key
from gigglekit.backup.section import Encoded, Extent, FileEntry, PackEntry, Section
from gigglekit.crypto import chunked

_WORTH_IT = 0.5
"""A pack of which less than this is still needed is written anew."""
_SMALL, _MANY_SMALL = 0.25, 8
"""A pack that is filled less than so far is small; more than so many of a user's are put together."""
_LENGTH_BITS = 48
_LONGEST = (1 << _LENGTH_BITS) - 1
_MOVED_AT_ONCE = 10_000
"""Pieces that are moved before the snapshots are written with their new places: a run that is killed before has moved them in vain."""


@dataclass
class Kept:
    """A snapshot that stays, with the packs that those parts need which can be read; what lies where in them is not kept in memory."""

    name: SnapshotName
    packs: set[str] = field(default_factory=set)
    before: list[SnapshotName] = field(default_factory=list)


@dataclass
class Needed:
    """What snapshots that stay need of a pack.

    Attributes:
        vault: whose it is.
        entry: of it.
        parts: its pieces, of all these snapshots, each as one number: a tuple of two takes four times the memory.
    """

    vault: str
    entry: PackEntry
    parts: set[int] = field(default_factory=set)

    def add(self, part: Extent) -> None:
        """Count a piece in."""
        self.parts.add(part.offset << _LENGTH_BITS | part.length)

    def discard(self, part: Extent) -> None:
        """Count a piece out."""
        self.parts.discard(part.offset << _LENGTH_BITS | part.length)

    def pieces(self) -> list[tuple[int, int]]:
        """Return offset and length of each, in order."""
        return sorted((part >> _LENGTH_BITS, part & _LONGEST) for part in self.parts)


@dataclass
class Rewriting:
    """What one prune writes anew.

    Arguments:
        repository: it.
        manifest: what this droplet knows of it.
        roots: root keys of users by vault id, without those who were erased.
        erased: vault ids of these.
        pack_bytes: size of packs.
        progress: told what is being done.

    Attributes:
        rewritten: packs whose content was moved into new ones.
        stored: bytes of these new ones.
        problems: what is damaged, so that it was left as it is: one paragraph each.
    """

    repository: Repository
    manifest: Manifest
    roots: Mapping[str, bytes]
    erased: Collection[str]
    pack_bytes: int
    progress: Callable[[str], None]
    rewritten: int = 0
    stored: int = 0
    problems: list[str] = field(default_factory=list)
    _needed: dict[str, Needed] = field(default_factory=dict)

    def open(self, name: SnapshotName) -> Kept:
        """Read a snapshot that stays, and count in what it needs."""
        result = Kept(name)
        for vault, section in self.sections(self.repository.open(name)):
            for pack in section.packs:
                result.packs.add(self._needed.setdefault(pack.id, Needed(vault, pack)).entry.id)
            for file in section.files:
                for part in file.extents:
                    self._needed[section.packs[part.pack].id].add(part)
        return result

    def sections(self, opened: Opened) -> Iterator[tuple[str, Section]]:
        """Yield what a snapshot holds of each user, one after the other, so that never all of it is in memory."""
        for part in opened.head.users:
            if part.vault in self.roots:
                yield part.vault, self.repository.section(opened, part, self.roots[part.vault])
            elif part.vault not in self.erased:
                raise RefusedError(
                    f"{opened.name.object} has files of vault {part.vault}, for which there is no key on this droplet, although "
                    "nobody asked for it to be erased. Which data it needs cannot be told, so no data was removed. If the key was lost, "
                    "restore it with the recovery kit; if the user is to be erased, do it by salt-call giggles.shred."
                )

    # --- writing snapshots anew for what was lost -----------------------------------------------------------------------------

    def heal(self, kept: list[Kept], lying: Mapping[str, int]) -> None:
        """Have the snapshots that stay refer to what was stored again, where a pack is not there as it was written."""
        if self.manifest.get("learned") != "yes":
            return
        broken = {pack for pack, needed in self._needed.items() if lying.get(pack) != needed.entry.size}
        # Those too that are as long as they should be, and did not open when verify read them.
        broken |= self._needed.keys() & {pack for vault in self.roots for pack in self.manifest.given_up(vault)}
        healer = Healer(self.manifest, broken, lying)
        moved: Moved = {}
        for snapshot in kept:
            if snapshot.packs & broken:
                for vault, section in self.sections(self.repository.open(snapshot.name)):
                    found = healer.places(vault, section)
                    moved |= found
                    for (old, offset, length), (pack, place) in found.items():
                        self._needed[old].discard(Extent(0, offset, length))
                        self._needed.setdefault(pack.id, Needed(vault, pack)).add(Extent(0, place, length))
        lost = {pack for pack, _, _ in moved}
        for snapshot in kept:
            if snapshot.packs & lost:
                self._rename(snapshot, moved)

    # --- writing packs anew -----------------------------------------------------------------------------------------------

    def rewrite(self, kept: list[Kept], lying: Mapping[str, int]) -> None:
        """Write packs anew that are mostly waste, or many and small, and the snapshots that need what was in them.

        Arguments:
            kept: snapshots that stay; get their new names.
            lying: packs in the bucket: bytes by id.
        """
        packs: dict[str, list[Needed]] = defaultdict(list)
        for pack in self._needed.values():
            if pack.parts and lying.get(pack.entry.id) == pack.entry.size:
                packs[pack.vault].append(pack)
        wasteful = {vault: found for vault, ours in packs.items() if (found := self._wasteful(ours))}
        group: dict[str, list[Needed]] = {}
        for vault in sorted(wasteful):
            group[vault] = wasteful[vault]
            if sum(len(pack.parts) for packs in group.values() for pack in packs) >= _MOVED_AT_ONCE:
                self._rewrite_of(group, kept)
                group = {}
        if group:
            self._rewrite_of(group, kept)

    def _wasteful(self, packs: list[Needed]) -> list[Needed]:
        """Return those of a user's packs that are mostly waste, and small ones, if there are many: each night makes one."""
        sizes = {pack.entry.id: chunked.plaintext_size(pack.entry.size) for pack in packs}
        waste = {pack.entry.id for pack in packs if sum(length for _, length in pack.pieces()) < sizes[pack.entry.id] * _WORTH_IT}
        small = {pack for pack, size in sizes.items() if pack not in waste and size < self.pack_bytes * _SMALL}
        waste |= small if len(small) > _MANY_SMALL else set()
        return [pack for pack in packs if pack.entry.id in waste]

    def _rewrite_of(self, group: Mapping[str, list[Needed]], kept: list[Kept]) -> None:
        """Write packs of some users anew, and then every snapshot that needs them, once."""
        self.progress(f"writing {sum(map(len, group.values()))} packs anew")
        whole = self.manifest.get(WHOLE)
        with self.manifest.change():
            # If this is killed, packs lie there that only the next prune finds; an erasure before that has to look for them.
            self.manifest.put(WHOLE, whole and "no")
        moved: Moved = {}
        stored: dict[str, list[PackEntry]] = {}
        for vault, packs in group.items():
            stored[vault], places = self._move(vault, packs)
            moved |= places
        learned = self.manifest.get("learned")
        with self.manifest.change():
            # If this is killed, some snapshots name the new packs and some the old: the next sync reads what holds then.
            self.manifest.put("learned", None)
        old = {pack for pack, _, _ in moved}
        for snapshot in kept:
            if snapshot.packs & old:
                self._rename(snapshot, moved)
        with self.manifest.change():
            for vault, entries in stored.items():
                mine = {pack.entry.id for pack in group[vault]}
                now = {piece: (pack.id, offset) for piece, (pack, offset) in moved.items() if piece[0] in mine}
                self.manifest.move(vault, [(entry.id, entry.size, entry.header) for entry in entries], now)
            self.manifest.put("learned", learned)
            self.manifest.put(WHOLE, whole)
        self.rewritten += len(old)

    def _move(self, vault: str, packs: Iterable[Needed]) -> tuple[list[PackEntry], Moved]:
        """Store what is still needed of some packs in new ones; return these, and where each piece lies now."""
        key = backup_key(self.roots[vault])
        moved: dict[Piece, tuple[str, int]] = {}
        entries: dict[str, PackEntry] = {}
        builder: Builder | None = None

        def store() -> None:
            if builder is not None and builder.plain:
                pack = builder.finish()
                self.repository.bucket.put(names.DATA + pack.id, pack.body, locked=True)
                entries[pack.id] = PackEntry(pack.id, len(pack.body), pack.header)
                self.stored += len(pack.body)

        for needed in packs:
            pack = needed.entry
            try:
                plain = self._plain(pack, key)
            except (DamagedError, MissingError) as error:
                # One that is broken keeps no other from being written anew.
                self.problems.append(str(error))
                continue
            for offset, length in needed.pieces():
                if builder is None or builder.room < length:
                    store()
                    builder = Builder(key, max(self.pack_bytes, length))
                moved[pack.id, offset, length] = (builder.id, builder.plain)
                builder.add(memoryview(plain)[offset : offset + length])
        store()
        return [*entries.values()], {piece: (entries[pack], offset) for piece, (pack, offset) in moved.items()}

    def _plain(self, pack: PackEntry, key: bytes) -> bytes:
        name = names.DATA + pack.id
        try:
            return chunked.decrypt(key, names.pack_context(pack.id), self.repository.bucket.get(name, pack.size))
        except chunked.DamagedError as error:
            raise DamagedError(
                name,
                f"{name} in the bucket is not as it was written ({error}), so what is still needed of it was not moved, and it stays as it "
                "is; all others were dealt with. salt-call giggles.verify read_data=all tells which clips that concerns and what else is "
                "damaged, and the next salt-call giggles.sync then stores again those that are still on this droplet. The snapshots until "
                "now go on naming it until they end.",
            ) from None

    def _rename(self, snapshot: Kept, moved: Mapping[Piece, tuple[PackEntry, int]]) -> None:
        """Write a snapshot again, with the new places of what was moved."""
        before = self.repository.open(snapshot.name)
        name = replace(snapshot.name, generation=snapshot.name.generation + 1)
        packs: set[str] = set()

        def everything() -> Iterator[tuple[str, bytes, Encoded]]:
            # The parts of erased users are left out: nobody can read them, so nobody could encrypt them again.
            for part in before.head.users:
                if part.vault in self.roots:
                    section = self._moved(self.repository.section(before, part, self.roots[part.vault]), moved)
                    packs.update(pack.id for pack in section.packs)
                    yield part.vault, self.roots[part.vault], Encoded.of(section)

        data = self.repository.write(name, replace(before.head, users=()), everything())
        self.repository.bucket.put(name.object, data, locked=True)
        # Somebody may be reading the one before.
        snapshot.before.append(snapshot.name)
        snapshot.name, snapshot.packs = name, packs

    @staticmethod
    def _moved(section: Section, moved: Mapping[Piece, tuple[PackEntry, int]]) -> Section:
        """Return a section with the new places of what was moved."""
        packs: dict[PackEntry, int] = {}
        files = []
        for file in section.files:
            parts = []
            for part in file.extents:
                here = section.packs[part.pack]
                pack, offset = moved.get((here.id, part.offset, part.length), (here, part.offset))
                parts.append(Extent(packs.setdefault(pack, len(packs)), offset, part.length))
            files.append(FileEntry(file.path, file.size, file.modified, file.digest, tuple(parts)))
        return Section(section.user, tuple(packs), tuple(files))
