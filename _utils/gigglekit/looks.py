"""When something outside this droplet was last found as it should be, so that a converge with nothing to do does not ask it.

What a look found is noted, together with a mark of the settings it was found with, and counts for a day.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Last:
    """The last look that found everything as it should be.

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


def last(notes: Path, what: str, mark: str, *, now: float | None = None) -> Last:
    """Return when something was last found as it should be. Notes that cannot be read are as good as none.

    Arguments:
        notes: where looks are noted; root's alone.
        what: was looked at.
        mark: of the settings; a look with others does not count.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    noted = read(notes).get(what)
    at = noted.get("time") if isinstance(noted, dict) and noted.get("settings") == mark else None
    if not isinstance(at, int | float) or isinstance(at, bool):
        return Last(None, due=True)
    # A clock that was wrong is no reason not to look for years.
    return Last(at, due=not 0 <= now - at < _SECONDS)


def note(notes: Path, what: str, mark: str, *, now: float | None = None) -> None:
    """Note that it was found as it should be just now.

    Arguments:
        notes: where looks are noted.
        what: was looked at.
        mark: of the settings it was looked at with; no secret can be guessed from it.
        now: seconds since 1970.

    Raises:
        OSError: it cannot be noted.
    """
    content = read(notes)
    content[what] = {"settings": mark, "time": time.time() if now is None else now}
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(notes, json.dumps(content, sort_keys=True).encode() + b"\n")


def read(notes: Path) -> dict[str, object]:
    """Return all that is noted, which may be more than looks; notes that cannot be read are as good as none."""
    try:
        content = json.loads(notes.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
