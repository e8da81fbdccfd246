"""A release goes live, stays live, and comes back: with a real repository, real folders, and a stand-in for systemd."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from gigglekit.release import manifest
from gigglekit.release.errors import (
    BuildError,
    PreflightError,
    ReleaseError,
    UnhealthyError,
    UnknownRefError,
    UnreachableError,
)
from gigglekit.release.settings import Layout, Settings

from tests.unit.release_droplet import Droplet, Upstream, git


@pytest.fixture
def droplet(releasing: Droplet) -> Droplet:
    return releasing


def test_a_branch_goes_live_and_a_second_look_finds_nothing_to_do(droplet: Droplet) -> None:
    plan = droplet.apply("main")
    assert droplet.layout.live() == plan.commit
    assert manifest.drift(droplet.layout.release(plan.commit)) == []
    assert not (droplet.layout.current / ".git").exists()
    assert (droplet.layout.current / "app" / ".env").readlink() == droplet.layout.environment
    assert droplet.plan("main").unchanged
    assert droplet.service.restarts == 1


def test_a_look_changes_nothing(droplet: Droplet) -> None:
    plan = droplet.plan("main")
    assert not plan.unchanged
    assert not droplet.layout.current.exists()
    assert droplet.builds == 0
    assert not droplet.layout.mirror.exists()


def test_a_pinned_commit_that_is_live_needs_no_repository(droplet: Droplet, upstream: Upstream) -> None:
    commit = droplet.apply("main").commit
    shutil.rmtree(upstream.folder)
    assert droplet.plan(commit).unchanged
    with pytest.raises(UnreachableError, match="cannot be read"):
        droplet.plan("main")
    assert droplet.layout.live() == commit


def test_a_tag_is_resolved_to_what_it_marks(droplet: Droplet, upstream: Upstream) -> None:
    marked = git(upstream.folder, "rev-parse", "HEAD")
    git(upstream.folder, "tag", "-a", "-m", "v", "v1")
    upstream.commit({"x": "y"})
    assert droplet.plan("v1").commit == marked


def test_an_unknown_branch_and_an_unknown_commit_are_told_apart(droplet: Droplet) -> None:
    with pytest.raises(UnknownRefError, match="neither a branch nor a tag named 'nosuch'"):
        droplet.plan("nosuch")
    with pytest.raises(UnknownRefError, match="has no commit 1111"):
        droplet.apply("1" * 40)
    assert not list(droplet.layout.releases.iterdir())


def test_an_edited_release_is_built_anew_at_its_place(droplet: Droplet) -> None:
    commit = droplet.apply("main").commit
    (droplet.layout.current / "app" / "health").write_text("204")
    (droplet.layout.current / "app" / "planted.py").write_text("")
    plan = droplet.apply(commit)
    assert plan.drift == ("added: app/planted.py", "changed: app/health")
    assert droplet.plan(commit).unchanged
    assert [path.name for path in droplet.layout.releases.iterdir()] == [commit]


def test_a_current_that_leads_elsewhere_is_pointed_back_without_a_build(droplet: Droplet, tmp_path: Path) -> None:
    commit = droplet.apply("main").commit
    droplet.layout.current.unlink()
    droplet.layout.current.symlink_to(tmp_path)
    plan = droplet.apply(commit)
    assert any("which is no release" in reason for reason in plan.reasons)
    assert droplet.layout.live() == commit
    assert droplet.builds == 1


def test_an_unhealthy_release_is_taken_back(droplet: Droplet, upstream: Upstream) -> None:
    good = droplet.apply("main").commit
    bad = upstream.commit({"app/health": "500"})
    with pytest.raises(UnhealthyError, match=f"it answered 500.*{good[:12]} is live again and answers"):
        droplet.apply(bad, trial=False)
    assert droplet.layout.live() == good
    assert droplet.service.folder.endswith(f"{good}/app")
    assert [path.name for path in droplet.layout.releases.iterdir()] == [good]
    assert droplet.plan(good).unchanged


def test_an_unhealthy_first_release_leaves_nothing_live(droplet: Droplet, upstream: Upstream) -> None:
    upstream.commit({"app/health": "500"})
    with pytest.raises(UnhealthyError, match="There is no release before it"):
        droplet.apply("main")
    assert droplet.layout.live() is None
    assert droplet.service.stopped


def test_a_release_that_does_not_start_is_never_switched_to(droplet: Droplet, upstream: Upstream) -> None:
    good = droplet.apply("main").commit
    upstream.commit({"x": "y"})
    droplet.hooks.refusal = "no module"
    with pytest.raises(PreflightError):
        droplet.apply("main")
    assert droplet.layout.live() == good
    assert droplet.service.restarts == 1
    assert [path.name for path in droplet.layout.releases.iterdir()] == [good]


def test_new_settings_restart_the_service_once(droplet: Droplet) -> None:
    commit = droplet.apply("main").commit
    time.sleep(0.02)
    droplet.layout.environment.write_text('SECRET_KEY="another"\n')
    time.sleep(0.02)
    plan = droplet.apply(commit)
    assert plan.reasons == (f"{droplet.layout.environment} is newer than the running process",)
    assert droplet.service.restarts == 2
    assert droplet.builds == 1
    assert droplet.plan(commit).unchanged


def test_a_removed_socket_is_noticed(droplet: Droplet) -> None:
    commit = droplet.apply("main").commit
    droplet.surroundings.socket.unlink()
    plan = droplet.plan(commit)
    assert plan.restart
    assert plan.reasons == (f"{droplet.surroundings.socket} is gone",)


def test_other_ingredients_mean_a_new_build(droplet: Droplet) -> None:
    commit = droplet.apply("main").commit
    assert droplet.plan(commit, constraints=("a==1",)).build


def test_uploads_never_reach_a_release(droplet: Droplet, upstream: Upstream) -> None:
    (upstream.folder / "app" / "uploads").symlink_to("static")
    upstream.commit({"app/deep/uploads/x": "y", "app/static/s": "t"})
    droplet.apply("main")
    assert not list(droplet.layout.current.rglob("uploads"))
    facts = manifest.facts(droplet.layout.current)
    assert facts is not None
    assert sorted(facts["removed"]) == ["app/deep/uploads", "app/uploads"]


def test_a_link_out_of_the_release_is_refused(droplet: Droplet, upstream: Upstream) -> None:
    (upstream.folder / "app" / "static").symlink_to("../../../../etc")
    upstream.commit({})
    with pytest.raises(BuildError, match="leads out of the release"):
        droplet.apply("main")
    assert not list(droplet.layout.releases.iterdir())


def test_links_that_a_package_planted_lead_root_nowhere(droplet: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    make_venv = droplet.make_venv

    def planting(settings: Settings, layout: Layout, folder: Path) -> str:
        python = make_venv(settings, layout, folder)
        (folder / ".venv" / "bin" / "python").symlink_to(python)
        (folder / ".venv" / "bin" / link).symlink_to(outside)
        return python

    monkeypatch.setattr(droplet, "make_venv", planting)
    for link in ("tool", ".env", "python3"):
        with pytest.raises(BuildError, match=rf"package of the release holds a link, \.venv/bin/{re.escape(link)}, that leads out"):
            droplet.apply("main")
    assert outside.read_text() == "kept"
    assert not list(droplet.layout.releases.iterdir())


def test_an_environment_names_its_interpreter_and_packages_may_have_uploads(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    make_venv = droplet.make_venv

    def usual(settings: Settings, layout: Layout, folder: Path) -> str:
        python = make_venv(settings, layout, folder)
        (folder / ".venv" / "bin" / "python").symlink_to(python)
        (folder / ".venv" / "lib" / "package" / "uploads").mkdir(parents=True)
        return python

    monkeypatch.setattr(droplet, "make_venv", usual)
    droplet.apply("main")
    assert (droplet.layout.current / ".venv" / "lib" / "package" / "uploads").is_dir()


def test_a_link_at_the_start_files_place_is_replaced_not_followed(droplet: Droplet, upstream: Upstream) -> None:
    (upstream.folder / ".giggles-start.env").symlink_to("app/health")
    upstream.commit({})
    droplet.apply("main")
    assert (droplet.layout.current / "app" / "health").read_text() == "200"
    assert "GIGGLES_MODULE" in (droplet.layout.current / ".giggles-start.env").read_text()


def test_nobody_but_root_may_write_a_release(droplet: Droplet) -> None:
    droplet.apply("main")
    loose = [path for path in droplet.layout.current.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert loose == []


def test_old_releases_go_but_never_the_live_and_the_previous_one(droplet: Droplet, upstream: Upstream) -> None:
    commits = [droplet.apply("main").commit]
    for number in range(3):
        upstream.commit({"x": str(number)})
        commits.append(droplet.apply("main").commit)
    assert droplet.layout.live() == commits[-1]
    assert droplet.layout.before() == commits[-2]
    assert sorted(path.name for path in droplet.layout.releases.iterdir()) == sorted(commits[-2:])


def test_a_half_built_release_is_not_mistaken_for_a_finished_one(droplet: Droplet) -> None:
    commit = droplet.plan("main").commit
    droplet.layout.release(commit).mkdir(parents=True)
    assert "incomplete" in droplet.plan("main").reasons[0]
    droplet.apply("main")
    assert droplet.plan("main").unchanged


def test_a_full_disk_is_named_and_leaves_nothing(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    good = droplet.apply("main").commit
    droplet.upstream.commit({"x": "y"})

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(droplet, "make_venv", full)
    with pytest.raises(BuildError, match="too full"):
        droplet.apply("main")
    assert droplet.layout.live() == good
    assert [path.name for path in droplet.layout.releases.iterdir()] == [good]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": ""}, "No repository"),
        ({"repository": "https://u:planted@h.test/r.git"}, "holds a password"),
        ({"ref": "--upload-pack=x"}, "no commit, tag or branch"),
        ({"ref": "a..b"}, "no commit, tag or branch"),
        ({"subdirectory": "../etc"}, "outside the release"),
        ({"requirements": "/etc/passwd"}, "outside the release"),
        ({"module": "src.main"}, "MODULE:ATTRIBUTE"),
        ({"keep": 1}, "2 or more"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(droplet: Droplet, change: dict[str, object], message: str) -> None:
    with pytest.raises(ReleaseError, match=message) as caught:
        droplet.settings("main", **change)
    assert "planted" not in str(caught.value)
