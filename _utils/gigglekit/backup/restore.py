"""Restore: files out of a snapshot, each in one piece under its own name or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup.digests import Digests
from gigglekit.backup.errors import DamagedError, MissingError
from gigglekit.backup.fetching import Fetcher
from gigglekit.backup.pack import PACK_BYTES
from gigglekit.backup.placing import Folders, Owner, Placing, Restored
from gigglekit.backup.repository import Repository, backup_key, manifest_key
from gigglekit.backup.section import FileEntry, Section

_GAP_BYTES = 512 << 10
"""What lies between two wanted pieces is read with them if it is not more than this: a request costs about as much."""
_READ_BYTES = PACK_BYTES
"""So much is read by one request at most. All of a pack is not held in memory while it comes, and what is cut out of one is."""


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
    run, placing = secrets.token_hex(4), Placing()
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

    def __init__(self, repository: Repository, task: Task, run: str, replace: bool, placing: Placing) -> None:
        self.done = Restored()
        self._digests = Digests(manifest_key(task.root_key))
        self._files, self._replace = task.section.files, replace
        self._fetcher = Fetcher(repository, task.section.packs, backup_key(task.root_key))
        self.folders = Folders(task.folder, task.owner, replace, self.done, run, placing)
        self._placing = placing
        self._left = 0
        self._lock = threading.Lock()

    def begin(self, wanted: Callable[[str], bool]) -> list[list[FileEntry]]:
        """Return what is to be done, in parts that each are one call of `restore`."""
        chosen = [file for file in self._files if wanted(file.path)]
        todo = [file for file in chosen if not _is_settled(self.folders, file, self._digests, self._replace, self.done)]
        # One pack after the other, and in it from front to back.
        todo.sort(key=lambda file: (file.extents[0].pack, file.extents[0].offset) if file.extents else (-1, 0))
        batches = list(_batches(todo))
        self._left, self._files = len(batches), ()
        if not batches:
            self.folders.close()
        return batches

    def restore(self, batch: list[FileEntry], progress: Callable[[int], None]) -> None:
        """Write files; after the last of them, have the folders let go of as soon as all have their names."""
        _restore_batch(self._fetcher, self.folders, batch, self._digests, self.done, progress)
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._placing.whole(self.folders)


def _is_settled(folders: Folders, file: FileEntry, digests: Digests, replace: bool, done: Restored) -> bool:
    """Tell whether there is nothing to do for a file, since it is there."""
    try:
        found = folders.digest(file.path, digests.begin(file.digest), file.size)
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
    fetcher: Fetcher, folders: Folders, batch: list[FileEntry], digests: Digests, done: Restored, progress: Callable[[int], None]
) -> None:
    try:
        if len(batch[0].extents) == 1:
            for file, content in fetcher.contents(batch):
                _write(folders, file, content, digests)
                progress(file.size)
        else:
            (file,) = batch
            pieces = (fetcher.fetch(part.pack, part.offset, part.length).open(part.offset, part.length) for part in file.extents)
            _write(folders, file, pieces, digests)
            progress(file.size)
    except (DamagedError, MissingError) as error:
        if len(batch) == 1 or isinstance(error, MissingError):
            done.damaged.extend(f"{file.path}: {error}" for file in batch)
            return
        # Whatever of it can be saved is saved.
        for file in batch:
            if not folders.has(file.path):
                _restore_batch(fetcher, folders, [file], digests, done, progress)


def _write(folders: Folders, file: FileEntry, pieces: Iterable[bytes | memoryview], digests: Digests) -> None:
    digester = digests.begin(file.digest)
    with folders.unfinished(file) as descriptor:
        for piece in pieces:
            digester.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]
        if digester.finish() != file.digest:
            raise DamagedError(file.path, f"{file.path} is not what was saved: its digest differs, although every piece of it opened.")
