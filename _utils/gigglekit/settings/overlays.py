"""What the committed pillar chooses for an environment: the part of the settings that Git knows, without any droplet's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gigglekit.settings.check import merged
from gigglekit.settings.places import SCHEMA_FILE
from gigglekit.settings.problem import Key
from gigglekit.settings.report import pillar_sources
from gigglekit.settings.schema import TOP, defaults

FOLDER = SCHEMA_FILE.parent
STAGING, PRODUCTION = "staging", "production"


def committed(environment: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Return what is below `giggles` for a droplet of this environment, defaults merged in. A file that is no YAML counts for nothing.

    Arguments:
        environment: `production` or `staging`.
        folder: the repository's folder `pillar`.
    """
    settings = defaults()
    for _, content in pillar_sources([folder / "giggles.sls", folder / f"{environment}.sls"]):
        below = content.get("giggles") if isinstance(content, Mapping) else None
        settings = merged(settings, below) if isinstance(below, Mapping) else settings
    return settings


def other(environment: str | None) -> str | None:
    """Return the environment beside this one; None for one that is not known."""
    return {STAGING: PRODUCTION, PRODUCTION: STAGING}.get(str(environment))


def backup_beside(environment: str | None, folder: Path = FOLDER) -> tuple[str | None, str] | None:
    """Return bucket and prefix that Git names for the other environment; None if this environment is not known.

    Arguments:
        environment: the droplet's own.
        folder: the repository's folder `pillar`.
    """
    beside = other(environment)
    if beside is None:
        return None
    backup = committed(beside, folder).get("backup")
    bucket, prefix = (backup.get("bucket"), backup.get("prefix")) if isinstance(backup, Mapping) else (None, None)
    return (bucket if isinstance(bucket, str) else None, prefix if isinstance(prefix, str) else "")


def differences(first: Mapping[str, Any], second: Mapping[str, Any], key: Key = TOP) -> Iterator[Key]:
    """Yield the settings in which two choices differ, one that stands in one of them alone included.

    Arguments:
        first, second: what is below `key` in each.
        key: where they are.
    """
    for name in sorted({*first, *second}, key=str):
        here, there = first.get(name), second.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            yield from differences(here, there, (*key, str(name)))
        elif here != there:
            yield (*key, str(name))
