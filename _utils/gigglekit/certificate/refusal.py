"""A note of the last refusal, so that an authority is not asked at every converge.

Let's Encrypt counts five failed validations per account, name and hour; whoever retries faster locks himself out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gigglekit.files.replacing import replace

_FIRST_WAIT = 15 * 60
_LONGEST_WAIT = 12 * 3600
BETWEEN_DUPLICATES = 48 * 3600
"""Seconds between two certificates for the same names that nobody wants: Let's Encrypt hands out five in seven days."""


@dataclass(frozen=True)
class Refusal:
    """One or more refusals of the same request, the last one at `at`.

    Attributes:
        request: fingerprint of the request (see `plan.Wanted.fingerprint`).
        attempts: how often it was refused in a row.
        at: when it was refused last, seconds since 1970.
        next_at: when it may be sent again, seconds since 1970.
        cause: what was said, one paragraph.
    """

    request: str
    attempts: int
    at: float
    next_at: float
    cause: str


def read(path: Path) -> Refusal | None:
    """Return the note at `path`; None if there is none or it is damaged (asking once more does no harm then)."""
    try:
        return Refusal(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def following(last: Refusal | None, request: str, cause: str, now: float, retry_at: float | None = None) -> Refusal:
    """Return the note to write after a refusal at `now`: the wait doubles from 15 minutes to 12 hours.

    Args:
        last: the note before, or None.
        request: fingerprint of what was refused.
        cause: what was said.
        now: seconds since 1970.
        retry_at: what the authority itself named as the time to come back, or None.
    """
    attempts = last.attempts + 1 if last is not None and last.request == request else 1
    wait = min(_FIRST_WAIT * 2 ** (attempts - 1), _LONGEST_WAIT)
    return Refusal(request, attempts, now, max(now + wait, retry_at or 0), cause)


def waiting(last: Refusal | None, request: str, now: float) -> bool:
    """Return whether `request` should not be sent yet. A changed request is always sent, and so is one from the future."""
    return last is not None and last.request == request and last.at <= now < last.next_at


def write(path: Path, refusal: Refusal) -> None:
    """Replace the note at `path`.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace(path, json.dumps(asdict(refusal)).encode(), 0o644)


def forget(path: Path) -> None:
    """Remove the note at `path`, if there is one."""
    path.unlink(missing_ok=True)
