"""The bucket's shares of key-encryption keys: `gigglekit.vault.share.Shares` on a bucket. Source: docs/FORMAT.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gigglekit.backup import settings
from gigglekit.backup.errors import BackupError, MissingError
from gigglekit.backup.names import SHARES
from gigglekit.vault.share import ShareGoneError, Shares, ShareUnreachableError

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket


class BucketShares:
    """Shares as objects of a bucket.

    Arguments:
        bucket: it.
        place: which one it is, for people: on one line, no secret in it.
    """

    def __init__(self, bucket: Bucket, place: str) -> None:
        self._bucket, self._place = bucket, place

    @property
    def place(self) -> str:
        """Which bucket this is."""
        return self._place

    def fetch(self, share_id: str) -> bytes:
        """Return a share."""
        try:
            with self._translated():
                return self._bucket.get(f"{SHARES}{share_id}")
        except MissingError as error:
            raise ShareGoneError(self._place) from error

    def store(self, share_id: str, secret: bytes) -> None:
        """Keep a share; an object that was taken by the bucket is durable."""
        with self._translated():
            self._bucket.put(f"{SHARES}{share_id}", secret)

    def destroy(self, share_id: str) -> None:
        """Delete a share in all its versions."""
        with self._translated():
            locked = self._bucket.erase(f"{SHARES}{share_id}").locked_until
        if locked is not None:
            raise ShareUnreachableError(
                self._place,
                f"an earlier share is locked there until {locked:%Y-%m-%d %H:%M} UTC and was not destroyed, since the bucket locks "
                "everything that is put into it. Take its default retention away: this backup locks by itself what is to be locked",
            )

    def list(self) -> list[str]:
        """Return the ids of all shares, those included that a plain delete has only hidden: somebody could still read them."""
        with self._translated():
            return sorted({version.name.removeprefix(SHARES) for version in self._bucket.versions(SHARES)})

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MissingError:
            raise
        except BackupError as error:
            raise ShareUnreachableError(self._place, str(error).rstrip(".")) from error


def open_shares(path: Path = settings.PATH) -> Shares | None:
    """Return the bucket of this droplet's backup, None if it has none. Asks nothing of the network.

    Arguments:
        path: where the settings lie.

    Raises:
        ShareUnreachableError: the settings cannot be read.
    """
    try:
        chosen = settings.load(path)
    except BackupError as error:
        raise ShareUnreachableError(str(path), str(error).rstrip(".")) from error
    if chosen is None:
        return None
    from gigglekit.backup.bucket import Bucket
    from gigglekit.backup.sending import Patience

    # Whoever asks for a share waits for it, and asks again by itself.
    bucket = Bucket(chosen, patience=Patience(tries=4, seconds=30.0, longest=5.0))
    return BucketShares(bucket, f"{chosen.endpoint.rstrip('/')}/{chosen.bucket}/{chosen.prefix}")
