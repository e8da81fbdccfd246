"""What can go wrong with the policies. Each message is one paragraph for an operator: what happened, why, what to do."""

from __future__ import annotations


class DatabaseError(Exception):
    """The database refused, or is not what it was taken for; nothing in it was changed."""


class UnreachableError(DatabaseError):
    """The database does not answer, or does not let this droplet in."""
