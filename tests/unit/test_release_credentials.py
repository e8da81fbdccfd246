"""Credentials of a private repository reach git, and nobody who reads arguments or addresses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gigglekit.release.repository import _git_environment


def test_a_token_reaches_git_through_its_environment_alone(tmp_path: Path) -> None:
    (tmp_path / "repository-token").write_text("planted-token\n")
    environment = _git_environment(tmp_path)
    asked = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=git.example.test\n\n",
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert "password=planted-token" in asked.stdout.splitlines()
    # The helper is handed to a shell as an argument: it names the variable and never holds the token.
    shown = {name: value for name, value in environment.items() if name != "GIGGLES_TOKEN"}
    assert "planted-token" not in str(shown)


def test_without_a_token_git_gives_up_instead_of_asking(tmp_path: Path) -> None:
    asked = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=git.example.test\n\n",
        env={"PATH": os.environ["PATH"], **_git_environment(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert asked.returncode != 0


def test_a_deploy_key_is_used_when_there_is_one(tmp_path: Path) -> None:
    assert " -i " not in _git_environment(tmp_path)["GIT_SSH_COMMAND"]
    (tmp_path / "deploy").write_text("key")
    command = _git_environment(tmp_path)["GIT_SSH_COMMAND"]
    assert f"-i {tmp_path}/deploy" in command
    assert "BatchMode=yes" in command
    assert "IdentitiesOnly=yes" in command
