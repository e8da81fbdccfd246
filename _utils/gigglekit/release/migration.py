"""Runs the command that makes the database ready for a release: once for each commit, after a dump, before the release is switched to."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gigglekit.command import CommandTimeoutError, ask, run
from gigglekit.files.replacing import replace
from gigglekit.release import venv
from gigglekit.release.dotenv import read_back, systemd_file
from gigglekit.release.errors import MigrationError
from gigglekit.release.preflight import sandbox
from gigglekit.release.redaction import redact
from gigglekit.release.settings import Layout, Settings

_SECONDS = 1800
_KEPT = 100
_UNIT = "giggles-migration"

Dump = Callable[[], str]
"""Saves the database and returns a name by which giggles.restore_database finds it. Fails with an error that is one paragraph."""


def is_due(settings: Settings, layout: Layout, commit: str) -> bool:
    """Tell whether the migration of a commit has yet to run."""
    known = _known(layout).get(commit, {})
    return bool(settings.migration) and ("time" not in known or known.get("command") != settings.migration)


def ran(layout: Layout, commit: str) -> str | None:
    """Return when the migration of a commit ran, or None."""
    return _known(layout).get(commit, {}).get("time")


def migrate(
    settings: Settings, layout: Layout, release: Path, commit: str, unit: Path, secrets: Iterable[str], dump: Dump | None
) -> dict[str, str]:
    """Save the database, then run the migration, in the release's folder and environment and the app's sandbox.

    Arguments:
        settings: name the command.
        layout: where it is noted that it ran.
        release: the finished release.
        commit: its commit.
        unit: the service's unit file.
        secrets: values that must not appear in an error.
        dump: saves the database; None if there is no backup.

    Returns:
        What was done: `command`, `time` and `dump`, which is "" if none was asked for; and `interrupted`, a sentence on an earlier run of
        it that was killed, "" if there was none.

    Raises:
        MigrationError: nothing was saved, or the command failed. The live release was left as it is.
    """
    if ask(["systemctl", "is-active", "--quiet", f"{_UNIT}.service"], seconds=20)[0] == 0:
        raise MigrationError(
            "A migration that an earlier deploy has begun is still running, though that deploy was ended, so nothing was begun beside it. "
            f"Wait for it (systemctl status {_UNIT}; it may take {_SECONDS // 60} minutes), then deploy again. The live release was left "
            "as it is."
        )
    before = _known(layout).get(commit, {})
    killed = before if "begun" in before else {}
    interrupted = _interrupted(killed)
    saved = _saved(settings, dump)
    back = f" The database was saved before: salt-call giggles.restore_database snapshot={saved} clean=True puts it back." if saved else ""
    # What an interrupted run had saved is from before all of it, and stays the one to go back to.
    back = interrupted or back
    _write(layout, commit, killed or {"command": settings.migration, "begun": _now(), "dump": saved})
    values = list(secrets)
    try:
        with _environment(layout) as file:
            outcome = run(_argv(settings, release, unit, file), seconds=_SECONDS + 30)
    except CommandTimeoutError as error:
        raise MigrationError(_failed(settings, f"it had not ended after {_SECONDS} s", back)) from error
    except OSError as error:
        _write(layout, commit, before)
        raise MigrationError(_failed(settings, f"it could not be started ({error.strerror})", back)) from error
    if outcome.code != 0:
        _write(layout, commit, before)
        words = " ".join(redact(outcome.last_words, values).split())
        raise MigrationError(_failed(settings, f"it ended with exit code {outcome.code}: {words or 'without a word'}", back))
    done = {"command": settings.migration, "time": _now(), "dump": saved}
    _write(layout, commit, done)
    return {**done, "interrupted": interrupted}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(layout: Layout, commit: str, said: dict[str, str]) -> None:
    """Note what is known of a commit's migration; nothing if that is empty."""
    known = _known(layout)
    known.pop(commit, None)
    newest = [*known.items(), *([(commit, said)] if said else [])][-_KEPT:]
    replace(layout.migrated, (json.dumps(dict(newest), indent=1) + "\n").encode(), 0o600)


def _interrupted(killed: dict[str, str]) -> str:
    """Say what is known of a run that was begun and never ended; "" if there was none."""
    if not killed:
        return ""
    saved = (
        f"the database from before that is the snapshot {killed['dump']} (salt-call giggles.restore_database snapshot={killed['dump']} "
        "clean=True puts it back)"
        if killed.get("dump")
        else "nothing was saved before that"
    )
    return f" An earlier run of it was ended in the middle ({killed['begun']}) and may have changed a part of the database: {saved}."


def _saved(settings: Settings, dump: Dump | None) -> str:
    if not settings.migration_dump:
        return ""
    if dump is None:
        raise MigrationError(
            "The release names a migration (giggles:app:migration), and there is no bucket that the database could be saved to before it. "
            "Configure the backup (docs/BACKUP_AND_RESTORE.md), or, if you have saved the database in another way, set "
            "giggles:app:migration_dump to false. The live release was left as it is, and so was the database."
        )
    return dump()


@contextmanager
def _environment(layout: Layout) -> Iterator[str]:
    """Write the app's environment for systemd to read: a migration need not know the app's way to read its `.env`."""
    descriptor, name = tempfile.mkstemp(dir="/run", prefix="giggles-migration.", suffix=".env")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file, suppress(FileNotFoundError):
            file.write(systemd_file(read_back(layout.environment.read_text(encoding="utf-8"))))
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def _argv(settings: Settings, release: Path, unit: Path, environment: str) -> list[str]:
    words = shlex.split(settings.migration)
    own = release / venv.FOLDER / "bin" / words[0]
    program = str(own) if "/" not in words[0] and own.exists() else (shutil.which(words[0]) or words[0])
    return [
        "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", f"--unit={_UNIT}",
        f"--property=RuntimeMaxSec={_SECONDS}", f"--property=WorkingDirectory={release}/.app",
        *(f"--property={line}" for line in sandbox(unit.read_text(encoding="utf-8"), release)),
        f"--property=EnvironmentFile={environment}",
        program, *words[1:],
    ]  # fmt: skip


def _failed(settings: Settings, reason: str, back: str) -> str:
    return (
        f"The migration of this release failed, {shlex.split(settings.migration)[0]} of giggles:app:migration: {reason}. Correct it in the "
        f"app or the pillar, then deploy again. The live release was left as it is; what the migration has done to the database so far "
        f"is there.{back}"
    )


def _known(layout: Layout) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(layout.migrated.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, dict)} if isinstance(found, dict) else {}
