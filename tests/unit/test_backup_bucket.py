"""What is written to the bucket comes back as it was, and what is erased is gone in every version, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest
from gigglekit.backup import multipart
from gigglekit.backup.errors import BackupError, DamagedError, DeniedError, LockedError, MissingError, RefusedError
from gigglekit.backup.objects import Version
from gigglekit.backup.throttle import Throttle

from tests.unit.b2 import Storage
from tests.unit.buckets import Waiting, bucket, with_key

MIB = 1024 * 1024


def operations(storage: Storage) -> list[str]:
    return [request["operation"] for request in storage.proxy.requests() if request["bucket"] == storage.bucket]


# --- writing and reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_put_is_got(b2: Storage, kind: type) -> None:
    there = bucket(b2, prefix="a/droplet/")
    content = bytes(range(256)) * 5
    there.put("data/x", kind(content))
    assert there.get("data/x") == content
    assert there.read("data/x", 250, 12) == content[250:262]
    assert there.read("data/x", 1279, 1) == content[1279:]
    assert there.read("data/x", 7, 0) == b""
    assert b"".join(there.stream("data/x")) == content
    assert b"".join(there.stream("data/x", 1000)) == content[1000:]
    found = b2.bare_client().list_objects_v2(Bucket=b2.bucket)["Contents"]
    assert [entry["Key"] for entry in found] == ["a/droplet/data/x"]


def test_an_empty_object_is_one_too(b2: Storage) -> None:
    there = bucket(b2)
    there.put("empty", b"")
    assert there.get("empty") == b""
    assert b"".join(there.stream("empty")) == b""
    assert there.put_stream("stream", []) == 0
    assert there.get("stream") == b""


def test_what_is_not_there_is_missing_and_has_a_name(b2: Storage) -> None:
    there = bucket(b2)
    for ask in (lambda: there.get("data/none"), lambda: there.read("data/none", 0, 5), lambda: [*there.stream("data/none")]):
        with pytest.raises(MissingError) as caught:
            ask()
        assert caught.value.name == "data/none"
    assert there.erase("data/none").versions == 0


def test_what_is_longer_than_it_can_be_is_not_read(b2: Storage) -> None:
    there = bucket(b2)
    there.put("x", bytes(1001))
    assert len(there.get("x", 1001)) == 1001
    with pytest.raises(DamagedError) as caught:
        there.get("x", 1000)
    assert caught.value.name == "x"
    assert there.requests.bytes_received == 1001


def test_what_ends_too_early_is_damaged(b2: Storage) -> None:
    waiting = Waiting()
    there = bucket(b2, waiting)
    there.put("x", bytes(10))
    for ask in (lambda: there.read("x", 5, 6), lambda: there.read("x", 10, 1), lambda: [*there.stream("x", 11)]):
        with pytest.raises(DamagedError):
            ask()
    assert waiting.waits == []


def test_a_stream_is_put_in_parts_and_comes_back_whole(b2: Storage) -> None:
    there = bucket(b2)
    chunk = bytes(range(251)) * 13001
    assert there.put_stream("database/x", (chunk for _ in range(11))) == len(chunk) * 11
    assert b"".join(there.stream("database/x")) == chunk * 11
    assert operations(b2).count("UploadPart") == -(-len(chunk) * 11 // multipart.PART_BYTES)
    assert there.unfinished() == []


@pytest.mark.parametrize("size", [0, 1, multipart.PART_BYTES - 1, multipart.PART_BYTES])
def test_a_short_stream_is_one_request(b2: Storage, size: int) -> None:
    there = bucket(b2)
    assert there.put_stream("x", [bytes(size)]) == size
    assert operations(b2) == ["PutObject"]
    assert len(there.get("x")) == size


def test_an_error_in_a_stream_leaves_nothing(b2: Storage) -> None:
    def chunks() -> object:
        yield bytes(multipart.PART_BYTES + 1)
        raise OSError("pg_dump ended")

    there = bucket(b2)
    with pytest.raises(OSError, match="pg_dump ended"):
        there.put_stream("database/x", chunks())
    assert [*there.versions()] == []
    assert there.unfinished() == []
    assert "AbortMultipartUpload" in operations(b2)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "ä", "a\n", "a\0", ".a", "a/.b", "a" * 501, "a?b", "a%2f", "~a"]
)
def test_odd_names_are_refused_before_anything_is_sent(b2: Storage, name: str) -> None:
    there = bucket(b2)
    for ask in (
        lambda: there.get(name),
        lambda: there.read(name, 0, 1),
        lambda: [*there.stream(name)],
        lambda: there.put(name, b""),
        lambda: there.put_stream(name, []),
        lambda: there.erase(name),
        lambda: there.erase_many(["a", name]),
    ):
        with pytest.raises(RefusedError):
            ask()
    assert operations(b2) == []


# --- listing ------------------------------------------------------------------------------------------------------------


def test_a_listing_has_the_newest_and_versions_have_all(b2: Storage) -> None:
    there = bucket(b2, prefix="p/")
    b2.client().put_object(Bucket=b2.bucket, Key="other", Body=b"")
    for content in (b"1", b"22"):
        there.put("a", content)
    there.put("hidden", b"333")
    b2.client().delete_object(Bucket=b2.bucket, Key="p/hidden")
    assert [(entry.name, entry.size) for entry in there.list()] == [("a", 2)]
    assert sorted((entry.name, entry.size, entry.marker) for entry in there.versions()) == [
        ("a", 1, False), ("a", 2, False), ("hidden", 0, True), ("hidden", 3, False)]  # fmt: skip
    for entry in (*there.list(), *there.versions()):
        assert entry.modified.tzinfo is timezone.utc
        assert abs(entry.modified - datetime.now(timezone.utc)) < timedelta(minutes=10)


def test_listings_go_on_after_a_thousand(b2: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from gigglekit.backup.connection import Connection

    there = bucket(b2)
    names = [f"data/{number:03d}" for number in range(23)]
    for name in names:
        there.put(name, b"x")
    below = Connection.below
    monkeypatch.setattr(Connection, "below", lambda self, prefix: {**below(self, prefix), "MaxKeys": 5})
    assert [entry.name for entry in there.list("data/")] == names
    assert [entry.name for entry in there.versions("data/")] == names


# --- erasing ------------------------------------------------------------------------------------------------------------


def everything(storage: Storage) -> list[tuple[str, bool]]:
    client = storage.client()
    answer = client.list_object_versions(Bucket=storage.bucket)
    return sorted([(e["Key"], False) for e in answer.get("Versions", [])] + [(e["Key"], True) for e in answer.get("DeleteMarkers", [])])


def test_erasing_takes_every_version_and_marker_and_no_neighbour(b2: Storage) -> None:
    there = bucket(b2)
    for name in ("a", "a1", "a/b", "a-", "b"):
        for content in (b"1", b"2"):
            there.put(name, content)
        b2.client().delete_object(Bucket=b2.bucket, Key=name)
    before = everything(b2)
    erased = there.erase("a")
    assert (erased.versions, erased.locked_until) == (3, None)
    assert everything(b2) == [entry for entry in before if entry[0] != "a"]


def test_the_oldest_version_goes_first(b2: Storage) -> None:
    # Were it the other way round, a run that is killed would leave an older version, or a hidden one, as the newest.
    when = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (3, 2, 1, 1)]
    listed = [Version("a", str(number), 1, number == 0, each) for number, each in enumerate(when)]
    eraser, order = bucket(b2)._eraser, list[str]()
    eraser._takes_many = False
    eraser._delete_one = lambda version: order.append(version.version_id)  # type: ignore[assignment, method-assign, func-returns-value]
    eraser._delete(listed)
    assert order == ["3", "2", "1", "0"]
    there = bucket(b2)
    there._eraser._takes_many = False
    client = b2.client()
    ids = [client.put_object(Bucket=b2.bucket, Key="a", Body=content)["VersionId"] for content in (b"1", b"2", b"3")]
    ids.append(client.delete_object(Bucket=b2.bucket, Key="a")["VersionId"])
    b2.proxy.clear_requests()
    there.erase("a")
    deleted = [request["query"]["versionId"] for request in b2.proxy.requests() if request["operation"] == "DeleteObject"]
    assert sorted(deleted) == sorted(ids)
    assert deleted[-1] == ids[-1]


@pytest.mark.parametrize("many", [True, False])
def test_many_names_cost_few_requests(b2: Storage, many: bool) -> None:
    there = bucket(b2, prefix="p/")
    there._eraser._takes_many = many
    names = [f"data/{number:03d}" for number in range(40)]
    for name in [*names, "data/0011", "keys/users/a", "keys/users/a1"]:
        there.put(name, b"x")
    there.put("data/007", b"y")
    b2.proxy.clear_requests()
    erased = there.erase_many([*names, "keys/users/a", "data/none"])
    assert erased.versions == 42
    assert [entry.name for entry in there.versions()] == ["data/0011", "keys/users/a1"]
    done = operations(b2)
    assert done.count("ListObjectVersions") - 1 <= 2
    assert done.count("DeleteObject" if many else "DeleteObjects") == 0
    assert done.count("DeleteObjects") == (1 if many else 0)


def test_names_that_lie_far_apart_are_found_over_all_pages(b2: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from gigglekit.backup.connection import Connection

    there = bucket(b2)
    names = [f"data/{number:03d}" for number in range(40)]
    for name in names:
        there.put(name, b"x")
        there.put(name, b"y")
    below = Connection.below
    monkeypatch.setattr(Connection, "below", lambda self, prefix: {**below(self, prefix), "MaxKeys": 7})
    for wanted in (names[0:9], [names[10], names[25], names[39]], [names[11]]):
        assert there.erase_many(wanted).versions == 2 * len(wanted)
        names = [name for name in names if name not in wanted]
        assert sorted({entry.name for entry in there.versions()}) == names


def test_a_bucket_that_does_not_delete_many_at_once_is_asked_for_each(b2: Storage) -> None:
    there = bucket(b2)
    for name in ("a", "b", "c"):
        there.put(name, b"x")
    ask = there.connection.ask
    refused = []

    def without_many(operation: str, name: str = "", **parameters: object) -> object:
        if operation == "DeleteObjects":
            refused.append(operation)
            import botocore.exceptions

            answer = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
            raise BackupError("no") from botocore.exceptions.ClientError(answer, operation)
        return ask(operation, name, **parameters)

    there.connection.ask = without_many  # type: ignore[method-assign]
    assert there.erase_many(["a", "b"]).versions == 2
    assert there.erase_many(["c"]).versions == 1
    assert refused == ["DeleteObjects"]
    assert [*there.versions()] == []


def test_locked_versions_stay_until_their_date(b2_locked: Storage) -> None:
    there = bucket(b2_locked, lock_days=3)
    before = datetime.now(timezone.utc).replace(microsecond=0)
    there.put("data/a", b"1")
    there.put("data/a", b"2", locked=True)
    there.put("data/b", b"3")
    erased = there.erase_many(["data/a", "data/b"])
    assert erased.versions == 2
    assert erased.locked_until is not None
    assert timedelta(days=3) <= erased.locked_until - before < timedelta(days=3, minutes=10)
    assert [(entry.name, entry.size) for entry in there.versions()] == [("data/a", 1)]
    b2_locked.proxy.set_clock(3 * 86400 + 600)
    late = bucket(b2_locked, lock_days=3)
    with pytest.raises(BackupError, match="clock"):
        late.erase("data/a")


def test_without_lock_days_nothing_is_locked(b2_locked: Storage) -> None:
    there = bucket(b2_locked, lock_days=0)
    there.put("data/a", b"1", locked=True)
    assert there.erase("data/a").locked_until is None
    assert [*there.versions()] == []


def test_a_stream_under_lock_is_locked(b2_locked: Storage) -> None:
    there = bucket(b2_locked, lock_days=1)
    there.put_stream("database/x", [bytes(multipart.PART_BYTES), b"x"], locked=True)
    assert there.erase("database/x").versions == 0


def test_a_legal_hold_is_told(b2_locked: Storage) -> None:
    there = bucket(b2_locked)
    there.put("a", b"1")
    there.connection.ask("PutObjectLegalHold", "a", LegalHold={"Status": "ON"})
    with pytest.raises(LockedError, match="legal hold") as caught:
        there.erase("a")
    assert caught.value.until is None


def test_a_missing_right_is_not_taken_for_a_lock(b2_locked: Storage) -> None:
    bucket(b2_locked).put("a", b"1")
    weak = with_key(b2_locked, b2_locked.key("listFiles", "readFiles", "writeFiles", "readFileRetentions", "readFileLegalHolds"))
    with pytest.raises(DeniedError, match="deleteFiles"):
        weak.erase("a")
    assert len([*bucket(b2_locked).versions()]) == 1


def test_unfinished_uploads_are_found_and_aborted(b2: Storage) -> None:
    there = bucket(b2, prefix="p/")
    upload = b2.client().create_multipart_upload(Bucket=b2.bucket, Key="p/database/x")["UploadId"]
    b2.client().upload_part(Bucket=b2.bucket, Key="p/database/x", UploadId=upload, PartNumber=1, Body=bytes(5 * MIB))
    found = there.unfinished("database/")
    assert [(entry.name, entry.upload_id) for entry in found] == [("database/x", upload)]
    there.abort(found[0])
    there.abort(found[0])
    assert there.unfinished() == []


# --- several threads, speed, memory -------------------------------------------------------------------------------------


def test_four_threads_use_one_bucket(b2: Storage) -> None:
    there = bucket(b2)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for each in range(5):
                content = bytes([number, each]) * 50_000
                there.put(f"data/{number}-{each}", content)
                assert there.get(f"data/{number}-{each}") == content
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert there.requests.methods == {"PUT": 20, "GET": 20}
    assert (there.requests.bytes_sent, there.requests.bytes_received) == (2_000_000, 2_000_000)


def test_uploads_keep_to_the_limit_and_the_limit_is_for_all(b2: Storage) -> None:
    waiting = Waiting()
    there = bucket(b2, waiting, upload_kib_per_second=100)
    for name in ("a", "b"):
        there.put(name, bytes(1000 * 1024))
    # 2000 KiB at 100 KiB/s, less the burst that is allowed.
    assert 19 <= sum(waiting.waits) <= 20


def test_a_throttle_makes_up_for_no_idle_time() -> None:
    waiting = Waiting()
    throttle = Throttle(1000, clock=lambda: waiting.now, sleep=waiting.sleep)
    waiting.now += 3600
    throttle.take(1000)
    throttle.take(1000)
    assert 1.7 <= sum(waiting.waits) <= 2.0


def test_large_objects_are_not_copied(b2: Storage) -> None:
    """One body of 64 MiB that exists already, sent under signature and MD5: memory grows by far less than a copy of it."""
    program = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from tests.unit.b2 import Storage
from tests.unit.buckets import bucket
proxy = type("Proxy", (), {{"endpoint": {b2.endpoint!r}}})
there = bucket(Storage(proxy, ("", 0), {b2.bucket!r}, {b2.key_id!r}, {b2.application_key!r}, False))
there.put("warm", b"up")
content = bytearray(b"x") * (64 << 20)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
there.put("large", content)
there.put_stream("stream", (memoryview(content)[i:i + 1000000] for i in range(0, len(content), 1000000)))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # 16 MiB for a part, and room for what the allocator keeps.
    assert int(done.stdout) < 32


def test_nothing_of_botocore_is_loaded_before_it_is_needed() -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import gigglekit.backup.bucket, gigglekit.backup.probe, gigglekit.backup.bucket_settings
print([name for name in sys.modules if name.startswith(("botocore", "boto3", "urllib3"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_is_made_without_what_it_does_not_use_and_others_still_find_that() -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from gigglekit.backup import client
from gigglekit.backup.settings import Keep, Settings
client.connect(Settings("https://localhost:1", "eu", "b", "", "key", "secret", 0, 0, 4, Keep(7, 4, 12), 30, False, "", ("public",)))
print("OpenSSL" in sys.modules)
from urllib3.contrib.pyopenssl import PyOpenSSLContext
print("OpenSSL" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr
