"""The grain of the backup tells what the records say, and takes whatever lies in them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records

_FILE = Path(__file__).resolve().parents[2] / "_grains/giggles.py"
_UNKNOWN = dict.fromkeys(("last_success", "age_s", "ok", "snapshot", "files", "bytes"))


def grain(folder: Path) -> dict[str, Any]:
    """Load it as Salt does, and ask."""
    spec = importlib.util.spec_from_file_location("grain", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.backup(str(folder))
    assert json.dumps(found)
    assert set(found) == {"giggles"}
    return dict(found["giggles"])


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
    script = f"import runpy, sys; runpy.run_path({str(_FILE)!r}); print([name for name in sys.modules if name.startswith('gigglekit')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
