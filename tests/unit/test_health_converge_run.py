"""The self-converge as a whole, with a real repository and something that stands in for Salt."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import converge_run, expected, taken, watch
from gigglekit.health.at_work import at_work
from gigglekit.health.converge_run import Busy, Machine
from gigglekit.health.places import Places
from gigglekit.settings.schema import defaults

from .test_health_fetching import Forge, git

UTILS = Path(converge_run.__file__).parents[2]

# Says what it was asked, and what a tree with a file `broken` or `silent`, or `busy` beside it, would have Salt say; with `deadly` beside
# the tree it kills who applies. What it applies as a whole it notes, as the returner does.
SALT = """#!/usr/bin/env python3
import json, os, pathlib, signal, subprocess, sys
tree, log = pathlib.Path(@TREE@), pathlib.Path(@LOG@)
with log.open("a") as file:
    file.write(" ".join(word for word in sys.argv[1:] if not word.startswith("--")) + chr(10))
if "state.running" in sys.argv:
    print(json.dumps({"local": ["running"] if (tree / "../busy").exists() else []}))
elif "test=True" in sys.argv:
    print(json.dumps({"local": {"file_|-a_|-a_|-managed": {"result": None, "changes": {}, "__id__": "a"}}}))
elif (tree / "../deadly").exists():
    os.kill(os.getppid(), signal.SIGKILL)
elif not (tree / "silent").exists() and not (tree / "../busy").exists():
    folder = pathlib.Path(os.environ["GIGGLES_CONVERGE"])
    known = json.loads((folder / "known.json").read_text())
    rendered = not (tree / "broken").exists()
    if rendered:
        head = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        pathlib.Path(@LAST@).write_text(json.dumps({"commit": head, "pillar": "", "unsettled": []}))
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

    def head(self) -> str:
        return git(self.forge.path, "rev-parse", "HEAD")

    def killed(self) -> None:
        """Run it, and kill it where it applies what it took."""
        deadly = self.forge.path.parent / "deadly"
        deadly.touch()
        process = multiprocessing.get_context("fork").Process(target=self.run)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        deadly.unlink()

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr("gigglekit.health.fetching._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("gigglekit.health.fetching._TRIES", 1)
    forge, log, runtime = Forge(tmp_path), tmp_path / "log", tmp_path / "bin"
    runtime.mkdir()
    scripts = {
        "salt-call": SALT.replace("@TREE@", repr(str(forge.path)))
        .replace("@LOG@", repr(str(log)))
        .replace("@LAST@", repr(str(tmp_path / "last.json"))),
        "python": '#!/bin/sh\ntest ! -e "$PYTHONPATH/dead"\n',
    }
    for name, text in scripts.items():
        (runtime / name).write_text(text)
        (runtime / name).chmod(0o755)
    machine = Machine(
        forge.path, runtime, tmp_path / "records", tmp_path / "run", others=list, wait=(0.0, 0.01),
        last=tmp_path / "last.json", taken=tmp_path / "taken.json", droplet=Places(tmp_path / "droplet"),
    )  # fmt: skip
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


@pytest.mark.parametrize("how", ["broken", "silent", "_utils/dead"])
def test_a_commit_that_cannot_be_applied_is_put_back_told_and_the_old_one_applied(setting: Setting, how: str) -> None:
    old, new = git(setting.forge.path, "rev-parse", "HEAD"), setting.forge.commit(how, "1\n")
    made = setting.run()
    assert git(setting.forge.path, "rev-parse", "HEAD") == old
    assert not (setting.forge.path / how).exists()
    assert (made["ok"], ids(made["failures"]), made["failures"][0]["name"]) == (False, ["commit-applied"], new[:12])
    assert setting.asked()[-1] == "state.apply"
    assert ids(made["drift"]) == ["a"]
    assert len(recorded(setting)) == 1


@pytest.mark.parametrize("how", ["broken", "silent"])
@pytest.mark.parametrize("then", ["nothing new", "a second bad one", "the remote is away", "busy"])
def test_killed_after_it_took_a_commit_that_cannot_be_applied_it_finds_back(setting: Setting, how: str, then: str) -> None:
    setting.run()
    good, bad = setting.head(), setting.forge.commit(how, "1\n")
    setting.killed()
    assert setting.head() == bad
    assert len(recorded(setting)) == 1
    if then == "a second bad one":
        bad = setting.forge.commit(how, "2\n")
    elif then == "the remote is away":
        setting.forge.remote.rename(setting.forge.remote.with_name("away"))
    elif then == "busy":
        with pytest.raises(Busy):
            setting.run(others=lambda: ["giggles-nightly.service"])
    made = setting.run()
    assert setting.head() == good
    assert not (setting.forge.path / how).exists()
    told = {failure["id"]: failure["name"] for failure in made["failures"]}
    assert told == {"commit-applied": bad[:12]} | ({"repository-fetched": str(setting.forge.path)} if then == "the remote is away" else {})
    assert ids(made["drift"]) == ["a"], "what was drift before it took the commit still is"
    assert len(recorded(setting)) == 2


def test_killed_after_it_took_a_good_commit_it_goes_on_with_it(setting: Setting) -> None:
    setting.run()
    new = setting.forge.commit("a", "1\n")
    setting.killed()
    made = setting.run()
    assert (made["ok"], setting.head(), ids(made["drift"])) == (True, new, ["a"])
    # That belonged to this commit alone.
    assert ids(setting.run()["drift"]) == []
    setting.forge.commit("b", "1\n")
    assert ids(setting.run()["drift"]) == ["a"]


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
def test_killed_while_it_laid_out_a_commit_it_blames_nobody_and_takes_it(setting: Setting, lock: str) -> None:
    setting.run()
    new = setting.forge.commit("salt/top.sls", "second\n")
    # What git leaves that is killed in the middle, and what lies there before it.
    taken.store(taken.Taken(new, frozenset({"a"})), setting.machine.taken)
    (setting.forge.path / "salt/top.sls").write_text("sec")
    left = setting.forge.path / ".git" / lock
    left.touch()
    made = setting.run()
    assert (made["ok"], ids(made["failures"])) == (False, ["repository-fetched"]), "it may be somebody's who is at work"
    taken.store(taken.Taken(new, frozenset({"a"})), setting.machine.taken)
    os.utime(left, (1e9, 1e9))
    made = setting.run()
    assert (made["ok"], setting.head(), ids(made["drift"])) == (True, new, ["a"])
    assert (setting.forge.path / "salt/top.sls").read_text() == "second\n"
    # Whatever it was, it is kept.
    assert "sec" in git(setting.forge.path, "stash", "show", "-p")


def test_after_a_pull_by_hand_nobody_knows_what_was_drift(setting: Setting) -> None:
    setting.run()
    setting.forge.commit("a", "1\n")
    git(setting.forge.path, "pull", "--quiet")
    newest = setting.forge.commit("b", "1\n")
    made = setting.run()
    assert (made["ok"], setting.head(), ids(made["drift"])) == (True, newest, [])


def test_a_commit_that_somebody_went_back_to_stays(setting: Setting) -> None:
    earlier = setting.head()
    setting.forge.commit("a", "1\n")
    setting.run()
    setting.forge.remote.rename(setting.forge.remote.with_name("away"))
    git(setting.forge.path, "reset", "--hard", "--quiet", earlier)
    (setting.forge.path / ".git/info/exclude").write_text("broken\n")
    (setting.forge.path / "broken").touch()
    made = setting.run()
    assert setting.head() == earlier
    assert ids(made["failures"]) == ["repository-fetched", "rendered"]


def test_without_pull_the_tree_is_left_alone(setting: Setting) -> None:
    setting.run()
    bad = setting.forge.commit("broken", "1\n")
    git(setting.forge.path, "pull", "--quiet")
    made = converge_run.converged(setting.machine, pull=False, signers=None)
    assert made is not None
    assert (setting.head(), ids(made["failures"])) == (bad, ["rendered"])


def test_a_commit_with_which_its_programs_do_not_start_never_gets_into_the_tree(setting: Setting) -> None:
    setting.run()
    good = setting.head()
    setting.forge.commit("_utils/dead", "1\n")
    setting.killed()
    assert setting.head() == good


@pytest.mark.parametrize(
    "broken", ["watching", "pings", "nightly_record", "nightly_database", "fetching", "status", "page", "judge/runs", ""]
)
def test_a_commit_is_tried_with_all_that_watches_over_the_server(tmp_path: Path, broken: str) -> None:
    library = tmp_path / "_utils"
    shutil.copytree(UTILS, library, ignore=shutil.ignore_patterns("__pycache__"))
    if broken:
        with (library / f"gigglekit/health/{broken}.py").open("a") as file:
            file.write("\nraise RuntimeError('of a new commit')\n")
    problem = converge_run._problem_of_start(Machine(runtime=Path(sys.executable).parent), library)
    assert ("of a new commit" in problem) is bool(broken), problem


def test_whatever_a_unit_runs_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(converge_run.importlib, "import_module", tried.append)
    converge_run._try_programs()
    texts = [path.read_text() for path in (UTILS.parent / "salt").rglob("*") if path.is_file()]
    run = {name for text in texts for name in re.findall(r"-m (gigglekit[.\w]+)", text)}
    assert "gigglekit.health.watching" in run
    assert run - {name.removesuffix(".__main__") for name in tried} == set()


# --- who watches the watch


def watched(setting: Setting, *, looked: float, page: float, settings: float, uptime: float = 1e6, roles: list[str] | None = None) -> Any:
    """Converge a droplet whose watch did this so many seconds ago."""
    places, now = setting.machine.droplet, time.time()
    for path, text in (
        (places.expected, expected.settings_file({**defaults(), "roles": roles or ["app", "monitoring"]})),
        (places.settings, "{}"), (places.page, ""), (places.at("/proc/uptime"), f"{uptime} 0.0\n"),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.utime(places.page, (now - page, now - page))
    os.utime(places.settings, (now - settings, now - settings))
    places.told.parent.mkdir(parents=True, exist_ok=True)
    watch.store(places.told, watch.State(looked=now - looked))
    return setting.run()


LONG, SHORT = 5000.0, 600.0


def test_a_watch_that_does_not_look_any_more_is_told_by_the_converge(setting: Setting) -> None:
    made = watched(setting, looked=LONG, page=LONG, settings=LONG)
    assert (made["ok"], ids(made["failures"]), setting.asked()) == (False, ["watch-looks"], ["state.apply"])
    assert recorded(setting)[0]["ok"] is False


@pytest.mark.parametrize(
    "fine",
    [{"looked": SHORT}, {"page": SHORT}, {"settings": SHORT}, {"uptime": SHORT}, {"roles": ["app", "converge"]}],
    ids=lambda fine: next(iter(fine)),
)
def test_a_watch_that_looked_or_could_not_yet_is_no_failure(setting: Setting, fine: dict[str, Any]) -> None:
    made = watched(setting, **{"looked": LONG, "page": LONG, "settings": LONG, **fine})
    assert (made["ok"], made["failures"]) == (True, [])


def test_a_look_from_the_future_is_none(setting: Setting) -> None:
    assert ids(watched(setting, looked=-LONG, page=LONG, settings=LONG)["failures"]) == ["watch-looks"]


# --- what is told to whoever started it


@pytest.mark.parametrize("why", ["other work", "another converge"])
def test_a_run_that_did_nothing_ends_neither_well_nor_badly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    def nothing(*_: object, **__: object) -> None:
        if why == "other work":
            raise Busy("giggles-backup.service")

    monkeypatch.setattr(converge_run, "converged", nothing)
    monkeypatch.setattr(sys, "argv", ["converge_run"])
    assert converge_run.main() == 75
    assert capsys.readouterr().out.startswith("Nothing was done")


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
