"""The encrypted volume from inside: its fixed folders, and one encrypted folder per user.

Its root is unencrypted and immutable (chattr +i), although it belongs to the app: so the app can neither put a folder
there that would not be encrypted, nor exchange those that are there. Everything is reached by descriptors from the root
down and no link is followed, since the app may be taken over and this runs as root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.draining import FOLDER, Owner
from gigglekit.vault import fscrypt
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.places import KINDS, LOBBY, VAULTS, Places

BESIDE = ".lobby"
"""Where a new lobby is built, and the old one emptied."""

# ioctl_iflags(2)
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10


@dataclass(frozen=True)
class Volume:
    """An open, mounted volume.

    Arguments:
        root: descriptor of its root folder.
        places: where it is mounted.
        owner: whose clips are.
    """

    root: int
    places: Places
    owner: Owner

    # --- fixed folders ------------------------------------------------------------------------------------------------

    def prepare(self, keyring: Keyring, *, dry_run: bool = False) -> list[str]:
        """Have the fixed folders, encrypted where clips may lie, and the root closed to others.

        Arguments:
            keyring: has the keys of the lobby, or gets one.
            dry_run: look only.

        Returns:
            What was (or would be) put right, in words.

        Raises:
            VaultError: a folder that has content is not encrypted; renewing the lobby mends that.
        """
        done: list[str] = []
        wanted = {VAULTS: (0, self.owner.gid, 0o750), BESIDE: (0, 0, 0o700)}
        wanted |= dict.fromkeys(LOBBY, (self.owner.uid, self.owner.gid, self.owner.folder_mode))
        missing = [name for name in wanted if not self._has(name)]
        plain = [name for name in LOBBY if name not in missing and self.identifier(name) is None]
        done += [f"{name} made" for name in missing] + [f"{name} encrypted" for name in plain]
        if (missing or plain) and not dry_run:
            with self.open_root():
                for name in missing:
                    os.mkdir(name, 0o700, dir_fd=self.root)
            identifier = self.lobby_identifier() or keyring.make_lobby_key(self.root)
            for name in (*missing, *plain):
                if name in LOBBY:
                    self._encrypt(name, identifier)
        for name, (uid, gid, mode) in wanted.items():
            # Of the app's own folders only the new ones: the others are looked after where the app is.
            if (name in missing and dry_run) or (name in LOBBY and name not in missing):
                continue
            with self.folder(name) as folder:
                status = os.fstat(folder)
                if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (uid, gid, mode):
                    if name not in missing:
                        done.append(f"owner and mode of {name} put right")
                    if not dry_run:
                        os.fchown(folder, uid, gid)
                        os.fchmod(folder, mode)
        status = os.fstat(self.root)
        if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (self.owner.uid, self.owner.gid, self.owner.folder_mode):
            done.append("owner and mode of the root put right")
            if not dry_run:
                with self.open_root():
                    os.fchown(self.root, self.owner.uid, self.owner.gid)
                    os.fchmod(self.root, self.owner.folder_mode)
        if not self.is_closed():
            done.append("root closed (chattr +i)")
            if not dry_run:
                self._close(True)
        return done

    def lobby_identifier(self) -> bytes | None:
        """Return which key the lobby is encrypted by; None if there is no encrypted lobby."""
        found = [self.identifier(name) for name in LOBBY if self._has(name)]
        return next((identifier for identifier in found if identifier), None)

    def lobby_identifiers(self) -> set[bytes]:
        """Return the keys that anything of the lobby is encrypted by, what a renewal has beside it included."""
        found = {self.identifier(name) for name in LOBBY if self._has(name)}
        with contextlib.suppress(FileNotFoundError), self.folder(BESIDE) as beside:
            for kind in LOBBY:
                with contextlib.suppress(FileNotFoundError), opened(kind, beside) as folder:
                    found.add(fscrypt.identifier_of(folder))
        return {identifier for identifier in found if identifier}

    def insist_on_keys(self) -> None:
        """Go on only if the lobby can be read: without its key names look like others, and links as if they led elsewhere.

        Raises:
            VaultError: the kernel does not have its key.
        """
        if any(fscrypt.status(self.root, identifier) is not fscrypt.Status.PRESENT for identifier in self.lobby_identifiers()):
            raise VaultError(
                "The volume is locked: the kernel does not have the lobby's key. Nothing was changed. Unlock it: systemctl start "
                "giggles-vault-unlock; its journal says why it could not be."
            )

    def identifier(self, name: str) -> bytes | None:
        """Return which key a folder in the root is encrypted by, None if it is not."""
        with self.folder(name) as folder:
            return fscrypt.identifier_of(folder)

    def _encrypt(self, name: str, identifier: bytes) -> None:
        with self.folder(name) as folder:
            try:
                fscrypt.encrypt(folder, identifier)
            except fscrypt.FscryptError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOTEMPTY:
                    raise VaultError(
                        f"{self.places.uploads / name} holds files and is not encrypted. Nothing was changed. Renew the lobby, which "
                        "moves them into an encrypted one: salt-call giggles.renew_lobby."
                    ) from error
                raise

    # --- vaults ---------------------------------------------------------------------------------------------------------

    def make_vault(self, vault_id: str, keyring: Keyring) -> None:
        """Have a user's encrypted folder, its kinds below it, and its key in the kernel and in the ring.

        Raises:
            VaultError: the folder is there and is not encrypted by this user's key.
        """
        identifier = fscrypt.add_key(self.root, fscrypt_key(keyring.make_root_key(vault_id)))
        with self.folder(VAULTS) as vaults:
            with contextlib.suppress(FileExistsError):
                os.mkdir(vault_id, 0o700, dir_fd=vaults)
            with opened(vault_id, vaults) as vault:
                found = fscrypt.identifier_of(vault)
                if found is None:
                    fscrypt.encrypt(vault, identifier)
                elif found != identifier:
                    raise VaultError(
                        f"The vault {vault_id} is encrypted by another key than the ring has for it. Nothing was changed. The recovery kit "
                        "brings the right one back: salt-call giggles.restore kit=/root/kit.txt"
                    )
                for kind in KINDS:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(kind, 0o700, dir_fd=vault)
                    with opened(kind, vault) as folder:
                        os.fchown(folder, self.owner.uid, self.owner.gid)
                        os.fchmod(folder, self.owner.folder_mode)
                os.fchown(vault, 0, self.owner.gid)
                os.fchmod(vault, 0o750)

    @contextlib.contextmanager
    def vault(self, vault_id: str, kind: str | None = None) -> Iterator[int]:
        """Open a vault's folder, or that of one kind in it.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.folder(VAULTS) as vaults, opened(vault_id, vaults) as vault:
            if kind is None:
                yield vault
            else:
                with opened(kind, vault) as folder:
                    yield folder

    def vault_ids(self) -> list[str]:
        """Return the ids of all vaults that have a folder."""
        with self.folder(VAULTS) as vaults, os.scandir(vaults) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    # --- ways in --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[int]:
        """Open a folder in the root.

        Raises:
            FileNotFoundError: there is none.
        """
        with opened(name, self.root) as folder:
            yield folder

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    # --- the root ---------------------------------------------------------------------------------------------------------

    def is_closed(self) -> bool:
        """Tell whether the root is immutable."""
        return bool(self._flags() & _IMMUTABLE)

    @contextlib.contextmanager
    def open_root(self) -> Iterator[None]:
        """Let entries of the root be made and exchanged during the block."""
        self._close(False)
        try:
            yield
        finally:
            self._close(True)

    def _close(self, closed: bool) -> None:
        flags = self._flags()
        fcntl.ioctl(self.root, _SET_FLAGS, struct.pack("i", flags | _IMMUTABLE if closed else flags & ~_IMMUTABLE))

    def _flags(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self.root, _GET_FLAGS, bytes(4)))[0])


@contextlib.contextmanager
def mounted(places: Places, root: Path | None = None) -> Iterator[Volume]:
    """Open the volume.

    Arguments:
        places: where it is mounted.
        root: where it is mounted instead, while clips are moved into it.

    Raises:
        VaultError: it is not mounted.
    """
    path = root or places.uploads
    try:
        descriptor = os.open(path, FOLDER)
    except OSError as error:
        raise VaultError(f"{path} cannot be opened ({error.strerror}). salt-call state.apply vault makes and mounts it.") from error
    try:
        above = os.stat("..", dir_fd=descriptor, follow_symlinks=False)
        if above.st_dev == os.fstat(descriptor).st_dev:
            raise VaultError(
                f"The encrypted volume is not mounted at {path}, so nothing was done, and nothing is stored in the clear. Mount it: "
                "systemctl start var-lib-giggles-uploads.mount; its journal says why it could not be."
            )
        yield Volume(descriptor, places, places.owner())
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(name: str, above: int | None) -> Iterator[int]:
    """Open a folder in an open folder (or by its path, if `above` is None), without following a link in its place.

    Raises:
        VaultError: something else than a folder lies there.
        FileNotFoundError: nothing does.
    """
    try:
        descriptor = os.open(name, FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise VaultError(
                f"Where the folder {name} of the vault belongs, something else lies. It was left alone: only root can have put it "
                "there, or a damaged disk. Look at it with ls -la, move it away, then apply again."
            ) from error
        if error.errno == errno.ENOKEY:
            raise VaultError(
                f"The folder {name} is locked: the kernel does not have its key. Unlock it: systemctl start giggles-vault-unlock."
            ) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
