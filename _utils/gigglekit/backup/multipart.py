"""Writing an object in parts, when its length is not known before.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html; B2 takes parts from 5 MB to 5 GB, the last one may
be shorter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gigglekit.backup import client as s3
from gigglekit.backup.connection import Connection
from gigglekit.backup.errors import BackupError, MissingError
from gigglekit.backup.sending import has_code

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket

PART_BYTES = 16 * 1024 * 1024
_MOST_PARTS = 10_000


def send(bucket: Bucket, name: str, chunks: Iterable[bytes], *, locked: bool) -> int:
    """Write `chunks` to `name`; see `Bucket.put_stream`."""
    upload: _Parts | None = None
    buffer = bytearray()
    filled = total = 0
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                if filled == PART_BYTES:
                    upload = upload or _Parts(bucket.connection, name, locked=locked)
                    upload.send(memoryview(buffer))
                    filled = 0
                count = min(len(rest), PART_BYTES - filled)
                # Grows up to one part, and is filled anew after that.
                buffer[filled : filled + count] = rest[:count]
                filled += count
                total += count
                rest = rest[count:]
        if upload is None:
            bucket.put(name, memoryview(buffer)[:filled], locked=locked)
        else:
            upload.send(memoryview(buffer)[:filled])
            upload.complete(total)
    except BaseException:
        if upload is not None:
            # What happened counts, not that the parts stay too: the bucket's lifecycle removes them.
            with contextlib.suppress(BackupError):
                upload.abort()
        raise
    return total


class _Parts:
    """An upload in parts that was begun."""

    def __init__(self, connection: Connection, name: str, *, locked: bool) -> None:
        self._connection, self._name = connection, name
        self._locked = bool(connection.lock(locked))
        self._upload = str(connection.ask("CreateMultipartUpload", name, **connection.lock(locked))["UploadId"])
        self._tags: list[str] = []

    def send(self, data: memoryview) -> None:
        if len(self._tags) == _MOST_PARTS:
            raise BackupError(
                f"{self._name} has more than {_MOST_PARTS} parts of 16 MiB, and the bucket takes no more. It was not written."
            )
        which = {
            "Bucket": self._connection.settings.bucket,
            "Key": self._connection.key(self._name),
            "UploadId": self._upload,
            "PartNumber": len(self._tags) + 1,
            "ContentMD5": s3.md5(data),
        }

        def question() -> str:
            with self._connection.body(data) as body:
                return str(self._connection.call("UploadPart", {**which, "Body": body})["ETag"])

        self._tags.append(self._connection.repeat("UploadPart", self._name, question, locked=self._locked))

    def complete(self, size: int) -> None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, 1)]
        try:
            self._connection.ask("CompleteMultipartUpload", self._name, UploadId=self._upload, MultipartUpload={"Parts": parts})
        except BackupError as error:
            # The answer to an attempt that succeeded may have been lost: then there is no such upload any more, but the object.
            if not has_code(error, "NoSuchUpload") or not self._is_there(size):
                raise

    def _is_there(self, size: int) -> bool:
        try:
            return int(self._connection.ask("HeadObject", self._name)["ContentLength"]) == size
        except MissingError:
            return False

    def abort(self) -> None:
        self._connection.ask("AbortMultipartUpload", self._name, UploadId=self._upload)
