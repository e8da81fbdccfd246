"""The app's systemd service: what it runs from, and starting it anew."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gigglekit.command import CommandTimeoutError, run
from gigglekit.release.errors import ReleaseError

_PROPERTIES = "LoadState,ActiveState,SubState,MainPID,ExecMainStartTimestampMonotonic,NeedDaemonReload,NRestarts"


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


class Service(Protocol):
    """What going live needs of a service manager."""

    def state(self) -> State:
        """Return what the service is doing."""

    def restart(self) -> None:
        """Stop it, read its unit file, start it; returns when its process has been started."""

    def stop(self) -> None:
        """Stop it and its socket."""


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
