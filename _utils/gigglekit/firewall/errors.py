"""How firewall work says that it cannot go on."""

from __future__ import annotations


class FirewallError(Exception):
    """A failure in one paragraph for the operator: what happened, why, and what to do."""
