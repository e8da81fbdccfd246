"""Looking at every file below a folder whose owner may be hostile: no link is ever followed, in any part of a path."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: what was a file a moment ago may be a FIFO now.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEEPEST = 32


class Found(NamedTuple):
    """A regular file.

    Attributes:
        path: relative to where the walk began.
        status: what stat(2) said.
        folder: descriptor of its folder, open until the walk goes on.
    """

    path: str
    status: os.stat_result
    folder: int

    def open(self) -> tuple[int, os.stat_result]:
        """Return a descriptor to read it, and what stat(2) says now.

        Raises:
            OSError: it is gone, or something else now.
        """
        descriptor = os.open(self.path.rpartition("/")[2], _FILE, dir_fd=self.folder)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return descriptor, status


def walk(folder: int, path: str = "") -> Iterator[Found]:
    """Yield every regular file below a folder, folder by folder, sorted by name; what vanishes meanwhile is left out.

    Arguments:
        folder: descriptor of the folder.
        path: what paths begin with; "" or without a slash at the end.
    """
    yield from _walk(folder, f"{path}/" if path else "", 0)


def _walk(folder: int, path: str, depth: int) -> Iterator[Found]:
    folders = []
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        try:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield Found(path + entry.name, status, folder)
    for name in folders if depth < _DEEPEST else ():
        try:
            below = os.open(name, _FOLDER, dir_fd=folder)
        except OSError:
            continue
        try:
            yield from _walk(below, f"{path}{name}/", depth + 1)
        finally:
            os.close(below)
