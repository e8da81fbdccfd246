"""The swap file has its size, and a step that fails leaves the machine the swap it had."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from gigglekit.kernel import swap

SIZE = 8 * 1024**2
PLENTY = 100 * 1024**3


class Machine:
    """Runs mkswap for real on files of its own; pretends swapon and swapoff, so that the machine's swap stays "
    "as it is."""

    def __init__(self, fail: str = "") -> None:
        self.ran: list[str] = []
        self.fail = fail

    def __call__(self, command: Sequence[str]) -> None:
        self.ran.append(f"{command[0]} {Path(command[1]).name}")
        if command[0] == self.fail:
            raise swap.SwapError(f"{command[0]} failed")
        if command[0] == "mkswap":
            tool = shutil.which("mkswap", path="/usr/sbin:/sbin:/usr/bin")
            assert tool, "mkswap (util-linux) is part of every Debian"
            subprocess.run([tool, *command[1:]], check=True, capture_output=True)


def made(path: Path, size: int = SIZE) -> swap.SwapFile:
    swap.establish(swap.inspect(path), size, run=Machine(), free_bytes=PLENTY)
    return swap.inspect(path)


def listing(tmp_path: Path, *active: Path) -> Path:
    file = tmp_path / "swaps"
    lines = ["Filename\tType\tSize\tUsed\tPriority", *(f"{path} file 8188 0 -2" for path in active)]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_new_file_has_size_mode_and_signature(tmp_path: Path) -> None:
    file = made(tmp_path / "swapfile")
    assert file.size_bytes == SIZE
    assert file.private
    assert file.formatted
    blocks = (tmp_path / "swapfile").stat().st_blocks * 512
    assert blocks >= SIZE, "a file with holes cannot be swapped to"


def test_a_file_that_is_in_use_and_right_needs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "swapfile"
    made(path)
    file = swap.inspect(path, swaps=listing(tmp_path, path))
    assert swap.differences(file, SIZE) == {}


def test_swap_that_was_switched_off_is_switched_on_without_rebuilding(tmp_path: Path) -> None:
    path = tmp_path / "swapfile"
    made(path)
    path.chmod(0o644)
    file = swap.inspect(path, swaps=listing(tmp_path))
    assert set(swap.differences(file, SIZE)) == {"active", "mode"}
    machine = Machine()
    swap.establish(file, SIZE, run=machine, free_bytes=0)
    assert machine.ran == ["swapon swapfile"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [SIZE * 2, SIZE // 2])
def test_the_new_size_is_ready_before_the_old_one_goes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "swapfile"
    made(path)
    machine = Machine()
    swap.establish(swap.inspect(path, swaps=listing(tmp_path, path)), size, run=machine, free_bytes=PLENTY)
    assert machine.ran == ["mkswap swapfile.new", "swapoff swapfile", "swapon swapfile"]
    assert path.stat().st_size == size
    assert not (tmp_path / "swapfile.new").exists()


def test_a_full_disk_is_refused_before_anything_changes(tmp_path: Path) -> None:
    machine = Machine()
    with pytest.raises(swap.SwapError, match=r"8 MB does not fit: .* has 512 MB free.*Nothing was changed.*smaller"):
        swap.establish(swap.inspect(tmp_path / "swapfile"), SIZE, run=machine, free_bytes=512 * 1024**2)
    assert machine.ran == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["mkswap", "swapoff"])
def test_a_failed_step_keeps_the_swap_there_was(tmp_path: Path, step: str) -> None:
    path = tmp_path / "swapfile"
    made(path)
    machine = Machine(fail=step)
    with pytest.raises(swap.SwapError):
        swap.establish(swap.inspect(path, swaps=listing(tmp_path, path)), SIZE * 2, run=machine, free_bytes=PLENTY)
    assert "swapon swapfile" not in machine.ran
    assert path.stat().st_size == SIZE
    assert not (tmp_path / "swapfile.new").exists()


def test_something_else_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "swapfile").mkdir()
    with pytest.raises(swap.SwapError, match="not a regular file"):
        swap.inspect(tmp_path / "swapfile")


def test_removing_it_gives_it_back_to_memory_first(tmp_path: Path) -> None:
    path = tmp_path / "swapfile"
    made(path)
    machine = Machine()
    swap.remove(swap.inspect(path, swaps=listing(tmp_path, path)), run=machine)
    assert machine.ran == ["swapoff swapfile"]
    assert not path.exists()
