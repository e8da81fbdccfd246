"""Erasing in the bucket: what a shred asks for there, and what of it had to wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gigglekit.backup import names, settings, signed
from gigglekit.backup.errors import BackupError, LockedError
from gigglekit.backup.objects import Erased
from gigglekit.backup.sending import Patience
from gigglekit.files.replacing import replace
from gigglekit.operations.droplet import Droplet
from gigglekit.vault import shred
from gigglekit.vault.errors import VaultError
from gigglekit.vault.receipt import Receipts
from gigglekit.vault.remote import PendingError, RemoteErased
from gigglekit.vault.share import Shares, droplet_of

if TYPE_CHECKING:
    from gigglekit.backup.manifest import Manifest
    from gigglekit.backup.repository import Repository

_LOCK_SECONDS = 60.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PREDECESSORS = "predecessors"
_DAYS_BETWEEN_PRUNES = 15
"""At most, as `saving.is_prune_due` has it: a dump ends with the first prune after its days are over."""


@dataclass(frozen=True)
class BucketCopies:
    """The backup of this droplet, for an erasure.

    Arguments:
        droplet: this one.
        repository: the open repository, if the caller holds the lock of the backup already.
        manifest: the open manifest, likewise.
    """

    droplet: Droplet
    repository: Repository | None = None
    manifest: Manifest | None = None

    @property
    def shares(self) -> Shares | None:
        """The shares in the bucket."""
        from gigglekit.backup.shares import open_shares

        return open_shares(self.droplet.settings_path)

    def erase(self, vault_id: str, since: str) -> RemoteErased:
        """Erase a user in the bucket; see `gigglekit.vault.remote.Remote`."""
        from gigglekit.backup.erase import erase_user
        from gigglekit.backup.learning import WHOLE

        try:
            with self._open() as (repository, manifest):
                signer = repository.secrets.signer
                if signer is None:
                    raise PendingError("There is no key to sign the tombstone with. Look at salt-call giggles.verify_receipt.")
                done = erase_user(repository.bucket, manifest, vault_id, since, signer)
                more = Erased(0, None) if manifest.get(WHOLE) == "yes" else self._erase_unknown(repository, manifest)
                dumps = any(True for _ in repository.bucket.list(names.DATABASE_KEYS))
                _end_shares(self.droplet, repository)
        except BackupError as error:
            # One that is locked there, too: every backup tries again, and the lock ends.
            raise PendingError(f"The copies in the backup are not erased yet: {error}") from error
        until = ""
        if dumps:
            end = time.time() + (self.droplet.settings().keep_dumps_days + _DAYS_BETWEEN_PRUNES) * 86400
            until = time.strftime(_TIME, time.gmtime(end))
        locks = [lock for lock in (done.locked_until, more.locked_until) if lock is not None]
        return RemoteErased(done.objects + more.versions, max(locks).strftime(_TIME) if locks else "", until)

    def tell(self) -> None:
        """Have the newest receipts in the bucket; what cannot be told now is told with the next backup."""
        with contextlib.suppress(BackupError), self._open() as (repository, manifest):
            store_ledger(self.droplet, repository, manifest)

    def _erase_unknown(self, repository: Repository, manifest: Manifest) -> Erased:
        """Erase data of erased users that nothing names: a manifest that was begun anew does not know everything that a user had.

        The user's key is gone by now, so what was the user's is told by opening with nobody else's. What others have, and no snapshot
        refers to (any more, or yet), is for a prune.
        """
        from gigglekit.backup import ownership

        needed = manifest.needed_packs() | {name.removeprefix(names.DATA) for name in manifest.underway()}
        roots, erased = self.droplet.known_roots(), set(repository.erased())
        for name in repository.snapshots():
            opened = repository.open(name)
            for part in opened.head.users:
                if part.vault in erased:
                    continue
                if part.vault not in roots:
                    # Whose it is cannot be told from here; without a key it is unreadable, and pruning sees to it.
                    return Erased(0, None)
                needed |= {pack.id for pack in repository.section(opened, part, roots[part.vault]).packs}
        unnamed = {entry.name.removeprefix(names.DATA) for entry in repository.bucket.list(names.DATA)} - needed
        doomed = sorted(names.DATA + pack for pack in ownership.of_the_erased(repository, unnamed, roots, erased)) if unnamed else []
        done = repository.bucket.erase_many(doomed) if doomed else None
        return Erased(len(doomed), done.locked_until if done else None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Repository, Manifest]]:
        if self.repository is not None and self.manifest is not None:
            yield self.repository, self.manifest
            return
        with self.droplet.locked(_LOCK_SECONDS), self.droplet.manifest() as manifest:
            # Somebody waits, and the next backup completes what the bucket could not be told.
            yield self.droplet.repository(holding=True, patience=Patience(tries=5, seconds=20.0, longest=5.0)), manifest


def remote(droplet: Droplet) -> BucketCopies | None:
    """Return the copies in the bucket; None if there is no backup, or none was ever made.

    Raises:
        BackupError: nobody can tell.
    """
    from gigglekit.vault.keyring import SNAPSHOTS

    if settings.load(droplet.settings_path) is None or not droplet.keyring().exists():
        return None
    with droplet.places.locked():
        return BucketCopies(droplet) if droplet.keyring().secret(SNAPSHOTS) is not None else None


def end_predecessor(droplet: Droplet, repository: Repository, erased: Iterable[str]) -> None:
    """End in the bucket what the droplet whose place this one takes has left, and remember its share of a key.

    Its disk may still be somewhere, and with its share it opens the keys of everybody it had. So that share goes with the next
    erasure; not before, since until then that droplet might be needed again.

    Arguments:
        droplet: this one; the lock of the backup is held.
        repository: open.
        erased: vault ids of those who were erased.
    """
    bucket = repository.bucket
    sealed = {entry.name for entry in bucket.list(names.USER_KEYS)}
    for vault_id in erased:
        # An erasure of which the bucket had heard, and that was not ended there.
        if names.USER_KEYS + vault_id in sealed:
            bucket.erase(names.USER_KEYS + vault_id)
    share = droplet.keyring().share()
    path = droplet.places.keys / _PREDECESSORS
    known = set(path.read_text().split()) if path.exists() else set()
    found = {droplet_of(entry.name.removeprefix(names.SHARES)) or "" for entry in bucket.list(names.SHARES)}
    wanted = (known | found) - {"", share.droplet if share else ""}
    if wanted != known:
        replace(path, "".join(f"{one}\n" for one in sorted(wanted)).encode(), 0o600)


def _end_shares(droplet: Droplet, repository: Repository) -> None:
    """Destroy the shares of droplets whose place this one has taken: with an old disk they open keys of who is erased now."""
    path = droplet.places.keys / _PREDECESSORS
    if not path.exists():
        return
    predecessors = set(path.read_text().split())
    doomed = {version.name for version in repository.bucket.versions(names.SHARES)}
    doomed = {name for name in doomed if droplet_of(name.removeprefix(names.SHARES)) in predecessors}
    locked = repository.bucket.erase_many(doomed).locked_until if doomed else None
    if locked is not None:
        raise LockedError(
            locked,
            f"A share of the key of a droplet that this one has replaced is locked in the bucket until {locked:%Y-%m-%d %H:%M} UTC, since "
            "the bucket locks everything. Take its default retention away; this is tried again with every backup.",
        )


def finish_pending(droplet: Droplet, repository: Repository, manifest: Manifest, problems: list[str]) -> int:
    """Finish erasures of which only the copies in the bucket are left; return how many are complete now.

    Arguments:
        droplet: this one; the lock of the backup is held.
        repository, manifest: open.
        problems: gets a sentence for each that has to wait on.
    """
    finished = 0
    for vault_id in droplet.ledger().unfinished():
        try:
            outcome = shred.finish_remote(droplet.places, vault_id, BucketCopies(droplet, repository, manifest))
        except (VaultError, BackupError) as error:
            problems.append(f"An erasure is not complete in the bucket: {error}")
            continue
        if outcome is not None and outcome.pending:
            problems.append(f"An erasure is not complete in the bucket: {outcome.pending}")
        journal = droplet.ledger().journal(vault_id) if outcome is None else None
        if journal is not None:
            problems.append(
                f"An erasure was begun at {journal.get('started')} and is not complete on this droplet, so the user's copies in the backup "
                "are not erased either. Ask for it again, which goes on where it stopped: salt-call giggles.shred user_id=…"
            )
        finished += outcome is not None and not outcome.pending
    return finished


def store_ledger(droplet: Droplet, repository: Repository, manifest: Manifest) -> None:
    """Have every tombstone and every receipt in the bucket, so that a new droplet knows of them."""
    signer, ledger, receipts = repository.secrets.signer, droplet.ledger(), Receipts(droplet.places)
    if signer is None:
        return
    known = manifest.all("ledger:")
    wanted: dict[str, bytes] = {}
    for vault_id in ledger.tombstones():
        if names.ERASED + vault_id not in known:
            name, data = signed.tombstone(vault_id, str((ledger.tombstone(vault_id) or {}).get("since", "")), signer)
            wanted[name] = data
    for number in receipts.numbers():
        name = f"{names.RECEIPTS}{number:06d}"
        if name not in known:
            content, signature = receipts.raw(number)
            wanted[name] = signed.sign(signed.LEDGER, name, signature + content, signer)
    for name, data in wanted.items():
        repository.bucket.put(name, data)
        with manifest.change():
            manifest.put(f"ledger:{name}", "stored")
