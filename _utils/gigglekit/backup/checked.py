"""What is known of the bucket without asking it: when it was last found usable, and when its own settings were last looked at.

A converge with nothing to do makes no request. So what a look at the bucket found is noted, together with the settings it was
found with, and counts for a day.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

NOTES = Path("/var/lib/giggles/backup/checked.json")
RIGHTS, OWN_SETTINGS = "rights", "settings"
"""What is looked at: whether the droplet has the rights that it needs, and the settings that the bucket itself has."""

_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Last:
    """The last look at the bucket that found everything right.

    Arguments:
        time: seconds since 1970; None if there was none with these settings.
        due: whether it is time for another one.
    """

    time: float | None
    due: bool

    @property
    def day(self) -> str:
        """When it was, for a person."""
        return "never" if self.time is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time))


def last(what: str, settings: Path, *, notes: Path = NOTES, now: float | None = None) -> Last:
    """Return when the bucket was last found right.

    Arguments:
        what: `RIGHTS` or `OWN_SETTINGS`.
        settings: the file with the settings of the backup; a look with others does not count.
        notes: where looks are noted.
        now: seconds since 1970.

    Raises:
        OSError: the settings cannot be read.
    """
    now = time.time() if now is None else now
    noted = _read(notes).get(what)
    if not isinstance(noted, dict) or noted.get("settings") != _mark(settings) or not isinstance(noted.get("time"), int | float):
        return Last(None, due=True)
    # A clock that was wrong is no reason not to look for years.
    return Last(noted["time"], due=not 0 <= now - noted["time"] < _SECONDS)


def note(what: str, settings: Path, *, notes: Path = NOTES, now: float | None = None) -> None:
    """Note that the bucket was found right just now.

    Arguments:
        what: `RIGHTS` or `OWN_SETTINGS`.
        settings: the file with the settings it was looked at with.
        notes: where looks are noted.
        now: seconds since 1970.

    Raises:
        OSError: it cannot be noted.
    """
    content = _read(notes)
    content[what] = {"settings": _mark(settings), "time": time.time() if now is None else now}
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(notes, json.dumps(content, sort_keys=True).encode() + b"\n")


def _read(notes: Path) -> dict[str, object]:
    """Return what is noted; notes that cannot be read are as good as none."""
    try:
        content = json.loads(notes.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _mark(settings: Path) -> str:
    """Return a digest of the settings. The application key among them is too long to be guessed from it."""
    return hashlib.sha256(settings.read_bytes()).hexdigest()
