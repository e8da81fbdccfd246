"""Problems as an operator reads them: one paragraph each, with the key, what is wrong, what is allowed, what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gigglekit.settings.places import DROPLET_FILE
from gigglekit.settings.problem import Key, Problem
from gigglekit.settings.schema import read_yaml

RETRY = "`salt-call state.apply`"
UNTOUCHED = "Nothing on this droplet has been changed."


Source = tuple[str, object]
"""Where settings come from, as an operator knows it, and the pillar that it holds."""


def pillar_sources(files: Iterable[Path]) -> list[Source]:
    """Read pillar files as sources; one that cannot be read as plain YAML (Jinja, for example) is left out."""
    sources: list[Source] = []
    for file in files:
        with contextlib.suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
            sources.append((str(file), read_yaml(file)))
    return sources


def paragraphs(problems: Iterable[Problem], sources: Sequence[Source] = (), retry: str = RETRY) -> list[str]:
    """Return one paragraph per problem.

    Args:
        problems: what the check found.
        sources: what the pillar was merged from, in the order in which later ones win, to name the one to edit.
        retry: the command that comes after the correction.
    """
    return [_paragraph(problem, sources, retry) for problem in problems]


def _paragraph(problem: Problem, sources: Sequence[Source], retry: str) -> str:
    found = f" Found: {problem.value}." if problem.value is not None else ""
    todo = problem.remedy or f"Correct it in {_place(problem, sources)}"
    # Whoever does it with another command has changed something before: bootstrap.sh has installed Salt by then.
    untouched = UNTOUCHED if retry == RETRY else "Nothing has been applied."
    separator = " " if problem.allowed.endswith(".") else ". "
    return (
        f"The pillar is refused because of {problem.path}: {problem.reason}.{found} "
        f"Allowed: {problem.allowed}{separator}{todo}, then run {retry}. {untouched}"
    ).replace("?.", "?")


def _place(problem: Problem, sources: Sequence[Source]) -> str:
    """Name the file that says what is wrong; where none does, the files that may."""
    for name, content in reversed(sources):
        if _holds(content, problem.key):
            return name
    if problem.secret:
        return str(DROPLET_FILE)
    return f"pillar/giggles.sls, pillar/<environment>.sls or {DROPLET_FILE}"


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
