"""The two formats that carry the app's settings, for any value: python-dotenv's and systemd's.

python-dotenv 0.10 to 1.x has three traps that decide this form: it expands `${NAME}` whatever the quotes; its pattern for
a quoted value takes a backslash before the closing quote for an escape, and runs on into the next lines; and files are
read with universal newlines. All three are avoided by writing a backslash as `${:-\\}` and `${` as `${:-$}{`: a variable
with no name is never set, so its default stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_LINE = re.compile(r'^(\w+)="((?:\\.|[^"\\])*)"$', re.MULTILINE | re.DOTALL)
_ESCAPE = re.compile(r"\$\{:-[\\$]\}|\\.", re.DOTALL)
_UNESCAPED = {"${:-\\}": "\\", "${:-$}": "$", "\\n": "\n", "\\r": "\r"}
_HEADER = "# Written by salt-call. Changes made here are undone by the next run.\n"


def _checked(name: str, value: str) -> str:
    if "\0" in value:
        raise ValueError(f"{name} holds a NUL character, which no environment can carry; enter it again without.")
    return value


def dotenv_file(values: Mapping[str, str]) -> str:
    """Return the text of a `.env` that python-dotenv reads back exactly.

    Arguments:
        values: names and values; any characters but NUL.

    Raises:
        ValueError: a value holds a NUL; names the key, never the value.

    Source: dotenv/parser.py and dotenv/variables.py of python-dotenv 1.0.
    """
    return _HEADER + "".join(f'{name}="{_dotenv(_checked(name, values[name]))}"\n' for name in sorted(values))


def _dotenv(value: str) -> str:
    written: list[str] = []
    for position, character in enumerate(value):
        if character == "\\":
            written.append("${:-\\}")
        elif character == "$" and value[position + 1 : position + 2] == "{":
            written.append("${:-$}")
        else:
            written.append({'"': '\\"', "\n": "\\n", "\r": "\\r"}.get(character, character))
    return "".join(written)


def read_back(text: str) -> dict[str, str]:
    """Return the names and values of a file that `dotenv_file` or `systemd_file` has written; other lines are skipped."""
    values: dict[str, str] = {}
    for line in _LINE.finditer(text):
        values[line[1]] = _ESCAPE.sub(lambda found: _UNESCAPED.get(found[0], found[0][-1]), line[2])
    return values


def systemd_file(values: Mapping[str, str]) -> str:
    """Return the text of a file for systemd's EnvironmentFile=.

    Arguments:
        values: names and values; any characters but NUL.

    Raises:
        ValueError: a value holds a NUL; names the key, never the value.

    Source: systemd.exec(5), EnvironmentFile=: in double quotes, a backslash keeps `"`, `\\`, `` ` `` and `$` as they are.
    """
    escaped = str.maketrans({character: "\\" + character for character in '"\\`$'})
    return _HEADER + "".join(f'{name}="{_checked(name, values[name]).translate(escaped)}"\n' for name in sorted(values))
