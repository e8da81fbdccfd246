"""Letters leave one by one, and each step is written down: what waits, what is on its way, what has left.

Killed before a letter is given to msmtp, or while msmtp talks to the server in vain, it waits and is sent by the next look. Killed
after the server took it, msmtp's log of the letter says so, and it is not sent again. Only if the machine itself dies between the
server's answer and that line in the log is the letter sent twice, with the same Message-ID: rather twice than never.

A letter that the server refuses three times holds up no others any more. It is tried after them, with its subject alone too, and is set
aside once the server has taken another one: then it is this letter's fault. A server that refuses all of them loses none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from gigglekit.health.mail import REFUSED
from gigglekit.health.watch import Letter, State

REFUSALS = 3
_MOST_IN_VAIN = 2
"""How many refused letters are tried in one look, so that it ends in time."""
_KEPT = 10
_BARE = "The mail server refused the text of this mail. On the droplet, salt-call giggles.alerts shows what is open.\n"


class Post(Protocol):
    """Where letters are posted: `gigglekit.health.mail.Mailer`, or what stands for it."""

    def send(self, letter: Letter) -> str:
        """Send one; "" or why not."""

    def was_taken(self, letter: Letter) -> bool:
        """Tell whether an earlier attempt reached the server."""

    def forget(self, letter: Letter) -> None:
        """Forget how an attempt went."""


def deliver(state: State, post: Post, store: Callable[[State], None], *, now: float) -> State:
    """Send what waits, the oldest first, until one cannot be sent; the rest waits for the next look.

    Arguments:
        state: with its letters; it is stored already.
        post: sends them.
        store: writes a state down, before and after each letter.
        now: seconds since 1970.
    """
    in_vain = 0
    # The refused ones come last, and take turns.
    for letter in sorted(state.letters, key=lambda one: (0.0, 0.0) if one.barred is None else (1.0, one.begun or 0.0)):
        tried, problem = letter, ""
        if letter.begun is None or not post.was_taken(letter):
            tried = dataclasses.replace(letter, begun=now)
            state = _with(state, letter, tried)
            store(state)
            tried, problem = _sent(tried, post, now)
        if not problem:
            state = dataclasses.replace(_with(state, letter), failing_since=None, failing="", mailed=now)
            store(state)
            post.forget(letter)
            continue
        # It did not reach the server, or the server did not take it: nobody need ask the log.
        state = dataclasses.replace(_with(state, letter, tried), failing_since=state.failing_since or now, failing=problem)
        barred = problem in REFUSED and tried.barred is not None
        if barred and state.mailed is not None and state.mailed >= (tried.barred or 0.0):
            state = dataclasses.replace(_with(state, letter), set_aside=(*state.set_aside, (now, letter.subject))[-_KEPT:])
            if not state.letters:
                state = dataclasses.replace(state, failing_since=None, failing="")
        store(state)
        in_vain += 1
        if not barred or in_vain == _MOST_IN_VAIN:
            break
    return state


def _sent(letter: Letter, post: Post, now: float) -> tuple[Letter, str]:
    """Send a letter, and one that has been refused too often with its subject alone; return it as it waits then, and "" or why not."""
    problem = post.send(letter)
    if problem not in REFUSED:
        return dataclasses.replace(letter, tries=letter.tries + 1, refused=0), problem
    barred = letter.barred or (now if letter.refused + 1 >= REFUSALS else None)
    waits = dataclasses.replace(letter, tries=letter.tries + 1, refused=letter.refused + 1, barred=barred)
    return waits, problem if barred is None else post.send(dataclasses.replace(letter, body=_BARE))


def _with(state: State, letter: Letter, instead: Letter | None = None) -> State:
    """Return the state with another letter in the place of this one, or with none."""
    kept = (instead if one.number == letter.number else one for one in state.letters)
    return dataclasses.replace(state, letters=tuple(one for one in kept if one is not None))
