"""Tries a release as the app's user, in the service's own sandbox, before anything is switched to it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gigglekit.command import CommandTimeoutError, run
from gigglekit.release.errors import PreflightError
from gigglekit.release.redaction import redact

_SECONDS = 300
_SCRATCH = "/var/lib/giggles/uploads/temp"
_LIVE = "/opt/giggles/current"
# How the service is started, watched and logged is no part of its sandbox.
_LEFT_OUT = ("Exec", "Restart", "Type", "WorkingDirectory", "Standard", "Syslog", "Timeout", "Sockets", "Success", "LogLevel",
             "NonBlocking", "RuntimeMaxSec")  # fmt: skip


def sandbox(unit: str, release: Path | None = None) -> list[str]:
    """Return the settings of a unit file's [Service] section that make its sandbox, as KEY=VALUE.

    Arguments:
        unit: text of the unit file.
        release: the release to be seen in the place of the live one.
    """
    section = ""
    kept: list[str] = []
    for line in map(str.strip, unit.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";", *_LEFT_OUT)):
            kept.append(line if release is None else line.replace(_LIVE, str(release)))
    return kept


def preflight(folder: Path, module: str, unit: Path, secrets: Iterable[str]) -> None:
    """Import the app's module with its `.env`, under the unit's sandbox and budget, and store a file where the app stores its own.

    It may take five minutes.

    Arguments:
        folder: the app's folder inside a finished release.
        module: MODULE:ATTRIBUTE as uvicorn takes it.
        unit: the service's unit file.
        secrets: values that must not appear in the error.

    Raises:
        PreflightError: it does not import, is refused by the sandbox, runs out of memory or takes too long.
    """
    python = _venv_above(folder)
    release = python.parents[2]
    probe = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    argv = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec",
            f"--property=RuntimeMaxSec={_SECONDS}", f"--property=WorkingDirectory={folder}",
            *(f"--property={line}" for line in sandbox(unit.read_text(encoding="utf-8"), release)),
            str(python), "-c", probe, module, _SCRATCH]  # fmt: skip
    try:
        outcome = run(argv, seconds=_SECONDS + 30)
    except CommandTimeoutError as error:
        raise PreflightError(_paragraph(f"it was still importing after {_SECONDS} s ({error})")) from error
    try:
        answer = json.loads(outcome.output)
    except ValueError:
        answer = {}
    if answer.get("starts") is True:
        return
    if "reason" in answer:
        reason = redact(str(answer["reason"]), secrets)
        place = f" at {answer['place']}" if answer.get("place") else ""
        raise PreflightError(_paragraph(f"{' '.join(reason.split())[:600]}{place}"))
    raise PreflightError(_paragraph(_without_a_word(outcome.code)))


def _without_a_word(code: int) -> str:
    if code in (9, 128 + 9):
        return "its process was killed while it was imported, as happens when memory runs out (it may use giggles:app:memory_max_mb)"
    if code in (31, 128 + 31):
        return "the sandbox refused a system call that it makes while it is imported"
    return f"its process ended with exit code {code} while it was imported, and without a word"


def _venv_above(folder: Path) -> Path:
    for place in (folder, *folder.parents):
        if (place / ".venv/bin/python").exists():
            return place / ".venv/bin/python"
    raise PreflightError(_paragraph("its virtual environment is gone"))


def _paragraph(reason: str) -> str:
    return (
        f"The release was built, but the app does not start with this droplet's settings: {reason}. Correct the value "
        "it names in the pillar (giggles:app:environment or giggles:secrets:app) or the commit in giggles:app:ref, "
        "then apply again. What is live keeps running with the settings that it started with; do not restart it "
        "before."
    )
