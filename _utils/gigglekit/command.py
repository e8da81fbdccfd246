"""Commands with an end: every one has a time limit, no terminal to ask on, and leaves no children behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What the caller happens to have set must not choose another interpreter, library or repository.
_DROPPED = ("PYTHON", "GIT_", "LD_", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT", "BASH_ENV")

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# How git and uv begin what went wrong; what follows explains it.
_ERROR = ("error:", "fatal:", "×")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Arguments:
        code: its exit code; 128 + the signal's number if one ended it.
        output: what it wrote to standard output.
        complaint: what it wrote to standard error.
    """

    code: int
    output: str
    complaint: str

    @property
    def last_words(self) -> str:
        """What it said was wrong, on one line, at most 400 characters: from its first error on, else its last lines."""
        lines = [line.strip() for line in (self.complaint or self.output).splitlines() if line.strip()]
        for number, line in enumerate(lines):
            if line.startswith(_ERROR):
                return " · ".join(line.lstrip("×╰─▶ ") for line in lines[number:])[:400]
        return " · ".join(lines[-3:])[-400:]


class CommandTimeoutError(Exception):
    """A command took longer than it may; it and its children were killed."""


def run(
    argv: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    folder: str = "/",
    stdin: str | None = None,
) -> Outcome:
    """Run a command to its end.

    Arguments:
        argv: program and arguments; nothing secret, since everybody on the machine can read them.
        seconds: how long it may take.
        environment: variables on top of the cleaned environment of this process.
        folder: its working directory.
        stdin: what it reads; None for nothing at all.

    Returns:
        Exit code and output, whatever the code.

    Raises:
        CommandTimeoutError: it did not end in time.
        OSError: it could not be started.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**kept, "LC_ALL": "C.UTF-8", **(environment or {})},
        start_new_session=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, complaint = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        raise CommandTimeoutError(f"{argv[0]} took longer than {seconds:.0f} s") from None
    except BaseException:
        _kill_group(process)
        raise
    code = process.returncode
    return Outcome(code if code >= 0 else 128 - code, output, complaint)


def ask(argv: Sequence[str], *, seconds: float = 60, stdin: str | None = None) -> tuple[int, str]:
    """Run a program of the system's, wherever this process would look for it, and never fail.

    Arguments:
        argv: program and arguments; nothing secret.
        seconds: how long it may take.
        stdin: what it reads; None for nothing at all.

    Returns:
        Its exit code, or 127 if it is not installed and 124 if it did not end in time; and all that it wrote.
    """
    try:
        outcome = run(argv, seconds=seconds, environment={"PATH": SYSTEM_PATH}, stdin=stdin)
    except FileNotFoundError:
        return 127, f"{argv[0]} is not installed"
    except CommandTimeoutError as error:
        return 124, str(error)
    return outcome.code, outcome.output + outcome.complaint


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
