"""PostgreSQL's own programs on this machine, which one is used, and of what version it is.

Debian and Ubuntu keep each version in a folder of its own, and put a wrapper before them that chooses by local servers. What is
chosen here is chosen by version: pg_dump refuses a server newer than itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from gigglekit.backup.errors import BackupError
from gigglekit.command import SYSTEM_PATH, CommandTimeoutError, run

FOLDERS = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu have each version, by its number."""

_SECONDS = 20.0
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class DatabaseError(BackupError):
    """The database could not be asked, or refused, or what it takes is not on this machine.

    Arguments:
        text: what an operator reads. Names in it may be chosen by who rules the database, and a terminal obeys some characters.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(character if character.isprintable() else "?" for character in text))


def program(name: str, chosen: str = "", least: int = 0) -> Path:
    """Return which program is used.

    Arguments:
        name: `pg_dump`, `pg_restore`, `psql`, `initdb` or `postgres`.
        chosen: its path as the settings have it; "" for the newest on this machine.
        least: the version that is needed.

    Raises:
        DatabaseError: there is none, or none that is new enough.
    """
    there = Path(chosen).resolve() if chosen else None
    if there is not None and there.name != "pg_wrapper":
        if not os.access(there, os.X_OK):
            raise DatabaseError(
                f"giggles:backup:database:pg_dump names {chosen}, and there is no program that can be run. Correct it, or leave it out "
                "to have the newest of this machine used."
            )
        if not least or version(there) >= least:
            return there
        raise DatabaseError(_too_old(there.name, version(there), least))
    found = sorted(
        ((int(folder.name), folder / "bin" / name) for folder in FOLDERS.glob("[0-9]*") if folder.name.isdecimal()), reverse=True
    )
    usable = [(number, path) for number, path in found if os.access(path, os.X_OK)]
    if not usable:
        package = "postgresql" if name in ("initdb", "postgres") else "postgresql-client"
        raise DatabaseError(f"{name} is not on this machine. Install it: apt-get install --no-install-recommends {package}.")
    newest, path = usable[0]
    if newest < least:
        raise DatabaseError(_too_old(name, newest, least))
    return path


def pg_restore_beside(pg_dump: str) -> str:
    """Return the pg_restore beside the pg_dump that was chosen, "" for the newest of this machine, if that is as new.

    What a pg_dump has written, no older pg_restore reads; a newer one reads all.

    Arguments:
        pg_dump: its path as the settings have it, or "".

    Raises:
        DatabaseError: it does not say of which version it is.
    """
    path = Path(pg_dump).with_name("pg_restore") if pg_dump else None
    if path is None or not os.access(path, os.X_OK):
        return ""
    wanted = version(path)
    try:
        program("pg_restore", least=wanted)
    except DatabaseError:
        return str(path)
    return ""


def version(path: Path) -> int:
    """Return the major version of one of PostgreSQL's programs.

    Raises:
        DatabaseError: it does not say.
    """
    try:
        answer = run([str(path), "--version"], seconds=_SECONDS, environment={"PATH": SYSTEM_PATH}).output
    except (OSError, CommandTimeoutError) as error:
        raise DatabaseError(f"{path} cannot be run ({type(error).__name__}). Install PostgreSQL's client anew.") from error
    match = _VERSION.search(answer)
    if match is None:
        raise DatabaseError(f"{path} does not say which version of PostgreSQL it is from. Name another at giggles:backup:database:pg_dump.")
    return int(match[1])


def _too_old(name: str, found: int, least: int) -> str:
    package = "postgresql" if name in ("initdb", "postgres") else "postgresql-client"
    return (
        f"The database runs PostgreSQL {least}, and {name} on this machine is of version {found}, which does not work with a newer one. "
        f"Install {package}-{least} (from apt.postgresql.org, if this system does not have it); if it lies elsewhere than in {FOLDERS}, "
        "name its pg_dump at giggles:backup:database:pg_dump."
    )
