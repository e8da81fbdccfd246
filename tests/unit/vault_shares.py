"""A bucket for shares, in a folder, that can be made to fail; and a ring of keys beside it."""

from __future__ import annotations

import os
from pathlib import Path

from gigglekit.files import overwriting
from gigglekit.files.replacing import replace
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.memory import Memory, file_system_of
from gigglekit.vault.places import Places
from gigglekit.vault.share import ShareGoneError, Shares, ShareUnreachableError


class FolderShares:
    """Shares as files of a folder.

    Arguments:
        folder: of the bucket.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.place = f"https://s3.example.test/{folder.name}/"
        self.is_reachable = True
        self.asked: list[str] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if not self.is_reachable:
            raise ShareUnreachableError(self.place, "no answer")

    def fetch(self, share_id: str) -> bytes:
        self._ask("fetch")
        try:
            return (self.folder / share_id).read_bytes()
        except FileNotFoundError as error:
            raise ShareGoneError(self.place) from error

    def store(self, share_id: str, secret: bytes) -> None:
        self._ask("store")
        replace(self.folder / share_id, secret)

    def destroy(self, share_id: str) -> None:
        self._ask("destroy")
        if (self.folder / share_id).exists():
            overwriting.erase(self.folder / share_id)

    def list(self) -> list[str]:
        self._ask("list")
        return [path.name for path in sorted(self.folder.iterdir()) if not path.name.startswith(".")]


class Machine:
    """A droplet's keys, its memory, and its bucket. The memory is an ordinary folder, unless a test mounts one."""

    def __init__(self, folder: Path, bucket: FolderShares | None = None, *, memory: Memory | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.bucket = folder, bucket or FolderShares(folder / "bucket")
        self.memory_folder = folder / "memory"
        self.memory = memory or plain_memory(self.memory_folder)
        self.places = Places(keys=folder / "keys", memory=self.memory_folder)
        self.keyring = Keyring(self.places, self.memory)
        self.expected: dict[str, bytes] = {}

    @property
    def shares(self) -> Shares:
        return self.bucket

    def fill(self, *vault_ids: str) -> Machine:
        self.keyring.create()
        self.expected |= {vault_id: self.keyring.make_root_key(vault_id) for vault_id in vault_ids}
        return self

    @property
    def in_force(self) -> Path:
        return (self.places.keys / "ring").resolve()

    def share_id(self) -> str:
        share = self.keyring.share()
        assert share is not None
        return share.id

    def restart(self) -> None:
        """Forget what a machine without power forgets."""
        self.memory.keep_only()

    def opens(self) -> dict[str, bytes | None]:
        return {vault_id: self.keyring.root_key(vault_id) for vault_id in self.keyring.vaults()}

    def stolen(self) -> bytes:
        """Return all that lies on the disk."""
        return b"".join(path.read_bytes() for path in sorted(self.places.keys.rglob("*")) if path.is_file())


def plain_memory(folder: Path) -> Memory:
    """Return a memory in an ordinary folder, for tests of what lies in it and not of where that is."""
    above = os.open(folder.parent, os.O_RDONLY)
    try:
        kind = file_system_of(above)
    finally:
        os.close(above)
    return Memory(folder, mount=lambda path: path.mkdir(mode=0o700, exist_ok=True), kind=kind)
