"""What is told, and when: compares what is not all right now with what was told before. Pure but for `load` and `store`.

A change of state is told once. What is to be sent is written down before it is sent, in the same step as the change itself: killed
before that, the next look finds the same change again; killed after it, the letter is still there. See `outbox` for what happens in
between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.files.replacing import replace
from gigglekit.health.judge.condition import NO_RECORD, Condition, Memory
from gigglekit.health.judge.words import capital
from gigglekit.health.places import Places

DIGEST_HOUR = 7
RESTLESS_S = 1200.0
"""What comes back within this time was not over: the next time it must be gone for twice as many looks."""
MOST_LOOKS_QUIET = 48
MOST_LETTERS = 50
ASIDE_S = 7 * 86400.0
"""How long it is shown that a mail was given up."""
RESTARTS_S = 1500.0
"""How long it is remembered how often the app was started anew."""
_VERSION = 1
_MOST_STARTS = 100
_MOST = 1e11
"""Beyond all times, in seconds since 1970, that there will be."""


@dataclass(frozen=True)
class Open:
    """A condition that is open, or that waits until it has lasted long enough.

    Arguments:
        since: when it was first seen, in seconds since 1970.
        title, paragraph, variant, event: as in `Condition`, as they were when they were told.
        shown: whether its patience is over, so that it counts as open.
        told: when a letter was made of it; None if there was nobody to write to.
        missed: how many looks in a row it was gone.
        quiet: how many of these make it over.
        gone_at: when it was first missed.
    """

    since: float
    title: str
    paragraph: str
    variant: str = ""
    event: bool = False
    shown: bool = False
    told: float | None = None
    missed: int = 0
    quiet: int = 1
    gone_at: float | None = None


@dataclass(frozen=True)
class Letter:
    """A mail that is to be sent.

    Arguments:
        number: which one of this droplet's; part of its Message-ID.
        made: when, in seconds since 1970.
        subject: one line.
        body: plain text.
        begun: when it was last given to the mail program, None if never. While it is there nobody knows whether it was sent.
        tries: how often that failed, and `refused`, how often since the server refused this very mail.
        barred: since when it has been refused too often to hold up others; None if it has not.
    """

    number: int
    made: float
    subject: str
    body: str
    begun: float | None = None
    tries: int = 0
    refused: int = 0
    barred: float | None = None


@dataclass(frozen=True)
class Change:
    """What a look found to be different: `event` is `open`, `changed` or `over`."""

    event: str
    key: str
    title: str
    since: float
    told: bool


@dataclass(frozen=True)
class State:
    """What is remembered from one look to the next.

    Arguments:
        looked: when it was last looked at.
        seen: time of the newest converge that was taken into account.
        open: conditions by key.
        restless: by key, when it was last over and after how many quiet looks.
        letters: to be sent, the oldest first.
        number: of the newest letter.
        digest: the day of the newest digest.
        failing_since: since when no letter can be sent, None if the last one was, and `failing` why.
        mailed: when the newest letter was sent.
        set_aside: when a letter was given up that the server refused while it took others, and its subject.
        restarts: of the looks of the last while, when it was and how often systemd had started the app anew by itself.
    """

    looked: float = 0.0
    seen: float = 0.0
    open: Mapping[str, Open] = field(default_factory=dict)
    restless: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    letters: tuple[Letter, ...] = ()
    number: int = 0
    digest: str = ""
    failing_since: float | None = None
    failing: str = ""
    mailed: float | None = None
    set_aside: tuple[tuple[float, str], ...] = ()
    restarts: tuple[tuple[float, int], ...] = ()


def step(
    state: State,
    found: Sequence[Condition],
    *,
    now: float,
    name: str,
    somebody: bool,
    seen: float | None = None,
    restarts: int | None = None,
) -> tuple[State, list[Change]]:
    """Take one look into account.

    Arguments:
        state: from the look before.
        found: what is not all right now.
        now: seconds since 1970.
        name: what the droplet is called in subjects.
        somebody: whether there is an address to write to.
        seen: time of the newest converge that `found` is about.
        restarts: how often systemd has started the app anew by itself; None if nobody knows.

    Returns:
        The state to be stored, with the letter that tells of all changes of this look, and these changes.
    """
    kept: dict[str, Open] = {}
    restless = {key: value for key, value in state.restless.items() if now - value[0] < RESTLESS_S}
    changes: list[Change] = []
    opened: list[Open] = []
    over: list[Open] = []
    current = {condition.key: condition for condition in found if condition.mailed}
    # Nobody can tell whether what is open there is over.
    hides = [condition.hides for condition in found if condition.hides]
    for key, condition in current.items():
        before = state.open.get(key)
        one = _renewed(before, condition, now, restless.get(key))
        news = one.shown and (before is None or not before.shown or before.variant != one.variant)
        if somebody and one.shown and (news or one.told is None):
            one = dataclasses.replace(one, told=now)
            opened.append(one)
        if news:
            event = "changed" if before is not None and before.shown else "open"
            changes.append(Change(event, key, one.title, one.since, somebody))
        kept[key] = one
    for key, before in state.open.items():
        if key in current:
            continue
        if any(key.startswith(hidden) for hidden in hides):
            kept[key] = before
            continue
        gone = dataclasses.replace(before, missed=before.missed + 1, gone_at=before.gone_at or now)
        if before.shown and gone.missed < before.quiet:
            kept[key] = gone
        elif before.shown:
            restless[key] = (gone.gone_at or now, before.quiet)
            tell = somebody and before.told is not None and not before.event
            changes.append(Change("over", key, before.title, before.since, tell))
            if tell:
                over.append(before)
    looks = [*state.restarts, *([] if restarts is None else [(now, restarts)])]
    state = dataclasses.replace(
        state,
        looked=now,
        seen=max(state.seen, seen or 0.0),
        open=dict(sorted(kept.items())),
        restless=dict(sorted(restless.items())),
        restarts=tuple(look for look in looks if 0 <= now - look[0] < RESTARTS_S)[-_MOST_STARTS:],
        set_aside=tuple(one for one in state.set_aside if now - one[0] < ASIDE_S),
    )
    if opened or over:
        state = with_letter(state, *_letter(name, opened, over, state, now), now=now)
    return state, changes


def with_letter(state: State, subject: str, body: str, *, now: float) -> State:
    """Return the state with one more letter to be sent. When too many wait, the oldest ones give way to one that says so."""
    letters = [*state.letters, Letter(state.number + 1, now, subject, body)]
    number = state.number + 1
    if len(letters) > MOST_LETTERS:
        dropped = letters[: len(letters) - MOST_LETTERS + 1]
        lines = "\n".join(line for letter in dropped for line in _headings(letter))
        number += 1
        merged = Letter(
            number,
            dropped[0].made,
            "mails that could not be sent",
            f"Too many mails waited to be sent. These were their subjects:\n{lines[-20000:]}\n",
        )
        letters = [merged, *letters[len(dropped) :]]
    return dataclasses.replace(state, letters=tuple(letters), number=number)


def with_digest(state: State, *, now: float, day: str, hour: int, name: str, changes: Sequence[str]) -> State:
    """Return the state with the summary of the day to be sent, unless it was, or it is too early.

    Arguments:
        state: after `step`.
        now: seconds since 1970.
        day: today, where the droplet is, and the `hour` there.
        name: what the droplet is called in subjects.
        changes: a line for each change since yesterday.
    """
    if hour < DIGEST_HOUR or state.digest == day:
        return state
    shown = [one for one in state.open.values() if one.shown]
    said = "everything is all right" if not shown else f"{len(shown)} open"
    lines = [
        f"{name}, {day}: {said}.",
        "",
        *_still(shown, now),
        *(["", "Since yesterday:", *changes] if changes else ["", "Nothing changed since yesterday."]),
    ]
    return dataclasses.replace(with_letter(state, f"[{name}] daily: {said}", "\n".join(lines) + _FOOT, now=now), digest=day)


_FOOT = "\n\n-- \nOn the droplet, salt-call giggles.alerts shows what is open, salt-call giggles.status everything.\n"


def _renewed(before: Open | None, condition: Condition, now: float, restless: tuple[float, int] | None) -> Open:
    if before is None:
        quiet = condition.looks_quiet
        # A converge that found it untouched has ended an event for certain.
        if restless is not None and not condition.event:
            quiet = min(MOST_LOOKS_QUIET, max(quiet, 2 * restless[1]))
        return Open(
            now, condition.title, condition.paragraph, condition.variant, condition.event, shown=condition.patience <= 0, quiet=quiet
        )
    # A clock that was ahead when it was first seen must not put off for years that it is told.
    before = dataclasses.replace(before, since=min(before.since, now))
    shown = before.shown or now - before.since >= condition.patience
    return dataclasses.replace(
        before, title=condition.title, paragraph=condition.paragraph, variant=condition.variant, missed=0, gone_at=None, shown=shown
    )


def _letter(name: str, opened: Sequence[Open], over: Sequence[Open], state: State, now: float) -> tuple[str, str]:
    drift = [one for one in opened if one.event]
    others = [one for one in opened if not one.event]
    heads = [one.title for one in others] + [f"over: {one.title}" for one in over]
    if drift:
        heads.append(drift[0].title if len(drift) == 1 else f"drift in {len(drift)} places")
    subject = heads[0] if len(heads) == 1 else f"{heads[0]}, and {len(heads) - 1} more"
    parts = [f"{capital(one.title)} (since {_at(one.since)})\n{one.paragraph}" for one in others]
    if drift:
        listed = "\n".join(f"- {one.paragraph}" for one in drift)
        parts.append(
            "Drift\nSomebody or something changed what this repository says, and it was put back. If that was you, change the "
            f"repository or the pillar instead; if it was not, find out who was it: last, journalctl.\n{listed}"
        )
    parts += [f"Over: {one.title}\nIt lasted from {_at(one.since)} to about {_at(one.gone_at or now)}." for one in over]
    told = {id(one) for one in opened}
    rest = [one for one in state.open.values() if one.shown and not one.event and id(one) not in told]
    if rest:
        parts.append("\n".join(["Still open:", *_still(rest, now)]))
    return f"[{name}] {subject}"[:200], "\n\n".join(parts) + _FOOT


def _still(shown: Sequence[Open], now: float) -> list[str]:
    return [f"- {one.title}, since {_at(one.since)} ({_lasted(now - one.since)})" for one in shown] or ["Nothing is open."]


def _headings(letter: Letter) -> list[str]:
    if letter.subject == "mails that could not be sent":
        return letter.body.splitlines()[1:]
    return [f"- {_at(letter.made)} {letter.subject}"]


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _lasted(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 172800 else f"{max(0, seconds) / 3600:.0f} hours"


def memory(state: State) -> Memory:
    """Return what of it a judgement depends on."""
    opened = frozenset(key for key, one in state.open.items() if one.shown)
    unrecorded = {key: one.since for key, one in state.open.items() if one.shown and one.variant == NO_RECORD}
    subjects = tuple(subject for _, subject in state.set_aside)
    return Memory(opened, state.seen, len(state.letters), state.failing_since, state.failing, unrecorded, state.restarts, subjects)


def load(path: Path, now: float) -> State:
    """Return what was remembered. What is damaged counts as nothing: what is open is told once more then.

    Arguments:
        path: the file.
        now: seconds since 1970.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            kept = json.load(file)
        if kept.pop("version") != _VERSION:
            return State()
        kept = _known(State, kept)
        return State(
            **{
                **kept,
                # A clock that was wrong when it was written must not hide all drift, nor that nobody can be told.
                "seen": min(float(kept["seen"]), now),
                "failing_since": None if kept.get("failing_since") is None else min(kept["failing_since"], now),
                "open": {key: Open(**_known(Open, one)) for key, one in kept["open"].items()},
                "restless": {key: (_number(value[0]), int(_number(value[1]))) for key, value in kept["restless"].items()},
                "letters": tuple(Letter(**_known(Letter, letter)) for letter in kept["letters"]),
                "set_aside": tuple((_number(one[0]), str(one[1])) for one in kept.get("set_aside", [])),
                "restarts": tuple((_number(one[0]), int(_number(one[1]))) for one in kept.get("restarts", [])),
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return State()


def _known(kind: type, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this version knows of it: another one may remember more.

    Raises:
        TypeError, ValueError: a value is none that this could have, and every later look would end at it.
    """
    fields: Mapping[str, dataclasses.Field[Any]] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    known = {name: value for name, value in kept.items() if name in fields}
    for name, value in known.items():
        wanted, _, nothing = str(fields[name].type).partition(" | ")
        if value is None and nothing:
            continue
        if wanted in ("float", "int"):
            _number(value)
        elif wanted in ("str", "bool") and type(value).__name__ != wanted:
            raise TypeError(name)
    return known


def _number(value: object) -> float:
    """Return a time or a count, such as there can be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError
    return float(value)


def remembered(places: Places, now: float) -> State:
    """Return what was remembered last, on the disk or, where that could not be written, in memory.

    Arguments:
        places: where everything lies.
        now: seconds since 1970.
    """
    told, meanwhile = load(places.told, now), load(places.told_meanwhile, now)
    # As new as the other, it was written after it.
    return meanwhile if meanwhile != State() and meanwhile.looked >= told.looked else told


def remember(places: Places, state: State, group: int | None = None) -> str:
    """Write down what is to be remembered; in memory if the disk takes nothing, so that a full one is told, and told once.

    Arguments:
        places: where everything lies.
        state: from `step`.
        group: as for `store`.

    Returns:
        "", or why it lies in memory only.

    Raises:
        OSError: it can be written nowhere.
    """
    try:
        store(places.told, state, group)
    except OSError as error:
        places.told_meanwhile.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        store(places.told_meanwhile, state, group)
        return f"{places.told}: {error.strerror}"
    with contextlib.suppress(OSError):
        places.told_meanwhile.unlink(missing_ok=True)
    return ""


def store(path: Path, state: State, group: int | None = None) -> None:
    """Write down what is to be remembered, in one step.

    Arguments:
        path: the file.
        state: from `step`.
        group: numeric group that may read it; nobody but root if None.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    content: dict[str, Any] = {"version": _VERSION, **dataclasses.asdict(state)}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False) + "\n"
    mode, owner = (0o600, None) if group is None else (0o640, (os.geteuid(), group))
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text.encode():
            return
    replace(path, text.encode(), mode, owner)
