"""Where a droplet keeps what is looked at, and where a look leaves what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Paths of a droplet.

    Arguments:
        root: what all of them lie below; another one in tests.
    """

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Return a path of the droplet."""
        return self.root / path.lstrip("/")

    @property
    def records(self) -> Path:
        """Where runs are recorded."""
        return self.at("/var/lib/giggles/records")

    @property
    def expected(self) -> Path:
        """What this droplet is meant to have."""
        return self.at("/etc/giggles/status.json")

    @property
    def settings(self) -> Path:
        """Who is told; root's alone."""
        return self.at("/etc/giggles/monitoring.json")

    @property
    def told(self) -> Path:
        """What was told, and what waits to be."""
        return self.records / "alerts-state.json"

    @property
    def told_meanwhile(self) -> Path:
        """The same in memory, while the disk takes nothing."""
        return self.at("/run/giggles-watch/alerts-state.json")

    @property
    def lock(self) -> Path:
        """Held by whoever looks and tells."""
        return self.at("/var/lib/giggles/alerts/lock")

    @property
    def page(self) -> Path:
        """The status page, where nginx may read it."""
        return self.at("/var/lib/giggles-status/index.html")
