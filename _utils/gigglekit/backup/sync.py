"""Sync: what is new goes into packs, and one snapshot says what there is.

Everything that is stored is written down before and after, so that a run that was killed leaves nothing that the next one does not
know: packs that were finished are used, and one that was not is removed. A snapshot is the last thing that is stored; until
then nothing in the bucket has changed for anybody who restores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gigglekit.backup import clips, names, sealed
from gigglekit.backup.clips import User
from gigglekit.backup.describing import Describing
from gigglekit.backup.digests import Digests
from gigglekit.backup.errors import BackupError, DamagedError, MissingError
from gigglekit.backup.filling import Filling
from gigglekit.backup.learning import Knowledge, OthersError
from gigglekit.backup.manifest import Manifest, State, name_of
from gigglekit.backup.pack import PACK_BYTES
from gigglekit.backup.repository import Opened, Repository, manifest_key
from gigglekit.backup.snapshot import Dump, Head
from gigglekit.backup.storing import Storing, Synced
from gigglekit.crypto.keys import KeyedHash

_TRIES = 3
NO_DUMP = "The clips were saved, and the database was not"


@dataclass
class Sync:
    """One run.

    Arguments:
        repository: where to.
        manifest: what is known to be there.
        threads: packs that are stored at once.
        erased: tells who was asked to be erased by now; asked again before anything is stored.
        progress: told bytes stored and files looked at, now and then.
        pack_bytes: size of packs.
        clock: seconds since 1970.
        elapsed: seconds since any moment, those in which the machine slept too.
    """

    repository: Repository
    manifest: Manifest
    threads: int = 4
    erased: Callable[[], Iterable[str]] = tuple
    progress: Callable[[int, int], None] = lambda *_: None
    pack_bytes: int = PACK_BYTES
    clock: Callable[[], float] = time.time
    elapsed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    _known: Knowledge = field(init=False, repr=False)

    def run(self, users: Sequence[User], dump: Callable[[], Dump] | None = None, *, anyway: bool = False) -> Synced:
        """Store what is new of these users, and a snapshot if anything is.

        Arguments:
            users: everybody who has a vault; who is not among them is not in the snapshot.
            dump: stores a dump of the database and describes it; None if there is no database. With one there always is something new.
            anyway: go on although another droplet has made snapshots in this bucket since.

        Raises:
            BackupError: what the bucket says; everything that was stored is known to the next run.
        """
        problems: list[str] = []
        self._known = Knowledge(self.repository, self.manifest, users, self.erased, self.elapsed)
        for _ in range(_TRIES):
            synced = Synced(problems=[*problems])
            try:
                self._run(users, dump, anyway, synced)
            except OthersError as error:
                with self.manifest.change():
                    self.manifest.put("learned", None)
                problems.append(str(error))
            else:
                synced.problems += self._known.problems
                return synced
        raise BackupError(problems[-1])

    def _run(self, users: Sequence[User], dump: Callable[[], Dump] | None, anyway: bool, synced: Synced) -> None:
        self._tidy()
        self._known.learn(anyway=anyway)
        described = Describing(self.manifest)
        with (
            ThreadPoolExecutor(self.threads, thread_name_prefix="keys") as beside,
            ThreadPoolExecutor(self.threads, thread_name_prefix="packs") as pool,
        ):
            # They are small, and travel while clips are read and encrypted; those of a user wait for that user's.
            keys = self._store_keys(users, beside)
            # A run that failed may have stored what no snapshot refers to yet.
            new = bool(keys.storing) or self.manifest.get("unsaved") == "yes"
            wanted: Sequence[User] = users
            for left in reversed(range(_TRIES)):
                storing = Storing(self.repository, self.manifest, self.threads, synced, pool, keys.insist)
                try:
                    for user in wanted:
                        if user.vault_id not in self._known.gone():
                            names_of, more = self._user(user, storing)
                            described.take(user, names_of)
                            new = new or more
                        if new or dump is not None:
                            described.go_on(storing.waits)
                finally:
                    try:
                        keys.settle()
                    finally:
                        storing.finish()
                new = new or described.vaults() - self._known.gone() != self._before()
                if not new and dump is None:
                    break
                self._known.compare()
                lost = self._known.see(storing.numbers, tries=0 if left else _TRIES)
                if not lost:
                    break
                self._tidy()
                new, wanted = True, [user for user in users if user.vault_id in lost]
        dumped = self._dump(dump, synced) if dump is not None else None
        if new or dumped is not None:
            self._snapshot(users, described, dumped, synced)
        else:
            synced.users, synced.files, synced.size = (int(part) for part in (self.manifest.get("holds") or "0 0 0").split())

    # --- before ------------------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove what a run that was killed has left half stored, and take over its snapshot if that is there."""
        for name in self.manifest.underway():
            opened = self._stored(name)
            if opened is None:
                self.repository.bucket.erase(name)
            with self.manifest.change():
                self.manifest.finish(name)
                if opened is not None:
                    self._known.remember_parts(opened.name.base, opened.head.number, opened.head.users)
                    self.manifest.put("unsaved", None)

    def _stored(self, name: str) -> Opened | None:
        """Open a snapshot if it was stored after all; a locked one could not be removed, either."""
        found = names.snapshot_name(name.removeprefix(names.SNAPSHOTS)) if name.startswith(names.SNAPSHOTS) else None
        try:
            return None if found is None else self.repository.open(found)
        except (DamagedError, MissingError):
            return None

    def _store_keys(self, users: Sequence[User], pool: ThreadPoolExecutor) -> sealed.Keys:
        """Begin to have every key in the bucket, sealed for the kit in force; nothing that was encrypted by one is stored before it is."""
        secrets = self.repository.secrets
        lacking = sealed.lacking(secrets, self.manifest, users, self._known.gone())
        if lacking:
            # Nobody's key comes back who was erased elsewhere meanwhile.
            self._known.compare()
            lacking = sealed.lacking(secrets, self.manifest, users, self._known.gone())
        return sealed.store(self.repository, self.manifest, lacking, pool)

    # --- one user ------------------------------------------------------------------------------------------------------------

    def _user(self, user: User, storing: Storing) -> tuple[dict[str, str], bool]:
        """Store what is new of a user; return what stands for each path there is, and whether anything differs from before."""
        key = manifest_key(user.root_key)
        under, known = KeyedHash(key), self.manifest.states(user.vault_id)
        filling = Filling(user, Digests(key), self.manifest, storing, self.pack_bytes, self.progress)
        names_of: dict[str, str] = {}
        new = False
        for found in clips.files(user, storing.synced.problems):
            name = name_of(under, found.path)
            state, before = State.of(found.status), known.get(name)
            if before == state:
                names_of[found.path] = name
                continue
            if before is not None and (before.size, before.modified, before.inode) == (state.size, state.modified, 0):
                # Learned from the bucket, which knows no inodes.
                filling.touched.append((name, state, None))
            else:
                new = new or self._note_unsaved()
                if not filling.take(found, name) and before is None:
                    continue
                # What was there before is better than nothing.
            names_of[found.path] = name
        filling.flush()
        gone = known.keys() - names_of.values()
        if gone:
            new = self._note_unsaved()
            storing.synced.gone += len(gone)
            with self.manifest.change():
                for name in gone:
                    self.manifest.drop_file(user.vault_id, name)
        return names_of, new

    def _note_unsaved(self) -> bool:
        """Write down that a snapshot is due, whatever becomes of this run, before the manifest calls anything known."""
        self._known.compare()
        if self.manifest.get("unsaved") != "yes":
            with self.manifest.change():
                self.manifest.put("unsaved", "yes")
        return True

    # --- the snapshot ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _dump(dump: Callable[[], Dump], synced: Synced) -> Dump | None:
        try:
            return dump()
        except BackupError as error:
            # Clips are no less worth saving because the database is down.
            synced.problems.append(f"{NO_DUMP}: {error}")
            return None

    def _before(self) -> set[str]:
        return set((self.manifest.get("vaults") or "").split())

    def _snapshot(self, users: Sequence[User], described: Describing, dump: Dump | None, synced: Synced) -> None:
        previous, number = self.manifest.get("snapshot") or "", int(self.manifest.get("number") or 0) + 1
        now = self.clock()
        last = names.snapshot_name(f"{previous}.0") if previous else None
        # Names sort by time, and a clock that was put back must not make this one the older.
        name = names.new_snapshot(max(now, last.seconds + 1) if last else now)
        if names.snapshot_name(name.text) is None:
            raise BackupError(
                f"{names.SNAPSHOTS}{previous}.0 (or with a higher number at its end) lies in the bucket, and no later name can be given, "
                "so nobody would find a snapshot that is made now. No droplet gives such a name: somebody else writes there. What is new "
                "was stored, and no snapshot names it yet. Delete that object in the web UI of Backblaze, replace the application key, "
                "then ask again: salt-call giggles.sync"
            )
        roots = {user.vault_id: user.root_key for user in users}
        sections = described.finish(described.vaults() & roots.keys() - self._known.gone())
        synced.users, synced.files = len(sections), sum(section.files for section in sections.values())
        synced.size = sum(section.size for section in sections.values())
        head = Head(name.written, number, previous, dump, ())
        data = self.repository.write(name, head, ((vault, roots[vault], section) for vault, section in sections.items()))
        self._known.insist_once_more()
        with self.manifest.change():
            self.manifest.begin(name.object, "")
        self.repository.bucket.put(name.object, data, locked=True)
        with self.manifest.change():
            self.manifest.finish(name.object)
            self._known.remember(name.base, number, [*sections], synced.files, synced.size)
            self.manifest.put("unsaved", None)
        synced.snapshot = name.base
