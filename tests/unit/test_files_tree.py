"""The tree repair puts right what is below its root, and cannot be led anywhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from gigglekit.files import tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")

WANTED = tree.Wanted(uid=65534, gid=65534, folder_mode=0o750, file_mode=0o640)


def look(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    root = tmp_path / "uploads"
    (root / "clips" / "user").mkdir(parents=True)
    (root / "clips" / "user" / "a.wav").write_text("a")
    tree.repair(root, WANTED)
    return root


def test_wrong_modes_and_owners_are_put_right_and_named(uploads: Path) -> None:
    clip = uploads / "clips" / "user" / "a.wav"
    clip.chmod(0o4777)
    os.chown(uploads / "clips", 0, 0)
    report = tree.repair(uploads, WANTED)
    assert look(clip) == (65534, 65534, 0o640)
    assert look(uploads / "clips") == (65534, 65534, 0o750)
    assert [(entry.path, entry.found, entry.wanted) for entry in report.repaired] == [
        (str(uploads / "clips"), "0:0 0750", "65534:65534 0750"),
        (str(clip), "65534:65534 4777", "65534:65534 0640"),
    ]


def test_a_second_repair_changes_nothing(uploads: Path) -> None:
    report = tree.repair(uploads, WANTED)
    assert (report.repaired_count, report.refused_count, report.seen) == (0, 0, 4)


def test_a_dry_run_reports_the_same_and_changes_nothing(uploads: Path) -> None:
    clip = uploads / "clips" / "user" / "a.wav"
    clip.chmod(0o666)
    dry = tree.repair(uploads, WANTED, dry_run=True)
    assert look(clip)[2] == 0o666
    assert dry.repaired == tree.repair(uploads, WANTED).repaired


def test_links_are_neither_followed_nor_changed(uploads: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "shadow").write_text("s")
    (outside / "shadow").chmod(0o600)
    before = look(outside), look(outside / "shadow")
    (uploads / "clips" / "folder").symlink_to(outside)
    (uploads / "clips" / "file").symlink_to(outside / "shadow")
    report = tree.repair(uploads, WANTED)
    assert (look(outside), look(outside / "shadow")) == before
    assert (report.repaired_count, report.refused_count) == (0, 0)


def test_a_hard_link_to_somebody_elses_file_is_refused_and_named(uploads: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("f")
    foreign.chmod(0o600)
    before = look(foreign)
    os.link(foreign, uploads / "clips" / "planted")
    report = tree.repair(uploads, WANTED)
    assert look(foreign) == before
    assert report.repaired_count == 0
    assert report.refused == (f"{uploads}/clips/planted has 2 names, so another one may lie outside the tree",)


def test_a_fifo_does_not_block_and_is_reported(uploads: Path) -> None:
    os.mkfifo(uploads / "clips" / "pipe", 0o777)
    report = tree.repair(uploads, WANTED)
    assert report.refused == (f"{uploads}/clips/pipe is neither a file nor a folder",)


def test_a_root_that_is_a_link_is_refused(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(uploads)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        tree.repair(tmp_path / "link", WANTED)


def test_folders_nested_without_end_are_refused(uploads: Path) -> None:
    deep = uploads
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    report = tree.repair(uploads, WANTED)
    assert report.refused_count == 1
    assert "nested more than 32 folders deep" in report.refused[0]


def test_the_list_is_capped_and_the_count_is_not(uploads: Path) -> None:
    for number in range(30):
        (uploads / f"{number}.wav").write_text("x")
    report = tree.repair(uploads, WANTED, limit=5)
    assert (len(report.repaired), report.repaired_count) == (5, 30)
