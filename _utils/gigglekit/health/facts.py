"""What can be seen of a droplet: its records, units, disks, certificate, vault and release. Nothing here judges; `judge` does."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.health import recent, units, validity
from gigglekit.health.expected import STARTED_BY, Expected
from gigglekit.health.places import Places
from gigglekit.health.recent import Entry

KINDS = ("nightly", "backup", "drill", "converge", "disk")
UPLOADS = "/var/lib/giggles/uploads"
UNIT_OF = {
    "nightly": "giggles-nightly.service",
    "backup": "giggles-backup.service",
    "drill": "giggles-drill.service",
    "converge": "giggles-converge.service",
}
"""What leaves the records of a kind."""
_SET_UP = {
    "nightly": "/etc/cron.d/giggles-nightly",
    "backup": "/etc/systemd/system/giggles-backup.timer",
    "drill": "/etc/systemd/system/giggles-drill.timer",
    "converge": "/etc/systemd/system/giggles-converge.timer",
}
"""What starts them."""
APP = "giggles.service"
_SOCKET, _ANSWER_SECONDS = "/run/giggles.sock", 5.0
_HISTORY_S = 90 * 86400.0
# Not /home: who looks every five minutes is shut out of it, and both who look must see the same.
_MOUNTED = ("/", "/boot", "/var", "/tmp", "/opt", UPLOADS)  # noqa: S108 (only looked at)


@dataclass(frozen=True)
class Disk:
    """How full a file system is, as df(1) reckons: what is reserved for root counts as used up.

    Arguments:
        path: where it is mounted.
        percent: part of its bytes in use; None if it cannot be asked.
        inode_percent: part of its inodes in use; None where it has no fixed number of them.
        size_mb: its size, and `free_mb` of that.
    """

    path: str
    percent: float | None
    inode_percent: float | None = None
    size_mb: float = 0.0
    free_mb: float = 0.0


@dataclass(frozen=True)
class Certificate:
    """The certificate that is served: from when to when it is valid, and whether it is the one that stands in for a real one."""

    begins: float
    ends: float
    placeholder: bool


@dataclass(frozen=True)
class Vault:
    """How clips are kept: `mode` is `encrypted` or `plain`, `reason` why, `mounted` whether their volume is there."""

    mode: str
    reason: str
    mounted: bool


@dataclass(frozen=True)
class Release:
    """What of the app is live, when it was built, whether it is whole, and what put it there instead of the pillar: "deploy", say."""

    commit: str
    built: float | None
    whole: bool
    chosen: str = ""


@dataclass(frozen=True)
class Facts:
    """A droplet at one moment. What cannot be seen is None or missing.

    Arguments:
        now: seconds since 1970.
        uptime: seconds since the machine started.
        day: the date there, and `hour` of the day, for the digest.
        runs: ninety days of records by kind, the newest first.
        ahead: by kind, when the newest run ended, if that is a time to come; such records are not among `runs`.
        set_up: by kind, when what starts such runs was put there.
        units: expected units and failed ones; None if systemd does not answer.
        disks: file systems.
        certificate: the one that is served; None if it cannot be read.
        restart_asked: since when an update waits for a restart.
        vault: None if nobody knows.
        release: None if none is live.
        app: "" if the app answered, or else what came instead; None if there is to be no app here.
        second_factor: whether the administrator has confirmed one; None if nobody asks for it.
    """

    now: float
    uptime: float = 1e9
    day: str = ""
    hour: int = 12
    runs: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    ahead: Mapping[str, float] = field(default_factory=dict)
    set_up: Mapping[str, float] = field(default_factory=dict)
    units: units.Units | None = None
    disks: Sequence[Disk] = ()
    certificate: Certificate | None = None
    restart_asked: float | None = None
    vault: Vault | None = None
    release: Release | None = None
    app: str | None = None
    second_factor: bool | None = None


Ask = Callable[[list[str]], "units.Units | None"]


def gather(places: Places, wanted: Expected, *, now: float | None = None, ask_systemd: Ask | None = None) -> Facts:
    """Look at this droplet. Whatever cannot be read is left out; this never fails.

    Arguments:
        places: where everything lies.
        wanted: what the droplet is meant to have; its units are asked for.
        now: seconds since 1970.
        ask_systemd: see `units.look`.
    """
    now = time.time() if now is None else now
    local = time.localtime(now)
    names = sorted({*(name for name, _ in wanted.units()), *UNIT_OF.values(), *STARTED_BY.values()})
    # A time to come is of a clock that was wrong, and would put off for as long that a run is overdue.
    written = {kind: _changed(places.at(path)) for kind, path in _SET_UP.items()}
    set_up = {kind: when for kind, when in written.items() if when is not None and when <= now + recent.AHEAD_S}
    asked = _changed(places.at("/run/reboot-required"))
    return Facts(
        now=now,
        uptime=_uptime(places.at("/proc/uptime")),
        day=time.strftime("%Y-%m-%d", local),
        hour=local.tm_hour,
        runs={kind: list(recent.newest_first(places.records, kind, now=now, since=now - _HISTORY_S)) for kind in KINDS},
        ahead={kind: one.moment for kind in UNIT_OF if (one := _last(places, kind)) and one.moment > now + recent.AHEAD_S},
        set_up=set_up,
        units=(ask_systemd or units.look)(names),
        disks=_disks(places),
        certificate=_certificate(places.at("/etc/nginx/tls/current/fullchain.pem")),
        restart_asked=None if asked is None else min(now, asked),
        vault=_vault(places),
        release=_release(places),
        app=_app(places.at(_SOCKET)) if "app" in wanted.roles else None,
        second_factor=_is_file(places.at("/etc/giggles/second-factor") / wanted.second_factor) if wanted.second_factor else None,
    )


def _last(places: Places, kind: str) -> Entry | None:
    """Return the newest record, whatever time it tells."""
    return next(recent.newest_first(places.records, kind, now=math.inf), None)


def usage(path: Path) -> Disk | None:
    """Return how full the file system at `path` is; None if it cannot be asked."""
    try:
        told = os.statvfs(path)
    except OSError:
        return None
    used = told.f_blocks - told.f_bfree
    usable = used + told.f_bavail
    return Disk(
        path=str(path),
        percent=round(100 * used / usable, 1) if usable else 0.0,
        inode_percent=round(100 * (told.f_files - told.f_favail) / told.f_files, 1) if told.f_files else None,
        size_mb=told.f_blocks * told.f_frsize / 2**20,
        free_mb=round(told.f_bavail * told.f_frsize / 2**20, 1),
    )


def _changed(path: Path) -> float | None:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return None


def uptime(places: Places) -> float:
    """Return since how many seconds the machine runs; very many if nobody knows."""
    return _uptime(places.at("/proc/uptime"))


def _uptime(path: Path) -> float:
    try:
        return float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 1e9


def _disks(places: Places) -> list[Disk]:
    found: list[Disk] = []
    devices = set()
    for name in _MOUNTED:
        place = places.at(name)
        volume = name == UPLOADS and os.path.ismount(place)
        try:
            device = place.stat().st_dev
        except OSError:
            if name == "/" or volume:
                found.append(Disk(name, None))
            continue
        if volume or device not in devices:
            devices.add(device)
            used = usage(place)
            found.append(Disk(name, None) if used is None else dataclasses.replace(used, path=name))
    return found


def _certificate(path: Path) -> Certificate | None:
    valid = validity.read(path)
    try:
        placeholder = Path(os.readlink(path.parent)).name == "placeholder"
    except OSError:
        placeholder = False
    return None if valid is None else Certificate(*valid, placeholder)


def _vault(places: Places) -> Vault | None:
    told = _read(places.at("/etc/giggles/vault.json"))
    if not isinstance(told.get("mode"), str):
        return None
    return Vault(told["mode"], str(told.get("reason") or "")[:200], os.path.ismount(places.at(UPLOADS)))


def _release(places: Places) -> Release | None:
    try:
        commit = Path(os.readlink(places.at("/opt/giggles/current"))).name
    except OSError:
        return None
    built = _read(places.at("/opt/giggles/releases") / commit / ".giggles-release.json").get("built")
    pinned = _read(places.at("/opt/giggles/pin.json"))
    chosen = str(pinned.get("how"))[:20] if pinned.get("commit") == commit else ""
    return Release(commit[:64], recent.moment_of(built), isinstance(built, str), chosen)


def _app(path: Path) -> str | None:
    from gigglekit.release import health

    try:
        there = path.is_socket()
    except OSError:
        return None
    # To systemd a socket goes on listening whose name somebody has removed, and nginx has nobody to ask.
    return health.ask(path, _ANSWER_SECONDS) if there else f"its socket {_SOCKET} is not there"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
