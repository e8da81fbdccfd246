"""Writing an object in parts, when its length is not known before.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html; B2 takes parts from 5 MB to 5 GB, the last one may
be shorter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gigglekit.backup import client as s3
from gigglekit.backup import listing
from gigglekit.backup.connection import Connection
from gigglekit.backup.errors import BackupError, DamagedError, MissingError
from gigglekit.backup.sending import Broken, ask, has_code

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
        which = {"Bucket": connection.settings.bucket, "Key": connection.key(name), **connection.lock(locked)}
        attempts = connection.attempts("CreateMultipartUpload", name, locked=self._locked)
        self._upload = str(ask(attempts, lambda: connection.call("CreateMultipartUpload", which))["UploadId"])
        # An attempt whose answer was lost may have begun an upload too.
        self._others = attempts.failed > 0
        self._tags: list[str] = []

    def send(self, data: memoryview) -> None:
        if len(self._tags) == _MOST_PARTS:
            raise BackupError(
                f"{self._name} has more than {_MOST_PARTS} parts of 16 MiB, and the bucket takes no more. It was not written."
            )
        md5 = s3.md5(data)
        which = {
            "Bucket": self._connection.settings.bucket,
            "Key": self._connection.key(self._name),
            "UploadId": self._upload,
            "PartNumber": len(self._tags) + 1,
            "ContentMD5": md5,
        }

        def question() -> str:
            with self._connection.body(data) as body:
                answer = self._connection.call("UploadPart", {**which, "Body": body})
            if not s3.has_md5(md5, answer):
                raise Broken(f"the bucket has kept other bytes of {self._name} than were sent")
            return str(answer["ETag"])

        self._tags.append(self._connection.repeat("UploadPart", self._name, question, locked=self._locked))

    def complete(self, size: int) -> None:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(self._tags, 1)]
        try:
            self._connection.ask("CompleteMultipartUpload", self._name, UploadId=self._upload, MultipartUpload={"Parts": parts})
        except BackupError as error:
            # The answer to an attempt that succeeded may have been lost: then there is no such upload any more, but the object.
            if not has_code(error, "NoSuchUpload") or self._size() != size:
                raise
        else:
            if self._size() != size:
                raise DamagedError(
                    self._name, f"The bucket has put {self._name} together wrongly: it has not the {size} bytes that were sent."
                )
        self._abort_others()

    def _size(self) -> int:
        try:
            return int(self._connection.ask("HeadObject", self._name)["ContentLength"])
        except MissingError:
            return -1

    def abort(self) -> None:
        """Throw away the parts."""
        self._abort(self._upload)
        self._abort_others()

    def _abort_others(self) -> None:
        for upload in [*listing.uploads(self._connection, self._name)] if self._others else []:
            if upload.name == self._name and upload.upload_id != self._upload:
                self._abort(upload.upload_id)

    def _abort(self, upload: str) -> None:
        try:
            self._connection.ask("AbortMultipartUpload", self._name, UploadId=upload)
        except BackupError as error:
            if not has_code(error, "NoSuchUpload"):
                raise
