"""What is known of the bucket without asking it: when it was last found usable, and when its own settings were last looked at.

A converge with nothing to do makes no request. So what a look at the bucket found is noted, together with the settings it was
found with, and counts for a day.
"""

from __future__ import annotations

from pathlib import Path

from gigglekit.files import looks
from gigglekit.files.looks import Last

NOTES = Path("/var/lib/giggles/backup/checked.json")
RIGHTS, OWN_SETTINGS = "rights", "settings"
"""What is looked at: whether the droplet has the rights that it needs, and the settings that the bucket itself has."""


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
    return looks.last(looks.read(notes).get(what), settings, now)


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
    looks.write(notes, {**looks.read(notes), what: looks.looked(settings, now)})
