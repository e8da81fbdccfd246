"""Nothing that happens on the droplet during a run makes a backup that is wrong: only one that is a little older.

The app writes, changes and deletes while clips are read, and may be in the hands of somebody who wants to see other files, or
to see the backup fail. Disks are full, clocks are wrong, and credentials end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import sqlite3
import stat
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
from gigglekit.backup.clips import User
from gigglekit.backup.errors import BackupError, ClockError, DeniedError
from gigglekit.backup.manifest import Manifest, State
from gigglekit.backup.storing import SMALL
from gigglekit.files import walking

from tests.unit.b2 import Storage, b2_proxy
from tests.unit.backup_folder import FolderDroplet, samples
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
        os.mknod(clips / "zero.wav", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
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

        def opened(found: walking.Found) -> tuple[int, os.stat_result]:
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
            os.mknod(victim, 0o600 | stat.S_IFCHR, os.makedev(1, 5))

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
    read = os.readv

    def reading(descriptor: int, buffers: list[memoryview]) -> int:
        with victim.open("ab") as file:
            file.write(b"!")
        return read(descriptor, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", reading)
        done = local.sync()
    assert done.unsettled == 1
    assert done.files == 2
    local.restore(user, a_folder / "back")
    assert (a_folder / "back/clips/victim.wav").read_bytes() == b"before"
    assert local.sync().new_files == 1
    everything_is_as_on_disk(local, user, a_folder / "settled")


@pytest.mark.parametrize("size", [1000, SMALL, SMALL + 1])
def test_a_file_that_shrinks_whenever_it_is_read_costs_no_other_clip(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    user = local.add(1000)
    victim = local.write(user, "victim.wav", os.urandom(size))
    inode, read, reads = victim.stat().st_ino, os.readv, 0

    def reading(descriptor: int, buffers: list[memoryview]) -> int:
        nonlocal reads
        if os.fstat(descriptor).st_ino == inode:
            reads += 1
            assert reads < 100, "what has ended is read for ever"
            os.truncate(victim, victim.stat().st_size - 1)
        return read(descriptor, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", reading)
        done = local.sync()
    assert (done.files, done.unsettled, done.problems) == (1, 1, [])
    assert local.sync().new_files == 1
    everything_is_as_on_disk(local, user, a_folder / "settled")


def test_a_large_file_that_changes_between_its_two_readings_is_not_taken(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = local.add(1000)
    victim = local.write(user, "victim.wav", os.urandom(SMALL + 1000))
    seek, times = os.lseek, 0

    def seeking(descriptor: int, place: int, whence: int) -> int:
        nonlocal times
        times += 1
        with victim.open("r+b") as file:
            file.seek(SMALL // 2)
            file.write(os.urandom(10))
        return seek(descriptor, place, whence)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", seeking)
        done = local.sync()
    assert (done.files, done.unsettled, times) == (1, 1, 3)
    assert local.sync().new_files == 1
    everything_is_as_on_disk(local, user, a_folder / "settled")


def test_files_of_every_size_that_matters_come_back_however_little_one_read_gives(a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = 2 * SMALL
    local = FolderDroplet.make(a_folder / "droplet", pack_bytes=pack)
    user = local.add(0, 1, SMALL - 1, SMALL, SMALL + 1, pack - 1, pack, pack + 1, pack + SMALL + 1)
    read, chance = os.readv, random.Random(1)  # noqa: S311

    def reading(descriptor: int, buffers: list[memoryview]) -> int:
        (buffer,) = buffers
        return read(descriptor, [buffer[: chance.randint(1, 1 << 19)]])

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", reading)
        local.sync()
    everything_is_as_on_disk(local, user, a_folder / "back")
    for clip in (user.folder / "clips").iterdir():
        # Read anew, and known.
        os.utime(clip, (1, 1))
    assert local.sync().new_files == 0


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_clip_that_the_disk_does_not_give_back_costs_no_other_clip(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    user = local.add(1000, 2000)
    victim = local.write(user, "victim.wav", bytes(size))
    inode, read = victim.stat().st_ino, os.readv

    def reading(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", reading)
        done = local.sync()
    assert done.files == 2
    assert [user.vault_id in problem and "Input/output error" in problem for problem in done.problems] == [True]
    assert "victim" not in str(done.problems), "names of clips are the user's"
    assert local.sync().new_files == 1
    everything_is_as_on_disk(local, user, a_folder / "back")


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


def test_a_locked_snapshot_that_was_stored_just_before_the_end_is_taken_over(
    b2_locked: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vaults").mkdir()
    droplet = Droplet(tmp_path, b2_locked, other={"lock_days": 3})
    user = droplet.add(1000)
    droplet.sync()
    droplet.write(user, "second.wav", b"second")
    finish = Manifest.finish

    def ended(manifest: Manifest, name: str) -> None:
        if name.startswith(names.SNAPSHOTS):
            raise KeyboardInterrupt
        finish(manifest, name)

    monkeypatch.setattr(Manifest, "finish", ended)
    with pytest.raises(KeyboardInterrupt):
        droplet.sync()
    monkeypatch.setattr(Manifest, "finish", finish)
    assert len(droplet.repository().snapshots()) == 2
    done = droplet.sync()
    assert (done.snapshot, done.users, done.files, done.problems) == ("", 1, 2, [])
    droplet.write(user, "third.wav", b"third")
    assert droplet.sync().problems == []
    repository = droplet.repository()
    assert [repository.open(name).head.number for name in repository.snapshots()] == [1, 2, 3]
    everything_is_as_on_disk(droplet, user, tmp_path / "back")


@contextmanager
def copied_keys(droplet: FolderDroplet, folder: Path) -> Iterator[FolderDroplet]:
    """Give a second droplet with the same keys, users and bucket: one that was cloned, or put back to an earlier state of its disk."""
    shutil.copytree(droplet.folder / "vaults", folder / "vaults")
    (folder / "bucket").symlink_to(droplet.place)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(droplet.folder / "manifest.sqlite", folder)
    clone = dataclasses.replace(droplet, folder=folder, erased=set(droplet.erased))
    clone.users = {vault: dataclasses.replace(user, folder=folder / "vaults" / vault) for vault, user in droplet.users.items()}
    yield clone


def test_a_second_droplet_with_the_same_keys_is_noticed_and_none_refers_to_what_the_other_removed(
    local: FolderDroplet, a_folder: Path
) -> None:
    user = local.add(1000, 300_000)
    local.sync()
    (a_folder / "clone").mkdir()
    with copied_keys(local, a_folder / "clone") as clone:
        twin = clone.users[user.vault_id]
        for number in range(3):
            local.write(user, f"{number}-here.wav", os.urandom(1000))
            clone.write(twin, f"{number}-there.wav", os.urandom(1000))
            here, there = local.sync(), clone.sync()
            if number:
                assert any("another droplet" in problem for problem in here.problems)
            assert any("another droplet" in problem for problem in there.problems)
            prune(local)
            assert check(local).problems == []
            assert clone.restore(twin, a_folder / f"clone-{number}").damaged == []
            assert digests(a_folder / f"clone-{number}") == digests(twin.folder)
        # Deleted by one of them, and only known to the other by what its manifest says.
        (user.folder / "clips/2026_laughter_1.wav").unlink()
        local.sync()
        prune(local)
        clone.write(twin, "last.wav", b"last")
        clone.sync()
        assert check(clone).problems == []
        assert clone.restore(twin, a_folder / "last").damaged == []
        assert digests(a_folder / "last") == digests(twin.folder)


def test_a_droplet_put_back_to_an_earlier_disk_goes_on_with_what_the_bucket_has(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    local.sync()
    earlier = (local.folder / "manifest.sqlite").read_bytes()
    local.write(user, "second.wav", b"second")
    second = local.sync().snapshot
    (local.folder / "manifest.sqlite").write_bytes(earlier)
    local.write(user, "third.wav", b"third")
    done = local.sync()
    assert (done.new_files, done.files) == (1, 3), "what the bucket has is not stored again"
    assert done.snapshot > second
    everything_is_as_on_disk(local, user, a_folder / "back")


def test_a_snapshot_that_somebody_removed_is_made_again_with_the_next_thing_that_is_new(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    local.sync()
    for path in (*(local.place / names.SNAPSHOTS).iterdir(), *(local.place / names.DATA).iterdir()):
        path.unlink()
    local.write(user, "second.wav", b"second")
    done = local.sync()
    assert done.new_files == 2
    assert any(str(names.SNAPSHOTS) in problem for problem in done.problems)
    everything_is_as_on_disk(local, user, a_folder / "back")


@pytest.mark.parametrize("damage", ["snapshot", "section"])
def test_a_lost_manifest_and_a_damaged_snapshot_together_stop_nobody(local: FolderDroplet, a_folder: Path, damage: str) -> None:
    user, other = local.add(1000), local.add(1000)
    local.sync()
    local.write(user, "second.wav", b"second")
    local.sync()
    (local.folder / "manifest.sqlite").unlink()
    newest = max((local.place / names.SNAPSHOTS).iterdir())
    content = bytearray(newest.read_bytes())
    content[20 if damage == "snapshot" else -1] ^= 1
    newest.write_bytes(content)
    done = local.sync()
    assert any(newest.name in problem for problem in done.problems)
    for one in (user, other):
        local.restore(one, a_folder / one.vault_id)
        assert digests(a_folder / one.vault_id) == digests(one.folder)


# --- what is in the way of a restore ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("obstacle", ["folder", "full folder", "fifo", "link", "link to nothing", "device", "socket"])
def test_something_else_under_a_clips_name_costs_no_other_clip(local: FolderDroplet, a_folder: Path, obstacle: str, replace: bool) -> None:
    user = local.add(1000, 2000, 3000)
    local.write(user, "empty.wav", b"")
    local.sync()
    wanted = digests(user.folder)
    target = a_folder / "back"
    (target / "clips").mkdir(parents=True)
    outside = a_folder / "outside"
    outside.write_bytes(b"not mine")
    for name in ("2026_laughter_1.wav", "empty.wav"):
        place = target / "clips" / name
        if "folder" in obstacle:
            place.mkdir()
        if obstacle == "full folder":
            (place / "something").write_bytes(b"something")
        if obstacle == "fifo":
            os.mkfifo(place)
        if "link" in obstacle:
            place.symlink_to(a_folder / "nothing" if "nothing" in obstacle else outside)
        if obstacle == "device":
            if os.geteuid() != 0:
                pytest.skip("needs root")
            os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        if obstacle == "socket":
            os.mknod(place, 0o600 | stat.S_IFSOCK)
    done = local.restore(user, target, replace=replace)
    found = digests(target)
    assert wanted["clips/2026_laughter_0.wav"] == found["clips/2026_laughter_0.wav"]
    assert wanted["clips/2026_laughter_2.wav"] == found["clips/2026_laughter_2.wav"]
    assert outside.read_bytes() == b"not mine"
    assert not (a_folder / "nothing").exists()
    if replace and "folder" not in obstacle:
        assert (found, done.kept, done.damaged) == (wanted, 0, [])
    elif replace:
        assert (done.files, len(done.damaged)) == (2, 2)
        assert all("folder" in problem for problem in done.damaged)
    else:
        assert (done.files, done.same, done.kept, done.damaged) == (2, 0, 2, [])
    assert not [path for path in target.rglob("*") if path.name.startswith(names.UNFINISHED)]


@pytest.mark.parametrize("obstacle", ["file", "link to etc", "fifo"])
def test_something_else_under_a_folders_name_costs_only_what_lies_in_it(local: FolderDroplet, a_folder: Path, obstacle: str) -> None:
    user = local.add(1000)
    local.write(user, "deep/a.wav", b"a")
    local.write(user, "deep/er/b.wav", b"b")
    local.sync()
    target = a_folder / "back"
    (target / "clips").mkdir(parents=True)
    outside = a_folder / "outside"
    outside.mkdir()
    place = target / "clips/deep"
    match obstacle:
        case "file":
            place.write_bytes(b"a file")
        case "fifo":
            os.mkfifo(place)
        case _:
            place.symlink_to(outside)
    for replace in (False, True):
        done = local.restore(user, target, replace=replace)
        assert done.files + done.same == 1
        assert len(done.damaged) == 2
        assert all("clips/deep" in problem for problem in done.damaged)
    assert list(outside.iterdir()) == []


def test_folders_that_become_links_while_clips_are_restored_lead_nowhere(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = local.add()
    for number in range(6):
        local.write(user, f"deep/{number}.wav", b"mine" * (number + 1))
    local.sync()
    target, outside = a_folder / "back", a_folder / "outside"
    outside.mkdir()
    target.mkdir()
    original, swapped = os.open, []

    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(path).startswith(names.UNFINISHED) and not swapped:
            swapped.append(path)
            (target / "clips/deep").rename(target / "clips/was-deep")
            (target / "clips/deep").symlink_to(outside)
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", opened)
    local.restore(user, target)
    assert swapped
    assert list(outside.iterdir()) == []
    assert len(list((target / "clips/was-deep").iterdir())) == 6


# --- full disks ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(a_folder: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = a_folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_during_a_restore_leaves_whole_clips_only_and_more_room_goes_on(
    local: FolderDroplet, a_folder: Path, small: Path
) -> None:
    user = local.add(*[200_000] * 10)
    local.sync()
    wanted = digests(user.folder)
    with pytest.raises(OSError, match="No space left") as caught:
        local.restore(user, small)
    assert caught.value.errno == errno.ENOSPC
    found = digests(small)
    assert found.items() <= wanted.items(), "nothing is there by halves, and nothing under another name"
    subprocess.run(["mount", "-o", "remount,size=8M", small], check=True)
    done = local.restore(user, small)
    assert (done.files + done.same, done.damaged) == (10, [])
    assert digests(small) == wanted


def test_a_disk_that_is_full_under_the_manifest_loses_nothing(local: FolderDroplet, a_folder: Path, small: Path) -> None:
    user = local.add(1000)
    local.sync()
    shutil.move(local.folder / "manifest.sqlite", small)
    (local.folder / "manifest.sqlite").symlink_to(small / "manifest.sqlite")
    for number in range(2000):
        local.write(user, f"{number}.wav", b"%d" % number)
    with (small / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        local.sync()
    assert check(local).problems == []
    (small / "filler").unlink()
    assert local.sync().files == 2001
    everything_is_as_on_disk(local, user, a_folder / "back")


def test_a_full_disk_takes_back_a_change_of_the_manifest_and_says_that_it_is_full(small: Path) -> None:
    manifest = Manifest(small / "manifest.sqlite")
    with manifest.change():
        manifest.put("key", "before")
    with pytest.raises(sqlite3.OperationalError, match="full"), manifest.change():
        manifest.put("key", "after" * 1_000_000)
    assert manifest.get("key") == "before"
    with manifest.change():
        manifest.put("key", "later")
    assert manifest.get("key") == "later"
    manifest.close()


# --- clocks and credentials -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_an_hour_off_is_an_error_that_says_so_and_the_next_run_goes_on(droplet: Droplet, tmp_path: Path, hours: int) -> None:
    user = droplet.add(1000)
    droplet.sync()
    droplet.write(user, "new.wav", b"new")
    droplet.storage.proxy.set_clock(hours * 3600)
    with pytest.raises(ClockError, match=f"60 minutes {'behind' if hours > 0 else 'ahead'}.*timedatectl"):
        droplet.sync()
    with pytest.raises(ClockError):
        droplet.restore(user, tmp_path / "not")
    droplet.storage.proxy.set_clock(0)
    assert droplet.sync().new_files == 1
    everything_is_as_on_disk(droplet, user, tmp_path / "back")


def test_a_clock_that_was_set_back_makes_no_snapshot_the_older_one(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(1000)
    local.sync(clock=lambda: 1_900_000_000.0)
    made = [local.repository().choose(None).base]
    for number in range(3):
        local.write(user, f"{number}.wav", b"%d" % number)
        made.append(local.sync(clock=lambda: 1_800_000_000.0).snapshot)
        if number == 1:
            (local.folder / "manifest.sqlite").unlink()
    repository = local.repository()
    assert [name.base for name in repository.snapshots()] == made
    heads = [repository.open(name).head for name in repository.snapshots()]
    assert [head.number for head in heads] == [1, 2, 3, 4]
    assert [head.previous for head in heads] == ["", *made[:-1]]
    prune(local)
    everything_is_as_on_disk(local, user, a_folder / "back")


@pytest.mark.parametrize("after", [1, 6])
def test_credentials_that_end_half_way_are_named_and_new_ones_go_on(droplet: Droplet, tmp_path: Path, after: int) -> None:
    users = [droplet.add(300_000) for _ in range(4)]
    left = [after]
    original = Bucket.put

    def put(bucket: Bucket, name: str, data: bytes, **options: Any) -> None:
        if left[0] == 0:
            droplet.storage.revoke()
        left[0] -= 1
        original(bucket, name, data, **options)

    Bucket.put = put  # type: ignore[method-assign]
    try:
        with pytest.raises(DeniedError, match="giggles:secrets:backup"):
            droplet.sync()
    finally:
        Bucket.put = original  # type: ignore[method-assign]
    key_id, key = droplet.storage.key(*b2_proxy.CAPABILITIES)
    droplet.storage = dataclasses.replace(droplet.storage, key_id=key_id, application_key=key)
    assert droplet.sync().files == 4
    packs = list(droplet.bucket().versions(names.DATA))
    assert len(packs) == 4, "what was stored with the old ones is used"
    for user in users:
        everything_is_as_on_disk(droplet, user, tmp_path / user.vault_id)


# --- a damaged manifest ---------------------------------------------------------------------------------------------------------------


def filled(path: Path) -> bytes:
    """Make a manifest with something in it."""
    manifest = Manifest(path)
    with manifest.change():
        number = manifest.add_pack("0" * 32, "vault", 1000, bytes(56))
        for each in range(500):
            content = manifest.add_content("vault", f"{each:032}", 10, [(number, each * 10, 10)])
            manifest.put_file("vault", f"{each:032}", State(10, 1, 1, 1), content)
    manifest.close()
    return path.read_bytes()


def used(path: Path) -> None:
    """Read all of a manifest, and write to it."""
    manifest = Manifest(path)
    try:
        manifest.files("vault")
        manifest.states("vault")
        [*manifest.packs()]
        manifest.needed_packs()
        with manifest.change():
            manifest.put("key", "value")
    finally:
        manifest.close()


def test_a_manifest_that_is_cut_is_a_database_error_or_an_empty_one(a_folder: Path) -> None:
    path = a_folder / "manifest.sqlite"
    whole = filled(path)
    used(path)
    for size in (15, 16, 99, 100, 101, 4095, 4096, 4097, 8192, 12_000, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(sqlite3.DatabaseError):
            used(path)
    for size in (0, 1):
        path.write_bytes(whole[:size])
        used(path)


def test_a_manifest_that_is_damaged_is_a_database_error_or_harmless(a_folder: Path) -> None:
    path = a_folder / "manifest.sqlite"
    whole = filled(path)
    chance, caught = random.Random(4), 0  # noqa: S311
    for _ in range(samples(60)):
        content = bytearray(whole)
        for _ in range(40):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            used(path)
        except sqlite3.DatabaseError:
            caught += 1
    assert caught > 10


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0", b"\0" * 4096])
def test_what_is_no_manifest_is_a_database_error(a_folder: Path, content: bytes) -> None:
    path = a_folder / "manifest.sqlite"
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError):
        used(path)


def test_a_manifest_of_a_newer_version_is_a_database_error(a_folder: Path) -> None:
    path = a_folder / "manifest.sqlite"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="version"):
        Manifest(path)
