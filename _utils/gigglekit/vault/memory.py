"""Secrets that live as long as the droplet runs: in a ramfs of their own, which is never written to a swap or a disk.

A tmpfs, such as /run, can be swapped. On a droplet `run-giggles-keys.mount` mounts it for the units of the vault, which have
a view of their own of what is mounted; for salt-call this does.

Source: Documentation/filesystems/ramfs-rootfs-initramfs.rst and tmpfs.rst of the kernel; proc(5), fdinfo and mountinfo.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gigglekit.command import ask
from gigglekit.crypto import keys
from gigglekit.files import overwriting
from gigglekit.vault.errors import VaultError

KIND = "ramfs"
OPTIONS = "mode=0700,nosuid,nodev,noexec"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount(folder: Path) -> None:
    """Mount a ramfs.

    Raises:
        VaultError: the kernel refuses.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    code, said = ask(["mount", "-t", KIND, "-o", OPTIONS, f"giggles-{KIND}", str(folder)])
    if code != 0:
        raise VaultError(
            f"Memory for the droplet's keys could not be mounted at {folder}: {said.strip() or f'mount ended with {code}'}. Nothing was "
            "changed. It needs root and a kernel with ramfs, which every kernel of Debian and Ubuntu has; look at dmesg."
        )


class Memory:
    """Secrets by name, in memory only.

    Arguments:
        folder: where the ramfs is mounted.
        mount: mounts it there; for tests.
        kind: the file system that is accepted; for tests.
    """

    def __init__(self, folder: Path, mount: Callable[[Path], None] = mount, kind: str = KIND) -> None:
        self._folder, self._mount, self._kind = folder, mount, kind

    def get(self, name: str) -> bytes | None:
        """Return a secret, None if it is not there."""
        try:
            secret = (self._folder / name).read_bytes()
        except OSError:
            return None
        return secret if len(secret) == keys.KEY_BYTES else None

    def put(self, name: str, secret: bytes) -> None:
        """Keep a secret; the ramfs is mounted if it is not.

        Raises:
            VaultError: nothing but a ramfs will do, and there cannot be one.
        """
        with self._opened() as folder:
            unfinished = f".{name}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=folder)
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                left = memoryview(secret)
                while left:
                    left = left[os.write(file, left) :]
            finally:
                os.close(file)
            os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)

    def keep_only(self, *names: str) -> None:
        """Overwrite and remove every other secret."""
        try:
            there = os.listdir(self._folder)
        except OSError:
            return
        for name in there:
            if name not in names:
                overwriting.erase(self._folder / name)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        if not self._is_right():
            self._mount(self._folder)
        folder = os.open(self._folder, _FOLDER)
        try:
            # Looked at through what is open: whatever is mounted over it meanwhile, the secret lands here.
            found = file_system_of(folder)
            if found != self._kind:
                raise VaultError(
                    f"{self._folder} lies on {found or 'nobody knows what'} and not on a {self._kind}, so the key was not put there: it "
                    f"could come to lie on a disk. Nothing was changed. Look at findmnt {self._folder}, unmount what is there, then apply "
                    "again."
                )
            os.fchmod(folder, 0o700)
            yield folder
        finally:
            os.close(folder)

    def _is_right(self) -> bool:
        try:
            folder = os.open(self._folder, _FOLDER)
        except OSError:
            return False
        try:
            return file_system_of(folder) == self._kind
        finally:
            os.close(folder)


def file_system_of(descriptor: int) -> str:
    """Return the type of the file system that an open file lies on, "" if the kernel does not say."""
    facts = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if ":" in line)
    number = facts.get("mnt_id", "").strip()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[0] == number:
            return fields[fields.index("-") + 1]
    return ""
