"""A commit that the self-converge took and has not applied yet: killed in between, the next run knows what was drift before it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

PATH = Path("/var/lib/giggles/converge/taken.json")


@dataclass(frozen=True)
class Taken:
    """What was taken.

    Arguments:
        commit: which one.
        known: ids of the states that an apply of the one before would have changed; None if nobody looked.
    """

    commit: str
    known: frozenset[str] | None


def load(path: Path = PATH) -> Taken | None:
    """Return what was noted; None if nothing was, or it cannot be read."""
    try:
        kept = json.loads(path.read_bytes())
        known = kept["known"]
        return Taken(str(kept["commit"]), None if known is None else frozenset(map(str, known)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def store(taken: Taken, path: Path = PATH) -> None:
    """Note it, for root only, before the tree is touched. Where that is not possible, only what was drift will not be known."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {"commit": taken.commit, "known": None if taken.known is None else sorted(taken.known)}
        replace(path, (json.dumps(kept, sort_keys=True) + "\n").encode())


def forget(path: Path = PATH) -> None:
    """Remove the note, after a run that came to its end."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
