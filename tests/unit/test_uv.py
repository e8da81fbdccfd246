"""Whatever is installed with uv, an index that is away for half a minute fails nothing: not a bootstrap, and not a converge by night."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from gigglekit.certificate import environment
from gigglekit.command import run
from gigglekit.release import box, venv
from gigglekit.release.settings import Layout, Settings
from gigglekit.runtime import building
from gigglekit.runtime.home import Home

# Makes what it is asked for, and notes how often it would try.
UV = """#!/bin/sh
echo "${UV_HTTP_RETRIES:-3}" >> "$0.tries"
if [ "$1" = venv ]; then
  for folder; do :; done
  mkdir -p "$folder/bin" "$folder/lib/python3/site-packages"; touch "$folder/bin/python" "$folder/bin/certbot"
fi
"""


def certbot(folder: Path, uv: Path) -> None:
    lock = folder / "certbot.txt"
    lock.write_text("certbot==5.8.0 --hash=sha256:00\n")
    environment.establish(environment.Environment(folder / "certbot", lock, Path("/usr/bin/python3"), "3.11", uv))


def salt(folder: Path, uv: Path) -> None:
    lock = folder / "salt.txt"
    lock.write_text("salt==3008.3 --hash=sha256:00\n")
    home = Home(folder / "salt")
    home.folder.mkdir()
    building.environment(home, "new", lock, "/usr/bin/python3", uv)


def app(folder: Path, uv: Path) -> None:
    release = folder / "release"
    release.mkdir()
    (release / "requirements.txt").write_text("fastapi\n")
    settings = Settings("https://git.example/app.git", "main", "", "system", "requirements.txt", (), "src.main:app", 2)
    venv.create(settings, Layout(folder / "giggles"), release, uv)


@pytest.mark.parametrize("install", [certbot, salt, app])
def test_an_index_that_is_away_for_half_a_minute_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[[Path, Path], None]
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    # In the box, systemd would start it as another account.
    monkeypatch.setattr(box, "account", lambda: pwd.getpwuid(os.getuid()))
    monkeypatch.setattr(box, "run_boxed", lambda argv, variables, writable, seconds: run(argv, seconds=seconds, environment=variables))
    install(tmp_path, uv)
    tries = [int(line) for line in Path(f"{uv}.tries").read_text().split()]
    assert len(tries) == 2, "one makes the environment, and one fills it"
    # Three of them are over within five to ten seconds, as was seen.
    assert min(tries) >= 6
