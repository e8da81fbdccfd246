"""Prune: snapshots that nobody keeps go, and what only they referred to; what they leave half empty is written anew (`rewriting.py`).

Nothing goes before what refers to it is gone. So a run that was killed leaves at most objects that nothing refers to, and the next one
removes them.

What is given up is written down in the bucket, and removed by a run that comes a day later at the earliest (`waiting.py`): whoever
restores from it meanwhile gets it, and a second droplet with the same keys has time to learn of it. Packs of erased users do not wait.
"""

from __future__ import annotations

import calendar
import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from gigglekit.backup import names, ownership, retention, waiting
from gigglekit.backup.erase import end_keys_of_erased
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.pack import PACK_BYTES
from gigglekit.backup.repository import Repository
from gigglekit.backup.rewriting import Kept, Rewriting
from gigglekit.backup.settings import Keep
from gigglekit.backup.waiting import Waiting

_DUMP_SECONDS = 86400
"""A dump may have begun so long before the snapshot that names it, and rows go a little after their user's tombstone."""
_NO_DUMP = (
    "The newest dump of the database held rows of somebody who was erased after it, and its days (giggles:backup:keep_dumps_days) were "
    "over, so its key was destroyed, as the receipt of the erasure says. There is no dump in the backup now. Each backup since has said "
    "why it made none: mend that, then make one: salt-call giggles.sync"
)


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
        self._tell_ahead(counting)
        erased = self._erased()
        # Another droplet may have erased somebody whom this one still has: what there was of them is gone, or has to go.
        self.roots = {vault: root for vault, root in self.roots.items() if vault not in erased}
        end_keys_of_erased(self.repository, erased)
        rewriting = Rewriting(self.repository, self.manifest, self.roots, erased, self.pack_bytes, self.progress)
        records = waiting.read(self.repository, waiting.record_names(self.repository))
        kept = [rewriting.open(name) for name in sorted(keeping)]
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
                    kept.append(rewriting.open(name))
        kept.sort(key=lambda snapshot: snapshot.name)
        self.done.kept = len(kept)
        lying = {entry.name.removeprefix(names.DATA): entry.size for entry in self.repository.bucket.list(names.DATA)}
        self._write_anew(rewriting, kept, lying)
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
        going, is_told = self._look(rewriting, [name for name in leaving if name in counting])
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
        ours = self.manifest.get("snapshot")
        if ours and all(name.base != ours for name in counting):
            with self.manifest.change():
                # Somebody has removed it. With nothing new the next sync would ask nothing, and not see what no snapshot has now.
                self.manifest.put("learned", None)
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

    def _erased(self) -> dict[str, str]:
        try:
            return self.repository.erased()
        finally:
            if self.repository.damaged_tombstones:
                with self.manifest.change():
                    for name in self.repository.damaged_tombstones:
                        # The next sync stores it anew, if this droplet knows of the erasure.
                        self.manifest.put(f"ledger:{name}", None)

    def _tell_ahead(self, snapshots: Iterable[SnapshotName]) -> None:
        """Tell of snapshots of which nobody knows what day they are of."""
        ahead = [name for name in snapshots if name.seconds > self.now + names.AHEAD_SECONDS]
        if ahead:
            self.done.problems.append(
                f"Snapshots from {min(ahead).object} on ({len(ahead)}) are dated more than a day ahead of this droplet's clock. Either it "
                "is wrong (timedatectl), or was when one was made, or somebody else has put one of such a name there; each later one is "
                "dated after the newest that it finds. So their days cannot be told apart, and giggles:backup:keep keeps the newest of "
                "them and hardly any other. If the clock is right, delete these objects with all their versions in the web UI of "
                "Backblaze, and at once ask for salt-call giggles.prune, which sees that they are gone, and salt-call giggles.sync, which "
                "saves what is on this droplet, dated today. If none of you knows where they come from, replace the application key first."
            )

    def _all(self) -> list[SnapshotName]:
        found = (names.snapshot_name(entry.name.removeprefix(names.SNAPSHOTS)) for entry in self.repository.bucket.list(names.SNAPSHOTS))
        return [name for name in found if name is not None]

    def _write_anew(self, rewriting: Rewriting, kept: list[Kept], lying: Mapping[str, int]) -> None:
        """Write anew what was lost and stored again, and packs that are mostly waste."""
        rewriting.heal(kept, lying)
        rewriting.rewrite(kept, lying)
        self.done.rewritten += rewriting.rewritten
        self.done.freed -= rewriting.stored
        self.done.problems += rewriting.problems

    def _look(self, rewriting: Rewriting, leaving: Iterable[SnapshotName]) -> tuple[list[Kept], bool]:
        """Open snapshots that nobody keeps and that still lie there; tell, too, whether all that they refer to is known."""
        found, is_told = [], True
        for name in leaving:
            try:
                opened = self.repository.open(name)
                found.append(Kept(name, {pack.id for _, section in rewriting.sections(opened) for pack in section.packs}))
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


def _seconds(text: str) -> float:
    """Return a tombstone's time in seconds since 1970; one that says no time is as late as can be."""
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return math.inf
