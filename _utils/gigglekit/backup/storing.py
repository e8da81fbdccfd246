"""Packs on their way into the bucket: a few at a time, each written down before and after, and the files that wait for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from gigglekit.backup import names
from gigglekit.backup.manifest import Manifest, State
from gigglekit.backup.pack import Finished
from gigglekit.backup.repository import Repository

SMALL = 4 << 20
"""Files up to this size are read once: hashed in memory, and stored only if their content is new."""


@dataclass
class Synced:
    """What a run did.

    Attributes:
        snapshot: name of the snapshot that was made, "" if there was nothing new.
        users, files, size: what the newest snapshot holds; bytes.
        new_files, new_bytes: what was read and stored.
        packs: how many were stored.
        gone: files that are in the snapshot before and not in this one.
        unsettled: files that changed each time they were read; the next run takes them.
        problems: one sentence each.
    """

    snapshot: str = ""
    users: int = 0
    files: int = 0
    size: int = 0
    new_files: int = 0
    new_bytes: int = 0
    packs: int = 0
    gone: int = 0
    unsettled: int = 0
    problems: list[str] = field(default_factory=list)


class Entry(NamedTuple):
    """A file whose content is on its way into the bucket."""

    vault: str
    name: str
    state: State
    digest: str
    size: int
    parts: list[tuple[str, int, int]]


@dataclass
class Storing:
    """Packs that are being stored, a few at a time, and the files that wait for them.

    Arguments:
        repository, manifest, threads, synced: of the run.
        pool: what stores them.
        ready: waits, in the thread of each pack, until those of a vault may be stored.

    Attributes:
        memory: of packs that are stored, for the next ones.
        buffer: what files are read into.
        waiting: files by the pack that they wait for; by "" what waits for none any more.
    """

    repository: Repository
    manifest: Manifest
    threads: int
    synced: Synced
    pool: ThreadPoolExecutor
    ready: Callable[[str], object]
    running: dict[Future[None], tuple[str, Finished]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    memory: list[memoryview] = field(default_factory=list)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(SMALL)))
    waiting: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, vault: str) -> tuple[str, memoryview | None]:
        """Begin a pack: waits while as many as may are under way, so that there never is memory for more of them.

        Returns:
            What its name is to be, and the memory of one that is stored; None if there is none.
        """
        done = self._settled() if len(self.running) >= self.threads else self._stored()
        pack = names.new_id()
        # By one transaction, since each waits for the disk.
        self._write_down(done, (names.DATA + pack, vault))
        for future in done:
            future.result()
        return pack, self.memory.pop() if self.memory else None

    def store(self, vault: str, pack: Finished) -> None:
        """Store a pack that was begun."""
        self.running[self.pool.submit(self._put, vault, names.DATA + pack.id, pack.body)] = (vault, pack)

    def _put(self, vault: str, name: str, body: memoryview) -> None:
        self.ready(vault)
        # Whether all of it is there is seen in a listing at the end: an MD5 takes longer than all that is done with the bytes before.
        self.repository.bucket.put(name, body, locked=True, confirmed=False)

    def _settled(self) -> Collection[Future[None]]:
        """Wait for a pack, and return all that were stored or failed by then."""
        return wait(self.running, return_when=FIRST_COMPLETED).done

    def _stored(self) -> Collection[Future[None]]:
        """Return the packs that are stored by now, whose memory the next ones can have.

        Those that failed are left for later: one user's failure keeps nobody else's pack back while there is a thread free for it.
        """
        return [future for future in self.running if future.done() and future.exception() is None]

    def _write_down(self, done: Collection[Future[None]] = (), beginning: tuple[str, str] | None = None) -> None:
        """Write down what is stored with these packs, those left out that failed, and that another is about to be: its name and vault."""
        before = self.numbers
        self.numbers = dict(before)
        try:
            with self.manifest.change():
                stored = []
                for future in done:
                    vault, pack = self.running.pop(future)
                    # Anew from the kernel it would be zeroed page by page, which takes longer than to encrypt what goes in.
                    self.memory.append(pack.memory)
                    if future.exception() is None:
                        self.numbers[pack.id] = self.manifest.add_pack(pack.id, vault, len(pack.body), pack.header)
                        self.manifest.finish(names.DATA + pack.id)
                        self.synced.packs += 1
                        stored.append(pack.id)
                self._known(stored)
                if beginning is not None:
                    self.manifest.begin(*beginning)
        except BaseException:
            # Nothing of it was written down, so no file may refer to it either.
            self.numbers = before
            raise

    def expect(self, entry: Entry) -> None:
        """Have a file written down when its content is stored altogether."""
        self.waiting[self._lacking(entry)].append(entry)

    def waits(self, vault: str) -> bool:
        """Tell whether a file of a user is not written down yet."""
        return any(entry.vault == vault for entries in self.waiting.values() for entry in entries)

    def _lacking(self, entry: Entry) -> str:
        return next((pack for pack, _, _ in entry.parts if pack not in self.numbers), "")

    def _known(self, stored: Iterable[str]) -> None:
        """Write down the files whose content is stored altogether now, with these packs."""
        for pack in stored:
            for entry in self.waiting.pop(pack, ()):
                self.expect(entry)
        files = []
        for entry in self.waiting.pop("", ()):
            parts = [(self.numbers[pack], offset, length) for pack, offset, length in entry.parts]
            content = self.manifest.add_content(entry.vault, entry.digest, entry.size, parts)
            files.append((entry.vault, entry.name, entry.state, content))
        self.manifest.put_files(files)

    def finish(self) -> None:
        """Wait for all, those after one that failed too."""
        failure: BaseException | None = None
        while self.running:
            done = self._settled()
            self._write_down(done)
            failure = next(filter(None, (future.exception() for future in done)), failure)
        if "" in self.waiting:
            # Empty files wait for no pack.
            self._write_down()
        if failure is not None:
            raise failure
