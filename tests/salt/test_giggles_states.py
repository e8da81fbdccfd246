"""The giggles states through a real salt-call: what they return, under test=True as well."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.salt.conftest import REPOSITORY, Minion

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


def apply(minion: Minion, function: str, name: str, **arguments: object) -> dict[str, Any]:
    words = [f"{key}={json.dumps(value)}" for key, value in arguments.items()]
    done = minion.call("--out=json", "state.single", function, f"name={name}", *words)
    answer = json.loads(done.stdout)["local"]
    assert isinstance(answer, dict), answer
    (result,) = answer.values()
    assert isinstance(result, dict)
    assert done.returncode == (2 if result["result"] is False else 0)
    return result


@pytest.fixture
def uploads(minion: Minion, right: dict[str, Any], tmp_path: Path) -> Path:
    minion.answer(right)
    folder = tmp_path / "uploads"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips" / "a.wav").write_text("a")
    (folder / "clips" / "a.wav").chmod(0o644)
    return folder


TREE = {"user": "nobody", "group": "nogroup", "dir_mode": "0750", "file_mode": "0640"}


def test_tree_names_what_it_would_repair_then_repairs_it_then_is_content(minion: Minion, uploads: Path) -> None:
    clip = uploads / "clips" / "a.wav"
    announced = apply(minion, "giggles.tree", str(uploads), test=True, **TREE)
    assert announced["result"] is None
    assert stat.S_IMODE(clip.stat().st_mode) == 0o644
    done = apply(minion, "giggles.tree", str(uploads), **TREE)
    assert done["result"] is True
    assert done["changes"] == announced["changes"]
    assert set(done["changes"]) == {str(uploads), str(uploads / "clips"), str(clip)}
    assert stat.S_IMODE(clip.stat().st_mode) == 0o640
    again = apply(minion, "giggles.tree", str(uploads), **TREE)
    assert (again["result"], again["changes"]) == (True, {})


def test_tree_fails_on_a_hard_link_and_leaves_the_other_name_alone(minion: Minion, uploads: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("f")
    foreign.chmod(0o600)
    os.link(foreign, uploads / "planted")
    result = apply(minion, "giggles.tree", str(uploads), **TREE)
    assert result["result"] is False
    assert "planted has 2 names" in result["comment"]
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o600


def test_tree_on_a_bare_machine_is_no_failure_in_test_mode_and_one_in_earnest(minion: Minion, uploads: Path) -> None:
    nobody_yet = TREE | {"user": "not-made-yet"}
    assert apply(minion, "giggles.tree", str(uploads), test=True, **nobody_yet)["result"] is True
    failed = apply(minion, "giggles.tree", str(uploads), **nobody_yet)
    assert failed["result"] is False
    assert "salt-call state.apply app.folders" in failed["comment"]


def test_folder_is_announced_made_and_then_right(minion: Minion, uploads: Path) -> None:
    wanted = {"user": "nobody", "group": "nogroup", "mode": "0750"}
    audio = uploads / "audio"
    announced = apply(minion, "giggles.folder", str(audio), test=True, **wanted)
    assert (announced["result"], announced["changes"]) == (None, {str(audio): {"directory": "new"}})
    assert not audio.exists()
    assert apply(minion, "giggles.folder", str(audio), **wanted)["changes"] == announced["changes"]
    assert (stat.S_IMODE(audio.stat().st_mode), audio.owner(), audio.group()) == (0o750, "nobody", "nogroup")
    audio.chmod(0o777)
    assert apply(minion, "giggles.folder", str(audio), **wanted)["changes"][str(audio)]["old"].endswith(" 0777")
    assert apply(minion, "giggles.folder", str(audio), **wanted)["changes"] == {}


def test_folder_leaves_a_link_and_what_it_leads_to_alone_and_names_it(minion: Minion, uploads: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (uploads / "audio").symlink_to(outside)
    for test in (True, False):
        refused = apply(minion, "giggles.folder", str(uploads / "audio"), test=test, user="nobody", group="nogroup", mode="0750")
        assert (refused["result"], refused["changes"]) == (False, {})
        assert "audio is a symbolic link" in refused["comment"]
    assert (stat.S_IMODE(outside.stat().st_mode), outside.owner()) == (0o700, "root")


def test_folder_on_a_bare_machine_is_announced(minion: Minion, uploads: Path, tmp_path: Path) -> None:
    announced = apply(minion, "giggles.folder", str(tmp_path / "no" / "clips"), test=True, user="not-made-yet", group="nogroup")
    assert announced["result"] is None
    assert apply(minion, "giggles.folder", str(tmp_path / "no" / "clips"), user="not-made-yet", group="nogroup")["result"] is False


def test_nothing_of_salts_own_files_lies_below_a_folder_that_the_app_owns() -> None:
    """file.directory and file.managed change a path after looking at it; the app could exchange it in between."""
    for leaf in [*(REPOSITORY / "salt" / "app").glob("*.sls"), *(REPOSITORY / "salt" / "nightly").glob("*.sls")]:
        text = leaf.read_text()
        for block in re.split(r"\n(?=\S)", text):
            if re.search(r"^  file\.\w+:", block, re.MULTILINE):
                assert not re.search(r"name: /var/(lib/giggles/uploads|cache/giggles)/", block), leaf
        assert not re.search(r'\("/var/(lib/giggles/uploads|cache/giggles)/', text), leaf


def test_socket_gets_its_owner_and_mode(minion: Minion, uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        Path("s").chmod(0o777)
        arguments = {"user": "root", "group": "www-data", "mode": "0660"}
        assert apply(minion, "giggles.socket", str(tmp_path / "s"), test=True, **arguments)["result"] is None
        assert stat.S_IMODE(Path("s").stat().st_mode) == 0o777
        assert apply(minion, "giggles.socket", str(tmp_path / "s"), **arguments)["changes"]
        assert stat.S_IMODE(Path("s").stat().st_mode) == 0o660
        assert apply(minion, "giggles.socket", str(tmp_path / "s"), **arguments)["changes"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"repository": "", "ref": "main"}, "No repository of the app is configured"),
        ({"repository": "file:///nowhere", "ref": "a..b"}, "no commit, tag or branch"),
        ({"repository": "file:///nowhere", "ref": "main"}, "cannot be read"),
        ({"repository": "https://u:planted-password@h.test/r", "ref": "main"}, "holds a password"),
    ],
)
def test_release_refuses_in_one_paragraph_and_without_secrets(minion: Minion, uploads: Path, arguments: dict[str, str], words: str) -> None:
    result = apply(minion, "giggles.release", "release-live", **arguments)
    assert (result["result"], result["changes"]) == (False, {})
    assert words in result["comment"]
    assert "\n" not in result["comment"].strip()
    assert "planted-password" not in result["comment"]
