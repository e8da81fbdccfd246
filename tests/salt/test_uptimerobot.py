"""The monitors at UptimeRobot through a real salt-call: what is asked, when, what is said, and what test=True announces."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health.uptimerobot.plan import MARK
from gigglekit.health.uptimerobot.settings import load, settings_file
from gigglekit.settings.schema import defaults

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit.uptimerobot_server import KEY, READ_ONLY, Account, server

SITE, HEALTH = f"giggles.example.test: website{MARK}", f"giggles.example.test: health{MARK}"


class Droplet:
    """A minion with settings of UptimeRobot, and what the state returns."""

    def __init__(self, minion: Minion, folder: Path, account: Account) -> None:
        self.minion, self.account = minion, account
        self.settings, self.notes = folder / "uptimerobot.json", folder / "notes" / "noted.json"
        self.use()

    def use(self, key: str = KEY, api: str | None = None, **changes: Any) -> None:
        """Write the settings, changed."""
        chosen = defaults()["monitoring"]["uptimerobot"] | {"enabled": True} | changes
        content = json.loads(settings_file(chosen, "giggles.example.test", "ops@example.test", key))
        self.settings.touch(mode=0o600)
        self.settings.write_text(json.dumps(content | {"api": api or self.account.url}))

    def state(self, *arguments: str) -> dict[str, Any]:
        """Run the state and return what it returned; the key is in nothing that anybody could read."""
        done = self.minion.call(
            "--out=json", "--log-level=debug", "state.single", "uptimerobot.monitors", "name=x", f"settings={self.settings}",
            f"notes={self.notes}", *arguments,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        for key in (KEY, READ_ONLY):
            assert key not in done.stdout + done.stderr + self.minion.written()
        (one,) = json.loads(done.stdout)["local"].values()
        return dict(one)

    def asked(self) -> int:
        """How many requests came since the last look."""
        count = len(self.account.asked)
        self.account.asked.clear()
        return count

    def age(self) -> None:
        """Let the last look be more than a day ago."""
        noted = json.loads(self.notes.read_text())
        self.notes.write_text(json.dumps(noted | {"look": noted["look"] | {"time": time.time() - 25 * 3600}}))


@pytest.fixture
def account() -> Iterator[Account]:
    with server(Account()) as made:
        yield made


@pytest.fixture
def droplet(minion: Minion, right: dict[str, Any], tmp_path: Path, account: Account) -> Droplet:
    minion.answer(right)
    return Droplet(minion, tmp_path, account)


def test_it_is_asked_once_a_day_and_not_by_a_run_with_nothing_to_do(droplet: Droplet) -> None:
    announced = droplet.state("test=True")
    assert announced["result"] is None
    assert all(entry.method == "GET" for entry in droplet.account.asked)
    assert not droplet.notes.exists()
    first = droplet.state()
    assert first["result"] is True, first["comment"]
    assert first["changes"] == announced["changes"] != {}
    assert "ops@" not in json.dumps(first)
    droplet.asked()
    for arguments in ((), ("test=True",)):
        again = droplet.state(*arguments)
        assert (again["result"], again["changes"]) == (True, {})
    assert droplet.asked() == 0
    droplet.age()
    later = droplet.state()
    assert (later["result"], later["changes"]) == (True, {})
    assert droplet.asked() == 2
    assert stat.S_IMODE(droplet.notes.stat().st_mode) == 0o600


def test_what_somebody_changed_there_is_announced_put_back_and_named(droplet: Droplet) -> None:
    droplet.state()
    droplet.account.named(SITE)["interval"] = 3600
    theirs = droplet.account.by_hand(friendlyName="mine")
    droplet.age()
    announced = droplet.state("test=True")
    assert announced["result"] is None
    assert droplet.account.named(SITE)["interval"] == 3600
    done = droplet.state()
    assert done["changes"] == announced["changes"] == {f"monitor {SITE}": {"interval": {"old": 3600, "new": 300}}}
    assert theirs in droplet.account.monitors


def test_unreachable_it_fails_nothing_unless_the_settings_changed(droplet: Droplet) -> None:
    droplet.state()
    noted = droplet.notes.read_text()
    droplet.age()
    droplet.account.faults += [("GET", 503, {}, b"")] * 6
    told = droplet.state()
    assert (told["result"], told["changes"]) == (True, {})
    assert "as they should be at" in told["comment"]
    assert json.loads(droplet.notes.read_text())["monitors"] == json.loads(noted)["monitors"]
    # It is no success either: the next run asks again, and then it answers.
    droplet.account.faults.clear()
    droplet.asked()
    assert droplet.state()["result"] is True
    assert droplet.asked() > 0
    droplet.use(api="http://127.0.0.1:9/v3", interval_seconds=600)
    announced = droplet.state("test=True")
    assert (announced["result"], announced["changes"]) == (None, {"monitors": "looked at"})
    assert droplet.state()["result"] is False


def test_a_refusal_fails_says_what_was_done_and_goes_on_next_time(droplet: Droplet) -> None:
    droplet.use(interval_seconds=60)
    refused = droplet.state()
    assert refused["result"] is False
    assert "interval must not be less than 300" in refused["comment"]
    assert refused["changes"] == {"contact …@example.test": "made"}
    droplet.use()
    done = droplet.state()
    assert done["changes"] == {f"monitor {SITE}": "made", f"monitor {HEALTH}": "made"}
    assert len(droplet.account.contacts) == 1
    droplet.use(key=READ_ONLY, interval_seconds=600)
    assert "main API key" in droplet.state()["comment"]


def test_switched_off_what_is_ours_goes_and_nobody_is_asked_again(droplet: Droplet) -> None:
    droplet.state()
    theirs = droplet.account.by_hand(friendlyName="mine")
    droplet.use(enabled=False)
    gone = droplet.state()
    assert set(gone["changes"].values()) == {"removed"}
    assert list(droplet.account.monitors) == [theirs]
    droplet.asked()
    assert (droplet.state()["result"], droplet.state("test=True")["changes"]) == (True, {})
    assert droplet.asked() == 0


def test_without_a_key_it_is_said_plainly_and_what_is_left_over_as_well(droplet: Droplet) -> None:
    droplet.state()
    droplet.settings.unlink()
    left = droplet.state()
    assert (left["result"], left["changes"]) == (True, {})
    assert "still there" in left["comment"]
    droplet.notes.unlink()
    assert "docs/MONITORING.md" in droplet.state()["comment"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_file_is_roots_holds_what_was_chosen_and_no_key_shows(
    minion: Minion, right: dict[str, Any], tmp_path: Path, enabled: bool
) -> None:
    where = tmp_path / "etc" / "uptimerobot.json"
    right |= {"monitoring": {"uptimerobot": {"enabled": enabled, "contacts": ["ops@example.test"]}}}
    right["secrets"]["monitoring"] = {"uptimerobot_key": KEY}
    (minion.folder / "states" / "monitoring").symlink_to(REPOSITORY / "salt" / "monitoring")
    minion.answer(right)
    text = (REPOSITORY / "salt" / "monitoring" / "uptimerobot.sls").read_text()
    text = text.replace("/etc/giggles/uptimerobot.json", str(where)).partition("\n# Asked once")[0]
    (minion.folder / "states" / "written.sls").write_text(text)
    done = minion.call("--out=json", "--log-level=debug", "state.apply", "written")
    assert done.returncode == 0, done.stdout
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    found = load(where)
    assert found is not None
    assert (found.enabled, found.key, found.contacts, found.certificate_days) == (enabled, KEY, ("ops@example.test",), (14, 7))
    assert KEY not in done.stdout + done.stderr + minion.written()
    again = json.loads(minion.call("--out=json", "state.apply", "written").stdout)["local"]
    assert not any(state["changes"] for state in again.values())
