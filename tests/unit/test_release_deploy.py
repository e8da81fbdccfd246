"""giggles.deploy and giggles.rollback: what they put live stays, what is broken meets no request, and a way back needs nothing."""

from __future__ import annotations

import functools
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from gigglekit.release import deploying, gate, handover, health, live, manifest, pin, turns
from gigglekit.release.errors import ReleaseError, TrialError, UnhealthyError

from tests.unit.release_droplet import Droplet, Upstream


@pytest.fixture
def first(releasing: Droplet) -> str:
    """The commit that is live, and that the pillar names."""
    return releasing.apply(releasing.plan("main").commit).commit


def is_at(droplet: Droplet, commit: str) -> bool:
    """Tell whether a release is live, runs, and answers at the public socket, and nothing is left of a change."""
    layout = droplet.layout
    return (
        layout.live() == commit
        and droplet.service.folder == str(layout.release(commit) / "app")
        and health.ask(droplet.socket, 5) == ""
        and not droplet.candidate.runs
        and not layout.journal.exists()
        and not [name for name in droplet.releases if name.endswith(".building")]
    )


# --- the pin ------------------------------------------------------------------------------------------------------------------


def test_what_was_deployed_by_hand_is_not_undone_by_the_next_converge(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    done = releasing.deploy(first, second)
    assert (done.result, done.live, done.before) == ("deployed", second, first)
    wanted, chosen = pin.wanted(releasing.settings(first), releasing.layout)
    assert chosen is not None
    assert (chosen.commit, chosen.overrides, chosen.how) == (second, first, "deploy")
    assert releasing.plan(wanted.ref).unchanged
    assert is_at(releasing, second)


def test_another_ref_in_the_pillar_ends_the_pin(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.deploy(first, upstream.commit({"x": "y"}))
    third = upstream.commit({"x": "z"})
    assert pin.wanted(releasing.settings(third), releasing.layout) == (releasing.settings(third), None)
    elsewhere = releasing.settings(first, repository="file:///elsewhere")
    assert pin.wanted(elsewhere, releasing.layout) == (elsewhere, None)


def test_a_pin_that_is_over_does_not_come_back_with_the_pillars_next_change(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.deploy(first, upstream.commit({"x": "y"}))
    pin.forget_over(releasing.settings(first), releasing.layout)
    assert pin.load(releasing.layout.pin) is not None, "one in force, that was made a moment ago, is not forgotten"
    third = upstream.commit({"x": "z"})
    live.apply(releasing.settings(third), releasing.layout, releasing.surroundings)
    live.apply(releasing.settings(first), releasing.layout, releasing.surroundings)
    assert releasing.layout.live() == first


def test_a_deploy_without_a_ref_goes_to_the_pillars_and_ends_the_pin(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.deploy(first, upstream.commit({"x": "y"}))
    assert releasing.deploy(first).result == "deployed"
    assert pin.load(releasing.layout.pin) is None
    assert is_at(releasing, first)
    assert releasing.deploy(first).result == "already live"


def test_a_deploy_that_fails_pins_nothing_and_keeps_the_pin_there_was(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.deploy(first, second)
    with pytest.raises(TrialError):
        releasing.deploy(first, upstream.commit({"app/health": "500"}))
    pinned = pin.load(releasing.layout.pin)
    assert pinned is not None
    assert pinned.commit == second


def test_a_branch_that_is_deployed_by_hand_is_pinned_as_the_commit_that_it_is_then(
    releasing: Droplet, upstream: Upstream, first: str
) -> None:
    second = upstream.commit({"x": "y"})
    assert releasing.deploy(first, "main").live == second
    upstream.commit({"x": "z"})
    assert releasing.plan(pin.wanted(releasing.settings(first), releasing.layout)[0].ref).unchanged


def test_a_damaged_pin_is_none(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.deploy(first, upstream.commit({"x": "y"}))
    whole = releasing.layout.pin.read_text()
    for text in ("", "{", "[]", whole[:-5], whole.replace('"by"', '"bye"'), whole.replace('"deploy"', "7")):
        releasing.layout.pin.write_text(text)
        assert pin.load(releasing.layout.pin) is None


def test_the_pinned_release_is_never_pruned(releasing: Droplet, upstream: Upstream, first: str) -> None:
    commits = [first, *(releasing.apply(upstream.commit({"x": str(number)}), keep=3).commit for number in range(2))]
    assert sorted(releasing.releases) == sorted(commits)
    pin.store(releasing.layout, pin.Pin(first, "main", "r", "2026-11-30T02:00:00Z", "root", "deploy"))
    assert live.prune(releasing.layout, 2) == []
    pin.store(releasing.layout, None)
    assert live.prune(releasing.layout, 2) == [first]


# --- the way back -------------------------------------------------------------------------------------------------------------


def test_a_way_back_needs_no_repository_and_no_build(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.apply(second)
    builds = releasing.builds
    shutil.rmtree(upstream.folder)
    shutil.rmtree(releasing.layout.mirror)
    done = releasing.rollback(second)
    assert (done.result, done.live, done.before) == ("rolled back", first, second)
    assert releasing.builds == builds
    assert is_at(releasing, first)
    # It stays, though the pillar names the other one; and once more is forward again, to what the pillar names.
    assert releasing.plan(pin.wanted(releasing.settings(second), releasing.layout)[0].ref).unchanged
    assert releasing.rollback(second).live == second
    assert pin.load(releasing.layout.pin) is None


def test_a_way_back_to_a_release_by_the_beginning_of_its_commit(releasing: Droplet, upstream: Upstream, first: str) -> None:
    commits = [first, *(releasing.apply(upstream.commit({"x": str(number)}), keep=3).commit for number in range(2))]
    assert releasing.rollback(commits[-1], first[:7], keep=3).live == first
    assert releasing.rollback(commits[-1], commits[1], keep=3).live == commits[1]
    for to, words in ((first[:6], "no release here"), ("main", "no release here"), ("0" * 40, "no release here")):
        with pytest.raises(ReleaseError, match=words):
            releasing.rollback(commits[-1], to)
    assert is_at(releasing, commits[1])


def test_a_way_back_from_an_app_that_hangs_or_fails_waits_for_no_trial(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.apply(second)
    (releasing.layout.release(second) / "app" / "page").write_text("500")
    tried = list(releasing.candidate.started)
    assert releasing.rollback(second).live == first
    assert releasing.candidate.started == tried


def test_there_is_no_way_back_to_nothing_or_to_what_was_changed(releasing: Droplet, upstream: Upstream, first: str) -> None:
    with pytest.raises(ReleaseError, match="nothing to go back to"):
        releasing.rollback(first)
    second = releasing.apply(upstream.commit({"x": "y"})).commit
    (releasing.layout.release(first) / "app" / "planted").write_text("")
    with pytest.raises(ReleaseError, match=r"is not as it was built \(added: app/planted\)"):
        releasing.rollback(second)
    assert is_at(releasing, second)
    assert not releasing.layout.pin.exists()


def test_a_way_back_to_what_is_not_well_any_more_is_not_gone(releasing: Droplet, upstream: Upstream) -> None:
    old = releasing.apply(upstream.commit({"app/health": "200", "app/live-page": "200"})).commit
    second = releasing.apply(upstream.commit({"x": "y"})).commit
    # As after a change of its settings: it was well when it was live.
    with releasing.altered(old, "app/page", "500"), pytest.raises(TrialError, match="first page"):
        releasing.rollback(second)
    assert is_at(releasing, second)


# --- what is broken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"app/health": "500"}, "it answered 500 to /api/health"),
        ({"app/body": '{"status": "starting"}'}, "not that it is healthy"),
        ({"app/page": "500"}, r"its first page \(/\) answered 500"),
        ({"app/page": "404"}, r"its first page \(/\) answered 404"),
        ({"app/lives": "4"}, "its process ended by itself with exit code 3"),
    ],
)
def test_a_release_that_is_not_well_on_trial_meets_no_request(
    releasing: Droplet, upstream: Upstream, first: str, files: dict[str, str], words: str
) -> None:
    starts = releasing.service.restarts
    with pytest.raises(TrialError, match=f"{words}.*{first[:12]} is live and was not touched"):
        releasing.deploy(first, upstream.commit(files), gate_seconds=3.0)
    assert releasing.service.restarts == starts
    assert releasing.releases == [first]
    assert is_at(releasing, first)


@pytest.mark.parametrize("files", [{"app/live-health": "500"}, {"app/live-page": "500"}, {"app/live-lives": "5"}])
def test_a_release_that_is_not_well_once_it_is_live_is_taken_back(
    releasing: Droplet, upstream: Upstream, first: str, files: dict[str, str]
) -> None:
    with pytest.raises(UnhealthyError, match=f"{first[:12]} is live again and answers"):
        releasing.deploy(first, upstream.commit(files), gate_seconds=2.0)
    assert releasing.releases == [first]
    assert releasing.layout.before() is None
    assert is_at(releasing, first)


def test_no_request_fails_while_the_service_starts_anew(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.service.start_seconds = 0.4
    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(health.ask(releasing.socket, 5))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        second = releasing.deploy(first, upstream.commit({"x": "y"})).live
        releasing.rollback(first)
        with pytest.raises(UnhealthyError):
            # Found out before it gets the public name back.
            releasing.deploy(first, upstream.commit({"app/live-health": "500"}))
    finally:
        over.set()
        thread.join(10)
    assert second != first
    assert len(answers) > 20
    assert set(answers) == {""}


def test_a_candidate_that_dies_while_the_service_starts_costs_the_new_release_nothing(
    releasing: Droplet, upstream: Upstream, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory runs out: systemd gives the name back by itself, and the service is asked under that one."""
    restart = releasing.service.restart

    def restart_without_it() -> None:
        releasing.candidate.stop()
        handover.own_name(releasing.socket).replace(releasing.socket)
        restart()

    monkeypatch.setattr(releasing.service, "restart", restart_without_it)
    second = upstream.commit({"x": "y"})
    assert releasing.deploy(first, second).live == second
    assert not releasing.service.stopped
    assert is_at(releasing, second)


def test_without_a_trial_nothing_runs_beside(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.deploy(first, second, trial=False)
    assert releasing.candidate.started == []
    assert is_at(releasing, second)


def test_what_was_changed_by_hand_is_tried_before_it_takes_its_place(releasing: Droplet, first: str) -> None:
    (releasing.layout.current / "app" / "planted").write_text("")
    releasing.apply(first)
    assert releasing.candidate.started == [f"{first}.building"]
    assert manifest.drift(releasing.layout.release(first)) == []
    assert is_at(releasing, first)


# --- what it waits for, and what it tells -----------------------------------------------------------------------------------


def test_a_running_nightly_job_is_told_and_nothing_is_changed(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.busy = ["giggles-nightly.service"]
    second = upstream.commit({"x": "y"})
    for act in (lambda: releasing.deploy(first, second), lambda: releasing.rollback(first, first)):
        with pytest.raises(ReleaseError, match=r"giggles-nightly\.service is at work.*nothing was changed"):
            act()
    assert releasing.releases == [first]


def test_a_nightly_job_that_begins_meanwhile_is_not_met_by_the_trial_or_the_switch(
    releasing: Droplet, upstream: Upstream, first: str
) -> None:
    second = upstream.commit({"x": "y"})
    for looks_before in (1, 2):
        looks = iter([*([[]] * looks_before), ["giggles-nightly.service"]])
        with pytest.raises(ReleaseError, match="nothing was changed"):
            deploying.deploy(
                releasing.settings(first),
                releasing.layout,
                releasing.surroundings,
                ref=second,
                busy=functools.partial(next, looks),
                wait=0,
            )
        assert releasing.releases == [first]
        assert is_at(releasing, first)
    assert releasing.candidate.started == [second], "the first time it was not even tried"


def test_a_nightly_job_that_begins_meanwhile_is_not_met_by_the_way_back(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.deploy(first, second)
    looks = iter([[], ["giggles-nightly.service"]])
    with pytest.raises(ReleaseError, match="nothing was changed"):
        deploying.rollback(
            releasing.settings(first), releasing.layout, releasing.surroundings, to=first, busy=functools.partial(next, looks), wait=0
        )
    assert is_at(releasing, second)
    assert not releasing.candidate.runs
    assert not releasing.layout.journal.exists()


def test_a_way_back_to_what_is_live_starts_it_again_where_it_is_down(releasing: Droplet, first: str) -> None:
    assert releasing.rollback(first, first).result == "already live"
    releasing.service.stop()
    done = releasing.rollback(first, first)
    assert (done.result, done.live) == ("started again", first)
    assert is_at(releasing, first)
    releasing.service.stop()
    with releasing.altered(first, "app/health", "500"):
        releasing.service.app._behaviour = releasing.candidate.behaviour
        with pytest.raises(ReleaseError, match="is not well"):
            releasing.rollback(first, first)
    assert not releasing.layout.journal.exists()


def test_an_erasure_that_restarts_the_app_waits_until_a_release_is_judged(
    releasing: Droplet, upstream: Upstream, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = upstream.commit({"x": "y"})
    judged, restarted = threading.Event(), threading.Event()

    def erase() -> None:
        turns.restart(releasing.service, releasing.layout)
        restarted.set()

    eraser = threading.Thread(target=erase)
    judge = gate.judge

    def judge_while_somebody_erases(asked: gate.Asked, *arguments: Any, **options: Any) -> str:
        if releasing.layout.live() == second and not eraser.ident:
            eraser.start()
            assert not restarted.wait(1), "it was restarted under the eyes of the gate"
        reason = judge(asked, *arguments, **options)
        if releasing.layout.live() == second:
            judged.set()
        return reason

    monkeypatch.setattr(gate, "judge", judge_while_somebody_erases)
    releasing.deploy(first, second)
    assert judged.is_set()
    eraser.join(30)
    assert restarted.is_set()
    assert is_at(releasing, second)


def test_a_deploy_waits_for_an_erasure_that_restarts_the_app_and_not_for_ever(
    releasing: Droplet, upstream: Upstream, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = upstream.commit({"x": "y"})
    patient = turns.turn
    monkeypatch.setattr(turns, "turn", lambda layout: patient(layout, 0.1))
    with patient(releasing.layout), pytest.raises(ReleaseError, match="restarted by somebody else"):
        releasing.deploy(first, second)
    assert is_at(releasing, first)
    assert not releasing.candidate.runs
    assert releasing.releases == [first]
    assert not releasing.layout.journal.exists()
    assert releasing.deploy(first, second).live == second


def test_a_nightly_job_that_ends_is_waited_for(releasing: Droplet, upstream: Upstream, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "_LOOK_SECONDS", 0.01)
    looks = iter([["giggles-nightly.service"]] * 3 + [[]] * 3)
    second = upstream.commit({"x": "y"})
    done = deploying.deploy(
        releasing.settings(first), releasing.layout, releasing.surroundings, ref=second, busy=lambda: next(looks), wait=60
    )
    assert done.live == second


def test_the_list_of_releases_says_which_one_is_what(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = upstream.commit({"x": "y"})
    releasing.deploy(first, second)
    (releasing.layout.release(first) / "app" / "planted").write_text("")
    listed = {entry["commit"]: entry for entry in deploying.releases(releasing.layout)}
    assert {key: listed[second][key] for key in ("live", "previous", "changed", "can_be_gone_back_to")} == {
        "live": True, "previous": False, "changed": [], "can_be_gone_back_to": False,
    }  # fmt: skip
    assert listed[second]["pinned"]["overrides"] == first
    assert {key: listed[first][key] for key in ("live", "previous", "pinned", "changed", "can_be_gone_back_to")} == {
        "live": False, "previous": True, "pinned": None, "changed": ["added: app/planted"], "can_be_gone_back_to": False,
    }  # fmt: skip


def test_a_deploy_tells_how_long_each_step_took(releasing: Droplet, upstream: Upstream, first: str) -> None:
    told = releasing.deploy(first, upstream.commit({"x": "y"})).as_dict()
    assert set(told["seconds"]) == {"built", "imported", "tried", "switched", "judged"}
    assert told["failed_probes"] == 0
    assert set(releasing.rollback(first).as_dict()["seconds"]) == {"tried", "switched", "judged"}


def test_secrets_are_in_no_note_on_a_release(releasing: Droplet, upstream: Upstream, first: str) -> None:
    releasing.deploy(first, upstream.commit({"x": "y"}))
    for path in releasing.layout.root.glob("*.json"):
        assert "planted" not in Path(path).read_text()
