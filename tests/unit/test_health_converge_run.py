"""The self-converge as a whole, with a real repository and something that stands in for Salt."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import converge_run
from gigglekit.health.at_work import at_work
from gigglekit.health.converge_run import Busy, Machine

from .test_health_fetching import Forge, git

# Says what it was asked, and what a tree with a file `broken`, `silent` or `busy` would have Salt say.
SALT = """#!/usr/bin/env python3
import json, os, pathlib, sys
tree, log = pathlib.Path(@TREE@), pathlib.Path(@LOG@)
with log.open("a") as file:
    file.write(" ".join(word for word in sys.argv[1:] if not word.startswith("--")) + chr(10))
if "state.running" in sys.argv:
    print(json.dumps({"local": ["running"] if (tree / "../busy").exists() else []}))
elif "test=True" in sys.argv:
    print(json.dumps({"local": {"file_|-a_|-a_|-managed": {"result": None, "changes": {}, "__id__": "a"}}}))
elif not (tree / "silent").exists() and not (tree / "../busy").exists():
    folder = pathlib.Path(os.environ["GIGGLES_CONVERGE"])
    known = json.loads((folder / "known.json").read_text())
    rendered = not (tree / "broken").exists()
    (folder / "outcome.json").write_text(json.dumps({
        "ok": rendered, "rendered": rendered, "commit": "c", "previous_commit": "p", "changed": 1, "failed": 0 if rendered else 1,
        "drift": [{"id": one, "name": one, "summary": ""} for one in known or []], "intended": [], "diffs": [],
        "failures": [] if rendered else [{"id": "rendered", "name": "state.apply", "comment": "Jinja"}]}))
"""


@dataclasses.dataclass
class Setting:
    forge: Forge
    machine: Machine
    log: Path

    def run(self, **changes: Any) -> Any:
        return converge_run.converged(dataclasses.replace(self.machine, **changes), pull=True, signers=None)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr("gigglekit.health.fetching._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("gigglekit.health.fetching._TRIES", 1)
    forge, log, runtime = Forge(tmp_path), tmp_path / "log", tmp_path / "bin"
    runtime.mkdir()
    scripts = {
        "salt-call": SALT.replace("@TREE@", repr(str(forge.path))).replace("@LOG@", repr(str(log))),
        "python": f"#!/bin/sh\ntest ! -e {forge.path}/dead\n",
    }
    for name, text in scripts.items():
        (runtime / name).write_text(text)
        (runtime / name).chmod(0o755)
    machine = Machine(forge.path, runtime, tmp_path / "records", tmp_path / "run", others=list, wait=(0.0, 0.01))
    return Setting(forge, machine, log)


def ids(entries: list[dict[str, str]]) -> list[str]:
    return [entry["id"] for entry in entries]


def recorded(setting: Setting) -> list[dict[str, Any]]:
    path = setting.machine.records / "converge.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_without_a_new_commit_states_are_applied_once_and_recorded_once(setting: Setting) -> None:
    made = setting.run()
    assert setting.asked() == ["state.apply"]
    assert (made["ok"], made["trigger"], "rendered" in made) == (True, "timer", False)
    assert len(recorded(setting)) == 1


def test_what_drifted_is_known_by_name_before_a_new_commit_is_taken(setting: Setting) -> None:
    new = setting.forge.commit("a", "1\n")
    made = setting.run()
    assert setting.asked() == ["state.apply test=True", "state.apply"]
    assert ids(made["drift"]) == ["a"]
    assert git(setting.forge.path, "rev-parse", "HEAD") == new


@pytest.mark.parametrize("how", ["broken", "silent", "dead"])
def test_a_commit_that_cannot_be_applied_is_put_back_told_and_the_old_one_applied(setting: Setting, how: str) -> None:
    old, new = git(setting.forge.path, "rev-parse", "HEAD"), setting.forge.commit(how, "1\n")
    made = setting.run()
    assert git(setting.forge.path, "rev-parse", "HEAD") == old
    assert not (setting.forge.path / how).exists()
    assert (made["ok"], ids(made["failures"]), made["failures"][0]["name"]) == (False, ["commit-applied"], new[:12])
    assert setting.asked()[-1] == "state.apply"
    assert ids(made["drift"]) == ["a"]
    assert len(recorded(setting)) == 1


def test_when_nothing_can_be_fetched_the_last_tree_is_applied_and_it_is_told(setting: Setting) -> None:
    setting.forge.remote.rename(setting.forge.remote.with_name("away"))
    made = setting.run()
    assert setting.asked() == ["state.apply"]
    assert (made["ok"], ids(made["failures"])) == (False, ["repository-fetched"])


def test_edits_in_the_tree_are_drift(setting: Setting) -> None:
    (setting.forge.path / "salt/top.sls").write_text("edited\n")
    made = setting.run()
    assert ids(made["drift"]) == ["repository-unedited"]
    assert "salt/top.sls" in made["drift"][0]["summary"]
    assert (setting.forge.path / "salt/top.sls").read_text() == "first\n"


def test_beside_other_work_nothing_is_done(setting: Setting) -> None:
    with pytest.raises(Busy, match="giggles-nightly"):
        setting.run(others=lambda: ["giggles-nightly.service"])
    assert not setting.log.exists()
    assert recorded(setting) == []


def test_beside_a_run_by_hand_nothing_is_recorded(setting: Setting) -> None:
    (setting.forge.path.parent / "busy").touch()
    with pytest.raises(Busy, match="run of states"):
        setting.run()
    assert recorded(setting) == []


def test_only_one_at_a_time(setting: Setting) -> None:
    setting.machine.memory.mkdir()
    with (setting.machine.memory / "converge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert setting.run() is None
    assert not setting.log.exists()


def test_who_holds_a_lock_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    locks = {path: "an erasure"}
    assert at_work((), locks) == []
    with path.open("w") as lock:
        assert at_work((), locks) == []
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert at_work((), locks) == ["an erasure"]
