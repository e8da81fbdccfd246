"""A release that runs beside the live one, under the same sandbox, on a socket of its own: tried before any request of a user meets it."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gigglekit.command import CommandTimeoutError, ask, run
from gigglekit.release.errors import TrialError
from gigglekit.release.handover import own_name
from gigglekit.release.preflight import sandbox
from gigglekit.release.service import Ended, how_it_ended

NAME = "giggles-candidate"
_LIVE = "/opt/giggles/current"
_LOG = "append:/var/log/giggles/web.log"
_PROPERTIES = "ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,InvocationID"


class Candidate(Protocol):
    """A release that is started beside the live one."""

    @property
    def socket(self) -> Path:
        """Where it answers."""

    def start(self, release: Path, module: str) -> None:
        """Start the release that lies at `release`."""

    def trouble(self) -> str:
        """Return what became of its process, in words; "" while it runs."""

    def stop(self) -> None:
        """End it, if it runs, after it has answered what it was asked."""


class SystemdCandidate:
    """A transient unit with the settings of the app's own.

    If it ends while it has the public socket, systemd gives the socket back to the service, whatever became of who started it.

    Arguments:
        unit: the app's unit file.
        public: the app's public socket.
        seconds: how long it may run at most.
        memory: file that tells how much memory is free.
    """

    def __init__(self, unit: Path, public: Path, seconds: float, memory: Path = Path("/proc/meminfo")) -> None:
        self._unit = unit
        self._public = public
        self._seconds = seconds
        self._memory = memory
        self._first = ""

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self._public.with_name(f"{NAME}.sock")

    def start(self, release: Path, module: str) -> None:
        """Start it: the socket at once, its process with the first question.

        Raises:
            TrialError: systemd does not take it.
        """
        self.stop()
        try:
            outcome = run(self._argv(release, module), seconds=60)
        except (OSError, CommandTimeoutError) as error:
            raise TrialError(f"The release could not be started beside the running one ({error}). {_UNTOUCHED}") from error
        if outcome.code != 0:
            raise TrialError(f"The release could not be started beside the running one ({outcome.last_words}). {_UNTOUCHED}")
        self._first = ""

    def trouble(self) -> str:
        """Return what became of its process; "" before its first question and while it runs."""
        _, shown = ask(["systemctl", "show", f"{NAME}.service", f"--property={_PROPERTIES}"], seconds=20)
        told = dict(line.partition("=")[::2] for line in shown.splitlines())
        invocation = told.get("InvocationID", "")
        if told.get("ActiveState") == "failed" or (self._first and told.get("ActiveState") == "inactive"):
            return how_it_ended(Ended.told_by(told), self._most_mb())
        if self._first and invocation and invocation != self._first:
            # The next question has had systemd start it once more, and systemd has forgotten how the first one ended.
            return how_it_ended(self._first_one_ended(), self._most_mb())
        self._first = self._first or invocation
        return ""

    def stop(self) -> None:
        """End it: no more connections, then the process; within seconds, since whoever lent it a socket has waited for its last answer."""
        for arguments in (["stop", f"{NAME}.socket", f"{NAME}.service"], ["reset-failed", f"{NAME}.socket", f"{NAME}.service"]):
            ask(["systemctl", "--no-ask-password", *arguments], seconds=60)
        for path in (self.socket, self._ended):
            with suppress(OSError):
                path.unlink()

    @property
    def _ended(self) -> Path:
        """Where systemd writes down how its process has ended, whenever one does."""
        return self._public.with_name(f"{NAME}.ended")

    def _first_one_ended(self) -> Ended | None:
        try:
            return Ended.told_to(self._ended.read_text(encoding="ascii", errors="replace").partition("\n")[0])
        except OSError:
            return None

    def _argv(self, release: Path, module: str) -> list[str]:
        text = self._unit.read_text(encoding="utf-8")
        own = own_name(self._public)
        walls = [line for line in sandbox(text, release) if not line.startswith(("MemoryHigh=", "OOMScoreAdjust="))]
        return [
            "systemd-run", "--quiet", f"--unit={NAME}", "--service-type=exec", "--description=Giggles app, on trial",
            f"--socket-property=ListenStream={self.socket}",
            "--socket-property=SocketUser=giggles", "--socket-property=SocketGroup=www-data", "--socket-property=SocketMode=0660",
            "--socket-property=Backlog=4096",
            f"--property=WorkingDirectory={release}/.app",
            f"--property=RuntimeMaxSec={self._seconds:.0f}", "--property=TimeoutStopSec=5",
            f"--property=StandardOutput={_LOG}", f"--property=StandardError={_LOG}",
            f"--property=ExecStopPost=-+/bin/sh -c 'echo $$SERVICE_RESULT $$EXIT_CODE $$EXIT_STATUS >> {self._ended}'",
            f"--property=ExecStopPost=-+/bin/sh -c 'test ! -S {own} || exec mv -fT {own} {self._public}'",
            *(f"--property={wall}" for wall in walls),
            # When memory runs out, the one on trial goes to swap, or goes, and the live one stays.
            f"--property=MemoryHigh={self._high_mb(text)}M", "--property=OOMScoreAdjust=700",
            *_command(text, release, module),
        ]  # fmt: skip

    def _most_mb(self) -> int | None:
        return _megabytes(self._unit.read_text(encoding="utf-8"), "MemoryMax")

    def _high_mb(self, unit: str) -> int:
        chosen = _megabytes(unit, "MemoryHigh") or 1 << 20
        with suppress(OSError, ValueError, IndexError):
            for line in self._memory.read_text(encoding="ascii").splitlines():
                if line.startswith("MemAvailable:"):
                    # Not less than half: a start that is all swapping would look like one that hangs.
                    return max(chosen // 2, min(chosen, int(line.split()[1]) // 1024))
        return chosen


_UNTOUCHED = "See systemctl status giggles-candidate, then apply again. The live release was left as it is."


def _command(unit: str, release: Path, module: str) -> list[str]:
    """Return the service's own command, for another release."""
    for line in map(str.strip, unit.splitlines()):
        if line.startswith("ExecStart="):
            command = line.partition("=")[2].replace(_LIVE, str(release)).replace("${GIGGLES_MODULE}", module)
            return shlex.split(command)
    raise TrialError(f"The app's unit names no command to start. Apply it again: salt-call state.apply app.units. {_UNTOUCHED}")


def _megabytes(unit: str, name: str) -> int | None:
    for line in map(str.strip, unit.splitlines()):
        key, _, value = line.partition("=")
        if key == name and value.endswith("M") and value[:-1].isdigit():
            return int(value[:-1])
    return None
