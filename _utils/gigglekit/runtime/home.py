"""The folder /opt/salt: which runtimes lie in it, which one is in force, and what is remembered of those that were refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit.files.locking import only_one
from gigglekit.files.replacing import replace
from gigglekit.runtime.errors import RuntimeProblem

FOLDER = Path("/opt/salt")
RECORD = "runtime.json"
"""Written into a runtime when it is whole: without it, what lies there is what a killed run left."""
REFUSED_SECONDS = 86400.0
"""How long a runtime that did not work is left alone before it is tried again."""
_NAME = re.compile(r"(bundle-)?[0-9a-f]{16}")


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Arguments:
        folder: where it lies.
        kind: "environment" (installed from the lock file) or "bundle".
        lock: SHA-256 of the lock file that it was made from, in hexadecimal digits; "" if nobody knows.
    """

    folder: Path
    kind: str
    lock: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


def environment_name(lock: bytes, python: str) -> str:
    """Return the name of the runtime that a lock file makes with a Python.

    Arguments:
        lock: what the lock file says.
        python: what `python3 --version` prints, without the end of the line.
    """
    return hashlib.sha256(lock + python.encode() + b"\n").hexdigest()[:16]


class Home:
    """The folder with all runtimes.

    Arguments:
        folder: where it is.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Be the only one at work in it.

        Arguments:
            seconds: how long others are waited for.

        Raises:
            RuntimeProblem: somebody else is at work in it.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        busy = RuntimeProblem(f"Somebody else is installing into {self.folder} just now. Wait until that is done, and try again.")
        with only_one(self.folder / ".lock", seconds=seconds, busy=lambda: busy):
            yield

    def read(self, name: str) -> Runtime | None:
        """Return a runtime that is whole, by its name or by a link to it; None if there is none.

        Arguments:
            name: of a folder or a link in here.
        """
        with contextlib.suppress(OSError):
            name = os.readlink(self.folder / name)
        folder = self.folder / name
        try:
            told = json.loads((folder / RECORD).read_bytes())
            return Runtime(folder, str(told["kind"]), str(told["lock"]))
        except FileNotFoundError:
            # An earlier bootstrap.sh wrote none, and linked only what worked.
            linked = self._target("current") == name and (folder / "bin/salt-call").exists()
            return Runtime(folder, "environment", "") if linked else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def complete(self, runtime: Runtime) -> None:
        """Write down that a runtime is whole."""
        replace(runtime.folder / RECORD, json.dumps({"kind": runtime.kind, "lock": runtime.lock}).encode() + b"\n", 0o644)

    def switch(self, name: str) -> None:
        """Put a runtime into force and remember the one before. Killed anywhere, one of the two is in force."""
        before = self._target("current")
        if before and before != name:
            self._link("previous", before)
            replace(self._unproven, b"", 0o644)
        self._link("current", name)

    def discard(self, name: str) -> None:
        """Remove a runtime; killed in between, what is left counts as none."""
        (self.folder / name / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def prune(self) -> list[str]:
        """Remove all runtimes but the one in force, the one before it, and those that a program runs from; return their names."""
        kept = {self._target("current"), self._target("previous")}
        old = [path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.name not in kept]
        gone = [name for name in sorted(old) if not _is_running_from(self.folder / name)]
        for name in gone:
            self.discard(name)
        return gone

    @property
    def previous(self) -> Runtime | None:
        """The runtime that was in force before this one; None if there is none."""
        found = self.read("previous")
        return None if found is None or found.name == self._target("current") else found

    @property
    def is_unproven(self) -> bool:
        """Whether the runtime in force has not yet applied anything since it took the place of another."""
        return self._unproven.exists()

    def prove(self) -> None:
        """Remember that the runtime in force has applied something."""
        self._unproven.unlink(missing_ok=True)

    def refusal(self, name: str) -> str:
        """Return why a runtime was refused within the last day; "" if it was not."""
        told = self._refusals().get(name)
        fresh = isinstance(told, dict) and 0 <= time.time() - float(told.get("at", 0)) < REFUSED_SECONDS
        return str(told["why"]) if fresh and told else ""

    def refuse(self, name: str, why: str) -> None:
        """Remember that a runtime does not work, so that it is not built again at every converge."""
        kept = {other: told for other, told in self._refusals().items() if self.refusal(other)}
        replace(self.folder / "refused.json", json.dumps({**kept, name: {"why": why, "at": time.time()}}).encode(), 0o644)

    @property
    def _unproven(self) -> Path:
        return self.folder / "unproven"

    def _refusals(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "refused.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}

    def _target(self, link: str) -> str:
        try:
            return os.readlink(self.folder / link)
        except OSError:
            return ""

    def _link(self, link: str, name: str) -> None:
        new = self.folder / f"{link}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        new.replace(self.folder / link)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _is_running_from(folder: Path) -> bool:
    """Tell whether a process has a program or library of a folder in its memory."""
    marker = f" {folder}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if marker in maps.read_bytes():
                return True
    return False
