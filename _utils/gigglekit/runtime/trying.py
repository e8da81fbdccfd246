"""Whether a runtime works: it starts, our programs start with it, and it sees the server as the one before does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gigglekit.command import CommandTimeoutError, Outcome, run
from gigglekit.runtime.errors import CannotRunHere, RuntimeProblem, Undecided
from gigglekit.runtime.home import Runtime

_START_SECONDS, _LOOK_SECONDS = 120.0, 1800.0


def start(runtime: Runtime, tree: Path) -> None:
    """See whether a runtime starts, by itself and with the programs of a tree.

    Arguments:
        runtime: the new one.
        tree: the repository.

    Raises:
        CannotRunHere: a bundle does not start.
        RuntimeProblem: it does not start.
    """
    tried = _run(runtime, "salt-call", ["--version"], _START_SECONDS, {})
    if tried.code != 0:
        said = tried.last_words or f"exit code {tried.code}"
        if runtime.kind == "bundle":
            raise CannotRunHere(f"The bundle does not run on this machine{_older(runtime.folder)}. It says: {said}.")
        raise RuntimeProblem(f"Salt was installed from the lock file, and does not start: {said}.")
    library = {"PYTHONPATH": str(tree / "_utils"), "PYTHONDONTWRITEBYTECODE": "1"}
    tried = _run(runtime, "python", ["-s", "-m", "gigglekit.health.converge_run", "--try"], _START_SECONDS, library)
    if tried.code != 0:
        raise RuntimeProblem(f"The programs of this repository do not start with it: {tried.last_words or f'exit code {tried.code}'}.")


def compare(new: Runtime, old: Runtime) -> None:
    """See whether a runtime sees the server as the one in force does, without changing anything.

    Arguments:
        new: the one that is tried.
        old: the one in force.

    Raises:
        RuntimeProblem: states fail with it that do not fail with the old one, or nothing can be applied with it.
        Undecided: nothing can be applied with either.
    """
    after = _look(new)
    before = _look(old) if after is None or after else set()
    if after is None:
        if before is None:
            raise Undecided(
                "Salt renders the states neither with the old nor with the new version of itself, so the new one was not tried."
            )
        raise RuntimeProblem("Salt does not render the states with it, and does with the version in force.")
    worse = sorted(after - before) if before is not None else []
    if worse:
        raise RuntimeProblem(f"States fail with it that do not fail with the version in force: {', '.join(worse[:5])}.")


def _look(runtime: Runtime) -> set[str] | None:
    """Return the ids of the states that fail under test=True; None if there is no such list."""
    arguments = ["--local", "--retcode-passthrough", "--log-level=quiet", "--out=json", "state.apply", "test=True"]
    tried = _run(runtime, "salt-call", arguments, _LOOK_SECONDS, {"PYTHONWARNINGS": "ignore"})
    try:
        told: Any = json.loads(tried.output)["local"]
        return {str(state["__id__"]) for state in told.values() if state["result"] is False}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _run(runtime: Runtime, program: str, arguments: list[str], seconds: float, settings: dict[str, str]) -> Outcome:
    path = runtime.folder / "bin" / program
    try:
        return run([str(path), *arguments], seconds=seconds, environment=settings)
    except CommandTimeoutError as error:
        return Outcome(124, "", str(error))
    except OSError as error:
        return Outcome(126, "", f"{path}: {error.strerror}")


def _older(folder: Path) -> str:
    """Return, as part of a sentence, that the machine's C library is older than the bundle's; "" if it is not."""
    try:
        needed = str(json.loads((folder / "bundle.json").read_bytes())["glibc"])
        here = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
        if [int(part) for part in here.split(".")] < [int(part) for part in needed.split(".")]:
            return f": it needs glibc {needed}, and there is {here} here"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    return ""
