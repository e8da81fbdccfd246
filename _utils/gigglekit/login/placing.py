"""Files that belong to somebody, replaced in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def place(path: Path, content: bytes, mode: int, owner: int, group: int) -> None:
    """Put `content` at `path` with its owner and mode; nobody ever sees half of it or another owner.

    Arguments:
        path: the file; its folder has to be there. A link is replaced, not followed.
        content: all of it.
        mode: permission bits.
        owner: numeric owner.
        group: numeric group.

    Raises:
        OSError: the folder cannot be written; what was there before is untouched then.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    candidate = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fchown(handle.fileno(), owner, group)
            os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        candidate.replace(path)
    except BaseException:
        candidate.unlink(missing_ok=True)
        raise


def rewrite(path: Path, content: bytes) -> None:
    """Give the file at `path` another content, with the owner and mode it has."""
    status = path.stat()
    place(path, content, status.st_mode & 0o7777, status.st_uid, status.st_gid)
