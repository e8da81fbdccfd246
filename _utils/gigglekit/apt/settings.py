"""Which options a file of apt's configuration sets: some of them are commands, which apt and dpkg run as root.

Only the plain part of the language is read (apt.conf(5)): names, quoted values, scopes and comments. Whatever goes beyond it,
such as `#clear` and `#include`, makes a file unclear, so that nothing slips through where apt reads it in another way.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

_LARGEST = 256 * 1024
"""Bytes. The longest that a package brings has eight thousand."""
_TOKEN = re.compile(
    r"""(?P<nothing>\s+|//[^\n]*|\#[\ \t][^\n]*|\#(?=\n|$))
    |(?P<value>"[^"\n\\]*")
    |(?P<word>[A-Za-z0-9][A-Za-z0-9_.:+*-]*)
    |(?P<sign>[{};])""",
    re.VERBOSE,
)


class UnclearError(Exception):
    """A file says more than names and values, or is no such file at all."""


def options(text: str) -> list[str]:
    """Return the full names of all options that a text sets, in its order.

    Arguments:
        text: content of a file.

    Raises:
        UnclearError: something in it is not plain.
    """
    found: list[str] = []
    scopes: list[str] = []
    statement: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise UnclearError(f"line {text.count(chr(10), 0, place) + 1} says more than names and values")
        place = token.end()
        kind, written = token.lastgroup or "", token.group()
        if kind == "nothing":
            continue
        if kind != "sign":
            statement.append((kind, written))
            continue
        named = bool(statement) and statement[0][0] == "word"
        if len(statement) > (2 if named else 1):
            raise UnclearError(f"a statement with {len(statement)} parts")
        full = "::".join([*scopes, *([statement[0][1]] if named else [])])
        # To open a scope is to set nothing yet.
        if statement and (written != "{" or len(statement) > 1):
            found.append(full)
        if written == "{":
            if not named:
                raise UnclearError("a scope without a name")
            scopes.append(statement[0][1])
        elif written == "}":
            if statement or not scopes:
                raise UnclearError("a scope that ends where it should not")
            scopes.pop()
        statement = []
    if statement or scopes:
        raise UnclearError("its end is missing")
    return found


def harmful(path: Path, allowed: Sequence[str]) -> str | None:
    """Say why a file may not stay: it sets something else than it may, or others than root can write to it.

    Arguments:
        path: a file of apt's configuration.
        allowed: regular expressions for whole names of options, in any case, as apt compares them.

    Returns:
        The reason, or None when there is none.
    """
    try:
        _require_plain(path.lstat())
        names = options(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return "it is no text"
    except UnclearError as error:
        return str(error)
    others = (name for name in names if not any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in allowed))
    return next((f"it sets {name}" for name in others), None)


def _require_plain(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnclearError("it is no plain file")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise UnclearError("others than root can write to it")
    if status.st_size > _LARGEST:
        raise UnclearError("it is too large to be looked through")


def find(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the files that may not stay, each with the reason.

    Arguments:
        files: for each absolute path, `*` and `?` in its last part match as in the shell, the options allowed there. A file
            that several match may set what any of them allows.
    """
    allowed: dict[Path, list[str]] = {}
    for pattern, names in files.items():
        folder, _, last = pattern.rpartition("/")
        for path in Path(folder).glob(last):
            allowed.setdefault(path, []).extend(names)
    reasons = {str(path): harmful(path, names) for path, names in sorted(allowed.items())}
    return {path: reason for path, reason in reasons.items() if reason}
