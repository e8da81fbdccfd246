"""The account files of /etc, as lists of entries: kept exact, and put back entry by entry."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.replacing import rewrite
from .keys import read

FILES = ("etc/passwd", "etc/shadow", "etc/group", "etc/gshadow")
KEY_FILES = (".ssh/authorized_keys", ".ssh/authorized_keys2")
LOCKED = "!"
_NOGROUP = "65534"
_LARGEST = 64 * 1024
"""Bytes of a stray key file that are described; nobody has more keys than that."""


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep useradd and its relatives away from the account files for the duration of the block (lckpwdf(3))."""
    descriptor = os.open(root / "etc/.pwd.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def merge(earlier: str, now: str) -> str:
    """Put back the entries of `earlier`, keeping those of `now` that were not there at the time.

    Whoever was created meanwhile owns files already, so must stay; everybody else is as before.

    Arguments:
        earlier: content of an account file.
        now: content of the same file later.
    """
    entries = {line.split(":", 1)[0]: line for line in now.splitlines() if line}
    entries.update({line.split(":", 1)[0]: line for line in earlier.splitlines() if line})
    order = [line.split(":", 1)[0] for line in (earlier + "\n" + now).splitlines() if line]
    return "".join(entries[name] + "\n" for name in dict.fromkeys(order))


@dataclass
class Accounts:
    """The accounts of one machine.

    Arguments:
        root: where its file system begins.
    """

    root: Path = field(default_factory=lambda: Path("/"))

    def differences(self, admin: str, groups: Mapping[str, list[str]], *, admin_password: bool) -> dict[str, Any]:
        """Say what is not as it should be.

        Arguments:
            admin: the administrator's name.
            groups: the exact members that some groups must have; a group that does not exist is left out.
            admin_password: whether the administrator may have a password (for sudo).

        Returns:
            By kind: `superusers removed`, `passwords locked`, `expired accounts revived`, `groups`, `primary groups`,
            `keys removed` (with what the lines hold). Empty when all is right.
        """
        found: dict[str, Any] = {}
        strangers = self._other_superusers()
        if strangers:
            found["superusers removed"] = strangers
        barred = self._to_lock(admin, admin_password=admin_password)
        if barred := [name for name in barred if name not in strangers]:
            found["passwords locked"] = barred
        if expired := self._to_revive(admin, admin_password=admin_password):
            found["expired accounts revived"] = expired
        members: dict[str, Any] = {}
        present = self._entries("etc/group")
        for group, wanted in groups.items():
            if group not in present:
                continue
            current = [name for name in present[group][3].split(",") if name]
            change = {
                "added": [name for name in wanted if name not in current],
                "removed": [name for name in current if name not in wanted],
            }
            if change["added"] or change["removed"]:
                members[group] = {key: names for key, names in change.items() if names}
        if members:
            found["groups"] = members
        if primary := self._powerful_primary_groups(groups):
            found["primary groups"] = {name: {"old": old, "new": new} for name, (old, new, _) in primary.items()}
        if stray := self._stray_keys(admin):
            found["keys removed"] = {str(Path("/") / path.relative_to(self.root)): _describe(path) for path in stray}
        return found

    def bring(self, admin: str, groups: Mapping[str, list[str]], *, admin_password: bool) -> None:
        """Make the accounts as `differences` says they should be."""
        with locked(self.root):
            strangers = set(self._other_superusers())
            barred = set(self._to_lock(admin, admin_password=admin_password))
            expired = set(self._to_revive(admin, admin_password=admin_password))
            primary = self._powerful_primary_groups(groups)
            stray = self._stray_keys(admin)
            for file in FILES:
                if not (self.root / file).exists():
                    continue
                before = (self.root / file).read_text()
                lines = []
                for line in before.splitlines():
                    fields = line.split(":")
                    if file in ("etc/passwd", "etc/shadow") and fields[0] in strangers:
                        continue
                    if file == "etc/shadow":
                        if fields[0] in barred:
                            fields[1] = LOCKED + fields[1].lstrip(LOCKED)
                        if fields[0] in expired:
                            fields[2:8] = [str(_today()), fields[3], "99999", fields[5], "", ""]
                    elif file == "etc/passwd" and fields[0] in primary:
                        fields[3] = primary[fields[0]][2]
                    elif file in ("etc/group", "etc/gshadow"):
                        members = groups.get(fields[0], [name for name in fields[3].split(",") if name])
                        fields[3] = ",".join(name for name in members if name not in strangers)
                    lines.append(":".join(fields))
                content = "".join(f"{line}\n" for line in lines)
                if content != before:
                    rewrite(self.root / file, content.encode())
        for path in stray:
            _remove(path)

    def home(self, name: str) -> Path | None:
        """Return the home folder of an account, or None when there is no such account."""
        fields = self._entries("etc/passwd").get(name)
        return self.root / fields[5].lstrip("/") if fields and fields[5] else None

    def has_password(self, name: str) -> bool:
        """Tell whether there is such an account, and sudo could ask it for a password."""
        fields = self._entries("etc/shadow").get(name)
        return fields is not None and fields[1] != "" and not fields[1].startswith(("!", "*"))

    def homes(self, group: str) -> list[Path]:
        """Return the home folders of the members of a group; none where there is no such group."""
        fields = self._entries("etc/group").get(group, ["", "", "", ""])
        found = (self.home(name) for name in fields[3].split(",") if name)
        return [home for home in found if home is not None]

    def _entries(self, file: str) -> dict[str, list[str]]:
        try:
            text = (self.root / file).read_text()
        except FileNotFoundError:
            return {}
        return {fields[0]: fields for fields in (line.split(":") for line in text.splitlines()) if len(fields) > 3}

    def _other_superusers(self) -> list[str]:
        entries = self._entries("etc/passwd")
        return [name for name, fields in entries.items() if fields[2] == "0" and name != "root"]

    def _to_lock(self, admin: str, *, admin_password: bool) -> list[str]:
        names = []
        for name, fields in self._entries("etc/shadow").items():
            never = name == "root" or (name == admin and not admin_password)
            if fields[1] == "" or (never and not fields[1].startswith(("!", "*"))):
                names.append(name)
        return names

    def _to_revive(self, admin: str, *, admin_password: bool) -> list[str]:
        """Return the accounts without a password that PAM refuses (or will) for their age, as it does root's cron jobs.

        A password that must be changed (`lastchg` 0, as in a droplet that was created with one), one that is too old, or
        an account with a last day: shadow(5), pam_unix(8).
        """
        names = []
        for name, fields in self._entries("etc/shadow").items():
            if len(fields) < 8 or not (name == "root" or (name == admin and not admin_password)):
                continue
            changed, longest, last_day = fields[2], fields[4], fields[7]
            too_old = changed.isdigit() and longest.isdigit() and int(changed) + int(longest) < _today()
            if changed == "0" or too_old or last_day not in ("", "-1"):
                names.append(name)
        return names

    def _powerful_primary_groups(self, groups: Mapping[str, list[str]]) -> dict[str, tuple[str, str, str]]:
        """Return who has one of `groups` as primary group without being wanted there: old group, new group, its number.

        The new one is the group of the account's own name, or nogroup. An account may have the group of its name.
        """
        present = self._entries("etc/group")
        powerful = {present[group][2]: group for group in groups if group in present}
        found = {}
        for name, fields in self._entries("etc/passwd").items():
            group = powerful.get(fields[3])
            if group is None or name in (group, *groups[group]) or fields[2] == "0":
                continue
            own = name if name in present else "nogroup"
            found[name] = (group, own, present[name][2] if name in present else _NOGROUP)
        return found

    def _stray_keys(self, admin: str) -> list[Path]:
        found: dict[Path, None] = {}
        for name, fields in self._entries("etc/passwd").items():
            home = self.root / fields[5].lstrip("/") if len(fields) > 5 and fields[5] else None
            if home is None:
                continue
            for file in KEY_FILES:
                path = home / file
                wanted = name == admin and file == KEY_FILES[0]
                if not wanted and os.path.lexists(path):
                    found[path] = None
        home = self.home(admin)
        if home is None:
            return list(found)
        # By another name, too: somebody's home or .ssh may be a link to the administrator's.
        kept = home.resolve() / KEY_FILES[0]
        return [path for path in found if path.parent.resolve() / path.name not in (kept, kept.parent.resolve() / kept.name)]


def _today() -> int:
    """Return the number of days since 1970, as shadow(5) counts."""
    return int(time.time() // 86400)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _describe(path: Path) -> list[str]:
    try:
        # A pipe would keep its reader waiting for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            return ["(not a readable file)"]
        with path.open(errors="replace") as file:
            lines = file.read(_LARGEST).splitlines()
    except OSError:
        return ["(not a readable file)"]
    described = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            try:
                key = read(line)
                described.append(f"{key.kind} {key.fingerprint} {key.comment}".strip())
            except ValueError:
                described.append("(not a key)")
    return described or ["(empty)"]
