"""Several systemd units, looked at with a single question: each one asked for alone costs as much as all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gigglekit.release.command import CommandTimeoutError, Outcome, run
from gigglekit.release.errors import ReleaseError

_SECONDS = 120


@dataclass(frozen=True)
class Unit:
    """One unit.

    Arguments:
        name: with its suffix.
        active: active, inactive, failed, activating, …
        enabled: enabled, disabled, masked, static, …; "" if there is no unit file.
    """

    name: str
    active: str
    enabled: str

    @property
    def is_up(self) -> bool:
        """Whether it runs, or is being started again, and will run after a boot."""
        return self.active in ("active", "activating", "reloading") and self.enabled == "enabled"

    def __str__(self) -> str:
        """Return its two words, for a state's changes."""
        return f"{self.active}, {self.enabled or 'not there'}"


def look(names: Sequence[str]) -> list[Unit]:
    """Return what systemd says of each unit, in the order given.

    Raises:
        ReleaseError: systemd does not answer.
    """
    outcome = _systemctl("show", "--property=Id,ActiveState,UnitFileState,LoadState", *names)
    found: list[Unit] = []
    for name, block in zip(names, outcome.output.strip().split("\n\n"), strict=False):
        told = dict(line.partition("=")[::2] for line in block.splitlines())
        enabled = "masked" if told.get("LoadState") == "masked" else told.get("UnitFileState", "")
        found.append(Unit(name, told.get("ActiveState", "unknown"), enabled))
    return found


def bring_up(units: Sequence[Unit]) -> None:
    """Unmask, enable and start units.

    Raises:
        ReleaseError: systemd refuses; the message says what.
    """
    names = [unit.name for unit in units]
    masked = [unit.name for unit in units if unit.enabled.startswith("masked")]
    if masked:
        _must("unmask", *masked)
        _must("unmask", "--runtime", *masked)
    _must("daemon-reload")
    _must("enable", *names)
    _systemctl("reset-failed", *names)
    _must("start", *names)


def _must(*arguments: str) -> None:
    outcome = _systemctl(*arguments)
    if outcome.code != 0:
        raise ReleaseError(f"systemctl {' '.join(arguments)} failed ({outcome.last_words}). See journalctl -xe, then apply again.")


def _systemctl(*arguments: str) -> Outcome:
    try:
        return run(["systemctl", "--no-ask-password", "--quiet", *arguments], seconds=_SECONDS)
    except (OSError, CommandTimeoutError) as error:
        raise ReleaseError(
            f"systemctl {' '.join(arguments)} gave no answer ({error}). Look at systemctl list-jobs, then apply again."
        ) from error
