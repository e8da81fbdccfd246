"""Removing everything below a folder, however deep it was nested by somebody who does not want it removed.

Only two folders are open at any time, so that neither descriptors nor the stack run out. The way back up is `..`, and taken
only if it leads to the folder that we came from; if somebody moved what we are in, the walk begins again at the top.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROUNDS = 20


def empty(folder: int, remove: Callable[[int, str], None]) -> None:
    """Remove everything below an open folder; links are not followed.

    Arguments:
        folder: its descriptor.
        remove: removes what is no folder, given the open folder that it lies in and its name. It may be gone already.

    Raises:
        OSError: something cannot be removed, or somebody keeps moving folders about.
    """
    for _ in range(_ROUNDS):
        if _walk(folder, remove):
            return
    raise OSError(errno.EBUSY, "Somebody keeps changing a folder while it is emptied")


def _walk(folder: int, remove: Callable[[int, str], None]) -> bool:
    """Go through once; return whether nothing is left: no folder was moved, and nothing was put into one behind us."""
    complete = True
    with contextlib.ExitStack() as held:
        here = [os.dup(folder)]
        held.callback(lambda: os.close(here[0]))

        def enter(name: str, flags: int = _FOLDER) -> None:
            there = os.open(name, flags, dir_fd=here[0])
            os.close(here[0])
            here[0] = there

        above: list[tuple[str, tuple[int, int], list[str]]] = []
        left = _remove_files(here[0], remove)
        while True:
            if left:
                name, parent = left.pop(), _identity(here[0])
                with contextlib.suppress(FileNotFoundError):
                    enter(name)
                    above.append((name, parent, left))
                    left = _remove_files(here[0], remove)
            elif above:
                name, parent, left = above.pop()
                enter("..")
                if _identity(here[0]) != parent:
                    return False
                complete &= _remove_folder(here[0], name)
            else:
                return complete


def _remove_files(folder: int, remove: Callable[[int, str], None]) -> list[str]:
    """Remove what is no folder, and return the names of the folders."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in found:
        if not is_folder:
            with contextlib.suppress(FileNotFoundError):
                remove(folder, name)
    return [name for name, is_folder in found if is_folder]


def _remove_folder(above: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=above)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return False
        raise
    return True


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino
