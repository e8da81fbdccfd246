"""A folder inside a folder that somebody else owns is made and put right, and whoever swaps it gains nothing."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from gigglekit.files import folder, links

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving folders away needs root")

WANTED = folder.Wanted(uid=65534, gid=65534, mode=0o750)


def look(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    made = tmp_path / "uploads"
    made.mkdir(mode=0o750)
    os.chown(made, 65534, 65534)
    return made


def test_a_missing_folder_is_made(uploads: Path) -> None:
    assert folder.present(uploads / "clips", WANTED, dry_run=True) == folder.MISSING
    assert not (uploads / "clips").exists()
    assert folder.present(uploads / "clips", WANTED) == folder.MISSING
    assert look(uploads / "clips") == (65534, 65534, 0o750)
    assert folder.present(uploads / "clips", WANTED) == ""


def test_whatever_the_umask_the_mode_is_exact(uploads: Path) -> None:
    before = os.umask(0o777)
    try:
        folder.present(uploads / "clips", WANTED)
    finally:
        os.umask(before)
    assert look(uploads / "clips") == (65534, 65534, 0o750)


def test_a_wrong_owner_or_mode_is_named_and_put_right(uploads: Path) -> None:
    (uploads / "clips").mkdir()
    (uploads / "clips").chmod(0o777)
    assert folder.present(uploads / "clips", WANTED, dry_run=True) == "0:0 0777"
    assert look(uploads / "clips") == (0, 0, 0o777)
    assert folder.present(uploads / "clips", WANTED) == "0:0 0777"
    assert look(uploads / "clips") == (65534, 65534, 0o750)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_link_or_a_file_in_its_place_is_refused(uploads: Path, tmp_path: Path, dry_run: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    before = look(outside)
    (uploads / "clips").symlink_to(outside)
    (uploads / "audio").write_text("")
    for name in ("clips", "audio"):
        with pytest.raises(folder.NotAFolderError, match=name):
            folder.present(uploads / name, WANTED, dry_run=dry_run)
    assert look(outside) == before
    assert (uploads / "clips").is_symlink()


def test_a_link_in_place_of_the_folder_above_is_refused(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(uploads)
    with pytest.raises(folder.NotAFolderError, match="elsewhere"):
        folder.present(tmp_path / "elsewhere" / "clips", WANTED)
    assert not (uploads / "clips").exists()


def test_swapping_it_for_a_link_all_the_time_changes_nothing_outside(uploads: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    before = look(outside)
    (uploads / "clips").mkdir()
    (uploads / "link").symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            links.exchange(uploads / "clips", uploads / "link")

    attacker = threading.Thread(target=swap)
    attacker.start()
    refused = 0
    try:
        for attempt in range(2000):
            try:
                # Another mode each time: there is always something to put right.
                folder.present(uploads / "clips", folder.Wanted(65534, 65534, 0o700 + attempt % 8))
            except folder.NotAFolderError:
                refused += 1
    finally:
        done.set()
        attacker.join()
    assert 0 < refused < 2000, "the swap was not seen in both of its states"
    assert look(outside) == before
