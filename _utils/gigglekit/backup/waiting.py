"""What waits to be removed: written into the bucket by a prune, and removed by one that comes a day later at the earliest.

Others may be at work meanwhile: a restore that reads what was just given up, or a second droplet with the same keys, which is about to
refer to a pack that nobody else needs any more. The first is done within the day, and the second looks here before it refers to anything.
Source: docs/FORMAT.md, "What waits to be removed".
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gigglekit.backup import names
from gigglekit.backup.errors import BackupError, DamagedError, MissingError
from gigglekit.backup.names import SnapshotName, is_id, snapshot_name
from gigglekit.backup.section import NotReadableError, load_json, take
from gigglekit.crypto import chunked

if TYPE_CHECKING:
    from gigglekit.backup.manifest import Manifest
    from gigglekit.backup.repository import Repository

GRACE_SECONDS = 86400.0
"""So long it waits at least. A droplet's clock is right to within 15 minutes, or the bucket takes no request from it."""
KNOWN_SECONDS = GRACE_SECONDS / 4
"""What somebody has read of it may be relied on for so long: much less than it waits, since a snapshot also has to be stored."""
_KNOWN = "waiting"
_NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{32}")


@dataclass(frozen=True)
class Waiting:
    """What one prune gave up.

    Arguments:
        name: of its record, below `pruning/`.
        packs: ids.
        snapshots: names, with generation.
        is_damaged: it cannot be read, and so names nothing.
    """

    name: str
    packs: frozenset[str] = frozenset()
    snapshots: frozenset[SnapshotName] = frozenset()
    is_damaged: bool = False

    @property
    def seconds(self) -> int:
        """Since when, in seconds since 1970."""
        return calendar.timegm(time.strptime(self.name.partition("-")[0], "%Y%m%dT%H%M%SZ"))

    @property
    def number(self) -> int:
        """How many objects it names."""
        return len(self.packs) + len(self.snapshots)


class UnknownError(NotReadableError):
    """A record that a droplet with these keys wrote, and that is not understood here."""


def new_name(seconds: float) -> str:
    """Return a name for a record made at that time (seconds since 1970)."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}-{names.new_id()}"


def encode(waiting: Waiting, key: bytes) -> bytes:
    """Return the record as it lies in the bucket.

    Arguments:
        waiting: what it says.
        key: the snapshot key.
    """
    content = {
        "format": 1,
        "packs": sorted(waiting.packs),
        "snapshots": sorted(name.text for name in waiting.snapshots),
    }
    return chunked.encrypt(key, names.pruning_context(waiting.name), json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def decode(name: str, data: bytes, key: bytes) -> Waiting:
    """Read a record, and believe nothing in it.

    Raises:
        NotReadableError: it is none.
        UnknownError: it is one, of a newer version.
    """
    try:
        text = chunked.decrypt(key, names.pruning_context(name), data)
    except chunked.DamagedError:
        raise NotReadableError("it does not open: it is damaged, or lies under another name") from None
    try:
        form, packs, snapshots = take(load_json(text), "format", "packs", "snapshots")
        if form != 1:
            raise NotReadableError("its format is another one")
        wanted, ids = _texts(snapshots), _texts(packs)
        found = frozenset(one for one in map(snapshot_name, wanted) if one is not None)
        if not all(map(is_id, ids)) or len(found) != len(set(wanted)):
            raise NotReadableError("it names what is no pack or snapshot")
    except NotReadableError as error:
        raise UnknownError(str(error)) from None
    return Waiting(name, frozenset(ids), found)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise NotReadableError("a list in it is none")
    return value


def record_names(repository: Repository) -> list[str]:
    """Return the names of the records there are, without `pruning/`, the oldest first."""
    found = [entry.name.removeprefix(names.PRUNING) for entry in repository.bucket.list(names.PRUNING)]
    return sorted(name for name in found if _is_name(name))


def _is_name(text: str) -> bool:
    match = _NAME.fullmatch(text)
    try:
        return match is not None and bool(time.strptime(match[1], "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return False


def read(repository: Repository, wanted: Iterable[str], unreadable: list[str] | None = None) -> list[Waiting]:
    """Return records.

    One that is damaged counts for one that names nothing: whoever prunes reads the same, so nothing that it names is removed by it.

    Arguments:
        repository: it.
        wanted: their names.
        unreadable: for who only looks: gets a sentence for each that is damaged or of a newer version.

    Raises:
        BackupError: one is of a newer version, so that what another droplet is about to remove cannot be told.
    """
    found = []
    for name in wanted:
        try:
            found.append(decode(name, repository.bucket.get(names.PRUNING + name), repository.secrets.snapshots))
        except MissingError:
            continue
        except UnknownError as error:
            sentence = (
                f"{names.PRUNING}{name} in the bucket is of a newer version of giggles-salt and is not understood here: {error}. So "
                "nobody knows what another droplet is about to remove, and nothing was saved or removed. Bring this droplet to the same "
                "commit: git -C /srv/giggles-salt pull, then salt-call state.apply"
            )
            if unreadable is None:
                raise BackupError(sentence) from None
            unreadable.append(sentence)
        except (NotReadableError, DamagedError) as error:
            found.append(Waiting(name, is_damaged=True))
            if unreadable is not None:
                unreadable.append(
                    f"{names.PRUNING}{name} is not as it was written: {str(error).rstrip('.')}. Nothing depends on it but when what it "
                    "names is removed, and the next prune writes that down anew."
                )
    return found


def note(manifest: Manifest, known: Iterable[str], given_up: Collection[str]) -> None:
    """Write down which records there are, and refer to no pack that they name from now on; within a change of the manifest."""
    manifest.give_up(given_up)
    manifest.put(_KNOWN, " ".join(sorted(known)))


def known(manifest: Manifest) -> set[str]:
    """Return the records that this droplet has read or written."""
    return set((manifest.get(_KNOWN) or "").split())
