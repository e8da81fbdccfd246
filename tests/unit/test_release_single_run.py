"""The nightly script runs once at a time, however it is started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from gigglekit.release import single_run


@pytest.fixture
def python(tmp_path: Path) -> list[str]:
    """An interpreter that passes through the guard before its script, with a lock of its own."""
    lock = tmp_path / "nightly.lock"
    lock.touch(0o440)
    guard = Path(single_run.__file__).read_text().replace("/opt/giggles/nightly.lock", str(lock))
    (tmp_path / "sitecustomize.py").write_text(guard)
    return ["env", f"PYTHONPATH={tmp_path}", sys.executable]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "process_nightly_audio.py"
    path.write_text("import sys, time\nprint('ran', flush=True)\ntime.sleep(float(sys.argv[1]))\n")
    return path


def test_a_second_run_ends_at_once_and_says_why(python: list[str], script: Path) -> None:
    first = subprocess.Popen([*python, str(script), "30"], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ran\n"
        second = subprocess.run([*python, str(script), "0"], capture_output=True, timeout=20, check=False)
        assert (second.returncode, second.stdout) == (75, b"")
        assert b"already running" in second.stderr
    finally:
        first.kill()
        first.communicate()
    # A killed run leaves no lock behind.
    time.sleep(0.05)
    assert subprocess.run([*python, str(script), "0"], capture_output=True, timeout=20, check=False).returncode == 0


def test_other_programs_are_left_alone(python: list[str], script: Path, tmp_path: Path) -> None:
    first = subprocess.Popen([*python, str(script), "30"], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ran\n"
        other = tmp_path / "web.py"
        other.write_text("print('served')")
        assert subprocess.run([*python, str(other)], capture_output=True, timeout=20, check=False).stdout == b"served\n"
    finally:
        first.kill()
        first.communicate()
