"""Prune: snapshots that nobody keeps go, and what only they referred to; packs that are mostly waste are written anew.

Nothing goes before what refers to it is gone, and nothing that is written anew takes the place of the old before it is there. So
a run that was killed leaves at most objects that nothing refers to, and the next one removes them.

What is given up is written down in the bucket, and removed by a run that comes a day later at the earliest (`waiting.py`): whoever
restores from it meanwhile gets it, and a second droplet with the same keys has time to learn of it. Packs of erased users do not wait.
"""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gigglekit.backup import names, ownership, retention, waiting
from gigglekit.backup.erase import end_keys_of_erased
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
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
_Piece = tuple[str, int, int]


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
    """

    kept: int = 0
    removed: int = 0
    objects: int = 0
    waiting: int = 0
    rewritten: int = 0
    freed: int = 0
    locked_until: str = ""


@dataclass
class _Kept:
    """A snapshot that stays, with the sections that can be read."""

    opened: Opened
    sections: dict[str, Section] = field(default_factory=dict)
    before: list[SnapshotName] = field(default_factory=list)


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
        removing: whether what has waited is removed, too: somebody may be restoring a snapshot that was given up.
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
    removing: bool = True
    elapsed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    done: Pruned = field(default_factory=Pruned)

    def run(self) -> Pruned:
        """Remove what nobody keeps.

        Raises:
            RefusedError: somebody's part of a snapshot cannot be read, so nobody knows which packs it needs; nothing was removed then.
            BackupError: the bucket does not answer; the next run goes on.
        """
        began = self.elapsed()
        everything = self._all()
        counting = self.repository.snapshots()
        keeping = retention.kept(counting, self.keep)
        erased = self.repository.erased()
        # Another droplet may have erased somebody whom this one still has: what there was of them is gone, or has to go.
        self.roots = {vault: root for vault, root in self.roots.items() if vault not in erased}
        end_keys_of_erased(self.repository, erased)
        records = waiting.read(self.repository, waiting.record_names(self.repository))
        due = [record for record in records if record.is_damaged or (self.removing and self.now - record.seconds >= self.grace)]
        still = [record for record in records if record not in due]
        kept = [self._open(name, erased) for name in sorted(keeping)]
        leaving = []
        for name in everything:
            if name in keeping:
                continue
            if not any(name in record.snapshots for record in due):
                leaving.append(name)
            elif self._erase(name.object):
                self.done.removed += name in counting
            elif name in counting:
                # One that is locked stays, and what it refers to with it.
                kept.append(self._open(name, erased))
        kept.sort(key=lambda snapshot: snapshot.opened.name)
        self.done.kept = len(kept)
        lying = {entry.name.removeprefix(names.DATA): entry.size for entry in self.repository.bucket.list(names.DATA)}
        self._rewrite(kept, lying)
        needed = {pack.id for snapshot in kept for section in snapshot.sections.values() for pack in section.packs}
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
            referred = {pack.id for snapshot in going for section in snapshot.sections.values() for pack in section.packs}
            doomed |= {pack for record in due for pack in record.packs} & unneeded - referred
        else:
            # What one of them needs cannot be told, so nothing that waits goes before that one has gone.
            still, due = records, []
        self._drop(doomed, lying)
        self._end_dumps(kept, going)
        # From now on others can see it: what it waits for does not begin before.
        now = self.now + max(0.0, self.elapsed() - began)
        self._give_up(unneeded - doomed, {*leaving, *(name for snapshot in kept for name in snapshot.before)}, due, still, now)
        return self.done

    def _all(self) -> list[SnapshotName]:
        found = (names.snapshot_name(entry.name.removeprefix(names.SNAPSHOTS)) for entry in self.repository.bucket.list(names.SNAPSHOTS))
        return [name for name in found if name is not None]

    def _open(self, name: SnapshotName, erased: Mapping[str, str]) -> _Kept:
        result = _Kept(self.repository.open(name))
        self._fill(result, erased)
        return result

    def _fill(self, snapshot: _Kept, erased: Mapping[str, str]) -> None:
        for part in snapshot.opened.head.users:
            if part.vault in self.roots:
                snapshot.sections[part.vault] = self.repository.section(snapshot.opened, part, self.roots[part.vault])
            elif part.vault not in erased:
                raise RefusedError(
                    f"{snapshot.opened.name.object} has files of vault {part.vault}, for which there is no key on this droplet, although "
                    "nobody asked for it to be erased. Which data it needs cannot be told, so nothing was removed. If the key was lost, "
                    "restore it with the recovery kit; if the user is to be erased, do it by salt-call giggles.shred."
                )

    def _look(self, leaving: Iterable[SnapshotName], erased: Mapping[str, str]) -> tuple[list[_Kept], bool]:
        """Open snapshots that nobody keeps and that still lie there; tell, too, whether all that they refer to is known."""
        found, is_told = [], True
        for name in leaving:
            try:
                found.append(_Kept(self.repository.open(name)))
                self._fill(found[-1], erased)
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

    def _end_dumps(self, kept: list[_Kept], going: list[_Kept]) -> None:
        """Make an end of dumps that are too old, and of those that no snapshot names: a new one of these may be named in a moment."""
        oldest = self.now - self.keep_dumps_days * 86400
        named = [(snapshot.opened.name.seconds, snapshot.opened.head.dump.id) for snapshot in [*kept, *going] if snapshot.opened.head.dump]
        needed = {dump for seconds, dump in named if seconds >= oldest}
        # The newest one stays, however long ago the last sync was.
        newest = next((snapshot.opened.head.dump.id for snapshot in reversed(kept) if snapshot.opened.head.dump), None)
        needed |= {newest} if newest else set()
        opens = {entry.name.removeprefix(names.DATABASE_KEYS): entry for entry in self.repository.bucket.list(names.DATABASE_KEYS)}
        lying = {entry.name.removeprefix(names.DATABASE): entry for entry in self.repository.bucket.list(names.DATABASE)}
        for dump in sorted((opens.keys() | lying.keys()) - needed):
            made = max(entry.modified.timestamp() for entry in (opens.get(dump), lying.get(dump)) if entry is not None)
            if dump not in {one for _, one in named} and self.now - made < self.grace:
                continue
            # The key first: from then on it is at its end, locked or not.
            self._erase(names.DATABASE_KEYS + dump)
            self._erase(names.DATABASE + dump)
            self.done.objects += 1
            self.done.freed += lying[dump].size if dump in lying else 0

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

    # --- writing packs anew -----------------------------------------------------------------------------------------------

    def _rewrite(self, kept: list[_Kept], lying: Mapping[str, int]) -> None:
        for vault in sorted({vault for snapshot in kept for vault in snapshot.sections}):
            wasteful = self._wasteful(vault, kept, lying)
            if wasteful:
                self.progress(f"writing {len(wasteful)} packs anew")
                entries, moved = self._move(vault, wasteful)
                learned = self.manifest.get("learned")
                with self.manifest.change():
                    # If this is killed, some snapshots name the new packs and some the old: the next sync reads what holds then.
                    self.manifest.put("learned", None)
                for snapshot in kept:
                    self._rename(snapshot, vault, moved)
                with self.manifest.change():
                    places = {piece: (pack.id, offset) for piece, (pack, offset) in moved.items()}
                    self.manifest.move(vault, [(entry.id, entry.size, entry.header) for entry in entries], places)
                    self.manifest.put("learned", learned)
                self.done.rewritten += len(wasteful)

    def _wasteful(self, vault: str, kept: list[_Kept], lying: Mapping[str, int]) -> dict[PackEntry, set[tuple[int, int]]]:
        needed: dict[PackEntry, set[tuple[int, int]]] = defaultdict(set)
        for snapshot in kept:
            section = snapshot.sections.get(vault)
            for file in section.files if section else ():
                for part in file.extents:
                    needed[section.packs[part.pack]].add((part.offset, part.length))  # type: ignore[union-attr]
        return {
            pack: parts
            for pack, parts in needed.items()
            if lying.get(pack.id) == pack.size and sum(length for _, length in parts) < chunked.plaintext_size(pack.size) * _WORTH_IT
        }

    def _move(
        self, vault: str, packs: Mapping[PackEntry, set[tuple[int, int]]]
    ) -> tuple[list[PackEntry], dict[_Piece, tuple[PackEntry, int]]]:
        """Store what is still needed of some packs in new ones; return these, and where each piece lies now."""
        key = backup_key(self.roots[vault])
        moved: dict[_Piece, tuple[str, int]] = {}
        entries: dict[str, PackEntry] = {}
        builder: Builder | None = None

        def store() -> None:
            if builder is not None and builder.plain:
                pack = builder.finish()
                self.repository.bucket.put(names.DATA + pack.id, pack.body, locked=True)
                entries[pack.id] = PackEntry(pack.id, len(pack.body), pack.header)
                self.done.freed -= len(pack.body)

        for pack, parts in packs.items():
            plain = self._plain(pack, key)
            for offset, length in sorted(parts):
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
                f"{name} in the bucket is not as it was written ({error}), so what is still needed of it cannot be moved, and nothing more "
                "was removed. salt-call giggles.verify read_data=all tells what else is damaged, and the next salt-call giggles.sync then "
                "stores again those clips in it that are still on this droplet. The snapshots until now go on naming it: once that is "
                "done, remove the object in the web UI of Backblaze in all versions, and the next prune goes on without it.",
            ) from None

    def _rename(self, snapshot: _Kept, vault: str, moved: Mapping[_Piece, tuple[PackEntry, int]]) -> None:
        """Write a snapshot again, with the new places of what was moved."""
        section = snapshot.sections.get(vault)
        if section is None or not any(self._piece(section, part) in moved for file in section.files for part in file.extents):
            return
        packs: dict[PackEntry, int] = {}
        files = []
        for file in section.files:
            parts = []
            for part in file.extents:
                pack, offset = moved.get(self._piece(section, part), (section.packs[part.pack], part.offset))
                parts.append(Extent(packs.setdefault(pack, len(packs)), offset, part.length))
            files.append(FileEntry(file.path, file.size, file.modified, file.digest, tuple(parts)))
        snapshot.sections[vault] = Section(section.user, tuple(packs), tuple(files))
        before = snapshot.opened
        name = replace(before.name, generation=before.name.generation + 1)
        # The parts of erased users are left out: nobody can read them, so nobody could encrypt them again.
        everything = [(one, self.roots[one], content) for one, content in sorted(snapshot.sections.items())]
        data = self.repository.write(name, replace(before.head, users=()), everything)
        self.repository.bucket.put(name.object, data, locked=True)
        snapshot.opened = self.repository.open(name)
        # Somebody may be reading the one before.
        snapshot.before.append(before.name)

    @staticmethod
    def _piece(section: Section, part: Extent) -> _Piece:
        return (section.packs[part.pack].id, part.offset, part.length)
