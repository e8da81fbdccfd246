"""Who is told, as the droplet keeps it: `/etc/giggles/monitoring.json`, for root alone. What is watched stands in `expected`."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.health.expected import PRODUCTION

PATH = Path("/etc/giggles/monitoring.json")


@dataclass(frozen=True)
class Monitoring:
    """Who is told.

    Arguments:
        domain: the droplet's name: its domain, or the host's name.
        sender: address that alerts come from.
        recipient: address they go to, None for nobody.
        digest: whether a summary comes every morning.
        pings: secret addresses of dead-man checks, by `nightly`, `backup` and `converge`.
        environment: `production`, or which one it is.
    """

    domain: str
    sender: str
    recipient: str | None
    digest: bool
    pings: Mapping[str, str] = field(repr=False)
    environment: str = PRODUCTION

    @property
    def called(self) -> str:
        """What subjects call the droplet, so that nobody gets up at night for one that serves nobody."""
        return self.domain if self.environment == PRODUCTION else f"{self.environment} {self.domain}"


def settings_file(settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> str:
    """Return the content of the file.

    Arguments:
        settings: what is below `giggles`, defaults merged in, without secrets.
        secrets: its section `giggles:secrets:monitoring`.
    """
    mail = settings["monitoring"]["mail"]
    content = {
        "domain": name(settings),
        "environment": settings.get("environment", PRODUCTION),
        "mail": {"to": mail["to"], "from": sender(settings), "digest": mail["digest"]},
        "pings": secrets.get("pings", {}),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def sender(settings: Mapping[str, Any]) -> str:
    """Return the address that alerts come from: the one that was chosen, else root at the domain, or at the host if there is none."""
    return str(settings["monitoring"]["mail"]["from"] or f"root@{name(settings)}")


def name(settings: Mapping[str, Any]) -> str:
    """Return what the droplet calls itself: its domain, or the host's name while it has none."""
    return str(settings["domain"] or socket.gethostname() or "localhost")


def read(path: Path = PATH) -> Monitoring | None:
    """Return the settings; None if there are none, or they are damaged: the next converge writes them anew."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        mail, pings = kept["mail"], kept["pings"]
        return Monitoring(
            domain=str(kept["domain"] or "droplet"),
            sender=str(mail["from"]),
            recipient=str(mail["to"]) if mail["to"] else None,
            digest=bool(mail["digest"]),
            pings={str(name): str(url) for name, url in pings.items()},
            environment=str(kept.get("environment", PRODUCTION)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
