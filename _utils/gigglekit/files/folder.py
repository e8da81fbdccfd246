"""One folder inside a folder that somebody else may write: made and put right by root without following anything.

Between a look at a path and a change of it, the owner of the folder above can put a link in its place (renameat2(2)), and
root would change what the link leads to. So a path is opened once, and only the descriptor is judged and changed.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

MISSING = "missing"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Wanted:
    """What the folder shall be.

    Arguments:
        uid: numeric owner.
        gid: numeric group.
        mode: permission bits, for example 0o750.
    """

    uid: int
    gid: int
    mode: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid} {self.mode:04o}"


class NotAFolderError(Exception):
    """Something else lies where the folder belongs; the message is its path and what it is."""


def present(path: Path, wanted: Wanted, *, dry_run: bool = False) -> str:
    """Have a folder at `path`, with its owner, group and mode.

    Arguments:
        path: absolute. The folder above has to be there, and only root may be able to exchange that one.
        wanted: owner, group and mode.
        dry_run: look only.

    Returns:
        What was (or, in a dry run, is) there instead: "" if all was right, `MISSING`, or its owner, group and mode, for
        example "0:0 0755".

    Raises:
        NotAFolderError: a link, a file, or another file system's folder lies there, or the folder above is a link.
        FileNotFoundError: there is no folder above.
        OSError: the disk is full or read-only.

    Source: openat(2), mkdirat(2), fchown(2); O_NOFOLLOW in open(2).
    """
    above = _open(str(path.parent), None, path.parent)
    try:
        try:
            descriptor = _open(path.name, above, path)
            found = ""
        except FileNotFoundError:
            if dry_run:
                return MISSING
            # Nobody else's until it is finished. Whoever was quicker is judged below.
            os.mkdir(path.name, 0o700, dir_fd=above)
            descriptor = _open(path.name, above, path)
            found = MISSING
        try:
            status = os.fstat(descriptor)
            if status.st_dev != os.fstat(above).st_dev:
                raise NotAFolderError(f"{path} is the mount point of another file system")
            seen = Wanted(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
            if seen != wanted and not dry_run:
                os.fchown(descriptor, wanted.uid, wanted.gid)
                os.fchmod(descriptor, wanted.mode)
            return found or ("" if seen == wanted else str(seen))
        finally:
            os.close(descriptor)
    finally:
        os.close(above)


def _open(name: str, above: int | None, path: Path) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            kind = "a symbolic link" if path.is_symlink() else "no folder"
            raise NotAFolderError(f"{path} is {kind}") from error
        raise
