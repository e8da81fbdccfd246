"""The newest records of a kind, read from the end of their file: what five years of runs left costs no more than ninety days."""

from __future__ import annotations

import calendar
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AHEAD_S = 300.0
"""A record from further in the future is of a clock that was wrong, and would look young for too long."""
_BLOCK = 64 << 10
_LONGEST_LINE = 1 << 20
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Entry:
    """One record whose time is known.

    Arguments:
        moment: when its run ended, in seconds since 1970.
        record: what was written, apart from differences of files; nothing about its types is promised.
    """

    moment: float
    record: dict[str, Any]

    def number(self, key: str) -> float | None:
        """Return a finite number of the record that is not below 0; None if there is none under this name."""
        value = self.record.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            return None
        return float(value)

    def text(self, key: str, most: int = 200) -> str:
        """Return a text of the record, cut to `most` characters; "" if there is none under this name."""
        value = self.record.get(key)
        return value[:most] if isinstance(value, str) else ""

    def length(self, key: str) -> int:
        """Return how long a list of the record is; 0 if there is none under this name."""
        value = self.record.get(key)
        return len(value) if isinstance(value, list) else 0


def moment_of(text: object) -> float | None:
    """Return the time that RFC 3339 in UTC and seconds says, as seconds since 1970; None if it says none."""
    if not isinstance(text, str):
        return None
    try:
        return float(calendar.timegm(time.strptime(text, _FORMAT)))
    except (ValueError, OverflowError):
        return None


def written(moment: float | None) -> str | None:
    """Return a time as records have it; None if it is not known."""
    return None if moment is None else time.strftime(_FORMAT, time.gmtime(moment))


def newest_first(folder: Path, kind: str, *, now: float, since: float = 0.0, most_bytes: int = 8 << 20) -> Iterator[Entry]:
    """Yield records that are not older than `since`. Whatever else lies in the file is passed over, and nothing raises.

    Arguments:
        folder: where records lie.
        kind: as in `gigglekit.records.append`.
        now: the time; records from the future are passed over.
        since: seconds since 1970; reading ends at the first record from before it, since lines are added at the end.
        most_bytes: where reading ends in any case.
    """
    for line in _lines_backwards(folder / f"{kind}.jsonl", most_bytes):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        moment = moment_of(record.get("time"))
        if moment is None or moment > now + AHEAD_S:
            continue
        if moment < since:
            return
        # Long, and nobody counts them: ninety days of differences would be all that lies in memory.
        record.pop("diffs", None)
        yield Entry(moment, record)


def _lines_backwards(path: Path, most_bytes: int) -> Iterator[bytes]:
    try:
        # Not waiting for a writer, should a pipe lie there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return
        end, limit = status.st_size, max(0, status.st_size - most_bytes)
        kept = b""
        while end > limit:
            start = max(limit, end - _BLOCK)
            kept = os.pread(descriptor, end - start, start) + kept
            end = start
            lines = kept.split(b"\n")
            kept = lines[0] if len(lines[0]) <= _LONGEST_LINE else b""
            yield from (line for line in reversed(lines[1:]) if line.strip())
        # A line that the limit has cut is none.
        if limit == 0 and kept.strip():
            yield kept
    except OSError:
        return
    finally:
        os.close(descriptor)
