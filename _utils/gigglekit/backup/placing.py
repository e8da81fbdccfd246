"""Files that are being restored, on their way to their names: written beside them, and named when they are on the disk for certain."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup import names
from gigglekit.backup.digests import Digester
from gigglekit.backup.section import FileEntry
from gigglekit.files import draining, links, unfinished

_PLACE_BYTES = 64 << 20
_PLACE_USERS = 64
"""Users whose folders are kept open until their files have names, at most about so many."""
_NUMBERS = itertools.count()
"""Tell what this process is writing apart, of several users in one folder too."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Owner:
    """Whose restored files are, and what may be done with them: numeric ids, permission bits."""

    uid: int
    gid: int
    file_mode: int = 0o640
    folder_mode: int = 0o750


@dataclass
class Restored:
    """What was restored.

    Attributes:
        files, size: how many files were written, and their bytes.
        same: files that were there already, and were left alone.
        kept: files that were there with another content, and were left alone too.
        damaged: what cannot be restored: one sentence each.
    """

    files: int = 0
    size: int = 0
    same: int = 0
    kept: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, other: Restored) -> None:
        """Count what somebody else restored too."""
        self.files, self.size = self.files + other.files, self.size + other.size
        self.same, self.kept = self.same + other.same, self.kept + other.kept
        self.damaged += other.damaged


@dataclass(frozen=True)
class Written:
    """A file that is written and does not have its name yet."""

    folders: Folders
    folder: int
    beside: str
    file: FileEntry

    def throw_away(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            os.unlink(self.beside, dir_fd=self.folder)


class Placing:
    """Gives files their names when their contents are on the disk for certain, which is asked for many at once, of several users too."""

    def __init__(self) -> None:
        self._written: list[Written] = []
        self._whole: list[Folders] = []
        self._waiting = 0
        self._disks: dict[int, int] = {}
        self._lock = threading.Lock()
        # One after the other, since the later one may let go of folders that the earlier one is giving names in.
        self._turn = threading.Lock()

    def add(self, written: Written) -> None:
        """Take a file that is written; now and then all that were get their names by this."""
        with self._lock:
            self._written.append(written)
            self._waiting += written.file.size
            enough = self._waiting >= _PLACE_BYTES
        if enough:
            self._place()

    def whole(self, folders: Folders) -> None:
        """Take the folders of somebody of whom no further file comes; they are let go of when all have their names."""
        with self._lock:
            self._whole.append(folders)
            enough = len(self._whole) >= _PLACE_USERS
        if enough:
            self._place()

    def finish(self) -> None:
        """Give all that are left their names, and have the names last as well as the contents."""
        self._place()
        for disk in self._disks.values():
            draining.sync(disk)

    def throw_away(self) -> None:
        """Throw away what has no name yet."""
        with self._lock:
            for written in self._written:
                written.throw_away()
            self._written.clear()
            for disk in self._disks.values():
                os.close(disk)
            self._disks.clear()

    def _place(self) -> None:
        with self._turn:
            with self._lock:
                placing, self._written, self._waiting = self._written, [], 0
                whole, self._whole = self._whole, []
            try:
                for disk in self._disks_of(placing):
                    draining.sync(disk)
                while placing:
                    placing[-1].folders.name(placing[-1])
                    placing.pop()
            except BaseException:
                with self._lock:
                    self._written += placing
                raise
            for folders in whole:
                folders.close()

    def _disks_of(self, placing: list[Written]) -> set[int]:
        """Return a descriptor of each file system that these files lie in; it stays open as long as names may have to last."""
        found = set()
        for folder in {written.folder for written in placing}:
            device = os.fstat(folder).st_dev
            with self._lock:
                if device not in self._disks:
                    self._disks[device] = os.dup(folder)
                found.add(self._disks[device])
        return found


class Folders:
    """The folders of a user's target, opened once each, and the files that are being written in them; no link is followed."""

    def __init__(self, folder: Path, owner: Owner | None, replace: bool, done: Restored, run: str, placing: Placing) -> None:
        self._owner, self._replace, self._done, self._placing = owner, replace, done, placing
        # Tells what this run is writing from what others are.
        self._beside = f"{names.UNFINISHED}{run}"
        self._open = {"": os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}
        unfinished.hold(self._open[""])
        self._paths: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the folders; nothing happens the second time."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()
            self._paths.clear()

    def _folder(self, path: str, *, make: bool) -> int | None:
        if path in self._open:
            return self._open[path]
        above, _, name = path.rpartition("/")
        parent = self._folder(above, make=make)
        if parent is None:
            return None
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                return None
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = os.open(name, _FOLDER, dir_fd=parent)
            if self._owner is not None:
                os.fchown(descriptor, self._owner.uid, self._owner.gid)
                os.fchmod(descriptor, self._owner.folder_mode)
        unfinished.hold(descriptor)
        self._open[path] = descriptor
        return descriptor

    def has(self, path: str) -> bool:
        """Tell whether a file was written."""
        return path in self._paths

    def digest(self, path: str, digester: Digester, size: int) -> str | None:
        """Return the digest of a file that is there; None if it is not, "" if it has another size or is no file."""
        above, _, name = path.rpartition("/")
        folder = self._folder(above, make=True)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return ""
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return ""
            while block := os.read(descriptor, 1 << 20):
                digester.update(block)
        finally:
            os.close(descriptor)
        return digester.finish()

    @contextlib.contextmanager
    def unfinished(self, file: FileEntry) -> Iterator[int]:
        """Have a descriptor to write a file's content to during the block; it is thrown away if the block fails."""
        folder = self._open[file.path.rpartition("/")[0]]
        beside = f"{self._beside}{next(_NUMBERS)}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            yield descriptor
            if self._owner is not None:
                os.fchown(descriptor, self._owner.uid, self._owner.gid)
                os.fchmod(descriptor, self._owner.file_mode)
            os.utime(descriptor, ns=(file.modified, file.modified))
        except BaseException:
            os.unlink(beside, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
        with self._lock:
            self._paths.add(file.path)
        self._placing.add(Written(self, folder, beside, file))

    def name(self, written: Written) -> None:
        """Give a file its name."""
        name = written.file.path.rpartition("/")[2]
        if self._replace:
            try:
                os.rename(written.beside, name, src_dir_fd=written.folder, dst_dir_fd=written.folder)
            except IsADirectoryError:
                os.unlink(written.beside, dir_fd=written.folder)
                self._done.damaged.append(
                    f"{written.file.path} was not restored: a folder of this name lies there, and a file cannot take its place. Move it "
                    "away, then ask again."
                )
                return
        else:
            try:
                _name_new(written.folder, written.beside, name)
            except FileExistsError:
                # Somebody made it meanwhile.
                os.unlink(written.beside, dir_fd=written.folder)
                self._done.kept += 1
                return
        with self._lock:
            self._done.files += 1
            self._done.size += written.file.size


def _name_new(folder: int, beside: str, name: str) -> None:
    """Give a file its name if nothing has it."""
    try:
        links.move_in(folder, beside, folder, name)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system that cannot do it in one step.
        os.link(beside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(beside, dir_fd=folder)
