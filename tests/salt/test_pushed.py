"""A droplet that is told what to be from elsewhere: with the same commit it keeps what it is told, with another one nothing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.operators_tree import clone, git

from .conftest import REPOSITORY, Minion


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return clone(tmp_path / "tree")


@pytest.fixture
def pushed(minion: Minion, right: dict[str, Any], tree: Path) -> Minion:
    """A minion whose pillar is compiled as by somebody who has the tree."""
    minion.answer({**right, "converge": {"pull": False}})
    minion.configure(ext_pillar=[{"giggles": {"tree": str(tree)}}])
    return minion


def test_with_another_commit_nothing_else_runs(pushed: Minion, tree: Path) -> None:
    same = [{"name": str(tree)}, {"commit": "{{ pillar.giggles_pushed.commit }}"}, {"order": "first"}, {"failhard": True}]
    states = pushed.folder / "states" / "canary.sls"
    # Another first one, as there are in the real tree.
    canary = {"file.managed": [{"name": str(pushed.canary)}, {"order": "first"}]}
    states.write_text(json.dumps({"canary-written": canary, "same": {"commit.at": same}}))
    done = pushed.call("state.apply", "test=True")
    assert done.returncode == 0, done.stdout + done.stderr
    # The droplet's own tree, which is another one here, has one commit more.
    other = pushed.folder / "droplet"
    git(tree, "clone", "--quiet", str(tree), str(other))
    git(other, "commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "Second")
    states.write_text(states.read_text().replace(str(tree), str(other)))
    for test in ("test=True", "test=False"):
        done = pushed.call("state.apply", test)
        assert done.returncode != 0
        assert "fleet/pack" in done.stdout
        assert not pushed.canary.exists()
    git(other, "reset", "--quiet", "--hard", "HEAD~1")
    # The right commit, and an edit that somebody made on the droplet.
    (other / "edit").write_text("An edit.\n")
    done = pushed.call("state.apply")
    assert done.returncode != 0
    assert "has them: edit." in done.stdout
    assert not pushed.canary.exists()
    (other / "edit").unlink()
    assert pushed.call("state.apply").returncode == 0
    assert pushed.canary.exists()


def test_a_tree_with_edits_gives_no_pillar(pushed: Minion, tree: Path) -> None:
    (tree / "edit").write_text("An edit.\n")
    done = pushed.call("state.apply")
    assert done.returncode == 5
    assert "edits that are in no commit" in done.stdout + done.stderr
    assert not pushed.canary.exists()


def test_a_droplet_keeps_what_it_was_told(pushed: Minion, tree: Path) -> None:
    pushed.configure(ext_pillar=[{"giggles": {"tree": str(tree)}}], file_roots={"base": [str(REPOSITORY / "salt")]})
    done = pushed.call("--out=json", "--log-level=error", "state.show_lowstate")
    low = json.loads(done.stdout)["local"]
    states = {chunk["__id__"]: chunk for chunk in low}
    assert (low[0]["__id__"], low[0]["failhard"]) == ("tree-is-the-same", True)
    assert low[0]["commit"] == git(tree, "rev-parse", "HEAD")
    kept = states["answers-kept"]
    assert (kept["name"], kept["mode"], kept["show_changes"]) == ("/etc/giggles/pillar/droplet.sls", "0600", False)
    assert states["name-kept"]["contents"] == "droplet"
    assert states["environment-kept"]["contents"] == "giggles_environment: production"


def test_what_it_keeps_is_the_pillar_that_it_was_told(pushed: Minion, tree: Path) -> None:
    template = "salt://common/files/etc/giggles/pillar/droplet_sls.py"
    roots = {"base": [str(pushed.folder / "states"), str(REPOSITORY / "salt")]}
    pushed.configure(ext_pillar=[{"giggles": {"tree": str(tree)}}], file_roots=roots)
    answers = pushed.folder / "kept/droplet.sls"
    entries = {"name": str(answers), "source": template, "template": "py", "makedirs": True, "show_changes": False}
    state = {"kept": {"file.managed": [{key: value} for key, value in entries.items()]}}
    (pushed.folder / "states/canary.sls").write_text(json.dumps(state))
    done = pushed.call("state.apply", "canary")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(pushed.call("--out=json", "pillar.items", "unmask=True").stdout)["local"]["giggles"]
    # By itself, with nothing but what it keeps, it has the same.
    pushed.droplet_file.write_text(answers.read_text())
    pushed.configure()
    assert json.loads(pushed.call("--out=json", "pillar.items", "unmask=True").stdout)["local"]["giggles"] == told
    assert "*****" not in answers.read_text()
