"""What the check of a pillar has to know of the droplet that it is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One droplet.

    Attributes:
        environment: the grain `giggles_environment`, None where there is no such grain.
        memory_mb: memory in MB, None where it is not known.
        has_answers: whether a droplet.sls was found among the pillar files.
        backup_beside: bucket and prefix that Git names for the other environment; None where nobody looked.
    """

    environment: str | None
    memory_mb: int | None = None
    has_answers: bool = True
    backup_beside: tuple[str | None, str] | None = None
