"""What ninety days of records say, day by day: the numbers that the page draws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


def days(runs: Mapping[str, Sequence[Entry]], now: float) -> list[Day]:
    """Return the last ninety days, the oldest first and today last.

    Arguments:
        runs: records by kind, as `facts.gather` has them.
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
        for entry in runs.get(kind, ()):
            if entry.moment < first * _DAY_S:
                break
            number = int(entry.moment) // _DAY_S - first
            # A clock that is a little ahead may be past midnight already.
            getattr(listed[min(number, DAYS - 1)], attribute).append(entry)
    return listed
