"""Which files of a folder belong to installed packages, read from dpkg's own lists.

`dpkg -S` takes about 40 ms for each question; reading the lists once answers for every folder.
Source: dpkg(1), /var/lib/dpkg/info/*.list; dpkg-divert(1) for /var/lib/dpkg/diversions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DATABASE = Path("/var/lib/dpkg")


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
    needles = tuple(b"\n" + prefix for prefix in prefixes)
    found: set[str] = set()
    lists = list((database / "info").glob("*.list"))
    if not lists:
        raise OwnershipError(
            f"{database}/info holds no package lists, so files of packages cannot be told from files made by "
            f"hand, and none "
            "was removed. Repair dpkg first (dpkg --audit; apt-get check)."
        )
    for path in lists:
        content = b"\n" + path.read_bytes()
        if any(needle in content for needle in needles):
            found.update(
                line.decode("utf-8", "surrogateescape") for line in content.splitlines() if line.startswith(prefixes)
            )
    diversions = database / "diversions"
    if diversions.exists():
        found.update(line for line in diversions.read_text().splitlines() if line.encode().startswith(prefixes))
    return frozenset(found)
