"""What giggles.history returns: the newest converges, for a person.

`python -m gigglekit.health.history --since TIME` prints what failed in the newest one, a paragraph each, unless that began before TIME,
in seconds since 1970. The bootstrap ends with it.
"""

from __future__ import annotations

import argparse
import datetime
import sys
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


def failed(folder: Path, since: float) -> list[str]:
    """Return a paragraph for each state that failed in the newest converge.

    Arguments:
        folder: where records lie.
        since: nothing is told of a converge that was recorded earlier (seconds since 1970).
    """
    newest = next(iter(records.newest(folder, "converge", 1)), {})
    try:
        recorded = datetime.datetime.fromisoformat(str(newest.get("time")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return []
    # Records tell whole seconds.
    return [str(told) for told in _told(newest)["failures"]] if recorded >= int(since) else []


def main() -> None:
    """Print what failed."""
    parser = argparse.ArgumentParser(prog="python -m gigglekit.health.history", description="What failed in the newest converge.")
    parser.add_argument("--since", type=float, required=True, metavar="TIME", help="seconds since 1970")
    sys.stdout.writelines(f"{paragraph}\n" for paragraph in failed(records.FOLDER, parser.parse_args().since))


if __name__ == "__main__":
    main()
