"""What is missing at the bucket is named, nothing is claimed that was not seen, and nothing of the probe stays."""

from __future__ import annotations

import base64
import contextlib
import time
from typing import Any

import pytest
from gigglekit.backup import bucket_settings, client
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.bucket_settings import RULE, Wanted
from gigglekit.backup.errors import DeniedError, RefusedError, UnreachableError
from gigglekit.backup.probe import UNCOMPARED, faults, probe
from gigglekit.backup.sending import Patience

from tests.unit.b2 import Storage
from tests.unit.buckets import Waiting, bucket, settings, with_key

RIGHTS = ("listFiles", "readFiles", "listBuckets", "writeFiles", "deleteFiles", "readBucketRetentions", "readBucketLifecycleRules")
LOCK_RIGHTS = ("writeFileRetentions", "readFileRetentions")


def whats(there: Bucket) -> list[str]:
    return [finding.what for finding in probe(there)]


def leaping(storage: Storage, **changes: Any) -> Bucket:
    """Return a bucket that waits by moving the bucket's clock."""
    patience = Patience(sleep=lambda seconds: storage.proxy.set_clock(seconds + 1), clock=time.monotonic)
    return Bucket(settings(storage, **changes), patience=patience)


# --- the probe ------------------------------------------------------------------------------------------------------------


def test_a_bucket_with_all_rights_is_found_right_and_left_empty(b2: Storage) -> None:
    there = with_key(b2, b2.key(*RIGHTS, bucket=b2.bucket, prefix="p/"), prefix="p/")
    assert probe(there) == []
    assert [*bucket(b2).versions()] == []
    assert faults(settings(b2)) == []


def test_locks_are_tried_and_left_behind_by_nobody(b2_locked: Storage) -> None:
    key = b2_locked.key(*RIGHTS, *LOCK_RIGHTS)
    there = leaping(b2_locked, lock_days=30, key_id=key[0], application_key=key[1])
    assert probe(there) == []
    assert [*there.versions()] == []
    locks = [request for request in b2_locked.proxy.requests() if request["operation"] == "GetObjectRetention"]
    assert len(locks) == 1


def test_a_bucket_that_takes_other_bytes_than_were_signed_is_told_and_left_empty(b2: Storage) -> None:
    b2.proxy.set_faults([{"kind": "unchecked", "method": "PUT"}])
    (found,) = probe(bucket(b2))
    assert (found.what, found.serious) == (UNCOMPARED, False)
    assert "MD5" in found.text
    assert faults(settings(b2)) == [], "the backup has another way"
    assert [*bucket(b2).versions()] == []


def test_a_bucket_that_takes_nothing_without_its_md5_gets_it_though_nothing_is_to_be_locked(b2_locked: Storage) -> None:
    (found,) = probe(bucket(b2_locked))
    assert (found.what, found.serious) == (UNCOMPARED, False)
    assert "InvalidRequest" in found.text
    assert [*bucket(b2_locked).versions()] == []


@pytest.mark.parametrize("compares", [True, False])
def test_a_pack_carries_its_md5_where_the_bucket_does_not_compare(b2: Storage, monkeypatch: pytest.MonkeyPatch, compares: bool) -> None:
    there = Bucket(settings(b2), patience=Patience(tries=2, first=0.0), compares=compares)
    monkeypatch.setattr(client, "md5", lambda _: base64.b64encode(bytes(16)).decode())
    carried = contextlib.nullcontext() if compares else pytest.raises(UnreachableError, match="BadDigest")
    with carried:
        there.put("data/pack", b"pack", confirmed=False)
    assert [entry.name for entry in there.list()] == (["data/pack"] if compares else [])


@pytest.mark.parametrize("right", RIGHTS)
def test_the_right_that_is_missing_is_named(b2: Storage, right: str) -> None:
    there = with_key(b2, b2.key(*(each for each in RIGHTS if each != right)))
    found = probe(there)
    assert [finding.what for finding in found] == [right]
    assert f"has not the right {right}" in found[0].text
    assert found[0].serious == (right != "readBucketRetentions")


@pytest.mark.parametrize("right", LOCK_RIGHTS)
def test_the_right_to_lock_is_named(b2_locked: Storage, right: str) -> None:
    key = b2_locked.key(*(each for each in (*RIGHTS, *LOCK_RIGHTS) if each != right))
    there = leaping(b2_locked, lock_days=30, key_id=key[0], application_key=key[1])
    assert whats(there) == [right]
    assert [*bucket(b2_locked).versions()] == []


def test_several_are_all_named(b2: Storage) -> None:
    there = with_key(b2, b2.key("listFiles", "writeFiles"))
    assert whats(there) == ["readFiles", "deleteFiles", "readBucketRetentions", "readBucketLifecycleRules"]


def test_a_key_without_the_right_to_write_is_told_nothing_about_deleting(b2: Storage) -> None:
    assert whats(with_key(b2, b2.key("listFiles", "readFiles"))) == ["writeFiles", "readBucketRetentions", "readBucketLifecycleRules"]


@pytest.mark.parametrize("restricted", [{"bucket": "giggles-other"}, {"prefix": "elsewhere/"}])
def test_a_key_for_something_else_is_one_finding(b2: Storage, restricted: dict[str, str]) -> None:
    there = with_key(b2, b2.key(*RIGHTS, **restricted))
    found = probe(there)
    assert [finding.what for finding in found] == ["bucket"]
    assert "another bucket or prefix" in found[0].text


def test_wrong_credentials_are_no_missing_right(b2: Storage) -> None:
    assert whats(bucket(b2, key_id="004none")) == ["credentials"]
    assert whats(bucket(b2, application_key="K004" + "x" * 27)) == ["credentials"]


def test_a_bucket_that_is_not_there(b2: Storage) -> None:
    found = probe(bucket(b2, bucket="giggles-none"))
    assert [finding.what for finding in found] == ["bucket"]
    assert "no bucket of this name" in found[0].text


def test_a_bucket_that_does_not_answer_is_no_finding(b2: Storage) -> None:
    with pytest.raises(UnreachableError):
        probe(bucket(b2, endpoint="http://127.0.0.1:9"))


def test_clocks_that_differ(b2: Storage) -> None:
    b2.proxy.set_clock(600)
    found = probe(bucket(b2))
    assert [(finding.what, finding.serious) for finding in found] == [("clock", False)]
    assert "10 minutes behind" in found[0].text
    b2.proxy.set_clock(3600)
    found = probe(bucket(b2))
    assert [(finding.what, finding.serious) for finding in found] == [("clock", True)]


def test_locking_that_is_wanted_and_off(b2: Storage) -> None:
    found = probe(bucket(b2, lock_days=30))
    assert [finding.what for finding in found] == ["lock"]
    assert "Object Lock is off" in found[0].text
    assert probe(bucket(b2)) == []


@pytest.mark.parametrize("lock_days", [0, 30])
def test_a_bucket_that_locks_everything_is_refused(b2_locked: Storage, lock_days: int) -> None:
    there = bucket(b2_locked, lock_days=lock_days)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    there.connection.ask("PutObjectLockConfiguration", ObjectLockConfiguration=configuration)
    assert [finding.what for finding in probe(there) if finding.serious] == ["lock"]
    with pytest.raises(RefusedError, match="compliance for 1 days"):
        bucket_settings.establish(there)


def test_what_a_killed_probe_has_left_is_deleted(b2: Storage) -> None:
    there = bucket(b2)
    there.put("probe/0123", b"x")
    there.put("probe1", b"not the probe's")
    assert probe(there) == []
    assert [entry.name for entry in there.versions()] == ["probe1"]


def test_other_bytes_than_were_written_are_told(b2: Storage) -> None:
    b2.proxy.set_faults([{"kind": "corrupt", "operation": "GetObject"}])
    assert whats(bucket(b2)) == ["content"]


# --- the bucket's own settings --------------------------------------------------------------------------------------------


def rules(there: Bucket) -> list[dict[str, Any]]:
    return bucket_settings.rules(there)


def set_rules(there: Bucket, *found: dict[str, Any]) -> None:
    there.connection.ask("PutBucketLifecycleConfiguration", LifecycleConfiguration={"Rules": [*found]})


@pytest.mark.parametrize("prefix", ["", "p/"])
def test_unfinished_uploads_are_cleared_away_and_set_once(b2: Storage, prefix: str) -> None:
    there = bucket(b2, prefix=prefix)
    missing = bucket_settings.settings_missing(there)
    assert len(missing) == 1
    assert rules(there) == []
    assert bucket_settings.establish(there) == missing
    assert bucket_settings.settings_missing(there) == []
    b2.proxy.clear_requests()
    assert bucket_settings.establish(there) == []
    assert "PutBucketLifecycleConfiguration" not in [request["operation"] for request in b2.proxy.requests()]
    (rule,) = rules(there)
    assert (rule["ID"], rule["Filter"]["Prefix"], rule["Status"]) == (RULE, prefix, "Enabled")
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}
    assert "Expiration" not in rule


def test_rules_of_others_stay(b2: Storage) -> None:
    there = bucket(b2, prefix="p/")
    other = {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 5}}
    set_rules(there, other)
    bucket_settings.establish(there)
    assert [rule["ID"] for rule in rules(there)] == ["other", RULE]
    assert rules(there)[0]["Expiration"] == {"Days": 5}


def test_a_rule_for_the_same_names_is_added_to(b2: Storage) -> None:
    there = bucket(b2)
    set_rules(
        there, {"ID": "keep-last", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    )
    bucket_settings.establish(there)
    (rule,) = rules(there)
    assert (rule["ID"], rule["NoncurrentVersionExpiration"]["NoncurrentDays"]) == ("keep-last", 1)
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}


def test_a_rule_that_deletes_the_backup_is_taken_away(b2: Storage) -> None:
    there = bucket(b2)
    set_rules(there, {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "data/"}, "Expiration": {"Days": 5}})
    assert len(bucket_settings.settings_missing(there)) == 2
    bucket_settings.establish(there)
    assert [rule["ID"] for rule in rules(there)] == [RULE]


def test_a_rule_for_more_than_the_backup_is_left_to_people(b2: Storage) -> None:
    there = bucket(b2, prefix="p/")
    old = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 5}}
    set_rules(there, old)
    for ask in (bucket_settings.settings_missing, bucket_settings.establish):
        with pytest.raises(RefusedError, match="lifecycle rule"):
            ask(there)
    assert [rule["ID"] for rule in rules(there)] == ["old"]
    set_rules(there, {**old, "Status": "Disabled"})
    bucket_settings.establish(there)


def test_a_longer_time_than_wanted_is_shortened_and_a_shorter_one_stays(b2: Storage) -> None:
    there = bucket(b2)
    bucket_settings.establish(there, Wanted(7))
    assert bucket_settings.settings_missing(there, Wanted(7)) == []
    assert bucket_settings.establish(there, Wanted(3))
    assert bucket_settings.establish(there, Wanted(7)) == []
    assert rules(there)[0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 3}


def test_the_right_to_set_is_named(b2: Storage) -> None:
    there = with_key(b2, b2.key(*RIGHTS))
    assert bucket_settings.settings_missing(there)
    with pytest.raises(DeniedError, match="writeBucketLifecycleRules"):
        bucket_settings.establish(there)


def test_a_probe_waits_for_a_busy_bucket(b2: Storage) -> None:
    waiting = Waiting()
    b2.proxy.set_faults([{"kind": "slow-down", "every": 2, "key": f"^{b2.bucket}/"}])
    assert probe(bucket(b2, waiting)) == []
    assert waiting.waits
