"""A real login as the administrator, with a key that exists only for it."""

from __future__ import annotations

import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..files.replacing import rewrite
from .errors import LoginError
from .second_factor import SecondFactor

WORKSPACE = Path("/run/giggles/login")
MARK = "giggles-login-proof"
"""The comment of the one-time key: a line with it in authorized_keys is left over from a run that was killed."""
_TRIES = 6
_SECONDS = 10


ANSWER = Path("/usr/local/lib/giggles/ssh-answer")
"""What ssh runs when it is asked for a code: /run, where the rest lies, may forbid to run anything."""


def attempt(user: str, *, port: int = 22, with_sudo: bool = True, second_factor: bool = False) -> None:
    """Log in over the loopback interface with a one-time key and become root there.

    The login is to the address that others reach this machine at, so that an sshd that listens or lets in only on
    127.0.0.1 does not pass. The key is added to the account's own authorized_keys, so that the login takes the way of
    every other one, is only good for connections from this machine, and is gone afterwards whatever happened. Where sshd asks
    for a code as well, a real one is given, of the account's own second factor.

    Arguments:
        user: the account.
        port: TCP port of sshd.
        with_sudo: whether `sudo -n true` has to work as well.
        second_factor: whether sshd asks for a code.

    Raises:
        LoginError: it did not work; says at which step and what was answered.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError as error:
        raise LoginError(f"the account {user} does not exist") from error
    WORKSPACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORKSPACE, prefix="proof-") as folder:
        private = Path(folder) / "key"
        made = _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", MARK, "-f", str(private)])
        if made.returncode != 0:
            raise LoginError(f"no one-time key could be made ({_words(made)})")
        public = private.with_suffix(".pub").read_text().strip()
        authorized = Path(account.pw_dir) / ".ssh/authorized_keys"
        address = _own_address()
        with _admitted(authorized, f'from="{address}",restrict,command="{_task(with_sudo)}" {public}'):
            _log_in(user, address, port, private, with_sudo, SecondFactor(user).code_for_proof if second_factor else None)


def _task(with_sudo: bool) -> str:
    # `command` keeps the key from being good for anything else even while it exists.
    return "sudo -n true && echo giggles-proven" if with_sudo else "echo giggles-proven"


def _own_address() -> str:
    """Return the IPv4 address that this machine has towards others; 127.0.0.1 where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Of TEST-NET-1 (RFC 5737). Connecting a datagram socket sends nothing, it only looks the route up.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _log_in(user: str, address: str, port: int, private: Path, with_sudo: bool, fresh: Callable[[], str] | None) -> None:
    answer = private.with_name("answer")
    # In batch mode ssh asks nobody, not even a program.
    asked = ["-o", "NumberOfPasswordPrompts=1"] if fresh else ["-o", "BatchMode=yes"]
    environment = {"SSH_ASKPASS": str(ANSWER), "SSH_ASKPASS_REQUIRE": "force", "GIGGLES_ANSWER": str(answer)} if fresh else {}
    command = [
        "ssh", "-F", "none", "-i", str(private), "-p", str(port), "-n", "-T",
        *("-o", "IdentitiesOnly=yes"), *asked, *("-o", "ConnectTimeout=5"),
        *("-o", "StrictHostKeyChecking=no"), *("-o", "UserKnownHostsFile=/dev/null"), *("-o", "LogLevel=ERROR"),
        *("-o", "IdentityAgent=none"), f"{user}@{address}", _task(with_sudo),
    ]  # fmt: skip
    for number in range(_TRIES):
        if fresh:
            # Anew each time: a try that was too slow has used its code up, and the same one would be refused.
            answer.touch(mode=0o600)
            answer.write_text(fresh() + "\n")
        done = _run(command, environment)
        if done.returncode == 0 and "giggles-proven" in done.stdout:
            return
        # Just after a reload sshd does not listen for a moment; a refusal of the key, though, is an answer.
        if done.returncode != 255 or "Permission denied" in done.stderr:
            break
        if number + 1 < _TRIES:
            time.sleep(0.5)
    step = "sshd did not let it in" if done.returncode == 255 else "it got in but could not become root by sudo"
    raise LoginError(f"{step} ({_words(done)})")


@contextmanager
def _admitted(authorized: Path, line: str) -> Iterator[None]:
    """Have `line` in authorized_keys for the duration of the block."""
    try:
        before = authorized.read_bytes()
    except FileNotFoundError as error:
        raise LoginError(f"{authorized} does not exist") from error
    try:
        rewrite(authorized, before.rstrip(b"\n") + b"\n" + line.encode() + b"\n")
        yield
    finally:
        rewrite(authorized, before)


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0], path=_PATH) is None:
        raise LoginError(f"{command[0]} is not installed")
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={"PATH": _PATH, "LANG": "C.UTF-8", **(environment or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 255, "", f"no answer within {_SECONDS} s")


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
