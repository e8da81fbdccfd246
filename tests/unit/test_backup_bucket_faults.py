"""The bucket may be busy, the network may break, and keys may be taken away: it is asked again where that helps, and told where not."""

from __future__ import annotations

import io
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gigglekit.backup import multipart, sending
from gigglekit.backup.body import Body, Requests
from gigglekit.backup.bucket import READ_BYTES, Bucket
from gigglekit.backup.errors import BackupError, ClockError, DamagedError, DeniedError, UnreachableError
from gigglekit.backup.throttle import Throttle

from tests.unit.b2 import Storage
from tests.unit.buckets import Waiting, bucket, settings

CONTENT = bytes(range(256)) * 20_000


def fault(storage: Storage, kind: str, **when: Any) -> None:
    storage.proxy.set_faults([{"kind": kind, "key": f"^{storage.bucket}/", **when}])


def fired(storage: Storage) -> int:
    return sum(rule["fired"] for rule in storage.proxy.faults())


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def there(b2: Storage, waiting: Waiting) -> Bucket:
    return bucket(b2, waiting)


def everything(there: Bucket) -> None:
    """Use the bucket for all that it is for, and check what comes back."""
    there.put("data/a", CONTENT)
    there.put("data/b", CONTENT)
    assert there.put_stream("database/x", (CONTENT for _ in range(4))) == 4 * len(CONTENT)
    assert there.get("data/a") == CONTENT
    assert there.read("data/a", 100, 4_000_000) == CONTENT[100:4_000_100]
    assert b"".join(there.stream("database/x")) == CONTENT * 4
    assert {entry.name for entry in there.list()} == {"data/a", "data/b", "database/x"}
    there.erase("data/a")
    there.erase_many(["data/b", "database/x"])
    assert [*there.versions()] == []
    assert there.unfinished() == []


# --- asking again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        ("slow-down", {"every": 2}),
        ("slow-down", {"every": 2, "retry_after": 2}),
        ("slow-down", {"probability": 0.5, "seed": 4}),
        ("reset-before", {"every": 2}),
        ("reset-after", {"every": 3}),
        ("truncate", {"every": 2, "method": "GET"}),
        ("truncate", {"every": 2, "method": "GET", "bytes": 1}),
        ("truncate", {"every": 2, "method": "GET", "bytes": 0}),
        ("lose-half", {"every": 2, "method": "PUT"}),
    ],
)
def test_a_storm_is_weathered(b2: Storage, there: Bucket, waiting: Waiting, kind: str, when: dict[str, Any]) -> None:
    fault(b2, kind, **when)
    everything(there)
    assert fired(b2) >= 3
    assert len(waiting.waits) >= fired(b2) - 1


def test_waits_grow_and_end(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    fault(b2, "slow-down")
    with pytest.raises(UnreachableError, match=r"8 times in a row.*SlowDown"):
        there.get("x")
    assert waiting.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert there.requests.total == 8


def test_threads_do_not_come_back_together(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    fault(b2, "slow-down")
    waiting.chance = 0.25
    with pytest.raises(UnreachableError):
        there.put("x", b"")
    assert waiting.waits[:3] == [0.125, 0.25, 0.5]


def test_what_the_bucket_asks_for_is_kept_to_within_reason(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    fault(b2, "slow-down", retry_after=7, next=2)
    there.put("x", b"1")
    assert waiting.waits == [7.0, 7.0]
    fault(b2, "slow-down", retry_after=86400, next=1)
    there.put("x", b"1")
    assert waiting.waits[2:] == [60.0]


def test_asking_ends_by_time_too(b2: Storage, waiting: Waiting) -> None:
    there = Bucket(settings(b2), patience=waiting.patience(tries=1000, seconds=100))
    fault(b2, "slow-down", retry_after=30)
    with pytest.raises(UnreachableError):
        there.get("x")
    assert waiting.waits == [30.0, 30.0, 30.0]


def test_a_server_that_is_away_is_unreachable(b2: Storage, waiting: Waiting) -> None:
    there = bucket(b2, waiting, endpoint="http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9"):
        there.put("x", b"1")
    assert len(waiting.waits) == 7


def test_a_body_that_breaks_again_and_again_ends(b2: Storage, there: Bucket) -> None:
    there.put("x", CONTENT)
    fault(b2, "truncate", method="GET")
    for ask in (lambda: there.get("x"), lambda: there.read("x", 0, 1000), lambda: [*there.stream("x")]):
        with pytest.raises(UnreachableError):
            ask()


def test_a_stream_goes_on_where_it_broke(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    there.put("x", CONTENT)
    received = there.requests.bytes_received
    fault(b2, "truncate", method="GET", bytes=READ_BYTES * 2, next=2)
    assert b"".join(there.stream("x")) == CONTENT
    assert there.requests.bytes_received - received == len(CONTENT)
    # It got on in between, so that the second break counts as the first.
    assert waiting.waits == [0.5, 0.5]


def test_a_stream_is_of_one_object_only(b2: Storage, there: Bucket) -> None:
    there.put("x", CONTENT)
    fault(b2, "truncate", method="GET", bytes=READ_BYTES * 2, next=1)
    stream = there.stream("x")
    parts = [next(stream)]
    there.put("x", bytes(len(CONTENT)))
    parts += stream
    assert b"".join(parts) == CONTENT


def test_damaged_bytes_of_a_whole_object_are_fetched_again(b2: Storage, there: Bucket) -> None:
    there.put("x", CONTENT)
    fault(b2, "corrupt", method="GET", next=1)
    assert there.get("x") == CONTENT
    fault(b2, "corrupt", method="GET")
    with pytest.raises(DamagedError) as caught:
        there.get("x")
    assert caught.value.name == "x"


def test_bytes_that_the_bucket_lost_are_noticed_when_they_are_written(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    fault(b2, "lose-half", method="PUT", next=1)
    there.put("x", CONTENT)
    assert fired(b2) == 1
    assert len(waiting.waits) == 1
    assert there.get("x") == CONTENT


def test_bytes_that_nobody_confirms_are_bound_to_their_request_by_the_signature(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    there.put("x", CONTENT, confirmed=False)
    assert there.get("x") == CONTENT

    def damage(request: Any, **_: object) -> None:
        # After it was signed.
        request.body = bytes(len(CONTENT))

    there.connection.client.meta.events.register("before-send.s3.PutObject", damage)
    with pytest.raises(BackupError, match="XAmzContentSHA256Mismatch"):
        there.put("y", CONTENT, confirmed=False)
    assert [entry.name for entry in there.list()] == ["x"]


@pytest.mark.parametrize(("limit", "pieces"), [(0, [b"0123456789", b"", b""]), (1 << 30, [b"012345", b"6789", b""])])
def test_the_same_bytes_are_sent_by_every_attempt(limit: int, pieces: list[bytes]) -> None:
    data = bytearray(b"0123456789")
    requests = Requests()
    for _ in range(2):
        with Body(data, Throttle(limit), requests) as body:
            assert bytes(body.read(4)) == b"0123"
            body.sending()
            assert [bytes(body.read(6)) for _ in pieces] == pieces
    # What was read for a signature is not counted as sent.
    assert requests.bytes_sent == 20
    data += b"can grow again, so nothing holds it"


# --- uploads in parts ---------------------------------------------------------------------------------------------------


def test_the_answer_to_the_last_request_may_be_lost(b2: Storage, there: Bucket) -> None:
    fault(b2, "reset-after", operation="CompleteMultipartUpload", next=1)
    assert there.put_stream("x", [bytes(multipart.PART_BYTES), b"y"]) == multipart.PART_BYTES + 1
    assert fired(b2) == 1
    assert there.get("x") == bytes(multipart.PART_BYTES) + b"y"


def test_an_upload_that_is_taken_away_is_no_success(there: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    there.put("x", b"another object of this name")

    def chunks() -> Any:
        yield bytes(multipart.PART_BYTES)
        yield b"y"
        for upload in there.unfinished():
            there.abort(upload)

    with pytest.raises(BackupError, match="Upload"):
        there.put_stream("x", chunks())
    import botocore.exceptions

    ask = there.connection.ask

    def late(operation: str, name: str = "", **parameters: Any) -> Any:
        if operation == "CompleteMultipartUpload":
            # moto answers 500 where B2 answers so.
            answer = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
            raise BackupError("NoSuchUpload") from botocore.exceptions.ClientError(answer, operation)
        return ask(operation, name, **parameters)

    monkeypatch.setattr(there.connection, "ask", late)
    with pytest.raises(BackupError, match="NoSuchUpload"):
        there.put_stream("x", [bytes(multipart.PART_BYTES), b"y"])
    assert there.get("x") == b"another object of this name"


def test_a_listing_that_does_not_say_whether_it_is_whole_is_none(there: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there.connection, "call", lambda *_: {})
    for ask in (there.list, there.versions, there.unfinished):
        with pytest.raises(UnreachableError):
            [*ask()]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"NextContinuationToken": "a", "NextKeyMarker": "a", "NextUploadIdMarker": "a"},
    ],
    ids=["without the next page", "with the same page again and again"],
)
def test_a_listing_that_never_ends_is_none(there: Bucket, monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    monkeypatch.setattr(there.connection, "call", lambda *_: {"IsTruncated": True, **more})
    for ask in (there.list, there.versions, there.unfinished):
        with pytest.raises(UnreachableError, match="listing"):
            [*ask()]


@pytest.mark.parametrize("length", [1 << 40, None])
def test_more_bytes_than_were_asked_for_are_not_read(there: Bucket, monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    def call(_: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if "Range" in parameters:
            return {"Body": Endless(), "ContentRange": "bytes 0-9/10", "ContentLength": length}
        return {"Body": Endless()}

    class Endless(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise AssertionError("it was read")

    monkeypatch.setattr(there.connection, "call", call)
    with pytest.raises(UnreachableError):
        there.read("data/a", 0, 10)
    with pytest.raises(UnreachableError):
        there.get("data/a")
    with pytest.raises(UnreachableError):
        [*there.stream("data/a")]


def test_a_stream_that_cannot_be_written_leaves_no_parts(b2: Storage, there: Bucket) -> None:
    fault(b2, "slow-down", operation="UploadPart", skip=1)
    with pytest.raises(UnreachableError):
        there.put_stream("x", (CONTENT for _ in range(8)))
    assert there.unfinished() == []
    assert [*there.versions()] == []


# --- what no further attempt helps against --------------------------------------------------------------------------------


def test_credentials_that_are_revoked_half_way(b2: Storage, there: Bucket, waiting: Waiting) -> None:
    there.put("data/a", CONTENT)

    def chunks() -> Any:
        yield bytes(multipart.PART_BYTES)
        b2.revoke()
        yield bytes(multipart.PART_BYTES)

    with pytest.raises(DeniedError, match="key id is not known") as caught:
        there.put_stream("database/x", chunks())
    assert b2.application_key not in str(caught.value)
    assert "giggles:secrets:backup" in str(caught.value)
    with pytest.raises(DeniedError):
        there.get("data/a")
    assert waiting.waits == []


def test_a_wrong_application_key_is_told_and_not_repeated(b2: Storage, waiting: Waiting) -> None:
    there = bucket(b2, waiting, application_key="K004" + "x" * 27)
    with pytest.raises(DeniedError, match="application key does not belong") as caught:
        there.put("x", b"1")
    assert "xxx" not in str(caught.value)
    assert waiting.waits == []


@pytest.mark.parametrize("offset", [3600, -3600])
def test_a_clock_that_is_off_by_an_hour(b2: Storage, there: Bucket, waiting: Waiting, offset: int) -> None:
    there.put("x", b"1")
    b2.proxy.set_clock(offset)
    with pytest.raises(ClockError, match="60 minutes " + ("behind" if offset > 0 else "ahead")) as caught:
        there.get("x")
    assert "timedatectl" in str(caught.value)
    assert waiting.waits == []
    b2.proxy.set_clock(600)
    assert there.get("x") == b"1"


def test_a_bucket_of_another_name(b2: Storage, waiting: Waiting) -> None:
    there = bucket(b2, waiting, bucket="giggles-elsewhere")
    with pytest.raises(BackupError, match="There is no bucket of this name"):
        there.get("x")
    assert waiting.waits == []


def test_another_region() -> None:
    import botocore.exceptions

    answer = {"Error": {"Code": "AuthorizationHeaderMalformed"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = botocore.exceptions.ClientError(answer, "GetObject")
    assert not sending.is_transient(error)
    assert "giggles:backup:region" in str(sending.explained(error, "GetObject", "x", endpoint="https://s3.example"))


@pytest.fixture
def strange_server(tmp_path: Path) -> Iterator[str]:
    """An HTTPS server with a certificate of nobody's; gives its URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(30)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(b2: Storage, waiting: Waiting, strange_server: str, tmp_path: Path) -> None:
    there = bucket(b2, waiting, endpoint=strange_server)
    with pytest.raises(BackupError, match="certificate") as caught:
        there.put("x", b"1")
    assert not isinstance(caught.value, UnreachableError)
    assert waiting.waits == []
    # The control: with its certificate authority named, it is not the certificate that is wrong with this server.
    trusting = bucket(b2, waiting, endpoint=strange_server, ca_bundle=str(tmp_path / "chain.pem"))
    with pytest.raises(BackupError, match="501"):
        trusting.put("x", b"1")


# --- what is sent ---------------------------------------------------------------------------------------------------------


def test_only_headers_that_b2_knows_are_sent(b2: Storage, there: Bucket) -> None:
    seen: list[dict[str, str]] = []
    there.connection.client.meta.events.register_last(
        "before-send.s3", lambda request, **_: seen.append({name.lower(): str(value) for name, value in request.headers.items()})
    )
    there.connection.client.meta.events.register_first("before-send.s3", lambda **_: None)
    everything(there)
    assert len(seen) > 10
    for headers in seen:
        assert not [
            name for name in headers if name.startswith(("x-amz-checksum", "x-amz-sdk", "x-amz-trailer", "expect", "transfer-encoding"))
        ]
        assert b2.application_key not in str(headers)


def test_the_environment_of_aws_changes_nothing(b2: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\nregion = nowhere-1\n[profile p]\nrequest_checksum_calculation = when_supported\n")
    for name, value in {
        "AWS_PROFILE": "p",
        "AWS_CONFIG_FILE": str(config),
        "AWS_ACCESS_KEY_ID": "wrong",
        "AWS_SECRET_ACCESS_KEY": "wrong",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_CA_BUNDLE": str(tmp_path / "none"),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "AWS_MAX_ATTEMPTS": "5",
    }.items():
        monkeypatch.setenv(name, value)
    there = bucket(b2)
    there.put("x", b"1")
    assert there.get("x") == b"1"


def test_one_client_is_made_for_all_threads(b2: Storage, there: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from gigglekit.backup import client

    made: list[Any] = []
    connect = client.connect
    monkeypatch.setattr(client, "connect", lambda chosen: made.append(chosen) or connect(chosen))
    threads = [threading.Thread(target=there.put, args=(f"x{number}", b"")) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1
    assert len([*there.list()]) == 4
