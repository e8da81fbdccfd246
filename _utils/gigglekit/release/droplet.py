"""A release's surroundings on a real droplet."""

from __future__ import annotations

from pathlib import Path

from gigglekit.release import venv
from gigglekit.release.candidate import SystemdCandidate
from gigglekit.release.front import Front
from gigglekit.release.migration import Dump
from gigglekit.release.plan import Surroundings
from gigglekit.release.service import SystemdService

_SOCKET = Path("/run/giggles.sock")
_UNIT = Path("/etc/systemd/system/giggles.service")


def surroundings(*, domain: str | None, gate_seconds: float, dump: Dump | None, health_seconds: float) -> Surroundings:
    """Return them.

    Arguments:
        domain: name that nginx serves the app under; None where the droplet has no nginx, or no name yet.
        gate_seconds: how long a release is judged.
        dump: see `migration.migrate`.
        health_seconds: how long a start may take.
    """
    # The trial, the start of the service, and twice the longest request.
    longest = 2 * (health_seconds + gate_seconds) + 1500
    return Surroundings(
        service=SystemdService(),
        socket=_SOCKET,
        unit=_UNIT,
        health_seconds=health_seconds,
        make_venv=venv.create,
        candidate=SystemdCandidate(_UNIT, _SOCKET, longest),
        front=Front(domain) if domain else None,
        dump=dump,
    )
