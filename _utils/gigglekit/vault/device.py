"""What the volume lies on: an image file of a fixed size, or a block device. Nothing that holds data is ever formatted."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.vault.errors import RefusedError, VaultError

LABEL = "giggles-vault"
MOUNT_OPTIONS = ("nodev", "nosuid", "noexec", "noatime")
_MEBIBYTE = 1024**2
_RESERVE_MB = 1024
"""Room that an image leaves on the file system it lies on."""
_LOOKED_AT = 4 * _MEBIBYTE
_ROUNDING = 16 * _MEBIBYTE
"""A file system may end before its file does: ext4 leaves out a last group that its own tables would fill."""
_FORMAT_SECONDS = 600.0

# As sysfs marks the name of a file that has none any more.
_DELETED = " (deleted)"
_MOUNTS = Path("/proc/self/mountinfo")

# Documentation/filesystems/ext4/super.rst: offsets in the superblock, which begins 1,024 bytes into the volume.
_SUPERBLOCK, _MAGIC, _ENCRYPT = 1024, 0xEF53, 0x10000


@dataclass(frozen=True)
class Wanted:
    """What the volume shall lie on.

    Arguments:
        image: path of the image file.
        size_mb: its size in MiB.
        device: a block device instead, "" for none.
    """

    image: Path
    size_mb: int
    device: str = ""

    @property
    def path(self) -> Path:
        """The file or device that is mounted."""
        return Path(self.device) if self.device else self.image


@dataclass(frozen=True)
class Superblock:
    """What an ext4 file system says of itself.

    Arguments:
        label: its name.
        encrypts: whether its folders can be encrypted.
        size: in bytes.
    """

    label: str
    encrypts: bool
    size: int


def unsupported() -> str:
    """Return why this machine cannot encrypt folders, "" if it can."""
    if not Path("/sys/fs/ext4/features/encryption").exists():
        return f"the kernel {os.uname().release} was built without encryption of ext4 folders (CONFIG_FS_ENCRYPTION)"
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None:
        return "mkfs.ext4 is not installed (package e2fsprogs)"
    return ""


def superblock(path: Path) -> Superblock | None:
    """Return what the ext4 file system on a file or device says of itself, None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(_SUPERBLOCK)
            block = file.read(1024)
    except OSError:
        return None
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
        return None
    low, log_size, incompatible, high = (struct.unpack_from("<I", block, offset)[0] for offset in (0x4, 0x18, 0x60, 0x150))
    blocks = low + ((high << 32) if incompatible & 0x80 else 0)
    label = block[0x78:0x88].rstrip(b"\0").decode(errors="replace")
    return Superblock(label, bool(incompatible & _ENCRYPT), blocks * (1024 << log_size))


def mounted_from(place: Path, mounts: Path = _MOUNTS, blocks: Path = Path("/sys/dev/block")) -> Path | None:
    """Return the image file or block device that is mounted at a place, None if nothing is.

    Source: proc(5) on mountinfo; Documentation/ABI/testing/sysfs-block-loop of Linux.
    """
    found = _mounted(place, mounts)
    if found is None:
        return None
    number, source = found
    try:
        return Path((blocks / number / "loop/backing_file").read_text().strip())
    except OSError:
        return Path(source)


def _mounted(place: Path, mounts: Path) -> tuple[str, str] | None:
    """Return number and name of the block device that is mounted at a place."""
    found = None
    for line in mounts.read_text().splitlines():
        fields = line.split()
        if fields[4] == str(place):
            # Of several mounts on one place the last one is on top.
            found = (fields[2], fields[fields.index("-") + 2])
    return found


def missing(wanted: Wanted, place: Path) -> list[str]:
    """Return, in words, what has to be done so that the volume can be mounted; an empty list if nothing has.

    Arguments:
        wanted: what the volume shall lie on.
        place: where it is mounted.

    Raises:
        RefusedError: it would destroy data, shrink the volume, or leave the clips behind on another one.
        VaultError: there is no room for it.
    """
    found = superblock(wanted.path)
    todo = _missing_on_device(wanted, found) if wanted.device else []
    _insist_on_the_same(wanted, place)
    if wanted.device:
        return todo
    if not wanted.image.exists():
        _insist_on_room(wanted, wanted.size_mb)
        return [f"{wanted.image} made, {wanted.size_mb} MB"]
    if found is None or found.label != LABEL or not found.encrypts:
        raise RefusedError(
            f"{wanted.image} is there, and is not an encrypted volume of this project, so it was left alone. It may be a damaged one: look "
            f"with file {wanted.image} and e2fsck -n {wanted.image}; move it away if nobody needs it, then apply again."
        )
    size = wanted.image.stat().st_size
    size_mb = size // _MEBIBYTE
    if size_mb > wanted.size_mb:
        raise RefusedError(
            f"{wanted.image} has {size_mb} MB, and giggles:vault:size_mb asks for {wanted.size_mb}. A volume in use is never shrunk; "
            f"nothing was changed. Set giggles:vault:size_mb to {size_mb} or more."
        )
    if size_mb < wanted.size_mb:
        _insist_on_room(wanted, wanted.size_mb - size_mb)
        return [f"{wanted.image} grown from {size_mb} to {wanted.size_mb} MB"]
    current = _mounted(place, _MOUNTS)
    # What is mounted is known to its device before it is written to the image.
    inside = superblock(Path(current[1])) if current else found
    if inside is not None and inside.size + _ROUNDING < size:
        return [f"the file system on {wanted.image} grown from {inside.size // _MEBIBYTE} to {size_mb} MB"]
    return []


def _insist_on_the_same(wanted: Wanted, place: Path) -> None:
    current = mounted_from(place)
    if current is None and wanted.device and wanted.image.exists():
        # After the next boot it would have been the device.
        current = wanted.image
    mounted = _mounted(place, _MOUNTS)
    if mounted is not None and str(current).endswith(_DELETED):
        image = str(current).removesuffix(_DELETED)
        raise RefusedError(
            f"{image} was deleted while it is in use: the clips can still be read, and the next restart would lose them. Nothing was "
            f"changed. Save them now: systemctl stop giggles.service; mount -o remount,ro {place}; dd if={mounted[1]} of={image} bs=4M "
            f"conv=fsync; chmod 600 {image}; systemctl restart var-lib-giggles-uploads.mount; systemctl start giggles.service. Then apply "
            "again."
        )
    if current is not None and current.resolve() != wanted.path.resolve():
        raise RefusedError(
            f"The clips of this droplet lie on {current}, and the pillar now names {wanted.path}. Clips do not move from one volume to "
            "another by themselves, so nothing was changed. Set giggles:vault:device back. To move: stop giggles.service and "
            f"var-lib-giggles-uploads.mount, copy the volume as a whole (dd if={current} of={wanted.path} bs=4M conv=fsync), move the "
            "old one away, change the pillar and apply."
        )


def _missing_on_device(wanted: Wanted, found: Superblock | None) -> list[str]:
    path = wanted.path
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise VaultError(
            f"giggles:vault:device names {path}, which is not there ({error.strerror}). Attach the volume, or correct the name: ls "
            "/dev/disk/by-id"
        ) from error
    if not stat.S_ISBLK(mode):
        raise RefusedError(f"giggles:vault:device names {path}, which is no block device. Name one: ls -l /dev/disk/by-id")
    if found is not None and found.label == LABEL and found.encrypts:
        return []
    with path.open("rb") as file:
        used = bool(file.read(_LOOKED_AT).strip(b"\0"))
    if found is not None or used:
        raise RefusedError(
            f"{path} holds data, and a device with data is never formatted; nothing was changed. If nobody needs what is on it, empty it "
            f"yourself (wipefs --all {path}; dd if=/dev/zero of={path} bs=1M count=4), then apply again."
        )
    return [f"{path} formatted"]


def _insist_on_room(wanted: Wanted, more_mb: int) -> None:
    folder = wanted.image.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // _MEBIBYTE
    if free < more_mb + _RESERVE_MB:
        raise VaultError(
            f"The volume for clips needs {more_mb} MB more and {_RESERVE_MB} MB have to stay free, and {folder} has {free} MB free. "
            "Nothing was changed. Choose a smaller giggles:vault:size_mb, free some space, or name a block device in giggles:vault:device."
        )


def establish(wanted: Wanted) -> None:
    """Make or format what is missing, or grow the image while it is mounted.

    Raises:
        VaultError: mkfs.ext4 or resize2fs failed; an image that was being made is gone again.
    """
    if wanted.device:
        _call(["mkfs.ext4", *_OPTIONS, wanted.device], "formatted")
        return
    if wanted.image.exists():
        _grow(wanted)
        return
    unfinished = wanted.image.with_name(f".{wanted.image.name}.new")
    unfinished.unlink(missing_ok=True)
    try:
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # All of it now: a volume that could not grow into its size would lose what is written to it.
            os.posix_fallocate(descriptor, 0, wanted.size_mb * _MEBIBYTE)
        finally:
            os.close(descriptor)
        _call(["mkfs.ext4", *_OPTIONS, str(unfinished)], "formatted")
        unfinished.rename(wanted.image)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise VaultError(f"{wanted.image} could not be made: {error.strerror}. Look at df and dmesg, then apply again.") from error
    except VaultError:
        unfinished.unlink(missing_ok=True)
        raise


# Discarding would give back the room that was taken for the image.
_OPTIONS = ["-q", "-O", "encrypt", "-L", LABEL, "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]


def _grow(wanted: Wanted) -> None:
    descriptor = os.open(wanted.image, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, wanted.size_mb * _MEBIBYTE)
    except OSError as error:
        raise VaultError(f"{wanted.image} could not be grown: {error.strerror}. Look at df and dmesg, then apply again.") from error
    finally:
        os.close(descriptor)
    listed = run(["losetup", "--associated", str(wanted.image), "--noheadings", "--output", "NAME"], seconds=20)
    devices = listed.output.split()
    for device in devices:
        _call(["losetup", "--set-capacity", device], "grown")
        _call(["resize2fs", device], "grown")
    if not devices:
        # resize2fs insists on a check of what is not mounted.
        _call(["e2fsck", "-f", "-p", str(wanted.image)], "grown", fine=(0, 1))
        _call(["resize2fs", str(wanted.image)], "grown")


def _call(argv: list[str], what: str, fine: tuple[int, ...] = (0,)) -> Outcome:
    try:
        done = run(argv, seconds=_FORMAT_SECONDS, environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    except (OSError, CommandTimeoutError) as error:
        raise VaultError(f"The volume could not be {what}: {argv[0]} did not run ({error}). Install e2fsprogs, apply again.") from error
    if done.code not in fine:
        raise VaultError(f"The volume could not be {what}: {argv[0]} says: {done.last_words}. Look at dmesg, then apply again.")
    return done
