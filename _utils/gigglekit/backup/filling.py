"""The clips of one user on their way into packs: read, known by their digest or not, encrypted, and cut where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from gigglekit.backup import clips
from gigglekit.backup.clips import ChangedError, UnreadableError, User
from gigglekit.backup.digests import Digests
from gigglekit.backup.manifest import Manifest, State
from gigglekit.backup.pack import Builder
from gigglekit.backup.repository import backup_key
from gigglekit.backup.storing import Entry, Storing
from gigglekit.files import walking

_BLOCK = 1 << 20
"""What of a larger one is put into packs at once: so much of a pack stays empty at most."""
_TRIES = 3
"""So often a file is read that changes meanwhile."""


@dataclass
class Filling:
    """The pack of a user that is being filled.

    Arguments:
        user: whose.
        digests: works out the user's digests.
        manifest: what is known to be stored.
        storing: takes packs that are full.
        pack_bytes: size of packs.
        progress: told bytes stored and files looked at.
    """

    user: User
    digests: Digests
    manifest: Manifest
    storing: Storing
    pack_bytes: int
    progress: Callable[[int, int], None]
    builder: Builder | None = None
    touched: list[tuple[str, State, int | None]] = field(default_factory=list)
    known: dict[str, int] | None = None
    like: str = ""
    twins: dict[str, Entry] = field(default_factory=dict)

    def take(self, found: walking.Found, name: str) -> bool:
        """Store a file's content unless it is stored; return whether it is known what it is."""
        for _ in range(_TRIES):
            try:
                descriptor, before = found.open()
            except OSError as error:
                # Gone, or a link now: the next run sees what is there then.
                return False if error.errno in clips.GONE else self._note_unreadable(error)
            try:
                self._take(descriptor, before, name)
            except ChangedError:
                continue
            except UnreadableError as error:
                return self._note_unreadable(error)
            finally:
                os.close(descriptor)
            return True
        self.storing.synced.unsettled += 1
        return False

    def _note_unreadable(self, error: OSError) -> bool:
        self.storing.synced.problems.append(
            f"A clip of vault {self.user.vault_id} could not be read and was not saved: {error.strerror}. All others were. If it lasts, "
            "look at the disk: dmesg; and restore the clip from an earlier snapshot if it is damaged: salt-call giggles.restore"
        )
        return False

    def _take(self, descriptor: int, before: os.stat_result, name: str) -> None:
        vault = self.user.vault_id
        if self.known is None:
            self.known, self.like = self.manifest.contents(vault), self.manifest.digest_like(vault)
        data, pieces = memoryview(b""), clips.read(descriptor, before.st_size, self.storing.buffer)
        # Then it is read once: it is in memory as a whole.
        is_small = before.st_size <= len(self.storing.buffer)
        if is_small:
            data = next(pieces, data)
            digest = self.digests.of(data, self.like)
        else:
            digester = self.digests.begin(self.like)
            for piece in pieces:
                digester.update(piece)
            digest = digester.finish()
        state = State.of(before)
        if State.of(os.fstat(descriptor)) != state:
            raise ChangedError
        content = self.known.get(digest)
        if content is not None:
            self.touched.append((name, state, content))
            return
        twin = self.twins.get(digest)
        if twin is not None:
            self.storing.expect(Entry(vault, name, state, digest, twin.size, twin.parts))
            return
        parts = self._put(data) if is_small else self._put_large(descriptor, before.st_size, digest)
        entry = Entry(vault, name, state, digest, before.st_size, parts)
        self.storing.expect(entry)
        self.twins[digest] = entry
        self.storing.synced.new_files += 1
        self.storing.synced.new_bytes += before.st_size
        self.progress(self.storing.synced.new_bytes, self.storing.synced.new_files)

    def _put(self, data: memoryview) -> list[tuple[str, int, int]]:
        """Put bytes into packs: into one if they fit into a whole one, so that one request reads them."""
        parts = []
        if self.builder is not None and len(data) > self.builder.room and len(data) <= self.pack_bytes:
            self.flush(more=True)
        while len(data):
            if self.builder is None:
                name, memory = self.storing.begin(self.user.vault_id)
                self.builder = Builder(backup_key(self.user.root_key), self.pack_bytes, name, memory)
            piece = data[: self.builder.room]
            parts.append((self.builder.id, self.builder.plain, len(piece)))
            self.builder.add(piece)
            data = data[len(piece) :]
            if not self.builder.room:
                self.flush(more=True)
        return parts

    def _put_large(self, descriptor: int, size: int, digest: str) -> list[tuple[str, int, int]]:
        parts: list[tuple[str, int, int]] = []
        again = self.digests.begin(digest)
        os.lseek(descriptor, 0, os.SEEK_SET)
        for block in clips.read(descriptor, size, self.storing.buffer[:_BLOCK]):
            again.update(block)
            for part in self._put(block):
                if parts and parts[-1][0] == part[0]:
                    last = parts.pop()
                    parts.append((last[0], last[1], last[2] + part[2]))
                else:
                    parts.append(part)
        if again.finish() != digest:
            # What went into the packs is wasted until they are written anew.
            raise ChangedError
        return parts

    def flush(self, *, more: bool = False) -> None:
        """Store the pack as it is, and write down the files whose content was stored before.

        Arguments:
            more: whether there is more to store.
        """
        if self.builder is not None and self.builder.plain:
            self.storing.store(self.user.vault_id, self.builder.finish(), more=more)
        self.builder = None
        if self.touched:
            with self.manifest.change():
                for name, state, content in self.touched:
                    if content is None:
                        self.manifest.touch_file(self.user.vault_id, name, state)
                    else:
                        self.manifest.put_file(self.user.vault_id, name, state, content)
            self.touched.clear()
