"""A droplet's folders and records below a folder of a test, as good or as bad as is asked for, for one day or for years."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from gigglekit.health.expected import Expected, Thresholds
from gigglekit.health.places import Places
from gigglekit.health.units import Unit, Units

NOW = 1_795_550_000.0
"""In November 2026."""
HOUR, DAY = 3600.0, 86400.0
ALL_ROLES = frozenset({"hardening", "vault", "app", "web", "nightly", "backup", "monitoring", "converge"})
WANTED = Expected(ALL_ROLES, "giggles.example.test", True, True, True, 1700, Thresholds(85, 85, 20, 26, 30, 9, 3, 7))


def at(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(places: Places, kind: str, lines: list[dict[str, Any]]) -> Path:
    """Write all records of one kind, the oldest first."""
    places.records.mkdir(parents=True, exist_ok=True)
    path = places.records / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def certificate(places: Places, end: float, begin: float | None = None, name: str = "live") -> None:
    """Put a certificate where nginx looks for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "giggles.example.test")])
    moment = [datetime.datetime.fromtimestamp(when, datetime.timezone.utc) for when in (end - 90 * DAY if begin is None else begin, end)]
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(7)
    signed = made.not_valid_before(moment[0]).not_valid_after(moment[1]).sign(key, hashes.SHA256())
    folder = places.at(f"/etc/nginx/tls/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fullchain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    link = places.at("/etc/nginx/tls/current")
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


def healthy(root: Path, *, now: float = NOW, days: int = 90) -> Places:
    """Return a droplet on which everything has gone well for so many days; its volume alone is not mounted."""
    places = Places(root)
    ran = {"verdict": "ok", "reasons": [], "users_found": 12, "users_completed": 12, "users_failed": 0, "result": "success"}
    night = [
        {"time": at(now - 3 * HOUR - day * DAY), "started": at(now - 3.3 * HOUR - day * DAY), "seconds": 700 + 37 * (day % 11),
         "clips_found": 40 + day % 7, "peak_mb": 1180.5 + 9 * (day % 13), **ran}
        for day in range(days - 1, -1, -1)
    ]  # fmt: skip
    write(places, "nightly", night)
    saved = {"ok": True, "seconds": 41.5, "files": 900, "new_files": 12, "snapshot": "2026-11-24-a1b2"}
    write(places, "backup", [{"time": at(now - 2 * HOUR - day * DAY), **saved} for day in range(days - 1, -1, -1)])
    write(places, "drill", [{"time": at(now - 2 * DAY - week * 7 * DAY), **saved, "bytes": 5} for week in range(days // 7, -1, -1)])
    applied = {"seconds": 2.5, "ok": True, "trigger": "timer", "commit": "0123456789" * 4, "previous_commit": "0123456789" * 4, "failed": 0,
               "drift": [], "intended": [], "failures": [], "diffs": []}  # fmt: skip
    step = 0.5 * HOUR
    write(
        places,
        "converge",
        [
            {"time": at(now - 600 - number * step), "changed": int(number % 400 == 0), **applied}
            for number in range(int(days * DAY / step), -1, -1)
        ],
    )
    write(
        places,
        "disk",
        [
            {"time": at(now - number * 6 * HOUR), "root_percent": 40 - number / 40, "uploads_percent": 30.0}
            for number in range(min(days, 100) * 4, -1, -1)
        ],
    )
    certificate(places, now + 55 * DAY)
    for path, content in (
        ("/etc/giggles/vault.json", '{"mode": "encrypted"}\n'),
        ("/opt/giggles/releases/0123456789abcdef/.giggles-release.json", json.dumps({"built": at(now - 9 * DAY), "interpreter": "3.11"})),
    ):
        places.at(path).parent.mkdir(parents=True, exist_ok=True)
        places.at(path).write_text(content)
    if not places.at("/opt/giggles/current").is_symlink():
        places.at("/opt/giggles/current").symlink_to("releases/0123456789abcdef")
    places.at("/var/lib/giggles/uploads").mkdir(parents=True, exist_ok=True)
    return places


def spoil(places: Places, kind: str, number: int, **changes: Any) -> None:
    """Change the record that is `number` from the end; None takes a value away."""
    path = places.records / f"{kind}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    record = {**json.loads(lines[-1 - number]), **changes}
    lines[-1 - number] = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mounted(monkeypatch: Any) -> None:
    """Let the volume of the clips seem to be mounted, as on a droplet."""
    real = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path).endswith("/var/lib/giggles/uploads") or real(path))


def all_run(names: list[str], **other: str) -> Units:
    """Answer as systemd where every unit is active, except those named with another state (underscores for - and .)."""
    known = {}
    for name in names:
        state = other.get(name.replace("-", "_").replace(".", "_"), "active")
        known[name] = Unit(name, True, state, "success" if state != "failed" else "exit-code", NOW - 5 * DAY)
    return Units(known, tuple(name for name, unit in known.items() if unit.state == "failed"))
