"""giggles.deploy, giggles.rollback and giggles.releases as they are typed: what is wrong is one paragraph, and the exit code says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gigglekit.release.settings import Layout

from tests.salt.conftest import REPOSITORY, Minion


@pytest.fixture
def layout(minion: Minion, right: dict[str, Any], tmp_path: Path) -> Layout:
    """Releases and records in a folder of the test's own."""
    right["app"].update(repository="file:///nowhere/app.git", ref="main")
    minion.answer(right)
    modules = tmp_path / "modules"
    (modules / "_modules").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "_renderers", modules / "_renderers")
    text = (REPOSITORY / "_modules/giggles.py").read_text()
    path = "__import__('pathlib').Path"
    for own, other in (
        ("Layout()", f"Layout({path}({str(tmp_path / 'opt')!r}))"),
        ('records.FOLDER, "release"', f"{path}({str(tmp_path / 'records')!r}), 'release'"),
    ):
        assert own in text
        text = text.replace(own, other)
    (modules / "_modules/giggles.py").write_text(text)
    minion.configure(module_dirs=[str(modules)])
    return Layout(tmp_path / "opt")


def refused(minion: Minion, *arguments: str) -> str:
    done = minion.call("--log-level=error", *arguments)
    told = (done.stdout + done.stderr).strip()
    assert done.returncode == 1, told
    assert "Traceback" not in told
    assert "CLI Example" not in told
    assert "\n\n" not in told
    return " ".join(told.split())


def test_what_cannot_be_deployed_is_told_and_recorded(minion: Minion, layout: Layout, tmp_path: Path) -> None:
    assert "cannot be read" in refused(minion, "giggles.deploy")
    assert "no commit, tag or branch that git would accept" in refused(minion, "giggles.deploy", "ref=a..b")
    assert "no number of seconds" in refused(minion, "giggles.deploy", "wait=long")
    records = [json.loads(line) for line in (tmp_path / "records" / "release.jsonl").read_text().splitlines()]
    assert [record["ok"] for record in records] == [False, False]
    assert "cannot be read" in records[0]["reason"]


def test_a_way_back_to_nowhere_is_told(minion: Minion, layout: Layout) -> None:
    assert "there is nothing to go back to" in refused(minion, "giggles.rollback")
    assert "no release here has that commit" in refused(minion, "giggles.rollback", "to=1234567")


def test_releases_are_listed_with_what_can_be_done_with_them(minion: Minion, layout: Layout) -> None:
    assert json.loads(minion.call("--out=json", "giggles.releases").stdout)["local"] == []
    commit = "a" * 40
    layout.release(commit).mkdir(parents=True)
    layout.current.symlink_to(layout.release(commit))
    (listed,) = json.loads(minion.call("--out=json", "giggles.releases").stdout)["local"]
    assert (listed["commit"], listed["live"], listed["built"], listed["can_be_gone_back_to"]) == (commit, True, "incomplete", False)
