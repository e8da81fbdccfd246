"""Units that should run and start at boot, asked of systemd in one question for all of them.

Starting `systemctl` costs 10 to 30 ms on a small machine, several times for each service; one `systemctl show` answers
for any number of units. Source: systemctl(1), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..command import CommandTimeoutError
from ..command import run as run_command

_SECONDS = 180
_OURS = "etc/systemd/system"
_PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"
_STARTS_AT_BOOT = frozenset({"enabled", "static", "alias", "indirect", "generated"})
_RUNS = frozenset({"active", "activating", "reloading"})

Runner = Callable[[Sequence[str]], str]


class UnitError(Exception):
    """systemd could not do what was asked; one paragraph with the remedy."""


@dataclass(frozen=True)
class Unit:
    """A unit as systemd sees it.

    Arguments:
        name: as it was asked for, e.g. `cron.service`.
        load: `loaded`, `masked`, `not-found`, `bad-setting` or `error`.
        active: `active`, `inactive`, `failed`, `activating`, …
        file: `enabled`, `disabled`, `masked`, `static`, … or empty.
        outdated: its file has changed since systemd read it.
    """

    name: str
    load: str
    active: str
    file: str
    outdated: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is anything to start."""
        return self.load != "not-found"

    @property
    def masked(self) -> bool:
        """Whether somebody made it impossible to start."""
        return self.load == "masked" or self.file.startswith("masked")

    @property
    def runs(self) -> bool:
        """Whether it runs, or is about to."""
        return self.active in _RUNS

    @property
    def starts_at_boot(self) -> bool:
        """Whether it comes back by itself."""
        return self.file in _STARTS_AT_BOOT

    def lacks(self, *, running: bool = True, boot: bool = True) -> bool:
        """Whether anything is to be done before it is unmasked and, as far as they are wanted, starts at boot and runs."""
        return self.masked or (boot and not self.starts_at_boot) or (running and not self.runs)

    def __str__(self) -> str:
        return f"{self.file or self.load}, {self.active}"


def inspect(names: Sequence[str], *, run: Runner | None = None) -> list[Unit]:
    """Look at units, in the given order, without changing anything.

    Arguments:
        names: unit names; without a suffix a service is meant.
        run: runs a command and returns its output; for tests.

    Raises:
        UnitError: systemd does not answer.
    """
    output = (run or _run)(["systemctl", "show", f"--property={_PROPERTIES}", "--", *names])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.strip().split("\n\n")]
    if len(blocks) != len(names):
        raise UnitError(
            f"systemd described {len(blocks)} of {len(names)} units, so nothing can be said of any. Look at "
            "`systemctl show` and `journalctl -b -u init.scope`."
        )
    return [
        Unit(
            name,
            block.get("LoadState", ""),
            block.get("ActiveState", ""),
            block.get("UnitFileState", ""),
            block.get("NeedDaemonReload") == "yes",
        )
        for name, block in zip(names, blocks, strict=True)
    ]


def establish(unit: Unit, *, running: bool = True, boot: bool = True, run: Runner | None = None) -> None:
    """Have a unit unmasked and, as far as they are wanted, started at boot and running.

    Arguments:
        unit: from `inspect`.
        running: whether to start it too.
        boot: whether to have it started at boot; False for a unit that another one starts, such as a service behind
            a socket.
        run: runs a command and returns its output; for tests.

    Raises:
        UnitError: it does not exist, or systemd failed.
    """
    run = run or _run
    if not unit.exists:
        raise UnitError(
            f"There is no unit {unit.name} on this machine. The package or file that brings it is missing: see which "
            "state before this one failed, then apply again."
        )
    if unit.masked:
        run(["systemctl", "unmask", "--", unit.name])
        run(["systemctl", "unmask", "--runtime", "--", unit.name])
        unit = inspect([unit.name], run=run)[0]
    if unit.outdated:
        run(["systemctl", "daemon-reload"])
    if boot and not unit.starts_at_boot:
        run(["systemctl", "enable", "--", unit.name])
    if running and not unit.runs:
        # A unit that failed too often is refused until its failures are forgotten.
        if unit.active == "failed":
            run(["systemctl", "reset-failed", "--", unit.name])
        run(["systemctl", "start", "--", unit.name])


def restart(names: Sequence[str], *, run: Runner | None = None) -> None:
    """Restart units.

    Arguments:
        names: the units.
        run: runs a command and returns its output; for tests.

    Raises:
        UnitError: one of them did not come back.
    """
    (run or _run)(["systemctl", "restart", "--", *names])


def ours(names: Sequence[str], root: Path = Path("/")) -> list[str]:
    """Return those of the units whose file lies where no package puts one, or something else is in its place there.

    Arguments:
        names: the units, with their suffixes.
        root: where the file system begins.
    """
    return [name for name in names if os.path.lexists(root / _OURS / name)]


def remove(names: Sequence[str], *, root: Path = Path("/"), run: Runner | None = None) -> None:
    """Stop units, have them no longer started at boot, and remove their files.

    Arguments:
        names: from `ours`.
        root: where the file system begins.
        run: runs a command and returns its output; for tests.

    Raises:
        UnitError: one of them does not stop.
        OSError: a file cannot be removed.
    """
    run = run or _run
    # Timers first, so that nothing starts what was just stopped.
    for name in sorted(names, key=lambda name: not name.endswith(".timer")):
        run(["systemctl", "disable", "--now", "--", name])
    for name in names:
        # A link into a package's folder, or a mask, is gone once it is disabled.
        (root / _OURS / name).unlink(missing_ok=True)
    read_again(run=run)


def read_again(*, run: Runner | None = None) -> None:
    """Have systemd read the files of all units again.

    Raises:
        UnitError: it could not.
    """
    (run or _run)(["systemctl", "daemon-reload"])


def reload(names: Sequence[str], *, run: Runner | None = None) -> None:
    """Have units read their configuration again, without an end of what they are doing.

    Arguments:
        names: units that run.
        run: runs a command and returns its output; for tests.

    Raises:
        UnitError: one of them could not, most often because of what is in the configuration.
    """
    (run or _run)(["systemctl", "reload", "--", *names])


def _run(command: Sequence[str]) -> str:
    words = " ".join(command)
    try:
        done = run_command(command, seconds=_SECONDS)
    except FileNotFoundError as error:
        raise UnitError(f"{command[0]} is not installed: this needs a machine that runs systemd.") from error
    except CommandTimeoutError as error:
        raise UnitError(
            f"`{words}` was still waiting after {_SECONDS} s. See `systemctl list-jobs` and the unit's journal for what it waits for."
        ) from error
    if done.code != 0:
        raise UnitError(
            f"`{words}` ended with exit code {done.code}: {done.complaint.strip() or 'no message'} The unit's "
            "journal (`journalctl -u UNIT -n 50`) says why."
        )
    return done.output
