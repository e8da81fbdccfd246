"""Changes to a name that nobody can observe half done."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import secrets
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one step: readers see the old link or the new one, never none.

    Arguments:
        link: path of the link; whatever non-directory lies there is replaced.
        target: what the link shall hold, stored as given.

    Raises:
        OSError: the folder cannot be written, or `link` is a directory.

    Source: rename(2), "if newpath already exists, it will be atomically replaced".
    """
    candidate = link.with_name(f".{link.name}.{secrets.token_hex(6)}")
    candidate.symlink_to(target)
    try:
        candidate.rename(link)
    except OSError:
        candidate.unlink()
        raise
    _flush(link.parent)


def exchange(first: Path, second: Path) -> None:
    """Swap two existing names in one step; both must lie on one file system.

    Raises:
        OSError: one of them does not exist, or the file system cannot exchange (EINVAL).

    Source: renameat2(2), RENAME_EXCHANGE.
    """
    exchange_in(_AT_FDCWD, str(first), _AT_FDCWD, str(second))
    _flush(first.parent)


def exchange_in(first_folder: int, first: str, second_folder: int, second: str) -> None:
    """Swap a name in one open folder with a name in another in one step; the folders are not flushed.

    Raises:
        OSError: as `exchange`.
    """
    _rename(first_folder, first, second_folder, second, _RENAME_EXCHANGE)


def move_in(first_folder: int, first: str, second_folder: int, second: str) -> None:
    """Give what lies in one open folder a name in another where nothing lies yet; the folders are not flushed.

    Raises:
        FileExistsError: something lies there; nothing was changed.
        OSError: as `exchange`.

    Source: renameat2(2), RENAME_NOREPLACE.
    """
    _rename(first_folder, first, second_folder, second, _RENAME_NOREPLACE)


def _rename(first_folder: int, first: str, second_folder: int, second: str, how: int) -> None:
    renamed = _libc().renameat2(first_folder, os.fsencode(first), second_folder, os.fsencode(second), how)
    if renamed != 0:
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code), first, None, second)


@functools.cache
def _libc() -> ctypes.CDLL:
    # Once: to open it takes longer than to rename.
    return ctypes.CDLL(None, use_errno=True)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
