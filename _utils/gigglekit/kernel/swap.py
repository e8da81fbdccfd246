"""A swap file of an exact size, built, resized and enabled so that whatever fails leaves the swap there was."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..command import ask

PROC_SWAPS = Path("/proc/swaps")
RESERVE_BYTES = 1024**3
"""What must stay free on the disk beside the swap file: a full disk is worse than little swap."""

_SIGNATURE = b"SWAPSPACE2"
_SIGNATURE_END = 4096
_MIB = 1024**2

Runner = Callable[[Sequence[str]], None]


class SwapError(Exception):
    """The swap file could not be made, enabled or disabled; one paragraph with the remedy."""


@dataclass(frozen=True)
class SwapFile:
    """A swap file as it is.

    Arguments:
        path: where it lies.
        size_bytes: its size; 0 when there is none.
        private: whether it is root's, mode 0600.
        formatted: whether it carries a swap signature.
        active: whether the kernel swaps to it.
    """

    path: Path
    size_bytes: int
    private: bool
    formatted: bool
    active: bool


def inspect(path: Path, *, swaps: Path = PROC_SWAPS) -> SwapFile:
    """Look at a swap file without changing anything.

    Arguments:
        path: where it should lie.
        swaps: the kernel's list of active swaps.

    Raises:
        SwapError: something that is no regular file lies there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return SwapFile(path, 0, False, False, False)
    if not stat.S_ISREG(found.st_mode):
        raise SwapError(
            f"{path} exists and is not a regular file, so it was left alone and no swap was made. Look what it "
            "is, move it away, and apply again."
        )
    with path.open("rb") as handle:
        formatted = handle.read(_SIGNATURE_END)[-len(_SIGNATURE) :] == _SIGNATURE
    private = stat.S_IMODE(found.st_mode) == 0o600 and found.st_uid == 0 and found.st_gid == 0
    return SwapFile(path, found.st_size, private, formatted, str(path) in _active(swaps))


def differences(current: SwapFile, size_bytes: int) -> dict[str, dict[str, object]]:
    """Say in which ways a swap file is not the wanted one: old and new by property, empty when nothing is to be done.

    Arguments:
        current: the file as it is.
        size_bytes: the wanted size.
    """
    result: dict[str, dict[str, object]] = {}
    if current.size_bytes != size_bytes:
        result["size_mb"] = {"old": current.size_bytes // _MIB, "new": size_bytes // _MIB}
    if current.size_bytes and not current.private:
        result["mode"] = {"old": "not root's alone", "new": "root:root 0600"}
    if current.size_bytes and not current.formatted:
        result["signature"] = {"old": "missing", "new": "swap"}
    if not current.active:
        result["active"] = {"old": False, "new": True}
    return result


def establish(current: SwapFile, size_bytes: int, *, run: Runner | None = None, free_bytes: int | None = None) -> None:
    """Make the swap file what it should be.

    A new size is built completely beside the old file; then the old one is disabled, replaced and the new one enabled. The
    kernel lets nobody rename a file that it swaps to, so there are some milliseconds without swap in between. If memory
    does not hold what was swapped out, the kernel refuses to disable the old file, and nothing has changed.

    Arguments:
        current: the file as it is, from `inspect`.
        size_bytes: the wanted size.
        run: runs a command, raising SwapError when it fails; for tests.
        free_bytes: free space on its disk; asked of the disk by default.

    Raises:
        SwapError: the disk is too full, or a step failed.
    """
    run = run or _run
    path = current.path
    if current.size_bytes == size_bytes and current.formatted:
        os.chown(path, 0, 0)
        path.chmod(0o600)
        if not current.active:
            run(["swapon", str(path)])
        return

    free = free_bytes if free_bytes is not None else _free(path.parent)
    if free < size_bytes + RESERVE_BYTES:
        raise SwapError(
            f"A swap file of {size_bytes // _MIB} MB does not fit: {path.parent} has {free // _MIB} MB free, and "
            f"{RESERVE_BYTES // _MIB} MB must stay free beside it (a file that changes size is built next "
            "to the old one). Nothing was changed. Free space (`du -xh / | sort -h | tail` shows what is large), choose a smaller "
            "hardening.swap_mb, or take a larger disk."
        )
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    try:
        _allocate(new, size_bytes)
        run(["mkswap", str(new)])
        if current.active:
            run(["swapoff", str(path)])
    except (OSError, SwapError) as error:
        new.unlink(missing_ok=True)
        if isinstance(error, SwapError):
            raise
        raise SwapError(
            f"{new} could not be written: {error.strerror}. The swap that was there is untouched. Check the disk "
            "(df, dmesg) and apply again."
        ) from error
    new.replace(path)
    run(["swapon", str(path)])


def remove(current: SwapFile, *, run: Runner | None = None) -> None:
    """Disable and delete a swap file.

    Arguments:
        current: the file as it is, from `inspect`.
        run: runs a command, raising SwapError when it fails; for tests.

    Raises:
        SwapError: its pages do not fit into memory.
    """
    if current.active:
        (run or _run)(["swapoff", str(current.path)])
    current.path.unlink(missing_ok=True)


def _allocate(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _active(swaps: Path) -> set[str]:
    try:
        lines = swaps.read_text().splitlines()[1:]
    except FileNotFoundError:
        return set()
    # The kernel writes blanks in a path as octal \040 (proc(5)).
    return {line.split()[0].encode().decode("unicode_escape") for line in lines if line.strip()}


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _run(command: Sequence[str]) -> None:
    code, said = ask(command, seconds=300)
    if code != 0:
        raise SwapError(
            f"{' '.join(command)} ended with exit code {code}: {said.strip() or 'no message'}. The swap in "
            "use before is still in use. For swapoff the reason is nearly always too little free memory: stop "
            "what uses it "
            "(systemctl status giggles-nightly) and apply again."
        )
