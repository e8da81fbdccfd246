"""One look: `python -m gigglekit.health.watching`, which giggles-watch.service runs every five minutes and after each record.

It gathers the facts once, has them judged once, mails what changed, and draws the page from the same judgement.
"""

from __future__ import annotations

import contextlib
import grp
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.files.locking import only_one
from gigglekit.health import expected, facts, monitoring, outbox, page, recent, watch
from gigglekit.health.judge import conditions, judge
from gigglekit.health.mail import Mailer, letter_of_test, remedy
from gigglekit.health.places import Places
from gigglekit.health.recent import written

_DAY = 86400.0
_MOST_LOOKS = 3
_OWN = frozenset({"alerts.jsonl", "disk.jsonl", "status.jsonl"})
"""What a look records itself."""


class WatchError(Exception):
    """A look was not possible; one paragraph with the remedy."""


def look(places: Places, mailer: Mailer | None = None, seen: facts.Facts | None = None) -> dict[str, Any]:
    """Look at the droplet, and tell what changed.

    Arguments:
        places: where everything lies.
        mailer: for tests; as the settings say if None.
        seen: for tests; this droplet as it is if None.

    Returns:
        `open` conditions, `changes` of this look, `waiting` letters that could not be sent, `page`, "" or why it is an old one, and
        `unkept`, "" or why what was told is remembered until the next restart only.

    Raises:
        WatchError: there are no settings.
        OSError: what is to be remembered can be written nowhere, not even in memory; nothing was sent then.
    """
    chosen, wanted = _settings(places), _wanted(places)
    with _alone(places.lock):
        with contextlib.suppress(OSError):
            # Where that cannot be written, what is wrong is told all the same.
            page.note_disk(places, time.time() if seen is None else seen.now)
        found = seen or facts.gather(places, wanted)
        state = watch.remembered(places, found.now)
        wrong = conditions(judge(found, wanted, watch.memory(state)))
        converges = found.runs.get("converge")
        newest = converges[0].moment if converges else None
        # While it waits for the vault, it is started anew all the time as it should be.
        waits = found.vault is not None and found.vault.mode == "encrypted" and not found.vault.mounted
        app = found.units.known.get(facts.APP) if found.units and not waits else None
        state, changes = watch.step(
            state, wrong, now=found.now, name=chosen.called, somebody=chosen.recipient is not None, seen=newest,
            restarts=app.restarts if app else None,
        )  # fmt: skip
        if chosen.digest and chosen.recipient:
            lines = _since_yesterday(places.records, found.now)
            state = watch.with_digest(state, now=found.now, day=found.day, hour=found.hour, name=chosen.called, changes=lines)
        group = _group()
        # Before anything is sent: what is sent is known from then on.
        unkept = watch.remember(places, state, group)
        # A disk that takes nothing is what is to be told.
        with contextlib.suppress(OSError):
            for change in changes:
                records.append(
                    places.records, "alerts",
                    {"event": change.event, "key": change.key, "title": change.title, "since": written(change.since), "told": change.told},
                )  # fmt: skip
        if chosen.recipient:
            post = mailer or Mailer(chosen.sender, chosen.recipient, chosen.domain)
            state = outbox.deliver(state, post, lambda now: _remember(places, now, group), now=found.now)
        old = ""
        try:
            page.write(places, found, wanted, watch.memory(state))
        except OSError as error:
            where = error.filename or places.page
            old = f"The status page could not be made: {where}: {error.strerror}. Look at df and ls -ld {places.page.parent}."
    return {
        "open": sorted(key for key, one in state.open.items() if one.shown),
        "changes": [f"{change.event}: {change.title}" for change in changes],
        "waiting": len(state.letters),
        "page": old,
        "unkept": unkept,
        **({"why": state.failing} if state.letters else {}),
    }


def told(places: Places, now: float) -> dict[str, Any]:
    """Return what is open and since when, and whether anybody is written to; nothing is changed or sent.

    Arguments:
        places: where everything lies.
        now: seconds since 1970.
    """
    chosen = monitoring.read(places.settings)
    state = watch.remembered(places, now)
    shown = {key: one for key, one in state.open.items() if one.shown}
    mail: dict[str, Any] = {"somebody": bool(chosen and chosen.recipient), "waiting": len(state.letters), "last": written(state.mailed)}
    if state.set_aside:
        mail["set_aside"] = [{"time": written(when), "subject": subject} for when, subject in state.set_aside]
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
    letter = letter_of_test(chosen.called)
    problem = post.send(letter)
    post.forget(letter)
    if problem:
        raise WatchError(f"The test mail was not taken: {problem}. {remedy(problem)}")


def _wanted(places: Places) -> expected.Expected:
    wanted = expected.read(places.expected)
    if wanted is None:
        raise WatchError(f"{places.expected} is missing or damaged, so nothing is watched. salt-call state.apply monitoring writes it.")
    return wanted


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


def _remember(places: Places, state: watch.State, group: int | None) -> None:
    watch.remember(places, state, group)


def _group() -> int | None:
    if os.geteuid():
        return None
    with contextlib.suppress(KeyError):
        return grp.getgrnam("giggles").gr_gid
    return None


def _since_yesterday(folder: Path, now: float) -> list[str]:
    entries = list(recent.newest_first(folder, "alerts", now=now, since=now - _DAY))
    return [f"- {entry.text('time')} {entry.text('event')}: {entry.text('title')}" for entry in reversed(entries)][-50:]


def _records(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells whether anybody recorded something."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".jsonl") and entry.name not in _OWN:
                status = entry.stat(follow_symlinks=False)
                found[entry.name] = (status.st_mtime_ns, status.st_size)
    return found


def main(places: Places | None = None) -> int:
    """Look; once more if something was recorded meanwhile. What cannot be told stays known, and is said in the journal."""
    places = places or Places()
    done: dict[str, Any] = {}
    try:
        for _ in range(_MOST_LOOKS):
            before = _records(places.records)
            done = look(places)
            for change in done["changes"]:
                print(change)
            # Whoever started this does not look while it runs.
            if _records(places.records) == before:
                break
    except WatchError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'The watch'}: {error.strerror}, so nothing was told. Look at df and dmesg.", file=sys.stderr)
        return 1
    if done["waiting"]:
        print(f"{done['waiting']} mails wait: {done['why']}. They are tried again at every look.", file=sys.stderr)
    if done["unkept"]:
        print(f"What was told is remembered until the next restart only: {done['unkept']}. Look at df, df -i and dmesg.", file=sys.stderr)
    if done["page"]:
        print(done["page"], file=sys.stderr)
    return 1 if done["page"] or done["unkept"] else 0


if __name__ == "__main__":
    sys.exit(main())
