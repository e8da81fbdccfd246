"""A real master and a minion that comes to it: the same tree, its pillar compiled on the master, its states fetched from there."""

from __future__ import annotations

import json
import os
import signal
import socket
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

from tests.conftest import right_settings

from .conftest import REPOSITORY

_SECONDS = 180


@dataclass(frozen=True)
class Fleet:
    """A master with one minion called `night1`; the folder `states` comes before the real tree.

    Arguments:
        folder: everything that both write lies below.
        tree: the clone that the states come from.
    """

    folder: Path
    tree: Path

    def answer(self, settings: dict[str, Any]) -> None:
        """Write what all droplets share, on the master."""
        (self.folder / "secrets/fleet.sls").write_text(render(settings))

    def salt(self, *arguments: str, timeout: int = _SECONDS) -> Any:
        """Run `salt` on the master and return what the minion answered, or what `salt` said instead."""
        done = subprocess.run(
            ["salt", "-c", str(self.folder / "master"), "--out=json", "--static", f"--timeout={timeout}", "night1", *arguments],
            capture_output=True, text=True, check=False, timeout=_SECONDS + 30,
        )  # fmt: skip
        try:
            return json.loads(done.stdout)["night1"]
        except (ValueError, KeyError, TypeError):
            return done.stdout + done.stderr


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def configure(folder: Path, kind: str, tree: Path, **changes: Any) -> Path:
    """Write the example in `fleet` with the clone in the place of /srv/giggles-salt, and `changes` on top; return the folder with it."""
    text = (REPOSITORY / f"fleet/{kind}.example").read_text().replace("/srv/giggles-salt", str(tree))
    place = folder / kind
    place.mkdir()
    own = {"root_dir": str(place), "pki_dir": "pki", "cachedir": "cache", "sock_dir": "sock", "pidfile": "pid", "log_file": "log"}
    (place / kind).write_text(yaml.safe_dump({**yaml.safe_load(text), **own, **changes}))
    return place


def start(place: Path) -> subprocess.Popen[bytes]:
    """Start the master or the minion that is configured in `place`, as the leader of its own group."""
    with (place / "said").open("w") as log:
        command = [f"salt-{place.name}", "-c", str(place)]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """The configuration of `fleet/*.example`, with places and ports of its own; both run while the tests do."""
    # Names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        tree = folder / "tree"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(REPOSITORY), str(tree)], check=True, timeout=60)
        made = Fleet(folder, tree)
        for below in ("states", "secrets/droplets"):
            (folder / below).mkdir(parents=True)
        (folder / "states/canary.sls").write_text(
            '{% from "map.jinja" import giggles with context %}\n'
            f"canary: {{file.managed: [{{name: {folder}/canary}}, {{contents: {{{{ giggles.domain }}}} }}]}}\n"
            f"same-tree: {{commit.at: [{{name: {tree}}}, {{commit: {{{{ pillar.giggles_pushed.commit }}}} }}]}}\n"
        )
        (folder / "secrets/droplets/night1.sls").write_text("#!quiet_yaml\ngiggles: {roles: [vault, app, nightly]}\n")
        made.answer({**right_settings(), "converge": {"pull": False}})
        publish, answers = free_ports(2)
        records = {"records": str(folder / "records"), "last": str(folder / "last.json")}
        places = (
            configure(
                folder, "master", tree,
                interface="127.0.0.1", publish_port=publish, ret_port=answers, worker_threads=3, auto_accept=True,
                file_roots={"base": [str(folder / "states"), str(tree / "salt")]},
                pillar_roots={"base": [str(tree / "pillar"), str(folder / "secrets")]},
            ),
            configure(
                folder, "minion", tree,
                master="127.0.0.1", publish_port=publish, master_port=answers, giggles_record=records, acceptance_wait_time=1,
            ),
        )  # fmt: skip
        running = [
            subprocess.Popen(
                [f"salt-{place.name}", "-c", str(place)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            for place in places
            for log in [(place / "said").open("w")]
        ]
        try:
            end = time.monotonic() + _SECONDS
            while made.salt("test.ping", timeout=10) is not True:
                assert time.monotonic() < end, "\n".join((place / "said").read_text()[-2000:] for place in places)
            yield made
        finally:
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=30)


def test_a_master_applies_what_the_tree_says_with_the_pillar_of_the_droplet(fleet: Fleet) -> None:
    first = fleet.salt("state.apply", "canary")
    assert {state["result"] for state in first.values()} == {True}, first
    assert (fleet.folder / "canary").read_text() == "giggles.example.test\n"
    assert not any(state["changes"] for state in fleet.salt("state.apply", "canary").values())
    recorded = [json.loads(line) for line in (fleet.folder / "records/converge.jsonl").read_text().splitlines()]
    assert [len(one["intended"]) for one in recorded] == [1, 0]


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
