"""A step of bootstrap.sh that fails ends the run, with what it said and what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

BOOTSTRAP = Path(__file__).resolve().parents[2] / "bootstrap.sh"
_SCRIPT = """
set -euo pipefail
die() { echo "die: $1"; exit 1; }
source <(sed -n '/^step() {/,/^}/p' "$1")
works() { echo unseen; }
fails() { echo seen; false; echo "went on after an error"; }
step "first" "never said" works
step "second" "what to do" fails
echo "went on after a step that failed"
"""


def test_an_error_inside_a_step_is_no_success() -> None:
    done = subprocess.run(["bash", "-c", _SCRIPT, "bash", str(BOOTSTRAP)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "die: what to do" in done.stdout
    assert "seen" in done.stderr
    assert "went on" not in done.stdout + done.stderr
    assert "unseen" not in done.stdout + done.stderr


def test_no_step_is_called_in_a_condition_where_bash_ignores_errors() -> None:
    calls = [line.strip() for line in BOOTSTRAP.read_text().splitlines() if line.strip().startswith("step ")]
    assert len(calls) >= 4
    assert not [call for call in calls if "||" in call or "&&" in call]
