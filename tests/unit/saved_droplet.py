"""A whole droplet with a backup, for tests of the operations: an encrypted volume, a bucket, perhaps the app's database."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gigglekit.backup import names
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.manifest import Manifest
from gigglekit.operations import checking, erasing, kits, restoring, saving
from gigglekit.operations.droplet import Droplet as Operated
from gigglekit.vault import adopt, shred
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS
from gigglekit.vault.receipt import Receipts
from gigglekit.vault.rows import Database

from tests.unit import killing, vault_volume
from tests.unit.b2 import Storage
from tests.unit.backup_repository import settings


class Saved(vault_volume.Droplet):
    """A droplet as it is after it converged with a bucket.

    Arguments:
        bare: its vault.
        storage: the bucket.
        other: settings of the backup that differ from those of tests.
    """

    def __init__(self, bare: vault_volume.Droplet, storage: Storage, **other: Any) -> None:
        super().__init__(bare.folder, bare.disk)
        # The share of a key has to lie in memory that is not swapped, and nowhere in a test.
        self.places = replace(self.places, memory=self.folder / "memory")
        self.keyring, self.ledger, self.receipts = Keyring(self.places), Ledger(self.places), Receipts(self.places)
        self.storage = storage
        self.operated = Operated(
            self.places, self.folder / "backup.json", self.folder / "backup", self.folder / "records", self.folder / ".env",
            self.folder / "backup.lock",
        )  # fmt: skip
        self.configure(**other)

    # --- settings -----------------------------------------------------------------------------------------------------

    def configure(self, **other: Any) -> None:
        """Write the settings of the backup."""
        self.operated.settings_path.write_text(json.dumps(asdict(settings(self.storage, **other))))
        self.operated.settings_path.chmod(0o600)

    def use_database(self, url: str) -> None:
        """Let the app have a database, and have it saved."""
        quoted = url.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        self.operated.environment.write_text(f'DATABASE_URL="{quoted}"\n')
        self.configure(database=True, schemas=["public", "auth"])

    def share_key(self) -> None:
        """Have the key-encryption key in two shares, as a converged droplet with a bucket has."""
        from gigglekit.backup.shares import open_shares

        shares = open_shares(self.operated.settings_path)
        assert shares is not None
        self.keyring.enable(shares)

    # --- operations ---------------------------------------------------------------------------------------------------

    def kit(self, **arguments: Any) -> str:
        return kits.recovery_kit(self.operated, **arguments)

    def sync(self, **arguments: Any) -> dict[str, Any]:
        return saving.sync(self.operated, **arguments)

    def restore(self, **arguments: Any) -> dict[str, Any]:
        return restoring.restore(self.operated, **arguments)

    def verify(self, fraction: float = 1.0) -> dict[str, Any]:
        return checking.verify(self.operated, fraction=fraction)

    def erase(self, user: object, database: Database | None = None) -> shred.Outcome:
        """Erase a user here and in the bucket."""
        return shred.shred(self.places, user, database, lambda: None, erasing.remote(self.operated))

    # --- what there is --------------------------------------------------------------------------------------------------

    def bucket(self) -> Bucket:
        return self.operated.bucket()

    def objects(self, prefix: str = "") -> list[str]:
        return sorted(entry.name for entry in self.bucket().list(prefix))

    def versions(self, prefix: str = "") -> list[str]:
        return sorted(version.name for version in self.bucket().versions(prefix))

    def copy_of_bucket(self) -> dict[str, bytes]:
        """Return every object, as somebody has it who copies the bucket."""
        bucket = self.bucket()
        return {entry.name: bucket.get(entry.name) for entry in list(bucket.list())}

    def clips(self, user: str) -> dict[str, str]:
        """Return the hash of each of a user's clips, read where the app looks."""
        folder = self.path("clips", user)
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def modes(self, user: str) -> dict[str, tuple[int, int, str]]:
        """Return owner, group and mode of a user's vault and all in it."""
        vault = self.disk.place / "vaults" / self.vault_id(user)
        found = {}
        for path in (vault, *vault.rglob("*")):
            status = path.lstat()
            found[str(path.relative_to(vault))] = (status.st_uid, status.st_gid, stat.filemode(status.st_mode))
        return found

    def links(self, user: str) -> dict[str, str]:
        return {kind: os.readlink(self.disk.place / kind / user) for kind in KINDS}

    def new_users(self, count: int = 1, *, clips: int = 2, size: int = 3000) -> list[str]:
        """Return new users with clips, who came by the app's way."""
        users = []
        for _ in range(count):
            user = str(uuid.uuid4())
            for kind in KINDS:
                os.makedirs(self.path(kind, user))
            for number in range(clips):
                self.path("clips", user, f"2026_{number}_laughter.wav").write_bytes(os.urandom(size + number))
            users.append(user)
        self.adopt_all()
        return users

    def adopt_all(self) -> None:
        with self.volume() as opened:
            assert adopt.adopt_all(opened, self.keyring, self.ledger, seconds=3).problems == []

    def records(self, kind: str) -> list[dict[str, Any]]:
        path = self.operated.records / f"{kind}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def subject_receipts(self, user: str) -> list[dict[str, Any]]:
        vault = self.vault_id(user)
        return [content for number in self.receipts.numbers() if (content := self.receipts.read(number))["subject"] == vault]

    def sealed(self, user: str) -> str:
        return names.USER_KEYS + self.vault_id(user)


@contextlib.contextmanager
def saved(storage: Storage, *, size: str = "16M", **other: Any) -> Iterator[Saved]:
    """A droplet with an empty encrypted vault and a bucket."""
    with vault_volume.droplet(size=size) as bare, unmounted(bare.folder / "memory"):
        yield Saved(bare, storage, **other)


@contextlib.contextmanager
def saved_plain(storage: Storage, **other: Any) -> Iterator[Saved]:
    """A droplet whose kernel cannot encrypt folders."""
    with vault_volume.droplet(features="^encrypt") as bare, unmounted(bare.folder / "memory"):
        made = Saved(bare, storage, **other)
        made.places.configure("plain")
        made.keyring.create()
        made.receipts.prepare()
        for kind in ("clips", "audio", "temp"):
            (made.disk.place / kind).mkdir()
        yield made


def killed_before(call: int, act: Callable[[], object]) -> bool:
    """Do as `killing` does, with the calls counted that change something in the bucket or in the manifest."""
    return killing.killed_before(call, lambda: _acting(act))


def calls_of(act: Callable[[], object]) -> int:
    """Do as `killing` does, with those calls counted too."""
    return killing.calls_of(lambda: _acting(act))


def _acting(act: Callable[[], object]) -> None:
    """Have more calls counted, and files that are only read left alone."""
    armed, tick = os.fdopen, os.mkdir

    def fdopen(descriptor: int, mode: str = "r", *others: Any, **more: Any) -> Any:
        return armed(descriptor, mode) if set(mode) & set("wax") else open(descriptor, mode, *others, **more)

    os.fdopen = fdopen  # type: ignore[assignment]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            with contextlib.suppress(FileNotFoundError):
                # Counted, and nothing else: there is no such place.
                tick("/proc/none/none")
            return function(*arguments, **options)

        return wrapped

    for name in ("put", "put_stream", "erase", "erase_many"):
        setattr(Bucket, name, counted(getattr(Bucket, name)))
    Manifest.change = counted(Manifest.change)  # type: ignore[method-assign]
    act()


@contextlib.contextmanager
def unmounted(memory: Path) -> Iterator[None]:
    """Leave no mounted memory behind."""
    try:
        yield
    finally:
        while memory.is_mount():
            subprocess.run(["umount", memory], check=True)
