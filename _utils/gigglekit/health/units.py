"""What systemd says of units, in one question to it."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gigglekit import command

_PROPERTIES = ("Id", "LoadState", "ActiveState", "Result", "ActiveEnterTimestamp", "InactiveEnterTimestamp", "InactiveExitTimestamp",
               "StatusText", "NRestarts")  # fmt: skip
_SECONDS = 10.0


@dataclass(frozen=True)
class Unit:
    """One unit.

    Arguments:
        name: its full name.
        loaded: whether there is such a unit.
        state: `active`, `inactive`, `failed`, `activating` or another ActiveState of systemd.
        result: how it ended last, `success` or a reason (`exit-code`, `oom-kill`, `timeout`, …).
        since: when it came into a state that lasts, in seconds since 1970; None if it never did.
        said: what it says of itself, for people.
        restarts: how often systemd has started it anew by itself since somebody last asked for a start.
    """

    name: str
    loaded: bool
    state: str
    result: str
    since: float | None
    said: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Units:
    """Units that were asked for, and all that failed.

    Arguments:
        known: by name.
        failed: names of all failed units of this machine.
    """

    known: Mapping[str, Unit]
    failed: tuple[str, ...]


def look(names: Sequence[str]) -> Units | None:
    """Return the state of these units; None if systemd does not answer."""
    environment = {"PATH": command.SYSTEM_PATH, "LC_ALL": "C", "TZ": "UTC"}
    try:
        shown = command.run(
            ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", *names], seconds=_SECONDS, environment=environment
        )
        failed = command.run(
            ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager", "--full"],
            seconds=_SECONDS,
            environment=environment,
        )
    except (OSError, command.CommandTimeoutError):
        return None
    if shown.code or failed.code:
        return None
    return Units(_parse(shown.output), tuple(line.split()[0] for line in failed.output.splitlines() if line.split()))


def _parse(text: str) -> dict[str, Unit]:
    units = {}
    for block in text.split("\n\n"):
        told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in told:
            state = told.get("ActiveState", "unknown")
            entered = {"active": "ActiveEnterTimestamp", "activating": "InactiveExitTimestamp"}.get(state, "InactiveEnterTimestamp")
            units[told["Id"]] = Unit(
                told["Id"], told.get("LoadState") == "loaded", state, told.get("Result", ""), _moment(told.get(entered, "")),
                told.get("StatusText", ""), int(told["NRestarts"]) if told.get("NRestarts", "").isdecimal() else 0,
            )  # fmt: skip
    return units


def _moment(text: str) -> float | None:
    # "Tue 2026-11-24 21:00:01 UTC", as systemctl(1) writes it where TZ is UTC.
    try:
        return float(calendar.timegm(time.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC")))
    except ValueError:
        return None
