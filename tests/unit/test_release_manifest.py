"""A change inside a release shows, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gigglekit.release import manifest


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("one\n")
    (root / "src" / "other.py").write_text("two\n")
    (root / "link").symlink_to("src")
    manifest.write(root, {"commit": "c"})
    return root


def test_a_finished_release_has_no_drift(release: Path) -> None:
    assert manifest.drift(release) == []
    facts = manifest.facts(release)
    assert facts is not None
    assert facts["commit"] == "c"


def test_moving_a_release_into_place_is_no_drift(release: Path) -> None:
    release.rename(release.with_name("final"))
    assert manifest.drift(release.with_name("final")) == []


def test_a_scratch_file_that_came_and_went_is_no_drift(release: Path) -> None:
    (release / "src" / "scratch").write_text("")
    (release / "src" / "scratch").unlink()
    assert manifest.drift(release) == []


def test_an_edit_shows_even_with_size_and_time_set_back(release: Path) -> None:
    file = release / "src" / "main.py"
    before = file.stat()
    file.write_text("owe\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.drift(release) == ["changed: src/main.py"]


def test_added_deleted_and_swapped_entries_are_named(release: Path) -> None:
    (release / "src" / "added.py").write_text("")
    (release / "src" / "other.py").unlink()
    (release / "link").unlink()
    (release / "link").symlink_to("/etc")
    assert manifest.drift(release) == ["added: src/added.py", "changed: link", "deleted: src/other.py"]


def test_a_mode_shows(release: Path) -> None:
    (release / "src").chmod(0o777)
    assert manifest.drift(release) == ["changed: src"]


def test_a_release_without_its_record_is_incomplete(release: Path) -> None:
    (release / manifest.NAME).unlink()
    assert manifest.facts(release) is None
    assert manifest.drift(release) == [f"missing: {manifest.NAME}"]


def test_an_edited_record_shows(release: Path) -> None:
    record = release / manifest.NAME
    record.write_text(record.read_text().replace('"digest": "', '"digest": "0'))
    assert manifest.drift(release) == [f"changed: {manifest.NAME}"]
