"""What the log of one nightly run says: of the app's script, however often it was started, and of the runner that starts it.

Nothing that the log quotes is passed on: its lines hold e-mail addresses.

Source: the lines that process_nightly_audio.py of stokedbloke/giggles-cli prints; `gigglekit.fleet.lines` for the runner's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gigglekit.fleet import lines as fleet_lines

# The icons are not looked at, since editors and terminals rewrite them; a logger may put a time and a level in front.
_START = r"[^A-Za-z]*(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[^A-Za-z]*)?"
_FOUND = re.compile(_START + r"Found ([0-9]{1,7}) active users?\b")
_SUMMARY = re.compile(_START + r"Total: ([0-9]{1,7}) users? processed successfully, ([0-9]{1,7}) failed\s*")
_END = re.compile(_START + r"Nightly processing completed successfully\s*")
_FATAL = re.compile(_START + r"Fatal error in nightly processing")
_NO_USERS = re.compile(_START + r"No active users found")
_NO_DATABASE = re.compile(_START + r"Error getting active users")
_USER_ERROR = re.compile(_START + r"Error processing user ")
_SEGMENTS = re.compile(_START + r"Processed ([0-9]{1,7}) segment\(s\)")
_MEMORY = re.compile(_START + r"Memory after user cleanup: ([0-9]{1,7}(?:\.[0-9]{1,3})?) MB")
_LOCK_LINE = re.compile(r"The lock \S+ of the nightly job cannot be opened")
_FLAGS = {"no_users": _NO_USERS, "no_database": _NO_DATABASE, "fatal": _FATAL, "no_lock": _LOCK_LINE}
# What the job prints and then counts as success.
_SIGNS = {
    "key": re.compile(_START + r"Failed to load Limitless API key"),
    "no-key": re.compile(_START + r"No Limitless API key found for user"),
    "range": re.compile(_START + r"Error processing date range"),
    # Within the line: what answered stands before it.
    "skipped": re.compile(r"after [0-9]+ retries - skipping this chunk"),
}
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Told:
    """What the log of one run says.

    Arguments:
        found: users that it set out with; None if it does not say.
        completed: users of the summary that went well; None without a summary.
        failed: users of the summary that did not.
        ended: whether the end line stands after the summary, or after the word that there are no users.
        no_users: whether it says that there are none.
        no_database: whether it could not ask for the users.
        fatal: whether it says that an error ended it.
        user_errors: users whose processing it says failed.
        signs: how often it says each thing that it then counts as success.
        segments: recordings that it says it processed.
        memory_mb: the most memory that it says it had, MB.
        no_lock: whether it could not look at the lock.
        parts: how often the script was started.
        given: users whom it was told to process; None if it was to find them itself.
        fleet: what the runner says of the lease, by the kinds of `gigglekit.fleet.lines`.
    """

    found: int | None = None
    completed: int | None = None
    failed: int | None = None
    ended: bool = False
    no_users: bool = False
    no_database: bool = False
    fatal: bool = False
    user_errors: int = 0
    signs: Mapping[str, int] = field(default_factory=dict)
    segments: int = 0
    memory_mb: float | None = None
    no_lock: bool = False
    parts: int = 1
    given: int | None = None
    fleet: Mapping[str, str] = field(default_factory=dict)

    def number(self, kind: str) -> int:
        """Return a number that the runner says, 0 if it does not."""
        text = self.fleet.get(kind, "")
        return int(text[:9]) if text.isascii() and text.isdecimal() else 0

    @property
    def lease(self) -> int | None:
        """The number of the lease, None if there was none."""
        return self.number(fleet_lines.LEASE) or None

    @property
    def nothing_here(self) -> bool:
        """Whether other droplets have all users, so that the script was not started at all."""
        return fleet_lines.ELSEWHERE in self.fleet and not self.parts


@dataclass
class _Part:
    """What the log says of one start of the script."""

    numbers: dict[str, Any] = field(default_factory=dict)
    began: bool = False


def observe(lines: Iterable[str]) -> Told:
    """Read what the job printed in one run; takes any text.

    Arguments:
        lines: without their ends, the oldest first; the last one may be cut.
    """
    parts = [_Part()]
    signs: dict[str, int] = {}
    fleet: dict[str, str] = {}
    given: int | None = None
    user_errors = segments = 0
    for whole_line in lines:
        line = whole_line[:_LONGEST_LINE]
        numbers = parts[-1].numbers
        if written := fleet_lines.read(line):
            kind, rest = written
            if kind == fleet_lines.PART:
                parts.append(_Part(began=True))
                given = (given or 0) + int(rest) if re.fullmatch(r"[0-9]{1,9}", rest) else given
            else:
                fleet[kind] = rest
        elif match := _FOUND.match(line):
            # A run begins: nothing that was said before is about it.
            numbers.update(found=int(match[1]), completed=None, failed=None, ended=False)
        elif match := _SUMMARY.fullmatch(line):
            numbers.update(completed=int(match[1]), failed=int(match[2]), ended=False)
        elif _END.fullmatch(line):
            numbers["ended"] = numbers.get("completed") is not None or numbers.get("no_users", False)
        elif match := _SEGMENTS.match(line):
            segments += int(match[1])
        elif match := _MEMORY.match(line):
            numbers["memory_mb"] = max(numbers.get("memory_mb") or 0.0, float(match[1]))
        elif _USER_ERROR.match(line):
            user_errors += 1
        else:
            for name, flag in _FLAGS.items():
                if flag.match(line):
                    numbers[name] = True
        for sign, pattern in _SIGNS.items():
            if pattern.search(line) if sign == "skipped" else pattern.match(line):
                signs[sign] = signs.get(sign, 0) + 1
    # Before the first start of the script only the runner speaks; without a runner nobody says where a start is.
    counted = [part for part in parts if part.began or part.numbers]
    return Told(
        **_together([part.numbers for part in counted]),
        user_errors=user_errors, signs=signs, segments=segments, given=given, fleet=fleet,
        parts=len(counted) if fleet else 1,
    )  # fmt: skip


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all starts of the script say: what one of them does not tell, nobody knows of the night."""
    if len(parts) < 2:
        return parts[0] if parts else {}
    # One that found nobody says so instead of its numbers.
    told = [{"found": 0, "completed": 0, "failed": 0, **part} if part.get("no_users") else part for part in parts]
    sums: dict[str, Any] = {}
    for name in ("found", "completed", "failed"):
        values = [part.get(name) for part in told]
        sums[name] = None if None in values else sum(value for value in values if value is not None)
    flags = {name: any(part.get(name) for part in parts) for name in _FLAGS}
    memory = max((part["memory_mb"] for part in parts if part.get("memory_mb") is not None), default=None)
    return {**sums, **flags, "memory_mb": memory, "ended": all(part.get("ended") for part in parts)}
