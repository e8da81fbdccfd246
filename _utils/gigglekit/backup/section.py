"""Sections: what a snapshot holds of one user. Source: docs/FORMAT.md, "Snapshots"."""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from gigglekit.backup.names import is_id

HEADER_BYTES = 56
_MOST_BYTES = 512 << 20
_DIGEST = re.compile(r"(gmac:)?[0-9a-f]{32}")
_USER = re.compile(r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?")
KINDS = ("clips/", "audio/", "legacy/")
MOST_PATH_BYTES = 4000
MOST_TIME = 1 << 62
"""The latest time of a file, in nanoseconds since 1970: in the year 2116; the earliest one is as long before."""


class NotReadableError(Exception):
    """Bytes that are no section, head, kit or the like; its text says why and quotes nothing."""


@dataclass(frozen=True)
class PackEntry:
    """A pack that a section refers to.

    Arguments:
        id: its name below `data/`.
        size: bytes as it lies in the bucket.
        header: its first 56 bytes.
    """

    id: str
    size: int
    header: bytes


class Extent(NamedTuple):
    """A piece of a file in a pack's plaintext: index into the section's packs, offset and length in bytes."""

    pack: int
    offset: int
    length: int


class FileEntry(NamedTuple):
    """A file of a user, in the order in which it is written.

    Attributes:
        path: relative to the user's vault, `clips/…`; or `legacy/<name>`.
        size: bytes.
        modified: nanoseconds since 1970.
        digest: keyed hash of the content; see `digests`.
        extents: where the content lies, in order.
    """

    path: str
    size: int
    modified: int
    digest: str
    extents: tuple[Extent, ...]


@dataclass(frozen=True)
class Section:
    """What there was of a user.

    Arguments:
        user: the user's id, "" if nobody knew it.
        packs: the packs that files lie in.
        files: sorted by path.
    """

    user: str
    packs: tuple[PackEntry, ...]
    files: tuple[FileEntry, ...]


class Encoded(NamedTuple):
    """A section as it is before encryption, and how many files there are in it, and bytes of them."""

    data: bytes
    files: int
    size: int

    @classmethod
    def of(cls, section: Section) -> Encoded:
        """Encode a section."""
        return cls(encode(section), len(section.files), sum(file.size for file in section.files))


def encode(section: Section) -> bytes:
    """Return a section as it is before encryption."""
    content = {
        "user": section.user,
        "packs": [[pack.id, pack.size, base64.b64encode(pack.header).decode()] for pack in section.packs],
        "files": section.files,
    }
    return zlib.compress(
        json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape"), 4
    )


def decode(data: bytes) -> Section:
    """Read a section, and believe nothing in it.

    Raises:
        NotReadableError: it is none.
    """
    content = load_json(_inflate(data))
    user, packs, files = take(content, "user", "packs", "files")
    if not isinstance(user, str) or not _USER.fullmatch(user) or not isinstance(packs, list) or not isinstance(files, list):
        raise NotReadableError("a section's user, packs or files are no such things")
    read_packs = tuple(_pack(entry) for entry in packs)
    read_files = tuple(_file(entry, read_packs) for entry in files)
    if any(before.path >= after.path for before, after in itertools.pairwise(read_files)):
        raise NotReadableError("a section's files are not in order")
    return Section(user, read_packs, read_files)


def is_safe(path: str) -> bool:
    """Tell whether a path can be restored: below one of the known folders, and never above it."""
    parts = path.split("/")
    try:
        length = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        # JSON can spell halves of characters that no name of a file has.
        return False
    if "\0" in path or length > MOST_PATH_BYTES or not path.startswith(KINDS):
        return False
    return all(part not in ("", ".", "..") for part in parts) and not (parts[0] == "legacy" and len(parts) != 2)


def load_json(data: bytes) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        NotReadableError: it is none, or names a key twice.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise NotReadableError("a key stands twice in a JSON object")
        return result

    try:
        content = json.loads(
            data.decode("utf-8", "surrogateescape"), object_pairs_hook=once, parse_float=_no_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        raise NotReadableError("no JSON") from None
    if not isinstance(content, dict):
        raise NotReadableError("no JSON object")
    return content


def take(content: dict[str, object], *keys: str) -> list[object]:
    """Return the values of exactly these keys.

    Raises:
        NotReadableError: one is missing, or there is another.
    """
    if set(content) != set(keys):
        raise NotReadableError("keys are missing or unknown; it may be of a newer version")
    return [content[key] for key in keys]


def whole(value: object, least: int = 0, most: int = 1 << 62) -> int:
    """Return a whole number within bounds.

    Raises:
        NotReadableError: it is none.
    """
    if type(value) is not int or not least <= value <= most:
        raise NotReadableError("a number is none, or out of bounds")
    return value


def _no_number(_: str) -> object:
    raise NotReadableError("a number is not whole")


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MOST_BYTES)
    except zlib.error:
        raise NotReadableError("a section is not compressed as it should be") from None
    if not inflater.eof or inflater.unused_data:
        raise NotReadableError("a section is cut off, too long, or something follows it")
    return content


def _list(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise NotReadableError("an entry has not the length that it should have")
    return value


def _pack(entry: object) -> PackEntry:
    pack_id, size, header = _list(entry, 3)
    try:
        first = base64.b64decode(header, validate=True) if isinstance(header, str) else b""
    except ValueError:
        first = b""
    if not is_id(pack_id) or len(first) != HEADER_BYTES:
        raise NotReadableError("a pack's name or first bytes are none")
    return PackEntry(str(pack_id), whole(size, HEADER_BYTES), first)


def _file(entry: object, packs: tuple[PackEntry, ...]) -> FileEntry:
    path, size, modified, digest, extents = _list(entry, 5)
    if not isinstance(path, str) or not is_safe(path):
        raise NotReadableError("a file's path leads out of its folder, or is none")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(extents, list):
        raise NotReadableError("a file's digest or extents are none")
    parts = []
    for extent in extents:
        pack, offset, length = _list(extent, 3)
        index = whole(pack, 0, len(packs) - 1)
        part = Extent(index, whole(offset), whole(length, 1))
        if part.offset + part.length > packs[index].size:
            raise NotReadableError("a file reaches beyond the end of its pack")
        parts.append(part)
    size = whole(size)
    if sum(part.length for part in parts) != size:
        raise NotReadableError("a file's extents are not as long as the file")
    return FileEntry(path, size, whole(modified, -MOST_TIME, MOST_TIME), digest, tuple(parts))
