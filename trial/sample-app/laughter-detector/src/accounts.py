"""Sample sign-in: any password but `wrong` is right, and the token is the user's id under a signature.

This authenticates nobody. It gives a proxy in front of the app a login to protect, and users to keep apart.
"""

import hashlib
import hmac
import uuid

_NAMESPACE = uuid.UUID("5ad2c5a0-6a1c-4f0e-9d54-1f3a4be1a9c7")


def user_id_of(email: str) -> str:
    """Return the UUID that always belongs to this e-mail address (version 5, RFC 9562)."""
    return str(uuid.uuid5(_NAMESPACE, email.strip().lower()))


def _signature(user_id: str, secret: str) -> str:
    return hmac.new(secret.encode(), user_id.encode(), hashlib.sha256).hexdigest()


def issue_token(user_id: str, secret: str) -> str:
    """Return the bearer token of a user, valid for as long as `secret` stays the same."""
    return f"{user_id}.{_signature(user_id, secret)}"


def user_of_token(token: str, secret: str) -> str | None:
    """Return the user id that a bearer token stands for, or None if it was not issued with `secret`."""
    user_id, _, signature = token.partition(".")
    if not hmac.compare_digest(signature.encode(), _signature(user_id, secret).encode()):
        return None
    return user_id
