"""Clips that no row of the database names any more: found, and erased when it is plausible that nobody misses them.

The app deletes a clip's row and its file; where the file stays behind, nobody could ask for its erasure any more. But a
database that was just restored, or is the wrong one, knows little too: then nothing is erased.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files import overwriting
from gigglekit.vault.errors import RefusedError
from gigglekit.vault.places import Places, is_user_id
from gigglekit.vault.rows import Database

_FEW = 20
_SHARE = 0.2


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Arguments:
        clips: how many clips lie on the disk.
        rows: how many clips the database names.
        orphans: how many old clips no row names.
        size: their bytes.
        erased: how many of them were erased.
    """

    clips: int
    rows: int
    orphans: int
    size: int
    erased: int


def sweep(places: Places, database: Database, *, older_than_days: float, dry_run: bool, anyway: bool = False) -> Swept:
    """Erase the clips that no row names and that are old enough.

    Arguments:
        places: where clips lie.
        database: the app's.
        older_than_days: a younger clip may not have its row yet.
        dry_run: look only.
        anyway: even if there are implausibly many.

    Raises:
        RefusedError: the database names so few clips that it is more likely to be wrong than they are; nothing was erased.
        DatabaseError: it cannot be read; nothing was erased.
    """
    before = time.time() - older_than_days * 86400
    with places.locked():
        # The disk first: what is stored while this runs has its row when the database is asked.
        clips = list(_clips(places))
        rows = set(database.clip_paths())
        orphans = [(path, size) for path, size, written in clips if written < before and path not in rows]
        found = Swept(len(clips), len(rows), len(orphans), sum(size for _, size in orphans), 0)
        if orphans and not anyway and (not rows or (len(orphans) > _FEW and len(orphans) > _SHARE * len(clips))):
            raise RefusedError(
                f"The database names {len(rows)} clips and {len(clips)} lie on the disk, {len(orphans)} of them in no row. That many "
                "are more likely to be missing in the database (just restored? the wrong one?) than to be left over. Nothing was erased. "
                "If they are left over indeed: salt-call giggles.sweep anyway=True"
            )
        if dry_run:
            return found
        erased = sum(_erase(Path(path)) for path, _ in orphans)
    return Swept(found.clips, found.rows, found.orphans, found.size, erased)


def _clips(places: Places) -> Iterator[tuple[str, int, float]]:
    """Yield path (as the app has it in the database), size and time of each clip."""
    above = places.uploads / "clips"
    with os.scandir(above) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        folder = above / name
        if is_user_id(name):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
                for file in files:
                    status = file.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and not file.name.startswith("."):
                        yield f"{folder}/{file.name}", status.st_size, status.st_mtime
        elif name.endswith(".wav"):
            status = folder.lstat()
            if stat.S_ISREG(status.st_mode):
                yield str(folder), status.st_size, status.st_mtime


def _erase(path: Path) -> bool:
    # Its user's key lives on, so the file's own bytes have to go.
    try:
        overwriting.erase(path)
    except (FileNotFoundError, overwriting.SharedFileError):
        return False
    return True
