"""Objects in one bucket of Backblaze B2, over its S3 interface.

What differs from S3 elsewhere: versioning is always on, so a plain delete only hides, and erasing means every version by its id;
no checksum headers but Content-MD5, which is needed under Object Lock; 503 is a normal answer. What has no Content-MD5 is bound to its
request by the SHA-256 in the signature.

Sources: https://www.backblaze.com/docs/cloud-storage-s3-compatible-api and https://docs.aws.amazon.com/AmazonS3/latest/API/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from gigglekit.backup import client as s3
from gigglekit.backup import erasing, listing, multipart
from gigglekit.backup.body import Requests
from gigglekit.backup.connection import Connection
from gigglekit.backup.errors import BackupError, DamagedError, RefusedError
from gigglekit.backup.objects import Erased, Object, Upload, Version
from gigglekit.backup.sending import Broken, Patience, has_code, is_of_the_way
from gigglekit.backup.settings import Settings

__all__ = ["Bucket", "Erased", "Object", "Upload", "Version"]

GET_BYTES = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024

_Uploads = list[Upload]  # named, since within Bucket `list` is a method
_DAMAGED_TIMES = 3
"""So many times the wrong bytes, and they are wrong in the bucket and not on the way."""


class Bucket:
    """The bucket of a droplet. Several threads may use one object at the same time.

    Arguments:
        settings: which bucket, and the credentials.
        client: a client of botocore to use; one is made when it is first needed if None.
        patience: how long to go on asking when the bucket does not answer.
        now: the time of day, UTC; the clock's if None.
        compares: whether it refuses other bytes than those whose SHA-256 was signed; see `probe`. If not, everything carries its MD5.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: Any = None,  # noqa: ANN401 - botocore has no types
        patience: Patience | None = None,
        now: Callable[[], datetime] | None = None,
        compares: bool = True,
    ) -> None:
        self.compares = compares
        self.connection = Connection(settings, client, patience, now)
        self._eraser = erasing.Eraser(self.connection)

    @property
    def settings(self) -> Settings:
        """Which bucket, and the credentials."""
        return self.connection.settings

    @property
    def requests(self) -> Requests:
        """What was asked of the bucket so far."""
        return self.connection.requests

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, name: str, limit: int = GET_BYTES) -> bytes:
        """Return the whole object.

        Arguments:
            name: without the prefix.
            limit: the most bytes that it may have.

        Raises:
            MissingError: it is not there.
            DamagedError: it is longer than `limit`, or its bytes have not the MD5 that the bucket names, several times in a row.
            BackupError: it cannot be had.
        """
        self.connection.key(name)
        damaged = 0

        def question() -> bytes:
            nonlocal damaged
            answer = self._open(name)
            with answer["Body"] as body:
                length = _length(answer)
                if length > limit:
                    raise DamagedError(
                        name,
                        f"{name} in the bucket has {length} bytes, and more than {limit} cannot be right: it was exchanged, or is damaged.",
                    )
                content = self._rest(body, length)
            if not s3.has_md5(s3.md5(content), answer):
                damaged += 1
                if damaged >= _DAMAGED_TIMES:
                    raise DamagedError(name)
                raise Broken(f"the bytes of {name} have not the MD5 that came with them")
            return content

        content: bytes = self.connection.repeat("GetObject", name, question)
        return content

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes of an object from `start` on, by one request.

        Raises:
            MissingError: it is not there.
            DamagedError: it ends before.
            BackupError: it cannot be had.
        """
        self.connection.key(name)
        if start < 0 or length < 0:
            raise RefusedError(f"{length} bytes from {start} on make no sense.")
        if length == 0:
            return b""
        wanted = f"bytes {start}-{start + length - 1}/"

        def question() -> bytes:
            answer = self._open(name, Range=f"bytes={start}-{start + length - 1}")
            with answer["Body"] as body:
                where = str(answer.get("ContentRange", ""))
                if not where.startswith(f"bytes {start}-"):
                    raise Broken(f"bytes from {start} on were asked for, and {where or 'all'} came")
                if not where.startswith(wanted):
                    raise _too_short(name)
                if _length(answer) != length:
                    raise Broken(f"{length} bytes were asked for, and others were announced")
                return self._rest(body, length)

        try:
            content: bytes = self.connection.repeat("GetObject", name, question)
        except BackupError as error:
            if has_code(error, "InvalidRange", "416"):
                raise _too_short(name) from error
            raise
        return content

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield an object from `start` on, piece by piece. A connection that breaks is taken up where it broke.

        Raises:
            MissingError: it is not there.
            DamagedError: it has fewer bytes than `start`, or was exchanged for another while it was read.
            BackupError: it cannot be had. Never ends early without an error.
        """
        self.connection.key(name)
        attempts = self.connection.attempts("GetObject", name)
        version: dict[str, str] = {}
        position, size, tag = start, -1, ""
        while size < 0 or position < size:
            before = position
            try:
                answer = self._open(name, **version, **({"Range": f"bytes={position}-"} if position else {}))
                with answer["Body"] as body:
                    length = _length(answer)
                    if position and not str(answer.get("ContentRange", "")).startswith(f"bytes {position}-"):
                        raise Broken("another range came than was asked for")
                    if size >= 0 and (position + length != size or str(answer.get("ETag")) != tag):
                        raise DamagedError(name, f"{name} was exchanged for another object while it was read. Ask again.")
                    size, tag = position + length, str(answer.get("ETag"))
                    if answer.get("VersionId"):
                        version = {"VersionId": answer["VersionId"]}
                    while piece := body.read(READ_BYTES):
                        position += len(piece)
                        self.requests.add(received=len(piece))
                        yield piece
                if position < size:
                    raise Broken(f"{size - position} bytes are missing at the end")
            except BackupError:
                raise
            except Exception as error:
                # botocore raises many kinds for a broken connection; whatever is not of the way goes on up.
                if not is_of_the_way(error):
                    raise
                if position - before >= READ_BYTES:
                    attempts.progress()
                try:
                    attempts.wait(error)
                except BackupError as final:
                    if has_code(final, "InvalidRange", "416"):
                        raise _too_short(name) from error
                    raise

    def _open(self, name: str, **parameters: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.connection.call(
            "GetObject", {"Bucket": self.settings.bucket, "Key": self.connection.key(name), **parameters}
        )
        return answer

    def _rest(self, body: Any, length: int) -> bytes:  # noqa: ANN401 - botocore has no types
        content: bytes = body.read()
        self.requests.add(received=len(content))
        if len(content) != length:
            raise Broken(f"{len(content)} bytes came, {length} were announced")
        return content

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, name: str, data: bytes | bytearray | memoryview, *, locked: bool = False, confirmed: bool = True) -> None:
        """Write an object; returns when the bucket has confirmed it.

        Arguments:
            name: without the prefix.
            data: all of it; must not change meanwhile. It is not copied.
            locked: whether nobody may delete this version for `lock_days`.
            confirmed: whether the bucket has to say which bytes it has written (their MD5). If not, it still compares what it got with the
                SHA-256 that is signed, which botocore does where there is no Content-MD5; under Object Lock, and for a bucket that does
                not compare, there always is one.

        Raises:
            BackupError: it is not certain that it was written.
        """
        lock = self.connection.lock(locked)
        which = {"Bucket": self.settings.bucket, "Key": self.connection.key(name), **lock}
        if lock or confirmed or not self.compares:
            which["ContentMD5"] = s3.md5(data)

        def question() -> None:
            with self.connection.body(data) as body:
                answer = self.connection.call("PutObject", {**which, "Body": body})
            if "ContentMD5" in which and not s3.has_md5(which["ContentMD5"], answer):
                raise Broken(f"the bucket has written other bytes to {name} than were sent")

        self.connection.repeat("PutObject", name, question, locked=bool(lock))

    def put_stream(self, name: str, chunks: Iterable[bytes], *, locked: bool = False) -> int:
        """Write an object whose length nobody knows yet, with 16 MiB of memory whatever its length.

        Arguments:
            name: without the prefix.
            chunks: all of it, one after the other; an error in it ends the upload, and nothing of the object remains.
            locked: as in `put`.

        Returns:
            How many bytes it has.

        Raises:
            BackupError: it was not written. Whatever else `chunks` raises passes through.
        """
        self.connection.key(name)
        return multipart.send(self, name, chunks, locked=locked)

    # --- listing ----------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "") -> Iterator[Object]:
        """Yield the objects whose names begin with `prefix`, sorted, hidden ones left out."""
        return listing.objects(self.connection, prefix)

    def versions(self, prefix: str = "") -> Iterator[Version]:
        """Yield every version and marker of the objects whose names begin with `prefix`, by name, the newest of each first."""
        return listing.versions(self.connection, prefix)

    def unfinished(self, prefix: str = "") -> _Uploads:
        """Return the uploads in parts below `prefix` that were begun and not ended."""
        return [*listing.uploads(self.connection, prefix)]

    # --- erasing ----------------------------------------------------------------------------------------------------

    def erase(self, name: str) -> Erased:
        """Delete every version and marker of exactly this name.

        Returns:
            What is gone, and until when the rest is locked. No error if there was nothing.

        Raises:
            LockedError: a version is under a legal hold.
            BackupError: not all could be deleted; what is left is found by the next call.
        """
        return self._eraser.erase(name)

    def erase_many(self, names: Iterable[str]) -> Erased:
        """Delete every version and marker of exactly these names, with as few requests as can be.

        Returns, raises: as `erase`.
        """
        return self._eraser.erase_many(names)

    def keep_one(self, name: str, *, newest: bool) -> Erased:
        """Delete the versions and markers of exactly this name but one: the newest, or the oldest. No error if there is none.

        Raises:
            BackupError: as `erase`.
        """
        return self._eraser.keep_one(name, newest=newest)

    def abort(self, upload: Upload) -> None:
        """Throw away the parts of an upload that was not ended; no error if it is gone already."""
        try:
            self.connection.ask("AbortMultipartUpload", upload.name, UploadId=upload.upload_id)
        except BackupError as error:
            if not has_code(error, "NoSuchUpload"):
                raise


def _length(answer: Mapping[str, Any]) -> int:
    """Return how many bytes come with an answer, which is known before any is read."""
    length = answer.get("ContentLength")
    if length is None:
        raise Broken("bytes came, and it was not said how many")
    return int(length)


def _too_short(name: str) -> DamagedError:
    return DamagedError(name, f"{name} in the bucket ends before the bytes that should be there: it was cut, or exchanged for another.")
