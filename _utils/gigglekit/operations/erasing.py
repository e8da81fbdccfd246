"""Erasing in the bucket: what a shred asks for there, and what of it had to wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gigglekit.backup import names, settings, signed
from gigglekit.backup.errors import BackupError, LockedError
from gigglekit.operations.droplet import Droplet
from gigglekit.vault import shred
from gigglekit.vault.errors import VaultError
from gigglekit.vault.receipt import Receipts
from gigglekit.vault.remote import PendingError, RemoteErased
from gigglekit.vault.share import Shares

if TYPE_CHECKING:
    from gigglekit.backup.manifest import Manifest
    from gigglekit.backup.repository import Repository

_LOCK_SECONDS = 60.0


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

        try:
            with self._open() as (repository, manifest):
                signer = repository.secrets.signer
                if signer is None:
                    raise PendingError("There is no key to sign the tombstone with. Look at salt-call giggles.verify_receipt.")
                done = erase_user(repository.bucket, manifest, vault_id, since, signer)
                dumps = any(True for _ in repository.bucket.list(names.DATABASE_KEYS))
        except LockedError:
            raise
        except BackupError as error:
            raise PendingError(f"The copies in the backup are not erased yet: {error}") from error
        until = ""
        if dumps:
            end = time.time() + self.droplet.settings().keep_dumps_days * 86400
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
        locked = done.locked_until.strftime("%Y-%m-%dT%H:%M:%SZ") if done.locked_until else ""
        return RemoteErased(done.objects, locked, until)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Repository, Manifest]]:
        if self.repository is not None and self.manifest is not None:
            yield self.repository, self.manifest
            return
        with self.droplet.locked(_LOCK_SECONDS), self.droplet.manifest() as manifest:
            yield self.droplet.repository(), manifest


def remote(droplet: Droplet) -> BucketCopies | None:
    """Return the copies in the bucket; None if there is no backup, or none was ever made.

    Raises:
        BackupError: nobody can tell.
    """
    from gigglekit.vault.keyring import SNAPSHOTS

    if settings.load(droplet.settings_path) is None or not droplet.keyring().exists():
        return None
    return BucketCopies(droplet) if droplet.keyring().secret(SNAPSHOTS) is not None else None


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
