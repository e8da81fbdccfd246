"""Asking again when the bucket is busy or the network fails, and saying what is wrong when that does not help.

B2 answers 503 SlowDown in normal operation and expects to be asked again: https://www.backblaze.com/docs/cloud-storage-s3-compatible-api.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from gigglekit.backup.errors import BackupError, ClockError, DeniedError, MissingError, UnreachableError

T = TypeVar("T")

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODE = frozenset(
    (
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "TooManyRequests",
        "Throttling",
        "BadDigest",
        "IncompleteBody",
        "OperationAborted",
    )
)
"""Errors that another attempt may not meet. BadDigest: the bytes were damaged on their way, since we send the right MD5."""

WRONG_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
"""Codes that say that the key is not known, whatever its rights."""
_WRONG_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")

CAPABILITIES = {
    "GetObject": "readFiles, and listBuckets to be told that something is not there",
    "HeadObject": "readFiles, and listBuckets to be told that something is not there",
    "PutObject": "writeFiles",
    "CreateMultipartUpload": "writeFiles",
    "UploadPart": "writeFiles",
    "CompleteMultipartUpload": "writeFiles",
    "AbortMultipartUpload": "writeFiles",
    "DeleteObject": "deleteFiles",
    "DeleteObjects": "deleteFiles",
    "ListObjectsV2": "listFiles",
    "ListObjectVersions": "listFiles",
    "ListMultipartUploads": "listFiles",
    "GetObjectRetention": "readFileRetentions",
    "GetObjectLegalHold": "readFileLegalHolds",
    "GetObjectLockConfiguration": "readBucketRetentions",
    "GetBucketVersioning": "readBuckets",
    "GetBucketLifecycleConfiguration": "readBucketLifecycleRules",
    "PutBucketLifecycleConfiguration": "writeBucketLifecycleRules",
}
"""The right that B2 asks for, by operation of S3."""


@dataclass(frozen=True)
class Patience:
    """How long to go on asking.

    Arguments:
        tries: at most so many attempts.
        seconds: no new attempt after so long, waits included.
        first: the longest wait before the second attempt, in seconds; it doubles with each one.
        longest: the longest wait, in seconds, whatever the bucket asks for.
        sleep: waits, in seconds.
        clock: a monotonic clock, in seconds.
        chance: a number from 0 to 1, so that several threads do not come back at the same moment.
    """

    tries: int = 8
    seconds: float = 300.0
    first: float = 0.5
    longest: float = 60.0
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


class Broken(Exception):
    """An answer that ended before it was whole, or that is not the one to the question; another attempt may help."""


class Attempts:
    """One question and its attempts.

    Arguments:
        patience: how long to go on.
        what: the operation of S3.
        name: of the object, "" if it is about none.
        endpoint: for messages.
        locked: whether a lock is set with it.
    """

    def __init__(self, patience: Patience, what: str, name: str = "", *, endpoint: str = "", locked: bool = False) -> None:
        self._patience = patience
        self._what, self._name, self._endpoint, self._locked = what, name, endpoint, locked
        self._end = patience.clock() + patience.seconds
        self.failed = 0

    def progress(self) -> None:
        """Say that an attempt got on, so that the next ones are counted anew."""
        self.failed = 0
        self._end = self._patience.clock() + self._patience.seconds

    def wait(self, error: Exception) -> None:
        """Wait for the next attempt, if there is a point in one.

        Arguments:
            error: why the last one failed.

        Raises:
            BackupError: no further attempt helps, or there were enough.
        """
        if not is_transient(error):
            raise explained(error, self._what, self._name, endpoint=self._endpoint, locked=self._locked) from error
        self.failed += 1
        wait = self._patience.chance() * min(self._patience.longest, self._patience.first * 2 ** (self.failed - 1))
        wait = max(wait, min(_retry_after(error), self._patience.longest))
        if self.failed >= self._patience.tries or self._patience.clock() + wait > self._end:
            raise UnreachableError(
                f"The bucket at {self._endpoint} could not be asked ({self._what}), {self.failed} times in a row; the last time: "
                f"{short(error)}. Nothing is lost, the next run goes on from here. If it lasts, look whether this droplet reaches the "
                f"endpoint (curl -I {self._endpoint}) and at https://status.backblaze.com."
            ) from error
        self._patience.sleep(wait)


def ask(attempts: Attempts, question: Callable[[], T]) -> T:
    """Return what `question` returns, after as many attempts as it takes.

    Raises:
        BackupError: it cannot be had.
    """
    while True:
        try:
            return question()
        except BackupError:
            raise
        except Exception as error:
            # botocore raises many kinds for a broken connection; whatever is not of the way goes on up.
            if not is_of_the_way(error):
                raise
            attempts.wait(error)


def is_of_the_way(error: Exception) -> bool:
    """Tell whether this comes from the server or the way there, and is not a mistake of ours."""
    import botocore.exceptions  # type: ignore[import-untyped]
    import urllib3.exceptions

    kinds = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, Broken, OSError)
    return isinstance(error, kinds) and not isinstance(error, botocore.exceptions.ParamValidationError)


def is_transient(error: Exception) -> bool:
    """Tell whether another attempt may have another outcome."""
    import botocore.exceptions

    if isinstance(error, botocore.exceptions.ClientError):
        return status_of(error) in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODE
    return not _is_about_certificates(error)


def code_of(error: BaseException | None) -> str:
    """Return the code that the bucket gave, such as `NoSuchKey`; "" if it gave none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException | None) -> int:
    """Return the HTTP status of the answer, 0 if there was none."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def has_code(error: BackupError, *codes: str) -> bool:
    """Tell whether an error was raised because the bucket gave one of these codes."""
    return code_of(error.__cause__) in codes


def _answer(error: BaseException | None) -> dict[str, Any]:
    # Errors of the way there have a `response` too, which is None.
    return getattr(error, "response", None) or {}


def _headers(error: Exception) -> dict[str, str]:
    headers: dict[str, str] = _answer(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _message(error: BaseException) -> str:
    return str(_answer(error).get("Error", {}).get("Message", ""))


def _retry_after(error: Exception) -> float:
    value = _headers(error).get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    when = _date(value)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds()) if when else 0.0


def _date(text: str) -> datetime | None:
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)


def _is_about_certificates(error: BaseException | None) -> bool:
    import ssl

    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error, seen = getattr(error, "kwargs", {}).get("error") or error.__cause__ or error.__context__, seen + 1
    return False


def short(error: BaseException) -> str:
    """Return one line about an error; it holds no secret."""
    if code := code_of(error):
        return f"{status_of(error)} {code}" + (f" ({_message(error)})" if _message(error) else "")
    return f"{type(error).__name__}: {error}"[:300]


def explained(error: Exception, what: str, name: str = "", *, endpoint: str = "", locked: bool = False) -> BackupError:
    """Return the error that an operator reads, for one that no further attempt helps against.

    Arguments:
        error: what happened.
        what: the operation of S3.
        name: of the object, "" if it is about none.
        endpoint: that was asked.
        locked: whether a lock was to be set.
    """
    code, status = code_of(error), status_of(error)
    about = f"{what} of {name}" if name else what
    if _is_about_certificates(error):
        return BackupError(
            f"The certificate of {endpoint} is not one that this droplet trusts, so nothing was sent to it. For Backblaze B2 correct "
            "giggles:backup:endpoint, and the clock (timedatectl); for an S3 server of your own, name the file with its certificate "
            "authority in giggles:backup:ca_bundle."
        )
    if code == "RequestTimeTooSkewed":
        return ClockError(_about_the_clock(error))
    if code in ("NoSuchKey", "NoSuchVersion") or (
        status == 404 and code in ("404", "NotFound", "") and what in ("HeadObject", "GetObject")
    ):
        return MissingError(name)
    if code == "NoSuchBucket":
        return BackupError(
            f"There is no bucket of this name at {endpoint}. Compare giggles:backup:bucket with the name in the web UI of Backblaze, and "
            "giggles:backup:endpoint with the endpoint that is shown there beside the bucket: a bucket is in one region only."
        )
    if code in _WRONG_REGION or status in (301, 302, 307):
        return BackupError(
            f"The bucket is not where it was asked for: {endpoint} answered {short(error)}. Set giggles:backup:endpoint to the endpoint "
            "that the web UI of Backblaze shows beside the bucket, and giggles:backup:region to the second part of its name, such as "
            "eu-central-003."
        )
    if code in WRONG_CREDENTIALS or status == 401:
        which = (
            "application key does not belong to its key id" if code == "SignatureDoesNotMatch" else "key id is not known there (any more)"
        )
        return DeniedError(
            f"The bucket refuses this droplet's credentials: the {which} ({short(error)}). Make an application key for this bucket in the "
            "web UI of Backblaze, put both halves into giggles:secrets:backup in the droplet's pillar (key_id, application_key), and run "
            "salt-call state.apply backup."
        )
    if status == 403:
        right = CAPABILITIES.get(what, "")
        if right and locked:
            right += " and writeFileRetentions"
        return DeniedError(
            f"The application key may not do this ({about}): the bucket answered {short(error)}. "
            + (f"It needs {right}, for this bucket and prefix. " if right else "")
            + "The rights of a key cannot be changed: make a new one that has all that docs/BACKUP_AND_RESTORE.md lists, put it into "
            "giggles:secrets:backup in the droplet's pillar, run salt-call state.apply backup, and delete the old one."
        )
    return BackupError(
        f"The bucket at {endpoint} refused what was asked of it ({about}): {short(error)}. Nothing was changed. Asking again gives the "
        "same answer; if the bucket's settings were changed by hand, salt-call state.apply backup puts them right."
    )


def _about_the_clock(error: Exception) -> str:
    theirs = _date(_headers(error).get("date", ""))
    off = (datetime.now(timezone.utc) - theirs).total_seconds() if theirs else 0.0
    how = f"{abs(off) / 60:.0f} minutes {'ahead' if off > 0 else 'behind'}" if abs(off) >= 60 else "by more than the 15 minutes it allows"
    return (
        f"The clock of this droplet and that of the bucket differ: this one is {how}, so the bucket takes no request from it. "
        "Set the clock: timedatectl set-ntp true, then timedatectl says whether it is synchronized. The next run goes on from here."
    )
