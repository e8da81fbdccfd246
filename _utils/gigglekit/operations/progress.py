"""Progress on a terminal: one line on standard error that is written over, and nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_SECONDS_BETWEEN = 0.5


class Progress:
    """Shows how far something has come, for as long as the block runs.

    Arguments:
        what: what is being done, in one word.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = False
        self._next = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def bytes_and_files(self, size: int, files: int) -> None:
        """Show bytes and files."""
        self.words(f"{size / 1e6:,.1f} MB in {files:,} files")

    def bytes(self, size: int) -> None:
        """Show bytes."""
        self.words(f"{size / 1e6:,.1f} MB")

    def words(self, text: str) -> None:
        """Show words, at most twice a second."""
        if self._terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_BETWEEN
            sys.stderr.write(f"\r\033[K{self._what}: {text}")
            sys.stderr.flush()
            self._shown = True
