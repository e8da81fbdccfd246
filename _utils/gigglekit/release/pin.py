"""A release that somebody chose by hand, and that the pillar's `ref` does not undo until it is changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gigglekit.files.replacing import replace as replace_file
from gigglekit.release.settings import COMMIT, Layout, Settings

PATH = Path("/opt/giggles/pin.json")


@dataclass(frozen=True)
class Pin:
    """What was chosen, and instead of what.

    Arguments:
        commit: what shall be live, 40 hexadecimal digits.
        overrides: the pillar's `giggles:app:ref` at that time. Once it names another one, the choice is over.
        repository: the pillar's `giggles:app:repository`, likewise.
        since: when, as text of ISO 8601.
        by: account that asked for it.
        how: "deploy" or "rollback".
    """

    commit: str
    overrides: str
    repository: str
    since: str
    by: str
    how: str

    def holds_against(self, settings: Settings) -> bool:
        """Tell whether the pillar still says what it said when this was chosen."""
        return (self.overrides, self.repository) == (settings.ref, settings.repository)


def read(found: object) -> Pin | None:
    """Return the pin that JSON holds, or None if it holds none."""
    if not isinstance(found, dict) or set(found) != set(Pin.__dataclass_fields__) or {type(value) for value in found.values()} != {str}:
        return None
    return Pin(**found) if COMMIT.fullmatch(found["commit"]) else None


def load(path: Path = PATH) -> Pin | None:
    """Return the pin that is written down, or None. A damaged note is none: the pillar holds then."""
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def store(layout: Layout, pin: Pin | None) -> None:
    """Write a pin down, or take the note away.

    Raises:
        OSError: the disk takes nothing.
    """
    if pin is None:
        layout.pin.unlink(missing_ok=True)
    elif load(layout.pin) != pin:
        replace_file(layout.pin, (json.dumps(asdict(pin), sort_keys=True) + "\n").encode(), 0o644)


def wanted(settings: Settings, layout: Layout) -> tuple[Settings, Pin | None]:
    """Return what shall be live, and the pin that says so, if one is in force."""
    found = load(layout.pin)
    if found is None or not found.holds_against(settings):
        return settings, None
    return replace(settings, ref=found.commit), found


def forget_over(settings: Settings, layout: Layout) -> None:
    """Take the note of a pin away that is over, which another change of the pillar would bring back; never one made meanwhile.

    Raises:
        OSError: the disk takes nothing.
    """
    found = load(layout.pin)
    if found is not None and not found.holds_against(settings):
        store(layout, None)
