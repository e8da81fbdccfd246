"""Erasing a file where it lies: its bytes are replaced by a keystream that nobody can repeat, then it is unlinked.

The key of the stream is forgotten with this process, so what is left cannot be told from chance. It reaches the blocks
that the file has now. A disk that moves blocks about by itself, a snapshot, or an earlier version of the file that a
program had replaced, keeps what it has: a key that is destroyed is the stronger means, and this is for where there is none.

Source: ChaCha20, RFC 8439, by the `cryptography` package; fsync(2).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_CHUNK = 1 << 20
_FILE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class SharedFileError(Exception):
    """The file has other names, so erasing it would erase what somebody else may keep; the message is its path."""


def erase(path: Path) -> int:
    """Overwrite and unlink one file.

    Arguments:
        path: the file; a link is unlinked, not followed.

    Returns:
        How many bytes were overwritten: its size, up to the end of its last block.

    Raises:
        SharedFileError: it has more than one name.
        OSError: it cannot be written or unlinked.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        size = erase_in(folder, path.name)
        os.fsync(folder)
        return size
    finally:
        os.close(folder)


def erase_in(folder: int, name: str) -> int:
    """Overwrite and unlink one file of an open folder; the folder is not flushed.

    Arguments:
        folder: descriptor of the folder.
        name: of the file in it.

    Returns, raises: as `erase`.
    """
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    size = 0
    if stat.S_ISREG(status.st_mode):
        if status.st_nlink > 1:
            raise SharedFileError(name)
        size = overwrite_in(folder, name)
    os.unlink(name, dir_fd=folder)
    return size


def overwrite_in(folder: int, name: str) -> int:
    """Overwrite one file of an open folder, and keep it.

    Arguments, returns, raises: as `erase_in`.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    file = os.open(name, _FILE, dir_fd=folder)
    try:
        status = os.fstat(file)
        if status.st_nlink > 1:
            raise SharedFileError(name)
        # What a file held before it was shortened lies behind its end, in its last block.
        left = size = -(-status.st_size // status.st_blksize) * status.st_blksize
        keystream = Cipher(ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
        zeros = bytes(_CHUNK)
        while left:
            piece = memoryview(keystream.update(zeros[: min(left, _CHUNK)]))
            left -= len(piece)
            while piece:
                piece = piece[os.write(file, piece) :]
        os.fsync(file)
        return size
    finally:
        os.close(file)
