"""What a program asks of those who log in, as PAM has it: the part `auth` of its service, kept exact, and nothing else of it.

Source: pam.conf(5). The rest of a service (accounts, sessions, passwords) stays as its package has it, which differs from one system
to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files.replacing import rewrite

_NOT_AUTH = ("@include common-account", "@include common-session", "@include common-password")
"""What a service includes besides; anything else that is included might ask, or ask no more, and counts as a part of it."""


def with_auth(text: str, lines: Sequence[str]) -> str:
    """Return a service that asks exactly what `lines` say.

    Arguments:
        text: the service's file.
        lines: what is to stand there: where the first of them stands already, else in the place of what is asked now, else at the top.
    """
    kept: list[str] = []
    place = there = None
    for line in _whole(text):
        if not _is_auth(line):
            kept.append(line)
            continue
        place = len(kept) if place is None else place
        there = len(kept) if there is None and line in lines else there
    place = there if there is not None else place or 0
    return "".join(f"{line}\n" for line in (*kept[:place], *lines, *kept[place:]))


def auth(text: str) -> list[str]:
    """Return the lines of a service that say what is asked."""
    return [line for line in _whole(text) if _is_auth(line)]


def bring(path: Path, lines: Sequence[str]) -> None:
    """Have the service at `path` ask exactly what `lines` say.

    Raises:
        OSError: it is not there, or cannot be written.
    """
    rewrite(path, with_auth(path.read_text(encoding="utf-8"), lines).encode())


def _whole(text: str) -> list[str]:
    """Return the lines, with those that go on in the next (a backslash at the end) as one."""
    return text.replace("\\\n", " ").splitlines()


def _is_auth(line: str) -> bool:
    words = line.split()
    if not words or words[0].startswith("#"):
        return False
    if words[0].startswith("@"):
        return " ".join(words[:2]) not in _NOT_AUTH
    return words[0].lower().removeprefix("-") == "auth"
