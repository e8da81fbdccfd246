"""Prune: snapshots that nobody keeps go, and what only they referred to; packs that are mostly waste, or many and small, are written anew.

Nothing goes before what refers to it is gone, and nothing that is written anew takes the place of the old before it is there. So
a run that was killed leaves at most objects that nothing refers to, and the next one removes them.

What is given up is written down in the bucket, and removed by a run that comes a day later at the earliest (`waiting.py`): whoever
restores from it meanwhile gets it, and a second droplet with the same keys has time to learn of it. Packs of erased users do not wait.
"""

from __future__ import annotations

import calendar
import contextlib
import datetime
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from gigglekit.backup import names, ownership, retention, waiting
from gigglekit.backup.erase import end_keys_of_erased
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.healing import Healer, Moved, Piece
from gigglekit.backup.learning import WHOLE
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.pack import PACK_BYTES, Builder
from gigglekit.backup.repository import Opened, Repository, backup_key
from gigglekit.backup.section import Extent, FileEntry, PackEntry, Section
from gigglekit.backup.settings import Keep
from gigglekit.backup.waiting import Waiting
from gigglekit.crypto import chunked

_WORTH_IT = 0.5
"""A pack of which less than this is still needed is written anew."""
_DUMP_SECONDS = 86400
"""A dump may have begun so long before the snapshot that names it, and rows go a little after their user's tombstone."""
_NO_DUMP = (
    "The newest dump of the database held rows of somebody who was erased after it, and its days (giggles:backup:keep_dumps_days) were "
    "over, so its key was destroyed, as the receipt of the erasure says. There is no dump in the backup now. Each backup since has said "
    "why it made none: mend that, then make one: salt-call giggles.sync"
)
_SMALL, _MANY_SMALL = 0.25, 8
"""A pack that is filled less than so far is small; more than so many of a user's are put together."""
_LENGTH_BITS = 48
_LONGEST = (1 << _LENGTH_BITS) - 1
_MOVED_AT_ONCE = 10_000
"""Pieces that are moved before the snapshots are written with their new places: a run that is killed before has moved them in vain."""


@dataclass
class Pruned:
    """What a run did.

    Attributes:
        kept, removed: snapshots.
        objects: data objects and dumps that were removed.
        waiting: objects that were given up, and go with a later run, after a day or more.
        rewritten: packs whose content was moved into new ones.
        freed: bytes of what was removed, less what was written anew.
        locked_until: when the last of those can go that are still locked; "" if none is.
        notes: what somebody may want to know: one paragraph each.
        problems: what is damaged, so that it was left as it is: one paragraph each.
    """

    kept: int = 0
    removed: int = 0
    objects: int = 0
    waiting: int = 0
    rewritten: int = 0
    freed: int = 0
    locked_until: str = ""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Kept:
    """A snapshot that stays, with the packs that those parts need which can be read; what lies where in them is not kept in memory."""

    name: SnapshotName
    packs: set[str] = field(default_factory=set)
    before: list[SnapshotName] = field(default_factory=list)


@dataclass
class _Needed:
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
class Prune:
    """One run.

    Arguments:
        repository: it.
        manifest: what this droplet knows of it.
        roots: root keys of users by vault id.
        keep: how many snapshots.
        keep_dumps_days: dumps older than this end.
        now: seconds since 1970.
        progress: told what is being done.
        pack_bytes: size of packs.
        grace: what is given up waits for so many seconds at least.
        alone: held while snapshots are removed; it tells whether they may be: somebody may be restoring one that was given up.
        elapsed: seconds since any moment, those in which the machine slept too.
    """

    repository: Repository
    manifest: Manifest
    roots: Mapping[str, bytes]
    keep: Keep
    keep_dumps_days: int
    now: float
    progress: Callable[[str], None] = lambda _: None
    pack_bytes: int = PACK_BYTES
    grace: float = waiting.GRACE_SECONDS
    alone: Callable[[], AbstractContextManager[bool]] = lambda: contextlib.nullcontext(True)
    elapsed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    done: Pruned = field(default_factory=Pruned)
    _needed: dict[str, _Needed] = field(default_factory=dict)

    def run(self) -> Pruned:
        """Remove what nobody keeps.

        Raises:
            RefusedError: somebody's part of a snapshot cannot be read, so nobody knows which packs it needs; nothing was removed then but
                dumps that were at their end.
            BackupError: the bucket does not answer, or something in it is damaged; the next run goes on, and dumps end all the same.
        """
        began = self.elapsed()
        everything = self._all()
        # First of all, so that they end whatever stops the rest: a receipt says by when.
        dumps, keeping = self.end_dumps()
        counting = [*dumps]
        erased = self.repository.erased()
        # Another droplet may have erased somebody whom this one still has: what there was of them is gone, or has to go.
        self.roots = {vault: root for vault, root in self.roots.items() if vault not in erased}
        end_keys_of_erased(self.repository, erased)
        records = waiting.read(self.repository, waiting.record_names(self.repository))
        kept = [self._open(name, erased) for name in sorted(keeping)]
        leaving = []
        # Nobody begins to restore meanwhile; whoever does later finds no snapshot that needs what goes then.
        with self.alone() as is_alone:
            due = [record for record in records if record.is_damaged or (is_alone and self.now - record.seconds >= self.grace)]
            still = [record for record in records if record not in due]
            for name in everything:
                if name in keeping:
                    continue
                if not any(name in record.snapshots for record in due):
                    leaving.append(name)
                elif self._erase(name.object):
                    self.done.removed += name in counting
                    dumps.pop(name, None)
                elif name in counting:
                    # One that is locked stays, and what it refers to with it.
                    kept.append(self._open(name, erased))
        kept.sort(key=lambda snapshot: snapshot.name)
        self.done.kept = len(kept)
        lying = {entry.name.removeprefix(names.DATA): entry.size for entry in self.repository.bucket.list(names.DATA)}
        self._heal(kept, lying, erased)
        self._rewrite(kept, lying)
        needed = {pack for snapshot in kept for pack in snapshot.packs}
        if self.manifest.get("learned") == "yes":
            # Stored by a sync that was killed before its snapshot: the next one's needs them.
            needed |= self.manifest.needed_packs()
        unneeded = set(lying) - needed
        written = {pack for record in records for pack in record.packs}
        # Nothing can refer to what has no pack's name.
        doomed = {pack for pack in unneeded if not names.is_id(pack)}
        # Whose the others are was asked when they were written down; an erasure since then has taken along what was the user's.
        doomed |= self._of_the_erased(unneeded - written - doomed, erased)
        going, is_told = self._look([name for name in leaving if name in counting], erased)
        if is_told:
            referred = {pack for snapshot in going for pack in snapshot.packs}
            doomed |= {pack for record in due for pack in record.packs} & unneeded - referred
        else:
            # What one of them needs cannot be told, so nothing that waits goes before that one has gone.
            still, due = records, []
        self._drop(doomed, lying)
        # What only the removed ones named.
        self._end_dumps(dumps, keeping)
        # From now on others can see it: what it waits for does not begin before.
        now = self.now + max(0.0, self.elapsed() - began)
        self._give_up(unneeded - doomed, {*leaving, *(name for snapshot in kept for name in snapshot.before)}, due, still, now)
        return self.done

    def end_dumps(self) -> tuple[dict[SnapshotName, str | None], set[SnapshotName]]:
        """Make an end of dumps that are too old, and of nothing else.

        Returns:
            The snapshots that count, with the dump that each names, "" if it names none, None if that cannot be told; and those that stay.
        """
        counting = self.repository.snapshots()
        keeping = retention.kept(counting, self.keep)
        dumps = self._dumps(counting)
        self._end_dumps(dumps, keeping)
        return dumps, keeping

    def _all(self) -> list[SnapshotName]:
        found = (names.snapshot_name(entry.name.removeprefix(names.SNAPSHOTS)) for entry in self.repository.bucket.list(names.SNAPSHOTS))
        return [name for name in found if name is not None]

    def _open(self, name: SnapshotName, erased: Mapping[str, str]) -> _Kept:
        """Read a snapshot that stays, and count in what it needs."""
        result = _Kept(name)
        for vault, section in self._sections(self.repository.open(name), erased):
            for pack in section.packs:
                result.packs.add(self._needed.setdefault(pack.id, _Needed(vault, pack)).entry.id)
            for file in section.files:
                for part in file.extents:
                    self._needed[section.packs[part.pack].id].add(part)
        return result

    def _sections(self, opened: Opened, erased: Mapping[str, str]) -> Iterator[tuple[str, Section]]:
        """Yield what a snapshot holds of each user, one after the other, so that never all of it is in memory."""
        for part in opened.head.users:
            if part.vault in self.roots:
                yield part.vault, self.repository.section(opened, part, self.roots[part.vault])
            elif part.vault not in erased:
                raise RefusedError(
                    f"{opened.name.object} has files of vault {part.vault}, for which there is no key on this droplet, although "
                    "nobody asked for it to be erased. Which data it needs cannot be told, so no data was removed. If the key was lost, "
                    "restore it with the recovery kit; if the user is to be erased, do it by salt-call giggles.shred."
                )

    def _look(self, leaving: Iterable[SnapshotName], erased: Mapping[str, str]) -> tuple[list[_Kept], bool]:
        """Open snapshots that nobody keeps and that still lie there; tell, too, whether all that they refer to is known."""
        found, is_told = [], True
        for name in leaving:
            try:
                opened = self.repository.open(name)
                found.append(_Kept(name, {pack.id for _, section in self._sections(opened, erased) for pack in section.packs}))
            except (DamagedError, MissingError, RefusedError):
                is_told = False
        return found, is_told

    def _erase(self, name: str) -> bool:
        """Erase an object; return False if it is locked."""
        locked = self.repository.bucket.erase(name).locked_until
        self._note_lock(locked)
        return locked is None

    def _note_lock(self, until: datetime.datetime | None) -> None:
        if until is not None:
            self.done.locked_until = max(self.done.locked_until, until.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def _of_the_erased(self, unneeded: set[str], erased: Mapping[str, str]) -> set[str]:
        """Return those packs that are certainly of erased users, who wait for nothing."""
        known = {pack.id for pack in self.manifest.packs() if pack.vault in self.roots}
        asked = unneeded - known
        return ownership.of_the_erased(self.repository, asked, self.roots, erased) if asked and erased else set()

    def _drop(self, doomed: set[str], sizes: Mapping[str, int]) -> None:
        if not doomed:
            return
        self.progress(f"removing {len(doomed)} objects")
        numbers = [pack.number for pack in self.manifest.packs() if pack.id in doomed]
        with self.manifest.change():
            # Before they go: a manifest that knows too little only makes the next sync store more.
            self.manifest.forget_packs(numbers)
        locked = self.repository.bucket.erase_many(names.DATA + pack for pack in sorted(doomed)).locked_until
        self._note_lock(locked)
        with self.manifest.change():
            self.manifest.forget_given_up(set(sizes) - doomed if locked is None else set(sizes))
        self.done.objects += len(doomed)
        self.done.freed += sum(sizes.get(pack, 0) for pack in doomed)

    def _dumps(self, snapshots: Iterable[SnapshotName]) -> dict[SnapshotName, str | None]:
        """Return the dumps that snapshots name, as `end_dumps` does."""
        found: dict[SnapshotName, str | None] = {}
        for name in snapshots:
            try:
                dump = self.repository.open(name).head.dump
            except (DamagedError, MissingError):
                found[name] = None
            else:
                found[name] = dump.id if dump else ""
        return found

    def _end_dumps(self, dumps: Mapping[SnapshotName, str | None], keeping: Iterable[SnapshotName]) -> None:
        """Make an end of dumps that are too old, and of those that no snapshot names: a new one of these may be named in a moment.

        Where a snapshot does not tell which one it names, those that none names end when they are too old.
        """
        oldest = self.now - self.keep_dumps_days * 86400
        needed = {dump for name, dump in dumps.items() if name.seconds >= oldest}
        newest = max((name for name in keeping if dumps.get(name)), default=None)
        if newest is not None and dumps[newest] not in needed:
            # The newest one stays, however long ago the last sync was: unless it holds rows of somebody who was erased since.
            if not self._is_before_an_erasure(newest):
                needed.add(dumps[newest])
            elif _NO_DUMP not in self.done.notes:
                self.done.notes.append(_NO_DUMP)
        grace = self.now - oldest if None in dumps.values() else self.grace
        opens = {entry.name.removeprefix(names.DATABASE_KEYS): entry for entry in self.repository.bucket.list(names.DATABASE_KEYS)}
        lying = {entry.name.removeprefix(names.DATABASE): entry for entry in self.repository.bucket.list(names.DATABASE)}
        for dump in sorted((opens.keys() | lying.keys()) - needed):
            made = max(entry.modified.timestamp() for entry in (opens.get(dump), lying.get(dump)) if entry is not None)
            if dump not in dumps.values() and self.now - made < grace:
                continue
            # The key first: from then on it is at its end, locked or not.
            self._erase(names.DATABASE_KEYS + dump)
            self._erase(names.DATABASE + dump)
            self.done.objects += 1
            self.done.freed += lying[dump].size if dump in lying else 0

    def _is_before_an_erasure(self, name: SnapshotName) -> bool:
        """Tell whether somebody was erased after a snapshot's dump was made, or while it was."""
        # Those that can be read suffice: what else lies there must not keep a dump from its end.
        since = self.repository.erased([]).values()
        return any(_seconds(text) > name.seconds - _DUMP_SECONDS for text in since)

    def _give_up(self, packs: set[str], snapshots: set[SnapshotName], due: list[Waiting], still: list[Waiting], now: float) -> None:
        """Write down what goes later, and remove the records that are dealt with."""
        new = Waiting(
            waiting.new_name(now),
            frozenset(packs.difference(*(record.packs for record in still))),
            frozenset(snapshots.difference(*(record.snapshots for record in still))),
        )
        self.done.waiting = new.number + sum(record.number for record in still)
        if not new.number and not any(record.number or record.is_damaged for record in due):
            # The last record stays for those who have not seen it, though all that it names be gone.
            return
        known = {new.name, *waiting.known(self.manifest)}
        with self.manifest.change():
            # Before it is there: to refer to too little is no harm. Those that are due lie there until this has come to its end.
            waiting.note(self.manifest, known, new.packs)
        self.repository.bucket.put(names.PRUNING + new.name, waiting.encode(new, self.repository.secrets.snapshots))
        for record in due:
            self.repository.bucket.erase(names.PRUNING + record.name)
        with self.manifest.change():
            waiting.note(self.manifest, known.intersection({new.name, *(record.name for record in still)}), ())

    # --- writing snapshots anew for what was lost -----------------------------------------------------------------------------

    def _heal(self, kept: list[_Kept], lying: Mapping[str, int], erased: Mapping[str, str]) -> None:
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
                for vault, section in self._sections(self.repository.open(snapshot.name), erased):
                    found = healer.places(vault, section)
                    moved |= found
                    for (old, offset, length), (pack, place) in found.items():
                        self._needed[old].discard(Extent(0, offset, length))
                        self._needed.setdefault(pack.id, _Needed(vault, pack)).add(Extent(0, place, length))
        lost = {pack for pack, _, _ in moved}
        for snapshot in kept:
            if snapshot.packs & lost:
                self._rename(snapshot, moved)

    # --- writing packs anew -----------------------------------------------------------------------------------------------

    def _rewrite(self, kept: list[_Kept], lying: Mapping[str, int]) -> None:
        packs: dict[str, list[_Needed]] = defaultdict(list)
        for pack in self._needed.values():
            if pack.parts and lying.get(pack.entry.id) == pack.entry.size:
                packs[pack.vault].append(pack)
        wasteful = {vault: found for vault, ours in packs.items() if (found := self._wasteful(ours))}
        group: dict[str, list[_Needed]] = {}
        for vault in sorted(wasteful):
            group[vault] = wasteful[vault]
            if sum(len(pack.parts) for packs in group.values() for pack in packs) >= _MOVED_AT_ONCE:
                self._rewrite_of(group, kept)
                group = {}
        if group:
            self._rewrite_of(group, kept)

    def _wasteful(self, packs: list[_Needed]) -> list[_Needed]:
        """Return those of a user's packs that are mostly waste, and small ones, if there are many: each night makes one."""
        sizes = {pack.entry.id: chunked.plaintext_size(pack.entry.size) for pack in packs}
        waste = {pack.entry.id for pack in packs if sum(length for _, length in pack.pieces()) < sizes[pack.entry.id] * _WORTH_IT}
        small = {pack for pack, size in sizes.items() if pack not in waste and size < self.pack_bytes * _SMALL}
        waste |= small if len(small) > _MANY_SMALL else set()
        return [pack for pack in packs if pack.entry.id in waste]

    def _rewrite_of(self, group: Mapping[str, list[_Needed]], kept: list[_Kept]) -> None:
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
        self.done.rewritten += len(old)

    def _move(self, vault: str, packs: Iterable[_Needed]) -> tuple[list[PackEntry], Moved]:
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
                self.done.freed -= len(pack.body)

        for needed in packs:
            pack = needed.entry
            try:
                plain = self._plain(pack, key)
            except (DamagedError, MissingError) as error:
                # One that is broken keeps no other from being written anew.
                self.done.problems.append(str(error))
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

    def _rename(self, snapshot: _Kept, moved: Mapping[Piece, tuple[PackEntry, int]]) -> None:
        """Write a snapshot again, with the new places of what was moved."""
        before = self.repository.open(snapshot.name)
        name = replace(snapshot.name, generation=snapshot.name.generation + 1)
        packs: set[str] = set()

        def everything() -> Iterator[tuple[str, bytes, Section]]:
            # The parts of erased users are left out: nobody can read them, so nobody could encrypt them again.
            for part in before.head.users:
                if part.vault in self.roots:
                    section = self._moved(self.repository.section(before, part, self.roots[part.vault]), moved)
                    packs.update(pack.id for pack in section.packs)
                    yield part.vault, self.roots[part.vault], section

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


def _seconds(text: str) -> float:
    """Return a tombstone's time in seconds since 1970; one that says no time is as late as can be."""
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return math.inf
