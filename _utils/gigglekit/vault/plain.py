"""Where the kernel cannot encrypt folders: the user's files lie as they are, and are erased by overwriting them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gigglekit.files import draining, overwriting
from gigglekit.files.emptying import empty
from gigglekit.vault import adopt
from gigglekit.vault.places import KINDS, Places


def folders(places: Places, user_id: str) -> Iterator[Path]:
    """Yield the user's folders below the upload folder that are folders, not links."""
    for kind in KINDS:
        folder = places.uploads / kind / user_id
        if folder.is_dir() and not folder.is_symlink():
            yield folder


def shared_files(places: Places, user_id: str) -> list[str]:
    """Return the paths of the user's files that have a second name."""
    found = []
    for folder in folders(places, user_id):
        for place, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(place, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                    found.append(path)
    return found


def block(places: Places, user_id: str, vault_id: str) -> dict[str, Any]:
    """Overwrite and remove all of a user's files, and leave links that lead nowhere, so that no new ones can be made.

    Returns:
        `files` and `bytes`: how much was overwritten.
    """
    files = size = 0
    for kind in KINDS:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(places.uploads / kind, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                gone = adopt.block(descriptor, kind, user_id, vault_id, by=overwrite)
            finally:
                os.close(descriptor)
            files, size = files + gone.files, size + gone.size
    return {"files": files, "bytes": size}


def overwrite(folder: int) -> draining.Drained:
    """Overwrite and unlink everything below an open folder; return how much it was."""
    gone = draining.Drained()

    def erase(place: int, name: str) -> None:
        gone.size += overwriting.erase_in(place, name)
        gone.files += 1

    empty(folder, erase)
    os.fsync(folder)
    return gone
