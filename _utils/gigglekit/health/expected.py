"""What a droplet is meant to have and from when on something is wrong: written down when it converges, without secrets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit.health.places import Places

PRODUCTION = "production"
STARTED_BY = {"ssh.service": "ssh.socket"}
"""What need not run while this waits for somebody who needs it. Ubuntu 24.04 has its sshd so."""


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
        second_factor: whose second factor ssh is to ask for; None if it is to ask for none.
        environment: `production`, or which one it is.
        delivery: whether it hands clips over to another droplet, or takes them.
        known: whether any of this was written down on the droplet.
    """

    roles: frozenset[str]
    domain: str | None
    bucket: bool
    mail: bool
    self_converge: bool
    nightly_memory_mb: int
    thresholds: Thresholds
    second_factor: str | None = None
    environment: str = PRODUCTION
    delivery: bool = False
    known: bool = True

    def units(self) -> Iterator[tuple[str, str]]:
        """Yield units that have to be active, each with the role that brings it back."""
        for role, names in (
            ("hardening", ["ssh.service", "fail2ban.service", "giggles-reboot.timer"]),
            (
                "vault",
                ["giggles-vault-unlock.service", "giggles-vault-adopt.service", "giggles-vault-lobby.timer", "giggles-vault-sweep.timer"],
            ),
            ("app", ["giggles.service", "giggles.socket", *(["giggles-delivery.timer"] if self.delivery else [])]),
            ("web", ["nginx.service", *(["giggles-certbot.timer"] if self.domain else [])]),
            ("nightly", ["cron.service"]),
            ("backup", ["giggles-backup.timer", "giggles-drill.timer"] if self.bucket else []),
            ("converge", ["giggles-converge.timer"] if self.self_converge else []),
            ("monitoring", ["giggles-watch.timer", "giggles-watch.path"]),
        ):
            if role in self.roles:
                yield from ((name, role) for name in names)


def settings_file(settings: Mapping[str, Any]) -> str:
    """Return the content of `/etc/giggles/status.json`.

    Arguments:
        settings: what is below `giggles`, defaults merged in.
    """
    wanted = of_settings(settings)
    kept = {name: value for name, value in vars(wanted).items() if name != "known"}
    return json.dumps({**kept, "roles": sorted(wanted.roles), "thresholds": vars(wanted.thresholds)}, indent=2, sort_keys=True) + "\n"


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
        second_factor=str(settings["admin"]["name"]) if settings["hardening"]["ssh_second_factor"] else None,
        environment=str(settings.get("environment", PRODUCTION)),
        delivery=bool(settings["delivery"]["mode"]),
    )


def read(path: Path) -> Expected | None:
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
            second_factor=None if written.get("second_factor") is None else str(written["second_factor"]),
            environment=str(written.get("environment", PRODUCTION)),
            delivery=bool(written.get("delivery")),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def of_droplet(places: Places) -> Expected:
    """Return what is written down on a droplet, or else what one is expected to have for which nothing was chosen."""
    from gigglekit.settings.schema import defaults

    return read(places.expected) or dataclasses.replace(of_settings(defaults()), known=False)
