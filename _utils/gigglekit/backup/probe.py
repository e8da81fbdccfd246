"""Whether the bucket can be used as the backup needs it, found out by doing it with a small object.

Source for the rights: https://www.backblaze.com/docs/cloud-storage-application-key-capabilities.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gigglekit.backup import bucket_settings
from gigglekit.backup import client as s3
from gigglekit.backup.body import Body
from gigglekit.backup.errors import BackupError, ClockError, DamagedError, DeniedError, MissingError, RefusedError, UnreachableError
from gigglekit.backup.sending import WRONG_CREDENTIALS, code_of, has_code, short, status_of

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket
    from gigglekit.backup.connection import Connection
    from gigglekit.backup.settings import Settings

FOLDER = "probe/"
UNCOMPARED = "digests"
"""What is found at a bucket that takes other bytes than those whose SHA-256 was signed."""
_OTHER_BYTES = ("XAmzContentSHA256Mismatch", "BadDigest", "SignatureDoesNotMatch")
_SKEW_SECONDS = 300
_LOCK_SECONDS = 3
_CONTENT = b"giggles-salt: written by a probe of the bucket, and deleted by it\n"


@dataclass(frozen=True)
class Finding:
    """Something about the bucket that is not as it should be.

    Arguments:
        what: the right of B2 that is missing, or `credentials`, `bucket`, `clock`, `lock`, `versions`, `content`, or `UNCOMPARED`.
        text: a paragraph for an operator.
        serious: whether the backup cannot do what it promises with it.
    """

    what: str
    text: str
    serious: bool = True


def faults(settings: Settings) -> list[str]:
    """Return why the backup cannot use the bucket, a paragraph for each reason.

    Raises:
        UnreachableError: nobody knows: it does not answer.
    """
    from gigglekit.backup.bucket import Bucket

    return [finding.text for finding in probe(Bucket(settings)) if finding.serious]


def probe(bucket: Bucket) -> list[Finding]:
    """List, write, read, lock if that is wanted, and delete a small object below `probe/`, and say what of it the bucket refuses.

    What could not be tried because something before it failed is not spoken of. What an earlier probe has left is deleted.

    Raises:
        UnreachableError: it does not answer.
    """
    trial = _Trial(bucket)
    try:
        trial.run()
    except UnreachableError:
        raise
    except ClockError as error:
        trial.found.append(Finding("clock", str(error)))
    except BackupError as error:
        trial.found.append(Finding("credentials" if has_code(error, *WRONG_CREDENTIALS) else "bucket", str(error)))
    return trial.found


def _answered(code: str) -> str:
    return f"answered {code}" if code else "took them"


class _Damaged(Body):
    """A body whose first byte is another one when it is sent than when it was signed."""

    def __init__(self, data: bytes, connection: Connection) -> None:
        self._bytes = bytearray(data)
        super().__init__(self._bytes, connection.throttle, connection.requests)

    def sending(self) -> None:
        """Change the byte; what follows goes out."""
        self._bytes[0] ^= 1
        super().sending()


class _Trial:
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._connection = bucket.connection
        self._name = f"{FOLDER}{os.urandom(8).hex()}"
        self._date = ""
        self.found: list[Finding] = []

    def run(self) -> None:
        listed = self._list()
        version = self._write()
        if version is None and not listed:
            # The same answer comes for a bucket or a prefix that the key is not for.
            text = (
                "The bucket refuses this droplet's application key both to list and to write. It is for another bucket or prefix than "
                f"giggles:backup says, or lacks all rights. {_REMEDY}"
            )
            self.found = [Finding("bucket", text)]
            return
        self._clock()
        if version is not None:
            self._read()
            if not self._bucket.settings.lock_days:
                # What is locked carries its MD5 anyway.
                self._compare()
            self._delete(version)
        self._settings()

    @contextlib.contextmanager
    def _right(self, right: str, needed_for: str, *, serious: bool = True) -> Iterator[None]:
        """Turn the refusal of what is done within into a finding. Wrong credentials are no matter of rights."""
        try:
            yield
        except DeniedError as error:
            if has_code(error, *WRONG_CREDENTIALS):
                raise
            text = (
                f"The application key has not the right {right}, which the backup needs to {needed_for} "
                f"(the bucket answered: {short(error.__cause__ or error)}). {_REMEDY}"
            )
            self.found.append(Finding(right, text, serious))

    def _list(self) -> bool:
        before = len(self.found)
        with self._right("listFiles", "see what is in it"):
            for version in self._bucket.versions(FOLDER):
                # Left by a probe that was killed. Whether deleting works is told about the object of this one.
                with contextlib.suppress(DeniedError):
                    self._bucket.erase(version.name)
        return len(self.found) == before

    def _write(self, **lock: Any) -> str | None:  # noqa: ANN401 - botocore has no types
        """Write the object; return its version, None if that was refused."""
        right = "writeFileRetentions" if lock else "writeFiles"
        with self._right(right, "lock what it writes" if lock else "write"):
            answer = self._connection.ask("PutObject", self._name, Body=_CONTENT, ContentMD5=s3.md5(_CONTENT), **lock)
            self._date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
            return str(answer.get("VersionId") or "")
        return None

    def _clock(self) -> None:
        theirs = self._theirs()
        off = (self._connection.now() - theirs).total_seconds() if theirs else 0.0
        if abs(off) > _SKEW_SECONDS:
            text = (
                f"The clock of this droplet is {abs(off) / 60:.0f} minutes {'ahead of' if off > 0 else 'behind'} the bucket's; from 15 "
                "minutes on it takes no requests. Set the clock: timedatectl set-ntp true, then timedatectl shows whether it is in step."
            )
            self.found.append(Finding("clock", text, serious=False))

    def _theirs(self) -> datetime | None:
        with contextlib.suppress(TypeError, ValueError):
            return email.utils.parsedate_to_datetime(self._date)
        return None

    def _read(self) -> None:
        with self._right("readFiles", "restore"):
            try:
                if self._bucket.get(self._name) != _CONTENT:
                    self.found.append(Finding("content", "The bucket gives other bytes than were just written to it. Do not use it."))
            except DamagedError as error:
                self.found.append(Finding("content", str(error)))
            except MissingError:
                text = f"What was just written to the bucket ({self._name}) is not there when it is read. Ask again in some minutes."
                self.found.append(Finding("content", text))
        if any(finding.what == "readFiles" for finding in self.found):
            return
        # B2 tells who may not list buckets that an object is forbidden when it is not there: https://github.com/kopia/kopia/issues/5329.
        with self._right("listBuckets", "be told that something is not there"), contextlib.suppress(MissingError):
            self._bucket.get(f"{self._name}-none")

    def _compare(self) -> None:
        """Send bytes that were changed after they were signed, as a fault of the way would."""

        def question() -> str:
            """Return why it was refused, "" if it was not."""
            with _Damaged(_CONTENT, self._connection) as body:
                try:
                    self._connection.call("PutObject", {**which, "Body": body})
                except Exception as error:
                    # Of what may help another time there is 503, and not that the bytes are others.
                    if not 400 <= status_of(error) < 500 or status_of(error) in (408, 425, 429):
                        raise
                    return code_of(error)
            return ""

        name = f"{self._name}-damaged"
        which = {"Bucket": self._bucket.settings.bucket, "Key": self._connection.key(name)}
        refused = self._connection.repeat("PutObject", name, question)
        if refused in _OTHER_BYTES:
            return
        text = (
            f"The bucket does not refuse other bytes than those whose SHA-256 was signed because of that (it {_answered(refused)}), so it "
            "may not notice if clips are damaged on their way. From now on each pack carries its MD5 as well, which takes longer."
        )
        self.found.append(Finding(UNCOMPARED, text, serious=False))
        if refused:
            return
        # If that is not allowed, the deletion of the other object says so.
        with contextlib.suppress(DeniedError):
            self._bucket.erase(name)

    def _delete(self, version: str) -> None:
        if version in ("", "null"):
            text = (
                "The bucket keeps no earlier versions of what is written to it, which Backblaze B2 always does: it is another kind of "
                "server. Whatever overwrites or deletes there cannot be undone. Switch versioning on."
            )
            self.found.append(Finding("versions", text, serious=bool(self._bucket.settings.lock_days)))
        with self._right("deleteFiles", "erase users, and what is not kept any longer"):
            try:
                self._connection.ask("DeleteObject", self._name, **({"VersionId": version} if version else {}))
            except DeniedError as error:
                if has_code(error, *WRONG_CREDENTIALS) or not self._is_locked(version):
                    raise
                text = (
                    "The bucket locks what is written to it without being asked. The keys in the backup must never be locked, or an "
                    "erasure would have to wait. Take the default retention away in the web UI of Backblaze (bucket, Object Lock); the "
                    "backup locks by itself what is to be locked."
                )
                self.found.append(Finding("lock", text))

    def _is_locked(self, version: str) -> bool:
        with contextlib.suppress(BackupError):
            until = self._connection.ask("GetObjectRetention", self._name, VersionId=version)["Retention"]["RetainUntilDate"]
            return bool(until > (self._theirs() or self._connection.now()))
        return False

    def _settings(self) -> None:
        days = self._bucket.settings.lock_days
        with self._right("readBucketRetentions", "see how the bucket locks", serious=bool(days)):
            locking = bucket_settings.locking(self._bucket)
            try:
                bucket_settings.refuse_default(locking)
            except RefusedError as error:
                if not any(finding.what == "lock" for finding in self.found):
                    self.found.append(Finding("lock", str(error)))
            if days and not locking.enabled:
                text = (
                    f"The backup is to be locked for {days} days (giggles:backup:lock_days), and Object Lock is off for this bucket. "
                    "Switch it on in the web UI of Backblaze (bucket, Object Lock; it cannot be switched off again), without a default "
                    "retention, or set lock_days to 0."
                )
                self.found.append(Finding("lock", text))
            elif days and not any(finding.what in ("lock", "deleteFiles", "writeFiles") for finding in self.found):
                self._lock()
        with self._right("readBucketLifecycleRules", "see what the bucket deletes by itself"):
            bucket_settings.rules(self._bucket)

    def _lock(self) -> None:
        """Lock an object for some seconds, by the bucket's clock, and delete it after them."""
        until = (self._theirs() or self._connection.now()).replace(microsecond=0) + timedelta(seconds=_LOCK_SECONDS)
        version = self._write(ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
        if version is None:
            return
        which = {"VersionId": version}
        with self._right("readFileRetentions", "say until when something is locked"):
            held = self._connection.ask("GetObjectRetention", self._name, **which)["Retention"]["RetainUntilDate"]
            if held != until:
                self.found.append(Finding("lock", f"The bucket was asked to lock an object until {until}, and locked it until {held}."))
        # One second more: the date that is sent has whole seconds.
        self._connection.patience.sleep(_LOCK_SECONDS + 1)
        # If it is locked still, the next probe deletes it.
        with contextlib.suppress(DeniedError):
            self._connection.ask("DeleteObject", self._name, **which)


_REMEDY = (
    "The rights of a key cannot be changed: make a new one that has all that docs/BACKUP_AND_RESTORE.md lists, put it into "
    "giggles:secrets:backup in the droplet's pillar, run salt-call state.apply backup, and delete the old one."
)
