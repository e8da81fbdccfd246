"""What can go wrong with the lease of the nightly job. Each message is one paragraph for an operator: what, why, what to do."""

from __future__ import annotations


class LeaseError(Exception):
    """The database refused, or is not what it was taken for."""


class UnreachableError(LeaseError):
    """The database does not answer, or does not let this droplet in."""


class LostError(LeaseError):
    """The lease is over: others may have taken what it was for."""


class ForeignError(LeaseError):
    """The database belongs to another environment."""
