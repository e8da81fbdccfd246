"""What is recorded is found again, whatever was left in the file before it."""

from __future__ import annotations

import time
from pathlib import Path

from gigglekit import records
from gigglekit.health import recent


def test_half_a_line_that_a_full_disk_has_left_takes_no_later_record_with_it(tmp_path: Path) -> None:
    records.append(tmp_path, "nightly", {"verdict": "failed"})
    with (tmp_path / "nightly.jsonl").open("a") as file:
        file.write('{"time": "2026-11-30T02:31:07Z", "verd')
    records.append(tmp_path, "nightly", {"verdict": "ok"})
    newest = records.last(tmp_path, "nightly")
    assert newest is not None
    assert newest["verdict"] == "ok"
    found = recent.newest_first(tmp_path, "nightly", now=time.time())
    assert [entry.text("verdict") for entry in found] == ["ok", "failed"]
    records.append(tmp_path, "nightly", {"verdict": "partial"})
    assert "\n\n" not in (tmp_path / "nightly.jsonl").read_text(), "a whole line is followed by the next one"
