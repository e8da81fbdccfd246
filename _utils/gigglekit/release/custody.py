"""Passing a tree to an account that is not trusted, and taking it back without being led anywhere by what it left there.

As in `gigglekit.files.tree`, nothing is done to a path: every entry is opened relative to the folder opened before it, with
O_NOFOLLOW, and judged and changed through that descriptor.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gigglekit.release.errors import BuildError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# No package nests half as deep; whoever nests thousands would run the walk out of descriptors.
_DEEPEST = 64


def transfer(root: Path, before: int, uid: int, gid: int) -> None:
    """Give a tree and all in it to somebody, with modes that let everybody read it and only the owner write it.

    Arguments:
        root: the tree; the folder above must be writable by root only.
        before: numeric user whom all of it has to belong to.
        uid: numeric user whom it belongs to afterwards.
        gid: numeric group, likewise.

    Raises:
        BuildError: something belongs to anybody else, has a second name, or is neither file, folder nor link.
        OSError: the tree is missing or cannot be changed.

    Source: openat(2), O_PATH in open(2), proc(5) for /proc/self/fd.
    """
    descriptor = os.open(root, _FOLDER)
    try:
        _folder(descriptor, str(root), before, uid, gid, 0)
    finally:
        os.close(descriptor)


def _folder(descriptor: int, path: str, before: int, uid: int, gid: int, depth: int) -> None:
    _judge(os.fstat(descriptor), path, before)
    if depth > _DEEPEST:
        raise _refused(path, f"lies more than {_DEEPEST} folders deep")
    for name in os.listdir(descriptor):
        below = f"{path}/{name}"
        opened = os.open(name, _ENTRY, dir_fd=descriptor)
        try:
            status = os.fstat(opened)
            _judge(status, below, before)
            if stat.S_ISLNK(status.st_mode):
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
            elif stat.S_ISDIR(status.st_mode):
                inner = os.open(name, _FOLDER, dir_fd=descriptor)
                try:
                    _folder(inner, below, before, uid, gid, depth + 1)
                finally:
                    os.close(inner)
            else:
                # An O_PATH descriptor takes no fchmod(2); its entry in /proc names the very same inode.
                inode = f"/proc/self/fd/{opened}"
                os.chown(inode, uid, gid)
                os.chmod(inode, 0o755 if status.st_mode & 0o111 else 0o644)
        finally:
            os.close(opened)
    os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, 0o755)


def _judge(status: os.stat_result, path: str, before: int) -> None:
    if status.st_uid != before:
        raise _refused(path, f"belongs to user {status.st_uid} instead of {before}")
    if stat.S_ISREG(status.st_mode):
        if status.st_nlink > 1:
            raise _refused(path, f"has {status.st_nlink} names")
    elif not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise _refused(path, "is neither file, folder nor link")


def _refused(path: str, reason: str) -> BuildError:
    return BuildError(
        f"Installing the app's packages left something that no package needs: {path!r} {reason}. One of them may try to get "
        "out of its place. Find out which (uv pip compile names them all), remove it from the app's requirements, then "
        "apply again. The live release was left as it is."
    )
