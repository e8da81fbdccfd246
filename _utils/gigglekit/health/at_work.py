"""What a converge does not run beside: the nightly job, the backup and its drill, an erasure, and a deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gigglekit.command import ask
from gigglekit.files.locking import is_locked

UNITS = ("giggles-nightly.service", "giggles-backup.service", "giggles-drill.service")
# The nightly job's own lock is none of these: the app can open it, and one that was taken over would keep the server from mending
# itself for good.
LOCKS: Mapping[Path, str] = {
    Path("/run/giggles/vault.lock"): "an erasure or other work on the vault",
    Path("/run/giggles/backup.lock"): "work on the backup",
    Path("/opt/giggles/release.lock"): "a release that is on its way",
}


def at_work(units: Sequence[str] = UNITS, locks: Mapping[Path, str] = LOCKS) -> list[str]:
    """Return what is at work now, in words; nothing if a converge may run.

    Arguments:
        units: services that run for a while and end.
        locks: files that are locked by whoever is at work.
    """
    _, shown = ask(["systemctl", "show", "--property=Id,ActiveState", *units], seconds=30)
    found = []
    for block in shown.split("\n\n"):
        told = dict(line.partition("=")[::2] for line in block.splitlines())
        if told.get("ActiveState") in ("active", "activating", "deactivating", "reloading"):
            found.append(told.get("Id", "a unit"))
    return found + [what for path, what in locks.items() if is_locked(path)]
