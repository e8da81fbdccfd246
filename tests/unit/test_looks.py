"""A look counts for a day, for the settings it was made with, and only if its note can be read and believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gigglekit import looks

NOW = 1_800_000_000.0
DAY = 24 * 3600


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "notes.json"
    looks.note(path, "bucket", "mark", now=NOW)
    looks.note(path, "rights", "other", now=NOW)
    return path


def test_a_look_counts_for_a_day_and_for_its_settings(notes: Path) -> None:
    assert looks.last(notes, "bucket", "mark", now=NOW + DAY - 1) == looks.Last(NOW, due=False)
    assert looks.last(notes, "bucket", "mark", now=NOW + DAY) == looks.Last(NOW, due=True)
    assert looks.last(notes, "bucket", "mark", now=NOW - 1) == looks.Last(NOW, due=True), "the clock was wrong once"
    assert looks.last(notes, "bucket", "other", now=NOW) == looks.Last(None, due=True)
    assert looks.last(notes, "rights", "other", now=NOW) == looks.Last(NOW, due=False)
    assert looks.last(notes, "bucket", "mark", now=NOW).day == "2027-01-15 08:00 UTC"
    assert (notes.stat().st_mode & 0o777, notes.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"bucket": 1}', b'{"bucket": {"settings": "mark"}}']
    + [json.dumps({"bucket": {"settings": "mark", "time": time}}).encode() for time in (None, True, "now", [])],
)
def test_notes_that_cannot_be_believed_are_as_good_as_none(notes: Path, content: bytes) -> None:
    notes.write_bytes(content)
    assert looks.last(notes, "bucket", "mark", now=NOW) == looks.Last(None, due=True)
    looks.note(notes, "bucket", "mark", now=NOW)
    assert looks.last(notes, "bucket", "mark", now=NOW) == looks.Last(NOW, due=False)
