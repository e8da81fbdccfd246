"""What is known of UptimeRobot without asking it: when it was last looked at, and which of its entries this droplet made.

A converge with nothing to do makes no request. So what a look found is noted, together with a digest of the settings it was
found with, and counts for a day. The ids are what lets this droplet remove its own entries and nobody else's.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

NOTES = Path("/var/lib/giggles/uptimerobot/noted.json")
_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Noted:
    """What was noted.

    Arguments:
        time: seconds since 1970 of the last look that left everything right with these settings; None if there was none.
        due: whether it is time for another one.
        monitors: ids of monitors that this droplet made, or took over by their names.
        contacts: ids of alert contacts that this droplet made.
    """

    time: float | None
    due: bool
    monitors: frozenset[int] = frozenset()
    contacts: frozenset[int] = frozenset()

    @property
    def day(self) -> str:
        """When the last look was, for a person."""
        return "never" if self.time is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time))


def read(settings: Path, notes: Path = NOTES, *, now: float | None = None) -> Noted:
    """Return what is noted; notes that cannot be read are as good as none.

    Arguments:
        settings: the file with the settings; a look with others does not count.
        notes: where looks are noted.
        now: seconds since 1970.

    Raises:
        OSError: the settings are there and cannot be read.
    """
    now = time.time() if now is None else now
    content = _content(notes)
    monitors, contacts = _ids(content.get("monitors")), _ids(content.get("contacts"))
    at = content.get("time")
    if not isinstance(at, int | float) or isinstance(at, bool) or content.get("settings") != _mark(settings):
        return Noted(None, True, monitors, contacts)
    # A clock that was wrong is no reason not to look for years.
    return Noted(at, not 0 <= now - at < _SECONDS, monitors, contacts)


def note_ids(notes: Path, monitors: frozenset[int], contacts: frozenset[int]) -> None:
    """Note at once what was made or removed, so that a run that fails afterwards forgets nothing; the last look counts no more.

    Raises:
        OSError: it cannot be noted.
    """
    _write(notes, {"monitors": sorted(monitors), "contacts": sorted(contacts)})


def note_look(settings: Path, notes: Path, monitors: frozenset[int], contacts: frozenset[int], *, now: float | None = None) -> None:
    """Note that everything is as these settings want it.

    Raises:
        OSError: it cannot be noted.
    """
    looked = {"time": time.time() if now is None else now, "settings": _mark(settings)}
    _write(notes, {"monitors": sorted(monitors), "contacts": sorted(contacts), **looked})


def _write(notes: Path, content: dict[str, object]) -> None:
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(notes, json.dumps(content, sort_keys=True).encode() + b"\n")


def _content(notes: Path) -> dict[str, object]:
    try:
        content = json.loads(notes.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _ids(value: object) -> frozenset[int]:
    return frozenset(entry for entry in value if type(entry) is int) if isinstance(value, list) else frozenset()


def _mark(settings: Path) -> str:
    """Return a digest of the settings. The key among them is too long to be guessed from it."""
    try:
        return hashlib.sha256(settings.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
