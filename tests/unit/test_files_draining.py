"""A folder is emptied into another while others use both, and nothing that was written is lost."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.files import draining

from tests.unit.vault_volume import Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")

OWNER = draining.Owner(65534, 65534)


class Pair:
    """Two open folders."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.descriptors = os.open(source, draining.FOLDER), os.open(target, draining.FOLDER)

    def drain(self, seconds: float = 0) -> draining.Drained:
        return draining.drain(*self.descriptors, OWNER, seconds=seconds)

    def copy(self) -> draining.Drained:
        return draining.copy(*self.descriptors, OWNER)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    made = Pair(tmp_path / "source", tmp_path / "target")
    yield made
    for descriptor in made.descriptors:
        os.close(descriptor)


def put(path: Path, content: str, time_ns: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if time_ns is not None:
        os.utime(path, ns=(time_ns, time_ns))
    return path


# --- moving -------------------------------------------------------------------------------------------------------------


def test_everything_moves_with_its_times_and_gets_its_owner(pair: Pair) -> None:
    put(pair.source / "a" / "b" / "clip.wav", "clip", 1_700_000_000_123_456_789)
    put(pair.source / "top.wav", "top")
    report = pair.drain()
    moved = pair.target / "a" / "b" / "clip.wav"
    status = moved.stat()
    assert (moved.read_text(), (pair.target / "top.wav").read_text()) == ("clip", "top")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (65534, 65534, 0o640)
    assert status.st_mtime_ns == 1_700_000_000_123_456_789
    assert (pair.target / "a" / "b").stat().st_mode & 0o7777 == 0o750
    assert list(pair.source.iterdir()) == []
    assert (report.files, report.size, report.complete) == (2, 7, True)


def test_draining_an_empty_folder_does_nothing(pair: Pair) -> None:
    put(pair.target / "kept", "kept")
    report = pair.drain()
    assert (report.files, report.size, report.busy, report.dropped) == (0, 0, 0, 0)
    assert (pair.target / "kept").read_text() == "kept"


def test_copying_keeps_the_source_and_copying_again_copies_nothing(pair: Pair) -> None:
    put(pair.source / "clip", "clip")
    assert pair.copy().files == 1
    assert pair.copy().files == 0
    assert (pair.source / "clip").read_text() == "clip"


def test_a_folder_is_its_owners_from_the_moment_it_can_be_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.source / "folder" / "clip", "clip")
    give, seen = os.fchown, []

    def look_then_give(*arguments: int) -> None:
        if (pair.target / "folder").exists():
            status = (pair.target / "folder").stat()
            seen.append((status.st_uid, status.st_mode & 0o7777))
        give(*arguments)

    monkeypatch.setattr(os, "fchown", look_then_give)
    pair.drain()
    assert set(seen) == {(65534, 0o750)}


def test_a_folder_that_is_there_already_is_filled_as_it_is(pair: Pair) -> None:
    put(pair.target / "folder" / "kept", "kept")
    put(pair.source / "folder" / "clip", "clip")
    inode = (pair.target / "folder").stat().st_ino
    assert pair.drain().complete
    assert sorted(path.name for path in (pair.target / "folder").iterdir()) == ["clip", "kept"]
    assert (pair.target / "folder").stat().st_ino == inode
    assert [path.name for path in pair.target.iterdir()] == ["folder"]


def test_a_setuid_file_does_not_stay_one(pair: Pair) -> None:
    put(pair.source / "tool", "x").chmod(0o4777)
    pair.drain()
    assert (pair.target / "tool").stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize(("in_source", "in_target", "wins"), [(2_000, 1_000, "source"), (1_000, 2_000, "target")])
def test_of_two_files_of_one_name_the_newest_wins(pair: Pair, in_source: int, in_target: int, wins: str) -> None:
    put(pair.source / "clip", "source", in_source)
    put(pair.target / "clip", "target", in_target)
    assert pair.drain().complete
    assert (pair.target / "clip").read_text() == wins
    assert list(pair.source.iterdir()) == []


def test_of_two_files_written_in_one_clock_tick_the_source_wins(pair: Pair) -> None:
    put(pair.source / "clip", "source", 1_000)
    put(pair.target / "clip", "target", 1_000)
    assert pair.drain().complete
    assert (pair.target / "clip").read_text() == "source"


# --- what is no file ------------------------------------------------------------------------------------------------------


def test_links_are_moved_as_links_and_not_followed(pair: Pair, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "secret", "secret")
    (pair.source / "file").symlink_to(outside)
    (pair.source / "folder").symlink_to(outside.parent)
    pair.drain()
    assert [os.readlink(pair.target / name) for name in ("file", "folder")] == [str(outside), str(outside.parent)]
    assert outside.read_text() == "secret"
    assert list(pair.source.iterdir()) == []


def test_a_link_in_the_targets_place_is_replaced_not_written_through(pair: Pair, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "outside", 1)
    (pair.target / "clip").symlink_to(outside)
    put(pair.source / "clip", "clip")
    pair.drain()
    assert outside.read_text() == "outside"
    assert not (pair.target / "clip").is_symlink()
    assert (pair.target / "clip").read_text() == "clip"


def test_a_folder_is_never_filled_through_a_link(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (pair.target / "folder").symlink_to(tmp_path / "outside")
    put(pair.source / "folder" / "clip", "clip")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        pair.drain()
    assert list((tmp_path / "outside").iterdir()) == []
    assert (pair.source / "folder" / "clip").read_text() == "clip"


def test_a_fifo_and_a_socket_neither_block_nor_stay(pair: Pair) -> None:
    os.mkfifo(pair.source / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(pair.source / "socket"))
    report = pair.drain()
    assert (report.dropped, report.complete, report.files) == (2, True, 0)
    assert list(pair.source.iterdir()) == []
    assert list(pair.target.iterdir()) == []


def test_a_file_that_is_gone_when_its_turn_comes_needs_no_copy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.source / "a", "a")
    put(pair.source / "b", "b")
    look = os.stat

    def and_delete(path: object, **options: object) -> os.stat_result:
        found = look(path, **options)  # type: ignore[arg-type]
        if path == "a":
            (pair.source / "a").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "stat", and_delete)
    assert pair.drain().complete
    monkeypatch.undo()
    assert sorted(path.name for path in pair.target.iterdir()) == ["b"]


def test_a_file_exchanged_for_a_link_after_it_was_seen_leads_nowhere(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = put(tmp_path / "secret", "secret")
    put(pair.source / "clip", "clip")
    look, swapped = os.stat, []

    def and_swap(path: object, **options: object) -> os.stat_result:
        found = look(path, **options)  # type: ignore[arg-type]
        if path == "clip" and not swapped:
            swapped.append(1)
            (pair.source / "clip").unlink()
            (pair.source / "clip").symlink_to(secret)
        return found

    monkeypatch.setattr(os, "stat", and_swap)
    with pytest.raises(OSError, match="symbolic links"):
        pair.drain()
    monkeypatch.undo()
    assert list(pair.target.iterdir()) == []
    assert secret.read_text() == "secret"


def test_a_folder_exchanged_for_a_link_after_it_was_seen_leads_nowhere(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "outside" / "secret", "secret")
    put(pair.source / "folder" / "clip", "clip")
    look, swapped = os.stat, []

    def and_swap(path: object, **options: object) -> os.stat_result:
        found = look(path, **options)  # type: ignore[arg-type]
        if path == "folder" and not swapped:
            swapped.append(1)
            (pair.source / "folder").rename(tmp_path / "away")
            (pair.source / "folder").symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(os, "stat", and_swap)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        pair.drain()
    monkeypatch.undo()
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert list(pair.target.iterdir()) == []


# --- others at work -------------------------------------------------------------------------------------------------------

_APPEND = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("open", flush=True)
end, number = time.monotonic() + 1, 0
while time.monotonic() < end:
    os.write(file, b"%d\\n" % number)
    os.fsync(file)
    number += 1
    time.sleep(0.002)
print(number, flush=True)
os.close(file)
"""


def test_what_a_program_appends_while_its_file_is_moved_is_not_lost(pair: Pair) -> None:
    writer = subprocess.Popen([sys.executable, "-S", "-c", _APPEND, pair.source / "log"], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        assert not pair.drain().complete
        assert pair.drain(seconds=30).complete
        written = int(writer.communicate(timeout=30)[0])
    finally:
        writer.kill()
        writer.wait()
    assert (pair.target / "log").read_text() == "".join(f"{number}\n" for number in range(written))
    assert list(pair.source.iterdir()) == []


_PUT = """
import os, sys, hashlib
for number in range(200):
    content = os.urandom(3000)
    with open(f"{sys.argv[1]}/{number}.wav", "xb") as file:
        file.write(content)
    print(hashlib.sha256(content).hexdigest(), flush=True)
"""


def test_files_made_while_the_folder_is_drained_all_arrive(pair: Pair) -> None:
    writer = subprocess.Popen([sys.executable, "-S", "-c", _PUT, pair.source], stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while writer.poll() is None and time.monotonic() < end:
            pair.drain(seconds=1)
        output, _ = writer.communicate(timeout=30)
    finally:
        writer.kill()
        writer.wait()
    assert pair.drain(seconds=5).complete
    arrived = [hashlib.sha256((pair.target / f"{number}.wav").read_bytes()).hexdigest() for number in range(200)]
    assert arrived == output.split()


def test_a_file_that_somebody_writes_stays_and_is_copied_again(pair: Pair) -> None:
    put(pair.source / "clip", "half")
    with (pair.source / "clip").open("a") as file:
        assert pair.drain().busy == 1
        assert (pair.source / "clip").exists()
        file.write(" and whole")
    assert pair.drain().complete
    assert (pair.target / "clip").read_text() == "half and whole"


def test_a_change_between_the_copy_and_the_removal_is_copied_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.source / "clip", "before")
    sync = draining.sync

    def and_write(folder: int) -> None:
        sync(folder)
        if (pair.source / "clip").read_text() == "before":
            put(pair.source / "clip", "after!")

    monkeypatch.setattr(draining, "sync", and_write)
    assert pair.drain(seconds=5).complete
    assert (pair.target / "clip").read_text() == "after!"


def test_a_file_opened_for_writing_between_the_copy_and_the_removal_stays(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.source / "clip", "clip")
    sync, opened = draining.sync, []

    def and_open(folder: int) -> None:
        sync(folder)
        opened.append(os.open(pair.source / "clip", os.O_WRONLY | os.O_APPEND))

    monkeypatch.setattr(draining, "sync", and_open)
    assert pair.drain().busy == 1
    monkeypatch.undo()
    os.write(opened[0], b" and more")
    os.close(opened[0])
    assert pair.drain().complete
    assert (pair.target / "clip").read_text() == "clip and more"


def test_a_file_made_between_the_copy_and_the_removal_stays(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = draining.sync

    def and_make(folder: int) -> None:
        sync(folder)
        put(pair.source / "folder" / "late", "late")

    monkeypatch.setattr(draining, "sync", and_make)
    assert pair.drain().busy == 1
    assert (pair.source / "folder" / "late").read_text() == "late"


def test_what_a_killed_copy_has_left_on_either_side_goes(pair: Pair) -> None:
    put(pair.target / ".copying-0123456789abcdef", "half")
    put(pair.source / ".copying-fedcba9876543210", "half")
    (pair.target / ".copying-1111111111111111").mkdir()
    (pair.source / ".copying-2222222222222222").mkdir()
    put(pair.source / "clip", "clip")
    assert pair.drain().complete
    assert [path.name for path in pair.target.iterdir()] == ["clip"]
    assert list(pair.source.iterdir()) == []


def test_a_full_disk_loses_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pair.source / "clip", "clip")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        pair.drain()
    monkeypatch.undo()
    assert (pair.source / "clip").read_text() == "clip"
    assert list(pair.target.iterdir()) == []


# --- who is writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "writes"), [(os.O_RDONLY, False), (os.O_WRONLY, True), (os.O_RDWR, True)])
def test_a_foreign_writer_is_seen_and_a_reader_is_none(tmp_path: Path, flags: int, writes: bool) -> None:
    clip = put(tmp_path / "clip", "clip")
    with Holder(clip, flags):
        file = os.open(clip, os.O_RDONLY)
        try:
            assert draining.is_being_written(file) is writes
        finally:
            os.close(file)


def test_a_file_mapped_for_writing_is_being_written_after_its_descriptor_was_closed(tmp_path: Path) -> None:
    clip = put(tmp_path / "clip", "clip")
    # Python's own mmap keeps a duplicate of the descriptor open.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with clip.open("r+b") as writer:
        mapped = libc.mmap(None, 4, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, writer.fileno(), 0)
    reader = os.open(clip, os.O_RDONLY)
    try:
        assert draining.is_being_written(reader)
        assert libc.munmap(mapped, 4) == 0
        assert not draining.is_being_written(reader)
    finally:
        os.close(reader)


_BREAK_THE_LEASE = """
import sys, fcntl, os, subprocess
sys.path.insert(0, sys.argv[2])
from gigglekit.files import draining
file = os.open(sys.argv[1], os.O_RDONLY)
control, real = fcntl.fcntl, []
def lease(descriptor, command, argument=0):
    result = control(descriptor, command, argument)
    if command == fcntl.F_SETLEASE and argument == fcntl.F_RDLCK:
        opened = subprocess.Popen([sys.executable, "-S", "-c", "open(__import__('sys').argv[1], 'ab').close()", sys.argv[1]])
        # Its open waits for the lease; SIGIO has been sent when the lease is being broken.
        import time
        end = time.monotonic() + 10
        while control(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK and time.monotonic() < end:
            time.sleep(0.01)
        real.append(opened)
    return result
fcntl.fcntl = lease
print(draining.is_being_written(file), real[0].wait(30), flush=True)
"""


def test_a_program_that_starts_writing_in_that_very_moment_does_not_end_us(tmp_path: Path) -> None:
    clip = put(tmp_path / "clip", "clip")
    library = Path(draining.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _BREAK_THE_LEASE, clip, library], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False 0\n"), done.stderr


def test_the_callers_own_handler_of_the_signal_is_there_again(tmp_path: Path) -> None:
    clip = put(tmp_path / "clip", "clip")
    seen: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: seen.append(number))
    try:
        with clip.open("rb") as file:
            draining.is_being_written(file.fileno())
        os.kill(os.getpid(), signal.SIGIO)
        assert seen == [signal.SIGIO]
    finally:
        signal.signal(signal.SIGIO, before)
