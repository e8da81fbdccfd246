"""Names change in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gigglekit.files.links import exchange, move_in, point


def test_a_link_is_made_and_replaced_without_leftovers(tmp_path: Path) -> None:
    link = tmp_path / "current"
    point(link, "one")
    point(link, "two")
    assert str(link.readlink()) == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_a_folder_in_the_way_is_not_destroyed(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(IsADirectoryError):
        point(tmp_path / "current", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "is").read_text() == "b"


def test_what_is_moved_replaces_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            move_in(folder, "a", folder, "b")
        move_in(folder, "a", folder, "c")
    finally:
        os.close(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_exchanging_with_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")
