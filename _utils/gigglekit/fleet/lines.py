"""What the runner writes into the log of the nightly job, and the recorder reads there. None of it names a user."""

from __future__ import annotations

import re

_MARK = "giggles-salt: "
_WRITTEN = re.compile(re.escape(_MARK) + r"(\w[\w ]*)(?:: (.*))?")

LEASE = "lease"
"""Followed by its number."""
PART = "part"
"""The script is about to be started once more; followed by the number of users it is given, or `all`."""
UNLEASED = "without a lease"
"""The job runs all the same, for nobody knows of another droplet; followed by why."""
REFUSED = "not begun"
"""Nobody knows whether another droplet is at work; followed by why."""
LOST = "stopped"
"""The lease could not be kept while the script ran; followed by why."""
ELSEWHERE = "elsewhere"
"""Followed by how many users of this night other droplets have done."""
GIVEN_UP = "given up"
"""Followed by how many users ended the job so often that no droplet tries them again tonight."""
OPEN = "left open"
"""Followed by how many users were not done when this droplet stopped waiting for the others."""
UNLISTED = "not in the list"
"""This droplet is not one of giggles:nightly:droplets."""
NOTE = "note"
"""For people only."""


def line(kind: str, rest: object = "") -> str:
    """Return a line to write."""
    return f"{_MARK}{kind}: {rest}" if rest != "" else f"{_MARK}{kind}"


def read(text: str) -> tuple[str, str] | None:
    """Return the kind of a line and what follows it; None if it is none of the runner's."""
    match = _WRITTEN.fullmatch(text)
    return (match[1], match[2] or "") if match else None
