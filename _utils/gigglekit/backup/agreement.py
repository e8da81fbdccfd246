"""Rows against files: whether a dump and the clips of the same snapshot belong together."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gigglekit.backup.complaints import explained
from gigglekit.backup.login import server
from gigglekit.backup.postgresql import DatabaseError

_ROWS_AT_ONCE = 5000


@dataclass(frozen=True)
class CrossCheck:
    """How rows and files agree. Numbers only, since it is recorded.

    Arguments:
        rows: of laughter_detections.
        files: clips in the snapshot.
        rows_without_file: rows whose clip is not in the snapshot.
        files_without_row: clips in the snapshot that no row names.
    """

    rows: int
    files: int
    rows_without_file: int
    files_without_row: int


def cross_check(url: str, files: Mapping[str, Collection[str]], uploads: str) -> CrossCheck:
    """Compare the rows of laughter_detections with the files of a snapshot.

    Arguments:
        url: of the database that the dump was loaded into.
        files: by user's id the paths of that user's files as a section has them (`clips/x.wav`, `legacy/x.wav`); others than clips
            (`audio/…`) are not counted. The id "" has those of nobody known.
        uploads: the app's UPLOAD_DIR, which clip_path begins with.

    Raises:
        DatabaseError: the rows cannot be read.
    """
    import psycopg

    # Users have each a folder of their own; what lies directly in clips/ is told apart by its name alone.
    own = {(user, path[len("clips/") :]) for user, paths in files.items() for path in paths if path.startswith("clips/")}
    legacy = {path[len("legacy/") :] for paths in files.values() for path in paths if path.startswith("legacy/")}
    named: set[tuple[str, str]] = set()
    named_legacy: set[str] = set()
    base = posixpath.normpath(uploads) + "/clips/"
    rows = without = 0
    where = server(url)
    try:
        with psycopg.connect(url, connect_timeout=15) as connection, connection.cursor("clips") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute("SELECT user_id::text, clip_path FROM public.laughter_detections")
            for user, clip_path in cursor:
                rows += 1
                path = posixpath.normpath(str(clip_path or ""))
                folder, _, name = path[len(base) :].partition("/") if path.startswith(base) else ("", "", "")
                if name and folder == user and (user, name) in own:
                    named.add((user, name))
                elif folder and not name and folder in legacy:
                    named_legacy.add(folder)
                else:
                    without += 1
    except psycopg.Error as error:
        said = f"ERROR: {error.sqlstate}: {error}" if error.sqlstate else str(error)
        raise explained(said, where, f"The clips' rows in the database at {where.host} could not be read") from None
    return CrossCheck(rows, len(own) + len(legacy), without, len(own - named) + len(legacy - named_legacy))


__all__ = ["CrossCheck", "DatabaseError", "cross_check"]
