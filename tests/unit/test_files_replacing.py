"""A file is replaced as a whole, with the mode and owner it should have, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from gigglekit.files.replacing import replace, rewrite


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    replace(link, b"new", 0o640)
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (b"new", b"old")
    assert stat.S_IMODE(link.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_rewritten_file_keeps_owner_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace(file, b"old", 0o604, (65534, 65533))
    rewrite(file, b"new")
    status = file.stat()
    assert (file.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (b"new", 0o604, 65534, 65533)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace(file, b"new")
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
