"""The repository: what is in the bucket as a whole, for everything that reads or writes snapshots."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gigglekit.backup import names, section, signed, snapshot
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.section import Encoded, NotReadableError, Section
from gigglekit.backup.signed import Signer
from gigglekit.backup.snapshot import Head, Part
from gigglekit.crypto import chunked, keys

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket

_FIRST_READ = 2 << 20
"""Most snapshots are smaller, sections included, so that one request reads them: 20,000 clips take 0.7 MB."""


@dataclass(frozen=True)
class Secrets:
    """The keys that a repository is read and written with, users' own excepted.

    Arguments:
        snapshots: the snapshot key.
        names: the key that user ids are hashed with.
        signer: what signs; None on a machine that only reads.
        signer_public: its public half, 32 bytes.
        kit_public: public half of the recovery kit's key; None on a machine that only reads.
    """

    snapshots: bytes = field(repr=False)
    names: bytes = field(repr=False)
    signer: Signer | None
    signer_public: bytes
    kit_public: bytes | None


@dataclass(frozen=True)
class Opened:
    """A snapshot whose head was read.

    Arguments:
        name: its name.
        head: its head.
        start: where its sections begin, in bytes.
        beginning: its first bytes, as they were read with the head.
    """

    name: SnapshotName
    head: Head
    start: int
    beginning: bytes = field(repr=False)


class Repository:
    """Snapshots in a bucket.

    Arguments:
        bucket: opens the bucket; called when something is first asked of it, since that takes longer than a run with nothing new.
        secrets: the keys.
    """

    def __init__(self, bucket: Callable[[], Bucket], secrets: Secrets) -> None:
        self._open = bucket
        self._bucket: Bucket | None = None
        self._opening = threading.Lock()
        self._sizes: dict[str, int] = {}
        self.damaged_tombstones: set[str] = set()
        """Names of those that `erased` could not read."""
        self.secrets = secrets

    @property
    def bucket(self) -> Bucket:
        """The bucket, opened now if it was not; once, however many threads ask first."""
        with self._opening:
            if self._bucket is None:
                self._bucket = self._open()
            return self._bucket

    @property
    def was_asked(self) -> bool:
        """Tell whether the bucket was opened."""
        return self._bucket is not None

    # --- reading ---------------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[SnapshotName]:
        """Return the snapshots that count, the oldest first: of each the highest generation."""
        newest: dict[str, SnapshotName] = {}
        for found in self.bucket.list(names.SNAPSHOTS):
            name = names.snapshot_name(found.name.removeprefix(names.SNAPSHOTS))
            if name is not None:
                self._sizes[name.text] = found.size
            if name is not None and (name.base not in newest or newest[name.base].generation < name.generation):
                newest[name.base] = name
        return sorted(newest.values())

    def choose(self, wanted: str | None) -> SnapshotName:
        """Return the snapshot that somebody named: `latest`, a time or the beginning of a name; None is the latest.

        Raises:
            RefusedError: there is none, or more than one.
        """
        found = self.snapshots()
        if not found:
            raise RefusedError(
                "There is no snapshot in this bucket, so there is nothing to restore. Check giggles:backup:bucket and :prefix; a first "
                "snapshot is made by salt-call giggles.sync."
            )
        if wanted in (None, "", "latest"):
            return found[-1]
        text = str(wanted)
        # 2026-11-24T05:45:00Z and 2026-11-24 are what giggles.snapshots shows and what people remember.
        compact = text.replace(":", "").replace("-", "") if re.match(r"\d{4}-", text) else text
        fitting = [name for name in found if name.base.startswith(compact)]
        if len(fitting) != 1:
            raise RefusedError(
                f"{'No snapshot' if not fitting else f'{len(fitting)} snapshots'} of the name or time that was asked for. Nothing was "
                "done. salt-call giggles.snapshots lists them; give one of the names, or latest."
            )
        return fitting[0]

    def open(self, name: SnapshotName) -> Opened:
        """Read the head of a snapshot.

        Raises:
            MissingError, DamagedError: it is not there, or not as it was written.
        """
        if name.text not in self._sizes:
            self.snapshots()
        if name.text not in self._sizes:
            raise MissingError(name.object)
        first = self.bucket.read(name.object, 0, min(self._sizes[name.text], _FIRST_READ))
        try:
            size = snapshot.head_size(first)
            end = snapshot.FIRST_BYTES + size
            if end > len(first):
                first += self.bucket.read(name.object, len(first), end - len(first))
            head = snapshot.decode_head(name, first[snapshot.FIRST_BYTES : end], self.secrets.snapshots)
        except (NotReadableError, DamagedError) as error:
            raise self._damaged_head(name, error) from None
        return Opened(name, head, end, first)

    def section(self, opened: Opened, part: Part, root_key: bytes) -> Section:
        """Read what a snapshot holds of one user.

        Raises:
            MissingError, DamagedError: it is not there, or not as it was written.
        """
        start, end = opened.start + part.offset, opened.start + part.offset + part.length
        data = opened.beginning[start:end] if end <= len(opened.beginning) else self.bucket.read(opened.name.object, start, part.length)
        return self.read_section(opened.name, part, data, root_key)

    def read_section(self, name: SnapshotName, part: Part, data: bytes, root_key: bytes) -> Section:
        """Open a section.

        Raises:
            DamagedError: it is not as it was written.
        """
        if len(data) != part.length or hashlib.sha256(data).hexdigest() != part.sha256:
            raise self._damaged(name.object, f"the part of vault {part.vault} was changed")
        try:
            text = chunked.decrypt(backup_key(root_key), names.section_context(name, part.vault), data)
            return section.decode(text)
        except (chunked.DamagedError, NotReadableError) as error:
            raise self._damaged(name.object, f"the part of vault {part.vault} does not open: {error}") from None

    def erased(self, damaged: list[str] | None = None, among: Collection[str] | None = None) -> dict[str, str]:
        """Return the users that were erased, as the bucket knows them: since when, by vault id.

        Arguments:
            damaged: gets a sentence for each tombstone that cannot be read; without it that is an error, unless a receipt says the same.
            among: only these vaults are asked for, so that no other tombstone is read.

        Raises:
            DamagedError: a tombstone was changed or put there by somebody else.
        """
        found, unclear = {}, {}
        for entry in self.bucket.list(names.ERASED):
            vault = entry.name.removeprefix(names.ERASED)
            if among is not None and vault not in among:
                continue
            try:
                found[vault] = signed.read_tombstone(entry.name, self.bucket.get(entry.name, 4096), self.secrets.signer_public)
            except (NotReadableError, DamagedError) as error:
                self.damaged_tombstones.add(entry.name)
                unclear[vault] = self._damaged_tombstone(entry.name, vault, error)
        if damaged is not None:
            damaged += map(str, unclear.values())
        elif unclear:
            receipts = self._erased_by_receipts()
            for vault, reason in unclear.items():
                if vault not in receipts:
                    raise reason
                found[vault] = receipts[vault]
        return found

    def _erased_by_receipts(self) -> dict[str, str]:
        """Return who was erased, as receipts say, which are signed as tombstones are: since when, by vault id."""
        found = {}
        for entry in self.bucket.list(names.RECEIPTS):
            # One that is damaged says nothing.
            with contextlib.suppress(NotReadableError, DamagedError):
                data = self.bucket.get(entry.name, signed.RECEIPT_BYTES)
                subject, since = signed.read_receipt(entry.name, data, self.secrets.signer_public)
                found[subject] = since
        return found

    # --- writing ---------------------------------------------------------------------------------------------------------

    def write(self, name: SnapshotName, head: Head, sections: Iterable[tuple[str, bytes, Encoded]]) -> bytes:
        """Return a snapshot, ready to be stored.

        Arguments:
            name: its name.
            head: its head, without users.
            sections: vault id, root key and section before it is encrypted; sorted by vault.
        """
        parts, body = snapshot.lay_out(
            (vault, chunked.encrypt(backup_key(root), names.section_context(name, vault), content.data), content.files, content.size)
            for vault, root, content in sections
        )
        return snapshot.encode(name, Head(head.time, head.number, head.previous, head.dump, parts), body, self.secrets.snapshots)

    def store_key(self, name: str, key: bytes) -> None:
        """Store a key so that only the recovery kit opens it.

        Arguments:
            name: the object's name.
            key: 32 bytes.
        """
        if self.secrets.kit_public is None or self.secrets.signer is None:
            raise RefusedError(
                "There is no recovery kit yet, and without one nobody could ever restore this backup. Nothing was stored. Make it and "
                "keep it in your password manager: salt-call giggles.recovery_kit"
            )
        self.bucket.put(name, signed.seal_key(name, key, self.secrets.kit_public, self.secrets.signer))

    def _damaged_head(self, name: SnapshotName, error: NotReadableError | DamagedError) -> DamagedError:
        text = str(error if isinstance(error, DamagedError) else self._damaged(name.object, str(error)))
        earlier = [known.base for known in map(names.snapshot_name, self._sizes) if known is not None and known.base < name.base]
        if name.seconds > time.time() + names.AHEAD_SECONDS:
            text += (
                " It is dated more than a day ahead of this machine's clock. If that is right (timedatectl), no droplet gave such a name, "
                "and somebody else writes into this bucket. Until it is gone, it is what latest means, no prune removes anything but dumps "
                "at their end, and snapshots made meanwhile are dated after it. Delete it with all its versions in the web UI of "
                "Backblaze, replace the application key, then ask for salt-call giggles.sync."
            )
        if earlier:
            text += f" To restore without it, name the one before: snapshot={max(earlier)}"
        return DamagedError(name.object, text)

    @staticmethod
    def _damaged_tombstone(name: str, vault: str, error: NotReadableError | DamagedError) -> DamagedError:
        what = str(error) if isinstance(error, DamagedError) else f"{name} in the bucket is not as it was written: {error}."
        return DamagedError(
            name,
            f"{what} It would say that the user of vault {vault} was erased. The droplet that has erased the user writes it anew: "
            "salt-call giggles.prune, then salt-call giggles.sync. Where that droplet is gone, a receipt in the bucket that says so counts "
            "as well. Without one nobody can tell whether it was damaged, or somebody else has put it there, and no prune and no restore "
            "with the kit goes on: it could destroy what somebody has who was not erased, or bring back somebody who was. Look at its "
            "versions then, in the web UI of Backblaze: if an earlier one lies there, delete the later ones, and it counts again. If none "
            "does, delete them all and ask again; then erase anew whoever wanted to be erased and has no receipt: salt-call giggles.shred "
            "user_id=… If nobody of you has changed the bucket, replace the application key.",
        )

    @staticmethod
    def _damaged(name: str, why: str) -> DamagedError:
        return DamagedError(
            name,
            f"{name} in the bucket is not as it was written: {why}. What it holds was not used. salt-call giggles.verify tells whether "
            "more is damaged; other snapshots do not depend on this one.",
        )


def backup_key(root_key: bytes) -> bytes:
    """Return the key that a user's packs and sections are encrypted by."""
    return keys.derive(root_key, names.BACKUP_LABEL)


def manifest_key(root_key: bytes) -> bytes:
    """Return the key for digests of a user's names and contents."""
    return keys.derive(root_key, names.MANIFEST_LABEL)
