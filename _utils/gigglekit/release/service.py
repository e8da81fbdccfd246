"""The app's systemd service: what it runs from, and starting it anew."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gigglekit.command import CommandTimeoutError, ask, run
from gigglekit.release.errors import ReleaseError

_PROPERTIES = "LoadState,ActiveState,SubState,MainPID,ExecMainStartTimestampMonotonic,NeedDaemonReload,NRestarts"
_EXITED = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15"
"""What systemd writes into the journal when a unit's process has failed (SD_MESSAGE_UNIT_PROCESS_EXIT of sd-messages.h)."""


@dataclass(frozen=True)
class State:
    """What systemd and the kernel say of the service.

    Arguments:
        loaded: systemd has a unit file for it that is not masked.
        active: its process runs.
        failed: systemd gave it up.
        folder: working directory of its process, resolved; "" if it has none.
        started: when its process started, seconds since the epoch; 0.0 if it has none.
        outdated: the unit file has changed since systemd read it.
        restarts: how often systemd has restarted it by itself.
    """

    loaded: bool
    active: bool
    failed: bool
    folder: str
    started: float
    outdated: bool
    restarts: int


@dataclass(frozen=True)
class Ended:
    """How systemd saw a process end.

    Arguments:
        killed: whether a signal ended it.
        status: its exit status, or the signal's number.
        oom: whether systemd knows that memory ran out.
    """

    killed: bool
    status: int
    oom: bool = False

    @classmethod
    def told_by(cls, told: Mapping[str, str]) -> Ended:
        """Read it from what `systemctl show` tells (waitid(2): 1 is a process that has exited, 2 and 3 one that was killed)."""
        status = told.get("ExecMainStatus", "0")
        return cls(told.get("ExecMainCode") in ("2", "3"), int(status) if status.isdigit() else 0, told.get("Result") == "oom-kill")

    @classmethod
    def journaled(cls, line: str) -> Ended | None:
        """Read it from an entry of the journal in JSON that has the message _EXITED; None if it is something else."""
        try:
            told = json.loads(line)
            return cls(told["EXIT_CODE"] in ("killed", "dumped"), int(told["EXIT_STATUS"]))
        except (ValueError, KeyError, TypeError):
            return None

    @classmethod
    def told_to(cls, words: str) -> Ended | None:
        """Read it from `$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS` of an ExecStopPost= (systemd.exec(5)); None if it is something else."""
        try:
            result, code, status = words.split()
            killed = code in ("killed", "dumped")
            return cls(killed, signal.Signals[f"SIG{status}"] if killed else int(status), result == "oom-kill")
        except (ValueError, KeyError):
            return None


def how_it_ended(ended: Ended | None, most_mb: int | None = None) -> str:
    """Say how a process ended, for a person.

    Arguments:
        ended: how; None if nobody knows.
        most_mb: how much memory it may have, in MB.
    """
    if ended is None:
        return "its process ended by itself"
    if ended.oom or (ended.killed and ended.status == signal.SIGKILL):
        budget = f"{most_mb} MB, giggles:app:memory_max_mb" if most_mb else "giggles:app:memory_max_mb"
        return f"its process was killed, as happens when memory runs out (it may use {budget})"
    if ended.killed:
        return f"its process was ended by signal {ended.status}"
    return f"its process ended by itself with exit code {ended.status}"


class Service(Protocol):
    """What going live needs of a service manager."""

    def state(self) -> State:
        """Return what the service is doing."""

    def restart(self) -> None:
        """Stop it, read its unit file, start it; returns when its process has been started."""

    def stop(self) -> None:
        """Stop it and its socket."""

    def ended(self) -> Ended | None:
        """Return how its last process ended, once it has failed or was started anew; None if nobody knows."""


class SystemdService:
    """A systemd service behind a socket of the same name.

    Arguments:
        name: without the suffix.
        processes: the proc file system.
    """

    def __init__(self, name: str = "giggles", processes: Path = Path("/proc")) -> None:
        self._name = name
        self._processes = processes

    def state(self) -> State:
        """Return what the service is doing; a machine without systemd counts as one without the service."""
        try:
            outcome = run(["systemctl", "show", f"{self._name}.service", f"--property={_PROPERTIES}"], seconds=20)
        except (OSError, CommandTimeoutError):
            return State(False, False, False, "", 0.0, False, 0)
        told = dict(line.partition("=")[::2] for line in outcome.output.splitlines())
        process = told.get("MainPID", "0")
        folder = ""
        started = 0.0
        if process != "0":
            try:
                folder = str((self._processes / process / "cwd").readlink())
            except OSError:
                folder = ""
            since_boot = int(told.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
            started = time.time() - time.monotonic() + since_boot
        return State(
            loaded=told.get("LoadState") == "loaded",
            active=told.get("ActiveState") == "active",
            failed=told.get("ActiveState") == "failed",
            folder=folder,
            started=started,
            outdated=told.get("NeedDaemonReload") == "yes",
            restarts=int(told.get("NRestarts") or 0),
        )

    def ended(self) -> Ended | None:
        """Return how its last process ended; of one before that which runs now the journal knows."""
        _, shown = ask(["systemctl", "show", f"{self._name}.service", "--property=Result,ExecMainCode,ExecMainStatus"], seconds=20)
        told = dict(line.partition("=")[::2] for line in shown.splitlines())
        if told.get("ExecMainCode", "0") != "0":
            return Ended.told_by(told)
        journal = ["journalctl", "--boot", "--quiet", "--lines=1", "--output=json", "_PID=1", f"UNIT={self._name}.service", _EXITED]
        _, line = ask(journal, seconds=20)
        return Ended.journaled(line)

    def restart(self) -> None:
        """Start the socket, then restart the service. Requests wait in the socket meanwhile."""
        self._call("daemon-reload")
        self._call("reset-failed", f"{self._name}.service", f"{self._name}.socket", check=False)
        self._call("start", f"{self._name}.socket")
        self._call("restart", f"{self._name}.service")

    def stop(self) -> None:
        """Stop the socket first, so that no request starts the service again."""
        self._call("stop", f"{self._name}.socket", f"{self._name}.service", check=False)

    def _call(self, *arguments: str, check: bool = True) -> None:
        try:
            outcome = run(["systemctl", "--no-ask-password", *arguments], seconds=120)
        except (OSError, CommandTimeoutError) as error:
            raise ReleaseError(
                f"systemctl {' '.join(arguments)} did not end ({error}). Look at systemctl list-jobs, then apply again."
            ) from error
        if check and outcome.code != 0:
            raise ReleaseError(f"systemctl {' '.join(arguments)} failed ({outcome.last_words}). See systemctl status {self._name}.")
