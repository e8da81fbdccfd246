"""A small backup for tests: users with clips, a bucket, and what a droplet knows of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.clips import User
from gigglekit.backup.kit import Kit
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.placing import Restored
from gigglekit.backup.repository import Repository, Secrets
from gigglekit.backup.restore import restore_user
from gigglekit.backup.section import Section
from gigglekit.backup.settings import Keep, Settings
from gigglekit.backup.signed import Signer
from gigglekit.backup.storing import Synced
from gigglekit.backup.sync import Sync
from gigglekit.crypto import keys, sealing

from tests.unit.b2 import REGION, Storage

PACK_BYTES = 1 << 20


def settings(storage: Storage, **other: Any) -> Settings:
    """Settings for a test's bucket."""
    chosen: dict[str, Any] = {
        "endpoint": storage.endpoint, "region": REGION, "bucket": storage.bucket, "prefix": "", "key_id": storage.key_id,
        "application_key": storage.application_key, "lock_days": 0, "upload_kib_per_second": 0, "threads": 3,
        "keep": Keep(7, 4, 12), "keep_dumps_days": 30, "database": False, "pg_dump": "", "schemas": ("public",),
    }  # fmt: skip
    return Settings(**{**chosen, **other})


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@dataclass
class Droplet:
    """What a droplet has: users' vaults, keys, a manifest.

    Arguments:
        folder: for all of it.
        storage: the bucket.
        prefix: of names in the bucket.
    """

    folder: Path
    storage: Storage
    prefix: str = ""
    users: dict[str, User] = field(default_factory=dict)
    kit_key: bytes = field(default_factory=lambda: sealing.new_pair()[0])
    signer: Signer = field(default_factory=lambda: Signer(Ed25519PrivateKey.generate()))
    snapshot_key: bytes = field(default_factory=keys.new)
    names_key: bytes = field(default_factory=keys.new)
    erased: set[str] = field(default_factory=set)
    other: dict[str, Any] = field(default_factory=dict)
    pack_bytes: int = PACK_BYTES

    @property
    def kit(self) -> Kit:
        """Its recovery kit."""
        return Kit(
            self.storage.endpoint, REGION, self.storage.bucket, self.prefix, "2026-11-24T05:40:00Z", self.kit_key, self.signer.public
        )

    def bucket(self) -> Bucket:
        """Open the bucket."""
        return Bucket(settings(self.storage, prefix=self.prefix, **self.other))

    def repository(self) -> Repository:
        """Open the repository."""
        public = sealing.public_of(self.kit_key)
        return Repository(self.bucket, Secrets(self.snapshot_key, self.names_key, self.signer, self.signer.public, public))

    def add(self, *sizes: int, user_id: str | None = None) -> User:
        """Add a user with clips of these sizes in bytes."""
        user_id = user_id or str(uuid.uuid4())
        vault = keys.keyed_hash(self.names_key, user_id)
        user = User(vault, user_id, keys.new(), self.folder / "vaults" / vault)
        (user.folder / "clips").mkdir(parents=True)
        self.users[vault] = user
        for number, size in enumerate(sizes):
            self.write(user, f"2026_laughter_{number}.wav", os.urandom(size))
        return user

    def write(self, user: User, name: str, content: bytes) -> Path:
        """Write a clip."""
        path = user.folder / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    @contextlib.contextmanager
    def manifest(self) -> Iterator[Manifest]:
        """Open the manifest."""
        manifest = Manifest(self.folder / "manifest.sqlite")
        try:
            yield manifest
        finally:
            manifest.close()

    def sync(self, repository: Repository | None = None, **arguments: Any) -> Synced:
        """Sync all users."""
        run = arguments.pop("run", {})
        with self.manifest() as manifest:
            sync = Sync(repository or self.repository(), manifest, 3, erased=lambda: self.erased, pack_bytes=self.pack_bytes, **arguments)
            return sync.run([user for user in self.users.values() if user.vault_id not in self.erased], **run)

    def section(self, repository: Repository, name: SnapshotName, user: User) -> Section:
        """Read what a snapshot holds of a user."""
        opened = repository.open(name)
        (part,) = [part for part in opened.head.users if part.vault == user.vault_id]
        return repository.section(opened, part, user.root_key)

    def restore(self, user: User, target: Path, snapshot: str | None = None, **arguments: Any) -> Restored:
        """Restore a user into a folder."""
        repository = self.repository()
        section = self.section(repository, repository.choose(snapshot), user)
        target.mkdir(exist_ok=True)
        return restore_user(repository, section, user.root_key, target, None, **arguments)

    def objects(self, prefix: str = "") -> list[str]:
        """Return the names of what a plain listing shows."""
        return sorted(entry.name for entry in self.bucket().list(prefix))
