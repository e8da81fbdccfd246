"""What a run notes before it touches what is live, so that the next one can end what a killed one has begun."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from gigglekit.files.replacing import replace
from gigglekit.release import pin as pins
from gigglekit.release.settings import COMMIT, Layout

Step = Literal["trying", "switching"]


@dataclass(frozen=True)
class Entry:
    """One change of what is live.

    Arguments:
        commit: the release that is to go live.
        live: what was, or None.
        before: what was live before that, or None.
        step: "trying" while nothing live was touched, "switching" from then on.
        built: whether this run put the release at its place, where there was none; it goes again if it is not well.
        replaced: inode of the release of the same commit that a new build takes the place of, or None.
        pin: what is pinned once this release is well; None for nothing.
        repin: whether `pin` counts at all; a converge leaves the pin as it is.
    """

    commit: str
    live: str | None
    before: str | None
    step: Step
    built: bool
    replaced: int | None
    pin: pins.Pin | None = None
    repin: bool = False


def write(layout: Layout, entry: Entry) -> None:
    """Note a change, before it is made.

    Raises:
        OSError: the disk takes nothing.
    """
    replace(layout.journal, (json.dumps(asdict(entry), sort_keys=True) + "\n").encode())


def load(layout: Layout) -> Entry | None:
    """Return the change that was begun and not ended, or None."""
    try:
        found = json.loads(layout.journal.read_text(encoding="utf-8"))
        entry = Entry(**{**found, "pin": pins.read(found["pin"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    names = [entry.commit, *(name for name in (entry.live, entry.before) if name is not None)]
    return entry if all(isinstance(name, str) and COMMIT.fullmatch(name) for name in names) else None


def end(layout: Layout) -> None:
    """Note that it was ended."""
    layout.journal.unlink(missing_ok=True)
