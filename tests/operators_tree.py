"""A small clone, as somebody has it who tells droplets from elsewhere what to be."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(tree: Path, *arguments: str) -> str:
    """Have git do something there as a made-up operator; return what it printed."""
    somebody = ("-c", "user.name=Operator", "-c", "user.email=operator@giggles.test")
    command = ["git", *somebody, "-C", str(tree), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.strip()


def clone(made: Path) -> Path:
    """Make a clone with one commit; return where it lies."""
    made.mkdir()
    git(made, "init", "--quiet")
    git(made, "commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "First")
    return made
