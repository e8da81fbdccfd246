"""How everything that decides about logins was at one moment, and putting it back."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files.replacing import replace, rewrite
from . import accounts

PLACES = (
    "etc/ssh",
    "etc/default/ssh",
    "etc/pam.d/sshd",
    "etc/sudoers",
    "etc/sudoers.d",
    "etc/ufw",
    "etc/default/ufw",
    "var/lib/giggles/firewall.json",
    "root/.ssh",
)
ALONE = "/."
"""How a place ends that stands for the folder itself, its owner and mode, and for nothing in it."""
MARKS = {"etc/ssh": "etc/ssh/sshd_config", "etc/ufw": "etc/ufw/ufw.conf"}
"""What tells that a place is in use: other packages put a file of theirs into some before their owner is installed."""
_TOO_LARGE = 256 * 1024
"""Bytes. Only /etc/ssh/moduli is larger, which decides about nobody."""


@dataclass(frozen=True)
class Entry:
    """One file, folder or link.

    Arguments:
        kind: `file`, `folder` or `link`.
        mode: permission bits.
        owner: numeric owner.
        group: numeric group.
        content: what a file holds (base64), where a link points to, empty for a folder.
    """

    kind: str
    mode: int
    owner: int
    group: int
    content: str


@dataclass
class Snapshot:
    """Files at one moment.

    Arguments:
        entries: what was there, by path without the leading slash.
        places: the trees that were looked at, with whether they were in use.
        accounts: content of the account files.
    """

    entries: dict[str, Entry]
    places: dict[str, bool]
    accounts: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the snapshot as plain data."""
        return {
            "entries": {path: asdict(entry) for path, entry in self.entries.items()},
            "places": self.places,
            "accounts": self.accounts,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Snapshot:
        """Read what `to_json` returned."""
        entries = {path: Entry(**fields) for path, fields in data["entries"].items()}
        return cls(entries, dict(data["places"]), dict(data["accounts"]))


def take(root: Path, places: Iterable[str] = PLACES) -> Snapshot:
    """Read `places` and the account files.

    Arguments:
        root: where the file system begins.
        places: files and folders, without the leading slash; a folder is read with everything in it, unless the place
            ends with `ALONE`.
    """
    entries: dict[str, Entry] = {}
    looked = {}
    for tree in places:
        looked[tree] = os.path.lexists(root / MARKS.get(tree, tree))
        if tree.endswith(ALONE):
            if (root / tree).is_dir() and not Path(root, tree).is_symlink():
                _read(root, root / tree, entries, deep=False)
        elif os.path.lexists(root / tree):
            _read(root, root / tree, entries)
    texts = {}
    for file in accounts.FILES:
        with contextlib.suppress(FileNotFoundError):
            texts[file] = (root / file).read_text()
    return Snapshot(entries, looked, texts)


def _read(root: Path, path: Path, entries: dict[str, Entry], deep: bool = True) -> None:
    status = path.lstat()
    kind, content = "", ""
    if stat.S_ISDIR(status.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(status.st_mode):
        kind, content = "link", str(path.readlink())
    elif stat.S_ISREG(status.st_mode) and status.st_size <= _TOO_LARGE:
        kind, content = "file", base64.b64encode(path.read_bytes()).decode()
    if kind:
        name = str(path.relative_to(root))
        entries[name] = Entry(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content)
    if kind == "folder" and deep:
        for child in sorted(path.iterdir()):
            _read(root, child, entries)


def restore(snapshot: Snapshot, root: Path) -> list[str]:
    """Put everything back that differs from `snapshot`.

    What is new in a place that was in use is removed. In one that was not, it is left (a package brought it), and
    so are accounts that were created since.

    Returns:
        The paths that were changed back, with their leading slash.
    """
    now = take(root, snapshot.places)
    changed = []
    for path in sorted(now.entries, reverse=True):
        tree = next((tree for tree in snapshot.places if path == tree or path.startswith(f"{tree}/")), None)
        earlier = snapshot.entries.get(path)
        # What belongs to no place with its content is a folder noted alone, which holds what nobody noted.
        if tree is None or not snapshot.places[tree] or (earlier and earlier.kind == now.entries[path].kind):
            continue
        target = root / path
        if now.entries[path].kind == "folder":
            shutil.rmtree(target)
        else:
            target.unlink()
        changed.append(path)
    for path, entry in sorted(snapshot.entries.items()):
        if now.entries.get(path) != entry:
            _write(root / path, entry)
            changed.append(path)
    with accounts.locked(root):
        for file, text in snapshot.accounts.items():
            current = (root / file).read_text() if (root / file).exists() else ""
            merged = accounts.merge(text, current)
            if merged != current:
                rewrite(root / file, merged.encode())
                changed.append(file)
    return sorted({f"/{path}" for path in changed})


def _write(path: Path, entry: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "folder":
        path.mkdir(exist_ok=True)
    elif entry.kind == "link":
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        path.symlink_to(entry.content)
        os.chown(path, entry.owner, entry.group, follow_symlinks=False)
        return
    else:
        replace(path, base64.b64decode(entry.content), entry.mode, (entry.owner, entry.group))
        return
    os.chown(path, entry.owner, entry.group)
    path.chmod(entry.mode)
