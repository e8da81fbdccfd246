"""When the database was last found to insist on a second factor as it should."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gigglekit import looks

_POLICIES = "policies"


def last(notes: Path, enforced: str, url: str) -> looks.Last:
    """Return when the database was last found as it should be.

    Arguments:
        notes: where looks are noted.
        enforced: what was to be in force; a look for anything else does not count.
        url: the address of the database, the same way.
    """
    return looks.last(notes, _POLICIES, _mark(enforced, url))


def note(notes: Path, enforced: str, url: str) -> None:
    """Note that the database is as it should be.

    Raises:
        OSError: it cannot be noted.
    """
    looks.note(notes, _POLICIES, _mark(enforced, url))


def _mark(enforced: str, url: str) -> str:
    """Return a digest that changes with either and that no password can be guessed from: it is slow, and only root reads it."""
    return hashlib.scrypt(url.encode(), salt=f"giggles second factor {enforced}".encode(), n=2**12, r=8, p=1, dklen=32).hex()
