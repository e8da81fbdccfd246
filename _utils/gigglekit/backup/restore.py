"""Restore: files out of a snapshot, each in one piece under its own name or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup import names
from gigglekit.backup.errors import DamagedError, MissingError
from gigglekit.backup.manifest import digest_of
from gigglekit.backup.repository import Repository, backup_key, manifest_key
from gigglekit.backup.section import FileEntry, PackEntry, Section
from gigglekit.crypto import chunked
from gigglekit.files import draining, links, unfinished

_GAP_BYTES = 512 << 10
"""What lies between two wanted pieces is read with them if it is not more than this: a request costs about as much."""
_READ_BYTES = 16 << 20
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
class Task:
    """What is to be written of one user.

    Arguments:
        section: what the snapshot holds of the user.
        root_key: the user's.
        folder: where to; `clips/…` is made in it.
        owner: of what is written; this process's account if None.
    """

    section: Section
    root_key: bytes = field(repr=False)
    folder: Path
    owner: Owner | None


def restore(
    repository: Repository,
    tasks: Iterable[Task],
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    replace: bool = False,
    threads: int = 4,
    progress: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Write the files of users, those of several at the same time.

    Arguments:
        repository: where they come from.
        tasks: whose, one after the other; asked for the next one when there is a thread free for it.
        wanted: which paths.
        replace: whether a file that is there with another content gives way.
        threads: packs that are read at once.
        progress: told bytes, now and then, by several threads.

    Raises:
        BackupError: the bucket does not answer. Files that were finished stay; none is there by halves.
        OSError: the disk is full, or the folder cannot be written.
    """
    run, placing = secrets.token_hex(4), _Placing()
    begun: list[_User] = []
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool:
            running: set[Future[None]] = set()
            for task in tasks:
                user = _User(repository, task, run, replace, placing)
                begun.append(user)
                for batch in user.begin(wanted):
                    # Few at a time, so that what was read does not pile up in memory.
                    if len(running) >= threads:
                        finished, running = wait(running, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                    running.add(pool.submit(user.restore, batch, progress))
            for future in running:
                future.result()
        placing.finish()
    finally:
        placing.throw_away()
        for user in begun:
            user.folders.close()
    total = Restored()
    for user in begun:
        total.add(user.done)
    return total


def restore_user(
    repository: Repository,
    section: Section,
    root_key: bytes,
    folder: Path,
    owner: Owner | None,
    *,
    wanted: Callable[[str], bool] = lambda _: True,
    replace: bool = False,
    threads: int = 4,
    progress: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Write the files of one user; see `Task` and `restore`."""
    tasks = [Task(section, root_key, folder, owner)]
    return restore(repository, tasks, wanted=wanted, replace=replace, threads=threads, progress=progress)


class _User:
    """The files of one user on their way."""

    def __init__(self, repository: Repository, task: Task, run: str, replace: bool, placing: _Placing) -> None:
        self.done = Restored()
        self._key = manifest_key(task.root_key)
        self._files, self._replace = task.section.files, replace
        self._fetcher = _Fetcher(repository, task.section.packs, backup_key(task.root_key))
        self.folders = _Folders(task.folder, task.owner, replace, self.done, run, placing)
        self._placing = placing
        self._left = 0
        self._lock = threading.Lock()

    def begin(self, wanted: Callable[[str], bool]) -> list[list[FileEntry]]:
        """Return what is to be done, in parts that each are one call of `restore`."""
        chosen = [file for file in self._files if wanted(file.path)]
        todo = [file for file in chosen if not _is_settled(self.folders, file, self._key, self._replace, self.done)]
        # One pack after the other, and in it from front to back.
        todo.sort(key=lambda file: (file.extents[0].pack, file.extents[0].offset) if file.extents else (-1, 0))
        batches = list(_batches(todo))
        self._left, self._files = len(batches), ()
        if not batches:
            self.folders.close()
        return batches

    def restore(self, batch: list[FileEntry], progress: Callable[[int], None]) -> None:
        """Write files; after the last of them, have the folders let go of as soon as all have their names."""
        _restore_batch(self._fetcher, self.folders, batch, self._key, self.done, progress)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._placing.whole(self.folders)


def _is_settled(folders: _Folders, file: FileEntry, key: bytes, replace: bool, done: Restored) -> bool:
    """Tell whether there is nothing to do for a file, since it is there."""
    try:
        found = folders.digest(file.path, key, file.size)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise
        done.damaged.append(
            f"{file.path} was not restored: one of its folders cannot be made, since something else lies there, or its name is too long "
            f"for this disk ({error.strerror}). Move away what is there, then ask again."
        )
        return True
    if found is None:
        return False
    if found == file.digest:
        done.same += 1
        return True
    if not replace:
        done.kept += 1
    return not replace


def _batches(files: list[FileEntry]) -> Iterable[list[FileEntry]]:
    """Group files that lie near each other in one pack, up to one read; a file in several packs is alone."""
    batch: list[FileEntry] = []
    for file in files:
        if len(file.extents) != 1:
            if batch:
                yield batch
            batch = []
            yield [file]
            continue
        part = file.extents[0]
        if batch:
            first, last = batch[0].extents[0], batch[-1].extents[0]
            near = part.pack == last.pack and part.offset - (last.offset + last.length) <= _GAP_BYTES
            if not near or part.offset + part.length - first.offset > _READ_BYTES:
                yield batch
                batch = []
        batch.append(file)
    if batch:
        yield batch


def _restore_batch(
    fetcher: _Fetcher, folders: _Folders, batch: list[FileEntry], key: bytes, done: Restored, progress: Callable[[int], None]
) -> None:
    try:
        if len(batch[0].extents) == 1:
            for file, content in fetcher.contents(batch):
                _write(folders, file, content, key)
                progress(file.size)
        else:
            (file,) = batch
            pieces = (fetcher.fetch(part.pack, part.offset, part.length).open(part.offset, part.length) for part in file.extents)
            _write(folders, file, pieces, key)
            progress(file.size)
    except (DamagedError, MissingError) as error:
        if len(batch) == 1 or isinstance(error, MissingError):
            done.damaged.extend(f"{file.path}: {error}" for file in batch)
            return
        # Whatever of it can be saved is saved.
        for file in batch:
            if not folders.has(file.path):
                _restore_batch(fetcher, folders, [file], key, done, progress)


def _write(folders: _Folders, file: FileEntry, pieces: Iterable[bytes | memoryview], key: bytes) -> None:
    digest = hashlib.sha256()
    with folders.unfinished(file) as descriptor:
        for piece in pieces:
            digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
        if digest_of(key, digest.hexdigest()) != file.digest:
            raise DamagedError(file.path, f"{file.path} is not what was saved: its digest differs, although every piece of it opened.")


@dataclass(frozen=True)
class _Piece:
    """Encrypted bytes of a pack, and what opens them."""

    reader: chunked.Reader
    data: bytes
    start: int
    name: str

    def open(self, offset: int, length: int) -> bytes:
        try:
            return self.reader.open(self.data, self.start, offset, length)
        except chunked.DamagedError as error:
            raise _damaged(self.name, error) from None


@dataclass
class _Fetcher:
    """Reads pieces of packs; of each pack the key is worked out once."""

    repository: Repository
    packs: tuple[PackEntry, ...]
    key: bytes
    readers: dict[int, chunked.Reader] = field(default_factory=dict)

    def contents(self, files: list[FileEntry]) -> Iterator[tuple[FileEntry, list[memoryview]]]:
        """Yield the content of files that each are one piece of the same pack, sorted by where they lie."""
        first, last = files[0].extents[0], files[-1].extents[0]
        pack = self.packs[first.pack]
        if len(files) > 1 and first.offset == 0 and last.offset + last.length == _plain_size(pack) and not _overlap(files):
            yield from self._whole(pack, files)
            return
        piece = self.fetch(first.pack, first.offset, last.offset + last.length - first.offset)
        for file in files:
            part = file.extents[0]
            yield file, [memoryview(piece.open(part.offset, part.length))]

    def _whole(self, pack: PackEntry, files: list[FileEntry]) -> Iterator[tuple[FileEntry, list[memoryview]]]:
        """Yield all files of a pack while it arrives, so that it is never in memory as a whole."""
        flow, held, end, before = self._flow(pack), memoryview(b""), 0, None
        content: list[memoryview] = []
        for file in files:
            part = file.extents[0]
            # Files of the same content are stored once.
            if part != before:
                content, before = [], part
                while end <= part.offset:
                    held = memoryview(next(flow))
                    end += len(held)
                held = held[len(held) - (end - part.offset) :]
                missing = part.length - len(held)
                while missing > 0:
                    content.append(held)
                    held = memoryview(next(flow))
                    end += len(held)
                    missing -= len(held)
                content.append(held[: len(held) + missing])
            yield file, content

    def _flow(self, pack: PackEntry) -> Iterator[bytes]:
        """Yield what is in a pack. What comes last is only given out when the pack is known to end there."""
        name = names.DATA + pack.id
        decryptor = chunked.Decryptor(self.key, names.pack_context(pack.id))
        # What else this key has encrypted is not this pack, even under its name.
        expected, last = pack.header, b""
        try:
            for sealed in self.repository.bucket.stream(name):
                yield last
                if not sealed.startswith(expected[: len(sealed)]):
                    raise chunked.DamagedError("encrypted by another key or for another context")
                expected = expected[len(sealed) :]
                last = decryptor.update(sealed)
            rest = decryptor.finish()
        except chunked.DamagedError as error:
            raise _damaged(name, error) from None
        yield last
        yield rest
        raise _damaged(name, ValueError("it is shorter than what was written"))

    def fetch(self, index: int, offset: int, length: int) -> _Piece:
        pack = self.packs[index]
        name = names.DATA + pack.id
        try:
            if index not in self.readers:
                self.readers[index] = chunked.Reader(self.key, names.pack_context(pack.id), pack.header, pack.size)
            start, end = self.readers[index].span(offset, length)
        except chunked.DamagedError as error:
            raise _damaged(name, error) from None
        return _Piece(self.readers[index], self.repository.bucket.read(name, start, end - start), start, name)


def _plain_size(pack: PackEntry) -> int:
    """Return how many bytes of clips a pack holds; -1 if it can be no pack."""
    try:
        return chunked.plaintext_size(pack.size)
    except chunked.DamagedError:
        return -1


def _overlap(files: list[FileEntry]) -> bool:
    """Tell whether pieces of a pack overlap that are not the same."""
    parts = [file.extents[0] for file in files]
    return any(one != other and one.offset + one.length > other.offset for one, other in itertools.pairwise(parts))


def _damaged(name: str, error: Exception) -> DamagedError:
    return DamagedError(
        name, f"{name} in the bucket is not as it was written: {error}. What lies in it cannot be restored from this snapshot."
    )


@dataclass(frozen=True)
class _Written:
    """A file that is written and does not have its name yet."""

    folders: _Folders
    folder: int
    beside: str
    file: FileEntry

    def throw_away(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.beside, dir_fd=self.folder)


class _Placing:
    """Gives files their names when their contents are on the disk for certain, which is asked for many at once, of several users too."""

    def __init__(self) -> None:
        self._written: list[_Written] = []
        self._whole: list[_Folders] = []
        self._waiting = 0
        self._disks: dict[int, int] = {}
        self._lock = threading.Lock()
        # One after the other, since the later one may let go of folders that the earlier one is giving names in.
        self._turn = threading.Lock()

    def add(self, written: _Written) -> None:
        """Take a file that is written; now and then all that were get their names by this."""
        with self._lock:
            self._written.append(written)
            self._waiting += written.file.size
            enough = self._waiting >= _PLACE_BYTES
        if enough:
            self._place()

    def whole(self, folders: _Folders) -> None:
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

    def _disks_of(self, placing: list[_Written]) -> set[int]:
        """Return a descriptor of each file system that these files lie in; it stays open as long as names may have to last."""
        found = set()
        for folder in {written.folder for written in placing}:
            device = os.fstat(folder).st_dev
            with self._lock:
                if device not in self._disks:
                    self._disks[device] = os.dup(folder)
                found.add(self._disks[device])
        return found


class _Folders:
    """The folders of a user's target, opened once each, and the files that are being written in them; no link is followed."""

    def __init__(self, folder: Path, owner: Owner | None, replace: bool, done: Restored, run: str, placing: _Placing) -> None:
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

    def digest(self, path: str, key: bytes, size: int) -> str | None:
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
            digest = hashlib.sha256()
            while block := os.read(descriptor, 1 << 20):
                digest.update(block)
        finally:
            os.close(descriptor)
        return digest_of(key, digest.hexdigest())

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
        self._placing.add(_Written(self, folder, beside, file))

    def name(self, written: _Written) -> None:
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
