"""The grain tells what records, certificate and disk say, and takes whatever lies there."""

from __future__ import annotations

import calendar
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from gigglekit import records
from gigglekit.health import validity

from tests.unit import status_droplet

_FILE = Path(__file__).resolve().parents[2] / "_grains/giggles.py"
_UNKNOWN = dict.fromkeys(("last_success", "age_s", "ok", "snapshot", "files", "bytes"))


def grain(folder: Path, root: Path | None = None) -> dict[str, Any]:
    """Load it as Salt does, and ask for what it tells of backup and drill; with a root, for everything."""
    spec = importlib.util.spec_from_file_location("grain", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.giggles(str(folder), str(root or folder))
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    assert msgpack.packb(found)
    assert set(found) == {"giggles"}
    told = dict(found["giggles"])
    assert set(told) == {"backup", "drill", "nightly", "converge", "certificate", "disk", "vault", "release"}
    return told if root else {kind: told[kind] for kind in ("backup", "drill")}


def at(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds_ago))


def test_it_says_what_the_records_say(tmp_path: Path) -> None:
    records.append(tmp_path, "backup", {"ok": True, "snapshot": "one", "files": 2, "size": 30})
    records.append(tmp_path, "backup", {"ok": True, "snapshot": "", "files": 3, "size": 40})
    records.append(tmp_path, "backup", {"ok": False, "reason": "no answer"})
    records.append(tmp_path, "drill", {"ok": True, "snapshot": "one", "files": 2, "bytes": 5})
    found = grain(tmp_path)
    last = records.last(tmp_path, "backup", ok=True)
    assert last is not None
    told = found["backup"]
    assert 0 <= told.pop("age_s") < 3600
    assert told == {"last_success": last["time"], "ok": False, "snapshot": "one", "files": 3, "bytes": 40}
    assert (found["drill"]["ok"], found["drill"]["bytes"]) == (True, 5)


def test_the_age_is_that_of_the_last_success(tmp_path: Path) -> None:
    lines = [{"time": at(90_000), "ok": True, "snapshot": "one", "files": 1, "size": 1}, {"time": at(3600), "ok": False}]
    (tmp_path / "backup.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = grain(tmp_path)["backup"]
    assert 90_000 <= told["age_s"] < 91_000
    assert told["ok"] is False


def test_a_success_before_many_failures_is_still_found(tmp_path: Path) -> None:
    failed = json.dumps({"time": at(10), "ok": False, "reason": "x" * 600})
    success = json.dumps({"time": at(5000), "ok": True, "snapshot": "one", "files": 1, "size": 1})
    (tmp_path / "backup.jsonl").write_text(f"{success}\n" + f"{failed}\n" * 100)
    assert grain(tmp_path)["backup"]["snapshot"] == "one"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n\n\n", b"{", b"\x00" * 5000, b"\xff\xfe\x80", os.urandom(200_000), b"null\n[]\n7\n\"text\"\n", b"[" * 100_000,
        b'{"ok": true}', b'{"ok": true, "time": null}', b'{"ok": true, "time": "yesterday"}', b'{"ok": 1, "time": "2026-01-01T00:00:00Z"}',
        b'{"ok": true, "time": "2999-01-01T00:00:00Z"}', b'{"ok": true, "time": "99999-01-01T00:00:00Z"}', b"x" * 1_000_000,
        b'{"ok": true, "time": {"a": []}, "files": {}}', b"1" * 90_000,
    ],
)  # fmt: skip
def test_whatever_lies_there_it_says_that_it_does_not_know(tmp_path: Path, content: bytes) -> None:
    for name in ("backup", "drill"):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    assert grain(tmp_path) == {"backup": _UNKNOWN, "drill": _UNKNOWN}
    # What is right is found beside it.
    with (tmp_path / "backup.jsonl").open("ab") as file:
        file.write(b"\n" + json.dumps({"time": at(5), "ok": True, "snapshot": 7, "files": "many", "size": True}).encode() + b"\n\n{")
    told = grain(tmp_path)["backup"]
    assert (told["ok"], told["snapshot"], told["files"], told["bytes"]) == (True, None, None, None)
    assert told["last_success"] is not None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    assert grain(tmp_path / "none") == {"backup": _UNKNOWN, "drill": _UNKNOWN}
    os.mkfifo(tmp_path / "backup.jsonl")
    (tmp_path / "drill.jsonl").mkdir()
    assert grain(tmp_path) == {"backup": _UNKNOWN, "drill": _UNKNOWN}
    (tmp_path / "drill.jsonl").rmdir()
    (tmp_path / "drill.jsonl").symlink_to("/etc/passwd")
    assert grain(tmp_path)["drill"] == _UNKNOWN


def test_it_loads_nothing_of_the_library() -> None:
    """Every salt-call pays for what it loads."""
    heavy = ("gigglekit", "cryptography", "ssl", "subprocess", "yaml")
    script = f"import runpy, sys; before = set(sys.modules); runpy.run_path({str(_FILE)!r}); "
    script += f"print([name for name in set(sys.modules) - before if name.startswith({heavy!r})])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_it_tells_how_the_night_and_the_last_converge_went(tmp_path: Path) -> None:
    places = status_droplet.healthy(tmp_path, now=time.time(), days=5)
    status_droplet.spoil(places, "nightly", 0, verdict="partial", users_failed=3)
    status_droplet.spoil(places, "converge", 0, drift=[{"id": "a"}, {"id": "b"}])
    told = grain(places.records, tmp_path)
    night = told["nightly"]
    assert (night["verdict"], night["users_failed"], night["users_found"], night["peak_mb"]) == ("partial", 3, 12, 1180.5)
    assert 10_000 < night["age_s"] < 20_000
    assert (told["converge"]["ok"], told["converge"]["drift"], told["converge"]["trigger"]) == (True, 2, "timer")
    assert told["vault"] == {"mode": "encrypted", "mounted": False}
    assert told["release"] == {"commit": "0123456789abcdef"}
    assert told["disk"]["uploads"] is None
    assert 0 <= told["disk"]["root"]["percent"] <= 100


@pytest.mark.parametrize("year", [2026, 2027, 2049, 2050, 2099])
def test_a_certificate_ends_when_it_says(tmp_path: Path, year: int) -> None:
    end = calendar.timegm((year, 12, 31, 23, 59, 59))
    status_droplet.certificate(status_droplet.Places(tmp_path), end)
    told = grain(tmp_path, tmp_path)["certificate"]
    assert told == {"not_after": f"{year}-12-31T23:59:59Z", "days": int((end - time.time()) // 86400), "placeholder": False}
    assert validity.read(tmp_path / "etc/nginx/tls/current/fullchain.pem") == (end - 90 * 86400, end)


def test_a_placeholder_is_told_from_a_certificate(tmp_path: Path) -> None:
    status_droplet.certificate(status_droplet.Places(tmp_path), time.time() + 86400 * 9.5, name="placeholder")
    told = grain(tmp_path, tmp_path)["certificate"]
    assert (told["placeholder"], told["days"]) == (True, 9)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\x00" * 5000, os.urandom(200_000), b"[]", b"[" * 100_000, b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----",
        b'{"time": "2999-01-01T00:00:00Z", "verdict": "ok", "ok": true}', b'{"mode": ["encrypted"]}', b'{"verdict": "ok", "ok": true}',
    ],
)  # fmt: skip
def test_whatever_lies_anywhere_nothing_raises_and_nothing_is_made_up(tmp_path: Path, content: bytes) -> None:
    for name in ("nightly.jsonl", "converge.jsonl", "etc/nginx/tls/current/fullchain.pem", "etc/giggles/vault.json", "opt/giggles/current"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    told = grain(tmp_path, tmp_path)
    assert set(told["nightly"].values()) == set(told["converge"].values()) == set(told["certificate"].values()) == {None}
    assert told["vault"] == {"mode": None, "mounted": False}
    assert told["release"] == {"commit": None}


def test_values_that_salt_could_not_pack_are_not_told(tmp_path: Path) -> None:
    wrong = {"time": at(5), "verdict": "\ud800", "users_found": 10**30, "peak_mb": float("nan"), "seconds": {"a": 1}, "result": "x" * 500}
    (tmp_path / "nightly.jsonl").write_text(json.dumps(wrong) + "\n")
    status = {"time": at(5), "ok": True, "snapshot": "\ud800", "files": 10**30}
    (tmp_path / "backup.jsonl").write_text(json.dumps(status) + "\n")
    told = grain(tmp_path, tmp_path)
    assert [told["nightly"][key] for key in ("verdict", "users_found", "peak_mb", "seconds")] == [None] * 4
    assert len(told["nightly"]["result"]) == 100
    assert (told["backup"]["snapshot"], told["backup"]["files"]) == (None, None)


def test_five_years_of_records_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = status_droplet.healthy(tmp_path, now=time.time(), days=5 * 365)
    taken, real = [], os.pread

    def pread(descriptor: int, size: int, start: int) -> bytes:
        taken.append(size)
        return real(descriptor, size, start)

    monkeypatch.setattr(os, "pread", pread)
    assert grain(places.records, tmp_path)["nightly"]["verdict"] == "ok"
    assert (places.records / "converge.jsonl").stat().st_size > 10 << 20
    assert sum(taken) <= 6 * (96 << 10)
