"""Buckets for tests: gigglekit's, at the strict proxy, with a clock that nobody waits for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from gigglekit.backup.bucket import Bucket
from gigglekit.backup.sending import Patience
from gigglekit.backup.settings import Keep, Settings

from tests.unit.b2 import REGION, Storage


@dataclass
class Waiting:
    """A clock that only moves when somebody waits for it, and remembers for how long."""

    now: float = 1000.0
    waits: list[float] = field(default_factory=list)
    chance: float = 1.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.waits.append(seconds)
        self.now += seconds

    def patience(self, **changes: Any) -> Patience:
        """Return patience by this clock."""
        return Patience(sleep=self.sleep, clock=lambda: self.now, chance=lambda: self.chance, **changes)


def settings(storage: Storage, **changes: Any) -> Settings:
    """Return the settings of a droplet whose backup is in this bucket."""
    usual = Settings(
        endpoint=storage.endpoint,
        region=REGION,
        bucket=storage.bucket,
        prefix="",
        key_id=storage.key_id,
        application_key=storage.application_key,
        lock_days=0,
        upload_kib_per_second=0,
        threads=4,
        keep=Keep(7, 4, 6),
        keep_dumps_days=30,
        database=False,
        pg_dump="",
        schemas=(),
    )
    return dataclasses.replace(usual, **changes)


def bucket(storage: Storage, waiting: Waiting | None = None, *, now: Any = None, **changes: Any) -> Bucket:
    """Return the bucket of a droplet."""
    return Bucket(settings(storage, **changes), patience=(waiting or Waiting()).patience(), now=now)


def with_key(storage: Storage, key: tuple[str, str], **changes: Any) -> Bucket:
    """Return the bucket as somebody with another application key has it."""
    return bucket(storage, key_id=key[0], application_key=key[1], **changes)
