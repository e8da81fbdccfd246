"""The keys on this droplet: root keys of users and of the lobby, wrapped by the key-encryption key.

All of them lie in one folder, the ring: `ring` is a link to `ring.NNNNNN`, and a file in a ring is made once and never
changed. To replace the key-encryption key, a new ring is built beside the old one with every key wrapped anew, the link
is pointed at it in one step, and the old ring is overwritten and removed. So at any moment, power cuts included, there is
one whole ring in force, and whatever else lies there is a leftover that goes with the next touch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gigglekit.crypto import keys
from gigglekit.files import links, overwriting
from gigglekit.files.replacing import replace
from gigglekit.vault import fscrypt
from gigglekit.vault.errors import VaultError
from gigglekit.vault.places import Places

FSCRYPT_LABEL = "giggles-salt/v1/fscrypt"

_RING = re.compile(r"ring\.(\d{6,})")
_LINK = "ring"
_KEK = "key-encryption-key"
_NAMES = "names.key"
_SUFFIX = ".key"


def fscrypt_key(root: bytes) -> bytes:
    """Return the key that the kernel gets, derived from a root key."""
    return keys.derive(root, FSCRYPT_LABEL, fscrypt.KEY_BYTES)


class Keyring:
    """The keys of a droplet. Whoever changes anything holds the lock of `Places`.

    Arguments:
        places: where they lie.
    """

    def __init__(self, places: Places) -> None:
        self._folder = places.keys

    # --- the ring ---------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Tell whether there are keys at all."""
        return self._link.is_symlink()

    def create(self) -> bool:
        """Make an empty ring if there is none; return whether it was made.

        Raises:
            VaultError: there is none although there once was: a new one would not open anything.
        """
        if self.exists():
            return False
        names = self._folder / _NAMES
        # A ring without keys is what a killed run of this function has left; nothing was ever encrypted by it.
        if names.exists() and any(_whole(entry) and any(entry.glob(f"*/*{_SUFFIX}")) for entry in self._rings()):
            raise VaultError(
                f"{self._link} is gone, and with it the way to every user's key, although a ring lies beside it. Nothing was changed. "
                f"Point it at the ring with the highest number again: ln -s ring.NNNNNN {self._link}."
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tidy_unfinished(self._folder)
        if not names.exists():
            replace(names, keys.new(), 0o600)
        for entry in self._rings():
            _destroy_ring(entry)
        self._build(1, {})
        return True

    def tidy(self) -> None:
        """Destroy what a run that was killed has left: rings that are not in force, files and links that were not finished."""
        current = self._current()
        for entry in self._rings():
            if entry != current:
                _destroy_ring(entry)
        for folder in (self._folder, current / "vaults", current / "lobby"):
            self._tidy_unfinished(folder)

    @staticmethod
    def _tidy_unfinished(folder: Path) -> None:
        for entry in folder.glob(".*"):
            if entry.is_symlink() or entry.is_file():
                overwriting.erase(entry)

    def rekey(self, without: frozenset[str] = frozenset()) -> None:
        """Replace the key-encryption key, wrap every other key anew, and destroy every earlier wrapping.

        Arguments:
            without: vault ids whose keys are not taken over. After this they are in no ring.

        Raises:
            VaultError: a key cannot be unwrapped; nothing was changed then.
            OSError: the disk is full; the ring in force stays.
        """
        current = self._current()
        kept = {
            f"{kind}/{name}{_SUFFIX}": self._unwrap(kind, name)
            for kind in ("vaults", "lobby")
            for name in self._list(kind)
            if not (kind == "vaults" and name in without)
        }
        match = _RING.fullmatch(current.name)
        self._build(int(match[1]) + 1 if match else 1, kept)
        self.tidy()

    def _build(self, number: int, content: dict[str, bytes]) -> None:
        ring = self._folder / f"ring.{number:06d}"
        if ring.exists():
            _destroy_ring(ring)
        kek = keys.new()
        for folder in (ring, ring / "vaults", ring / "lobby"):
            folder.mkdir(mode=0o700)
        for name, key in content.items():
            _write(ring / name, keys.wrap(key, kek))
        _write(ring / _KEK, kek)
        for folder in (ring / "vaults", ring / "lobby", ring):
            _flush(folder)
        links.point(self._link, ring.name)

    @property
    def _link(self) -> Path:
        return self._folder / _LINK

    def _rings(self) -> Iterator[Path]:
        for entry in sorted(self._folder.iterdir()):
            if _RING.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                yield entry

    def _current(self) -> Path:
        try:
            name = os.readlink(self._link)
        except OSError as error:
            raise VaultError(
                f"There are no keys in {self._folder} ({error.strerror}). On a new droplet salt-call state.apply vault makes them; on "
                "this one, where users have vaults, put the folder back from the newest snapshot of this droplet."
            ) from error
        ring = self._folder / name
        if not _RING.fullmatch(name) or not _whole(ring):
            raise VaultError(
                f"{self._link} leads to {name}, which is no whole ring of keys. Nothing was changed. Point it at the ring that has "
                f"a file {_KEK}: ls {self._folder}/ring.*"
            )
        return ring

    # --- keys in it ---------------------------------------------------------------------------------------------------

    def _list(self, kind: str) -> list[str]:
        names = (entry.name for entry in (self._current() / kind).iterdir())
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and not name.startswith("."))

    def _unwrap(self, kind: str, name: str) -> bytes:
        ring = self._current()
        path = ring / kind / f"{name}{_SUFFIX}"
        try:
            return keys.unwrap(path.read_bytes(), (ring / _KEK).read_bytes())
        except keys.WrongKeyError as error:
            raise VaultError(
                f"{path} cannot be unwrapped: it is damaged or was made by another key-encryption key. Nothing was changed. Put it "
                "back from the newest snapshot of this droplet; without it, what it encrypts is lost."
            ) from error

    def _store(self, kind: str, name: str, key: bytes) -> None:
        ring = self._current()
        replace(ring / kind / f"{name}{_SUFFIX}", keys.wrap(key, (ring / _KEK).read_bytes()), 0o600)

    def vaults(self) -> list[str]:
        """Return the ids of all vaults that have a key."""
        return self._list("vaults")

    def root_key(self, vault_id: str) -> bytes | None:
        """Return a user's root key, None if there is none.

        Raises:
            VaultError: it is there and cannot be unwrapped.
        """
        kept = self._current() / "vaults" / f"{vault_id}{_SUFFIX}"
        return self._unwrap("vaults", vault_id) if kept.exists() else None

    def make_root_key(self, vault_id: str) -> bytes:
        """Return a user's root key, made and kept now if there was none."""
        found = self.root_key(vault_id)
        if found is None:
            found = keys.new()
            self._store("vaults", vault_id, found)
        return found

    def lobby_keys(self) -> dict[bytes, bytes]:
        """Return the root keys of the lobby by their identifiers; more than one only while it is being replaced."""
        return {bytes.fromhex(name): self._unwrap("lobby", name) for name in self._list("lobby")}

    def make_lobby_key(self, volume: int) -> bytes:
        """Make a root key for a lobby, give it to the kernel, and return its identifier.

        Arguments:
            volume: descriptor of a folder of the volume.
        """
        root = keys.new()
        # Named by what the lobby's folders will say they are encrypted by. Nothing is, before the key is kept.
        identifier = fscrypt.add_key(volume, fscrypt_key(root))
        self._store("lobby", identifier.hex(), root)
        return identifier

    def drop_lobby_key(self, identifier: bytes) -> None:
        """Destroy a root key of the lobby."""
        path = self._current() / "lobby" / f"{identifier.hex()}{_SUFFIX}"
        # Out of the ring first: a key that was overwritten and not yet unlinked would be a damaged one.
        doomed = path.with_name(f".{path.name}")
        path.rename(doomed)
        _flush(path.parent)
        overwriting.erase(doomed)

    # --- names ----------------------------------------------------------------------------------------------------------

    def vault_id(self, user_id: str) -> str:
        """Return the name of a user's vault: a keyed hash, since names in an unencrypted folder can be read by a thief."""
        try:
            key = (self._folder / _NAMES).read_bytes()
        except FileNotFoundError as error:
            raise VaultError(
                f"{self._folder / _NAMES} is missing, and without it nobody knows which vault is whose. Put it back from the recovery "
                "kit; on a new droplet salt-call state.apply vault makes it."
            ) from error
        return keys.keyed_hash(key, user_id)


def _whole(ring: Path) -> bool:
    try:
        return len((ring / _KEK).read_bytes()) == keys.KEY_BYTES
    except OSError:
        return False


def _destroy_ring(ring: Path) -> None:
    # The key first: whatever is killed from here on, the rest opens no more.
    for path in sorted(ring.rglob("*"), key=lambda entry: entry.name != _KEK):
        if path.is_symlink() or not path.is_dir():
            overwriting.erase(path)
    for folder in sorted((entry for entry in ring.rglob("*") if entry.is_dir()), reverse=True):
        folder.rmdir()
    ring.rmdir()
    _flush(ring.parent)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
