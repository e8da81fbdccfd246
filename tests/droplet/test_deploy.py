"""Releases while people use the app: good ones, broken ones and ways back, under a steady load from outside that must not notice.

By default three good deploys, each kind of broken one, and two rollbacks; GIGGLES_DEPLOYS=20 for twenty, and ten rollbacks. How long
each took, and the longest that a request waited meanwhile, are printed and written to build/deploys.txt.

That no request was lost shows nothing where none was sent. So a release during which the visitors themselves stood still, as they do on a
machine that is too busy, is done again, some times at most; all attempts have to come out as they should.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .broken_releases import BROKEN, renewed
from .conftest import Droplet
from .release_repository import commit
from .steady_load import ROUND, Visits, steady_load
from .test_app import chosen

DEPLOYS = int(os.environ.get("GIGGLES_DEPLOYS", "3"))
ROLLBACKS = max(2, DEPLOYS // 2)
PATIENCE = {"start_seconds": 90, "gate_seconds": 1}
"""On a machine that does other things as well a start takes long; what has to be waited for says so itself."""
SUMMARY = Path(__file__).parents[2] / "build" / "deploys.txt"
AROUND_S = 1.0
"""How long the load goes on after each release before the next one begins."""
RATE = 50
MOST_BEHIND = 2 * RATE
"""More requests than these may not be due at once and unsent: what happens to a release meanwhile, nobody would see."""
ATTEMPTS = 3
"""So often a release is tried, until the visitors have come all the while."""


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
        planned, sent: requests from the command to its end.
        behind: how many of these were due and unsent, at the worst moment.
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
    planned: int
    sent: int
    behind: int
    seconds: float
    first: float | None

    @property
    def is_seen(self) -> bool:
        """Whether visitors came all the while, so that losing none of them says something."""
        return self.sent >= len(ROUND) and self.behind <= MOST_BEHIND


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
    ended = time.monotonic()
    time.sleep(AROUND_S)
    heard = visits.first_of(name, began) if name else None
    return Release(
        what, wanted, before, running(droplet), code, told, answer, visits.lost(began), visits.longest(began),
        visits.planned(ended) - visits.planned(began), sum(began <= moment <= ended for moment in list(visits.sent)),
        visits.behind(began, ended), ended - began, None if heard is None else heard - began,
    )  # fmt: skip


def seen(attempt: Callable[[], Release]) -> list[Release]:
    """Try a release until visitors have come all the while, and return all attempts: none is left out that came out wrong."""
    made = [attempt()]
    while not made[-1].is_seen and len(made) < ATTEMPTS:
        made.append(attempt())
    return made


@dataclasses.dataclass(frozen=True)
class Week:
    """All releases, in their order, and the load over all of them.

    Arguments:
        good, broken, back: the releases by their kind, with all attempts at each.
        again: what a converge changed while a release that somebody chose by hand was live.
        visits: all requests.
        control: what the same load loses while the app is stopped, and while nginx is.
        behind: how many visitors were due at once after those of the control had stood still.
    """

    good: list[list[Release]]
    broken: dict[str, list[Release]]
    back: list[list[Release]]
    again: dict[str, Any]
    visits: Visits
    control: tuple[dict[str, int], dict[str, int]]
    behind: int

    @property
    def releases(self) -> list[list[Release]]:
        """All attempts at each release."""
        return [*self.good, *self.broken.values(), *self.back]


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
    with steady_load(droplet, RATE) as visits, chosen(droplet, lambda top: top["app"].update(PATIENCE)):
        kinds, numbers = iter(BROKEN), itertools.count(1)

        def forth() -> Release:
            name, changes = renewed(next(numbers))
            wanted = commit(droplet, changes)
            return release(droplet, visits, "deploy", wanted, "deploy", f"ref={wanted}", name=name)

        def return_to_previous() -> Release:
            previous = next(one["commit"] for one in ask(droplet, "releases")[1] if one["previous"])
            return release(droplet, visits, "rollback", previous, "rollback")

        def return_to_another() -> Release:
            live = running(droplet)
            other = next(attempts[-1].commit for attempts in reversed(good) if attempts[-1].commit != live)
            return release(droplet, visits, "rollback", other, "rollback", f"to={other}")

        while len(good) < DEPLOYS:
            good.append(seen(forth))
            if len(good) == 1:
                again = droplet.apply("app").changed
            # Broken ones in between, so that each good one follows on one that was taken back.
            for kind in [next(kinds, None) for _ in range(-(-len(BROKEN) // DEPLOYS))]:
                if kind:
                    wanted = commit(droplet, kind.changes)
                    with chosen(droplet, lambda top, kind=kind: top["app"].update(kind.patience)):
                        broken[kind.name] = seen(
                            lambda kind=kind, wanted=wanted: release(droplet, visits, kind.name, wanted, "deploy", f"ref={wanted}")
                        )
            if len(back) < ROLLBACKS:
                back.append(seen(return_to_previous))
        # One that is named, and the one before again.
        while len(back) < ROLLBACKS:
            back.append(seen(return_to_another))
    with steady_load(droplet, RATE) as harmed:
        droplet.shell("systemctl stop giggles.socket giggles.service; sleep 1; systemctl start giggles.socket giggles.service")
        droplet.wait_for("the app to answer again", droplet.healthy)
        moment = time.monotonic()
        without_app = harmed.lost()
        droplet.shell("systemctl stop nginx; sleep 1; systemctl start nginx")
        droplet.wait_for("nginx to answer again", droplet.healthy)
        without_nginx = harmed.lost(moment)
        moment = time.monotonic()
        harmed.stand_still(2 * MOST_BEHIND / RATE)
        time.sleep(1.5 * MOST_BEHIND / RATE)
    return Week(good, broken, back, again, visits, (without_app, without_nginx), harmed.behind(moment))


def test_the_load_sees_what_fails(week: Week) -> None:
    for lost in week.control:
        assert sum(lost.values()) > 20
    assert any("status 503" in what for what in week.control[0])
    assert any("Refused" in what for what in week.control[1])


def test_visitors_who_stand_still_are_seen(week: Week) -> None:
    assert week.behind > MOST_BEHIND


def test_visitors_came_as_planned_during_each_release(week: Week) -> None:
    unseen = {f"{made[-1].what} {made[-1].commit[:12]}": [(one.planned, one.sent, one.behind) for one in made] for made in week.releases
              if not made[-1].is_seen}  # fmt: skip
    assert unseen == {}, (
        f"each was tried {ATTEMPTS} times (requests planned, sent, and at worst due and unsent), and each time the visitors themselves "
        "stood still: this machine is too busy to tell whether a request is lost; give it less to do and run this again"
    )
    assert week.visits.planned() == len(week.visits.sent) == len(week.visits.answers) > 1000


def test_no_request_fails(week: Week) -> None:
    # On visitors who stand still for 15 s nginx hangs up; a machine that was too busy for them shows so.
    late = f"up to {week.visits.behind()} visitors at once were late themselves"
    lost = {f"{one.what} {one.commit[:12]}": one.lost for made in week.releases for one in made if one.lost}
    assert lost == {}, late
    assert week.visits.lost() == {}, f"between two releases; {late}"


def test_a_good_release_goes_live(week: Week) -> None:
    assert len(week.good) == DEPLOYS
    for one in itertools.chain(*week.good):
        assert one.code == 0, one.told
        assert one.live == one.commit
        assert one.answer["live"] == one.commit
        assert one.answer["before"] == one.before != one.commit
        assert one.first is not None, "nobody outside has met it"


def test_a_converge_does_not_undo_what_was_chosen_by_hand(week: Week) -> None:
    assert week.again == {}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.name)
def test_a_broken_release_leaves_the_old_one_and_says_why(droplet: Droplet, week: Week, kind: Any) -> None:
    secrets = droplet.shell("sed -n 's/^[A-Z_]*\\(KEY\\|URL\\)=//p' /opt/giggles/.env").split()
    assert len(secrets) >= 4
    for one in week.broken[kind.name]:
        assert one.live == one.before != one.commit
        assert one.code != 0
        paragraph = " ".join(one.told.split())
        for pattern in kind.told:
            assert re.search(pattern, paragraph, re.IGNORECASE), paragraph
        assert one.commit[:12] in paragraph or "release was built" in paragraph
        assert "live" in paragraph
        assert "Traceback" not in paragraph
        assert not [value for value in secrets if value.strip("'\"") in one.told]


def test_nothing_is_left_of_a_broken_release(droplet: Droplet, week: Week) -> None:
    kept = droplet.shell("ls /opt/giggles/releases").split()
    assert not [one.what for one in itertools.chain(*week.broken.values()) if [name for name in kept if one.commit in name]]
    assert len(kept) <= 3


def test_a_rollback_goes_to_the_release_before(week: Week) -> None:
    assert len(week.back) == ROLLBACKS
    for one in itertools.chain(*week.back):
        assert one.code == 0, one.told
        assert one.live == one.commit != one.before
        assert one.answer["live"] == one.commit


def test_how_long_it_took_is_written_down(week: Week) -> None:
    """Reported and not judged: it is this machine's time."""
    lines = [f"{'what':<45} {'exit':>4} {'command':>9} {'first seen':>10} {'longest wait':>12} {'sent':>5} {'behind':>6} {'lost':>5}"]
    for one in itertools.chain(*week.releases):
        first = "" if one.first is None else f"{one.first:.1f} s"
        lost = sum(one.lost.values())
        took, seen_by = f"{one.seconds:>7.1f} s {first:>10} {one.longest:>10.2f} s", f"{one.sent:>5} {one.behind:>6}"
        lines.append(f"{one.what[:45]:<45} {one.code:>4} {took} {seen_by} {lost:>5}")
    answers, visits = len(week.visits.answers), week.visits
    lines.append(f"{answers} requests at {RATE} a second, {sum(visits.lost().values())} lost, the longest took {visits.longest():.2f} s")
    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
