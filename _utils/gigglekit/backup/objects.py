"""What the bucket says about what lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Object:
    """What a listing says about an object: its newest version.

    Arguments:
        name: without the prefix.
        size: in bytes.
        modified: when it was written.
    """

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Version:
    """One version of an object, or a marker that hides those before it.

    Arguments:
        name: without the prefix.
        version_id: names it exactly.
        size: in bytes; 0 for a marker.
        marker: whether it is a marker.
        modified: when it was written.
    """

    name: str
    version_id: str
    size: int
    marker: bool
    modified: datetime


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Arguments:
        versions: how many versions and markers are gone.
        locked_until: when the last lock ends of those that could not be deleted yet; None if all are gone.
    """

    versions: int
    locked_until: datetime | None


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and not ended. Its parts cost room, and no listing of objects shows them."""

    name: str
    upload_id: str
    started: datetime
