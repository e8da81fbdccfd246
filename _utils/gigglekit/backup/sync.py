"""Sync: what is new goes into packs, and one snapshot says what there is.

Everything that is stored is written down before and after, so that a run that was killed leaves nothing that the next one does not
know: packs that were finished are used, and one that was not is removed. A snapshot is the last thing that is stored; until
then nothing in the bucket has changed for anybody who restores.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup import kit, names, signed, waiting
from gigglekit.backup.errors import BackupError, DamagedError, MissingError, RefusedError
from gigglekit.backup.manifest import Manifest, Pack, State, digest_of, name_of
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.pack import PACK_BYTES, Builder, Finished
from gigglekit.backup.repository import Opened, Repository, backup_key, manifest_key
from gigglekit.backup.section import MOST_PATH_BYTES, Extent, FileEntry, NotReadableError, PackEntry, Section, is_safe
from gigglekit.backup.snapshot import Dump, Head, Part
from gigglekit.files import walking

_BLOCK = 1 << 20
_SMALL = 4 << 20
"""Files up to this size are read once: hashed in memory, and stored only if their content is new."""
_TRIES = 3
_TOLD = 5
"""So many objects are named in a message; verify names all."""
_KEYS = "keys/"
_ELSEWHERE = "elsewhere"
"""A fact of the manifest: vault ids of users of this droplet that the bucket knows to be erased."""
NO_DUMP = "The clips were saved, and the database was not"
BEGUN_EMPTY = "begun empty"
"""A fact of the manifest: "yes" if no data lay in the bucket when it was begun, so that it knows all there is."""
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
_CERTAINLY_SHORT = MOST_PATH_BYTES // 4
"""Characters of a path that can be saved, however many bytes each of them has."""


@dataclass(frozen=True)
class User:
    """Somebody whose clips are backed up.

    Arguments:
        vault_id: keyed hash of the user's id.
        user_id: the user's id, "" if nobody knows it.
        root_key: the user's root key.
        folder: the user's vault; `clips` in it is backed up.
        clips: where the clips lie if not there.
        legacy: clips that lie directly below the app's `clips/`.
    """

    vault_id: str
    user_id: str
    root_key: bytes = field(repr=False)
    folder: Path
    legacy: tuple[Path, ...] = ()
    clips: Path | None = None


@dataclass
class Synced:
    """What a run did.

    Attributes:
        snapshot: name of the snapshot that was made, "" if there was nothing new.
        users, files, size: what the newest snapshot holds; bytes.
        new_files, new_bytes: what was read and stored.
        packs: how many were stored.
        gone: files that are in the snapshot before and not in this one.
        unsettled: files that changed each time they were read; the next run takes them.
        problems: one sentence each.
    """

    snapshot: str = ""
    users: int = 0
    files: int = 0
    size: int = 0
    new_files: int = 0
    new_bytes: int = 0
    packs: int = 0
    gone: int = 0
    unsettled: int = 0
    problems: list[str] = field(default_factory=list)


class _OthersError(Exception):
    """The bucket is not as this droplet has left it; its text says how."""


class _ChangedError(Exception):
    """A file changed while it was read."""


class _UnreadableError(OSError):
    """The disk does not give a file back."""


@dataclass
class _Entry:
    """A file whose content is on its way into the bucket."""

    vault: str
    name: str
    state: State
    digest: str
    size: int
    parts: list[tuple[str, int, int]]


@dataclass
class _Storing:
    """Packs that are being stored, a few at a time, and the files that wait for them.

    Arguments:
        repository, manifest, threads, synced: of the run.
        pool: what stores them.
        ready: waits until they may be stored.
    """

    repository: Repository
    manifest: Manifest
    threads: int
    synced: Synced
    pool: ThreadPoolExecutor
    ready: Callable[[], object]
    running: dict[Future[None], tuple[str, Finished]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    memory: list[memoryview] = field(default_factory=list)
    waiting: deque[_Entry] = field(default_factory=deque)

    def store(self, vault: str, pack: Finished) -> None:
        """Store a pack; waits while as many as may are under way."""
        self.ready()
        done = self._settled() if len(self.running) >= self.threads else ()
        name = names.DATA + pack.id
        # By one transaction, since each waits for the disk.
        self._write_down(done, (name, vault))
        for future in done:
            future.result()
        # Whether all of it is there is seen in a listing at the end: an MD5 takes longer than all that is done with the bytes before.
        future = self.pool.submit(self.repository.bucket.put, name, pack.body, locked=True, confirmed=False)
        self.running[future] = (vault, pack)

    def _settled(self) -> Collection[Future[None]]:
        """Wait for a pack, and return all that were stored or failed by then."""
        return wait(self.running, return_when=FIRST_COMPLETED).done

    def _write_down(self, done: Collection[Future[None]] = (), beginning: tuple[str, str] | None = None) -> None:
        """Write down what is stored with these packs, those left out that failed, and that another is about to be: its name and vault."""
        before = self.numbers
        self.numbers = dict(before)
        try:
            with self.manifest.change():
                for future in done:
                    vault, pack = self.running.pop(future)
                    # Anew from the kernel it would be zeroed page by page, which takes longer than to encrypt what goes in.
                    self.memory.append(pack.memory)
                    if future.exception() is None:
                        self.numbers[pack.id] = self.manifest.add_pack(pack.id, vault, len(pack.body), pack.header)
                        self.manifest.finish(names.DATA + pack.id)
                        self.synced.packs += 1
                self._known()
                if beginning is not None:
                    self.manifest.begin(*beginning)
        except BaseException:
            # Nothing of it was written down, so no file may refer to it either.
            self.numbers = before
            raise

    def _known(self) -> None:
        """Write down the files whose content is stored altogether now."""
        for _ in range(len(self.waiting)):
            entry = self.waiting.popleft()
            if all(pack in self.numbers for pack, _, _ in entry.parts):
                parts = [(self.numbers[pack], offset, length) for pack, offset, length in entry.parts]
                content = self.manifest.add_content(entry.vault, entry.digest, entry.size, parts)
                self.manifest.put_file(entry.vault, entry.name, entry.state, content)
            else:
                self.waiting.append(entry)

    def finish(self) -> None:
        """Wait for all, those after one that failed too."""
        failure: BaseException | None = None
        while self.running:
            done = self._settled()
            self._write_down(done)
            failure = next(filter(None, (future.exception() for future in done)), failure)
        if self.waiting:
            # Empty files wait for no pack.
            self._write_down()
        if failure is not None:
            raise failure


@dataclass
class _Keys:
    """Keys on their way into the bucket.

    Arguments:
        manifest: what is known to be there.
        kit: fingerprint of the kit that they are sealed for.
        storing: by name.
    """

    manifest: Manifest
    kit: str
    storing: dict[str, Future[None]]
    is_settled: bool = False

    def settle(self) -> None:
        """Wait until all are there, and write down which are; the second time there is nothing to do.

        Raises:
            BackupError: one could not be stored.
        """
        if self.is_settled or not self.storing:
            return
        wait(self.storing.values())
        self.is_settled = True
        with self.manifest.change():
            for name, future in self.storing.items():
                if future.exception() is None:
                    self.manifest.put(f"sealed:{name}", self.kit)
        for future in self.storing.values():
            future.result()


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
    _is_compared: bool = field(default=False, init=False)
    _vaults: frozenset[str] = field(default=frozenset(), init=False)
    _problems: list[str] = field(default_factory=list, init=False)
    _looked: float = field(default=0.0, init=False)

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
        self._vaults, self._problems = frozenset(user.vault_id for user in users), []
        for _ in range(_TRIES):
            synced = Synced(problems=[*problems])
            try:
                self._run(users, dump, anyway, synced)
            except _OthersError as error:
                with self.manifest.change():
                    self.manifest.put("learned", None)
                problems.append(str(error))
            else:
                synced.problems += [*dict.fromkeys(self._problems), *self._erased_elsewhere()]
                return synced
        raise BackupError(problems[-1])

    def _run(self, users: Sequence[User], dump: Callable[[], Dump] | None, anyway: bool, synced: Synced) -> None:
        self._tidy()
        self._learn(users, anyway, synced)
        present: dict[str, list[str]] = {}
        with ThreadPoolExecutor(2 * self.threads, thread_name_prefix="store") as pool:
            # They are small, and travel while the first clips are read.
            keys = self._store_keys(users, pool)
            # A run that failed may have stored what no snapshot refers to yet.
            new = bool(keys.storing) or self.manifest.get("unsaved") == "yes"
            wanted: Sequence[User] = users
            for last in reversed(range(_TRIES)):
                storing = _Storing(self.repository, self.manifest, self.threads, synced, pool, keys.settle)
                try:
                    for user in wanted:
                        if user.vault_id not in self._gone():
                            present[user.vault_id], more = self._user(user, storing)
                            new = new or more
                finally:
                    try:
                        keys.settle()
                    finally:
                        storing.finish()
                new = new or present.keys() - self._gone() != self._before()
                if not new and dump is None:
                    break
                self._compare()
                lost = self._see(storing.numbers, is_last=not last)
                if not lost:
                    break
                new, wanted = True, [user for user in users if user.vault_id in lost]
        described = self._dump(dump, synced) if dump is not None else None
        if new or described is not None:
            self._snapshot([user for user in users if user.vault_id in present], present, described, synced)
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
                    self._remember_parts(opened.name.base, opened.head.number, opened.head.users)
                    self.manifest.put("unsaved", None)

    def _stored(self, name: str) -> Opened | None:
        """Open a snapshot if it was stored after all; a locked one could not be removed, either."""
        found = names.snapshot_name(name.removeprefix(names.SNAPSHOTS)) if name.startswith(names.SNAPSHOTS) else None
        try:
            return None if found is None else self.repository.open(found)
        except (DamagedError, MissingError):
            return None

    def _compare(self) -> None:
        """See whether the newest snapshot is the one that this droplet made last, before anything is built on that.

        Raises:
            _OthersError: it is not.
        """
        if self._is_compared:
            return
        self._is_compared = True
        self._insist_on_what_waits()
        self._ask_the_ledger()
        ours, found = self.manifest.get("snapshot") or "", [name.base for name in self.repository.snapshots()]
        if ours == (found[-1] if found else ""):
            return
        if ours in found or not ours:
            raise _OthersError(
                f"{names.SNAPSHOTS}{found[-1]} is in the bucket and was not made by this droplet: another droplet with the same keys saves "
                "there too, or this one's disk was put back to an earlier state. What the bucket has was read again, and nothing is lost. "
                "If there are two droplets, stop the backup of one: what one prunes, the other may just be about to use."
            )
        raise _OthersError(
            f"{names.SNAPSHOTS}{ours}, which this droplet made last, is not in the bucket any more: somebody removed it, an older state of "
            "the bucket was put back, or another droplet with the same keys has pruned it. What the bucket has was read again, and what "
            "it lacks was stored again. If nobody of you did this, replace the application key."
        )

    def _gone(self) -> set[str]:
        """Return who is not to be saved, as far as this droplet or the bucket knows."""
        return {*self.erased(), *(self.manifest.get(_ELSEWHERE) or "").split()}

    def _ask_the_ledger(self) -> None:
        """Learn who was erased elsewhere, before anything of them is stored again; one that is no tombstone leaves nobody out."""
        found = self.repository.erased(self._problems, self._vaults - set(self.erased()))
        with self.manifest.change():
            self.manifest.put(_ELSEWHERE, " ".join(sorted(found)) or None)

    def _erased_elsewhere(self) -> list[str]:
        return [
            f"Vault {vault} is on this droplet, and in the bucket stands that its user was erased: by another droplet with the same keys, "
            "or by this one before its disk was put back to an earlier state. So nothing of that user was saved. Erase the user here, too: "
            "salt-call giggles.shred user_id=… with the id whose vault this is (salt-call giggles.vaults); and if there are two droplets, "
            "stop the backup of one."
            for vault in sorted(self._vaults.intersection((self.manifest.get(_ELSEWHERE) or "").split()).difference(self.erased()))
        ]

    def _insist_on_what_waits(self) -> None:
        """See that no prune of somebody else has given up what this run refers to.

        Raises:
            _OthersError: one may have.
        """
        self._looked = self.elapsed()
        if not waiting.known(self.manifest).issuperset(waiting.record_names(self.repository)):
            raise _OthersError(
                "The bucket was pruned, and not by this droplet: another droplet with the same keys works there too, or this one's disk "
                "was put back to an earlier state. What the bucket has was read again, and nothing is lost. If there are two droplets, "
                "stop the backup of one: each stores again what the other has moved or given up."
            )

    def _learn(self, users: Sequence[User], anyway: bool, synced: Synced) -> None:
        """Know what is in the bucket, by the manifest or, if that is new, by the newest snapshot."""
        if self.manifest.get("learned") == "yes":
            return
        secrets = self.repository.secrets
        owner = next(iter(self.repository.bucket.list(names.SYSTEM_KEYS + "signing")), None)
        found = self.repository.snapshots()
        self._is_compared = True
        self._looked = self.elapsed()
        records = waiting.read(self.repository, waiting.record_names(self.repository))
        if owner is not None and secrets.signer is not None and not anyway:
            self._insist_on_ours(owner.name)
        self._ask_the_ledger()
        elsewhere, sealed = self.manifest.get(_ELSEWHERE), self._still_sealed()
        lying = self._lying()
        with self.manifest.change():
            self.manifest.forget_everything()
            self.manifest.put(_ELSEWHERE, elsewhere)
            self.manifest.put(BEGUN_EMPTY, None if lying else "yes")
            for name, by in sealed.items():
                self.manifest.put(f"sealed:{name}", by)
            gone = self._gone()
            self._learn_newest(found, {user.vault_id: user.root_key for user in users if user.vault_id not in gone}, synced)
            self._lose(self._lost(lying), lying)
            waiting.note(self.manifest, (record.name for record in records), {pack for record in records for pack in record.packs})
            self.manifest.put("learned", "yes")

    def _learn_newest(self, found: Sequence[SnapshotName], roots: Mapping[str, bytes], synced: Synced) -> None:
        """Learn from the newest snapshot that can be read. What cannot be is stored again, under a snapshot that comes after all."""
        damaged = 0
        for name in reversed(found):
            try:
                opened = self.repository.open(name)
            except (DamagedError, MissingError) as error:
                synced.problems.append(str(error))
                damaged += 1
                continue
            for part in opened.head.users:
                try:
                    if part.vault in roots:
                        self._learn_user(part.vault, roots[part.vault], self.repository.section(opened, part, roots[part.vault]))
                except (DamagedError, MissingError) as error:
                    synced.problems.append(str(error))
                    self.manifest.put("unsaved", "yes")
            self._remember_parts(found[-1].base, opened.head.number + damaged, opened.head.users)
            break
        else:
            self._remember_parts(found[-1].base if found else "", damaged, ())
        if damaged:
            self.manifest.put("unsaved", "yes")

    def _insist_on_ours(self, name: str) -> None:
        secrets = self.repository.secrets
        try:
            signed.open_signed(signed.KEY, name, self.repository.bucket.get(name, 4096), secrets.signer_public)
        except NotReadableError:
            raise RefusedError(
                "The bucket holds the backup of another server, or of this one before it was made anew, and nothing here could read it "
                "later. Nothing was stored. To go on where that backup ends, restore it with its recovery kit first: salt-call "
                "giggles.restore kit=/root/kit.txt. To begin anew beside it, choose another giggles:backup:prefix."
            ) from None

    def _learn_user(self, vault: str, root_key: bytes, section: Section) -> None:
        key = manifest_key(root_key)
        numbers = [self.manifest.add_pack(pack.id, vault, pack.size, pack.header) for pack in section.packs]
        for file in section.files:
            parts = [(numbers[part.pack], part.offset, part.length) for part in file.extents]
            content = self.manifest.add_content(vault, file.digest, file.size, parts)
            # Its inode and time of change are not known: size and time of modification have to do.
            self.manifest.put_file(vault, name_of(key, file.path), State(file.size, file.modified, 0, 0), content)

    def _store_keys(self, users: Sequence[User], pool: ThreadPoolExecutor) -> _Keys:
        """Begin to have every key in the bucket, sealed for the kit in force; nothing that was encrypted by one is stored before it is."""
        secrets = self.repository.secrets
        wanted = kit.fingerprint(secrets.kit_public) if secrets.kit_public is not None else ""
        sealed = self.manifest.all("sealed:")
        everything: dict[str, bytes] = {
            names.SYSTEM_KEYS + "names": secrets.names,
            names.SYSTEM_KEYS + "snapshots": secrets.snapshots,
            **({names.SYSTEM_KEYS + "signing": secrets.signer.private} if secrets.signer else {}),
            **{names.USER_KEYS + user.vault_id: user.root_key for user in users},
        }
        erased = self._gone()
        lacking = [name for name in everything if name.removeprefix(names.USER_KEYS) not in erased]
        lacking = [name for name in lacking if not wanted or sealed.get(name) != wanted]
        if lacking:
            # Nobody's key comes back who was erased elsewhere meanwhile.
            self._compare()
            erased = self._gone()
        storing = {
            name: pool.submit(self.repository.store_key, name, everything[name])
            for name in lacking
            if name.removeprefix(names.USER_KEYS) not in erased
        }
        return _Keys(self.manifest, wanted, storing)

    def _still_sealed(self) -> dict[str, str]:
        """Return the keys that certainly lie in the bucket as this droplet has sealed them, and for which kit.

        What a key is sealed for can be told by nobody here. So one counts that was there before the last snapshot of this droplet, by the
        bucket's clock, and not written since.
        """
        sealed, ours = self.manifest.all("sealed:"), self.manifest.get("snapshot")
        if not sealed or not ours:
            return {}
        until = min((entry.modified for entry in self.repository.bucket.list(names.SNAPSHOTS + ours)), default=None)
        if until is None:
            # An older state of the bucket may have been put back.
            return {}
        there = {entry.name for entry in self.repository.bucket.list(_KEYS) if entry.modified <= until}
        return {name: by for name, by in sealed.items() if name in there}

    # --- packs that the bucket has lost ------------------------------------------------------------------------------------

    def _lying(self) -> dict[str, int]:
        return {entry.name.removeprefix(names.DATA): entry.size for entry in self.repository.bucket.list(names.DATA)}

    def _lost(self, lying: Mapping[str, int]) -> list[Pack]:
        """Return the packs that are known and not in the bucket as a whole."""
        erased = self._gone()
        return [pack for pack in self.manifest.packs() if lying.get(pack.id) != pack.size and pack.vault not in erased]

    def _lose(self, lost: Sequence[Pack], lying: Mapping[str, int]) -> None:
        """Refer to packs no more, so that what was in them is stored again, and tell which; within a change of the manifest."""
        if not lost:
            return
        self.manifest.lose({pack.id for pack in lost})
        told = [f"{names.DATA}{pack.id} ({lying.get(pack.id, 0)} of {pack.size} bytes)" for pack in lost[:_TOLD]]
        more = f", and {len(lost) - _TOLD} more" if len(lost) > _TOLD else ""
        self._problems.append(
            f"{len(lost)} objects are not in the bucket as this droplet has stored them: {', '.join(told)}{more}. Those clips in them that "
            "are still on this droplet were stored again; of those that are not, only the snapshots until now tell, and salt-call "
            "giggles.verify names what they lack. Either somebody else removes things from this bucket, or the storage cannot be relied "
            "on: look who has a key for it, and at https://status.backblaze.com."
        )

    def _see(self, numbers: Mapping[str, int], *, is_last: bool) -> set[str]:
        """See that every pack that the next snapshot may refer to is in the bucket as a whole.

        Arguments:
            numbers: the packs that were stored a moment ago; no snapshot refers to them.
            is_last: whether nothing more is tried if one is not.

        Returns:
            The vaults of those that are not; they are forgotten, so that what was in them is stored again.

        Raises:
            DamagedError: one is not, and it was tried often enough.
        """
        lying = self._lying()
        lost = self._lost(lying)
        if not lost:
            return set()
        with self.manifest.change():
            self._lose(lost, lying)
            for pack in lost:
                if pack.id in numbers:
                    # Of use for nobody.
                    self.manifest.begin(names.DATA + pack.id, pack.vault)
        if is_last:
            name = names.DATA + lost[0].id
            raise DamagedError(
                name,
                f"The bucket has confirmed {len(lost)} objects and does not have them as a whole: of {name} it has "
                f"{lying.get(lost[0].id, 0)} bytes, not {lost[0].size}, and that after {_TRIES} attempts. What was in them is stored again "
                "by the next backup, and no snapshot refers to them. Either somebody else removes things from this bucket, or the storage "
                "cannot be relied on: look who else has a key for it, and at https://status.backblaze.com.",
            )
        self._tidy()
        return {pack.vault for pack in lost}

    # --- one user ------------------------------------------------------------------------------------------------------------

    def _user(self, user: User, storing: _Storing) -> tuple[list[str], bool]:
        """Store what is new of a user; return the paths there are, and whether anything differs from before."""
        key = manifest_key(user.root_key)
        known = self.manifest.states(user.vault_id)
        filling = _Filling(self, user, key, storing)
        paths, seen, new = [], set(), False
        for found in _files(user, storing.synced):
            name = name_of(key, found.path)
            state, before = State.of(found.status), known.get(name)
            if before == state:
                paths.append(found.path)
                seen.add(name)
                continue
            if before is not None and (before.size, before.modified, before.inode) == (state.size, state.modified, 0):
                # Learned from the bucket, which knows no inodes.
                filling.touched.append((name, state, None))
            else:
                new = new or self._note_unsaved()
                if not filling.take(found, name) and before is None:
                    continue
                # What was there before is better than nothing.
            paths.append(found.path)
            seen.add(name)
        filling.flush()
        gone = known.keys() - seen
        if gone:
            new = self._note_unsaved()
            storing.synced.gone += len(gone)
            with self.manifest.change():
                for name in gone:
                    self.manifest.drop_file(user.vault_id, name)
        return paths, new

    def _note_unsaved(self) -> bool:
        """Write down that a snapshot is due, whatever becomes of this run, before the manifest calls anything known."""
        self._compare()
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

    def _remember_parts(self, base: str, number: int, parts: Sequence[Part]) -> None:
        self._remember(base, number, [part.vault for part in parts], sum(part.files for part in parts), sum(part.size for part in parts))

    def _remember(self, base: str, number: int, vaults: Sequence[str], files: int, size: int) -> None:
        """Write down what the newest snapshot is and holds."""
        self.manifest.put("snapshot", base)
        self.manifest.put("number", str(number))
        self.manifest.put("vaults", " ".join(sorted(vaults)))
        self.manifest.put("holds", f"{len(vaults)} {files} {size}")

    def _snapshot(self, users: Sequence[User], present: dict[str, list[str]], dump: Dump | None, synced: Synced) -> None:
        previous, number = self.manifest.get("snapshot") or "", int(self.manifest.get("number") or 0) + 1
        now = self.clock()
        last = names.snapshot_name(f"{previous}.0") if previous else None
        # Names sort by time, and a clock that was put back must not make this one the older.
        name = names.new_snapshot(max(now, last.seconds + 1) if last else now)
        erased = self._gone()
        users = sorted((user for user in users if user.vault_id not in erased), key=lambda user: user.vault_id)

        def sections() -> Iterator[tuple[str, bytes, Section]]:
            for user in users:
                section = self._section(user, present[user.vault_id])
                synced.users += 1
                synced.files += len(section.files)
                synced.size += sum(file.size for file in section.files)
                yield user.vault_id, user.root_key, section

        data = self.repository.write(name, Head(name.written, number, previous, dump, ()), sections())
        if self.elapsed() - self._looked > waiting.KNOWN_SECONDS:
            self._insist_on_what_waits()
        with self.manifest.change():
            self.manifest.begin(name.object, "")
        self.repository.bucket.put(name.object, data, locked=True)
        with self.manifest.change():
            self.manifest.finish(name.object)
            self._remember(name.base, number, [user.vault_id for user in users], synced.files, synced.size)
            self.manifest.put("unsaved", None)
        synced.snapshot = name.base

    def _section(self, user: User, paths: list[str]) -> Section:
        key = manifest_key(user.root_key)
        known = self.manifest.files(user.vault_id)
        packs = {pack.number: pack for pack in self.manifest.packs(user.vault_id)}
        order: dict[int, int] = {}
        files = []
        for path in sorted(paths):
            state, stored = known[name_of(key, path)]
            parts = tuple(Extent(order.setdefault(pack, len(order)), offset, length) for pack, offset, length in stored.extents)
            files.append(FileEntry(path, stored.size, state.modified, stored.digest, parts))
        entries = tuple(PackEntry(packs[number].id, packs[number].size, packs[number].header) for number in order)
        return Section(user.user_id, entries, tuple(files))


@dataclass
class _Filling:
    """The pack of a user that is being filled."""

    sync: Sync
    user: User
    key: bytes
    storing: _Storing
    builder: Builder | None = None
    touched: list[tuple[str, State, int | None]] = field(default_factory=list)
    known: dict[str, int] | None = None
    twins: dict[str, _Entry] = field(default_factory=dict)

    def take(self, found: walking.Found, name: str) -> bool:
        """Store a file's content unless it is stored; return whether it is known what it is."""
        for _ in range(_TRIES):
            try:
                descriptor = found.open()
            except OSError as error:
                # Gone, or a link now: the next run sees what is there then.
                return False if error.errno in _GONE else self._note_unreadable(error)
            try:
                self._take(descriptor, name)
            except _ChangedError:
                continue
            except _UnreadableError as error:
                return self._note_unreadable(error)
            finally:
                os.close(descriptor)
            return True
        self.storing.synced.unsettled += 1
        return False

    def _note_unreadable(self, error: OSError) -> bool:
        self.storing.synced.problems.append(
            f"A clip of vault {self.user.vault_id} could not be read and was not saved: {error.strerror}. All others were. If it lasts, "
            "look at the disk: dmesg; and restore the clip from an earlier snapshot if it is damaged: salt-call giggles.restore"
        )
        return False

    def _take(self, descriptor: int, name: str) -> None:
        before = os.fstat(descriptor)
        data = _read_small(descriptor, before.st_size) if before.st_size <= _SMALL else None
        sha256 = hashlib.sha256(data).hexdigest() if data is not None else _hash(descriptor, before.st_size)
        if State.of(os.fstat(descriptor)) != State.of(before):
            raise _ChangedError
        digest = digest_of(self.key, sha256)
        vault, manifest = self.user.vault_id, self.sync.manifest
        state = State.of(before)
        if self.known is None:
            self.known = manifest.contents(vault)
        content = self.known.get(digest)
        if content is not None:
            self.touched.append((name, state, content))
            return
        twin = self.twins.get(digest)
        if twin is not None:
            self.storing.waiting.append(_Entry(vault, name, state, digest, twin.size, twin.parts))
            return
        parts = self._put(memoryview(data)) if data is not None else self._put_large(descriptor, before.st_size, sha256)
        entry = _Entry(vault, name, state, digest, before.st_size, parts)
        self.storing.waiting.append(entry)
        self.twins[digest] = entry
        self.storing.synced.new_files += 1
        self.storing.synced.new_bytes += before.st_size
        self.sync.progress(self.storing.synced.new_bytes, self.storing.synced.new_files)

    def _put(self, data: memoryview) -> list[tuple[str, int, int]]:
        """Put bytes into packs: into one if they fit into a whole one, so that one request reads them."""
        parts = []
        if self.builder is not None and len(data) > self.builder.room and len(data) <= self.sync.pack_bytes:
            self.flush()
        while len(data):
            if self.builder is None:
                buffer = self.storing.memory.pop() if self.storing.memory else None
                self.builder = Builder(backup_key(self.user.root_key), self.sync.pack_bytes, buffer)
            piece = data[: self.builder.room]
            parts.append((self.builder.id, self.builder.plain, len(piece)))
            self.builder.add(piece)
            data = data[len(piece) :]
            if not self.builder.room:
                self.flush()
        return parts

    def _put_large(self, descriptor: int, size: int, sha256: str) -> list[tuple[str, int, int]]:
        parts: list[tuple[str, int, int]] = []
        again = hashlib.sha256()
        os.lseek(descriptor, 0, os.SEEK_SET)
        left = size
        while left:
            block = _read(descriptor, min(_BLOCK, left))
            if not block:
                break
            left -= len(block)
            again.update(block)
            for part in self._put(memoryview(block)):
                if parts and parts[-1][0] == part[0]:
                    last = parts.pop()
                    parts.append((last[0], last[1], last[2] + part[2]))
                else:
                    parts.append(part)
        if left or again.hexdigest() != sha256:
            # What went into the packs is wasted until they are written anew.
            raise _ChangedError
        return parts

    def flush(self) -> None:
        """Store the pack as it is, and write down the files whose content was stored before."""
        if self.builder is not None and self.builder.plain:
            self.storing.store(self.user.vault_id, self.builder.finish())
        self.builder = None
        if self.touched:
            manifest = self.sync.manifest
            with manifest.change():
                for name, state, content in self.touched:
                    if content is None:
                        manifest.touch_file(self.user.vault_id, name, state)
                    else:
                        manifest.put_file(self.user.vault_id, name, state, content)
            self.touched.clear()


def _files(user: User, synced: Synced) -> Iterator[walking.Found]:
    """Yield what is to be saved of a user."""
    too_long = 0
    for found in _found(user):
        if len(found.path) > _CERTAINLY_SHORT and not is_safe(found.path):
            too_long += 1
        elif not found.path.rpartition("/")[2].startswith(names.UNFINISHED):
            yield found
    if too_long:
        synced.problems.append(
            f"{too_long} files of vault {user.vault_id} were not saved, since their paths are too long: more than {MOST_PATH_BYTES} bytes. "
            "The app names clips shorter; look what has made these, and rename or remove them."
        )


def _found(user: User) -> Iterator[walking.Found]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(user.clips or user.folder / "clips", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from walking.walk(folder, "clips")
        finally:
            os.close(folder)
    for path in user.legacy:
        with contextlib.suppress(FileNotFoundError):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield walking.Found(f"legacy/{path.name}", os.stat(path.name, dir_fd=folder, follow_symlinks=False), folder)
            finally:
                os.close(folder)


def _read(descriptor: int, length: int) -> bytes:
    try:
        return os.read(descriptor, length)
    except OSError as error:
        raise _UnreadableError(error.errno, error.strerror) from None


def _read_small(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = _read(descriptor, size - len(data))
        if not block:
            raise _ChangedError
        data = data + block if data else block
    return data


def _hash(descriptor: int, size: int) -> str:
    digest = hashlib.sha256()
    while size:
        block = _read(descriptor, min(_BLOCK, size))
        if not block:
            raise _ChangedError
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
