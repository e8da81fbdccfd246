"""What lies in a bucket, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from gigglekit.backup.connection import Connection
from gigglekit.backup.objects import Object, Upload, Version
from gigglekit.backup.sending import Broken


def objects(connection: Connection, prefix: str) -> Iterator[Object]:
    """Yield the objects whose names begin with `prefix`, sorted, hidden ones left out."""
    more: dict[str, Any] = {}
    while True:
        answer = _list(connection, "ListObjectsV2", **connection.below(prefix), **more)
        for entry in answer.get("Contents", []):
            yield Object(connection.name(entry["Key"]), int(entry["Size"]), _utc(entry["LastModified"]))
        if not answer.get("IsTruncated"):
            return
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def versions(connection: Connection, prefix: str) -> Iterator[Version]:
    """Yield every version and marker of the objects whose names begin with `prefix`, by name, the newest of each first."""
    more: dict[str, str] = {}
    while True:
        page, more = page_of_versions(connection, prefix, more)
        yield from page
        if not more:
            return


def page_of_versions(connection: Connection, prefix: str, start: dict[str, str]) -> tuple[list[Version], dict[str, str]]:
    """Return what one request brings.

    Arguments:
        connection: to the bucket.
        prefix: what the names begin with.
        start: where the page begins; empty for the first one.

    Returns:
        The versions, as `versions` orders them, and where the next page begins; empty if there is none.
    """
    answer = _list(connection, "ListObjectVersions", **connection.below(prefix), **start)
    page = [
        Version(
            connection.name(entry["Key"]),
            str(entry["VersionId"]),
            int(entry.get("Size") or 0),
            kind == "DeleteMarkers",
            _utc(entry["LastModified"]),
        )
        for kind in ("Versions", "DeleteMarkers")
        for entry in answer.get(kind, [])
    ]
    # The answer has versions and markers apart. sort() is stable, so what was written in the same second stays in order.
    page.sort(key=lambda version: version.modified, reverse=True)
    page.sort(key=lambda version: version.name.encode())
    if not answer.get("IsTruncated"):
        return page, {}
    more = {"KeyMarker": answer["NextKeyMarker"]}
    if answer.get("NextVersionIdMarker"):
        more["VersionIdMarker"] = answer["NextVersionIdMarker"]
    return page, more


def uploads(connection: Connection, prefix: str) -> Iterator[Upload]:
    """Yield the uploads in parts below `prefix` that were begun and not ended."""
    more: dict[str, str] = {}
    while True:
        answer = _list(connection, "ListMultipartUploads", **connection.below(prefix), **more)
        for entry in answer.get("Uploads", []):
            yield Upload(connection.name(entry["Key"]), entry["UploadId"], _utc(entry["Initiated"]))
        if not answer.get("IsTruncated"):
            return
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def _list(connection: Connection, operation: str, **parameters: str) -> dict[str, Any]:
    def question() -> dict[str, Any]:
        answer: dict[str, Any] = connection.call(operation, {"Bucket": connection.settings.bucket, **parameters})
        # To take an answer that says nothing for an empty bucket would be to think that nothing is left to erase, or to restore.
        if "IsTruncated" not in answer:
            raise Broken("a listing came that does not say whether it is whole")
        return answer

    answer: dict[str, Any] = connection.repeat(operation, "", question)
    return answer


def _utc(when: datetime) -> datetime:
    return when.astimezone(timezone.utc)
