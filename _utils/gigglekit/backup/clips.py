"""The clips of a user as they lie on the droplet, found and read while the app goes on making, changing and deleting them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup import names
from gigglekit.backup.section import MOST_PATH_BYTES, is_safe
from gigglekit.files import walking

GONE = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""What opening a file says that is gone, or something else by now."""
_CERTAINLY_SHORT = MOST_PATH_BYTES // 4
"""Characters of a path that can be saved, however many bytes each of them has."""


@dataclass(frozen=True)
class User:
    """Somebody whose clips are backed up.

    Arguments:
        vault_id: keyed hash of the user's id.
        user_id: the user's id, "" if nobody knows it.
        root_key: the user's root key.
        folder: the user's vault; `clips` in it is backed up.
        clips: where the clips lie if not there.
        legacy: clips that lie directly below the app's `clips/`.
    """

    vault_id: str
    user_id: str
    root_key: bytes = field(repr=False)
    folder: Path
    legacy: tuple[Path, ...] = ()
    clips: Path | None = None


class ChangedError(Exception):
    """A file changed while it was read."""


class UnreadableError(OSError):
    """The disk does not give a file back."""


def files(user: User, problems: list[str]) -> Iterator[walking.Found]:
    """Yield what is to be saved of a user.

    Arguments:
        user: whose.
        problems: gets a sentence if something cannot be saved.
    """
    too_long = 0
    for found in _found(user):
        if len(found.path) > _CERTAINLY_SHORT and not is_safe(found.path):
            too_long += 1
        elif not found.path.rpartition("/")[2].startswith(names.UNFINISHED):
            yield found
    if too_long:
        problems.append(
            f"{too_long} files of vault {user.vault_id} were not saved, since their paths are too long: more than {MOST_PATH_BYTES} bytes. "
            "The app names clips shorter; look what has made these, and rename or remove them."
        )


def _found(user: User) -> Iterator[walking.Found]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(user.clips or user.folder / "clips", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from walking.walk(folder, "clips")
        finally:
            os.close(folder)
    for path in user.legacy:
        with contextlib.suppress(FileNotFoundError):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield walking.Found(f"legacy/{path.name}", os.stat(path.name, dir_fd=folder, follow_symlinks=False), folder)
            finally:
                os.close(folder)


def read(descriptor: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """Yield the next `size` bytes of a file in pieces of the buffer's size, each of which lies there until the next is asked for.

    New memory for each file would take longer than to read it.

    Raises:
        ChangedError: it ends before.
        UnreadableError: the disk does not give it back.
    """
    while size:
        piece = buffer[: min(len(buffer), size)]
        done = 0
        while done < len(piece):
            try:
                count = os.readv(descriptor, [piece[done:]])
            except OSError as error:
                raise UnreadableError(error.errno, error.strerror) from None
            if not count:
                raise ChangedError
            done += count
        size -= len(piece)
        yield piece
