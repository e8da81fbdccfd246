"""Which files of a folder belong to installed packages, read from dpkg's own lists.

`dpkg -S` takes about 40 ms for each question; reading the lists once answers for every folder.
Source: dpkg(1), /var/lib/dpkg/info/*.list; dpkg-divert(1) for /var/lib/dpkg/diversions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

DATABASE = Path("/var/lib/dpkg")

# Every folder that is asked about so far lies below one of these; others would be found by reading the lists again.
_INDEXED = (b"/etc/", b"/var/spool/")


class OwnershipError(Exception):
    """dpkg's lists cannot be read, so that nobody can tell whose a file is; one paragraph with the remedy."""


def owned_below(folders: Iterable[str], database: Path = DATABASE) -> frozenset[str]:
    """Return every path directly or deeper below the given folders that an installed package brought.

    Arguments:
        folders: absolute folders, without a slash at the end.
        database: dpkg's database.

    Returns:
        Absolute paths, among them those a package's file was diverted to.

    Raises:
        OwnershipError: the database is not there or empty: then nothing may be concluded from an absent path.
    """
    prefixes = tuple(f"{folder}/".encode() for folder in folders)
    indexed = all(prefix.startswith(_INDEXED) for prefix in prefixes)
    try:
        # dpkg puts a new list in place by renaming it, which the folder's time tells.
        version = (database / "info").stat().st_mtime_ns
        lines = _lines(database, version, _INDEXED if indexed else prefixes)
    except FileNotFoundError:
        lines = ()
    if not lines:
        raise OwnershipError(
            f"{database}/info holds no package lists, so files of packages cannot be told from files made by hand, "
            "and none was removed. Repair dpkg first (dpkg --audit; apt-get check)."
        )
    found = {line.decode("utf-8", "surrogateescape") for line in lines if line.startswith(prefixes)}
    diversions = database / "diversions"
    if diversions.exists():
        found.update(line for line in diversions.read_text().splitlines() if line.encode().startswith(prefixes))
    return frozenset(found)


@functools.lru_cache(maxsize=4)
def _lines(database: Path, version: int, prefixes: tuple[bytes, ...]) -> tuple[bytes, ...]:  # noqa: ARG001
    """Return "/." and the lines of all package lists that begin with one of the prefixes; nothing without lists."""
    needles = tuple(b"\n" + prefix for prefix in prefixes)
    found: list[bytes] = []
    for path in (database / "info").glob("*.list"):
        found = found or [b"/."]
        content = b"\n" + path.read_bytes()
        if any(needle in content for needle in needles):
            found.extend(line for line in content.splitlines() if line.startswith(prefixes))
    return tuple(found)
