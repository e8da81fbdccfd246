"""Owners and modes of packages' files that outlast the package's next version (dpkg-statoverride(1)).

An override may name a file that is not there yet: dpkg applies it when a package brings the file. So a compiler that is
installed later is restricted from its first second.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..command import ask
from .ownership import DATABASE


class OverrideError(Exception):
    """dpkg refused an override; one paragraph with the remedy."""


@dataclass(frozen=True)
class Override:
    """Who owns a file and who may do what with it.

    Arguments:
        user: the owner's name.
        group: the group's name.
        mode: four octal digits, e.g. `0750`.
    """

    user: str
    group: str
    mode: str

    def __str__(self) -> str:
        return f"{self.user}:{self.group} {self.mode}"


def registered(database: Path = DATABASE) -> dict[str, Override]:
    """Return dpkg's overrides by path.

    Arguments:
        database: dpkg's database.
    """
    result = {}
    try:
        lines = (database / "statoverride").read_text().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        fields = line.split(None, 3)
        if len(fields) == 4:
            user, group, mode, path = fields
            result[path] = Override(user, group, mode.zfill(4))
    return result


def differences(wanted: Mapping[str, Override], database: Path = DATABASE) -> dict[str, dict[str, str]]:
    """Say which overrides are missing or other, and which files do not follow theirs: old and new by path.

    Arguments:
        wanted: overrides by absolute path.
        database: dpkg's database.
    """
    have = registered(database)
    result: dict[str, dict[str, str]] = {}
    for path, override in wanted.items():
        if have.get(path) != override:
            result[path] = {"old": str(have.get(path, "no override")), "new": str(override)}
            continue
        current = _current(path)
        if current is not None and current != override:
            result[path] = {"old": str(current), "new": str(override)}
    return result


def establish(path: str, override: Override) -> None:
    """Register an override and apply it to the file, if that is there.

    Arguments:
        path: the file.
        override: what it should be.

    Raises:
        OverrideError: dpkg-statoverride failed.
    """
    command = [
        "dpkg-statoverride",
        "--force-statoverride-add",
        "--add",
        override.user,
        override.group,
        override.mode,
        path,
    ]
    code, said = ask(command)
    if code != 0:
        raise OverrideError(
            f"dpkg-statoverride could not register {override} for {path}: {said.strip() or 'no message'}. Look at "
            "`dpkg-statoverride --list` and whether another package command is running, then apply again."
        )
    file = Path(path)
    if os.path.lexists(path) and not file.is_symlink():
        os.chown(path, pwd.getpwnam(override.user).pw_uid, grp.getgrnam(override.group).gr_gid)
        file.chmod(int(override.mode, 8))


def _current(path: str) -> Override | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return Override(user, group, f"{stat.S_IMODE(found.st_mode):04o}")
