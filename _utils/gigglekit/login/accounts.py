"""The account files of /etc, as lists of entries: kept exact, and put back entry by entry."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.replacing import rewrite
from .keys import read

FILES = ("etc/passwd", "etc/shadow", "etc/group", "etc/gshadow")
KEY_FILES = (".ssh/authorized_keys", ".ssh/authorized_keys2")
LOCKED = "!"


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
            By kind: `superusers removed`, `passwords locked`, `groups`, `keys removed` (with what the lines hold).
            Empty when all is right.
        """
        found: dict[str, Any] = {}
        strangers = self._other_superusers()
        if strangers:
            found["superusers removed"] = strangers
        barred = self._to_lock(admin, admin_password=admin_password)
        if barred := [name for name in barred if name not in strangers]:
            found["passwords locked"] = barred
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
        if stray := self._stray_keys(admin):
            found["keys removed"] = {str(Path("/") / path.relative_to(self.root)): _describe(path) for path in stray}
        return found

    def bring(self, admin: str, groups: Mapping[str, list[str]], *, admin_password: bool) -> None:
        """Make the accounts as `differences` says they should be."""
        with locked(self.root):
            strangers = set(self._other_superusers())
            barred = set(self._to_lock(admin, admin_password=admin_password))
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
                    if file == "etc/shadow" and fields[0] in barred:
                        fields[1] = LOCKED + fields[1].lstrip(LOCKED)
                    elif file in ("etc/group", "etc/gshadow"):
                        members = groups.get(fields[0], [name for name in fields[3].split(",") if name])
                        fields[3] = ",".join(name for name in members if name not in strangers)
                    lines.append(":".join(fields))
                content = "".join(f"{line}\n" for line in lines)
                if content != before:
                    rewrite(self.root / file, content.encode())
        for path in stray:
            path.unlink(missing_ok=True)

    def home(self, name: str) -> Path | None:
        """Return the home folder of an account, or None when there is no such account."""
        fields = self._entries("etc/passwd").get(name)
        return self.root / fields[5].lstrip("/") if fields and fields[5] else None

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
        return [path for path in found if home is None or path != home / KEY_FILES[0]]


def _describe(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
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
