"""What the bucket has, as far as this droplet knows, and whether it still is as this droplet has left it.

The manifest tells what is there without a question. Before anything is built on that, the bucket is asked: another droplet with the same
keys may have saved or pruned there, an older state of it may have been put back, and objects may be lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gigglekit.backup import names, signed, waiting
from gigglekit.backup.clips import User
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.manifest import Manifest, Pack, State, name_of
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.repository import Repository, manifest_key
from gigglekit.backup.section import NotReadableError, Section
from gigglekit.backup.snapshot import Part
from gigglekit.crypto.keys import KeyedHash

T = TypeVar("T")

_QUESTIONS = 5
_TOLD = 5
"""So many objects are named in a message; verify names all."""
_KEYS = "keys/"
_ELSEWHERE = "elsewhere"
"""A fact of the manifest: vault ids of users of this droplet that the bucket knows to be erased."""
BEGUN_EMPTY = "begun empty"
"""A fact of the manifest: "yes" if no data lay in the bucket when it was begun, so that it knows all there is."""
WHOLE = "whole"
"""A fact of the manifest: "yes" if it knows every object there ever was for a user."""


@contextlib.contextmanager
def _asking() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """Ask several things at the same time: one round trip, and connections for what comes after it."""
    with ThreadPoolExecutor(_QUESTIONS, thread_name_prefix="ask") as pool:
        yield pool.submit


class OthersError(Exception):
    """The bucket is not as this droplet has left it; its text says how."""


class Knowledge:
    """What is known of the bucket during one run.

    Arguments:
        repository: the bucket.
        manifest: what is known to be there.
        users: whose clips this droplet has.
        erased: tells who was asked to be erased by now.
        elapsed: seconds since any moment, those in which the machine slept too.
    """

    def __init__(
        self,
        repository: Repository,
        manifest: Manifest,
        users: Sequence[User],
        erased: Callable[[], Iterable[str]],
        elapsed: Callable[[], float],
    ) -> None:
        self.repository, self.manifest = repository, manifest
        self._users, self._erased, self._elapsed = users, erased, elapsed
        self._vaults = frozenset(user.vault_id for user in users)
        self._problems: list[str] = []
        self._is_compared = False
        self._looked = 0.0

    @property
    def problems(self) -> list[str]:
        """What somebody should look at, one sentence each."""
        return [*dict.fromkeys(self._problems), *self._erased_elsewhere()]

    def compare(self) -> None:
        """See whether the newest snapshot is the one that this droplet made last, before anything is built on that.

        Raises:
            OthersError: it is not.
        """
        if self._is_compared:
            return
        self._is_compared = True
        with _asking() as ask:
            records, erased, snapshots = ask(self._records), ask(self._erased_there), ask(self.repository.snapshots)
            self._insist_on_what_waits(records.result())
            self._note_erased(erased.result())
            ours, found = self.manifest.get("snapshot") or "", [name.base for name in snapshots.result()]
        if ours == (found[-1] if found else ""):
            return
        if ours in found or not ours:
            raise OthersError(
                f"{names.SNAPSHOTS}{found[-1]} is in the bucket and was not made by this droplet: another droplet with the same keys saves "
                "there too, or this one's disk was put back to an earlier state. What the bucket has was read again, and nothing is lost. "
                "If there are two droplets, stop the backup of one: what one prunes, the other may just be about to use."
            )
        raise OthersError(
            f"{names.SNAPSHOTS}{ours}, which this droplet made last, is not in the bucket any more: somebody removed it, an older state of "
            "the bucket was put back, or another droplet with the same keys has pruned it. What the bucket has was read again, and what "
            "it lacks was stored again. If nobody of you did this, replace the application key."
        )

    def gone(self) -> set[str]:
        """Return who is not to be saved, as far as this droplet or the bucket knows."""
        return {*self._erased(), *(self.manifest.get(_ELSEWHERE) or "").split()}

    def _erased_there(self) -> Collection[str]:
        """Return who was erased elsewhere, as the bucket's ledger says; one that is no tombstone leaves nobody out."""
        return self.repository.erased(self._problems, self._vaults - set(self._erased()))

    def _note_erased(self, found: Collection[str]) -> None:
        """Know who was erased elsewhere, before anything of them is stored again."""
        with self.manifest.change():
            self.manifest.put(_ELSEWHERE, " ".join(sorted(found)) or None)

    def _erased_elsewhere(self) -> list[str]:
        return [
            f"Vault {vault} is on this droplet, and in the bucket stands that its user was erased: by another droplet with the same keys, "
            "or by this one before its disk was put back to an earlier state. So nothing of that user was saved. Erase the user here, too: "
            "salt-call giggles.shred user_id=… with the id whose vault this is (salt-call giggles.vaults); and if there are two droplets, "
            "stop the backup of one."
            for vault in sorted(self._vaults.intersection((self.manifest.get(_ELSEWHERE) or "").split()).difference(self._erased()))
        ]

    def _records(self) -> list[str]:
        """Return the names of what prunes have given up, and note when that was asked."""
        self._looked = self._elapsed()
        return waiting.record_names(self.repository)

    def _insist_on_what_waits(self, records: list[str]) -> None:
        """See that no prune of somebody else has given up what this run refers to.

        Raises:
            OthersError: one may have.
        """
        if not waiting.known(self.manifest).issuperset(records):
            raise OthersError(
                "The bucket was pruned, and not by this droplet: another droplet with the same keys works there too, or this one's disk "
                "was put back to an earlier state. What the bucket has was read again, and nothing is lost. If there are two droplets, "
                "stop the backup of one: each stores again what the other has moved or given up."
            )

    def insist_once_more(self) -> None:
        """See it again if the last look is so long ago that nobody may rely on it.

        Raises:
            OthersError: one may have.
        """
        if self._elapsed() - self._looked > waiting.KNOWN_SECONDS:
            self._insist_on_what_waits(self._records())

    def learn(self, *, anyway: bool) -> None:
        """Know what is in the bucket, by the manifest or, if that is new, by the newest snapshot.

        Arguments:
            anyway: go on although the keys in the bucket are of somebody else.
        """
        if self.manifest.get("learned") == "yes":
            return
        secrets = self.repository.secrets
        self._is_compared = True
        with _asking() as ask:
            signing = ask(lambda: list(self.repository.bucket.list(names.SYSTEM_KEYS + "signing")))
            snapshots, waits, erased, data = ask(self.repository.snapshots), ask(self._records), ask(self._erased_there), ask(self._lying)
            found = snapshots.result()
            records = waiting.read(self.repository, waits.result())
            for owner in signing.result()[:1]:
                if secrets.signer is not None and not anyway:
                    self._insist_on_ours(owner.name)
            self._note_erased(erased.result())
            elsewhere, sealed = self.manifest.get(_ELSEWHERE), self._still_sealed()
            # Of packs to which a snapshot refers, only a listing that was asked for after it can tell that they are lost.
            lying = self._lying() if found else data.result()
        with self.manifest.change():
            self.manifest.forget_everything()
            self.manifest.put(_ELSEWHERE, elsewhere)
            self.manifest.put(BEGUN_EMPTY, None if lying else "yes")
            for name, by in sealed.items():
                self.manifest.put(f"sealed:{name}", by)
            gone = self.gone()
            self._learn_newest(found, {user.vault_id: user.root_key for user in self._users if user.vault_id not in gone})
            self._lose(self._lost(lying), lying)
            waiting.note(self.manifest, (record.name for record in records), {pack for record in records for pack in record.packs})
            self.manifest.put("learned", "yes")

    def _learn_newest(self, found: Sequence[SnapshotName], roots: Mapping[str, bytes]) -> None:
        """Learn from the newest snapshot that can be read. What cannot be is stored again, under a snapshot that comes after all."""
        damaged = 0
        for name in reversed(found):
            try:
                opened = self.repository.open(name)
            except (DamagedError, MissingError) as error:
                self._problems.append(str(error))
                damaged += 1
                continue
            for part in opened.head.users:
                try:
                    if part.vault in roots:
                        self._learn_user(part.vault, roots[part.vault], self.repository.section(opened, part, roots[part.vault]))
                except (DamagedError, MissingError) as error:
                    self._problems.append(str(error))
                    self.manifest.put("unsaved", "yes")
            self.remember_parts(found[-1].base, opened.head.number + damaged, opened.head.users)
            break
        else:
            self.remember_parts(found[-1].base if found else "", damaged, ())
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
        under = KeyedHash(manifest_key(root_key))
        numbers = [self.manifest.add_pack(pack.id, vault, pack.size, pack.header) for pack in section.packs]
        for file in section.files:
            parts = [(numbers[part.pack], part.offset, part.length) for part in file.extents]
            content = self.manifest.add_content(vault, file.digest, file.size, parts)
            # Its inode and time of change are not known: size and time of modification have to do.
            self.manifest.put_file(vault, name_of(under, file.path), State(file.size, file.modified, 0, 0), content)

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

    # --- packs that the bucket has lost ----------------------------------------------------------------------------------------

    def _lying(self) -> dict[str, int]:
        return {entry.name.removeprefix(names.DATA): entry.size for entry in self.repository.bucket.list(names.DATA)}

    def _lost(self, lying: Mapping[str, int]) -> list[Pack]:
        """Return the packs that are known and not in the bucket as a whole."""
        erased = self.gone()
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

    def see(self, numbers: Mapping[str, int], *, tries: int) -> set[str]:
        """See that every pack that the next snapshot may refer to is in the bucket as a whole.

        Arguments:
            numbers: the packs that were stored a moment ago; no snapshot refers to them.
            tries: how often it was tried if nothing more is tried now, else 0.

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
        if tries:
            name = names.DATA + lost[0].id
            raise DamagedError(
                name,
                f"The bucket has confirmed {len(lost)} objects and does not have them as a whole: of {name} it has "
                f"{lying.get(lost[0].id, 0)} bytes, not {lost[0].size}, and that after {tries} attempts. What was in them is stored again "
                "by the next backup, and no snapshot refers to them. Either somebody else removes things from this bucket, or the storage "
                "cannot be relied on: look who else has a key for it, and at https://status.backblaze.com.",
            )
        return {pack.vault for pack in lost}

    # --- the newest snapshot ---------------------------------------------------------------------------------------------------

    def remember_parts(self, base: str, number: int, parts: Sequence[Part]) -> None:
        """Write down what the newest snapshot is and holds, by its head."""
        self.remember(base, number, [part.vault for part in parts], sum(part.files for part in parts), sum(part.size for part in parts))

    def remember(self, base: str, number: int, vaults: Sequence[str], files: int, size: int) -> None:
        """Write down what the newest snapshot is and holds."""
        self.manifest.put("snapshot", base)
        self.manifest.put("number", str(number))
        self.manifest.put("vaults", " ".join(sorted(vaults)))
        self.manifest.put("holds", f"{len(vaults)} {files} {size}")
