"""Shares of keys in a bucket: under their name in the format, gone in every version, and with errors that the vault knows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gigglekit.backup.bucket import Bucket as RealBucket
from gigglekit.backup.errors import DeniedError, MissingError, UnreachableError
from gigglekit.backup.shares import BucketShares, open_shares
from gigglekit.vault.share import ShareGoneError, Shares, ShareUnreachableError

from tests.unit.b2 import Storage
from tests.unit.backup_repository import settings
from tests.unit.vault_shares import Machine

ID = f"{'a' * 32}-{'b' * 32}"


class Bucket:
    """What the shares ask of a bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.hidden: set[str] = set()
        self.failure: Exception | None = None
        self.locked_until: datetime | None = None

    def _fail(self) -> None:
        if self.failure:
            raise self.failure

    def get(self, name: str) -> bytes:
        self._fail()
        if name not in self.objects or name in self.hidden:
            raise MissingError(name)
        return self.objects[name]

    def put(self, name: str, data: bytes) -> None:
        self._fail()
        self.objects[name] = data

    def versions(self, prefix: str) -> Iterator[Any]:
        self._fail()
        for name in sorted(self.objects):
            if name.startswith(prefix):
                yield from [SimpleNamespace(name=name)] * (2 if name in self.hidden else 1)

    def erase(self, name: str) -> Any:
        self._fail()
        if not self.locked_until:
            self.objects.pop(name, None)
        return SimpleNamespace(locked_until=self.locked_until)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def shares_of(bucket: Bucket) -> Shares:
    return BucketShares(bucket, "https://s3.example.test/one/")  # type: ignore[arg-type]


def test_a_share_lies_where_the_format_says(bucket: Bucket) -> None:
    shares = shares_of(bucket)
    shares.store(ID, bytes(32))
    assert bucket.objects == {f"keys/shares/{ID}": bytes(32)}
    assert (shares.fetch(ID), shares.list()) == (bytes(32), [ID])
    bucket.objects["keys/users/x"] = b""
    shares.destroy(ID)
    shares.destroy(ID)
    assert (shares.list(), list(bucket.objects)) == ([], ["keys/users/x"])


def test_one_that_is_only_hidden_is_gone_for_us_and_listed_to_be_destroyed(bucket: Bucket) -> None:
    shares = shares_of(bucket)
    shares.store(ID, bytes(32))
    bucket.hidden.add(f"keys/shares/{ID}")
    with pytest.raises(ShareGoneError, match=r"https://s3\.example\.test/one/"):
        shares.fetch(ID)
    assert shares.list() == [ID]


@pytest.mark.parametrize("failure", [UnreachableError("It does not answer."), DeniedError("It says no.")])
def test_whatever_else_is_wrong_is_asked_again_later(bucket: Bucket, failure: Exception) -> None:
    shares = shares_of(bucket)
    bucket.failure = failure
    for act in (lambda: shares.fetch(ID), lambda: shares.store(ID, bytes(32)), lambda: shares.destroy(ID), shares.list):
        with pytest.raises(ShareUnreachableError, match=str(failure).rstrip(".")):
            act()


def test_a_share_that_is_locked_is_not_said_to_be_destroyed(bucket: Bucket) -> None:
    shares = shares_of(bucket)
    shares.store(ID, bytes(32))
    bucket.locked_until = datetime(2027, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(ShareUnreachableError, match="locked there until 2027-01-01"):
        shares.destroy(ID)


def test_a_droplet_goes_through_its_life_with_it(bucket: Bucket, a_folder: Path) -> None:
    machine = Machine(a_folder).fill("a", "b")
    shares = shares_of(bucket)
    machine.keyring.enable(shares)
    machine.keyring.rekey(shares=shares)
    machine.restart()
    machine.keyring.fetch_share(shares)
    assert machine.opens() == machine.expected
    assert list(bucket.objects) == [f"keys/shares/{machine.share_id()}"]


def test_without_settings_there_is_no_bucket_and_with_wrong_ones_it_cannot_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "backup.json"
    assert open_shares(path) is None
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(ShareUnreachableError, match="no JSON"):
        open_shares(path)


def test_a_bucket_as_strict_as_the_real_one_keeps_one_version_of_one_share(b2: Storage, a_folder: Path) -> None:
    machine = Machine(a_folder).fill("a")
    shares = BucketShares(RealBucket(settings(b2)), b2.bucket)
    machine.keyring.enable(shares)
    machine.keyring.rekey(shares=shares)
    machine.restart()
    assert machine.keyring.fetch_share(shares)
    assert machine.opens() == machine.expected
    # Looked at behind the server: nothing hidden, no earlier version.
    there = b2.bare_client().list_object_versions(Bucket=b2.bucket)
    assert [entry["Key"] for entry in there["Versions"]] == [f"keys/shares/{machine.share_id()}"]
    assert there.get("DeleteMarkers", []) == []
    with pytest.raises(ShareGoneError):
        shares.fetch(ID)
    b2.revoke()
    with pytest.raises(ShareUnreachableError):
        shares.fetch(machine.share_id())
