"""Only what ran well on staging is promoted, as it ran there; with real repositories, records and overlays."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.health.places import Places
from gigglekit.health.status import Fact, Status
from gigglekit.operations.promoting import Droplet, PromotionError, promotion
from gigglekit.release.settings import Layout
from gigglekit.settings.places import REPOSITORY

from .status_droplet import HOUR, NOW, at, write
from .test_health_fetching import Forge, git

APP = "0123456789abcdef0123456789abcdef01234567"
ALL_RIGHT = Status("", True, "ok", None, "", (Fact("disk-root", "Disk", "warning", "is nearly full"),))


class Staging:
    """A staging droplet that has run one commit for thirty hours, and the repository that it converges from."""

    def __init__(self, folder: Path) -> None:
        self.forge, self.layout, places = Forge(folder), Layout(folder / "app"), Places(folder / "root")
        self.choose("giggles", {"app": {"ref": APP}})
        self.choose("production", {"environment": "production", "domain": "giggles.example.test", "converge": {"branch": "production"}})
        self.choose("staging", {"environment": "staging", "domain": "staging.example.test"})
        self.forge.tree().take(git(self.forge.remote, "rev-parse", "HEAD") if self.forge.tree().look().commit else "")
        self.lives(APP)
        self.droplet = Droplet("staging", self.forge.path, places, self.layout, lambda _: ALL_RIGHT)
        write(places, "nightly", [{"time": at(NOW - 9 * HOUR), "verdict": "ok"}])
        self.ran(*({"time": at(NOW - hours * HOUR)} for hours in range(30, -1, -1)))

    def choose(self, name: str, settings: dict[str, Any]) -> str:
        return self.forge.commit(f"pillar/{name}.sls", f"#!quiet_yaml\n{yaml.safe_dump({'giggles': settings})}")

    @property
    def head(self) -> str:
        return git(self.forge.path, "rev-parse", "HEAD")

    def lives(self, commit: str) -> None:
        self.layout.release(commit).mkdir(parents=True, exist_ok=True)
        self.layout.current.unlink(missing_ok=True)
        self.layout.current.symlink_to(f"releases/{commit}")

    def ran(self, *runs: dict[str, Any]) -> None:
        write(self.droplet.places, "converge", [{"ok": True, "commit": self.head, "full": True, **run} for run in runs])

    def refused(self, *words: str, hours: float = 24) -> str:
        with pytest.raises(PromotionError) as told:
            promotion(self.droplet, hours=hours, now=NOW)
        text = str(told.value)
        for word in words:
            assert word in text
        return text


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path)


def on_production(staging: Staging, commit: str) -> None:
    git(staging.forge.remote, "update-ref", "refs/heads/production", commit)


def test_production_gets_the_commit_that_staging_ran_and_nothing_later(staging: Staging) -> None:
    on_production(staging, git(staging.forge.path, "rev-parse", "HEAD~2"))
    ran = staging.head
    later = staging.forge.commit("salt/top.sls", "never ran on staging\n")
    told = promotion(staging.droplet, now=NOW)
    assert told["run"] == f"git fetch origin && git push origin {ran}:refs/heads/production"
    assert (told["commit"], told["app"], told["since"], told["hours"], told["nights"]) == (ran, APP, at(NOW - 30 * HOUR), 30.0, 1)
    assert told["new"] == 2
    assert told["differs"] == ["converge:branch", "domain", "environment"]
    # The command does what it says, as a person runs it in a clone of their own, and a plain push suffices.
    git(staging.forge.path.parent, "clone", "--quiet", str(staging.forge.remote), "mine")
    git(staging.forge.path.parent / "mine", *told["run"].partition(" && git ")[2].split())
    assert git(staging.forge.remote, "rev-parse", "production") == ran != later


def test_the_first_promotion_makes_the_branch(staging: Staging) -> None:
    told = promotion(staging.droplet, now=NOW)
    assert (told["production"], told["new"]) == (None, None)


def test_nothing_on_the_droplet_is_changed(staging: Staging) -> None:
    before = (git(staging.forge.path, "for-each-ref"), git(staging.forge.path, "status", "--porcelain"))
    promotion(staging.droplet, now=NOW)
    assert (git(staging.forge.path, "for-each-ref"), git(staging.forge.path, "status", "--porcelain")) == before


def test_only_staging_is_asked(staging: Staging) -> None:
    staging.droplet = dataclasses.replace(staging.droplet, environment="production")
    staging.refused("This droplet is production", "only what ran on staging")


def test_what_is_in_no_commit_is_not_promoted(staging: Staging) -> None:
    (staging.forge.path / "salt/by-hand.sls").write_text("by hand\n")
    staging.refused("edits that are in no commit", "salt/by-hand.sls")


def test_a_commit_that_failed_is_not_promoted(staging: Staging) -> None:
    staging.ran({"time": at(NOW - 30 * HOUR)}, {"time": at(NOW - HOUR), "ok": False})
    staging.refused("The newest run of states here failed")


def test_the_time_begins_anew_after_a_failure(staging: Staging) -> None:
    staging.ran(*({"time": at(NOW - hours * HOUR), "ok": hours != 20} for hours in range(30, -1, -1)))
    staging.refused("for 19.0 hours only", "24 are asked for")
    assert promotion(staging.droplet, hours=19, now=NOW)["hours"] == 19.0


def test_what_ran_before_this_commit_does_not_count(staging: Staging) -> None:
    staging.ran({"time": at(NOW - 30 * HOUR), "commit": "f" * 40}, {"time": at(NOW - HOUR)})
    staging.refused("for 1.0 hours only")
    staging.ran({"time": at(NOW - 30 * HOUR)}, {"time": at(NOW - HOUR), "commit": "f" * 40})
    staging.refused("has not been applied here as a whole yet")


def test_one_concern_alone_is_no_whole_run(staging: Staging) -> None:
    staging.ran({"time": at(NOW - 30 * HOUR), "full": False}, {"time": at(NOW - 2 * HOUR)}, {"time": at(NOW), "full": False})
    assert promotion(staging.droplet, hours=2, now=NOW)["since"] == at(NOW - 2 * HOUR)
    staging.ran({"time": at(NOW - 30 * HOUR), "full": False})
    staging.refused("has not been applied here as a whole yet")


@pytest.mark.parametrize("ref", ["main", None])
def test_an_app_that_is_not_pinned_is_not_promoted(staging: Staging, ref: str | None) -> None:
    staging.choose("giggles", {"app": {"ref": ref}})
    staging.forge.tree().take(staging.forge.tree().look().commit or "")
    staging.ran({"time": at(NOW - 30 * HOUR)})
    staging.refused("Production would not get the app that ran here", APP)


def test_another_app_than_ran_here_is_not_promoted(staging: Staging) -> None:
    staging.lives("f" * 40)
    staging.refused("not the app that production would get", "ffffffffffff is live here", APP[:12])


def test_what_is_not_all_right_is_not_promoted(staging: Staging) -> None:
    wrong = Fact("nightly", "Nightly run", "problem", "the night failed")
    staging.droplet = dataclasses.replace(staging.droplet, look=lambda _: dataclasses.replace(ALL_RIGHT, facts=(wrong, *ALL_RIGHT.facts)))
    assert "Disk" not in staging.refused("Nightly run: the night failed")


def test_every_reason_is_told_at_once(staging: Staging) -> None:
    (staging.forge.path / "salt/by-hand.sls").write_text("by hand\n")
    staging.lives("f" * 40)
    assert staging.refused("in no commit", "is live here", "for 30.0 hours only", hours=48).count("\n\n") == 2


def test_a_production_that_follows_main_gets_everything_anyway(staging: Staging) -> None:
    staging.choose("production", {"environment": "production"})
    staging.forge.tree().take(staging.forge.tree().look().commit or "")
    staging.ran({"time": at(NOW - 30 * HOUR)})
    staging.refused("takes every commit by itself", "giggles:converge:branch")


def test_what_production_has_already_is_said(staging: Staging) -> None:
    on_production(staging, staging.head)
    staging.refused("nothing is left to promote")


def test_what_went_to_production_past_staging_is_said(staging: Staging, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(staging.forge.remote), "past")
    past = tmp_path / "past"
    (past / "hurry").write_text("\n")
    git(past, "add", "--all")
    git(past, "commit", "--quiet", "--message", "in a hurry")
    git(past, "push", "--quiet", "origin", "HEAD:refs/heads/production")
    staging.refused("something was pushed to it that never was on staging", "git merge origin/production")


def test_a_repository_that_does_not_answer_is_said(staging: Staging) -> None:
    shutil.rmtree(staging.forge.remote)
    staging.refused("cannot ask origin for its branch production")


def test_this_repositorys_own_overlays_can_be_compared() -> None:
    from gigglekit.settings.overlays import committed, differences

    here, there = (committed(name, REPOSITORY / "pillar") for name in ("staging", "production"))
    told = {":".join(key[1:]) for key in differences(here, there)}
    assert {"environment", "web:acme:directory", "web:noindex", "backup:prefix"} <= told
    assert not {key for key in told if key.startswith("app")}
