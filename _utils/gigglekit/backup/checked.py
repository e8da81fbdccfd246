"""What is known of the bucket without asking it: when it was last found usable, and when its own settings were last looked at."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gigglekit import looks

NOTES = Path("/var/lib/giggles/backup/checked.json")
RIGHTS, OWN_SETTINGS = "rights", "settings"
"""What is looked at: whether the droplet has the rights that it needs, and the settings that the bucket itself has."""
UNCOMPARED = "uncompared"
"""What a look has found once: the bucket takes other bytes than those that were signed. It counts for as long as the settings do."""


def last(what: str, settings: Path, *, notes: Path = NOTES) -> looks.Last:
    """Return when the bucket was last found right.

    Arguments:
        what: `RIGHTS` or `OWN_SETTINGS`.
        settings: the file with the settings of the backup; a look with others does not count.
        notes: where looks are noted.

    Raises:
        OSError: the settings cannot be read.
    """
    return looks.last(notes, what, _mark(settings))


def note(what: str, settings: Path, *, notes: Path = NOTES) -> None:
    """Note that the bucket was found right just now.

    Arguments:
        what: `RIGHTS` or `OWN_SETTINGS`.
        settings: the file with the settings it was looked at with.
        notes: where looks are noted.

    Raises:
        OSError: it cannot be noted, or the settings cannot be read.
    """
    looks.note(notes, what, _mark(settings))


def _mark(settings: Path) -> str:
    """Return a digest of the settings. The application key among them is too long to be guessed from it."""
    return hashlib.sha256(settings.read_bytes()).hexdigest()
