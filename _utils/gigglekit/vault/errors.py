"""What can go wrong with the vault. Each message is one paragraph for an operator: what happened, why, what to do."""

from __future__ import annotations


class VaultError(Exception):
    """Anything that keeps the vault from doing what it was asked; nothing is half done unless the message says so."""


class RefusedError(VaultError):
    """What was asked for makes no sense or would harm somebody else; nothing was changed."""


class BusyError(VaultError):
    """Something else holds what is needed; asking again later helps."""
