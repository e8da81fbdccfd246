"""One look: `python -m gigglekit.health.watching`, which giggles-watch.service runs every five minutes."""

from __future__ import annotations

import contextlib
import grp
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.files.locking import only_one
from gigglekit.health import facts, monitoring, outbox, recent, watch
from gigglekit.health.conditions import conditions
from gigglekit.health.mail import Mailer, letter_of_test, remedy
from gigglekit.health.recent import written

_DAY = 86400.0


@dataclass(frozen=True)
class Places:
    """Where a look finds and leaves things."""

    settings: Path = monitoring.PATH
    records: Path = records.FOLDER
    state: Path = watch.PATH
    lock: Path = Path("/var/lib/giggles/alerts/lock")
    root: Path = Path("/")


class WatchError(Exception):
    """A look was not possible; one paragraph with the remedy."""


def look(places: Places, mailer: Mailer | None = None, seen: facts.Facts | None = None) -> dict[str, Any]:
    """Look at the droplet, and tell what changed.

    Arguments:
        places: where everything lies.
        mailer: for tests; as the settings say if None.
        seen: for tests; this droplet as it is if None.

    Returns:
        `open` conditions, `changes` of this look, and `waiting` letters that could not be sent.

    Raises:
        WatchError: there are no settings.
        OSError: what is to be remembered cannot be written; nothing was sent then.
    """
    chosen = _settings(places)
    with _alone(places.lock):
        found = seen or facts.gather(chosen.watched, places.records, places.root)
        state = watch.load(places.state, found.now)
        wrong = conditions(
            found, chosen.limits, began=state.began, seen=state.seen, open_keys=[k for k, one in state.open.items() if one.shown]
        )
        newest = found.converge[-1].time if found.converge else None
        state, changes = watch.step(state, wrong, now=found.now, name=chosen.domain, somebody=chosen.recipient is not None, seen=newest)
        if chosen.digest and chosen.recipient:
            lines = _since_yesterday(places.records, found.now)
            state = watch.with_digest(state, now=found.now, day=found.day, hour=found.hour, name=chosen.domain, changes=lines)
        group = _group()
        # Before anything is sent: what is sent is known from then on.
        watch.store(places.state, state, group)
        for change in changes:
            records.append(
                places.records, "alerts",
                {"event": change.event, "key": change.key, "title": change.title, "since": written(change.since), "told": change.told},
            )  # fmt: skip
        if chosen.recipient:
            post = mailer or Mailer(chosen.sender, chosen.recipient, chosen.domain)
            state = outbox.deliver(state, post, lambda now: watch.store(places.state, now, group), now=found.now)
    return {
        "open": sorted(key for key, one in state.open.items() if one.shown),
        "changes": [f"{change.event}: {change.title}" for change in changes],
        "waiting": len(state.letters),
        **({"why": state.failing} if state.letters else {}),
    }


def told(places: Places, now: float) -> dict[str, Any]:
    """Return what is open and since when, and whether anybody is written to; nothing is changed or sent.

    Arguments:
        places: where everything lies.
        now: seconds since 1970.
    """
    chosen = monitoring.read(places.settings)
    state = watch.load(places.state, now)
    shown = {key: one for key, one in state.open.items() if one.shown}
    mail: dict[str, Any] = {"somebody": bool(chosen and chosen.recipient), "waiting": len(state.letters), "last": written(state.mailed)}
    if state.failing_since is not None:
        mail["failing"] = {"since": written(state.failing_since), "why": f"{state.failing}. {remedy(state.failing)}"}
    return {
        "looked": written(state.looked or None),
        "open": [
            {"key": key, "title": one.title, "since": written(one.since), "told": one.told is not None, "text": one.paragraph}
            for key, one in shown.items()
        ],
        "mail": mail,
    }


def send_test(places: Places, mailer: Mailer | None = None) -> None:
    """Send a mail that only shows that mail arrives.

    Raises:
        WatchError: nobody is written to, or the server did not take it.
    """
    chosen = _settings(places)
    if chosen.recipient is None:
        raise WatchError(
            "Nobody is written to: no address is configured. Put it, and the mail server, into the pillar (giggles:monitoring:mail:to and "
            "host), then salt-call state.apply monitoring."
        )
    post = mailer or Mailer(chosen.sender, chosen.recipient, chosen.domain)
    letter = letter_of_test(chosen.domain)
    problem = post.send(letter)
    post.forget(letter)
    if problem:
        raise WatchError(f"The test mail was not taken: {problem}. {remedy(problem)}")


def _settings(places: Places) -> monitoring.Monitoring:
    chosen = monitoring.read(places.settings)
    if chosen is None:
        raise WatchError(f"{places.settings} is missing or damaged, so nothing is watched. salt-call state.apply monitoring writes it.")
    return chosen


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_one(
        path,
        seconds=60,
        busy=lambda: WatchError(f"Another look has been under way for a minute (fuser -v {path}). Wait for it to end."),
    ):
        yield


def _group() -> int | None:
    if os.geteuid():
        return None
    with contextlib.suppress(KeyError):
        return grp.getgrnam("giggles").gr_gid
    return None


def _since_yesterday(folder: Path, now: float) -> list[str]:
    entries = list(recent.newest_first(folder, "alerts", now=now, since=now - _DAY))
    return [f"- {entry.text('time')} {entry.text('event')}: {entry.text('title')}" for entry in reversed(entries)][-50:]


def main() -> int:
    """Look once; what cannot be told stays known, and is said in the journal."""
    try:
        done = look(Places())
    except WatchError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'The watch'}: {error.strerror}, so nothing was told. Look at df and dmesg.", file=sys.stderr)
        return 1
    for change in done["changes"]:
        print(change)
    if done["waiting"]:
        print(f"{done['waiting']} mails wait: {done['why']}. They are tried again at every look.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
