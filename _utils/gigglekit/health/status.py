"""Whether everything is all right, and since when: what `judge` found, as `giggles.status` and the page show it. Nothing here judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gigglekit.health import expected, recent, watch
from gigglekit.health import facts as facts_of
from gigglekit.health.expected import Expected
from gigglekit.health.judge import conditions, judge
from gigglekit.health.judge.condition import LEVELS, OK, UNKNOWN, WARNING, WRONG, Subject
from gigglekit.health.judge.words import names, readable
from gigglekit.health.places import Places
from gigglekit.health.recent import Entry


@dataclass(frozen=True)
class Fact:
    """One thing that is as it should be, or not.

    Arguments:
        name: for programs: `nightly`, `backup`, `disk-root`, …; never changes.
        title: for people.
        level: `ok`, `warning`, `problem` or `unknown`.
        text: what is, in one line.
        since: from when on it has been so, RFC 3339; None if that is not known.
        todo: what to do; "" if there is nothing to do.
        values: the numbers behind the text, for programs.
        conditions: keys of what is wrong with it, the worst first; mails are about the same ones.
    """

    name: str
    title: str
    level: str
    text: str
    since: str | None = None
    todo: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """All facts at one time.

    Arguments:
        time: when they were looked at, RFC 3339.
        all_right: whether nothing is a problem and nothing is unknown.
        level: the worst of all facts.
        since: from when on it has been so, RFC 3339; None if that is not known.
        summary: one sentence.
        facts: the worst first, otherwise in a fixed order.
        environment: `production`, or which one this droplet is.
    """

    time: str
    all_right: bool
    level: str
    since: str | None
    summary: str
    facts: tuple[Fact, ...]
    environment: str = expected.PRODUCTION

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**dataclasses.asdict(self), "facts": [dataclasses.asdict(fact) for fact in self.facts]}


def collect(
    places: Places | None = None, wanted: Expected | None = None, *, now: float | None = None, ask_systemd: facts_of.Ask | None = None
) -> Status:
    """Look at the droplet. Never raises over what lies in records and files.

    Arguments:
        places: where everything lies; a droplet's places if left out.
        wanted: what the droplet is meant to have; what is written down on it if left out.
        now: seconds since 1970.
        ask_systemd: see `units.look`.
    """
    places = places or Places()
    wanted = wanted or expected.of_droplet(places)
    found = facts_of.gather(places, wanted, now=now, ask_systemd=ask_systemd)
    subjects = judge(found, wanted, watch.memory(watch.remembered(places, found.now)))
    noted = next(recent.newest_first(places.records, "status", now=found.now), None)
    return of(subjects, found.now, noted, environment=wanted.environment)


def of(subjects: Sequence[Subject], now: float, noted: Entry | None = None, *, environment: str = expected.PRODUCTION) -> Status:
    """Say in one sentence what a judgement comes to.

    Arguments:
        subjects: from `judge`.
        now: seconds since 1970.
        noted: the last record of when everything came right or went wrong, which giggles-watch leaves; None if there is none.
        environment: which one the droplet is; any but production is named.
    """
    ordered = sorted(map(_fact, subjects), key=lambda fact: LEVELS.index(fact.level))
    wrong = [fact for fact in ordered if fact.level in WRONG]
    warned = [fact for fact in ordered if fact.level == WARNING]
    all_right = not any(condition.level in WRONG for condition in conditions(subjects))
    # It has been wrong from its first problem on, and right from when the last thing came right.
    times = [fact.since for fact in (wrong or ordered) if fact.since is not None and fact.level != WARNING]
    since = (max(times) if all_right else min(times)) if times else None
    if noted is not None and noted.record.get("all_right") is all_right:
        since = recent.written(noted.moment)
    when = f", since {readable(since)}" if since else ""
    if all_right:
        summary = f"Everything is all right{when}."
        if warned:
            summary += f" Worth knowing: {names([fact.title for fact in warned])}."
    else:
        summary = f"Not everything is all right{when}: {names([fact.title for fact in wrong])}."
    if environment != expected.PRODUCTION:
        summary = f"This is {environment}. {summary}"
    level = ordered[0].level if ordered else UNKNOWN
    return Status(recent.written(now) or "", all_right, level, since, summary, tuple(ordered), environment)


def _fact(subject: Subject) -> Fact:
    if not subject.conditions:
        return Fact(subject.name, subject.title, OK, subject.text, recent.written(subject.since), "", dict(subject.values))
    worst = [condition for condition in subject.conditions if condition.level == subject.level]
    since = min((condition.since for condition in worst if condition.since is not None), default=None)
    keys = tuple(condition.key for condition in subject.conditions)
    return Fact(
        subject.name, subject.title, subject.level, subject.line, recent.written(since), worst[0].todo, dict(subject.values), keys
    )  # fmt: skip
