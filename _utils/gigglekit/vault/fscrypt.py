"""Encrypted folders of ext4, by the kernel's ioctls: keys, policies, and whether a key is really gone.

Only version 2 policies with AES-256-XTS for contents and AES-256-CTS for names. A key is given to the kernel for a whole
file system and named by an identifier that is worked out from it, so that no number has to be kept beside it.

Source: Documentation/filesystems/fscrypt.rst and include/uapi/linux/fscrypt.h of Linux.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import struct
import time

from gigglekit.vault.errors import VaultError

KEY_BYTES = 64
"""AES-256-XTS takes two keys of 32 bytes; before Linux 5.16 a master key had to be as long."""
IDENTIFIER_BYTES = 16

_ADD_KEY = 0xC0506617
_REMOVE_KEY_ALL_USERS = 0xC0406619
_KEY_STATUS = 0xC080661A
_SET_POLICY = 0x800C6613
_GET_POLICY_EX = 0xC0096616

_SPECIFIER = struct.Struct("=II16s16x")
_BY_IDENTIFIER = 2
_POLICY = struct.Struct("=BBBBB3x16s")
_VERSION, _AES_256_XTS, _AES_256_CTS, _PAD_32 = 2, 1, 4, 3
_FILES_BUSY = 1
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)


class FscryptError(VaultError):
    """The kernel refused; the message says what and what to do."""


class UnsupportedError(FscryptError):
    """This kernel or this file system cannot encrypt folders."""


class Status(enum.Enum):
    """Whether the kernel has a key. Only `ABSENT` means that nothing can be read with it any more."""

    ABSENT = 1
    PRESENT = 2
    INCOMPLETELY_REMOVED = 3


def identifier_for(key: bytes) -> bytes:
    """Return the identifier that the kernel gives a key, worked out without giving it away.

    Source: fs/crypto/hkdf.c of Linux: HKDF-SHA512 without salt, info "fscrypt" NUL and the number 1.
    """
    from gigglekit.crypto.keys import derive

    return derive(key, "fscrypt\0\x01", IDENTIFIER_BYTES)


def add_key(volume: int, key: bytes) -> bytes:
    """Give the kernel a key for everything on a file system; giving it again changes nothing.

    Arguments:
        volume: descriptor of any folder of the file system.
        key: `KEY_BYTES` bytes.

    Returns:
        The key's identifier, `IDENTIFIER_BYTES` bytes.

    Raises:
        FscryptError: the kernel does not take it.
    """
    request = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, b"") + struct.pack("=II32x", len(key), 0) + key)
    _ioctl(volume, _ADD_KEY, request, "did not take a key")
    return bytes(request[8 : 8 + IDENTIFIER_BYTES])


def remove_key(volume: int, identifier: bytes) -> Status:
    """Have the kernel forget a key, for all users who gave it.

    Open files keep a part of it: then the status is `INCOMPLETELY_REMOVED`, and they can still be read by whoever has
    them open.

    Returns:
        What the kernel says after it.

    Raises:
        FscryptError: the kernel refuses.
    """
    request = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier) + bytes(24))
    try:
        _ioctl(volume, _REMOVE_KEY_ALL_USERS, request, "did not let go of a key")
    except FscryptError as error:
        if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOKEY):
            raise
    return status(volume, identifier)


def status(volume: int, identifier: bytes) -> Status:
    """Ask the kernel whether it has a key.

    Raises:
        FscryptError: the kernel refuses to say.
    """
    request = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier) + bytes(88))
    _ioctl(volume, _KEY_STATUS, request, "did not say whether it has a key")
    return Status(struct.unpack_from("=I", request, 64)[0])


def forget(volume: int, identifier: bytes, *, seconds: float) -> Status:
    """Have the kernel forget a key, again and again until nothing holds it any more or the time is over.

    Arguments:
        volume: descriptor of any folder of the file system.
        identifier: names the key.
        seconds: how long to try.

    Returns:
        The last word of the kernel.

    Raises:
        FscryptError: the kernel refuses.
    """
    end = time.monotonic() + seconds
    while True:
        found = remove_key(volume, identifier)
        if found is Status.ABSENT or time.monotonic() > end:
            return found
        time.sleep(0.05)


def encrypt(folder: int, identifier: bytes) -> None:
    """Have everything in an empty folder encrypted from now on. A folder that already is, by the same key, stays.

    Arguments:
        folder: its descriptor.
        identifier: of a key that the kernel has.

    Raises:
        FscryptError: the folder is not empty, is encrypted by another key, or the kernel cannot.
    """
    request = bytearray(_POLICY.pack(_VERSION, _AES_256_XTS, _AES_256_CTS, _PAD_32, 0, identifier))
    _ioctl(folder, _SET_POLICY, request, "did not encrypt a folder")


def identifier_of(entry: int) -> bytes | None:
    """Return the identifier of the key that an open file or folder is encrypted by; None if it is not encrypted.

    Raises:
        FscryptError: it is encrypted in another way than this project does, or the kernel does not say.
    """
    request = bytearray(struct.pack("=Q", _POLICY.size) + bytes(_POLICY.size))
    try:
        fcntl.ioctl(entry, _GET_POLICY_EX, request)
    except OSError as error:
        if error.errno in (errno.ENODATA, *_UNSUPPORTED):
            return None
        raise FscryptError(f"The kernel does not say how a folder is encrypted ({error.strerror}). See dmesg.") from error
    version, *_, identifier = _POLICY.unpack_from(request, 8)
    if version != _VERSION:
        raise FscryptError(
            f"A folder is encrypted by a version {version} policy, which nothing here makes. Somebody else set it up: move what is "
            "in it to a new folder."
        )
    return bytes(identifier)


def _ioctl(descriptor: int, request: int, argument: bytearray, failed: str) -> None:
    try:
        fcntl.ioctl(descriptor, request, argument)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise UnsupportedError(
                "This file system cannot encrypt folders: ext4 has to have its `encrypt` feature, and the kernel "
                "CONFIG_FS_ENCRYPTION. Apply the concern `vault`, which makes such a volume or says why it cannot."
            ) from error
        raise FscryptError(
            f"The kernel {failed} ({os.strerror(error.errno or 0)}). It needs root, and an ext4 volume mounted read-write: see "
            "findmnt /var/lib/giggles/uploads and dmesg."
        ) from error
