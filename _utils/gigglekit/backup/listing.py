"""What lies in a bucket, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from gigglekit.backup.connection import Connection, is_ours
from gigglekit.backup.objects import Object, Upload, Version
from gigglekit.backup.sending import Broken

_NEXT = {
    "ListObjectsV2": ("ContinuationToken",),
    "ListObjectVersions": ("KeyMarker", "VersionIdMarker"),
    "ListMultipartUploads": ("KeyMarker", "UploadIdMarker"),
}
"""What says where the next page begins; the answer has it with `Next` before it."""


def objects(connection: Connection, prefix: str) -> Iterator[Object]:
    """Yield the objects whose names begin with `prefix`, sorted, hidden ones left out.

    Those are left out, too, whose names this project never gives: other programs mark folders so (`data/`, `data/.bzEmpty`), and whoever
    asked for one of them would be refused.
    """
    more: dict[str, str] = {}
    while True:
        answer = _list(connection, "ListObjectsV2", more, **connection.below(prefix))
        for entry in answer.get("Contents", []):
            name = connection.name(entry["Key"])
            if is_ours(name):
                yield Object(name, int(entry["Size"]), _utc(entry["LastModified"]))
        if not answer.get("IsTruncated"):
            return
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def versions(connection: Connection, prefix: str) -> Iterator[Version]:
    """Yield every version and marker of the objects whose names begin with `prefix`, by name, the newest of each first; as `objects`."""
    more: dict[str, str] = {}
    while True:
        page, more = page_of_versions(connection, prefix, more)
        yield from (version for version in page if is_ours(version.name))
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
    answer = _list(connection, "ListObjectVersions", start, **connection.below(prefix))
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
        answer = _list(connection, "ListMultipartUploads", more, **connection.below(prefix))
        for entry in answer.get("Uploads", []):
            yield Upload(connection.name(entry["Key"]), entry["UploadId"], _utc(entry["Initiated"]))
        if not answer.get("IsTruncated"):
            return
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def _list(connection: Connection, operation: str, start: Mapping[str, str], **parameters: str) -> dict[str, Any]:
    """Ask for the page that begins at `start`: parameters that the page before has said, none for the first one."""

    def question() -> dict[str, Any]:
        answer: dict[str, Any] = connection.call(operation, {"Bucket": connection.settings.bucket, **parameters, **start})
        # To take an answer that says nothing for an empty bucket would be to think that nothing is left to erase, or to restore.
        if "IsTruncated" not in answer:
            raise Broken("a listing came that does not say whether it is whole")
        following = {name: answer.get(f"Next{name}") for name in _NEXT[operation]}
        if answer["IsTruncated"] and (not any(following.values()) or following == {name: start.get(name) for name in following}):
            # Nothing would ever end it.
            raise Broken("a listing came that does not say where it goes on")
        return answer

    answer: dict[str, Any] = connection.repeat(operation, "", question)
    return answer


def _utc(when: datetime) -> datetime:
    return when.astimezone(timezone.utc)
