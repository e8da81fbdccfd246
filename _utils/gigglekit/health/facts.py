"""What can be seen of a droplet: the newest records, failed units, disks, the certificate, the vault. Nothing here judges."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.command import ask
from gigglekit.health import recent, units, validity

_MOST_RUNS = 200
_MOST_BYTES = 2 << 20
"""How much of the end of a file of records is looked at; a look must not become slower over the years."""
_MOST_UNITS = 20
_UPLOADS = "/var/lib/giggles/uploads"
_UNLOCK = "giggles-vault-unlock.service"


@dataclass(frozen=True)
class Run:
    """One record of a run.

    Arguments:
        time: when it ended, in seconds since 1970.
        told: the record as it lies in the file.
    """

    time: float
    told: Mapping[str, Any]

    @property
    def ok(self) -> bool | None:
        """What it says of itself; None if it does not say."""
        value = self.told.get("ok")
        return value if isinstance(value, bool) else None

    def texts(self, name: str) -> list[str]:
        """Return a list of texts out of the record, empty if there is something else in its place."""
        value = self.told.get(name)
        return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []

    def entries(self, name: str) -> list[dict[str, Any]]:
        """Return a list of entries out of the record, empty if there is something else in its place."""
        value = self.told.get(name)
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


@dataclass(frozen=True)
class Disk:
    """How full a file system is.

    Arguments:
        path: where it is mounted.
        bytes_percent: part of its bytes in use, as df says it.
        inodes_percent: part of its inodes in use; None where it has no fixed number of them.
    """

    path: str
    bytes_percent: float
    inodes_percent: float | None


@dataclass(frozen=True)
class Facts:
    """A droplet at one moment. What is not watched, or cannot be seen, is None or empty.

    Arguments:
        now: seconds since 1970.
        uptime: seconds since the machine started.
        day: the date there, and `hour` of the day, for the digest.
        nightly, converge, backup, drill: the newest records, oldest first; None where nobody waits for such runs.
        units: failed units; None if systemd did not answer.
        disks: file systems.
        certificate_ends: when the certificate that is served ends, in seconds since 1970; None if there is none.
        certificate: whether one is expected.
        reboot: whether an update waits for a restart.
        vault: `open`, `locked`, `plain` (the weaker mode) or None.
        vault_reason: why it is so.
    """

    now: float
    uptime: float = 1e9
    day: str = ""
    hour: int = 12
    nightly: Sequence[Run] | None = None
    converge: Sequence[Run] | None = None
    backup: Sequence[Run] | None = None
    drill: Sequence[Run] | None = None
    units: Sequence[str] | None = ()
    disks: Sequence[Disk] = ()
    certificate: bool = False
    certificate_ends: float | None = None
    reboot: bool = False
    vault: str | None = None
    vault_reason: str = ""


def gather(watched: Mapping[str, bool], folder: Path = records.FOLDER, root: Path = Path("/")) -> Facts:
    """Look at this droplet. Whatever cannot be read is left out; this never fails.

    Arguments:
        watched: which of `nightly`, `converge`, `backup`, `certificate` and `vault` there are here.
        folder: where records lie.
        root: where the file system begins; for tests.
    """
    now = time.time()
    local = time.localtime(now)
    found = units.look([_UNLOCK])
    vault, reason = _vault(root, found) if watched.get("vault") else (None, "")
    served = validity.read(root / "etc/nginx/tls/current/fullchain.pem") if watched.get("certificate") else None
    return Facts(
        now=now,
        uptime=_uptime(root),
        day=time.strftime("%Y-%m-%d", local),
        hour=local.tm_hour,
        nightly=runs(folder, "nightly", now) if watched.get("nightly") else None,
        converge=runs(folder, "converge", now) if watched.get("converge") else None,
        backup=runs(folder, "backup", now) if watched.get("backup") else None,
        drill=runs(folder, "drill", now) if watched.get("backup") else None,
        units=None if found is None else found.failed[:_MOST_UNITS],
        disks=_disks(root),
        certificate=bool(watched.get("certificate")),
        certificate_ends=served[1] if served else None,
        reboot=(root / "run/reboot-required").exists(),
        vault=vault,
        vault_reason=reason,
    )


def runs(folder: Path, kind: str, now: float) -> list[Run]:
    """Return the newest records of a kind, oldest first, whatever else lies in the file.

    Arguments:
        folder: where records lie.
        kind: as in `gigglekit.records.append`.
        now: seconds since 1970; what claims to be from later is left out.
    """
    newest = itertools.islice(recent.newest_first(folder, kind, now=now, most_bytes=_MOST_BYTES), _MOST_RUNS)
    return sorted((Run(entry.moment, entry.record) for entry in newest), key=lambda run: run.time)


def _uptime(root: Path) -> float:
    try:
        return float((root / "proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 1e9


def _disks(root: Path) -> list[Disk]:
    found: dict[int, Disk] = {}
    for place in ("/", "/boot", "/var", "/tmp", "/opt", "/home", _UPLOADS):  # noqa: S108 (only looked at)
        path = root / place.lstrip("/")
        with contextlib.suppress(OSError):
            device, told = path.stat().st_dev, os.statvfs(path)
            if told.f_blocks and device not in found:
                # As df counts: what only root may still use is not free.
                used = told.f_blocks - told.f_bfree
                inodes = 100 * (told.f_files - told.f_favail) / told.f_files if told.f_files else None
                found[device] = Disk(place, 100 * used / max(1, used + told.f_bavail), inodes)
    return list(found.values())


def _vault(root: Path, found: units.Units | None) -> tuple[str | None, str]:
    try:
        told = json.loads((root / "etc/giggles/vault.json").read_text())
        mode, reason = told.get("mode"), str(told.get("reason", ""))
    except (OSError, ValueError, AttributeError):
        return None, ""
    if mode != "encrypted":
        return "plain", reason
    unlock = found.known.get(_UNLOCK) if found else None
    if unlock is None:
        return None, ""
    if unlock.state == "active":
        return "open", ""
    code, output = ask(["systemctl", "show", "--property=StatusText", "--value", "--", _UNLOCK], seconds=20)
    return "locked", output.strip() if code == 0 else ""
