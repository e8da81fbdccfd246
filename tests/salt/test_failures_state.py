"""What Salt's own states report without a remedy is explained at the very end of a run, of each concern alone as well."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.conftest import right_settings

from .conftest import REPOSITORY, Minion

CONCERNS = sorted(path.parent.name for path in (REPOSITORY / "salt").glob("*/init.sls"))
EXPLAINED = "failures_|-failures-explained_|-failures-explained_|-explained"


def apply(minion: Minion, states: dict[str, Any], *arguments: str) -> tuple[int, list[str], dict[str, Any]]:
    """Apply states beside the real sls; return Salt's exit code, all tags in the order of the run, and the explanation."""
    minion.answer(right_settings())
    folder = minion.folder / "states"
    (folder / "common").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "salt" / "common" / "failures.sls", folder / "common" / "failures.sls")
    (folder / "concern.sls").write_text(yaml.safe_dump({"include": ["common.failures"], **states}), encoding="utf-8")
    done = minion.call("--out=json", "--log-level=quiet", "state.apply", "concern", *arguments)
    returned = json.loads(done.stdout)["local"]
    return done.returncode, sorted(returned, key=lambda tag: returned[tag]["__run_num__"]), returned[EXPLAINED]


# head says what the kernel said; the echo of some shells says "I/O error" whatever it was.
NO_ROOM = {"no-room": {"cmd.run": [{"name": "head -c 1 /dev/zero > /dev/full"}]}}
LAST = {"last": {"test.succeed_without_changes": [{"order": "last"}]}, "zzz-units": {"test.nop": [{"order": "last"}]}}


@pytest.mark.parametrize("arguments", [[], ["test=True"]])
def test_without_a_failure_nothing_is_said_and_nothing_changed(minion: Minion, arguments: list[str]) -> None:
    code, order, explained = apply(minion, LAST, *arguments)
    assert code == 0
    assert (explained["result"], explained["changes"]) == (True, {})
    assert "Nothing failed" in explained["comment"]
    assert order[-1] == EXPLAINED


def test_a_failure_of_salts_own_is_explained_after_everything_else(minion: Minion) -> None:
    behind = {"behind-it": {"test.succeed_without_changes": [{"require": [{"cmd": "no-room"}]}]}}
    code, order, explained = apply(minion, {**NO_ROOM, **behind, **LAST})
    assert code == 2
    assert (explained["result"], explained["changes"]) == (False, {})
    assert explained["comment"].startswith("no-room failed, since there is too little room on the disk: /")
    assert "du -xh" in explained["comment"]
    assert order[-1] == EXPLAINED


def test_each_cause_has_a_paragraph_of_its_own(minion: Minion) -> None:
    interrupted = {"packages": {"cmd.run": [{"name": "echo 'E: dpkg was interrupted, you must run it' >&2; exit 100"}]}}
    _, _, explained = apply(minion, {**NO_ROOM, **interrupted})
    paragraphs = explained["comment"].split("\n\n")
    assert [paragraph.partition(" failed")[0] for paragraph in paragraphs] == ["no-room", "packages"]


def test_what_is_not_known_is_no_second_failure(minion: Minion) -> None:
    code, _, explained = apply(minion, {"odd": {"test.fail_without_changes": []}})
    assert code == 2
    assert explained["result"] is True
    assert "TROUBLESHOOTING" in explained["comment"]


def test_under_test_nothing_fails_that_did_not_run(minion: Minion) -> None:
    code, _, explained = apply(minion, NO_ROOM, "test=True")
    assert code == 0
    assert explained["result"] is True


def load(running: dict[str, Any]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("failures_state", REPOSITORY / "_states" / "failures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__running__ = running  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("module", sorted(path.stem for path in (REPOSITORY / "_states").glob("*.py")))
def test_this_repositorys_own_states_explain_themselves(module: str) -> None:
    said = {"result": False, "comment": "The disk is full: No space left on device. Free some.", "changes": {}, "name": "x"}
    assert load({f"{module}_|-x_|-x_|-done": said}).explained("x")["result"] is True
    assert load({"file_|-x_|-x_|-managed": said}).explained("x")["result"] is False


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Minion:
    """A minion with the real states of this repository, which are only looked at."""
    folder = tmp_path_factory.mktemp("minion")
    minion = Minion(folder, folder / "canary")
    minion.droplet_file.parent.mkdir()
    minion.answer(right_settings())
    debian = {"os": "Debian", "osrelease": "12", "osmajorrelease": 12, "oscodename": "bookworm", "os_family": "Debian", "virtual": "kvm"}
    minion.configure(file_roots={"base": [str(REPOSITORY / "salt")]}, grains={"giggles_environment": "production", **debian})
    return minion


@pytest.mark.parametrize("concern", [None, *CONCERNS])
def test_every_concern_ends_with_it(real: Minion, concern: str | None) -> None:
    asked = ["state.show_low_sls", concern] if concern else ["state.show_lowstate"]
    low = json.loads(real.call("--out=json", "--log-level=quiet", *asked).stdout)["local"]
    assert [chunk["__id__"] for chunk in low if isinstance(chunk, dict)][-1] == "failures-explained", low


def test_no_concern_is_forgotten() -> None:
    assert {"common", "hardening", "app", "web", "nightly"} <= set(CONCERNS)
    assert Path(REPOSITORY, "salt", "common", "failures.sls").is_file()
