"""The part of the log that belongs to one run, whatever logrotate did meanwhile.

The log is copied and emptied while the job writes (copytruncate), so a size noted before says little afterwards: the file may
have been emptied and grown past it again. So a line with a word of its own is written into the log before each run, and
looked for after it, in what was rotated away as well.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PATH = Path("/var/log/giggles/nightly.log")

_MOST_BYTES = 64 << 20
_LINE_BYTES = 16 << 10
_MOST_ROTATED = 14
_ROTATED = re.compile(r"\.([1-9][0-9]{0,2})(\.gz)?")


@dataclass
class Part:
    """What one run printed.

    Arguments:
        whole: whether nothing of it is missing; known when `lines` has been read to its end.
    """

    lines: Iterator[str]
    whole: bool = field(default=True)


def begin(log: Path, time: str) -> str | None:
    """Write the line that a run begins after; return its word, None if it cannot be written.

    Arguments:
        log: of the nightly job.
        time: to show to people.
    """
    word = secrets.token_hex(8)
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            # A run that was killed may have left half a line.
            cut = status.st_size > 0 and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
            line = ("\n" if cut else "") + f"── {time} · {word} ──\n"
            return word if os.write(descriptor, line.encode()) == len(line.encode()) else None
        finally:
            os.close(descriptor)
    except OSError:
        return None


def part(log: Path, word: str | None) -> Part:
    """Return what was printed after the line with `word`; all of the log that there is, but not `whole`, if that line is gone.

    Arguments:
        log: of the nightly job.
        word: what `begin` returned; None if there was no beginning, and then there are no lines.
    """
    found = Part(iter(()))
    found.lines = _lines(log, word, found)
    return found


def _lines(log: Path, word: str | None, found: Part) -> Iterator[str]:
    if word is None or not re.fullmatch(r"[0-9a-f]{16}", word):
        found.whole = False
        return
    left = _MOST_BYTES
    for number, path in enumerate(_files(log, word, found)):
        with _opened(path) as file:
            if number == 0 and found.whole:
                _skip(file, word)
            for line in _read(file, found):
                left -= len(line)
                if left < 0:
                    found.whole = False
                    return
                yield line.decode("utf-8", "replace").rstrip("\r")


def _files(log: Path, word: str, found: Part) -> list[Path]:
    """Return the files that hold the run, the oldest first; the first one has the line with `word`."""
    newer: list[Path] = []
    for path in [log, *_rotated(log)]:
        newer.insert(0, path)
        with _opened(path) as file:
            if _skip(file, word):
                return newer
    # Emptied between the copy and the cut: what is in the log now was written after that, and so by this run.
    found.whole = False
    return [log]


def _rotated(log: Path) -> list[Path]:
    """Return what logrotate moved away, the newest first."""
    numbered = []
    with contextlib.suppress(OSError):
        for path in log.parent.iterdir():
            match = _ROTATED.fullmatch(path.name[len(log.name) :]) if path.name.startswith(log.name) else None
            if match:
                numbered.append((int(match[1]), path))
    return [path for _, path in sorted(numbered)[:_MOST_ROTATED]]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked  # type: ignore[misc]  # a GzipFile is what IO[bytes] describes
        else:
            yield file


def _skip(file: IO[bytes], word: str) -> bool:
    """Go past the line with `word`; tell whether there is one."""
    wanted = f" · {word} ──".encode()
    whole = Part(iter(()))
    return any(line.endswith(wanted) for line in _read(file, whole))


def _read(file: IO[bytes], found: Part) -> Iterator[bytes]:
    """Yield lines without their ends, each at most 16 KiB of it; a file that cannot be read on is at its end."""
    begins = True
    try:
        while piece := file.readline(_LINE_BYTES):
            if begins:
                yield piece.rstrip(b"\n")
            begins = piece.endswith(b"\n")
    except (OSError, EOFError, zlib.error):
        found.whole = False
