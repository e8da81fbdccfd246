"""What can be wrong with a setting, in the form that passes between the check and those who tell about it."""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, ...]
"""Where a setting is, from the top of the pillar: ("giggles", "app", "ref"); items of a list by their number."""

SECRETS: Key = ("giggles", "secrets")


@dataclass(frozen=True)
class Problem:
    """One reason to refuse a pillar.

    Attributes:
        key: the setting that is wrong.
        reason: what is wrong with it, as a clause such as "it is missing"; never holds a value from the pillar.
        allowed: what may be there instead.
        value: the value as it may be shown, shortened; None where it must not be shown or there is none.
        remedy: what to do where correcting a pillar file is not it.
    """

    key: Key
    reason: str
    allowed: str
    value: str | None = None
    remedy: str | None = None

    @property
    def path(self) -> str:
        """The key in Salt's notation, such as `giggles:app:ref`."""
        return ":".join(self.key)

    @property
    def secret(self) -> bool:
        """Whether the setting is a secret, or holds some."""
        return is_secret(self.key)


def is_secret(key: Key) -> bool:
    """Return whether the setting `key` is a secret, or holds some."""
    return key[: len(SECRETS)] == SECRETS


def concerns(key: Key, other: Key) -> bool:
    """Return whether one of two settings is the other one or lies inside it."""
    shorter = min(len(key), len(other))
    return key[:shorter] == other[:shorter]
