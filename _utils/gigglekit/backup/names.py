"""Names of objects in the bucket, and what binds an object's content to its name. Source: docs/FORMAT.md."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from gigglekit.files import unfinished

USER_KEYS, SYSTEM_KEYS, DATABASE_KEYS, SHARES = "keys/users/", "keys/system/", "keys/database/", "keys/shares/"
DATA, SNAPSHOTS, DATABASE, ERASED, RECEIPTS = "data/", "snapshots/", "database/", "ledger/erased/", "ledger/receipts/"
PRUNING = "pruning/"

BACKUP_LABEL, MANIFEST_LABEL, CONTENT_LABEL = "giggles-salt/v1/backup", "giggles-salt/v1/manifest", "giggles-salt/v1/content"

UNFINISHED = unfinished.PREFIX
"""What names of files on the droplet begin with that a restore has not finished."""

AHEAD_SECONDS = 86400
"""What is dated so long after now was made by nobody with a right clock: the bucket refuses whose clock is 15 minutes off."""

_ID = re.compile(r"[0-9a-f]{32}")
_SNAPSHOT = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{32})\.(0|[1-9][0-9]{0,5})")


def new_id() -> str:
    """Return a random id: 16 bytes from the operating system, in hexadecimal."""
    return os.urandom(16).hex()


def is_id(text: object) -> bool:
    """Tell whether this is an id of a pack, dump, snapshot or vault."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True, order=True)
class SnapshotName:
    """The name of a snapshot, without `snapshots/`.

    Arguments:
        time: when it was made, `YYYYMMDDTHHMMSSZ`.
        id: 32 hexadecimal digits.
        generation: how often it was written anew.
    """

    time: str
    id: str
    generation: int = 0

    @property
    def text(self) -> str:
        """As it stands in the bucket, below `snapshots/`."""
        return f"{self.base}.{self.generation}"

    @property
    def base(self) -> str:
        """Without its generation: what a person names a snapshot by."""
        return f"{self.time}-{self.id}"

    @property
    def object(self) -> str:
        """The object's name."""
        return f"{SNAPSHOTS}{self.text}"

    @property
    def seconds(self) -> int:
        """When it was made, in seconds since 1970."""
        import calendar

        return calendar.timegm(time.strptime(self.time, "%Y%m%dT%H%M%SZ"))

    @property
    def written(self) -> str:
        """When it was made, as a person and JSON have it (RFC 3339)."""
        year, month, day = self.time[:4], self.time[4:6], self.time[6:8]
        return f"{year}-{month}-{day}T{self.time[9:11]}:{self.time[11:13]}:{self.time[13:15]}Z"


def snapshot_name(text: str) -> SnapshotName | None:
    """Read the name of a snapshot, without `snapshots/`; None if it is none."""
    match = _SNAPSHOT.fullmatch(text)
    if match is None:
        return None
    try:
        time.strptime(match[1], "%Y%m%dT%H%M%SZ")
    except ValueError:
        return None
    return SnapshotName(match[1], match[2], int(match[3]))


def new_snapshot(seconds: float) -> SnapshotName:
    """Return a name for a snapshot made at that time (seconds since 1970)."""
    return SnapshotName(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds)), new_id())


def pack_context(pack_id: str) -> bytes:
    """Return what binds a pack to its name."""
    return b"giggles-salt/v1/pack\0" + pack_id.encode()


def section_context(snapshot: SnapshotName, vault_id: str) -> bytes:
    """Return what binds a section to its snapshot and its user."""
    return f"giggles-salt/v1/section\0{snapshot.id}.{snapshot.generation}\0{vault_id}".encode()


def head_context(snapshot: SnapshotName) -> bytes:
    """Return what binds a head to its snapshot's name."""
    return b"giggles-salt/v1/snapshot\0" + snapshot.text.encode()


def pruning_context(name: str) -> bytes:
    """Return what binds a record of what waits to be removed to its name."""
    return b"giggles-salt/v1/pruning\0" + name.encode()


def dump_context(dump_id: str) -> bytes:
    """Return what binds a database dump to its name."""
    return b"giggles-salt/v1/database\0" + dump_id.encode()


def dump_label(dump_id: str) -> str:
    """Return what a dump's key is derived for."""
    return f"giggles-salt/v1/database\0{dump_id}"


def key_info(name: str) -> bytes:
    """Return what binds a sealed key to its object's name."""
    return b"giggles-salt/v1/key\0" + name.encode()
