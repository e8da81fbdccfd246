"""What a droplet is meant to have and from when on something is wrong: written down when it converges, without secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path("/etc/giggles/status.json")


@dataclass(frozen=True)
class Thresholds:
    """From when on something is told; `giggles:monitoring:thresholds` in the pillar says what each is."""

    disk_percent: int
    inode_percent: int
    certificate_days: int
    nightly_hours: int
    backup_hours: int
    drill_days: int
    converge_hours: int
    reboot_days: int


@dataclass(frozen=True)
class Expected:
    """What was chosen for this droplet.

    Arguments:
        roles: its concerns.
        domain: its name, None if it has none yet.
        bucket: whether there is one for backups.
        mail: whether alerts go to somebody.
        self_converge: whether it applies its states by itself.
        nightly_memory_mb: what the nightly job may use.
        thresholds: see there.
    """

    roles: frozenset[str]
    domain: str | None
    bucket: bool
    mail: bool
    self_converge: bool
    nightly_memory_mb: int
    thresholds: Thresholds


def of_settings(settings: Mapping[str, Any]) -> Expected:
    """Return what these settings expect.

    Arguments:
        settings: what is below `giggles`, defaults merged in.
    """
    chosen = settings["monitoring"]["thresholds"]
    return Expected(
        roles=frozenset(map(str, settings["roles"])),
        domain=settings["domain"],
        bucket=bool(settings["backup"]["bucket"]),
        mail=bool(settings["monitoring"]["mail"]["to"]),
        self_converge=bool(settings["converge"]["enabled"]),
        nightly_memory_mb=int(settings["nightly"]["memory_max_mb"]),
        thresholds=Thresholds(**{name: int(chosen[name]) for name in Thresholds.__dataclass_fields__}),
    )


def read(path: Path = PATH) -> Expected | None:
    """Return what is written down; None if nothing is, or it is damaged: the next converge writes it anew."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return Expected(
            roles=frozenset(map(str, written["roles"])),
            domain=None if written["domain"] is None else str(written["domain"]),
            bucket=bool(written["bucket"]),
            mail=bool(written["mail"]),
            self_converge=bool(written["self_converge"]),
            nightly_memory_mb=int(written["nightly_memory_mb"]),
            thresholds=Thresholds(**{name: int(written["thresholds"][name]) for name in Thresholds.__dataclass_fields__}),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def by_default() -> Expected:
    """Return what a droplet is expected to have for which nothing is written down."""
    from gigglekit.settings.schema import defaults

    return of_settings(defaults())
