"""Writing a whole file so that no reader, and no power cut, ever meets a half-written one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace(path: Path, content: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Put `content` at `path` in one step.

    Arguments:
        path: the file; its folder has to be there. A link is replaced, not followed.
        content: all of it.
        mode: permissions of the file; until it is in place nobody but its owner can read it.
        owner: numeric user and group; those of this process if None.

    Raises:
        OSError: the folder cannot be written. What was there before is untouched then.

    Source: rename(2); fsync(2) on the folder makes the new name last.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def rewrite(path: Path, content: bytes) -> None:
    """Put other `content` into the file at `path`, in one step, with the owner and mode it has.

    Arguments:
        path: the file, which has to be there.
        content: all of it.

    Raises:
        OSError: as `replace`.
    """
    status = path.stat()
    replace(path, content, status.st_mode & 0o7777, (status.st_uid, status.st_gid))
