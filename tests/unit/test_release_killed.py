"""Killed before any state-changing call of theirs, a deploy and a way back leave an app that answers; the next run ends what was begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from gigglekit.release import health, journal, live, pin
from gigglekit.release.errors import ReleaseError, UnhealthyError
from gigglekit.release.switching import Course

from tests.unit.killing import calls_of, killed_before
from tests.unit.release_droplet import Droplet, Upstream

_ROUNDS = 20


def spread(calls: int, first: int = 1) -> Iterator[int]:
    """Yield at most so many of the calls from `first` on, evenly, the last one among them."""
    yield from sorted({first + round(number * (calls - first) / (_ROUNDS - 1)) for number in range(_ROUNDS)})


def killed(droplet: Droplet, call: int, act: Callable[[], object]) -> bool:
    """Kill a run, and do what systemd then does: what ran beside ends, and the service has its socket back."""
    was = killed_before(call, act)
    own = droplet.socket.with_name("s-own.sock")
    if own.exists():
        os.replace(own, droplet.socket)
    droplet.candidate.socket.unlink(missing_ok=True)
    return was


def check_whole(droplet: Droplet, where: str) -> None:
    """Insist on one release that is live, runs and answers, and on nothing being left of a change."""
    live_now = droplet.layout.live()
    assert live_now is not None, where
    assert droplet.service.folder == str(droplet.layout.release(live_now) / "app"), where
    assert health.ask(droplet.socket, 5) == "", where
    assert not droplet.layout.journal.exists(), where
    assert not [name for name in droplet.releases if name.endswith(".building")], where
    assert not list(droplet.socket.parent.glob("s-*")), where


@pytest.fixture
def first(releasing: Droplet) -> str:
    """The commit that is live, and that the pillar names."""
    return releasing.apply(releasing.plan("main").commit).commit


def test_killed_anywhere_the_old_or_the_new_release_answers_and_the_next_deploy_works(
    releasing: Droplet, upstream: Upstream, first: str
) -> None:
    second = upstream.commit({"x": "y"})

    def act() -> object:
        return releasing.deploy(first, second)

    calls = calls_of(act)
    for call in spread(calls):
        releasing.deploy(first, first)
        for name in set(releasing.releases) - {first}:
            # So that each round builds.
            releasing.layout.release(name).joinpath(".giggles-release.json").unlink(missing_ok=True)
        where = f"killed before call {call} of {calls}"
        killed(releasing, call, act)
        assert releasing.layout.live() in (first, second), where
        assert health.ask(releasing.socket, 5) == "", where
        assert releasing.deploy(first, second).live == second, where
        check_whole(releasing, where)
        assert releasing.layout.before() == first, where
        pinned = pin.load(releasing.layout.pin)
        assert pinned is not None, where
        assert pinned.commit == second, where


def test_killed_anywhere_a_converge_ends_it_too_and_an_ill_release_is_taken_back(
    releasing: Droplet, upstream: Upstream, first: str
) -> None:
    ill = upstream.commit({"app/live-page": "500"})

    def act() -> object:
        try:
            return live.apply(releasing.settings(ill), releasing.layout, releasing.surroundings)
        except UnhealthyError:
            return None

    calls = calls_of(act)
    assert releasing.layout.live() == first
    for call in spread(calls):
        where = f"killed before call {call} of {calls}"
        killed(releasing, call, act)
        # As a converge does whose pillar still names it.
        act()
        check_whole(releasing, where)
        assert releasing.layout.live() == first, where
        assert releasing.plan(first).unchanged, where


def test_killed_anywhere_on_the_way_back_the_next_one_completes_it(releasing: Droplet, upstream: Upstream, first: str) -> None:
    second = releasing.apply(upstream.commit({"x": "y"})).commit

    def act() -> object:
        return releasing.rollback(second, first)

    calls = calls_of(act)
    for call in spread(calls):
        releasing.deploy(second)
        where = f"killed before call {call} of {calls}"
        killed(releasing, call, act)
        assert health.ask(releasing.socket, 5) == "", where
        assert act().live == first, where  # type: ignore[attr-defined]
        check_whole(releasing, where)
        assert releasing.layout.before() == second, where


def test_what_was_switched_to_and_not_judged_is_announced_and_judged_by_the_next_run(
    releasing: Droplet, upstream: Upstream, first: str
) -> None:
    second = upstream.commit({"x": "y"})

    def act() -> object:
        return releasing.deploy(first, second)

    call = calls_of(act)
    releasing.deploy(first, first)
    while not killed(releasing, call, act) or not releasing.layout.journal.exists():
        call -= 1
        releasing.deploy(first, first)
    plan = releasing.plan(second)
    assert plan.unsettled
    assert not plan.unchanged
    assert "before it had judged" in plan.reasons[-1]
    course = Course()
    live.apply(releasing.settings(second), releasing.layout, releasing.surroundings, course=course)
    assert "it was judged now, and is well" in course.notes[0]
    assert releasing.plan(second).unchanged


@pytest.mark.parametrize("fails", ["write", "end"])
def test_a_disk_that_takes_no_note_is_told_and_the_next_deploy_works(
    releasing: Droplet, upstream: Upstream, first: str, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/opt/giggles/switch.json")

    second = upstream.commit({"x": "y"})
    with monkeypatch.context() as patched:
        patched.setattr(journal, fails, full)
        with pytest.raises(ReleaseError, match=r"switch\.json could not be written or read \(No space left"):
            releasing.deploy(first, second)
    assert health.ask(releasing.socket, 5) == ""
    releasing.deploy(first, second)
    check_whole(releasing, fails)
    assert releasing.layout.live() == second
