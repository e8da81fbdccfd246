"""Options of file systems that are mounted, read from /proc/self/mounts and put right by remounting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..command import ask

PROC_MOUNTS = Path("/proc/self/mounts")

Runner = Callable[[Sequence[str]], None]


class MountError(Exception):
    """A file system is not mounted or could not be remounted; one paragraph with the remedy."""


def missing(place: str, options: Iterable[str], *, mounts: Path = PROC_MOUNTS) -> list[str]:
    """Return the options that a mounted file system lacks.

    Arguments:
        place: where it is mounted.
        options: the options it should have, e.g. `noexec`.
        mounts: the kernel's list.

    Raises:
        MountError: nothing is mounted there.
    """
    current: set[str] | None = None
    for line in mounts.read_text().splitlines():
        fields = line.split()
        # Of several mounts on one place the last one is on top.
        if fields[1] == place:
            current = set(fields[3].split(","))
    if current is None:
        raise MountError(
            f"Nothing is mounted on {place}, so its options could not be set. Mount it (`mount {place}`, its line "
            "is in /etc/fstab) and apply again."
        )
    return [option for option in options if option not in current]


def remount(place: str, options: Sequence[str], *, run: Runner | None = None) -> None:
    """Give a mounted file system further options; what is open on it stays open.

    Arguments:
        place: where it is mounted.
        options: the options to add.
        run: runs a command, raising MountError when it fails; for tests.

    Raises:
        MountError: the kernel refused.
    """
    (run or _run)(["mount", "-o", ",".join(["remount", *options]), place])


def _run(command: Sequence[str]) -> None:
    code, said = ask(command)
    if code != 0:
        raise MountError(
            f"`{' '.join(command)}` ended with exit code {code}: {said.strip() or 'no message'}. The options are in /etc/fstab "
            "and hold after the next restart."
        )
