"""What is watched from outside, and with which key; written by the concern `monitoring`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gigglekit.files import private
from gigglekit.health.uptimerobot.errors import UptimeRobotError

PATH = Path("/etc/giggles/uptimerobot.json")
API = "https://api.uptimerobot.com/v3"

KEY = re.compile(r"[A-Za-z0-9_-]{8,128}")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_ADDRESS = re.compile(r"[^\s@]{1,64}@[^\s@]{1,253}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """What one droplet wants of UptimeRobot.

    Arguments:
        enabled: whether there are to be monitors; if not, those that this droplet made are removed.
        key: the account's main API key.
        domain: the name of the server.
        interval_seconds: between two looks.
        certificate_days: days before the end of the certificate at which is reminded of it; empty for never.
        contacts: e-mail addresses that are alerted; empty leaves that to whoever runs the account.
        api: where the API is; `http://` only on this machine.
    """

    enabled: bool
    key: str = field(repr=False)
    domain: str
    interval_seconds: int
    certificate_days: tuple[int, ...]
    contacts: tuple[str, ...]
    api: str = API


def settings_file(choices: Mapping[str, Any], domain: str | None, mail: str | None, key: object) -> str:
    """Return the content of `/etc/giggles/uptimerobot.json`.

    Arguments:
        choices: the pillar's section `giggles:monitoring:uptimerobot`, with its defaults.
        domain: `giggles:domain`.
        mail: `giggles:monitoring:mail:to`, alerted where the section names nobody.
        key: `giggles:secrets:monitoring:uptimerobot_key`.

    Raises:
        ValueError: it would not be taken; one line that repeats no secret.
    """
    content = json.dumps(
        {
            "enabled": choices["enabled"],
            "key": key,
            "domain": domain,
            "interval_seconds": choices["interval_seconds"],
            "certificate_days": sorted(choices["certificate_days"], reverse=True),
            "contacts": list(choices["contacts"]) or ([mail] if mail else []),
        },
        indent=2,
        sort_keys=True,
    )
    # What is not taken is not written.
    parse(content.encode())
    return content + "\n"


def load(path: Path = PATH) -> Settings | None:
    """Read the settings.

    Arguments:
        path: the file, which only root may read.

    Returns:
        Them, or None if there is no key on this droplet: there is no file then.

    Raises:
        UptimeRobotError: the file cannot be read, others can read or write it, or something in it is wrong. No secret is repeated.
    """
    return private.load(
        path, parse, error=UptimeRobotError, holds="the key of UptimeRobot", renew="Make a new key", concern="monitoring.uptimerobot"
    )


def parse(content: bytes) -> Settings:
    """Return the settings that `content`, JSON, holds.

    Raises:
        ValueError: one line that says what is wrong. It repeats nothing that could be a secret.
    """
    try:
        values = json.loads(content)
    except ValueError:
        raise ValueError("it is no JSON") from None
    names = {"enabled", "key", "domain", "interval_seconds", "certificate_days", "contacts"}
    if not isinstance(values, dict) or not names <= values.keys() <= names | {"api"}:
        raise ValueError(f"it has to be a mapping of {', '.join(sorted(names))}")
    if not isinstance(values["enabled"], bool):
        raise ValueError("enabled is neither true nor false")
    if not isinstance(values["key"], str) or not KEY.fullmatch(values["key"]):
        raise ValueError("key is not a key as UptimeRobot shows it")
    if not isinstance(values["domain"], str) or not _DOMAIN.fullmatch(values["domain"]):
        raise ValueError("domain is no host name: giggles:domain has to be set")
    if type(values["interval_seconds"]) is not int or not 30 <= values["interval_seconds"] <= 86400:
        raise ValueError("interval_seconds has to be from 30 to 86400")
    days, contacts = values["certificate_days"], values["contacts"]
    if not isinstance(days, list) or not all(type(day) is int and 1 <= day <= 365 for day in days):
        raise ValueError("certificate_days has to be a list of numbers from 1 to 365")
    if not isinstance(contacts, list) or not all(isinstance(entry, str) and _ADDRESS.fullmatch(entry) for entry in contacts):
        raise ValueError("contacts has to be a list of e-mail addresses")
    api = values.get("api", API)
    _check_api(api)
    return Settings(
        values["enabled"], values["key"], values["domain"], values["interval_seconds"], tuple(days), tuple(contacts), api.rstrip("/")
    )


def _check_api(api: object) -> None:
    try:
        parts = urlsplit(api) if isinstance(api, str) else None
        scheme, host = (parts.scheme, parts.hostname) if parts else ("", None)
    except ValueError:
        scheme, host = "", None
    if not host or not (scheme == "https" or (scheme == "http" and host in _LOOPBACK)):
        raise ValueError("api has to begin with https://")
