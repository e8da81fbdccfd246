"""Having the runtime in force that the repository asks for."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gigglekit.runtime import building, trying
from gigglekit.runtime.errors import CannotRunHere, RuntimeProblem, Undecided, WrongBundle
from gigglekit.runtime.home import Home, Runtime, environment_name

BUNDLES = "requirements/bundles.txt"
CONFIGURATION = Path("/etc/salt/minion.d/giggles.conf")
"""Without it Salt does not know the repository yet, and there is nothing to compare."""
_WAIT_SECONDS = 900.0
_ENTRY = re.compile(r"(?m)^(\S+) +([0-9a-f]{64}) +(https?://\S+) *$")


@dataclass(frozen=True)
class Wanted:
    """A bundle.

    Arguments:
        source: file or address.
        digest: SHA-256 of it, in hexadecimal digits.
    """

    source: str
    digest: str


@dataclass(frozen=True)
class Upgraded:
    """What came of it.

    Arguments:
        name: the runtime in force.
        switched: whether it is another one than before.
        note: what the operator should know although it is no failure; "" if nothing.
    """

    name: str
    switched: bool
    note: str = ""


def named_bundle(tree: Path) -> Wanted | None:
    """Return the bundle that a tree names for machines like this one; None if it names none.

    Arguments:
        tree: the repository. Its `requirements/bundles.txt` has lines of machine, SHA-256 and address.
    """
    with contextlib.suppress(OSError):
        for machine, digest, source in _ENTRY.findall((tree / BUNDLES).read_text()):
            if machine == platform.machine():
                return Wanted(source, digest)
    return None


class Upgrade:
    """One look at what is asked for and what is there.

    Arguments:
        home: where runtimes lie.
        tree: the repository.
        uv: the program that installs from the lock file.
        again: whether to try what was refused within the last day, and whether the one in force starts.
        configuration: Salt's configuration; see CONFIGURATION.
    """

    def __init__(self, home: Home, tree: Path, *, uv: Path = building.UV, again: bool = False, configuration: Path = CONFIGURATION) -> None:
        self.home, self.tree, self.uv, self.again, self.configuration = home, tree, uv, again, configuration
        self._notes: list[str] = []

    def ensure(self, bundle: Wanted | None = None, *, only_bundle: bool = False) -> Upgraded:
        """Put what is asked for into force, if it is not.

        Arguments:
            bundle: the bundle to take; None for the one that the tree names, if any.
            only_bundle: change nothing if the bundle does not run here.

        Raises:
            RuntimeProblem: what is asked for does not work or cannot be had; what was in force still is.
        """
        with self.home.held(_WAIT_SECONDS):
            before = self.home.read("current")
            if before is not None and self.again and not self._starts(before):
                before = None
            lock = building.lock_of(self.tree)
            wanted = bundle or named_bundle(self.tree)
            try:
                after = self._bundle(wanted, lock, before) if wanted else None
                if after is None and only_bundle:
                    return self._result(before, before)
                return self._result(before, after or self._from_lock(lock, before))
            except Undecided as error:
                # What keeps Salt from rendering anything is told by the run that comes next.
                self._notes.append(str(error))
                return self._result(before, before)

    def back(self) -> Upgraded:
        """Put the runtime into force that was before this one.

        Raises:
            RuntimeProblem: there is none that starts.
        """
        with self.home.held(_WAIT_SECONDS):
            previous = self.home.previous
            if previous is None or not self._starts(previous):
                raise RuntimeProblem(f"There is no earlier version of Salt in {self.home.folder} that starts. Run bootstrap.sh again.")
            self.home.switch(previous.name)
            self.home.prove()
            return Upgraded(previous.name, switched=True)

    def _result(self, before: Runtime | None, after: Runtime | None) -> Upgraded:
        switched = after is not None and (before is None or after.name != before.name)
        if switched:
            self.home.prune()
        return Upgraded(after.name if after else "", switched, " ".join(self._notes))

    def _bundle(self, wanted: Wanted, lock: bytes, before: Runtime | None) -> Runtime | None:
        name = building.bundle_name(wanted.digest)
        there = self.home.read(name)
        fits = there is None or there.lock == hashlib.sha256(lock).hexdigest()
        if before is not None and before.name == name and fits:
            return before
        instead = "Salt is installed from the lock file instead, which does the same."
        try:
            if not fits:
                # It may be the one in force: it is neither enough nor to be unpacked once more over itself.
                raise building.other_lock(wanted.source)
            return self._taken(name, before, lambda: self._fetched(name, wanted, lock))
        except CannotRunHere as error:
            self._notes.append(f"{error} {instead} For one that runs here, build it on a system like this one: packaging/build.")
        except Undecided:
            raise
        except RuntimeProblem as error:
            # A bundle that somebody named by hand is not what they meant, if its sum is another.
            if self.again:
                raise
            self._notes.append(f"{error} {instead}")
        return None

    def _fetched(self, name: str, wanted: Wanted, lock: bytes) -> Runtime:
        """Fetch a bundle and unpack it. What was not the right one is not fetched again for a day, or until other words name it."""
        entry = f"{name} {wanted.source} {hashlib.sha256(lock).hexdigest()[:16]}"
        refusal = "" if self.again else self.home.refusal(entry)
        if refusal:
            raise RuntimeProblem(refusal)
        try:
            return building.bundle(self.home, wanted.source, wanted.digest, lock)
        except (CannotRunHere, WrongBundle) as error:
            self.home.refuse(entry, f"{error} It is not fetched again within a day, unless its line in {BUNDLES} changes.")
            raise

    def _from_lock(self, lock: bytes, before: Runtime | None) -> Runtime:
        python, version = building.system_python()
        name = environment_name(lock, version)
        made_from_lock = hashlib.sha256(lock).hexdigest()

        def is_bundle_of_it(runtime: Runtime | None) -> bool:
            return runtime is not None and runtime.kind == "bundle" and runtime.lock == made_from_lock

        if before is not None and (before.name == name or is_bundle_of_it(before)):
            return before
        previous = self.home.previous
        if previous is not None and is_bundle_of_it(previous):
            return self._taken(previous.name, before, lambda: previous)
        path = self.tree / building.LOCK
        return self._taken(name, before, lambda: building.environment(self.home, name, path, python, self.uv))

    def _taken(self, name: str, before: Runtime | None, build: Callable[[], Runtime]) -> Runtime:
        refusal = "" if self.again else self.home.refusal(name)
        if refusal:
            raise RuntimeProblem(refusal)
        there = self.home.read(name)
        made = there if there is not None and not self.again else build()
        try:
            trying.start(made, self.tree)
            if before is not None and self.configuration.exists():
                trying.compare(made, before)
        except Undecided:
            raise
        except RuntimeProblem as error:
            self.home.discard(name)
            kept = f" {before.name} stays in force." if before is not None else ""
            told = f"{error}{kept}"
            self.home.refuse(name, told)
            raise type(error)(told) from error
        self.home.switch(name)
        return made

    def _starts(self, runtime: Runtime) -> bool:
        try:
            trying.start(runtime, self.tree)
        except RuntimeProblem:
            return False
        return True
