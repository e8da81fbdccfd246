"""What a look at something elsewhere found, noted beside a digest of the settings it was found with: it counts for a day."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit.files.replacing import replace

_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Last:
    """The last look that found everything right.

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


def last(noted: object, settings: Path, now: float | None = None) -> Last:
    """Return when everything was last right.

    Arguments:
        noted: what `looked` returned then.
        settings: the file with the settings; a look with others does not count.
        now: seconds since 1970.

    Raises:
        OSError: the settings are there and cannot be read.
    """
    now = time.time() if now is None else now
    when = noted.get("time") if isinstance(noted, dict) else None
    if (
        not isinstance(noted, dict)
        or isinstance(when, bool)
        or not isinstance(when, int | float)
        or noted.get("settings") != _mark(settings)
    ):
        return Last(None, due=True)
    # A clock that was wrong is no reason not to look for years.
    return Last(when, due=not 0 <= now - when < _SECONDS)


def looked(settings: Path, now: float | None = None) -> dict[str, Any]:
    """Return what is to be noted of a look that found everything right.

    Arguments:
        settings: the file with the settings.
        now: seconds since 1970.

    Raises:
        OSError: the settings are there and cannot be read.
    """
    return {"settings": _mark(settings), "time": time.time() if now is None else now}


def read(notes: Path) -> dict[str, Any]:
    """Return what is noted; notes that cannot be read are as good as none."""
    try:
        content = json.loads(notes.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write(notes: Path, content: Mapping[str, Any]) -> None:
    """Note it, in one step.

    Raises:
        OSError: it cannot be noted.
    """
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(notes, json.dumps(content, sort_keys=True).encode() + b"\n")


def _mark(settings: Path) -> str:
    """Return a digest of the settings, "" if there are none. The keys among them are too long to be guessed from it."""
    try:
        return hashlib.sha256(settings.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
