"""Quiet steps: one line each with the seconds it took, output only when something fails."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import TrialError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_printing = threading.Lock()

CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, so that a killed command leaves nothing running."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for commands: the same everywhere, plus the caller's proxies and `extra`."""
    result = dict(CLEAN_ENVIRONMENT)
    result.update({key: os.environ[key] for key in _PASSED_ON if key in os.environ})
    result.update(extra or {})
    return result


def say(line: str) -> None:
    """Print one line of progress to standard error, leaving standard output to results."""
    with _printing:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce `what` when it is done, with the seconds it took, or that it failed."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  failed  {what} ({time.monotonic() - started:.1f} s)")
        raise
    say(f"  {time.monotonic() - started:5.1f} s  {what}")


def run(
    command: Sequence[str | Path],
    *,
    why: str,
    remedy: str,
    stdin: str | None = None,
    seconds: float = 600,
    extra_environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it printed on standard output.

    Arguments:
        command: program and arguments; never a secret among them.
        why: what could not be done when it fails, as the start of a sentence.
        remedy: what the reader can do about it, a sentence.
        stdin: text for its standard input (nothing by default).
        seconds: limit; past it the command is killed.
        extra_environment: added to the clean environment.

    Raises:
        TrialError: the command is missing, failed, or took too long.
    """
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(
            arguments,
            input=stdin if stdin is not None else "",
            text=True,
            errors="replace",
            capture_output=True,
            timeout=seconds,
            env=environment(extra_environment),
            preexec_fn=die_with_parent,
            check=False,
        )
    except FileNotFoundError as error:
        raise TrialError(f"{why}: {arguments[0]} is not installed. {remedy}") from error
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"{why}: {arguments[0]} was still running after {seconds:.0f} s. {remedy}") from error
    if done.returncode != 0:
        raise TrialError(
            f"{why}: {arguments[0]} ended with exit code {done.returncode}. {remedy}",
            output=(done.stdout + done.stderr).strip(),
        )
    return done.stdout


def succeeds(command: Sequence[str | Path], seconds: float = 30) -> bool:
    """Tell whether a question asked of the system by a command is answered with exit code 0."""
    try:
        return (
            subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                env=environment(),
                preexec_fn=die_with_parent,
                check=False,
            ).returncode
            == 0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
