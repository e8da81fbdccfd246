"""What ninety days of records say, day by day: the numbers that the page draws."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.health import recent
from gigglekit.health.recent import Entry

DAYS = 90
_DAY_S = 86400


@dataclass
class Day:
    """One day in UTC.

    Arguments:
        date: `2026-11-24`.
        nights: nightly runs that ended on it, the newest first; likewise the others.
    """

    date: str
    nights: list[Entry] = field(default_factory=list)
    converges: list[Entry] = field(default_factory=list)
    backups: list[Entry] = field(default_factory=list)
    drills: list[Entry] = field(default_factory=list)
    disks: list[Entry] = field(default_factory=list)


def days(folder: Path, now: float) -> list[Day]:
    """Return the last ninety days, the oldest first and today last.

    Arguments:
        folder: where records lie; whatever does not belong there is passed over.
        now: seconds since 1970.
    """
    today = int(now) // _DAY_S
    first = today - DAYS + 1
    listed = [Day(time.strftime("%Y-%m-%d", time.gmtime(number * _DAY_S))) for number in range(first, today + 1)]
    for kind, attribute in (
        ("nightly", "nights"),
        ("converge", "converges"),
        ("backup", "backups"),
        ("drill", "drills"),
        ("disk", "disks"),
    ):
        for entry in recent.newest_first(folder, kind, now=now, since=first * _DAY_S):
            number = int(entry.moment) // _DAY_S - first
            # A clock that is a little ahead may be past midnight already.
            getattr(listed[min(number, DAYS - 1)], attribute).append(entry)
    return listed
