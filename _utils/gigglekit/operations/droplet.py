"""What the backup of this droplet works with: settings, keys, users, and the lock around all of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gigglekit.backup import checked, names, settings
from gigglekit.backup.errors import BackupError, BusyError, RefusedError
from gigglekit.backup.settings import Settings
from gigglekit.crypto import keys
from gigglekit.files.locking import only_one, with_others
from gigglekit.files.replacing import replace
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import DUMPS, SNAPSHOTS, Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS, VAULTS, Places, is_user_id
from gigglekit.vault.receipt import Receipts

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket
    from gigglekit.backup.clips import User
    from gigglekit.backup.manifest import Manifest
    from gigglekit.backup.repository import Repository
    from gigglekit.backup.sending import Patience
    from gigglekit.vault.rows import Database

_KIT = "kit.json"


_PRUNE_SECONDS = 600.0


@dataclass(frozen=True)
class Droplet:
    """One droplet, as the backup sees it.

    Arguments:
        places: of the vault.
        settings_path: where the backup's settings lie.
        folder: what it keeps: the manifest.
        records: where runs are recorded.
        environment: the app's `.env`, which has the database's address.
        lock: who changes anything in bucket or manifest holds it.
    """

    places: Places = field(default_factory=Places)
    settings_path: Path = settings.PATH
    folder: Path = Path("/var/lib/giggles/backup")
    records: Path = Path("/var/lib/giggles/records")
    environment: Path = Path("/opt/giggles/.env")
    lock: Path = Path("/run/giggles/backup.lock")

    # --- what there is ---------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            RefusedError: this droplet has no backup.
        """
        found = settings.load(self.settings_path)
        if found is None:
            raise RefusedError(
                "No bucket is configured, so clips and database are in no backup, and there is nothing to restore from here. "
                "docs/BACKUP_AND_RESTORE.md says how to make a bucket; then choose it in the pillar (giggles:backup) and apply it: "
                "salt-call state.apply"
            )
        return found

    def keyring(self) -> Keyring:
        """Return the key ring."""
        return Keyring(self.places)

    def ledger(self) -> Ledger:
        """Return the tombstones and journals."""
        return Ledger(self.places)

    def database(self) -> Database | None:
        """Return the app's database, None if none is configured. Its address holds a password and goes nowhere else.

        Raises:
            VaultError: nobody can tell.
        """
        from gigglekit.release.dotenv import read_back
        from gigglekit.vault.rows import Database

        try:
            url = read_back(self.environment.read_text()).get("DATABASE_URL")
        except FileNotFoundError:
            url = None
        except (OSError, UnicodeDecodeError) as error:
            raise VaultError(
                f"{self.environment} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'}), so nobody knows where the "
                "app's database is. salt-call state.apply app writes it anew; if it stays so, look at dmesg."
            ) from None
        return Database(url) if url else None

    @contextlib.contextmanager
    def locked(self, seconds: float = 0) -> Iterator[None]:
        """Be the only one who changes the bucket or the manifest during the block.

        Arguments:
            seconds: how long to wait for others.

        Raises:
            BusyError: somebody else was at work for all that time.
        """
        self.lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with only_one(
            self.lock,
            seconds=seconds,
            busy=lambda: BusyError(
                f"A backup, a prune or an erasure is at work on the bucket already (fuser -v {self.lock} names it), so nothing was done. "
                "Wait for it to end, then ask again."
            ),
        ):
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read from the bucket during the block, with others if need be: no prune of this droplet removes a snapshot meanwhile.

        Raises:
            BusyError: a prune that removes some was at work for all the time that was waited.
        """
        if not os.path.exists(self.settings_path):
            # Nothing prunes here, and whoever restores with a kit alone may not be root.
            yield
            return
        self._readers.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with with_others(
            self._readers,
            seconds=_PRUNE_SECONDS,
            busy=lambda: BusyError(
                f"A prune is removing snapshots from the bucket (fuser -v {self._readers} names it), and did not come to its end in "
                f"{_PRUNE_SECONDS / 60:.0f} minutes. Nothing was restored. Wait for it, then ask again."
            ),
        ):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Tell whether nobody on this droplet is restoring; nobody begins to during the block then."""
        self._readers.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(only_one(self._readers, seconds=0, busy=BlockingIOError))
                is_ours = True
            except BlockingIOError:
                is_ours = False
            yield is_ours

    @property
    def _readers(self) -> Path:
        return self.lock.with_name("backup-readers.lock")

    @contextlib.contextmanager
    def manifest(self) -> Iterator[Manifest]:
        """Open the manifest; one that is damaged, or of another bucket, is begun anew: all of it can be read from the bucket."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "manifest.sqlite"
        try:
            opened = self._open_manifest(path)
        except sqlite3.OperationalError as error:
            raise _not_written(path, error) from None
        try:
            if opened.get("bucket") != self._bucket_id():
                with opened.change():
                    opened.forget_everything()
                    opened.put("bucket", self._bucket_id())
            yield opened
        except sqlite3.OperationalError as error:
            raise _not_written(path, error) from None
        except sqlite3.DatabaseError as error:
            self._throw_away()
            raise BackupError(
                f"{path}, which says what is in the bucket, turned out to be damaged ({error}), so it was thrown away, and the backup "
                "stopped. All of it can be read from the bucket again; nothing is lost. Ask again: salt-call giggles.sync. If it happens "
                "twice, look at the disk: dmesg"
            ) from None
        finally:
            opened.close()

    def _open_manifest(self, path: Path) -> Manifest:
        from gigglekit.backup.manifest import Manifest

        try:
            return Manifest(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            self._throw_away()
            return Manifest(path)

    def _throw_away(self) -> None:
        for left in self.folder.glob("manifest.sqlite*"):
            left.unlink()

    def _bucket_id(self) -> str:
        chosen = self.settings()
        return hashlib.sha256(json.dumps([chosen.endpoint, chosen.bucket, chosen.prefix]).encode()).hexdigest()

    def bucket(self) -> Bucket:
        """Open the bucket."""
        return self._bucket(self.settings(), None)

    def _bucket(self, chosen: Settings, patience: Patience | None) -> Bucket:
        from gigglekit.backup.bucket import Bucket

        found = checked.last(checked.UNCOMPARED, self.settings_path, notes=self.folder / checked.NOTES.name)
        return Bucket(chosen, patience=patience, compares=found.time is None)

    # --- keys ------------------------------------------------------------------------------------------------------------

    def kit_public(self) -> bytes | None:
        """Return the public half of the recovery kit's key, None if there is no kit yet."""
        try:
            public = bytes.fromhex(json.loads((self.places.keys / _KIT).read_bytes())["public"])
            if len(public) != keys.KEY_BYTES:
                raise ValueError("no key")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise BackupError(
                f"{self.places.keys / _KIT}, which says which recovery kit keys are sealed for, is damaged. Make a new kit, which replaces "
                "the one you have: salt-call giggles.recovery_kit rotate=True"
            ) from error
        return public

    def has_kit(self) -> bool:
        """Tell whether there is a kit, even if what this droplet knows of it is damaged."""
        return (self.places.keys / _KIT).exists()

    def keep_kit(self, public: bytes, created: str) -> None:
        """Remember which recovery kit is in force."""
        replace(self.places.keys / _KIT, json.dumps({"public": public.hex(), "created": created}).encode() + b"\n", 0o600)

    def repository(self, *, make: bool = False, holding: bool = False, patience: Patience | None = None) -> Repository:
        """Open the repository, with this droplet's keys.

        Arguments:
            make: whether a snapshot key is made if there is none; the caller sees to a kit then.
            holding: whether the caller holds the lock of the vault. A ring of keys may be replaced while it is read otherwise.
            patience: how long to go on asking a bucket that does not answer; minutes if None.

        Raises:
            RefusedError: there is no kit yet.
        """
        with contextlib.nullcontext() if holding else self.places.locked():
            return self._repository(make, patience)

    def _repository(self, make: bool, patience: Patience | None) -> Repository:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from gigglekit.backup.repository import Repository, Secrets
        from gigglekit.backup.signed import Signer

        chosen, keyring = self.settings(), self.keyring()
        snapshots, public = keyring.secret(SNAPSHOTS), None if make else self.kit_public()
        if snapshots is None and make:
            keyring.keep_secret(SNAPSHOTS, keys.new())
            snapshots = keyring.secret(SNAPSHOTS)
        if snapshots is None or (public is None and not make):
            raise RefusedError(
                "There is no recovery kit yet, and without one nobody could ever restore this backup, so nothing was saved. Make it, and "
                "keep what it prints in a password manager: salt-call giggles.recovery_kit. From then on the backup runs by itself."
            )
        if keyring.secret(DUMPS) is None and make:
            keyring.keep_secret(DUMPS, keys.new())
        signer = Signer(Ed25519PrivateKey.from_private_bytes(Receipts(self.places).signing_key()))

        return Repository(lambda: self._bucket(chosen, patience), Secrets(snapshots, keyring.names_key(), signer, signer.public, public))

    def dump_key(self, dump_id: str) -> bytes | None:
        """Return the key of a dump that this droplet made since the last erasure; another one opens nothing."""
        with self.places.locked():
            secret = self.keyring().secret(DUMPS)
        return None if secret is None else keys.derive(secret, names.dump_label(dump_id))

    def roots(self) -> dict[str, bytes]:
        """Return the root keys of users who were not erased, by vault id."""
        with self.places.locked():
            return self.known_roots()

    def known_roots(self) -> dict[str, bytes]:
        """Do the same for somebody who holds the lock of the vault."""
        keyring, erased = self.keyring(), set(self.ledger().tombstones())
        found = {vault: keyring.root_key(vault) for vault in keyring.vaults() if vault not in erased}
        return {vault: root for vault, root in found.items() if root is not None}

    # --- users ------------------------------------------------------------------------------------------------------------

    def users(self, problems: list[str], notes: list[str]) -> list[User]:
        """Return everybody whose clips are to be saved.

        Arguments:
            problems: gets a sentence for each thing that is not saved and should be.
            notes: gets one for what is left out rightly, and that somebody may want to know.

        Raises:
            VaultError: the volume is not mounted, or somebody's vault is locked: an empty backup would be made of it.
        """
        legacy = self._legacy()
        # Nobody else waits for the database.
        owners = self._owners(legacy, problems) if legacy else None
        with self.places.locked():
            ids = self._ids()
            users = self._encrypted_users(ids) if self.places.is_encrypted() else self._plain_users(ids)
            if owners is not None:
                self._give_legacy(users, legacy, owners, notes)
        return list(users.values())

    def _ids(self) -> dict[str, str]:
        """Return the users that the app has folders for: the user's id by vault id."""
        keyring = self.keyring()
        found = {}
        for kind in KINDS:
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.places.uploads / kind):
                    if is_user_id(name):
                        found[keyring.vault_id(name)] = name
        return found

    def _encrypted_users(self, ids: Mapping[str, str]) -> dict[str, User]:
        from gigglekit.backup.clips import User
        from gigglekit.vault import fscrypt
        from gigglekit.vault.keyring import fscrypt_key
        from gigglekit.vault.volume import mounted

        roots = self.known_roots()
        with mounted(self.places) as volume:
            # Locked, names look like others, and nobody would know whose vault is whose.
            volume.insist_on_keys()
            there = set(volume.vault_ids())
            for vault, root in roots.items():
                locked = (
                    vault in there and fscrypt.status(volume.root, fscrypt.identifier_for(fscrypt_key(root))) is not fscrypt.Status.PRESENT
                )
                if locked:
                    raise VaultError(
                        f"Vault {vault} is locked, so its clips cannot be read, and a backup without them would look like one in which "
                        "they were deleted. Nothing was saved. Unlock it: systemctl restart giggles-vault-unlock; then salt-call "
                        "giggles.sync"
                    )
            keyless = there - roots.keys() - set(self.ledger().tombstones())
            if keyless:
                raise VaultError(
                    f"There is no key for {len(keyless)} vaults ({sorted(keyless)[0]}), so their clips cannot be read. Nothing was saved. "
                    "Restore their keys with the recovery kit: docs/BACKUP_AND_RESTORE.md"
                )
        return {vault: User(vault, ids.get(vault, ""), root, self.places.uploads / VAULTS / vault) for vault, root in roots.items()}

    def _plain_users(self, ids: Mapping[str, str]) -> dict[str, User]:
        from gigglekit.backup.clips import User

        erased, keyring = set(self.ledger().tombstones()), self.keyring()
        return {
            vault: User(
                vault, user, keyring.make_root_key(vault), self.places.uploads / VAULTS / vault, clips=self.places.uploads / "clips" / user
            )
            for vault, user in ids.items()
            if vault not in erased
        }

    def _legacy(self) -> list[str]:
        """Return the names of files that lie directly below `clips/`."""
        try:
            with os.scandir(self.places.uploads / "clips") as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def _owners(self, legacy: Sequence[str], problems: list[str]) -> dict[str, str] | None:
        database = self.database()
        try:
            return database.owners_of_clips() if database else {}
        except VaultError as error:
            problems.append(
                f"{len(legacy)} clips lie directly in {self.places.uploads / 'clips'}, and whose they are cannot be told, so they were not "
                f"saved: {error}"
            )
            return None

    def _give_legacy(self, users: dict[str, User], legacy: Sequence[str], owners: Mapping[str, str], notes: list[str]) -> None:
        """Give clips that lie directly below `clips/` to the users whose rows name them."""
        from dataclasses import replace as changed

        from gigglekit.backup.clips import User

        clips = self.places.uploads / "clips"
        keyring, erased = self.keyring(), set(self.ledger().tombstones())
        unknown = 0
        for name in legacy:
            owner = owners.get(f"{clips}/{name}", "")
            vault = keyring.vault_id(owner) if is_user_id(owner) else ""
            if not vault or vault in erased:
                unknown += not vault
                continue
            if vault not in users:
                users[vault] = User(vault, owner, keyring.make_root_key(vault), self.places.uploads / VAULTS / vault)
            users[vault] = changed(users[vault], legacy=(*users[vault].legacy, clips / name))
        if unknown:
            notes.append(
                f"{unknown} clips lie directly in {clips} and are in no row of the database, so they are nobody's and were not saved. The "
                "weekly sweep erases them when they are old enough; salt-call giggles.sweep does it now."
            )


def _not_written(path: Path, error: sqlite3.Error) -> BackupError:
    return BackupError(
        f"{path} cannot be written ({error}), so the backup stopped; the bucket is as consistent as before. Mostly the disk is full: look "
        "at df -h, free some, then ask again: salt-call giggles.sync"
    )
