"""A file that is erased is gone from its blocks, and nothing else is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gigglekit.files import overwriting

from tests.unit.vault_volume import Disk

MARKER = b"the sound of people laughing "


def clip_of(marker: bytes, size: int = 200_000) -> bytes:
    return (marker * (size // len(marker) + 1))[:size]


def test_no_byte_of_an_erased_file_is_left_on_the_disk_and_unlinking_leaves_it(a_disk: Disk) -> None:
    erased, unlinked = MARKER + b"erased ", MARKER + b"unlinked "
    for name, marker in (("erased.wav", erased), ("unlinked.wav", unlinked)):
        (a_disk.place / name).write_bytes(clip_of(marker))
    a_disk.sync()
    assert overwriting.erase(a_disk.place / "erased.wav") == 200_704
    (a_disk.place / "unlinked.wav").unlink()
    raw = a_disk.raw()
    assert raw.count(erased) == 0
    assert raw.count(unlinked) > 1000


def test_what_a_file_held_before_it_was_shortened_goes_too(a_disk: Disk) -> None:
    clip = a_disk.place / "clip.wav"
    clip.write_bytes(clip_of(MARKER, 4096))
    a_disk.sync()
    with clip.open("r+b") as file:
        file.truncate(10)
    assert overwriting.erase(clip) == 4096
    assert MARKER not in a_disk.raw()


def test_an_overwritten_file_is_kept_and_what_it_held_is_gone(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(clip_of(MARKER))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        overwriting.overwrite_in(folder, "clip")
    finally:
        os.close(folder)
    content = (tmp_path / "clip").read_bytes()
    assert MARKER not in content
    assert len(set(content)) == 256


def test_two_files_are_overwritten_by_different_bytes(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(bytes(4096))
            overwriting.overwrite_in(folder, name)
    finally:
        os.close(folder)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_file_with_another_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(MARKER)
    os.link(tmp_path / "clip", tmp_path / "other")
    with pytest.raises(overwriting.SharedFileError, match="clip"):
        overwriting.erase(tmp_path / "clip")
    assert [(tmp_path / name).read_bytes() for name in ("clip", "other")] == [MARKER, MARKER]


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(MARKER)
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    assert overwriting.erase(tmp_path / "link") == 0
    assert (tmp_path / "outside").read_bytes() == MARKER
    assert not (tmp_path / "link").is_symlink()


def test_a_link_swapped_in_after_the_look_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").write_bytes(MARKER)
    (tmp_path / "clip").write_bytes(b"clip")
    look = os.stat

    def and_swap(path: object, **options: object) -> os.stat_result:
        found = look(path, **options)  # type: ignore[arg-type]
        if path == "clip":
            (tmp_path / "clip").unlink()
            (tmp_path / "clip").symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(os, "stat", and_swap)
    with pytest.raises(OSError, match="symbolic links"):
        overwriting.erase(tmp_path / "clip")
    monkeypatch.undo()
    assert (tmp_path / "outside").read_bytes() == MARKER


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert overwriting.erase(tmp_path / "pipe") == 0
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_goes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert overwriting.erase(tmp_path / "empty") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        overwriting.erase(tmp_path / "clip")
