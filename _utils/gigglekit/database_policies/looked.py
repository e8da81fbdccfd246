"""When the database was last found as it should be, so that a converge with nothing to do does not ask it."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Last:
    """The last look that left all as it should be.

    Arguments:
        time: seconds since 1970; None if there was none with these settings.
        due: whether it is time for another one.
    """

    time: float | None
    due: bool

    @property
    def day(self) -> str:
        """When it was, for a person."""
        return "never" if self.time is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time))


def last(notes: Path, enforced: str, url: str, *, now: float | None = None) -> Last:
    """Return when the database was last found as it should be. Notes that cannot be read are as good as none.

    Arguments:
        notes: where looks are noted.
        enforced: what was to be in force; a look for anything else does not count.
        url: the address of the database, the same way.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    try:
        content = json.loads(notes.read_bytes())
    except (OSError, ValueError, RecursionError):
        return Last(None, due=True)
    at = content.get("time") if isinstance(content, dict) else None
    if not isinstance(at, int | float) or isinstance(at, bool) or content.get("settings") != _mark(enforced, url):
        return Last(None, due=True)
    # A clock that was wrong is no reason not to look for years.
    return Last(at, due=not 0 <= now - at < _SECONDS)


def note(notes: Path, enforced: str, url: str, *, now: float | None = None) -> None:
    """Note that the database is as it should be.

    Raises:
        OSError: it cannot be noted.
    """
    notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"settings": _mark(enforced, url), "time": time.time() if now is None else now}
    replace(notes, json.dumps(content, sort_keys=True).encode() + b"\n")


def _mark(enforced: str, url: str) -> str:
    """Return a digest that changes with either and that no password can be guessed from: it is slow, and only root reads it."""
    return hashlib.scrypt(url.encode(), salt=f"giggles second factor {enforced}".encode(), n=2**12, r=8, p=1, dklen=32).hex()
