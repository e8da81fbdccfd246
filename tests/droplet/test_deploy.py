"""Releases while people use the app: good ones, broken ones and ways back, under a steady load from outside that must not notice.

By default three good deploys, each kind of broken one, and two rollbacks; GIGGLES_DEPLOYS=20 for twenty, and ten rollbacks. How long
each took, and the longest that a request waited meanwhile, are printed and written to build/deploys.txt.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .broken_releases import BROKEN, renewed
from .conftest import Droplet
from .release_repository import commit
from .steady_load import Visits, steady_load
from .test_app import chosen

DEPLOYS = int(os.environ.get("GIGGLES_DEPLOYS", "3"))
ROLLBACKS = max(2, DEPLOYS // 2)
PATIENCE = {"start_seconds": 90, "gate_seconds": 1}
"""On a machine that does other things as well a start takes long; what has to be waited for says so itself."""
SUMMARY = Path(__file__).parents[2] / "build" / "deploys.txt"
AROUND_S = 1.0
"""How long the load goes on after each release before the next one begins."""


@dataclasses.dataclass(frozen=True)
class Release:
    """One release, or the attempt.

    Arguments:
        what: in words.
        commit: what was to become live.
        before: what was live.
        live: what the running process runs from, after it.
        code: exit code of salt-call.
        told: all that it said.
        answer: its JSON, if it was any.
        lost: requests that failed meanwhile.
        longest: seconds that the slowest request took.
        seconds: from the command to its end.
        first: seconds from the command to the first answer of the new release, if there was one.
    """

    what: str
    commit: str
    before: str
    live: str
    code: int
    told: str
    answer: Any
    lost: dict[str, int]
    longest: float
    seconds: float
    first: float | None


def running(droplet: Droplet) -> str:
    """Return the commit that the app's process runs from; nothing while there is no process."""
    process = droplet.shell("systemctl show -p MainPID --value giggles.service").strip()
    folder = droplet.shell(f"readlink /proc/{process}/cwd || true").strip()
    return folder.removeprefix("/opt/giggles/releases/").partition("/")[0]


def ask(droplet: Droplet, function: str, *arguments: str) -> tuple[int, Any, str]:
    """Ask for a function of the module; return exit code, what it returned, and all that was said."""
    done = droplet.exec(["salt-call", "--out=json", "--log-level=error", f"giggles.{function}", *arguments], check=False)
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    try:
        return done.returncode, json.loads(done.stdout)["local"], said
    except (ValueError, KeyError, TypeError):
        return done.returncode, None, said


def release(droplet: Droplet, visits: Visits, what: str, wanted: str, function: str, *arguments: str, name: str = "") -> Release:
    """Ask for a release; `name` is what the new one calls itself."""
    before, began = running(droplet), time.monotonic()
    code, answer, told = ask(droplet, function, *arguments)
    seconds = time.monotonic() - began
    time.sleep(AROUND_S)
    heard = visits.first_of(name, began) if name else None
    return Release(
        what, wanted, before, running(droplet), code, told, answer, visits.lost(began), visits.longest(began), seconds,
        None if heard is None else heard - began,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Week:
    """All releases, in their order, and the load over all of them.

    Arguments:
        good, broken, back: the releases by their kind.
        again: what a converge changed while a release that somebody chose by hand was live.
        visits: all requests.
        control: what the same load loses while the app is stopped, and while nginx is.
    """

    good: list[Release]
    broken: dict[str, Release]
    back: list[Release]
    again: dict[str, Any]
    visits: Visits
    control: tuple[dict[str, int], dict[str, int]]


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """At the end the release of the pillar is live again, and a highstate has nothing to repair."""
    first = running(droplet)
    yield
    code, _, told = ask(droplet, "deploy")
    assert code == 0, told
    assert running(droplet) == first
    assert droplet.converge().changed == {}


@pytest.fixture(scope="module")
def week(droplet: Droplet) -> Week:
    good, broken, back, again = [], {}, [], {}
    with steady_load(droplet) as visits, chosen(droplet, lambda top: top["app"].update(PATIENCE)):
        kinds = iter(BROKEN)
        for number in range(1, DEPLOYS + 1):
            name, changes = renewed(number)
            wanted = commit(droplet, changes)
            good.append(release(droplet, visits, "deploy", wanted, "deploy", f"ref={wanted}", name=name))
            if number == 1:
                again = droplet.apply("app").changed
            # Broken ones in between, so that each good one follows on one that was taken back.
            for kind in [next(kinds, None) for _ in range(-(-len(BROKEN) // DEPLOYS))]:
                if kind:
                    wanted = commit(droplet, kind.changes)
                    with chosen(droplet, lambda top, kind=kind: top["app"].update(kind.patience)):
                        broken[kind.name] = release(droplet, visits, kind.name, wanted, "deploy", f"ref={wanted}")
            if len(back) < ROLLBACKS:
                previous = next(one["commit"] for one in ask(droplet, "releases")[1] if one["previous"])
                back.append(release(droplet, visits, "rollback", previous, "rollback"))
        # One that is named, and the one before again.
        while len(back) < ROLLBACKS:
            other = next(one.commit for one in reversed(good) if one.commit != running(droplet))
            back.append(release(droplet, visits, "rollback", other, "rollback", f"to={other}"))
    with steady_load(droplet) as harmed:
        droplet.shell("systemctl stop giggles.socket giggles.service; sleep 1; systemctl start giggles.socket giggles.service")
        droplet.wait_for("the app to answer again", droplet.healthy)
        moment = time.monotonic()
        without_app = harmed.lost()
        droplet.shell("systemctl stop nginx; sleep 1; systemctl start nginx")
        droplet.wait_for("nginx to answer again", droplet.healthy)
    return Week(good, broken, back, again, visits, (without_app, harmed.lost(moment)))


def test_the_load_sees_what_fails(week: Week) -> None:
    for lost in week.control:
        assert sum(lost.values()) > 20
    assert any("status 503" in what for what in week.control[0])
    assert any("Refused" in what for what in week.control[1])


def test_no_request_fails(week: Week) -> None:
    # On visitors who stand still for 15 s nginx hangs up; a machine that was too busy for them shows so.
    late = f"the visitors themselves were late by {week.visits.late:.1f} s at most"
    lost = {f"{one.what} {one.commit[:12]}": one.lost for one in [*week.good, *week.broken.values(), *week.back] if one.lost}
    assert lost == {}, late
    assert week.visits.lost() == {}, f"between two releases; {late}"
    assert len(week.visits.answers) == week.visits.due > 1000


def test_a_good_release_goes_live(week: Week) -> None:
    assert len(week.good) == DEPLOYS
    for one in week.good:
        assert one.code == 0, one.told
        assert one.live == one.commit
        assert one.answer["live"] == one.commit
        assert one.answer["before"] == one.before != one.commit
        assert one.first is not None, "nobody outside has met it"


def test_a_converge_does_not_undo_what_was_chosen_by_hand(week: Week) -> None:
    assert week.again == {}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.name)
def test_a_broken_release_leaves_the_old_one_and_says_why(droplet: Droplet, week: Week, kind: Any) -> None:
    one = week.broken[kind.name]
    assert one.live == one.before != one.commit
    assert one.code != 0
    paragraph = " ".join(one.told.split())
    for pattern in kind.told:
        assert re.search(pattern, paragraph, re.IGNORECASE), paragraph
    assert one.commit[:12] in paragraph or "release was built" in paragraph
    assert "live" in paragraph
    assert "Traceback" not in paragraph
    secrets = droplet.shell("sed -n 's/^[A-Z_]*\\(KEY\\|URL\\)=//p' /opt/giggles/.env").split()
    assert len(secrets) >= 4
    assert not [value for value in secrets if value.strip("'\"") in one.told]


def test_nothing_is_left_of_a_broken_release(droplet: Droplet, week: Week) -> None:
    kept = droplet.shell("ls /opt/giggles/releases").split()
    assert not [one.what for one in week.broken.values() if [name for name in kept if one.commit in name]]
    assert len(kept) <= 3


def test_a_rollback_goes_to_the_release_before(week: Week) -> None:
    assert len(week.back) == ROLLBACKS
    for one in week.back:
        assert one.code == 0, one.told
        assert one.live == one.commit != one.before
        assert one.answer["live"] == one.commit


def test_how_long_it_took_is_written_down(week: Week) -> None:
    """Reported and not judged: it is this machine's time."""
    lines = [f"{'what':<45} {'exit':>4} {'command':>9} {'first seen':>10} {'longest wait':>12} {'lost':>5}"]
    for one in [*week.good, *week.broken.values(), *week.back]:
        first = "" if one.first is None else f"{one.first:.1f} s"
        lost = sum(one.lost.values())
        lines.append(f"{one.what[:45]:<45} {one.code:>4} {one.seconds:>7.1f} s {first:>10} {one.longest:>10.2f} s {lost:>5}")
    answers, visits = len(week.visits.answers), week.visits
    lines.append(f"{answers} requests at 50 a second, {sum(visits.lost().values())} lost, the longest took {visits.longest():.2f} s")
    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
