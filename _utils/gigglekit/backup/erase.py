"""Erasing a user from the bucket: the sealed key first, in all its versions, and then what it opened."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass

from gigglekit.backup import names, signed
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import LockedError
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.repository import Repository
from gigglekit.backup.signed import Signer


@dataclass(frozen=True)
class ErasedUser:
    """What was done.

    Arguments:
        key_versions: versions of the sealed key that were deleted.
        objects: packs that were deleted, or cannot be yet.
        locked_until: when the last pack can be deleted; None if all are gone.
    """

    key_versions: int
    objects: int
    locked_until: datetime.datetime | None


def erase_user(bucket: Bucket, manifest: Manifest, vault_id: str, since: str, signer: Signer) -> ErasedUser:
    """Erase a user; doing it again is right.

    Arguments:
        bucket: it.
        manifest: knows the user's packs.
        vault_id: the user's.
        since: when it was asked for (RFC 3339).
        signer: signs the tombstone.

    Raises:
        LockedError: the key is locked, so the user is not erased: somebody has put a lock on keys.
        BackupError: the bucket does not answer; asking again goes on.
    """
    # So that no machine that has only the bucket takes the user back, whatever happens from here on.
    bucket.put(*signed.tombstone(vault_id, since, signer))
    key = bucket.erase(names.USER_KEYS + vault_id)
    if key.locked_until is not None:
        raise LockedError(
            key.locked_until,
            f"The sealed key {names.USER_KEYS}{vault_id} is locked in the bucket until {key.locked_until:%Y-%m-%d %H:%M} UTC, although "
            "this backup never locks keys: the bucket has a default retention, or somebody set one. So a recovery kit still opens the "
            "user's clips until then. Take the bucket's default retention away, then ask again after that date.",
        )
    packs = [names.DATA + pack.id for pack in manifest.packs(vault_id)]
    packs += [names.DATA + pack for pack in manifest.given_up(vault_id)]
    packs += [name for name in manifest.underway_of(vault_id) if name not in packs]
    data = bucket.erase_many(packs) if packs else None
    with manifest.change():
        manifest.forget_vault(vault_id)
        manifest.put(f"sealed:{names.USER_KEYS}{vault_id}", None)
    return ErasedUser(key.versions, len(packs), data.locked_until if data else None)


def end_keys_of_erased(repository: Repository, erased: Collection[str] | None = None) -> int:
    """Erase sealed keys of erased users that came back: a droplet that did not know of the erasure has stored them again.

    Arguments:
        repository: it.
        erased: vault ids, as `Repository.erased` tells them; asked for if None.

    Returns:
        How many there were.
    """
    sealed = {entry.name.removeprefix(names.USER_KEYS) for entry in repository.bucket.list(names.USER_KEYS)}
    doomed = sealed.intersection(repository.erased([], sealed) if erased is None else erased)
    for vault_id in sorted(doomed):
        # One that is locked is told by verify, and tried again by the next prune.
        repository.bucket.erase(names.USER_KEYS + vault_id)
    return len(doomed)
