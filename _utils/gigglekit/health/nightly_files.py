"""How many recordings wait below the app's upload folder, and how many clips a run wrote there.

The app owns most of what is walked here, so no link is followed. A volume that is locked shows names that nobody can read, and
so neither clips nor recordings.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gigglekit.files.walking import Found, walk

UPLOADS = Path("/var/lib/giggles/uploads")
_SECONDS = 8.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clips_since(uploads: Path, began: float) -> int | None:
    """Return how many clips were written since then; None if nobody can say, or not in a few seconds.

    Arguments:
        uploads: the app's upload folder.
        began: seconds since the epoch.
    """
    return _count(uploads, "clips", lambda found: found.path.endswith(".wav") and found.status.st_mtime >= began)


def recordings_before(uploads: Path, moment: float) -> int | None:
    """Return how many recordings there are that were written before then; None as above."""
    return _count(uploads, "audio", lambda found: found.path.endswith(".ogg") and found.status.st_mtime < moment)


def _count(uploads: Path, kind: str, counts: Callable[[Found], bool]) -> int | None:
    end = time.monotonic() + _SECONDS
    # While a folder is adopted, what is in it lies in the user's vault as well, with the same name and time.
    seen: set[tuple[str, int, int]] = set()
    try:
        with _folder(uploads) as root:
            for place in (kind, "vaults"):
                with contextlib.suppress(FileNotFoundError), _folder(place, root) as folder:
                    for found in walk(folder):
                        if time.monotonic() > end:
                            return None
                        if (place == kind or found.path.split("/")[1:2] == [kind]) and counts(found):
                            seen.add((found.path.rpartition("/")[2], found.status.st_size, found.status.st_mtime_ns))
    except OSError:
        return None
    return len(seen)


@contextlib.contextmanager
def _folder(path: Path | str, above: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
