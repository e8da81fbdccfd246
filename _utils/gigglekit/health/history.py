"""What giggles.history returns: the newest converges, for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigglekit import records

_SHOWN = ("time", "trigger", "ok", "commit", "seconds", "changed", "failed", "drift", "intended", "failures")


def history(folder: Path = records.FOLDER, *, count: int = 10, full: bool = False) -> list[dict[str, Any]]:
    """Return the newest converges, the newest first.

    Arguments:
        folder: where records lie.
        count: how many.
        full: whole records, with diffs; else one short line for each change.

    Returns:
        Nothing if none was recorded. What cannot be read is left out.
    """
    found = records.newest(folder, "converge", count)
    return found if full else [_told(record) for record in found]


def _told(record: dict[str, Any]) -> dict[str, Any]:
    told = {name: record.get(name) for name in _SHOWN}
    if isinstance(told["commit"], str):
        told["commit"] = told["commit"][:12]
    for kind, words in (("drift", "summary"), ("intended", "summary"), ("failures", "comment")):
        found = told[kind]
        entries = found if isinstance(found, list) else []
        told[kind] = [f"{entry.get('id')} ({entry.get('name')}): {entry.get(words)}" for entry in entries if isinstance(entry, dict)]
    return told
