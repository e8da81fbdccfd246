"""The copies that lie elsewhere, as far as an erasure knows of them. Who reaches them is somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gigglekit.vault.errors import VaultError
from gigglekit.vault.share import Shares


class PendingError(VaultError):
    """The copies elsewhere cannot be reached now; everything on this droplet is done, and asking again goes on with them."""


@dataclass(frozen=True)
class RemoteErased:
    """What was done elsewhere.

    Arguments:
        objects: how many data objects were deleted, or cannot be yet.
        locked_until: when the last of them can be deleted (RFC 3339); "" if all are gone.
        dumps_until: when the last database dump from before ends (RFC 3339); "" if there is none.
    """

    objects: int
    locked_until: str
    dumps_until: str


class Remote(Protocol):
    """The backup of this droplet."""

    @property
    def shares(self) -> Shares | None:
        """Where the other share of the key-encryption key lies; None if there is none."""
        ...

    def erase(self, vault_id: str, since: str) -> RemoteErased:
        """Erase a user there: the key in all its versions, then the data. Doing it again is right.

        Arguments:
            vault_id: the user's.
            since: when it was asked for (RFC 3339).

        Raises:
            PendingError: it cannot be done now.
        """
        ...

    def tell(self) -> None:
        """Have tombstones and receipts there too. What cannot be told now is told later, so this raises nothing for that."""
        ...
