"""How work on logins says that it cannot go on."""

from __future__ import annotations


class LoginError(Exception):
    """A failure in one paragraph for the operator: what happened, why, and what to do."""
