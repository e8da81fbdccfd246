"""Deleting objects so that no version of them is left.

A delete without a version id only hides at B2: https://www.backblaze.com/docs/cloud-storage-s3-compatible-api.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from gigglekit.backup import listing
from gigglekit.backup.connection import Connection
from gigglekit.backup.errors import BackupError, DeniedError, LockedError, MissingError
from gigglekit.backup.objects import Erased, Version
from gigglekit.backup.sending import status_of

_MANY = 1000
"""As many versions as one request deletes, and as one page of a listing has."""


class Eraser:
    """Deletes, by few requests where the bucket takes them.

    Arguments:
        connection: to the bucket.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._takes_many = True

    def erase(self, name: str) -> Erased:
        """Delete every version and marker of exactly this name; see `Bucket.erase`."""
        self._connection.key(name)
        return self._delete(self._versions_of(name))

    def erase_many(self, names: Iterable[str]) -> Erased:
        """Delete every version and marker of exactly these names; see `Bucket.erase_many`."""
        wanted = sorted(set(names))
        for name in wanted:
            self._connection.key(name)
        versions, locked = 0, None
        for batch in _batches(self._found(wanted)):
            erased = self._delete(batch)
            versions += erased.versions
            locked = _later(locked, erased.locked_until)
        return Erased(versions, locked)

    def keep_one(self, name: str, *, newest: bool) -> Erased:
        """Delete every version and marker of exactly this name but the newest version, or the oldest; see `Bucket.keep_one`."""
        self._connection.key(name)
        found = self._versions_of(name)
        versions = [version for version in found if not version.marker]
        kept = versions[: 1 if newest else None][-1:]
        return self._delete([version for version in found if version not in kept])

    # --- finding ----------------------------------------------------------------------------------------------------

    def _versions_of(self, name: str) -> list[Version]:
        found = []
        for version in listing.versions(self._connection, name):
            if version.name != name:
                break  # a neighbour, whose name only begins like this one; and so are all that follow
            found.append(version)
        return found

    def _found(self, names: list[str]) -> Iterator[Version]:
        for folder, group in itertools.groupby(sorted(names, key=_folder), key=_folder):
            yield from self._found_in(folder, [*group])

    def _found_in(self, folder: str, names: list[str]) -> Iterator[Version]:
        """Yield the versions of names of one folder, which are sorted.

        The folder is listed as long as a page finds more than one of them; in a folder where they lie far apart it costs less to ask
        for each one.
        """
        more: dict[str, str] = {}
        carried: list[Version] = []
        while len(names) > 1:
            page, more = listing.page_of_versions(self._connection, folder, more)
            page = carried + page
            # The last name of a page may have more versions on the next one.
            last = page[-1].name if more and page else None
            found = {name for name in names if last is None or name < last}
            yield from (version for version in page if version.name in found)
            names = names[len(found) :]
            if not more or len(found) < 2:
                break
            carried = [version for version in page if version.name == last]
        for name in names:
            yield from self._versions_of(name)

    # --- deleting ---------------------------------------------------------------------------------------------------

    def _delete(self, versions: list[Version]) -> Erased:
        # The oldest first: with the newest deleted and the run killed then, an older one, or one that was hidden, would come to light.
        # What was written in the same second comes newest first, as it was listed.
        versions = versions[::-1]
        versions.sort(key=lambda version: (version.modified, version.marker))
        left = self._delete_many(versions) if self._takes_many and len(versions) > 1 else versions
        locks = [until for until in map(self._delete_one, left) if until is not None]
        return Erased(len(versions) - len(locks), max(locks, default=None))

    def _delete_many(self, versions: list[Version]) -> list[Version]:
        """Delete versions by requests for many; return those that are to be deleted one by one."""
        prefix = self._connection.settings.prefix
        left: list[Version] = []
        for start in range(0, len(versions), _MANY):
            batch = versions[start : start + _MANY]
            objects = [{"Key": prefix + each.name, "VersionId": each.version_id} for each in batch]
            try:
                answer = self._connection.ask("DeleteObjects", Delete={"Quiet": True, "Objects": objects})
            except DeniedError:
                raise
            except BackupError as error:
                if not _is_refused(error):
                    raise
                self._takes_many = False
                return left + versions[start:]
            failed = {(entry.get("Key"), entry.get("VersionId")) for entry in answer.get("Errors", [])}
            left += [each for each in batch if (prefix + each.name, each.version_id) in failed]
        return left

    def _delete_one(self, version: Version) -> datetime | None:
        """Delete a version; return until when it is locked, None if it is gone."""
        try:
            self._connection.ask("DeleteObject", version.name, VersionId=version.version_id)
        except MissingError:
            return None
        except DeniedError:
            # B2 answers the same whether the right is missing or the version is locked.
            until = None if version.marker else self._locked_until(version)
            if until is None:
                raise
            return until
        return None

    def _locked_until(self, version: Version) -> datetime | None:
        try:
            answer = self._connection.ask("GetObjectRetention", version.name, VersionId=version.version_id)
            until = answer.get("Retention", {}).get("RetainUntilDate")
        except BackupError as error:
            if isinstance(error, (DeniedError, MissingError)) or not _is_refused(error):
                raise
            until = None  # no lock on it, or no Object Lock in this bucket
        if isinstance(until, datetime) and until > self._connection.now():
            return until.astimezone(timezone.utc)
        try:
            answer = self._connection.ask("GetObjectLegalHold", version.name, VersionId=version.version_id)
        except BackupError as error:
            if not _is_refused(error):
                raise
            return None
        if answer.get("LegalHold", {}).get("Status") == "ON":
            raise LockedError(
                None,
                f"{version.name} in the bucket is under a legal hold, which somebody put on it by hand, and cannot be deleted. "
                "Take the hold off in the web UI of Backblaze, then ask again.",
            )
        return None


def _batches(versions: Iterable[Version]) -> Iterator[list[Version]]:
    """Yield versions so many at a time that one request deletes them, all of one name together."""
    batch: list[Version] = []
    for version in versions:
        if len(batch) >= _MANY * 9 // 10 and version.name != batch[-1].name:
            yield batch
            batch = []
        batch.append(version)
    if batch:
        yield batch


def _is_refused(error: BackupError) -> bool:
    """Tell whether the bucket does not do this at all, or not here, rather than not now."""
    return 400 <= status_of(error.__cause__) < 500 or status_of(error.__cause__) == 501


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)
