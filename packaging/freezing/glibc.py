"""Which C library a bundle needs: it runs on no older one."""

from __future__ import annotations

import re
from pathlib import Path

_NEEDED = re.compile(rb"\0GLIBC_(\d+)\.(\d+)")


def newest(folder: Path) -> str:
    """Return the newest version of glibc that a program or library in a folder asks for, e.g. 2.36; "" if none asks.

    Arguments:
        folder: everything below it is looked at.

    Source: the names of versions that a file needs stand in its table of strings (Symbol Versioning, LSB Core 5.0).
    """
    found = {(0, 0)}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                found |= {(int(major), int(minor)) for major, minor in _NEEDED.findall(file.read())}
    major, minor = max(found)
    return f"{major}.{minor}" if major else ""
