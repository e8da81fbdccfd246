"""One owner, one group, one mode for folders and one for files in a whole tree, however hostile its owner.

The tree belongs to a service that may be taken over, and the repair runs as root. So nothing is ever done to a path:
each entry is opened with O_NOFOLLOW relative to the folder that was opened before it, judged by what the descriptor
says, and changed through that same descriptor. A link swapped in between leads nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_PATH needs no permission on the file, no key of its encrypted folder, and never blocks on a FIFO.
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Uploads are three folders deep. Whoever nests a thousand would otherwise run the walk out of descriptors.
_DEEPEST = 32


@dataclass(frozen=True)
class Wanted:
    """What each entry of the tree shall be.

    Arguments:
        uid: numeric owner.
        gid: numeric group.
        folder_mode: permission bits of folders, for example 0o750.
        file_mode: permission bits of regular files, for example 0o640.
    """

    uid: int
    gid: int
    folder_mode: int
    file_mode: int


@dataclass(frozen=True)
class Entry:
    """One path that was not as wanted.

    Arguments:
        path: absolute path.
        found: owner, group and mode as they were, for example "0:0 0644".
        wanted: the same as they should be.
    """

    path: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Report:
    """What a walk found.

    Arguments:
        seen: number of folders and files that were judged.
        repaired: entries put right (or, in a dry run, that would be), at most `limit` of them.
        repaired_count: how many there were in all.
        refused: one sentence for each entry that was left alone although it is not as wanted, at most `limit`.
        refused_count: how many there were in all.
    """

    seen: int
    repaired: tuple[Entry, ...]
    repaired_count: int
    refused: tuple[str, ...]
    refused_count: int


class _Walk:
    def __init__(self, wanted: Wanted, limit: int, dry_run: bool, skip: frozenset[str]) -> None:
        self.skip = skip
        self.wanted = wanted
        self.limit = limit
        self.dry_run = dry_run
        self.device = -1
        self.seen = 0
        self.repaired: list[Entry] = []
        self.repaired_count = 0
        self.refused: list[str] = []
        self.refused_count = 0

    def refuse(self, sentence: str) -> None:
        self.refused_count += 1
        if len(self.refused) < self.limit:
            self.refused.append(sentence)

    def differs(self, status: os.stat_result, mode: int) -> bool:
        return status.st_uid != self.wanted.uid or status.st_gid != self.wanted.gid or stat.S_IMODE(status.st_mode) != mode

    def put_right(self, descriptor: int, status: os.stat_result, mode: int, path: str) -> None:
        if not self.dry_run:
            # An O_PATH descriptor takes no fchmod(2); its entry in /proc names the very same inode.
            inode = f"/proc/self/fd/{descriptor}"
            os.chown(inode, self.wanted.uid, self.wanted.gid)
            os.chmod(inode, mode)
        self.repaired_count += 1
        if len(self.repaired) < self.limit:
            found = f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"
            self.repaired.append(Entry(path, found, f"{self.wanted.uid}:{self.wanted.gid} {mode:04o}"))

    def folder(self, descriptor: int, path: str, depth: int) -> None:
        status = os.fstat(descriptor)
        self.seen += 1
        if self.differs(status, self.wanted.folder_mode):
            self.put_right(descriptor, status, self.wanted.folder_mode, path)
        with os.scandir(descriptor) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, looks_like_folder in names:
            if depth == 0 and name in self.skip:
                continue
            below = f"{path}/{name}"
            try:
                if looks_like_folder:
                    self.subfolder(descriptor, name, below, depth + 1)
                else:
                    self.file(descriptor, name, below)
            except FileNotFoundError:
                # The app deletes its scratch files while we look: nothing is left to be wrong.
                continue
            except NotADirectoryError:
                self.refuse(f"{below} was exchanged for something else while it was looked at")

    def subfolder(self, parent: int, name: str, path: str, depth: int) -> None:
        if depth > _DEEPEST:
            self.refuse(f"{path} is nested more than {_DEEPEST} folders deep")
            return
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        try:
            if os.fstat(descriptor).st_dev != self.device:
                self.refuse(f"{path} is the mount point of another file system")
                return
            self.folder(descriptor, path, depth)
        finally:
            os.close(descriptor)

    def file(self, parent: int, name: str, path: str) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return
        self.seen += 1
        if stat.S_ISREG(status.st_mode) and not self.differs(status, self.wanted.file_mode):
            return
        descriptor = os.open(name, _ENTRY, dir_fd=parent)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                if not stat.S_ISLNK(status.st_mode):
                    self.refuse(f"{path} is neither a file nor a folder")
            elif self.differs(status, self.wanted.file_mode):
                if status.st_nlink > 1:
                    self.refuse(f"{path} has {status.st_nlink} names, so another one may lie outside the tree")
                else:
                    self.put_right(descriptor, status, self.wanted.file_mode, path)
        finally:
            os.close(descriptor)


def repair(root: Path, wanted: Wanted, *, limit: int = 50, dry_run: bool = False, skip: Collection[str] = ()) -> Report:
    """Give every folder and regular file at and below `root` the wanted owner, group and mode.

    Symbolic links are neither followed nor changed. Files with more than one name (hard links), devices, sockets,
    FIFOs and other mounted file systems are left alone and reported when they are not as wanted.

    Arguments:
        root: the tree; its last component must not be a symbolic link.
        wanted: owner, group and modes.
        limit: how many entries of each kind the report names; all are counted.
        dry_run: look only.
        skip: names directly below `root` that are somebody else's to look after.

    Returns:
        What was put right and what was refused.

    Raises:
        OSError: `root` is missing, is a link, or an entry cannot be read or changed.

    Source: openat(2), O_PATH and O_NOFOLLOW in open(2), proc(5) for /proc/self/fd.
    """
    walk = _Walk(wanted, limit, dry_run, frozenset(skip))
    descriptor = os.open(root, _FOLDER)
    try:
        walk.device = os.fstat(descriptor).st_dev
        walk.folder(descriptor, str(root), 0)
    finally:
        os.close(descriptor)
    return Report(walk.seen, tuple(walk.repaired), walk.repaired_count, tuple(walk.refused), walk.refused_count)
