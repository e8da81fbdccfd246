"""The settings of the bucket itself: uploads that were never ended are thrown away by it, and it deletes and locks nothing else by itself.

Sources: https://www.backblaze.com/docs/cloud-storage-lifecycle-rules and
https://www.backblaze.com/apidocs/s3-put-lifecycle-configuration.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigglekit.backup.errors import BackupError, RefusedError
from gigglekit.backup.sending import has_code

if TYPE_CHECKING:
    from gigglekit.backup.bucket import Bucket

RULE = "giggles-unfinished-uploads"
_NO_RULES = ("NoSuchLifecycleConfiguration",)
_NO_LOCK = ("ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration")


@dataclass(frozen=True)
class Wanted:
    """What the bucket is to do by itself.

    Arguments:
        unfinished_days: after so many days the parts of an upload that was not ended are thrown away.
    """

    unfinished_days: int = 3


@dataclass(frozen=True)
class Locking:
    """How the bucket locks objects.

    Arguments:
        enabled: whether it can.
        default: how it locks what is written without a word about it, for people; "" if it does not.
    """

    enabled: bool
    default: str


def settings_missing(bucket: Bucket, wanted: Wanted | None = None) -> list[str]:
    """Return what is not as it should be, a line for each; nothing is changed.

    Arguments:
        bucket: it.
        wanted: the settings; the usual ones if None.

    Raises:
        RefusedError: something is set that only a person can decide about; the message says what.
        DeniedError: the right to read the settings is missing.
        BackupError: they cannot be had.
    """
    return _compared(bucket, wanted or Wanted())[1]


def establish(bucket: Bucket, wanted: Wanted | None = None) -> list[str]:
    """Set what is not as it should be; rules of others stay.

    Returns:
        What was changed, a line for each.

    Raises:
        RefusedError, DeniedError, BackupError: as `settings_missing`; nothing was changed.
    """
    kept, missing = _compared(bucket, wanted or Wanted())
    if missing:
        bucket.connection.ask("PutBucketLifecycleConfiguration", LifecycleConfiguration={"Rules": kept})
    return missing


def locking(bucket: Bucket) -> Locking:
    """Return how the bucket locks objects.

    Raises:
        DeniedError: the right readBucketRetentions is missing.
        BackupError: it cannot be had.
    """
    try:
        answer = bucket.connection.ask("GetObjectLockConfiguration").get("ObjectLockConfiguration", {})
    except BackupError as error:
        if has_code(error, *_NO_LOCK):
            return Locking(False, "")
        raise
    retention = answer.get("Rule", {}).get("DefaultRetention", {})
    count = f"{retention['Days']} days" if retention.get("Days") else f"{retention['Years']} years" if retention.get("Years") else ""
    default = f"{retention.get('Mode', '').lower()} for {count}" if count else ""
    return Locking(answer.get("ObjectLockEnabled") == "Enabled", default)


def refuse_default(found: Locking) -> None:
    """Refuse a bucket that locks everything.

    Raises:
        RefusedError: it does.
    """
    if found.default:
        raise RefusedError(
            f"The bucket locks everything that is written to it ({found.default}), by a default retention. The keys in the backup must "
            "never be locked: an erasure deletes them, and a locked key would make it wait. Take the default away in the web UI of "
            "Backblaze (bucket, Object Lock, default retention: none) and leave Object Lock itself on: the backup locks by itself what is "
            "to be locked (giggles:backup:lock_days)."
        )


def _compared(bucket: Bucket, wanted: Wanted) -> tuple[list[dict[str, Any]], list[str]]:
    refuse_default(locking(bucket))
    prefix = bucket.settings.prefix
    kept: list[dict[str, Any]] = []
    missing: list[str] = []
    for found in rules(bucket):
        rule = copy.deepcopy(found)
        if rule.get("Status") == "Enabled" and _deletes(rule) and _overlaps(_prefix(rule), prefix):
            if not _prefix(rule).startswith(prefix):
                raise RefusedError(
                    f"The bucket has a lifecycle rule for names that begin with {_prefix(rule)!r}, which deletes objects after a time, and "
                    f"so the backup below {prefix!r} too. It is not changed, since it may be meant for what else is in this bucket. Narrow "
                    "it or take it away in the web UI of Backblaze (bucket, Lifecycle Settings), or give the backup a bucket of its own."
                )
            missing.append(f"a lifecycle rule would delete what begins with {_prefix(rule)!r} after a time")
            for name in ("Expiration", "Transitions"):
                rule.pop(name, None)
            if not any(name in rule for name in ("AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration")):
                continue
        kept.append(rule)
    # B2 takes one rule for a prefix, so what is wanted is added to one that is there.
    ours = next((rule for rule in kept if _prefix(rule) == prefix and rule.get("Status") == "Enabled"), None)
    days = (ours or {}).get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation")
    if days is None or days > wanted.unfinished_days:
        missing.append(f"uploads that were not ended are thrown away {'never' if days is None else f'only after {days} days'}")
        if ours is None:
            kept = [rule for rule in kept if rule.get("ID") != RULE]
            ours = {"ID": RULE, "Status": "Enabled", "Filter": {"Prefix": prefix}}
            kept.append(ours)
        ours["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": wanted.unfinished_days}
    return kept, missing


def rules(bucket: Bucket) -> list[dict[str, Any]]:
    """Return the rules by which the bucket deletes by itself, as botocore has them.

    Raises:
        DeniedError: the right readBucketLifecycleRules is missing.
        BackupError: they cannot be had.
    """
    try:
        return list(bucket.connection.ask("GetBucketLifecycleConfiguration").get("Rules", []))
    except BackupError as error:
        if has_code(error, *_NO_RULES):
            return []
        raise


def _deletes(rule: dict[str, Any]) -> bool:
    # A rule that only removes markers without anything behind them deletes nothing.
    return any(name in rule.get("Expiration", {}) for name in ("Days", "Date"))


def _overlaps(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _prefix(rule: dict[str, Any]) -> str:
    found = rule.get("Filter", {})
    return str(found.get("Prefix") or found.get("And", {}).get("Prefix") or rule.get("Prefix") or "")
