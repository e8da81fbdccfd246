"""What whoever tells a fleet what to be has to keep to, and what becomes of the archive that salt-ssh leaves on a droplet."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit import records
from gigglekit.health import basis, pushed, recording
from gigglekit.settings import pushing

from tests.operators_tree import clone, git

REPOSITORY = Path(__file__).resolve().parents[2]
RIGHT: dict[str, Any] = {"giggles": {"roles": ["app", "nightly"], "converge": {"pull": False}}}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return clone(tmp_path / "tree")


def test_a_committed_tree_is_told_by_its_commit(tree: Path) -> None:
    assert pushing.problem(tree, RIGHT) is None
    assert pushing.told(tree) == {"giggles_pushed": {"commit": git(tree, "rev-parse", "HEAD")}}


@pytest.mark.parametrize("name", ["README.md", "salt/new.sls"])
def test_edits_are_not_told(tree: Path, name: str) -> None:
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("An edit.\n")
    assert "edits that are in no commit" in str(pushing.problem(tree, RIGHT))


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    assert "has to be a Git clone" in str(pushing.problem(tmp_path, RIGHT))


@pytest.mark.parametrize("converge", [{"pull": True}, {}, {"enabled": False}, None])
def test_a_droplet_that_also_fetches_is_refused(tree: Path, converge: Any) -> None:
    pillar = {"giggles": {"converge": converge} if converge is not None else {}}
    assert "giggles:converge:pull" in str(pushing.problem(tree, pillar))


def state(sls: str, **more: Any) -> dict[str, Any]:
    return {
        f"file_|-{sls}_|-{sls}_|-managed": {
            "__sls__": sls,
            "__id__": sls,
            "name": sls,
            "result": True,
            "changes": {},
            "comment": "",
            **more,
        }
    }


WHOLE = {**state("common.minion"), **state("app.units"), **state("nightly.job", changes={"mode": "0644"})}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What salt-ssh sends to a droplet: the pillar, and more."""
    path = tmp_path / "thin" / "salt_state.tgz"
    path.parent.mkdir()
    content = json.dumps({"giggles": {"roles": ["app", "nightly"], "secrets": {"app": {"SECRET_KEY": "planted"}}}}).encode()
    with tarfile.open(path, "w:gz") as packed:
        member = tarfile.TarInfo("pillar.json")
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> recording.Places:
    monkeypatch.delenv(recording.HANDOVER, raising=False)
    return recording.Places(tmp_path / "no-tree", tmp_path / "records", tmp_path / "private/last.json", ())


def run(archive: Path, places: recording.Places, returned: Any, test: str = "None") -> list[dict[str, Any]]:
    arguments = [str(archive), f"test={test}", "pkg_sum=1", "hash_type=sha256"]
    recording.record({"fun": "state.pkg", "fun_args": arguments, "return": returned}, {}, places=places)
    return records.newest(places.records, "converge", 10)


def test_a_run_over_salt_ssh_is_recorded_with_the_pillar_that_came_along(archive: Path, places: recording.Places) -> None:
    pillar = pushed.pillar(archive)
    (told,) = run(archive, places, WHOLE)
    assert (told["trigger"], told["full"], [one["id"] for one in told["intended"]]) == ("pushed", True, ["nightly.job"])
    last = basis.load(places.last)
    # So the self-converge after it, which has the same pillar from droplet.sls, finds that nobody chose anything else.
    assert last is not None
    assert last.basis.pillar == basis.pillar_digest(pillar)


def test_one_concern_over_salt_ssh_settles_nothing(archive: Path, places: recording.Places) -> None:
    (told,) = run(archive, places, {**state("common.failures"), **state("nightly.job")})
    assert told["full"] is False
    assert basis.load(places.last) is None


@pytest.mark.parametrize("test", ["None", "True"])
def test_the_archive_with_the_secrets_does_not_stay(archive: Path, places: recording.Places, test: str) -> None:
    recorded = run(archive, places, WHOLE, test)
    assert not archive.exists()
    assert len(recorded) == (0 if test == "True" else 1)


def test_another_file_is_nobodys_to_remove(tmp_path: Path, places: recording.Places) -> None:
    other = tmp_path / "mine.tgz"
    other.write_text("kept")
    run(other, places, WHOLE)
    assert other.exists()


def test_a_broken_archive_stops_no_record(archive: Path, places: recording.Places) -> None:
    archive.write_bytes(b"not an archive")
    assert len(run(archive, places, WHOLE)) == 1
    assert not archive.exists()


def test_what_templates_include_travels_over_salt_ssh() -> None:
    """A state's own files do by themselves; what these include, Salt does not see."""
    named = re.compile(r"{%-?\s*(?:from|include|import_yaml|import)\s+\"([^\"]+)\"")
    needed = {"map.jinja"}
    for path in (REPOSITORY / "salt").rglob("*"):
        if path.is_file() and (path.name == "map.jinja" or (path.suffix not in (".sls", ".jinja") and "files" in path.parts)):
            needed |= set(named.findall(path.read_text(errors="replace")))
    carried = yaml.safe_load((REPOSITORY / "fleet/master").read_text())["extra_filerefs"].split(",")
    assert {f"salt://{name}" for name in needed} == set(carried)


def test_nobody_can_switch_the_look_at_host_keys_off_by_accident() -> None:
    written = yaml.safe_load((REPOSITORY / "fleet/master").read_text())
    # Without a key, Salt asks ssh not to look (StrictHostKeyChecking=no), before any option of ours.
    assert written["ssh_priv"] == "agent-forwarding"
    assert "StrictHostKeyChecking=yes" in written["roster_defaults"]["ssh_options"]
    assert not {"ignore_host_keys", "no_host_keys", "ssh_ignore_host_keys"} & set(written)
