"""The other share of the key-encryption key, which lies in the bucket of the backup and never on a disk of the droplet.

Who keeps it is somebody else's: `gigglekit.backup.shares` for a bucket. This is all that the vault knows of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from gigglekit.vault.errors import VaultError

LABEL = "giggles-salt/v1/key-encryption"

_ID = re.compile(r"([0-9a-f]{32})-[0-9a-f]{32}")


class ShareMissingError(VaultError):
    """The bucket's share is not in memory, so no key can be wrapped or unwrapped now."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"The share of this droplet's key that lies in the bucket ({place}) is not in memory, so no user's key can be opened. Nothing "
            "was changed. After a boot giggles-vault-unlock.service fetches it, again and again until the bucket answers: systemctl "
            "status giggles-vault-unlock says what is in its way, and salt-call state.apply vault asks at once. If the bucket was "
            "lost, these keys open no more, and the droplet has to be restored with the recovery kit: docs/BACKUP_AND_RESTORE.md."
        )


class ShareUnreachableError(VaultError):
    """The bucket does not answer, or not as it should; asking again later helps.

    Arguments:
        place: which bucket.
        why: what happened, in a few words without secrets.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(
            f"The bucket that holds a share of this droplet's key ({place}) cannot be used now: {why}. What is unlocked stays so, and "
            "nothing is stored in the clear. After a boot giggles-vault-unlock.service asks again every few seconds, and the app comes up "
            "by itself; anything else is to be asked for again. If it lasts, check the droplet's network, the provider's status page, and "
            "the credentials in giggles:backup."
        )


class ShareGoneError(VaultError):
    """The bucket answers, and does not have this share.

    Arguments:
        place: which bucket was asked.
        kept: which bucket it was put into; the same one if None.
    """

    def __init__(self, place: str, kept: str | None = None) -> None:
        if kept is not None and kept != place:
            why = f"it was put into another one, {kept}: let giggles:backup name that one again, and change it only while this droplet runs"
        else:
            why = (
                "this is an older copy of the droplet, from before its key was replaced, as every erasure does, or somebody has deleted "
                "the share. Neither can be opened again: restore with the recovery kit, docs/BACKUP_AND_RESTORE.md"
            )
        super().__init__(
            f"The bucket {place} answers and does not have the share that opens the keys on this droplet, so clips stay locked and the app "
            f"waits. Most likely {why}."
        )


class NoBucketError(VaultError):
    """A share lies in a bucket, or is to lie there, and this droplet knows of no bucket."""

    def __init__(self) -> None:
        super().__init__(
            "A share of this droplet's key belongs in the bucket of giggles:backup, and /etc/giggles/backup.json, which says where that "
            "is, is not there. Nothing was changed. With a bucket in the pillar, salt-call state.apply writes it; if the bucket was taken "
            "out of the pillar while this droplet was switched off, name it there once more, and take it out when clips are unlocked."
        )


@dataclass(frozen=True)
class Share:
    """Which share belongs to a ring of keys.

    Arguments:
        id: `<droplet id>-<share id>`, 32 hexadecimal digits each: its name in the bucket below `keys/shares/`.
        place: the bucket it was put into, for people.
    """

    id: str
    place: str

    @property
    def droplet(self) -> str:
        """The droplet whose share it is."""
        return droplet_of(self.id) or ""


def droplet_of(share_id: str) -> str | None:
    """Return the droplet that a share's id names, None if this is no id of a share."""
    match = _ID.fullmatch(share_id)
    return match[1] if match else None


class Shares(Protocol):
    """Where shares are kept: off the droplet.

    Every method raises `ShareUnreachableError` if it could not do what it was asked.
    """

    @property
    def place(self) -> str:
        """Which bucket this is, for people: on one line, no secret in it."""
        ...

    def fetch(self, share_id: str) -> bytes:
        """Return a share.

        Raises:
            ShareGoneError: it is not there.
        """
        ...

    def store(self, share_id: str, secret: bytes) -> None:
        """Keep a share; when this returns, it is durable."""
        ...

    def destroy(self, share_id: str) -> None:
        """Delete a share in all its versions; one that is not there is no error."""
        ...

    def list(self) -> list[str]:
        """Return the ids of all shares that anybody could still read, those of other droplets too."""
        ...
