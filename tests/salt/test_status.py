"""Status and alerts through a real salt-call: a screen for a person, JSON for a program, an exit code for a script."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import expected, facts, monitoring, watching
from gigglekit.health.places import Places

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit import status_droplet


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "droplet")


@pytest.fixture
def asked(minion: Minion, right: dict[str, Any], tmp_path: Path, places: Places) -> Minion:
    """A minion whose status looks at a folder, where the backup failed with a reason that would clear a terminal."""
    minion.answer(right)
    status_droplet.healthy(places.root, now=time.time(), days=3)
    status_droplet.spoil(places, "backup", 0, ok=False, reason="\x1b[2Jno answer")
    wanted = {"roles": ["backup"], "domain": None, "bucket": True, "mail": False, "self_converge": False, "nightly_memory_mb": 1700}
    limits = vars(status_droplet.WANTED.thresholds)
    places.expected.write_text(json.dumps({**wanted, "thresholds": limits}))
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


def write_to(places: Places, recipient: str | None) -> None:
    """Write down who is told."""
    chosen = {"domain": "giggles.test", "monitoring": {"mail": {"to": recipient, "from": None, "digest": False}}}
    places.settings.write_text(monitoring.settings_file(chosen, {"pings": {"backup": "https://hc.test/planted-ping-address"}}))


def test_alerts_are_what_the_status_says_with_when_they_were_told(asked: Minion, places: Places) -> None:
    write_to(places, None)
    wanted = expected.read(places.expected)
    assert wanted is not None
    watching.look(places, seen=facts.gather(places, wanted, ask_systemd=status_droplet.all_run))
    done = asked.call("--log-level=error", "--out=json", "giggles.alerts")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["local"]
    (backup,) = [one for one in told["open"] if one["key"] == "backup"]
    assert "no answer" in backup["text"]
    assert backup["told"] is False
    assert told["looked"] is not None
    assert told["mail"] == {"somebody": False, "waiting": 0, "last": None}
    found = json.loads(asked.call("--log-level=error", "--out=json", "giggles.status").stdout)["local"]
    assert {one["key"] for one in told["open"]} <= {key for fact in found["facts"] for key in fact["conditions"]}


@pytest.mark.parametrize(("recipient", "words"), [(None, "Nobody is written to"), ("you@example.test", "was not taken")])
def test_a_test_mail_that_goes_nowhere_fails_and_says_what_to_do(asked: Minion, places: Places, recipient: str | None, words: str) -> None:
    write_to(places, recipient)
    done = asked.call("--log-level=error", "giggles.alerts", "test=True")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert words in said
    assert "giggles:monitoring:mail" in said
    assert "Traceback" not in said
    assert "planted" not in said + asked.written()


def test_alerts_of_a_droplet_that_is_not_watched_are_none(asked: Minion) -> None:
    told = json.loads(asked.call("--log-level=error", "--out=json", "giggles.alerts").stdout)["local"]
    assert (told["looked"], told["open"], told["mail"]["somebody"]) == (None, [], False)
    said = asked.call("--log-level=error", "giggles.alerts", "test=True")
    assert said.returncode != 0
    assert "salt-call state.apply monitoring" in said.stdout + said.stderr
