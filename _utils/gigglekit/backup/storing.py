"""Packs on their way into the bucket: a few at a time, each written down before and after, and the files that wait for them."""

from __future__ import annotations

from collections import Counter, defaultdict
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


class Next(NamedTuple):
    """A pack that is written down as about to be stored, and whose."""

    pack: str
    vault: str


class Done(NamedTuple):
    """A pack that was stored and is not written down as that yet: whose, its id, bytes and header."""

    vault: str
    pack: str
    size: int
    header: bytes


@dataclass
class Storing:
    """Packs that are being stored, a few at a time, and the files that wait for them.

    Arguments:
        repository, manifest, threads, synced: of the run.
        pool: what stores them.
        ready: waits, in the thread of each pack, until those of a vault may be stored.

    Attributes:
        memory: of packs that are stored, for the next ones.
        done: packs that were stored and are not written down as that yet.
        next: the pack to come, if it is written down already.
        failure: of the first pack that could not be stored.
        buffer: what files are read into.
        waiting: files by the pack that they wait for; by "" what waits for none any more.
        awaited: how many files of a user are not written down yet, by vault id.
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
    done: list[Done] = field(default_factory=list)
    next: Next | None = None
    failure: BaseException | None = None
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(SMALL)))
    waiting: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    awaited: Counter[str] = field(default_factory=Counter)

    def begin(self, vault: str) -> tuple[str, memoryview | None]:
        """Begin a pack: waits while as many as may are under way, so that there never is memory for more of them.

        Returns:
            What its name is to be, and the memory of one that is stored; None if there is none.
        """
        # One that failed is left for later: a user's failure keeps nobody else's pack back while there is a thread free for it.
        self._take_back(self._settled() if len(self.running) >= self.threads else self._stored())
        if self.failure is not None:
            raise self.failure
        begun = self.next
        if begun is None or begun.vault != vault:
            begun = Next(names.new_id(), vault)
            self._write_down(begun)
        self.next = None
        return begun.pack, self.memory.pop() if self.memory else None

    def store(self, vault: str, pack: Finished, *, more: bool) -> None:
        """Store a pack that was begun.

        Arguments:
            vault: whose.
            pack: all of it.
            more: whether another one of the same user comes after it, most likely.
        """
        self.running[self.pool.submit(self._put, vault, names.DATA + pack.id, pack.body)] = (vault, pack)
        if more:
            # Now that it is under way nothing waits for the disk.
            self._write_down(Next(names.new_id(), vault))

    def _put(self, vault: str, name: str, body: memoryview) -> None:
        self.ready(vault)
        # Whether all of it is there is seen in a listing at the end: an MD5 takes longer than all that is done with the bytes before.
        self.repository.bucket.put(name, body, locked=True, confirmed=False)

    def _settled(self) -> Collection[Future[None]]:
        """Wait for a pack, and return all that were stored or failed by then."""
        return wait(self.running, return_when=FIRST_COMPLETED).done

    def _stored(self) -> Collection[Future[None]]:
        """Return the packs that are stored by now."""
        return [future for future in self.running if future.done() and future.exception() is None]

    def _take_back(self, done: Collection[Future[None]]) -> None:
        """Have the memory of packs for the next ones: anew from the kernel it would be zeroed, which takes longer than to fill it."""
        for future in done:
            vault, pack = self.running.pop(future)
            self.memory.append(pack.memory)
            if future.exception() is None:
                self.done.append(Done(vault, pack.id, len(pack.body), pack.header))
            else:
                self.failure = self.failure or future.exception()

    def _write_down(self, coming: Next | None = None) -> None:
        """Write down the packs that were stored, and the one that is about to be; by one transaction, since each waits for the disk."""
        before, unused = self.numbers, self.next
        self.numbers, self.next = dict(before), coming
        try:
            with self.manifest.change():
                for done in self.done:
                    self.numbers[done.pack] = self.manifest.add_pack(done.pack, done.vault, done.size, done.header)
                    self.manifest.finish(names.DATA + done.pack)
                self._known(done.pack for done in self.done)
                if unused is not None:
                    # Of a user who had no more.
                    self.manifest.finish(names.DATA + unused.pack)
                if coming is not None:
                    self.manifest.begin(names.DATA + coming.pack, coming.vault)
        except BaseException:
            # Nothing of it was written down, so no file may refer to it either.
            self.numbers, self.next = before, unused
            raise
        self.synced.packs += len(self.done)
        self.done.clear()

    def expect(self, entry: Entry) -> None:
        """Have a file written down when its content is stored altogether."""
        self.awaited[entry.vault] += 1
        self._wait(entry)

    def waits(self, vault: str) -> bool:
        """Tell whether a file of a user is not written down yet."""
        return vault in self.awaited

    def _wait(self, entry: Entry) -> None:
        self.waiting[self._lacking(entry)].append(entry)

    def _lacking(self, entry: Entry) -> str:
        return next((pack for pack, _, _ in entry.parts if pack not in self.numbers), "")

    def _known(self, stored: Iterable[str]) -> None:
        """Write down the files whose content is stored altogether now, with these packs."""
        for pack in stored:
            for entry in self.waiting.pop(pack, ()):
                self._wait(entry)
        files = []
        for entry in self.waiting.pop("", ()):
            parts = [(self.numbers[pack], offset, length) for pack, offset, length in entry.parts]
            content = self.manifest.add_content(entry.vault, entry.digest, entry.size, parts)
            files.append((entry.vault, entry.name, entry.state, content))
            self.awaited[entry.vault] -= 1
        self.manifest.put_files(files)
        self.awaited = +self.awaited

    def finish(self) -> None:
        """Wait for all, those after one that failed too."""
        while self.running:
            self._take_back(self._settled())
            self._write_down()
        # Empty files wait for no pack.
        self._write_down()
        if self.failure is not None:
            raise self.failure
