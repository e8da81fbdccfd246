"""Letters leave one by one, and each step is written down: what waits, what is on its way, what has left.

Killed before a letter is given to msmtp, or while msmtp talks to the server in vain, it waits and is sent by the next look. Killed
after the server took it, msmtp's log of the letter says so, and it is not sent again. Only if the machine itself dies between the
server's answer and that line in the log is the letter sent twice, with the same Message-ID: rather twice than never.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from gigglekit.health.watch import Letter, State


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
    while state.letters:
        letter, *rest = state.letters
        if letter.begun is None or not post.was_taken(letter):
            letter = dataclasses.replace(letter, begun=now)
            state = dataclasses.replace(state, letters=(letter, *rest))
            store(state)
            problem = post.send(letter)
            if problem:
                # It did not reach the server, or the server did not take it: nobody need ask the log.
                waits = dataclasses.replace(letter, tries=letter.tries + 1)
                state = dataclasses.replace(state, letters=(waits, *rest), failing_since=state.failing_since or now, failing=problem)
                store(state)
                return state
        state = dataclasses.replace(state, letters=tuple(rest), failing_since=None, failing="", mailed=now)
        store(state)
        post.forget(letter)
    return state
