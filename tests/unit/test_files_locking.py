"""One at a time: whoever waits gets its turn, whoever does not wait is told, and a killed process holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gigglekit.files import locking
from gigglekit.files.locking import only_one

UTILS = str(Path(locking.__file__).parents[2])
HOLD = """
import sys, time
from pathlib import Path
from gigglekit.files.locking import only_one
with only_one(Path(sys.argv[1]), seconds=0, busy=RuntimeError):
    print("held", flush=True)
    time.sleep(60)
"""


class BusyError(Exception):
    """Somebody else is at it."""


def test_a_second_one_is_told_and_one_that_waits_has_its_turn_when_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, env={"PYTHONPATH": UTILS})
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError), only_one(path, seconds=0, busy=BusyError):
            raise AssertionError("two at once")
        holder.kill()
        with only_one(path, seconds=30, busy=BusyError):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_free_again_after_the_block_and_after_a_failure_in_it(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"), only_one(tmp_path / "lock", seconds=0, busy=BusyError):
            raise ValueError("mine")


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"), only_one(tmp_path / "lock", seconds=0, busy=BusyError):
        pass
    assert not (tmp_path / "elsewhere").exists()
