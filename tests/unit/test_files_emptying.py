"""Everything below a folder goes, and nothing beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from gigglekit.files.emptying import empty


def emptied(folder: Path) -> list[str]:
    gone: list[str] = []

    def remove(place: int, name: str) -> None:
        gone.append(name)
        os.unlink(name, dir_fd=place)

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        empty(descriptor, remove)
    finally:
        os.close(descriptor)
    return gone


def test_files_folders_links_and_pipes_all_go(tmp_path: Path) -> None:
    (tmp_path / "folder" / "a" / "b").mkdir(parents=True)
    (tmp_path / "folder" / "c").mkdir()
    for name in ("1", "a/2", "a/b/3", "c/4"):
        (tmp_path / "folder" / name).touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "folder" / "pipe")
    assert sorted(emptied(tmp_path / "folder")) == ["1", "2", "3", "4", "link", "pipe"]
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "outside" / "kept").exists()


def test_folders_nested_without_end_go_too(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        os.close(os.open("f", os.O_CREAT, dir_fd=folder))
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert len(emptied(tmp_path)) == 3000
    assert list(tmp_path.iterdir()) == []


def test_a_folder_moved_away_while_we_are_in_it_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "folder" / "a" / "b").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "b" / "file").touch()
    (tmp_path / "folder" / "z").touch()
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "kept").touch()

    def remove(place: int, name: str) -> None:
        if name == "file":
            (tmp_path / "outside" / "b").rmdir()
            (tmp_path / "folder" / "a" / "b").rename(tmp_path / "outside" / "b")
        os.unlink(name, dir_fd=place)

    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        empty(descriptor, remove)
    finally:
        os.close(descriptor)
    assert list((tmp_path / "folder").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["b", "kept"]


def test_what_is_put_into_a_folder_behind_us_goes_as_well(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()

    def remove(place: int, name: str) -> None:
        if name == "file":
            (tmp_path / "a" / "late").touch()
        os.unlink(name, dir_fd=place)

    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        empty(descriptor, remove)
    finally:
        os.close(descriptor)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def refuse(place: int, name: str) -> None:
        raise PermissionError(1, "Operation not permitted", name)

    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            empty(descriptor, refuse)
    finally:
        os.close(descriptor)


def test_somebody_who_keeps_moving_folders_does_not_keep_us_for_ever(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").mkdir()

    def renew() -> None:
        shutil.rmtree(tmp_path / "outside")
        (tmp_path / "outside").mkdir()
        (tmp_path / "folder" / "a").mkdir(exist_ok=True)
        (tmp_path / "folder" / "a" / "file").touch()

    def remove(place: int, name: str) -> None:
        (tmp_path / "folder" / "a").rename(tmp_path / "outside" / "a")
        os.unlink(name, dir_fd=place)
        renew()

    renew()
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="keeps changing"):
            empty(descriptor, remove)
    finally:
        os.close(descriptor)
