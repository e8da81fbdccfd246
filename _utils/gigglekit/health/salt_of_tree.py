"""Having the Salt that the tree asks for, before it applies the tree.

Not a state, since that would replace the Salt that applies it, and states of a new commit may need the new one. The work is done by the
tree's own `gigglekit.runtime` in a process of its own, since this one may be of the commit before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gigglekit.command import CommandTimeoutError, run
from gigglekit.health.cleaning import Cleaner

_SECONDS = 3600.0
_STATE = "salt-runtime"


class Findings(Protocol):
    """What takes a failure."""

    def fail(self, identifier: str, name: str, comment: str) -> None:
        """Note one."""


class SaltOfTree:
    """The runtimes of a droplet, as its self-converge sees them.

    Arguments:
        runtime: the folder with Salt's programs, below the link to what is in force.
        tree: the repository.
    """

    def __init__(self, runtime: Path, tree: Path) -> None:
        self._python, self._home, self._tree = runtime / "python", runtime.parents[1], tree

    @property
    def is_unproven(self) -> bool:
        """Whether what is in force took the place of another and has not applied anything yet."""
        return (self._home / "unproven").exists()

    def ensure(self, findings: Findings) -> str:
        """Put into force what the tree asks for.

        Arguments:
            findings: take what went wrong; what was in force before still is then.

        Returns:
            The name of what is in force.
        """
        told = self._ask(["ensure", "--tree", str(self._tree)])
        name = str(told.get("name", ""))
        if told.get("switched"):
            print(f"Salt is {name} from now on, as the repository asks for it.")
        if told.get("note"):
            print(told["note"])
        if told.get("problem"):
            findings.fail(_STATE, name, Cleaner({})(str(told["problem"]), 1500))
        return name

    def back(self, findings: Findings) -> bool:
        """Put into force what was before; tell whether that was possible."""
        told = self._ask(["back", "--tree", str(self._tree)])
        if told.get("problem"):
            findings.fail(_STATE, str(told.get("name", "")), Cleaner({})(str(told["problem"]), 1500))
        return bool(told.get("switched"))

    def refuse(self, name: str, findings: Findings) -> None:
        """Leave one alone for a day that nothing can be applied with, though it was tried before it came into force."""
        comment = (
            f"Salt was replaced by {name}, as the repository asks for, and nothing could be applied with that, so the one before is in "
            "force again. It is tried once more tomorrow, or when requirements/salt.txt changes, or by bootstrap.sh."
        )
        findings.fail(_STATE, name, comment)
        self._ask(["refuse", name, comment])

    def prove(self) -> None:
        """Remember that what is in force works."""
        self._ask(["proven"])

    def _ask(self, arguments: list[str]) -> Mapping[str, Any]:
        if not (self._tree / "_utils/gigglekit/runtime").is_dir():
            # A commit from before there was one, which a run has gone back to.
            return {}
        command = [str(self._python), "-s", "-m", "gigglekit.runtime", "--home", str(self._home), *arguments]
        environment = {"PYTHONPATH": str(self._tree / "_utils"), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = run(command, seconds=_SECONDS, environment=environment)
            if done.code == 0 and not done.output.strip():
                return {}
            told = json.loads(done.output)
            return told if isinstance(told, dict) else {}
        except (OSError, CommandTimeoutError, ValueError) as error:
            why = type(error).__name__
            return {"problem": f"Whether Salt is what the repository asks for cannot be told ({why}). Run bootstrap.sh again."}
