"""The status through a real salt-call: a screen for a person, JSON for a program, an exit code for a script; and its leaf renders."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit import status_droplet


@pytest.fixture
def asked(minion: Minion, right: dict[str, Any], tmp_path: Path) -> Minion:
    """A minion whose status looks at a folder, where the backup failed with a reason that would clear a terminal."""
    minion.answer(right)
    places = status_droplet.healthy(tmp_path / "droplet", now=time.time(), days=3)
    status_droplet.spoil(places, "backup", 0, ok=False, reason="\x1b[2Jno answer")
    wanted = {"roles": ["backup"], "domain": None, "bucket": True, "mail": False, "self_converge": False, "nightly_memory_mb": 1700}
    limits = vars(status_droplet.WANTED.thresholds)
    places.at("/etc/giggles/status.json").write_text(json.dumps({**wanted, "thresholds": limits}))
    modules = tmp_path / "modules"
    for kind in ("_modules", "_grains", "_output", "_renderers"):
        shutil.copytree(REPOSITORY / kind, modules / kind)
    with (modules / "_modules/giggles.py").open("a") as file:
        file.write(
            f"\n\ndef _status_places():\n    from pathlib import Path\n\n    from gigglekit.health.places import Places\n\n"
            f"    return Places(Path({str(places.root)!r}))\n"
        )
    minion.configure(module_dirs=[str(modules)])
    return minion


def test_a_person_gets_a_screen_and_a_script_an_exit_code(asked: Minion) -> None:
    done = asked.call("--log-level=error", "giggles.status")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Not everything is all right")
    assert any("Backup" in line and "no answer" in line for line in lines)
    assert any("→" in line and "salt-call giggles.sync" in line for line in lines)
    assert "\x1b[2J" not in done.stdout


def test_a_program_gets_everything(asked: Minion) -> None:
    found = json.loads(asked.call("--log-level=error", "--out=json", "giggles.status").stdout)["local"]
    assert found["all_right"] is False
    backup = next(fact for fact in found["facts"] if fact["name"] == "backup")
    assert (backup["level"], backup["values"]["last"]) == ("problem", backup["since"])


def test_the_leaf_of_the_page_renders(minion: Minion, right: dict[str, Any]) -> None:
    right["roles"] = ["hardening", "vault", "app", "web", "nightly", "backup", "monitoring"]
    minion.answer(right)
    minion.configure(
        file_roots={"base": [str(REPOSITORY / "salt")]}, grains={"giggles_environment": "production", "os": "Debian", "osmajorrelease": 12}
    )
    for sls, wanted in (("monitoring.page", "status-rebuilds"), ("web.nginx", "nginx-site-giggles")):
        done = minion.call("--log-level=error", "--out=json", "state.show_sls", sls)
        assert done.returncode == 0, done.stdout + done.stderr
        assert wanted in json.loads(done.stdout)["local"]
