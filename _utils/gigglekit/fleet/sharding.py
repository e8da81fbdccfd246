"""Whose nightly job processes which user: rendezvous hashing, also called highest random weight.

Each droplet has a weight for each user, SHA-256 of `droplet "\\n" user`; the user goes to the droplet with the highest. So every
droplet that knows the same names comes to the same answer without asking anybody; one more takes only the users it wins, a
1/n-th of each other's; and when one goes, its users are spread over those that are left, and nobody else's move.

How even that is, is chance: a droplet's number of users is binomially distributed. With 10,000 users the largest of two to six
shards is within 5 % of even nearly always; of more droplets each has fewer users, and with those the deviation grows (FLEET.md).

The database computes the same in `WEIGHED`, so that nobody's id leaves it who is not this droplet's.

Source: D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking
6 (1), 1998. FIPS 180-4 for SHA-256, whose values compare as big-endian numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

WEIGHED = (
    "(SELECT d FROM unnest({droplets}) AS d"
    " ORDER BY pg_catalog.sha256(pg_catalog.convert_to(d || E'\\n' || {user}::text, 'UTF8')) DESC, d LIMIT 1)"
)
"""`owner` in SQL, from PostgreSQL 11 on: `droplets` is an array of text, `user` a uuid."""


def weight(droplet: str, user: str) -> bytes:
    """Return how much a droplet wants a user: 32 bytes, compared from the left."""
    return hashlib.sha256(f"{droplet}\n{user}".encode()).digest()


def owner(droplets: Iterable[str], user: str) -> str:
    """Return which droplet processes a user.

    Arguments:
        droplets: names, at least one, in any order.
        user: id, a UUID in lower case with hyphens.

    Raises:
        ValueError: there are no droplets.
    """
    # Of two that weigh the same, the one that comes first by name; so the order does not matter.
    return max(sorted(droplets), key=lambda droplet: weight(droplet, user))


def shards(droplets: Sequence[str], users: Iterable[str]) -> dict[str, list[str]]:
    """Return the users of each droplet, in the order in which they came."""
    found: dict[str, list[str]] = {droplet: [] for droplet in droplets}
    for user in users:
        found[owner(droplets, user)].append(user)
    return found


def contenders(droplets: Sequence[str], own: str, alive: Collection[str], seen: Collection[str], awaited: bool) -> list[str]:
    """Return between which droplets the users are to be divided now.

    Arguments:
        droplets: all that the settings name.
        own: the name of the one that asks; it always counts.
        alive: those at work.
        seen: those that have begun this round, whatever became of them.
        awaited: whether those that have not begun are still waited for.
    """
    return sorted({own, *(name for name in droplets if name in alive or (awaited and name not in seen))})
