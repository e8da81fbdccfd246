"""Control groups that keep the machines apart and give each the memory of a small droplet."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_VERSION_1 = ("memory", "cpu", "cpuacct", "pids", "blkio", "devices", "systemd", "unified")
_PARENT = "giggles-trial"


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [_ROOT / name for name in _VERSION_1 if (_ROOT / name).is_dir()]


def groups(machine: str) -> list[Path]:
    """Return the machine's group in every hierarchy of this host."""
    return [hierarchy / _PARENT / machine for hierarchy in _hierarchies()]


def make(machine: str, memory_bytes: int) -> list[Path]:
    """Make the machine's groups and limit its memory.

    Where the host does not hand out its memory controller (version 2 without delegation), the limit is left out.

    Arguments:
        machine: the machine's name.
        memory_bytes: its memory; past it the kernel kills inside the machine only.

    Returns:
        The groups, for the first process of the machine to enter.
    """
    result = groups(machine)
    for group in result:
        group.mkdir(parents=True, exist_ok=True)
        for limit in ("memory.limit_in_bytes", "memory.max"):
            if (group / limit).exists():
                (group / limit).write_text(str(memory_bytes))
    return result


def remove(machine: str) -> None:
    """Remove the machine's groups, and the common parent with the last machine; call it when no process is left."""
    for group in groups(machine):
        for folder, _, _ in os.walk(group, topdown=False):
            _remove_if_empty(Path(folder))
        _remove_if_empty(group.parent)


def _remove_if_empty(group: Path) -> None:
    # Still in use by another machine, or gone already: both are what the caller wants to hear nothing of.
    with contextlib.suppress(OSError):
        group.rmdir()


def beside(process: int) -> list[Path]:
    """Return groups for a visitor to the machine whose first process is `process`: inside it, but outside its services.

    Arguments:
        process: the machine's first process, as this host counts.
    """
    result: list[Path] = []
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=") or "unified"
        hierarchy = _ROOT if (_ROOT / "cgroup.controllers").exists() else _ROOT / name
        group = hierarchy / path.lstrip("/")
        if not path.startswith(f"/{_PARENT}/") or not group.is_dir():
            continue
        if group.name == "init.scope":
            group = group.parent / "visitors.scope"
            group.mkdir(exist_ok=True)
        result.append(group)
    return result
