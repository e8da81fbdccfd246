"""What the pillar's section `giggles:app` says of releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gigglekit.release.settings import Settings


def of_pillar(app: Mapping[str, Any]) -> Settings:
    """Return what a deployment has chosen.

    Arguments:
        app: the section, with the defaults in it.

    Raises:
        ReleaseError: a value cannot be right.
    """
    return Settings(
        repository=app["repository"] or "",
        ref=str(app["ref"] or ""),
        subdirectory=app["subdirectory"] or "",
        python=str(app["python"]),
        requirements=app["requirements"],
        constraints=tuple(app["constraints"] or ()),
        module=app["module"],
        keep=int(app["keep_releases"]),
        trial=bool(app["trial"]),
        gate_seconds=float(app["gate_seconds"]),
        migration=app["migration"] or "",
        migration_dump=bool(app["migration_dump"]),
    )
