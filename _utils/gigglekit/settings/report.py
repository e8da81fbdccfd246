"""Problems as an operator reads them: one paragraph each, with the key, what is wrong, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gigglekit.settings.check import DROPLET_FILE
from gigglekit.settings.problem import Key, Problem
from gigglekit.settings.schema import read_yaml

RETRY = "`salt-call state.apply`"
UNTOUCHED = "Nothing on this droplet has been changed."


def paragraphs(problems: Iterable[Problem], pillar_files: Sequence[Path] = (), retry: str = RETRY) -> list[str]:
    """Return one paragraph per problem.

    Args:
        problems: what the check found.
        pillar_files: the pillar files of this droplet in the order in which later ones win, to name the one to edit.
        retry: the command that comes after the correction.
    """
    contents = [(path, _content(path)) for path in reversed(pillar_files)]
    return [_paragraph(problem, contents, retry) for problem in problems]


def _paragraph(problem: Problem, contents: Sequence[tuple[Path, object]], retry: str) -> str:
    found = f" Found: {problem.value}." if problem.value is not None else ""
    todo = problem.remedy or f"Correct it in {_place(problem, contents)}"
    separator = " " if problem.allowed.endswith(".") else ". "
    return (
        f"The pillar is refused because of {problem.path}: {problem.reason}.{found} "
        f"Allowed: {problem.allowed}{separator}{todo}, then run {retry}. {UNTOUCHED}"
    ).replace("?.", "?")


def _place(problem: Problem, contents: Sequence[tuple[Path, object]]) -> str:
    """Name the file that says what is wrong; where none does, the files that may."""
    for path, content in contents:
        if _holds(content, problem.key):
            return str(path)
    if problem.secret:
        return DROPLET_FILE
    return f"pillar/giggles.sls, pillar/<environment>.sls or {DROPLET_FILE}"


def _content(path: Path) -> object:
    try:
        return read_yaml(path)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        # A file with Jinja, or one that is not there: it just cannot be named.
        return None


def _holds(content: object, key: Key) -> bool:
    value: Any = content
    for name in key:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return False
    return True
