"""Nobody gets locked out: what decides about logins is noted before a run, tried after it, and put back when it fails.

Between the two a systemd timer outside the run looks whether the run still lives. If it was killed before the proof,
the timer puts everything back on its own, within about `INTERVAL`. Without that timer a run changes nothing. All of this
lies in /run, so a machine that loses its power (or is reset) between the two boots with what the run has written so far:
the console, and another apply, are the way on then.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command import ask
from ..files.replacing import replace
from . import listening, snapshot
from .attempt import WORKSPACE, attempt
from .errors import LoginError

CHECKPOINT = WORKSPACE / "checkpoint.json"
UNIT = "giggles-login-guard"
INTERVAL = 20
"""Seconds between two looks of the timer."""
PATIENCE = 1800
"""Seconds after which a run that still lives counts as stuck."""
_COUNTERS = re.compile(r"\[[0-9]+:[0-9]+\]")
_SAVE = {"iptables-restore": ["iptables-save", "-t", "filter"], "ip6tables-restore": ["ip6tables-save", "-t", "filter"]}


def _start_of(process: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5), stat, field 22), or an empty string."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""


@dataclass(frozen=True)
class Checkpoint:
    """What was noted before a run.

    Arguments:
        state: everything that decides about logins.
        enforced: the kernel's filter tables as text, by the command that loads them; empty where there were none.
        process: number of the run's process.
        started: when that process started.
        at: when this was noted, in seconds since the epoch.
    """

    state: snapshot.Snapshot
    enforced: dict[str, str]
    process: int
    started: str
    at: float

    def abandoned(self) -> bool:
        """Tell whether the run that made this is gone or stuck."""
        return _start_of(self.process) != self.started or time.time() - self.at > PATIENCE

    def write(self) -> None:
        """Store it where only root can read it and where no disk keeps it."""
        WORKSPACE.mkdir(mode=0o700, parents=True, exist_ok=True)
        WORKSPACE.chmod(0o700)
        data = {
            "state": self.state.to_json(),
            "enforced": self.enforced,
            "process": self.process,
            "started": self.started,
            "at": self.at,
        }
        replace(CHECKPOINT, json.dumps(data).encode(), 0o600)

    @classmethod
    def read(cls) -> Checkpoint | None:
        """Return the stored one, or None when there is none."""
        try:
            data: dict[str, Any] = json.loads(CHECKPOINT.read_text())
        except FileNotFoundError:
            return None
        return cls(snapshot.Snapshot.from_json(data["state"]), data["enforced"], data["process"], data["started"], data["at"])


def begin(home: Path | None, others: Sequence[Path] = ()) -> None:
    """Note how everything is and arm the timer.

    What a killed run has noted and nobody has put back yet is kept: that was the last proven state.

    Arguments:
        home: the administrator's home folder, or None while there is no such account.
        others: home folders of those who may become root before the run, such as an administrator who had another name. Of nobody
            else: root will write there, and an owner could put links in the way.

    Raises:
        LoginError: nobody would put things back if this run was killed, so it must not begin.
    """
    # A timer that is just putting things back would forget what is noted now.
    _stop_timer()
    before = Checkpoint.read()
    # Of the home, its own mode decides as well: sshd trusts no keys in a home that others can write to.
    homes = dict.fromkeys([*([home] if home else []), *others])
    places = (*snapshot.PLACES, *(f"{one}{of}".lstrip("/") for one in homes for of in (snapshot.ALONE, "/.ssh")))
    state = before.state if before else snapshot.take(Path("/"), places)
    enforced = before.enforced if before else _enforced()
    Checkpoint(state, enforced, os.getpid(), _start_of(os.getpid()), time.time()).write()
    try:
        _arm()
    except LoginError:
        if before is None:
            CHECKPOINT.unlink(missing_ok=True)
        raise


def end(
    user: str, *, port: int = 22, with_sudo: bool = True, second_factor: bool = False, try_login: Callable[..., None] = attempt
) -> list[str] | None:
    """Prove that the administrator can log in, if anything that decides about it has changed since `begin`.

    Arguments:
        user: the administrator.
        port: TCP port of sshd.
        with_sudo: whether sudo works without a password.
        second_factor: whether sshd asks for a code.
        try_login: how a login is tried.

    Returns:
        The paths that had changed, when the login works; None when nothing had changed.

    Raises:
        LoginError: the login does not work; everything is as it was before the run.
    """
    checkpoint = Checkpoint.read()
    if checkpoint is None:
        raise LoginError(
            "Nothing was noted before this run, so it cannot be said whether the way in was changed. Apply "
            "hardening.guard (or a state that includes it) instead of this state alone."
        )
    changed = _changed(checkpoint)
    if not changed:
        _disarm()
        return None
    try:
        try_login(user, port=port, with_sudo=with_sudo, second_factor=second_factor)
    except LoginError as error:
        restored = revert(checkpoint)
        raise LoginError(
            f"After this run's changes the administrator {user} could not log in any more: {error}. So everything that "
            f"decides about logins was put back as it was before the run ({', '.join(restored) or 'no file'}), and "
            "sshd and the firewall were reloaded; whoever could log in before still can. Look into 'journalctl -u ssh' "
            "for the refused attempt, correct the pillar or state behind it, and apply again."
        ) from error
    _disarm()
    return changed


def revert(checkpoint: Checkpoint) -> list[str]:
    """Put back what was noted, reload sshd and the firewall, and forget the checkpoint.

    Returns:
        The paths that were changed back.
    """
    firewall_changed = _enforced() != checkpoint.enforced
    fresh_firewall = firewall_changed and not any(checkpoint.enforced.values())
    if fresh_firewall:
        ask(["ufw", "--force", "disable"])
    restored = snapshot.restore(checkpoint.state, Path("/"))
    if firewall_changed and not fresh_firewall:
        for command, text in checkpoint.enforced.items():
            if text:
                ask([command], stdin=text)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    ask(["systemctl", "unmask", "ssh.service", "ssh.socket"])
    ask(["systemctl", "reload-or-restart", "ssh.service"])
    if listening.enabled():
        # What was put back must not be forgotten because of it; sshd runs either way.
        with contextlib.suppress(LoginError):
            listening.listen()
    _disarm()
    return restored


def _changed(checkpoint: Checkpoint) -> list[str]:
    now = snapshot.take(Path("/"), checkpoint.state.places)
    before = checkpoint.state
    paths = {path for path in {*before.entries, *now.entries} if before.entries.get(path) != now.entries.get(path)}
    paths |= {path for path in {*before.accounts, *now.accounts} if before.accounts.get(path) != now.accounts.get(path)}
    return sorted(f"/{path}" for path in paths)


def _enforced() -> dict[str, str]:
    tables = {}
    for restore, save in _SAVE.items():
        code, text = ask(save)
        # Comments hold the time, and counters count, so they would differ always.
        lines = [_COUNTERS.sub("[0:0]", line) for line in text.splitlines() if line[:1] != "#"] if code == 0 else []
        tables[restore] = "\n".join(lines) + "\n" if any(line.startswith("-A") for line in lines) else ""
    return tables


def _stop_timer() -> None:
    """Stop the timer and what it has started: either would be in the way of a new one of the same name."""
    if Path("/run/systemd/system").exists():
        names = [f"{UNIT}.timer", f"{UNIT}.service"]
        ask(["systemctl", "stop", *names])
        ask(["systemctl", "reset-failed", *names])


def _arm() -> None:
    if not Path("/run/systemd/system").exists():
        return
    library = Path(__file__).resolve().parents[2]
    command = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--timer-property=AccuracySec=1"]
    command += ["--description=Put logins back if a salt run dies half-way"]
    command += [f"--on-active={INTERVAL}", f"--on-unit-inactive={INTERVAL}"]
    command += [f"--setenv=PYTHONPATH={library}", "--setenv=PYTHONDONTWRITEBYTECODE=1"]
    code, said = ask([*command, "/usr/bin/python3", "-m", "gigglekit.login.guard"])
    if code != 0:
        raise LoginError(
            f"The timer {UNIT}, which puts logins back should this run be killed, could not be started: "
            f"{said.strip() or f'systemd-run ended with code {code}'}. So nothing was changed. Look at 'systemctl status {UNIT}.timer "
            f"{UNIT}.service', stop both, and apply again."
        )


def _disarm() -> None:
    CHECKPOINT.unlink(missing_ok=True)
    if Path("/run/systemd/system").exists():
        ask(["systemctl", "stop", f"{UNIT}.timer"])


def main() -> int:
    """Look once, as the timer does: put everything back if the run that changed it is gone."""
    checkpoint = Checkpoint.read()
    if checkpoint is None:
        _disarm()
        return 0
    if not checkpoint.abandoned():
        return 0
    restored = revert(checkpoint)
    what = ", ".join(restored) or "nothing had changed yet"
    print(
        f"The salt run with process id {checkpoint.process} ended before it had proved that the administrator can log "
        f"in. Put back: {what}.",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
