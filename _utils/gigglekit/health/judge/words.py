"""Times, spans and lists as people say them, on one line each."""

from __future__ import annotations

import time
from collections.abc import Sequence

HOUR, DAY = 3600.0, 86400.0
_MOST_NAMES = 5
_LONGEST = 300


def readable(when: str | None) -> str:
    """Return a time of a record as people write it."""
    return "" if when is None else when.replace("T", " ").replace(":00Z", "Z")[:16] + " UTC"


def at(seconds: float) -> str:
    """Return a time in seconds since 1970 as people write it; a time that no calendar has is said to be unknown."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def ago(seconds: float) -> str:
    """Return a span of time as people say it: `40 min`, `5 h`, `3 days`."""
    if seconds < 90 * 60:
        return f"{max(0.0, seconds) / 60:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days"


def names(given: Sequence[str]) -> str:
    """Return the first few of them, and how many more there are."""
    told = ", ".join(given[:_MOST_NAMES])
    return told if len(given) <= _MOST_NAMES else f"{told} and {len(given) - _MOST_NAMES} more"


def short(text: str, most: int = _LONGEST) -> str:
    """Return a text of somebody else's on one line that is not too long, with nothing in it that moves a cursor."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def sentence(text: str) -> str:
    """Return a text as a sentence: with a full stop, and a capital letter unless it begins with the name of a unit, file or state."""
    return capital(text) + ("" if text.endswith((".", "…", "!", "?")) else ".")


def capital(text: str) -> str:
    """Return a text with a capital letter, unless it begins with a name."""
    first = text.partition(" ")[0].rstrip(":;,.")
    return f"{text[:1].upper()}{text[1:]}" if first.isalpha() else text
