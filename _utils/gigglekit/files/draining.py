"""Moving everything from one folder into another while others go on using both.

A file is copied, checked and made durable before its original goes, and only goes if nobody has it open for writing and
it still is what was copied. A program that is writing meanwhile loses nothing: its file is copied again when it is done.
Where both folders have a file of one name, the one that was written last stays, as if it had been written over the other.

Source: F_SETLEASE in fcntl(2); syncfs(2); O_NOFOLLOW in open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gigglekit.files import unfinished as restoring
from gigglekit.files.links import move_in

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_UNFINISHED = ".copying-"
_CHUNK = 1 << 20
_PAUSE = 0.05
# As in files/tree.py: nobody who means well nests folders so deep.
_DEEPEST = 32


@dataclass(frozen=True)
class Owner:
    """Whose the copies shall be.

    Arguments:
        uid: numeric owner.
        gid: numeric group.
        folder_mode: permission bits of folders.
        file_mode: permission bits of files.
    """

    uid: int
    gid: int
    folder_mode: int = 0o750
    file_mode: int = 0o640


@dataclass
class Drained:
    """What was moved.

    Attributes:
        files: files that are in the target now and were not before.
        size: their bytes.
        busy: entries left in the source, since somebody has them open for writing or keeps changing them.
        dropped: sockets, FIFOs and devices removed from the source; they hold no data.
    """

    files: int = 0
    size: int = 0
    busy: int = 0
    dropped: int = 0
    _copied: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _placed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the source is empty."""
        return self.busy == 0

    def add(self, later: Drained) -> None:
        """Count what a later copy of the same folders has copied."""
        self.files += later.files
        self.size += later.size
        self._copied |= later._copied
        self._placed |= later._placed


def copy(source: int, target: int, owner: Owner, *, only: Callable[[str], bool] | None = None) -> Drained:
    """Copy everything from one folder into another and make it durable; the source keeps it.

    Arguments:
        source: descriptor of the folder to copy from.
        target: descriptor of the folder to copy to.
        owner: whose the copies shall be.
        only: which entries of the source are copied, by their names; all, if None.

    Raises:
        OSError: the disk is full or broken. What has been copied so far stays; copying again goes on.
    """
    report = Drained()
    _copy_folder(source, target, owner, "", report, only)
    sync(target)
    return report


def drain(source: int, target: int, owner: Owner, *, seconds: float) -> Drained:
    """Move everything from one folder into another.

    Arguments:
        source: descriptor of the folder to empty. New entries may appear meanwhile; they are moved too.
        target: descriptor of the folder to fill.
        owner: whose the copies shall be.
        seconds: how long to wait for those who have a file open for writing.

    Returns:
        What was moved; `busy` if it could not be finished in that time.

    Raises:
        OSError: the disk is full or broken. Nothing is lost; draining again goes on.
    """
    total = Drained()
    end = time.monotonic() + seconds
    while True:
        once = copy(source, target, owner)
        total.files += once.files
        total.size += once.size
        total.busy = 0
        _remove_copied(source, "", once, total)
        if total.busy == 0 or time.monotonic() > end:
            return total
        time.sleep(_PAUSE)


def take_back(source: int | None, target: int, earlier: Drained) -> int:
    """Remove copies whose originals were deleted after they had been copied: what somebody deleted must not come back.

    Arguments:
        source: descriptor of the folder that was copied from; None if it is gone altogether.
        target: descriptor of the folder that was copied to. A copy that was touched since stays.
        earlier: what `copy` returned.

    Returns:
        How many copies were removed.
    """
    removed = 0
    for path, placed in earlier._placed.items():
        *folders, name = path.split("/")[1:]
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            if source is not None and _status_below(source, folders, name, opened) is not None:
                continue
            folder = _descend(target, folders, opened)
            if _fingerprint(os.stat(name, dir_fd=folder, follow_symlinks=False)) == placed:
                os.unlink(name, dir_fd=folder)
                removed += 1
    return removed


def settle(source: int, target: int, earlier: Drained) -> int:
    """Finish a copy that has taken its source's place some moments ago: what somebody deleted since, in either, must not come back.

    Originals that were copied and have not changed go, so that nobody copies them a second time; everything else stays.

    Arguments:
        source: descriptor of the folder that was copied from.
        target: descriptor of the folder that was copied to.
        earlier: what `copy` returned.

    Returns:
        How many copies were removed, since their originals were deleted.
    """
    removed = take_back(source, target, earlier)
    for path, copied in earlier._copied.items():
        *folders, name = path.split("/")[1:]
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            folder = _descend(source, folders, opened)
            if _may_go(folder, name, copied):
                os.unlink(name, dir_fd=folder)
    return removed


def _status_below(folder: int, folders: list[str], name: str, opened: contextlib.ExitStack) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=_descend(folder, folders, opened), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descend(folder: int, folders: list[str], opened: contextlib.ExitStack) -> int:
    for name in folders:
        folder = os.open(name, FOLDER, dir_fd=folder)
        opened.callback(os.close, folder)
    return folder


def sync(folder: int) -> None:
    """Have everything of a file system on its disk.

    Source: syncfs(2).
    """
    if ctypes.CDLL(None, use_errno=True).syncfs(folder) != 0:
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code))


def is_being_written(file: int) -> bool:
    """Tell whether anybody has an open file open for writing, or maps it for writing.

    Arguments:
        file: a descriptor opened for reading only.
    """
    with _leases_break_quietly():
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return True
            raise
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def is_quiet(folder: int) -> bool:
    """Tell whether nobody has a file that lies directly in an open folder open for writing."""
    for name in _names(folder):
        try:
            file = os.open(name, _READ, dir_fd=folder)
        except OSError:
            # Gone, or no file that could be written to.
            continue
        try:
            if stat.S_ISREG(os.fstat(file).st_mode) and is_being_written(file):
                return False
        finally:
            os.close(file)
    return True


@contextlib.contextmanager
def _leases_break_quietly() -> Iterator[None]:
    # Whoever opens the file for writing in the microseconds of our lease has the kernel send us SIGIO, which would end us.
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    before = libc.signal(signal.SIGIO, ctypes.c_void_p(1))
    try:
        yield
    finally:
        libc.signal(signal.SIGIO, before)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _copy_folder(source: int, target: int, owner: Owner, path: str, report: Drained, only: Callable[[str], bool] | None = None) -> None:
    for name in _names(target):
        if name.startswith(_UNFINISHED):
            _remove_unfinished(target, name)
    for name in _names(source):
        # What a restore is writing gets its name where it lies.
        if name.startswith((_UNFINISHED, restoring.PREFIX)):
            continue
        if only is not None and not only(name):
            continue
        below = f"{path}/{name}"
        try:
            kind = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                _copy_subfolder(source, target, name, owner, below, report)
            elif stat.S_ISLNK(kind):
                with contextlib.suppress(FileExistsError):
                    os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISREG(kind):
                _copy_file(source, target, name, owner, below, report)
        except FileNotFoundError:
            # The app deletes as it likes: what is gone needs no copy.
            continue


def _copy_subfolder(source: int, target: int, name: str, owner: Owner, path: str, report: Drained) -> None:
    if path.count("/") > _DEEPEST:
        raise OSError(errno.ELOOP, f"Folders are nested more than {_DEEPEST} deep")
    inner = os.open(name, FOLDER, dir_fd=source)
    try:
        _make_folder(target, name, owner)
        outer = os.open(name, FOLDER, dir_fd=target)
        try:
            _copy_folder(inner, outer, owner, path, report)
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _make_folder(above: int, name: str, owner: Owner) -> None:
    """Have a folder, which is its owner's from the moment it can be seen: somebody may be waiting to write into it."""
    unfinished = f"{_UNFINISHED}{secrets.token_hex(8)}"
    os.mkdir(unfinished, 0o700, dir_fd=above)
    folder = os.open(unfinished, FOLDER, dir_fd=above)
    try:
        os.fchown(folder, owner.uid, owner.gid)
        os.fchmod(folder, owner.folder_mode)
    finally:
        os.close(folder)
    try:
        move_in(above, unfinished, above, name)
    except FileExistsError:
        os.rmdir(unfinished, dir_fd=above)


def _remove_unfinished(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=folder)


def _copy_file(source: int, target: int, name: str, owner: Owner, path: str, report: Drained) -> None:
    file = os.open(name, _READ, dir_fd=source)
    try:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            return
        if not _is_newer_than(before, file, target, name):
            report._copied[path] = _fingerprint(before)
            return
        unfinished = f"{_UNFINISHED}{secrets.token_hex(8)}"
        copy = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            digest = _pour(file, copy)
            os.fchown(copy, owner.uid, owner.gid)
            os.fchmod(copy, owner.file_mode)
            os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
            unchanged = _fingerprint(os.fstat(file)) == _fingerprint(before) and not is_being_written(file)
            if _digest(copy) != digest:
                raise OSError(errno.EIO, "A copy differs from its original", path)
            os.rename(unfinished, name, src_dir_fd=target, dst_dir_fd=target)
            report._placed[path] = _fingerprint(os.fstat(copy))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=target)
            raise
        finally:
            os.close(copy)
        report.files += 1
        report.size += before.st_size
        if unchanged:
            report._copied[path] = _fingerprint(before)
    finally:
        os.close(file)


def _is_newer_than(status: os.stat_result, file: int, target: int, name: str) -> bool:
    """Tell whether the file has to be copied, given what the target has under its name."""
    try:
        other = os.open(name, _READ, dir_fd=target)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    try:
        there = os.fstat(other)
        if there.st_mtime_ns != status.st_mtime_ns:
            return there.st_mtime_ns < status.st_mtime_ns
        # A clock tick may hold two writes.
        return there.st_size != status.st_size or _digest(other) != _digest(file)
    finally:
        os.close(other)


def _pour(source: int, target: int) -> bytes:
    digest, place = hashlib.sha256(), 0
    while piece := os.pread(source, _CHUNK, place):
        digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        place += len(piece)
    return digest.digest()


def _digest(file: int) -> bytes:
    digest, place = hashlib.sha256(), 0
    while piece := os.pread(file, _CHUNK, place):
        digest.update(piece)
        place += len(piece)
    return digest.digest()


def _remove_copied(source: int, path: str, once: Drained, total: Drained) -> None:
    for name in _names(source):
        below = f"{path}/{name}"
        try:
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(name, FOLDER, dir_fd=source)
                try:
                    _remove_copied(inner, below, once, total)
                finally:
                    os.close(inner)
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=source)
            elif stat.S_ISREG(status.st_mode):
                # What a killed copy has left is no file of anybody's; its original is where it was copied from. So is what a killed
                # restore has left; a living one is about to give it its name.
                is_left = name.startswith(_UNFINISHED) or (name.startswith(restoring.PREFIX) and not restoring.is_held(source))
                if is_left or _may_go(source, name, once._copied.get(below)):
                    os.unlink(name, dir_fd=source)
                else:
                    total.busy += 1
            else:
                total.dropped += not stat.S_ISLNK(status.st_mode)
                os.unlink(name, dir_fd=source)
        except FileNotFoundError:
            continue


def _may_go(source: int, name: str, copied: tuple[int, ...] | None) -> bool:
    if copied is None:
        return False
    file = os.open(name, _READ, dir_fd=source)
    try:
        return not is_being_written(file) and _fingerprint(os.fstat(file)) == copied
    finally:
        os.close(file)
