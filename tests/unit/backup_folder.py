"""A bucket in a folder of this machine, for tests that need thousands of objects read, or a bucket in the hands of an attacker.

It does what gigglekit's `Bucket` promises to those who use it, with no network in between: no MD5 stands in the way, since whoever
has the bucket in hand gives the right one for whatever is in it now. An object is there as a whole or not at all, as at S3, also when
who wrote it was killed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from gigglekit.backup.bucket import GET_BYTES, Bucket
from gigglekit.backup.errors import DamagedError, MissingError
from gigglekit.backup.objects import Erased, Object

from tests.unit.b2 import Storage
from tests.unit.backup_repository import Droplet

_PIECE = 100_000


def samples(usually: int) -> int:
    """Return how many of something are tried: GIGGLES_SAMPLES, a factor, asks for more than usual."""
    number = round(usually * float(os.environ.get("GIGGLES_SAMPLES", "1")))
    print(f"samples: {number}")
    return number


class FolderBucket:
    """Objects as files.

    Arguments:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """Return where an object lies."""
        return self.folder / name

    def _asked(self, what: str, name: str, size: int = 0) -> None:
        with self._lock:
            self.log.append((what, name, size))

    def get(self, name: str, limit: int = GET_BYTES) -> bytes:
        content = self._content(name)
        if len(content) > limit:
            raise DamagedError(name, f"{name} in the bucket is longer than {limit} bytes.")
        self._asked("get", name, len(content))
        return content

    def _content(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(name) from None

    def read(self, name: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        piece = self._content(name)[start : start + length]
        if len(piece) != length:
            raise DamagedError(name, f"{name} in the bucket ends before the bytes that should be there.")
        self._asked("read", name, length)
        return piece

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        content = self._content(name)
        self._asked("stream", name, len(content))
        for at in range(start, len(content), _PIECE):
            yield content[at : at + _PIECE]

    def put(self, name: str, data: bytes | bytearray | memoryview, *, locked: bool = False, confirmed: bool = True) -> None:
        del locked
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.folder.parent / f"unfinished-{os.getpid()}-{threading.get_ident()}"
        beside.write_bytes(data)
        beside.replace(path)
        self._asked("put", name, len(data))

    def put_stream(self, name: str, chunks: Iterable[bytes], *, locked: bool = False) -> int:
        data = b"".join(chunks)
        self.put(name, data, locked=locked)
        return len(data)

    def list(self, prefix: str = "") -> Iterator[Object]:
        self._asked("list", prefix)
        found = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())
        for name in found:
            if name.startswith(prefix):
                yield Object(name, self.path(name).stat().st_size, datetime.now(timezone.utc))

    def erase(self, name: str) -> Erased:
        self._asked("erase", name)
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            return Erased(0, None)
        return Erased(1, None)

    def erase_many(self, names: Iterable[str]) -> Erased:
        return Erased(sum(self.erase(name).versions for name in names), None)


@dataclass
class FolderDroplet(Droplet):
    """A droplet whose bucket is a folder beside it.

    Attributes:
        opened: the buckets that were opened, with what was asked of each.
    """

    @staticmethod
    def make(folder: Path, **arguments: Any) -> FolderDroplet:
        """Make one with an empty bucket."""
        (folder / "vaults").mkdir(parents=True)
        (folder / "bucket").mkdir(exist_ok=True)
        return FolderDroplet(folder, cast("Storage", None), **arguments)

    @property
    def place(self) -> Path:
        """Where the objects lie."""
        return self.folder / "bucket"

    def bucket(self) -> Bucket:
        return cast("Bucket", FolderBucket(self.place))

    def copy_of_bucket(self, target: Path) -> Path:
        """Copy all objects elsewhere, and return where."""
        shutil.copytree(self.place, target)
        return target
