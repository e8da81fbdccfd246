"""What is known of UptimeRobot without asking it: when it was last looked at, and which of its entries this droplet made.

A converge with nothing to do makes no request. So what a look found is noted, together with a digest of the settings it was
found with, and counts for a day. The ids are what lets this droplet remove its own entries and nobody else's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gigglekit import looks
from gigglekit.files.replacing import replace

NOTES = Path("/var/lib/giggles/uptimerobot/noted.json")
_LOOK = "look"


@dataclass(frozen=True)
class Noted(looks.Last):
    """What was noted.

    Arguments:
        time: seconds since 1970 of the last look that left everything right with these settings; None if there was none.
        due: whether it is time for another one.
        monitors: ids of monitors that this droplet made, or took over by their names.
        contacts: ids of alert contacts that this droplet made.
    """

    monitors: frozenset[int] = frozenset()
    contacts: frozenset[int] = frozenset()


def read(settings: Path, notes: Path = NOTES, *, now: float | None = None) -> Noted:
    """Return what is noted; notes that cannot be read are as good as none.

    Arguments:
        settings: the file with the settings; a look with others does not count.
        notes: where looks are noted.
        now: seconds since 1970.

    Raises:
        OSError: the settings are there and cannot be read.
    """
    content = looks.read(notes)
    last = looks.last(notes, _LOOK, _mark(settings), now=now)
    return Noted(last.time, last.due, _ids(content.get("monitors")), _ids(content.get("contacts")))


def note_ids(notes: Path, monitors: frozenset[int], contacts: frozenset[int]) -> None:
    """Note at once what was made or removed, so that a run that fails afterwards forgets nothing; the last look counts no more.

    Raises:
        OSError: it cannot be noted.
    """
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(notes, json.dumps({"monitors": sorted(monitors), "contacts": sorted(contacts)}, sort_keys=True).encode() + b"\n")


def note_look(settings: Path, notes: Path, monitors: frozenset[int], contacts: frozenset[int], *, now: float | None = None) -> None:
    """Note that everything is as these settings want it.

    Raises:
        OSError: it cannot be noted.
    """
    note_ids(notes, monitors, contacts)
    looks.note(notes, _LOOK, _mark(settings), now=now)


def _ids(value: object) -> frozenset[int]:
    return frozenset(entry for entry in value if type(entry) is int) if isinstance(value, list) else frozenset()


def _mark(settings: Path) -> str:
    """Return a digest of the settings. The key among them is too long to be guessed from it."""
    try:
        return hashlib.sha256(settings.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
