"""Who has files below a folder open, as /proc tells it: by descriptor, mapping, working directory or root."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """A process that has something open.

    Arguments:
        pid: its number.
        command: its name, as the kernel has it (at most 15 characters); its arguments may hold secrets and are left out.
        service: the systemd service it belongs to, "" if none.
    """

    pid: int
    command: str
    service: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid}{f', {self.service}' if self.service else ''})"


def of_path(fragment: str, processes: Path = Path("/proc")) -> list[Holder]:
    """Return the processes that have something open whose path holds `fragment`, deleted files included.

    Arguments:
        fragment: a part of a path that nothing else has, for example `/vaults/<vault id>`.
        processes: the proc file system.
    """
    found: list[Holder] = []
    for process in processes.iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid() and _holds(process, fragment):
            found.append(Holder(int(process.name), _command(process), _service(process)))
    return sorted(found, key=lambda holder: holder.pid)


def _holds(process: Path, fragment: str) -> bool:
    try:
        descriptors = [process / "fd" / name for name in os.listdir(process / "fd")]
    except OSError:
        return False
    for link in (*descriptors, process / "cwd", process / "root"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if fragment in target:
            return True
    try:
        # A file may be mapped and its descriptor closed.
        return fragment.encode() in (process / "maps").read_bytes()
    except OSError:
        return False


def _command(process: Path) -> str:
    try:
        return re.sub(r"[^ -~]", "?", (process / "comm").read_text(errors="replace").strip()) or "?"
    except OSError:
        return "?"


def _service(process: Path) -> str:
    try:
        groups = (process / "cgroup").read_text()
    except OSError:
        return ""
    match = re.search(r"/([A-Za-z0-9@:_.-]+\.service)(?:/|$)", groups, re.MULTILINE)
    return match[1] if match else ""
