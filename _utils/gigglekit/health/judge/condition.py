"""What a judgement consists of: subjects that are looked at, and conditions that are not as they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gigglekit.health.judge.words import sentence

OK, WARNING, PROBLEM, UNKNOWN = "ok", "warning", "problem", "unknown"
LEVELS = (PROBLEM, UNKNOWN, WARNING, OK)
"""The worst first."""
WRONG = (PROBLEM, UNKNOWN)
"""With one of these not everything is all right. A warning was chosen, or has been put right already."""
LOOKS_QUIET = 3
"""How many looks in a row something must be gone before it is over, unless a record says that it is."""
NO_RECORD = "no record"
"""Variant of a run whose unit failed and left no record: only a good run after it ends that."""
_MOST_TEXTS = 5


@dataclass(frozen=True)
class Condition:
    """Something that is not as it should be.

    Arguments:
        key: stable while it is the same thing, for example `disk:/`.
        level: `problem`, `unknown` or `warning`.
        title: a few words, for the subject of a mail.
        text: what is, on one line, without a full stop.
        todo: what to do, in whole sentences.
        since: from when on it has been so, in seconds since 1970; None if that is not known.
        variant: another kind of the same; when it changes, that is told.
        patience: seconds that it must last before a mail tells it; it is shown at once.
        looks_quiet: how many looks in a row it must be gone before a mail says that it is over.
        event: whether it was over when it was found; its end is not told.
        mailed: whether a mail tells it; what was chosen is shown, and no more.
        hides: beginning of the keys that nobody can judge because of it; what is open under them stays so.
    """

    key: str
    level: str
    title: str
    text: str
    todo: str
    since: float | None = None
    variant: str = ""
    patience: float = 0.0
    looks_quiet: int = LOOKS_QUIET
    event: bool = False
    mailed: bool = True
    hides: str = ""

    @property
    def paragraph(self) -> str:
        """What happened and what to do, for a mail. What to do about an event is said once for all of them."""
        return f"{self.text}." if self.event else f"{sentence(self.text)} {self.todo}"


@dataclass(frozen=True)
class Subject:
    """One thing that is looked at, with everything that is wrong with it.

    Arguments:
        name: for programs: `nightly`, `backup`, `disk-root`, …; never changes.
        title: for people.
        text: what is, in one line, when nothing is wrong.
        conditions: the worst first; none if it is as it should be.
        since: from when on it has been as it should be; None if that is not known.
        values: the numbers behind the text, for programs.
        events: what is to be said of all its events together.
    """

    name: str
    title: str
    text: str
    conditions: tuple[Condition, ...] = ()
    since: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    events: str = ""

    @property
    def level(self) -> str:
        """The worst of its conditions."""
        return min((condition.level for condition in self.conditions), key=LEVELS.index, default=OK)

    @property
    def line(self) -> str:
        """What is, in one line."""
        if not self.conditions:
            return self.text
        texts = [condition.text for condition in self.conditions if not (condition.event and self.events)]
        more = [f"and {len(texts) - _MOST_TEXTS} more"] if len(texts) > _MOST_TEXTS else []
        return "; ".join([*texts[:_MOST_TEXTS], *more, *([self.events] if self.events else [])])


@dataclass(frozen=True)
class Memory:
    """What earlier looks left that a judgement depends on.

    Arguments:
        open: keys of the conditions that are open: a value at its threshold must not come and go.
        seen: time of the newest converge that was taken into account: of all after it the drift counts.
        waiting: how many mails cannot be sent, since when (`failing_since`) and `failing` why.
        unrecorded: of runs that failed without a record, when that was first seen, by key.
        restarts: of the looks of the last while, when it was and how often systemd had started the app anew by itself.
        set_aside: subjects of mails that the server has refused for good.
    """

    open: frozenset[str] = frozenset()
    seen: float = 0.0
    waiting: int = 0
    failing_since: float | None = None
    failing: str = ""
    unrecorded: Mapping[str, float] = field(default_factory=dict)
    restarts: Sequence[tuple[float, int]] = ()
    set_aside: Sequence[str] = ()
