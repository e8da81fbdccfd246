"""The bucket's shares of key-encryption keys: `gigglekit.vault.share.Shares` on a bucket. Source: docs/FORMAT.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from gigglekit.backup import settings
from gigglekit.backup.errors import BackupError, MissingError
from gigglekit.backup.names import SHARES
from gigglekit.vault.share import ShareGoneError, Shares, ShareUnreachableError


class _Object(Protocol):
    @property
    def name(self) -> str: ...


class _Bucket(Protocol):
    """What is needed of `gigglekit.backup.bucket.Bucket`; names are without the prefix."""

    def get(self, name: str) -> bytes: ...
    def put(self, name: str, data: bytes) -> object: ...
    def erase(self, name: str) -> int: ...
    def list(self, prefix: str) -> Iterator[_Object]: ...


class BucketShares:
    """Shares as objects of a bucket.

    Arguments:
        bucket: it.
        place: which one it is, for people: on one line, no secret in it.
    """

    def __init__(self, bucket: _Bucket, place: str) -> None:
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
        with self._translated(), contextlib.suppress(MissingError):
            self._bucket.erase(f"{SHARES}{share_id}")

    def list(self) -> list[str]:
        """Return the ids of all shares."""
        with self._translated():
            return sorted(entry.name.removeprefix(SHARES) for entry in self._bucket.list(SHARES))

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

    return BucketShares(Bucket(chosen), f"{chosen.endpoint.rstrip('/')}/{chosen.bucket}/{chosen.prefix}")
