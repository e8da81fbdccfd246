"""The self-converge has the Salt that the tree asks for before it applies the tree, and goes back to the one before by itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from gigglekit.runtime.home import Home, Runtime

from .test_health_converge_run import Setting, ids
from .test_health_converge_run import setting as setting  # noqa: PLC0414 -- a fixture

# Is a Python that is asked for gigglekit.runtime alone; it notes what for, and answers what lies beside.
_PYTHON = """#!/usr/bin/env python3
import json, os, pathlib, sys
folder, log = pathlib.Path(@FOLDER@), pathlib.Path(@LOG@)
if "gigglekit.runtime" in sys.argv:
    words = [word for word in ("ensure", "back", "refuse", "proven") if word in sys.argv]
    with log.open("a") as file:
        file.write("runtime " + words[0] + chr(10))
    told = json.loads((folder / "told.json").read_text()) if words[0] == "ensure" else {}
    if words[0] == "back":
        (folder / "unproven").unlink()
        told = {"name": "old", "switched": True}
        (folder / "silent-salt").unlink(missing_ok=True)
    if words[0] == "proven":
        (folder / "unproven").unlink()
    print(json.dumps({"name": "new", "switched": False, "note": "", "problem": "", **told}))
    sys.exit(1 if told.get("problem") else 0)
"""


@pytest.fixture
def salted(setting: Setting, tmp_path: Path) -> Setting:
    """A droplet whose Salt lies as on a real one, and a tree that asks for it."""
    runtime = tmp_path / "current/bin"
    runtime.mkdir(parents=True)
    salt = (tmp_path / "bin/salt-call").read_text().replace('(tree / "silent")', '(tree / "../silent-salt")')
    python = _PYTHON.replace("@FOLDER@", repr(str(tmp_path))).replace("@LOG@", repr(str(setting.log)))
    for name, text in {"salt-call": salt, "python": python}.items():
        (runtime / name).write_text(text)
        (runtime / name).chmod(0o755)
    setting.forge.commit("_utils/gigglekit/runtime/__init__.py", "")
    setting.forge.tree().take(setting.forge.tree().look().commit or "")
    answers(setting)
    return dataclasses.replace(setting, machine=dataclasses.replace(setting.machine, runtime=runtime))


def answers(setting: Setting, **told: object) -> None:
    (setting.log.parent / "told.json").write_text(json.dumps(told))


def test_salt_is_had_before_anything_is_applied(salted: Setting) -> None:
    assert salted.run()["ok"]
    assert salted.asked() == ["runtime ensure", "state.apply"]


def test_what_goes_wrong_with_it_is_told_and_the_tree_is_applied_all_the_same(salted: Setting) -> None:
    answers(salted, problem="It does not start. Nothing was changed.")
    made = salted.run()
    assert (made["ok"], ids(made["failures"]), salted.asked()[-1]) == (False, ["salt-runtime"], "state.apply")
    assert made["failures"][0]["comment"] == "It does not start. Nothing was changed."


def test_one_that_took_the_place_of_another_is_proven_by_what_it_applies(salted: Setting) -> None:
    answers(salted, switched=True)
    (salted.log.parent / "unproven").touch()
    assert salted.run()["ok"]
    assert salted.asked() == ["runtime ensure", "state.apply", "runtime proven"]


def test_one_with_which_nothing_can_be_applied_goes_by_itself_and_is_told(salted: Setting) -> None:
    (salted.log.parent / "unproven").touch()
    (salted.log.parent / "silent-salt").touch()
    made = salted.run(droplet=salted.machine.droplet)
    assert [line for line in salted.asked() if "running" not in line] == [
        "runtime ensure", "state.apply", "runtime back", "state.apply", "runtime refuse",
    ]  # fmt: skip
    assert (made["ok"], ids(made["failures"])) == (False, ["salt-runtime"])
    assert "the one before is in force again" in made["failures"][0]["comment"]


def test_a_commit_that_renders_with_neither_is_to_blame_and_salt_is_not_refused(salted: Setting) -> None:
    salted.run()
    salted.forge.commit("broken", "1\n")
    (salted.log.parent / "unproven").touch()
    made = salted.run()
    assert "runtime back" in salted.asked()
    assert "runtime refuse" not in salted.asked()
    assert ids(made["failures"]) == ["commit-applied"]
    assert not (salted.forge.path / "broken").exists()


def test_a_commit_from_before_there_was_such_a_thing_asks_for_none(setting: Setting) -> None:
    assert setting.run()["ok"]
    assert not (setting.forge.path / "_utils/gigglekit/runtime").exists()


def test_the_mark_that_it_looks_for_is_the_one_that_a_switch_leaves(tmp_path: Path, salted: Setting) -> None:
    home = Home(tmp_path / "opt")
    for name in ("0" * 16, "1" * 16):
        (home.folder / name / "bin").mkdir(parents=True)
        home.complete(Runtime(home.folder / name, "environment", ""))
        home.switch(name)
    machine = dataclasses.replace(salted.machine, runtime=home.folder / "current/bin")
    assert machine.salt.is_unproven
    home.prove()
    assert not machine.salt.is_unproven
