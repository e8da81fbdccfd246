"""A real master and a minion that comes to it: the same tree, its pillar compiled on the master, its states fetched from there."""

from __future__ import annotations

import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.settings.droplet import render
from saltfactories.cli.salt import Salt
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import EventListener

from tests.conftest import right_settings

from .conftest import REPOSITORY

_SECONDS = 180
_PLACES = ("id", "master", "master_finger", "auto_accept", "pki_dir", "cachedir", "sock_dir", "pidfile", "log_file")
"""What a test's master and minion have of their own, and not from the examples."""


@dataclass(frozen=True)
class Fleet:
    """A master with one minion called `night1`.

    Arguments:
        folder: what both write beside their own folders lies below.
        command: `salt` on the master.
        keys: where the master keeps its own key and those of minions.
    """

    folder: Path
    command: Salt
    keys: Path

    def answer(self, settings: dict[str, Any]) -> None:
        """Write what all droplets share, on the master."""
        (self.folder / "secrets/fleet.sls").write_text(render(settings))

    def salt(self, *arguments: str) -> Any:
        """Run `salt` on the master and return what the minion answered, or what `salt` said instead."""
        done = self.command.run(*arguments, minion_tgt="night1")
        return done.data if done.data is not None else done.stdout + done.stderr

    def recorded(self, least: int) -> list[dict[str, Any]]:
        """Return the records of runs, once there are so many: what came of a run is sent to the master, and then recorded."""
        path = self.folder / "records/converge.jsonl"
        end = time.monotonic() + _SECONDS
        while len(lines := path.read_text().splitlines() if path.exists() else []) < least:
            assert time.monotonic() < end, lines
            time.sleep(0.2)
        return [json.loads(line) for line in lines]


def example(kind: str, tree: Path) -> dict[str, Any]:
    """Return the configuration in `fleet`, with the clone in the place of /srv/giggles-salt."""
    text = (REPOSITORY / f"fleet/{kind}.example").read_text().replace("/srv/giggles-salt", str(tree))
    return {key: value for key, value in yaml.safe_load(text).items() if key not in _PLACES}


def start(place: Path) -> subprocess.Popen[bytes]:
    """Start the master or the minion that is configured in `place`, as the leader of its own group."""
    with (place / "said").open("w") as log:
        command = [f"salt-{place.name}", "-c", str(place)]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture(scope="module")
def factories() -> Iterator[FactoriesManager]:
    """What starts daemons of Salt and waits for them. The fixture that it brings along is left out in pyproject.toml."""
    # Salt keeps what is logged before it is configured, and would print it when pytest ends.
    logging.getLogger("saltfactories").setLevel(logging.ERROR)
    with EventListener() as listener, tempfile.TemporaryDirectory(prefix="factories-") as name:
        yield FactoriesManager(
            root_dir=name,
            log_server_host="127.0.0.1",
            log_server_port=0,
            log_server_level="error",
            event_listener=listener,
            start_timeout=_SECONDS,
        )


@pytest.fixture(scope="module")
def fleet(factories: FactoriesManager) -> Iterator[Fleet]:
    """The configuration of `fleet/*.example`, with places and ports of its own; both run while the tests do."""
    # Names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        tree = folder / "tree"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(REPOSITORY), str(tree)], check=True, timeout=60)
        for below in ("states", "secrets/droplets"):
            (folder / below).mkdir(parents=True)
        (folder / "states/canary.sls").write_text(
            '{% from "map.jinja" import giggles with context %}\n'
            f"canary: {{file.managed: [{{name: {folder}/canary}}, {{contents: {{{{ giggles.domain }}}} }}]}}\n"
            f"same-tree: {{commit.at: [{{name: {tree}}}, {{commit: {{{{ pillar.giggles_pushed.commit }}}} }}]}}\n"
        )
        # The highstate here.
        (folder / "states/top.sls").write_text("base: {'*': [canary]}\n")
        (folder / "secrets/droplets/night1.sls").write_text("#!quiet_yaml\ngiggles: {roles: [vault, app, nightly]}\n")
        of_master, of_minion = example("master", tree), example("minion", tree)
        of_master["file_roots"]["base"].insert(0, str(folder / "states"))
        of_master["pillar_roots"]["base"] = [str(tree / "pillar"), str(folder / "secrets")]
        of_minion["giggles_record"] = {"records": str(folder / "records"), "last": str(folder / "last.json")}
        silent = {"log": {"disabled": True}}
        of_master |= {"auto_accept": True, "pytest-master": silent}
        master = factories.salt_master_daemon("fleet", overrides=of_master, max_start_attempts=1)
        minion = master.salt_minion_daemon("night1", overrides={**of_minion, "pytest-minion": silent}, max_start_attempts=1)
        made = Fleet(folder, master.salt_cli(timeout=_SECONDS), Path(master.config["pki_dir"]))
        made.answer({**right_settings(), "converge": {"pull": False}})
        with master.started(), minion.started():
            yield made


def test_a_master_applies_what_the_tree_says_with_the_pillar_of_the_droplet(fleet: Fleet) -> None:
    first = fleet.salt("state.apply", "canary")
    assert {state["result"] for state in first.values()} == {True}, first
    assert (fleet.folder / "canary").read_text() == "giggles.example.test\n"
    assert not any(state["changes"] for state in fleet.salt("state.apply", "canary").values())
    assert [len(one["intended"]) for one in fleet.recorded(2)] == [1, 0]


def test_another_answer_on_the_master_is_intended_and_what_somebody_changed_is_drift(fleet: Fleet) -> None:
    before = len(fleet.recorded(0))
    fleet.salt("state.apply")
    # The master is asked once more for the pillar then.
    fleet.recorded(before + 1)
    fleet.answer({**right_settings(), "converge": {"pull": False}, "domain": "other.example.test"})
    try:
        # The minion waits, with the pillar that it had when it began to.
        fleet.salt("state.apply")
        fleet.recorded(before + 2)
        (fleet.folder / "canary").unlink()
        fleet.salt("state.apply")
        told = [(one["trigger"], one["full"], *(len(one[kind]) for kind in ("intended", "drift"))) for one in fleet.recorded(before + 3)]
        assert told[-2:] == [("pushed", True, 1, 0), ("pushed", True, 0, 1)]
    finally:
        fleet.answer({**right_settings(), "converge": {"pull": False}})


def test_a_fingerprint_is_the_same_on_the_master_and_on_the_droplet(fleet: Fleet) -> None:
    for key, asked in (("minions/night1", "key.finger"), ("master.pub", "key.finger_master")):
        shown = subprocess.run([REPOSITORY / "fleet/finger", fleet.keys / key], capture_output=True, text=True, check=True, timeout=20)
        assert shown.stdout.strip() == fleet.salt(asked), key


def test_real_concerns_with_their_own_states_are_compared_without_a_failure(fleet: Fleet) -> None:
    found = fleet.salt("state.apply", "vault,app,nightly", "test=True")
    assert isinstance(found, dict), found
    assert {state["__sls__"].partition(".")[0] for state in found.values()} >= {"vault", "app", "nightly"}
    # This machine need not run systemd, which units are asked of; a booted droplet shows those.
    failed = {key: state["comment"] for key, state in found.items() if state["result"] is False and not key.startswith("units_|-")}
    assert failed == {}


def test_a_wrong_pillar_is_refused_by_the_master(fleet: Fleet) -> None:
    fleet.answer({**right_settings(), "converge": {"pull": False}, "domain": "https://giggles.example.test"})
    try:
        fleet.salt("saltutil.refresh_pillar", "wait=True")
        (fleet.folder / "canary").unlink(missing_ok=True)
        said = str(fleet.salt("state.apply", "canary"))
        assert "giggles:domain" in said
        assert "it begins with a scheme" in said
        assert not (fleet.folder / "canary").exists()
    finally:
        fleet.answer({**right_settings(), "converge": {"pull": False}})
