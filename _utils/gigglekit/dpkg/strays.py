"""Strays: files in a managed folder that neither a package brought nor this repository put there."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .ownership import DATABASE, owned_below


def find(folders: Mapping[str, Sequence[str]], database: Path = DATABASE) -> list[str]:
    """Return the strays of several folders, sorted.

    Arguments:
        folders: for each absolute folder the names that may be in it beside what packages brought; `*`, `?` and `[]`
            match as in the shell. A folder that does not exist has no strays.
        database: dpkg's database.

    Returns:
        Absolute paths, directly in one of the folders.

    Raises:
        OwnershipError: dpkg's lists cannot be read.
    """
    present: dict[str, list[str]] = {}
    for folder, known in folders.items():
        try:
            names = [entry.name for entry in Path(folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
        names = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known)]
        if names:
            present[folder] = names
    if not present:
        return []
    owned = owned_below(present, database)
    # dpkg lays a new version of a configuration file beside the one in use; run-parts and the *.d readers skip it.
    return sorted(
        path
        for folder, names in present.items()
        for path in (f"{folder}/{name}" for name in names)
        if path not in owned and not (path.endswith((".dpkg-dist", ".dpkg-new", ".dpkg-tmp")) and path.rpartition(".")[0] in owned)
    )


def remove(path: str) -> None:
    """Remove one stray: a file, a link (never what it points to) or a folder with what is in it.

    Arguments:
        path: from `find`.
    """
    stray = Path(path)
    if stray.is_dir() and not stray.is_symlink():
        shutil.rmtree(stray)
    else:
        stray.unlink(missing_ok=True)
