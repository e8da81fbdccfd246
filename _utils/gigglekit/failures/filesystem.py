"""Which file system a path lies on, and whether anything can still be written there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_LITTLE_BYTES = 64 * 1024**2
_LITTLE_FILES = 100
_LITTLE_SHARE = 0.05
"""What fits no more has been removed again by the time this looks, so that a full file system has a little room."""


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system, as root sees it.

    Attributes:
        mount: where it is mounted.
        size, free: bytes.
        files, free_files: how many files it can hold, and how many more; 0 of 0 if it knows no such limit.
        read_only: whether nothing can be changed on it.
    """

    mount: str
    size: int
    free: int
    files: int
    free_files: int
    read_only: bool

    @property
    def full(self) -> bool:
        """Whether hardly a byte is free."""
        return not self.read_only and self.size > 0 and self.free <= min(_LITTLE_BYTES, self.size * _LITTLE_SHARE)

    @property
    def out_of_files(self) -> bool:
        """Whether it can hold hardly a file more, though bytes may be free (inodes)."""
        return not self.read_only and self.files > 0 and self.free_files <= min(_LITTLE_FILES, self.files * _LITTLE_SHARE)

    @property
    def room(self) -> str:
        """Its mount point and what is free on it, in words."""
        if self.out_of_files and not self.full:
            return f"{self.mount} (room for {self.free_files} of {self.files} files, however small)"
        return f"{self.mount} ({_words(self.free)} of {_words(self.size)} free)"


def holding(path: str) -> FileSystem | None:
    """Return the file system that holds an absolute path, or would hold it if it were there.

    Returns:
        None if that cannot be told.
    """
    try:
        there = _nearest(Path(path))
        status = os.statvfs(there)
        # Not by the number of the device, which a mount of a folder shares with all that is around it.
        mounts = _mounts()
        mount = next((one for one in (there, *there.parents) if str(one) in mounts), Path("/"))
    except OSError:
        return None
    return FileSystem(
        mount=str(mount),
        size=status.f_blocks * status.f_frsize,
        free=status.f_bfree * status.f_frsize,
        files=status.f_files,
        free_files=status.f_ffree,
        read_only=bool(status.f_flag & os.ST_RDONLY),
    )


def _nearest(path: Path) -> Path:
    while not path.exists() and path.parent != path:
        path = path.parent
    return path.resolve()


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return {re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines}


def _words(size: int) -> str:
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size // 1024} KB"
