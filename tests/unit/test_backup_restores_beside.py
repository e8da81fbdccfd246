"""Two restores at once leave each other's files alone, and what a killed one has left goes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.backup import names
from gigglekit.files import draining

from tests.unit.backup_folder import FolderDroplet
from tests.unit.backup_repository import digests
from tests.unit.vault_volume import AsApp

ME = draining.Owner(os.getuid(), os.getgid())


@pytest.fixture
def local(a_folder: Path) -> FolderDroplet:
    """A droplet whose bucket is a folder."""
    return FolderDroplet.make(a_folder / "droplet")


@pytest.mark.parametrize("replace", [False, True])
def test_a_second_restore_into_the_same_folder_takes_nothing_from_the_first(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """The second one comes when everything of the first is written and nothing of it has its name."""
    user = local.add(3000, 4000, 5000)
    local.sync()
    target, second = a_folder / "back", []
    sync = draining.sync

    def syncing(folder: int) -> None:
        if not second:
            second.append(None)
            assert len(left_in(target)) == 3
            second.append(local.restore(user, target, replace=replace))
        sync(folder)

    with monkeypatch.context() as beside:
        beside.setattr(draining, "sync", syncing)
        first = local.restore(user, target, replace=replace)
    assert second[1] is not None
    assert (second[1].files, second[1].damaged) == (3, [])
    assert (first.files, first.kept, first.damaged) == ((3, 0, []) if replace else (0, 3, []))
    assert digests(target) == digests(user.folder)


def left_in(target: Path) -> list[Path]:
    """Return the files that have no name yet."""
    return [path for path in target.rglob("*") if path.name.startswith(names.UNFINISHED)]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_restores_in_processes_of_their_own_leave_each_others_files_alone(
    local: FolderDroplet, a_folder: Path, replace: bool, killed: bool
) -> None:
    """As above, with locks that are two processes': the kernel takes one away with who held it."""
    user = local.add(*[3000] * 20)
    local.sync()
    target, said = a_folder / "back", a_folder / "said"
    there, go_on = os.pipe(), os.pipe()

    def first() -> None:
        sync = draining.sync

        def waiting(folder: int) -> None:
            os.write(there[1], b"!")
            assert select.select([go_on[0]], [], [], 60)[0]
            sync(folder)

        draining.sync = waiting
        said.write_text(str(local.restore(user, target, replace=replace).files))

    with AsApp(first, uid=os.getuid()) as process:
        assert select.select([there[0]], [], [], 60)[0]
        assert len(left_in(target)) == 20
        if killed:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            process.pid, process.code = 0, 0
        second = local.restore(user, target, replace=replace)
        assert (second.files, second.damaged) == (20, [])
        assert len(left_in(target)) == (0 if killed else 20)
        os.write(go_on[1], b"!!")
    for end in (*there, *go_on):
        os.close(end)
    assert killed or said.read_text() == ("20" if replace else "0")
    assert left_in(target) == []
    assert digests(target) == digests(user.folder)


def test_what_a_killed_restore_has_left_goes_wherever_it_lies(local: FolderDroplet, a_folder: Path) -> None:
    user = local.add(3000)
    local.sync()
    (a_folder / "back/clips").mkdir(parents=True)
    for left in (f"{names.UNFINISHED}0123", f"clips/{names.UNFINISHED}4567"):
        (a_folder / "back" / left).write_bytes(b"half a clip")
    assert local.restore(user, a_folder / "back").damaged == []
    assert digests(a_folder / "back") == digests(user.folder)


@contextlib.contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """Have folders open."""
    descriptors = []
    for path in paths:
        path.mkdir(exist_ok=True)
        descriptors.append(os.open(path, draining.FOLDER))
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_lobby_that_is_replaced_leaves_a_restore_its_files_and_takes_what_a_killed_one_has_left(a_folder: Path) -> None:
    old, new = a_folder / "old", a_folder / "new"
    with opened(old, new, old) as (source, target, restoring):
        waiting = old / f"{names.UNFINISHED}0123"
        waiting.write_bytes(b"a clip without its name")
        (old / "other.wav").write_bytes(b"a clip")
        fcntl.flock(restoring, fcntl.LOCK_SH)
        copied = draining.copy(source, target, ME)
        draining.settle(source, target, copied)
        assert [path.name for path in old.iterdir()] == [waiting.name]
        assert [path.name for path in new.iterdir()] == ["other.wav"]
        assert not draining.drain(source, target, ME, seconds=0).complete, "the restore is still to give it its name"
        assert waiting.exists()
        fcntl.flock(restoring, fcntl.LOCK_UN)
        assert draining.drain(source, target, ME, seconds=0).complete
        assert list(old.iterdir()) == []
        assert [path.name for path in new.iterdir()] == ["other.wav"]
