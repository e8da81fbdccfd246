"""What is written down of each run, one line of JSON each, for status and grains. No user's id, name or file is in it."""

from __future__ import annotations

import contextlib
import grp
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/giggles/records")
KEPT_LINES = 1000
_STEP = 256 << 10
"""Bytes after which a file is looked at again for whether it is too long."""


def append(folder: Path, kind: str, record: dict[str, Any], *, keep: int = KEPT_LINES) -> None:
    """Add a line to `<kind>.jsonl`; a file that has grown to twice `keep`, and some 256 KB at most, is cut to `keep` at its beginning.

    Arguments:
        folder: where records lie.
        kind: `backup`, `drill`, `verify`, `prune`, `restore`, `nightly`, `converge`, `release` or `alerts`.
        record: what is to be written; `time` is added unless it is there.
        keep: lines that are kept at least.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    path = folder / f"{kind}.jsonl"
    line = json.dumps({"time": now(), **record}, sort_keys=True, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "ab") as file:
        with contextlib.suppress(KeyError, PermissionError):
            os.fchown(file.fileno(), 0, grp.getgrnam("giggles").gr_gid)
        # What a full disk, or a power cut, has left of a line must not take this one with it.
        end = os.fstat(file.fileno()).st_size
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = "\n" + line
        # One write: a line is there or it is not, but for a disk that takes only a part of it.
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    # A long file is not read for each line of it.
    if size > _STEP and size // _STEP == (size - len(line.encode())) // _STEP:
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) > 2 * keep:
        from gigglekit.files.replacing import rewrite

        rewrite(path, b"".join(lines[-keep:]))


def last(folder: Path, kind: str, **wanted: object) -> dict[str, Any] | None:
    """Return the newest record that has these values; None if there is none. Never raises over what lies in the file."""
    for record in _newest_first(folder / f"{kind}.jsonl"):
        if all(record.get(key) == value for key, value in wanted.items()):
            return record
    return None


def newest(folder: Path, kind: str, count: int) -> list[dict[str, Any]]:
    """Return the newest records, at most `count` of them, the newest first. Never raises over what lies in the file."""
    return list(itertools.islice(_newest_first(folder / f"{kind}.jsonl"), max(0, count)))


def _newest_first(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def now() -> str:
    """Return the time in UTC, in seconds (RFC 3339)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def recorded(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Record a run, however it ends: what the block puts into the dictionary, how long it took, and why it failed.

    Arguments:
        folder: where records lie.
        kind: as in `append`.
    """
    began = time.monotonic()
    record: dict[str, Any] = {}
    try:
        yield record
    except BaseException as error:
        reason = (
            str(error)
            if type(error).__name__.endswith("Error") and type(error).__module__.startswith("gigglekit")
            else type(error).__name__
        )
        with contextlib.suppress(OSError):
            append(folder, kind, {**record, "ok": False, "seconds": round(time.monotonic() - began, 1), "reason": reason})
        raise
    try:
        append(folder, kind, {"ok": True, **record, "seconds": round(time.monotonic() - began, 1)})
    except OSError as error:
        # What was done is done; that nobody wrote it down is seen by its age.
        print(f"{folder / kind}.jsonl: no record could be written ({error.strerror}). Look at df and ls -l.", file=sys.stderr)
