"""Nothing that happens on the droplet during a run makes a backup that is wrong: only one that is a little older.

The app writes, changes and deletes while clips are read, and may be in the hands of somebody who wants to see other files, or
to see the backup fail. Disks are full, clocks are wrong, and credentials end.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError, ClockError, DeniedError
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.repository import Repository
from gigglekit.backup.sync import User
from gigglekit.files import walking

from tests.unit.b2 import Storage
from tests.unit.backup_folder import FolderDroplet
from tests.unit.backup_repository import Droplet, digests
from tests.unit.test_backup_prune import check, prune


@pytest.fixture
def local(a_folder: Path) -> FolderDroplet:
    """A droplet whose bucket is a folder."""
    return FolderDroplet.make(a_folder / "droplet")


@pytest.fixture
def droplet(b2: Storage, tmp_path: Path) -> Droplet:
    """A droplet whose bucket is behind the strict proxy."""
    (tmp_path / "vaults").mkdir()
    return Droplet(tmp_path, b2)


def everything_is_as_on_disk(droplet: Droplet, user: User, target: Path) -> None:
    restored = droplet.restore(user, target)
    assert restored.damaged == []
    assert digests(target) == digests(user.folder)
    assert check(droplet).problems == []


# --- what a hostile or clumsy app leaves in a user's folder -----------------------------------------------------------------------


@pytest.mark.parametrize("year", [1, 1900, 2200, 2400, 9000])
def test_a_clip_from_another_century_keeps_nobody_from_being_saved(local: FolderDroplet, a_folder: Path, year: int) -> None:
    user, other = local.add(1000), local.add(1000)
    odd = local.write(user, "odd.wav", b"from another century")
    seconds = (year - 1970) * 31_556_952
    os.utime(odd, ns=(seconds * 10**9, seconds * 10**9))
    assert local.sync().files == 3
    assert local.sync().snapshot == "", "it is not new each time"
    for one in (user, other):
        everything_is_as_on_disk(local, one, a_folder / one.vault_id)


def test_a_path_too_long_to_be_restored_costs_only_itself(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    folder = os.open(user.folder / "clips", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("deep.wav", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
    os.close(folder)
    done = local.sync()
    assert done.files == 1
    assert any("too long" in problem for problem in done.problems)
    restored = local.restore(user, a_folder / "back")
    assert (restored.files, restored.damaged) == (1, [])
    assert check(local).problems == []
    shutil.rmtree(user.folder)


def test_names_that_are_no_text_come_back_as_they_were(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add()
    odd = [
        b"\xff\xfe.wav",
        "é.wav".encode(),
        "e\u0301.wav".encode(),
        b"\xed\xa0\x80.wav",
        b"new\nline",
        b"\x01",
        "\U0001f602".encode(),
        b"x" * 255,
        b"-rf",
        b" ",
    ]
    for name in odd:
        (user.folder / "clips" / os.fsdecode(name)).write_bytes(name)
    assert local.sync().files == len(odd)
    everything_is_as_on_disk(local, user, a_folder / "back")
    assert sorted(os.listdir(os.fsencode(a_folder / "back/clips"))) == sorted(odd)


def test_links_fifos_sockets_and_devices_are_left_out_and_read_by_nobody(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    clips = user.folder / "clips"
    (clips / "link.wav").symlink_to("/etc/passwd")
    (clips / "etc").symlink_to("/etc")
    os.mkfifo(clips / "fifo.wav")
    (clips / "deep").mkdir()
    (clips / "deep/link.wav").symlink_to("/etc/shadow")
    if os.geteuid() == 0:
        os.mknod(clips / "zero.wav", 0o600 | 0o020000, os.makedev(1, 5))
    assert local.sync().files == 1
    assert local.restore(user, a_folder / "back").files == 1
    shutil.rmtree(clips)
    clips.symlink_to("/etc")
    assert local.sync().files == 0, "nor is a folder that is a link now"


def test_what_a_killed_restore_has_left_is_no_clip(local: FolderDroplet) -> None:
    user = local.add(1000)
    local.write(user, ".restoring-0123456789abcdef", b"half a cl")
    assert local.sync().files == 1


class Swapping:
    """An app that exchanges what was listed before it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, swap: Callable[[walking.Found], None]) -> None:
        self.swapped = 0
        original = walking.Found.open

        def opened(found: walking.Found) -> int:
            if found.path.endswith("victim.wav"):
                self.swapped += 1
                swap(found)
            return original(found)

        monkeypatch.setattr(walking.Found, "open", opened)


@pytest.mark.parametrize("becomes", ["link", "fifo", "folder", "nothing", "device"])
def test_what_becomes_something_else_between_looking_and_opening_is_not_read(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    user = local.add(1000)
    victim = local.write(user, "victim.wav", b"to be exchanged")

    def swap(_: walking.Found) -> None:
        if not victim.is_file():
            return
        victim.unlink()
        if becomes == "link":
            victim.symlink_to("/etc/passwd")
        elif becomes == "fifo":
            os.mkfifo(victim)
        elif becomes == "folder":
            victim.mkdir()
        elif becomes == "device":
            if os.geteuid() != 0:
                pytest.skip("needs root")
            os.mknod(victim, 0o600 | 0o020000, os.makedev(1, 5))

    swapping = Swapping(monkeypatch, swap)
    done = local.sync()
    assert swapping.swapped == 1
    assert (done.files, done.problems) == (1, [])
    restored = local.restore(user, a_folder / "back")
    assert list(digests(a_folder / "back")) == ["clips/2026_laughter_0.wav"]
    assert restored.damaged == []


def test_a_folder_that_becomes_a_link_to_etc_while_it_is_read_shows_nothing_of_etc(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = local.add()
    clips = user.folder / "clips"
    for name in ("a/passwd", "a/shadow", "a/victim.wav", "a/hostname", "b/passwd"):
        local.write(user, name, b"mine")

    def swap(_: walking.Found) -> None:
        if not (clips / "a").is_symlink():
            (clips / "a").rename(clips / "was-a")
            (clips / "a").symlink_to("/etc")
            shutil.rmtree(clips / "b")
            (clips / "b").symlink_to("/etc")

    swapping = Swapping(monkeypatch, swap)
    local.sync()
    assert swapping.swapped == 1
    restored = local.restore(user, a_folder / "back")
    assert restored.damaged == []
    assert restored.files >= 3
    assert {path.read_bytes() for path in (a_folder / "back").rglob("*") if path.is_file()} == {b"mine"}


def test_a_file_that_grows_or_shrinks_whenever_it_is_read_is_taken_as_it_was_or_not_at_all(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = local.add(1000)
    victim = local.write(user, "victim.wav", b"before")
    local.sync()
    local.write(user, "victim.wav", b"before, and more")
    read = os.read

    def reading(descriptor: int, length: int) -> bytes:
        with victim.open("ab") as file:
            file.write(b"!")
        return read(descriptor, length)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", reading)
        done = local.sync()
    assert done.unsettled == 1
    assert done.files == 2
    local.restore(user, a_folder / "back")
    assert (a_folder / "back/clips/victim.wav").read_bytes() == b"before"
    assert local.sync().new_files == 1
    everything_is_as_on_disk(local, user, a_folder / "settled")


# --- the app at work during a run ---------------------------------------------------------------------------------------------------


class Churn(threading.Thread):
    """An app that writes, changes, moves and deletes clips as fast as it can, every one of them in one piece.

    Each content it ever wrote names itself, so that one that is restored can be told from one that nobody wrote.
    """

    def __init__(self, clips: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.clips, self.chance = clips, random.Random(seed)  # noqa: S311
        self.written: set[bytes] = set()
        self.ended = threading.Event()
        self.rounds = 0

    def content(self) -> bytes:
        size = self.chance.choice((0, 10, 5000, 100_000, 300_000))
        content = (f"{self.rounds} ".encode() * (size // 2 + 1))[:size]
        self.written.add(content)
        return content

    def run(self) -> None:
        while not self.ended.is_set():
            self.rounds += 1
            name = self.clips / f"{self.chance.randrange(30)}.wav"
            match self.chance.randrange(6):
                case 0 | 1 | 2:
                    # As apps save: beside it, then named. Half a clip is never there under its name.
                    beside = self.clips / f".{name.name}"
                    beside.symlink_to("/etc/passwd")
                    beside.unlink()
                    content = self.content()
                    beside.write_bytes(content)
                    beside.replace(name)
                case 3:
                    name.unlink(missing_ok=True)
                case 4:
                    if name.exists():
                        name.replace(self.clips / f"{self.chance.randrange(30)}.wav")
                case 5:
                    if name.exists():
                        os.utime(name)
            time.sleep(0)


@pytest.mark.parametrize("seed", range(3))
def test_clips_that_appear_change_and_vanish_during_a_sync_are_saved_as_they_were_at_one_moment(
    local: FolderDroplet, a_folder: Path, seed: int
) -> None:
    user = local.add(100_000)
    still = digests(user.folder)
    churn = Churn(user.folder / "clips", seed)
    snapshots = []
    churn.start()
    try:
        for _ in range(8):
            done = local.sync()
            assert done.problems == []
            snapshots.append(done.snapshot)
    finally:
        churn.ended.set()
        churn.join()
    assert churn.rounds > 20
    allowed = churn.written | {b""}
    for number, snapshot in enumerate(filter(None, snapshots)):
        target = a_folder / str(number)
        assert local.restore(user, target, snapshot).damaged == []
        assert still.items() <= digests(target).items()
        for path in (target / "clips").iterdir():
            if not path.name.startswith((".", "2026")):
                assert path.read_bytes() in allowed, f"{path.name} of {snapshot} is what nobody wrote"
        shutil.rmtree(target)
    local.sync()
    everything_is_as_on_disk(local, user, a_folder / "last")


# --- two runs, and two droplets -------------------------------------------------------------------------------------------------


def test_what_was_stored_by_a_run_that_failed_is_in_the_next_snapshot(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    local.sync()
    local.write(user, "new.wav", b"new")
    repository = local.repository()
    put = repository.bucket.put

    def refusing(name: str, data: bytes, **options: Any) -> None:
        if name.startswith(names.SNAPSHOTS):
            raise BackupError("the bucket is gone")
        put(name, data, **options)

    repository.bucket.put = refusing  # type: ignore[method-assign]
    with pytest.raises(BackupError):
        local.sync(repository)
    done = local.sync()
    assert done.snapshot, "the clip is in the bucket, and no snapshot knows it"
    assert (done.new_files, done.files) == (0, 2)
    everything_is_as_on_disk(local, user, a_folder / "back")
    assert local.sync().snapshot == ""


def test_what_was_deleted_before_a_run_that_failed_is_not_in_the_next_snapshot(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000, 2000)
    local.sync()
    next(iter((user.folder / "clips").iterdir())).unlink()
    repository = local.repository()

    def refusing(*_: object, **__: object) -> None:
        raise BackupError("the bucket is gone")

    repository.bucket.put = refusing  # type: ignore[method-assign]
    with pytest.raises(BackupError):
        local.sync(repository)
    assert local.sync().files == 1
    everything_is_as_on_disk(local, user, a_folder / "back")
