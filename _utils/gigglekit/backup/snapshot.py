"""Snapshots: what there was at one time, as one object. Source: docs/FORMAT.md, "Snapshots"."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gigglekit.backup import names
from gigglekit.backup.names import SnapshotName, is_id
from gigglekit.backup.section import NotReadableError, load_json, take, whole
from gigglekit.crypto import chunked

_MAGIC = b"GIGGSNP\x01"
FIRST_BYTES = 12
"""Magic number and length of the head: what has to be read before anything else."""
MOST_HEAD_BYTES = 64 << 20
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SERVER = re.compile(r"[ -~]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BASE = re.compile(r"([0-9]{8}T[0-9]{6}Z-[0-9a-f]{32})?")


@dataclass(frozen=True)
class Dump:
    """A database dump.

    Arguments:
        id: its name below `database/`.
        size: bytes as it lies in the bucket.
        sha256: of those bytes.
        server: version of the PostgreSQL server that it was made of.
    """

    id: str
    size: int
    sha256: str
    server: str


@dataclass(frozen=True)
class Part:
    """Where a user's section lies in a snapshot.

    Arguments:
        vault: the user's vault id.
        offset: bytes from the end of the head.
        length: bytes.
        sha256: of the section as it lies there.
        files: how many files it holds.
        size: their bytes.
    """

    vault: str
    offset: int
    length: int
    sha256: str
    files: int
    size: int


@dataclass(frozen=True)
class Head:
    """What a snapshot says of itself.

    Arguments:
        time: when it was made (RFC 3339).
        number: counts the snapshots of a bucket, from 1.
        previous: the one before, without generation; "" for the first.
        dump: the database at that time, None if there is none.
        users: sorted by vault.
    """

    time: str
    number: int
    previous: str
    dump: Dump | None
    users: tuple[Part, ...]


def lay_out(sections: Iterable[tuple[str, bytes, int, int]]) -> tuple[tuple[Part, ...], bytes]:
    """Put encrypted sections one after the other.

    Arguments:
        sections: vault id, section, number of files and their bytes; sorted by vault.
    """
    parts, body = [], bytearray()
    for vault, section, files, size in sections:
        parts.append(Part(vault, len(body), len(section), hashlib.sha256(section).hexdigest(), files, size))
        body += section
    return tuple(parts), bytes(body)


def encode(name: SnapshotName, head: Head, body: bytes, key: bytes) -> bytes:
    """Return the whole object.

    Arguments:
        name: its name.
        head: its head, with the parts that `lay_out` has returned.
        body: the sections.
        key: the snapshot key.
    """
    content = {
        "format": 1,
        "time": head.time,
        "number": head.number,
        "previous": head.previous,
        "dump": None
        if head.dump is None
        else {"id": head.dump.id, "bytes": head.dump.size, "sha256": head.dump.sha256, "server": head.dump.server},
        "users": [
            {
                "vault": part.vault,
                "offset": part.offset,
                "length": part.length,
                "sha256": part.sha256,
                "files": part.files,
                "bytes": part.size,
            }
            for part in head.users
        ],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    first = chunked.encrypt(key, names.head_context(name), text)
    return _MAGIC + len(first).to_bytes(4, "big") + first + body


def head_size(first: bytes) -> int:
    """Return how many bytes the encrypted head has, from the first `FIRST_BYTES` of a snapshot.

    Raises:
        NotReadableError: it is no snapshot, or of a version that is not known here.
    """
    if len(first) < FIRST_BYTES or first[:7] != _MAGIC[:7]:
        raise NotReadableError("it does not begin as a snapshot does")
    if first[:8] != _MAGIC:
        raise NotReadableError("it is of a newer version than this program knows")
    return whole(int.from_bytes(first[8:12], "big"), chunked.HEADER_BYTES, MOST_HEAD_BYTES)


def decode_head(name: SnapshotName, data: bytes, key: bytes) -> Head:
    """Open a head.

    Arguments:
        name: the snapshot's name.
        data: the encrypted head.
        key: the snapshot key.

    Raises:
        NotReadableError: it cannot be opened, or says what cannot be.
    """
    try:
        text = chunked.decrypt(key, names.head_context(name), data)
    except chunked.DamagedError:
        raise NotReadableError("its head does not open: it is damaged, or lies under another snapshot's name") from None
    form, time, number, previous, dump, users = take(load_json(text), "format", "time", "number", "previous", "dump", "users")
    if form != 1:
        raise NotReadableError("it is of a newer version than this program knows")
    if not isinstance(time, str) or not _TIME.fullmatch(time) or not isinstance(previous, str) or not _BASE.fullmatch(previous):
        raise NotReadableError("its time, or the snapshot before it, is none")
    if not isinstance(users, list):
        raise NotReadableError("its users are no list")
    parts = tuple(_parts(users))
    if [part.vault for part in parts] != sorted({part.vault for part in parts}):
        raise NotReadableError("its users are not in order, or one stands there twice")
    return Head(time, whole(number, 1), previous, None if dump is None else _dump(dump), parts)


def _parts(users: list[object]) -> Iterator[Part]:
    for user in users:
        if not isinstance(user, dict):
            raise NotReadableError("a user in it is no object")
        vault, offset, length, digest, files, size = take(user, "vault", "offset", "length", "sha256", "files", "bytes")
        if not is_id(vault) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise NotReadableError("a user's vault or hash is none")
        yield Part(str(vault), whole(offset), whole(length, chunked.HEADER_BYTES), digest, whole(files), whole(size))


def _dump(content: object) -> Dump:
    if not isinstance(content, dict):
        raise NotReadableError("its dump is no object")
    dump_id, size, digest, server = take(content, "id", "bytes", "sha256", "server")
    if (
        not is_id(dump_id)
        or not isinstance(digest, str)
        or not _SHA256.fullmatch(digest)
        or not isinstance(server, str)
        or not _SERVER.fullmatch(server)
    ):
        raise NotReadableError("its dump is none")
    return Dump(str(dump_id), whole(size), digest, server)
