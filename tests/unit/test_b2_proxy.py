"""The strict proxy refuses what B2 refuses, keeps what is locked, and fails when it is told to."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.unit import b2 as harness
from tests.unit.b2 import REGION, Storage, b2_proxy

MIB = 1 << 20


def md5(body: bytes) -> str:
    """Return a body's Content-MD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[int, str, str]:
    """Call what must be refused and return status, code and message."""
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def raw(
    b2: Storage,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    spoil: Callable[[dict[str, str]], None] | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request that is signed here, spoiled after that, and return status, body and headers of the answer."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, b2.endpoint + path, headers=dict(headers or {}), data=body)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials(b2.key_id, b2.application_key), "s3", REGION).add_auth(request)
    sent = {**dict(request.headers.items()), "Content-Length": str(len(body))}
    if spoil is not None:
        spoil(sent)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(b2.endpoint).netloc, timeout=30)
    try:
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def code(body: bytes) -> str:
    """Return the code of an error document."""
    return ElementTree.fromstring(body).findtext("Code", "")  # noqa: S314 (its own server)


def with_md5(client: Any) -> Any:
    """Let a client send Content-MD5 where boto3 insists on a CRC, as a caller of B2 must."""

    def instead(request: Any, **_: Any) -> None:
        for name in list(request.headers):
            if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum")):
                del request.headers[name]
        if isinstance(request.data, bytes) and "Content-MD5" not in request.headers:
            request.headers["Content-MD5"] = md5(request.data)

    client.meta.events.register("before-sign.s3", instead)
    return client


def later(**much: float) -> datetime:
    """Return a time from now, in whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(**much)


# What goes through.


def test_what_is_put_comes_back(b2: Storage) -> None:
    client = b2.client()
    body = bytes(range(256)) * 8192
    version = client.put_object(Bucket=b2.bucket, Key="a/b c+d é", Body=body, ContentMD5=md5(body), Metadata={"of": "me"})
    answer = client.get_object(Bucket=b2.bucket, Key="a/b c+d é", VersionId=version["VersionId"])
    assert answer["Body"].read() == body
    assert answer["Metadata"] == {"of": "me"}
    assert client.get_object(Bucket=b2.bucket, Key="a/b c+d é", Range="bytes=5-9")["Body"].read() == bytes(range(5, 10))
    assert [entry["operation"] for entry in b2.proxy.requests()] == ["PutObject", "GetObject", "GetObject"]
    assert b2.proxy.requests()[0]["received"] == len(body)
    assert b2.proxy.requests()[1]["sent"] == len(body)


def test_an_empty_object_is_one(b2: Storage) -> None:
    client = b2.client()
    client.put_object(Bucket=b2.bucket, Key="empty", Body=b"")
    assert client.get_object(Bucket=b2.bucket, Key="empty")["Body"].read() == b""


def test_parts_become_an_object_and_short_ones_do_not(b2: Storage) -> None:
    client = b2.client()
    first, last = b"1" * 5_000_000, b"2"
    upload = client.create_multipart_upload(Bucket=b2.bucket, Key="big")["UploadId"]
    assert [one["UploadId"] for one in client.list_multipart_uploads(Bucket=b2.bucket)["Uploads"]] == [upload]

    def put(number: int, body: bytes) -> dict[str, Any]:
        etag = client.upload_part(Bucket=b2.bucket, Key="big", UploadId=upload, PartNumber=number, Body=body)["ETag"]
        return {"PartNumber": number, "ETag": etag}

    parts = [put(1, first[:-1]), put(2, last)]
    whole = {"Bucket": b2.bucket, "Key": "big", "UploadId": upload}
    assert refused(client.complete_multipart_upload, **whole, MultipartUpload={"Parts": parts})[1] == "EntityTooSmall"
    parts[0] = put(1, first)
    assert len(client.list_parts(**whole)["Parts"]) == 2
    assert client.complete_multipart_upload(**whole, MultipartUpload={"Parts": parts})["VersionId"]
    assert client.get_object(Bucket=b2.bucket, Key="big")["Body"].read() == first + last
    assert refused(client.upload_part, **whole, PartNumber=10_001, Body=b"")[:2] == (400, "InvalidArgument")


def test_an_abandoned_upload_is_gone(b2: Storage) -> None:
    client = b2.client()
    upload = client.create_multipart_upload(Bucket=b2.bucket, Key="big")["UploadId"]
    client.abort_multipart_upload(Bucket=b2.bucket, Key="big", UploadId=upload)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=b2.bucket)


def test_many_connections_at_once_get_their_own(b2: Storage) -> None:
    client = b2.client(max_pool_connections=40)

    def trip(number: int) -> bool:
        body = f"{number:06}".encode() * 50_000
        client.put_object(Bucket=b2.bucket, Key=f"n/{number}", Body=body, ContentMD5=md5(body))
        return bool(client.get_object(Bucket=b2.bucket, Key=f"n/{number}")["Body"].read() == body)

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert all(pool.map(trip, range(80)))


# What is refused.


@pytest.mark.parametrize(
    "header", ["x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm", "x-amz-trailer", "x-amz-checksum-mode", "x-amz-tagging"]
)
def test_headers_that_b2_does_not_know_are_refused_in_its_form(b2: Storage, header: str) -> None:
    status, body, _ = raw(b2, "PUT", f"/{b2.bucket}/a", b"text", {header: "CRC32"})
    assert status == 400
    assert body.decode() == (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<Error>\n    <Code>InvalidArgument</Code>\n'
        f"    <Message>Unsupported header '{header}' received for this API call.</Message>\n</Error>\n"
    )
    assert raw(b2, "PUT", f"/{b2.bucket}/a", b"text")[0] == 200


def test_boto3_as_it_comes_is_refused(b2: Storage) -> None:
    client = b2.client(request_checksum_calculation="when_supported")
    assert refused(client.put_object, Bucket=b2.bucket, Key="a", Body=b"1")[:2] == (400, "InvalidArgument")
    assert "Contents" not in b2.client().list_objects_v2(Bucket=b2.bucket)


def test_bodies_in_signed_pieces_are_refused(b2: Storage) -> None:
    def stream(headers: dict[str, str]) -> None:
        headers["X-Amz-Content-SHA256"] = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    # The digest is part of what is signed, so this is refused twice over; the code tells which came first.
    assert code(raw(b2, "PUT", f"/{b2.bucket}/a", b"x", spoil=stream)[1]) == "SignatureDoesNotMatch"
    status, body, _ = raw(b2, "PUT", f"/{b2.bucket}/a", b"x", {"Content-Encoding": "aws-chunked"})
    assert (status, code(body)) == (400, "InvalidArgument")


def test_a_wrong_md5_leaves_nothing_behind(b2: Storage) -> None:
    client = b2.client()
    for body in (b"short", b"long" * MIB):
        assert refused(client.put_object, Bucket=b2.bucket, Key="a", Body=body, ContentMD5=md5(b""))[:2] == (400, "BadDigest")
    assert refused(client.put_object, Bucket=b2.bucket, Key="a", Body=b"", ContentMD5="nonsense")[:2] == (400, "InvalidDigest")
    assert "Versions" not in b2.bare_client().list_object_versions(Bucket=b2.bucket)
    client.put_object(Bucket=b2.bucket, Key="a", Body=b"short", ContentMD5=md5(b"short"))


def test_a_body_that_is_not_the_signed_one_leaves_nothing_behind(b2: Storage) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(b2.endpoint).netloc, timeout=30)

    def keep(headers: dict[str, str]) -> None:
        connection.request("PUT", f"/{b2.bucket}/a", body=b"other", headers=headers)

    assert raw(b2, "PUT", f"/{b2.bucket}/a", b"signed"[:5], spoil=keep)[0] == 200
    answer = connection.getresponse()
    assert (answer.status, code(answer.read())) == (400, "XAmzContentSHA256Mismatch")
    connection.close()
    assert len(b2.bare_client().list_object_versions(Bucket=b2.bucket)["Versions"]) == 1


def test_an_upload_that_breaks_off_leaves_nothing_behind(b2: Storage) -> None:
    def cut(headers: dict[str, str]) -> None:
        host, port = urllib.parse.urlsplit(b2.endpoint).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = f"PUT /{b2.bucket}/a HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(f"{head}\r\n".encode() + bytes(2 * MIB))
        headers["Authorization"] = "none"

    body = bytes(3 * MIB)
    assert raw(b2, "PUT", f"/{b2.bucket}/a", body, {"Host": urllib.parse.urlsplit(b2.endpoint).netloc}, cut)[0] == 400
    # The control: one that does not break off is there.
    assert raw(b2, "PUT", f"/{b2.bucket}/b", body)[0] == 200
    found = b2.bare_client().list_object_versions(Bucket=b2.bucket)["Versions"]
    assert [one["Key"] for one in found] == ["b"]


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"X-Amz-Date": "20200101T000000Z"}, (403, "RequestTimeTooSkewed")),
        ({"x-amz-meta-late": "unsigned"}, (403, "AccessDenied")),
        ({"Authorization": None}, (403, "AccessDenied")),
        ({"Authorization": "AWS somebody:signature"}, (400, "AuthorizationHeaderMalformed")),
    ],
)
def test_what_is_not_signed_right_is_refused(b2: Storage, spoiled: dict[str, str | None], expected: tuple[int, str]) -> None:
    def spoil(headers: dict[str, str]) -> None:
        for name, value in spoiled.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value

    status, body, _ = raw(b2, "GET", f"/{b2.bucket}", spoil=spoil)
    assert (status, code(body)) == expected
    assert raw(b2, "GET", f"/{b2.bucket}")[0] == 200


def test_a_wrong_secret_and_an_unknown_key_are_told_apart(b2: Storage) -> None:
    wrong = b2.client((b2.key_id, "K004wrong"))
    assert refused(wrong.list_objects_v2, Bucket=b2.bucket)[1:] == ("SignatureDoesNotMatch", "Signature validation failed")
    unknown = b2.client(("004unknown", b2.application_key))
    assert refused(unknown.list_objects_v2, Bucket=b2.bucket) == (403, "InvalidAccessKeyId", "The key '004unknown' is not valid")


def test_a_changed_query_breaks_the_signature(b2: Storage) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("GET", f"{b2.endpoint}/{b2.bucket}?prefix=a")
    S3SigV4Auth(Credentials(b2.key_id, b2.application_key), "s3", REGION).add_auth(request)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(b2.endpoint).netloc, timeout=30)
    for prefix, expected in (("a", 200), ("b", 403)):
        connection.request("GET", f"/{b2.bucket}?prefix={prefix}", headers=dict(request.headers.items()))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == expected
    connection.close()


def test_a_clock_a_quarter_of_an_hour_off_is_refused(b2: Storage) -> None:
    client = b2.client()
    for offset in (-16 * 60, 16 * 60):
        b2.proxy.set_clock(offset)
        assert refused(client.list_objects_v2, Bucket=b2.bucket)[:2] == (403, "RequestTimeTooSkewed")
    b2.proxy.set_clock(14 * 60)
    client.list_objects_v2(Bucket=b2.bucket)


def test_what_b2_does_not_have_is_not_implemented(b2: Storage) -> None:
    client = with_md5(b2.client())
    client.put_object(Bucket=b2.bucket, Key="a", Body=b"1")
    here = {"Bucket": b2.bucket, "Key": "a"}
    for call, arguments in (
        (client.get_object_tagging, here),
        (client.put_object_tagging, {**here, "Tagging": {"TagSet": []}}),
        (client.get_object_attributes, {**here, "ObjectAttributes": ["ETag"]}),
        (client.get_bucket_policy, {"Bucket": b2.bucket}),
        (client.get_bucket_website, {"Bucket": b2.bucket}),
        (client.put_bucket_versioning, {"Bucket": b2.bucket, "VersioningConfiguration": {"Status": "Suspended"}}),
        (client.put_bucket_acl, {"Bucket": b2.bucket, "ACL": "public-read-write"}),
        (client.put_object, {**here, "Body": b"", "ServerSideEncryption": "aws:kms"}),
        (client.put_object, {**here, "Body": b"", "StorageClass": "GLACIER"}),
        (client.put_object, {**here, "Body": b"", "IfNoneMatch": "*"}),
    ):
        assert refused(call, **arguments)[:2] in ((501, "NotImplemented"), (400, "InvalidArgument")), arguments
    assert refused(client.get_object_tagging, **here)[:2] == (501, "NotImplemented")
    client.put_bucket_acl(Bucket=b2.bucket, ACL="private")
    assert client.get_bucket_versioning(Bucket=b2.bucket)["Status"] == "Enabled"
    assert client.get_bucket_location(Bucket=b2.bucket)["LocationConstraint"] == REGION


def test_lifecycle_rules_are_kept_and_need_md5(b2: Storage) -> None:
    abort = {"DaysAfterInitiation": 1}
    rules = {"Rules": [{"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": abort}]}
    here = {"Bucket": b2.bucket, "LifecycleConfiguration": rules}
    assert refused(b2.client().put_bucket_lifecycle_configuration, **here)[:2] == (400, "InvalidArgument")
    client = with_md5(b2.client())
    client.put_bucket_lifecycle_configuration(**here)
    kept = client.get_bucket_lifecycle_configuration(Bucket=b2.bucket)["Rules"]
    assert kept[0]["AbortIncompleteMultipartUpload"] == abort
    rules["Rules"][0]["Transitions"] = [{"Days": 1, "StorageClass": "GLACIER"}]
    assert refused(client.put_bucket_lifecycle_configuration, **here)[:2] == (501, "NotImplemented")
    status, body, _ = raw(b2, "PUT", f"/{b2.bucket}?lifecycle", b"<LifecycleConfiguration/>")
    assert (status, code(body)) == (400, "InvalidRequest")


# Deleting.


def test_deleting_without_a_version_only_hides(b2: Storage) -> None:
    client = b2.client()
    version = client.put_object(Bucket=b2.bucket, Key="a", Body=b"1")["VersionId"]
    marker = client.delete_object(Bucket=b2.bucket, Key="a")
    assert marker["DeleteMarker"] is True
    assert refused(client.get_object, Bucket=b2.bucket, Key="a")[:2] == (404, "NoSuchKey")
    assert client.get_object(Bucket=b2.bucket, Key="a", VersionId=version)["Body"].read() == b"1"
    client.delete_object(Bucket=b2.bucket, Key="a", VersionId=marker["VersionId"])
    assert client.get_object(Bucket=b2.bucket, Key="a")["Body"].read() == b"1"


def test_deleting_a_version_deletes_that_one(b2: Storage) -> None:
    client = b2.client()
    versions = [client.put_object(Bucket=b2.bucket, Key="a", Body=body)["VersionId"] for body in (b"1", b"2")]
    client.delete_object(Bucket=b2.bucket, Key="a", VersionId=versions[1])
    left = client.list_object_versions(Bucket=b2.bucket)["Versions"]
    assert [one["VersionId"] for one in left] == versions[:1]


def test_deleting_several_needs_md5_and_knows_no_crc(b2: Storage) -> None:
    client = b2.client()
    named = [{"Key": name, "VersionId": client.put_object(Bucket=b2.bucket, Key=name, Body=b"")["VersionId"]} for name in "ab"]
    assert refused(client.delete_objects, Bucket=b2.bucket, Delete={"Objects": named})[:2] == (400, "InvalidArgument")
    body = f"<Delete><Object><Key>a</Key><VersionId>{named[0]['VersionId']}</VersionId></Object></Delete>".encode()
    assert code(raw(b2, "POST", f"/{b2.bucket}?delete", body)[1]) == "InvalidRequest"
    assert code(raw(b2, "POST", f"/{b2.bucket}?delete", body, {"Content-MD5": md5(b"")})[1]) == "BadDigest"
    condition = body.replace(b"</Object>", b"<ETag>*</ETag></Object>")
    assert code(raw(b2, "POST", f"/{b2.bucket}?delete", condition, {"Content-MD5": md5(condition)})[1]) == "NotImplemented"
    assert len(client.list_object_versions(Bucket=b2.bucket)["Versions"]) == 2
    done = with_md5(client).delete_objects(Bucket=b2.bucket, Delete={"Objects": named})
    assert sorted(one["Key"] for one in done["Deleted"]) == ["a", "b"]
    assert "Versions" not in b2.bare_client().list_object_versions(Bucket=b2.bucket)


def test_versions_are_listed_page_by_page(b2: Storage) -> None:
    client, wanted = b2.client(), set()
    for number in range(12):
        wanted.add(client.put_object(Bucket=b2.bucket, Key=f"n/{number // 4}", Body=b"")["VersionId"])
    wanted.add(client.delete_object(Bucket=b2.bucket, Key="n/1")["VersionId"])
    pages = list(client.get_paginator("list_object_versions").paginate(Bucket=b2.bucket, PaginationConfig={"PageSize": 5}))
    found = [one["VersionId"] for page in pages for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))]
    assert len(pages) == 3
    assert sorted(found) == sorted(wanted)


# Object Lock.


def locked(b2: Storage, mode: str, **much: float) -> str:
    """Put an object `a` that is locked for a while, and return its version."""
    return str(
        b2.client().put_object(
            Bucket=b2.bucket,
            Key="a",
            Body=b"1",
            ContentMD5=md5(b"1"),
            ObjectLockMode=mode,
            ObjectLockRetainUntilDate=later(**much),
        )["VersionId"]
    )


def test_with_object_lock_every_upload_needs_md5(b2_locked: Storage) -> None:
    client, here = b2_locked.client(), {"Bucket": b2_locked.bucket, "Key": "a"}
    status, name, message = refused(client.put_object, **here, Body=b"1")
    assert (status, name) == (400, "InvalidRequest")
    assert message == "Content-MD5 HTTP header is required for Put Object requests with Object Lock parameters"
    client.put_object(**here, Body=b"1", ContentMD5=md5(b"1"))
    upload = client.create_multipart_upload(**here)["UploadId"]
    part = {**here, "UploadId": upload, "PartNumber": 1, "Body": b"1"}
    assert refused(client.upload_part, **part)[:2] == (400, "InvalidRequest")
    assert refused(client.upload_part, **part, ContentMD5=md5(b"2"))[:2] == (400, "BadDigest")
    client.upload_part(**part, ContentMD5=md5(b"1"))


def test_without_object_lock_a_lock_is_refused(b2: Storage) -> None:
    here = {"Bucket": b2.bucket, "Key": "a", "Body": b"1", "ContentMD5": md5(b"1")}
    arguments = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": later(days=1)}
    assert refused(b2.client().put_object, **here, **arguments)[:2] == (400, "InvalidRequest")
    assert refused(b2.client().get_object_lock_configuration, Bucket=b2.bucket)[1] == "ObjectLockConfigurationNotFoundError"


def test_compliance_holds_until_its_date_and_not_after(b2_locked: Storage) -> None:
    client, version = b2_locked.client(), locked(b2_locked, "COMPLIANCE", minutes=10)
    here = {"Bucket": b2_locked.bucket, "Key": "a", "VersionId": version}
    for bypass in ({}, {"BypassGovernanceRetention": True}):
        assert refused(client.delete_object, **here, **bypass)[:2] == (403, "AccessDenied")
    several = {"Objects": [{"Key": "a", "VersionId": version}]}
    errors = with_md5(b2_locked.client()).delete_objects(Bucket=b2_locked.bucket, Delete=several, BypassGovernanceRetention=True)["Errors"]
    assert [(one["Key"], one["Code"]) for one in errors] == [("a", "AccessDenied")]
    assert client.get_object(**here)["Body"].read() == b"1"
    client.delete_object(Bucket=b2_locked.bucket, Key="a")
    b2_locked.proxy.set_clock(11 * 60)
    client.delete_object(**here)
    assert refused(client.get_object, **here)[0] == 404


def test_governance_gives_way_to_who_may_and_says_so(b2_locked: Storage) -> None:
    version = locked(b2_locked, "GOVERNANCE", days=1)
    here = {"Bucket": b2_locked.bucket, "Key": "a", "VersionId": version}
    everything_else = sorted(b2_proxy.CAPABILITIES - {"bypassGovernance"})
    weak = b2_locked.client(b2_locked.key(*everything_else))
    assert refused(weak.delete_object, **here, BypassGovernanceRetention=True) == (403, "AccessDenied", "not entitled")
    client = b2_locked.client()
    assert refused(client.delete_object, **here)[:2] == (403, "AccessDenied")
    client.delete_object(**here, BypassGovernanceRetention=True)
    assert refused(client.get_object, **here)[0] == 404


def test_retention_is_told_extended_and_not_shortened(b2_locked: Storage) -> None:
    client, version = with_md5(b2_locked.client()), locked(b2_locked, "COMPLIANCE", days=2)
    here = {"Bucket": b2_locked.bucket, "Key": "a"}
    kept = client.get_object_retention(**here, VersionId=version)["Retention"]
    assert kept["Mode"] == "COMPLIANCE"

    def to(mode: str, **much: float) -> dict[str, Any]:
        return {**here, "VersionId": version, "Retention": {"Mode": mode, "RetainUntilDate": later(**much)}}

    assert refused(client.put_object_retention, **to("COMPLIANCE", days=1), BypassGovernanceRetention=True)[1] == "AccessDenied"
    assert refused(client.put_object_retention, **to("GOVERNANCE", days=3), BypassGovernanceRetention=True)[1] == "AccessDenied"
    assert refused(client.put_object_retention, **to("COMPLIANCE", days=-1))[1] == "InvalidArgument"
    client.put_object_retention(**to("COMPLIANCE", days=3))
    assert client.head_object(**here)["ObjectLockRetainUntilDate"] > later(days=2)
    plain = client.put_object(**here, Body=b"2", ContentMD5=md5(b"2"))["VersionId"]
    assert refused(client.get_object_retention, **here, VersionId=plain)[1] == "NoSuchObjectLockConfiguration"
    assert refused(client.get_object_retention, Bucket=b2_locked.bucket, Key="none")[:2] == (404, "NoSuchKey")


def test_a_legal_hold_holds_until_it_is_lifted(b2_locked: Storage) -> None:
    client, here = with_md5(b2_locked.client()), {"Bucket": b2_locked.bucket, "Key": "a"}
    version = client.put_object(**here, Body=b"1", ContentMD5=md5(b"1"), ObjectLockLegalHoldStatus="ON")["VersionId"]
    assert client.get_object_legal_hold(**here)["LegalHold"]["Status"] == "ON"
    gone = {**here, "VersionId": version, "BypassGovernanceRetention": True}
    assert refused(client.delete_object, **gone)[:2] == (403, "AccessDenied")
    client.put_object_legal_hold(**here, LegalHold={"Status": "OFF"})
    client.delete_object(**gone)


def test_a_buckets_own_retention_is_given_to_all_that_is_new(b2_locked: Storage) -> None:
    client = with_md5(b2_locked.client())
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 3}}}
    client.put_object_lock_configuration(Bucket=b2_locked.bucket, ObjectLockConfiguration=rule)
    assert client.get_object_lock_configuration(Bucket=b2_locked.bucket)["ObjectLockConfiguration"] == rule
    here = {"Bucket": b2_locked.bucket, "Key": "parts"}
    upload = client.create_multipart_upload(**here)["UploadId"]
    part = client.upload_part(**here, UploadId=upload, PartNumber=1, Body=b"1", ContentMD5=md5(b"1"))
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    version = client.complete_multipart_upload(**here, UploadId=upload, MultipartUpload=parts)["VersionId"]
    assert client.get_object_retention(**here)["Retention"]["Mode"] == "COMPLIANCE"
    assert refused(client.delete_object, **here, VersionId=version)[:2] == (403, "AccessDenied")


def test_a_copy_is_locked_as_it_asks(b2_locked: Storage) -> None:
    client = b2_locked.client()
    client.put_object(Bucket=b2_locked.bucket, Key="a", Body=b"1", ContentMD5=md5(b"1"))
    copy = {"Bucket": b2_locked.bucket, "Key": "b", "CopySource": f"{b2_locked.bucket}/a"}
    done = client.copy_object(**copy, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=later(days=1))
    gone = {"Bucket": b2_locked.bucket, "Key": "b", "VersionId": done["VersionId"]}
    assert refused(client.delete_object, **gone)[:2] == (403, "AccessDenied")


# Keys.


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("listFiles", lambda client, bucket, _: client.list_object_versions(Bucket=bucket)),
        ("readFiles", lambda client, bucket, _: client.get_object(Bucket=bucket, Key="a")),
        ("writeFiles", lambda client, bucket, _: client.put_object(Bucket=bucket, Key="a", Body=b"")),
        ("writeFiles", lambda client, bucket, _: client.delete_object(Bucket=bucket, Key="a")),
        ("deleteFiles", lambda client, bucket, version: client.delete_object(Bucket=bucket, Key="a", VersionId=version)),
        ("readBuckets", lambda client, bucket, _: client.get_bucket_versioning(Bucket=bucket)),
        ("readBucketRetentions", lambda client, bucket, _: client.get_object_lock_configuration(Bucket=bucket)),
        ("readFileRetentions", lambda client, bucket, _: client.get_object_retention(Bucket=bucket, Key="a")),
        ("readBucketLifecycleRules", lambda client, bucket, _: client.get_bucket_lifecycle_configuration(Bucket=bucket)),
    ],
)
def test_a_key_may_do_what_it_is_entitled_to(b2: Storage, missing: str, call: Callable[[Any, str, str], Any]) -> None:
    from botocore.exceptions import ClientError

    version = b2.client().put_object(Bucket=b2.bucket, Key="a", Body=b"1")["VersionId"]
    key = b2.key(*(b2_proxy.CAPABILITIES - {missing}))
    assert refused(call, b2.client(key), b2.bucket, version) == (403, "AccessDenied", "not entitled")
    # The control: with it, whatever is refused is refused for another reason.
    outcome = ""
    try:
        call(b2.client(b2.key(*b2_proxy.CAPABILITIES)), b2.bucket, version)
    except ClientError as error:
        outcome = error.response["Error"]["Code"]
    assert outcome != "AccessDenied"


def test_a_batch_is_refused_name_by_name(b2: Storage) -> None:
    version = b2.client().put_object(Bucket=b2.bucket, Key="a", Body=b"1")["VersionId"]
    client = with_md5(b2.client(b2.key("writeFiles")))
    named = {"Objects": [{"Key": "a", "VersionId": version}, {"Key": "b"}]}
    answer = client.delete_objects(Bucket=b2.bucket, Delete=named)
    assert [(one["Key"], one["Code"], one["Message"]) for one in answer["Errors"]] == [("a", "AccessDenied", "not entitled")]
    assert [one["Key"] for one in answer["Deleted"]] == ["b"]


def test_a_key_stays_in_its_bucket_and_below_its_prefix(b2: Storage, b2_locked: Storage) -> None:
    mine = b2.client(b2.key(*b2_proxy.CAPABILITIES, bucket=b2.bucket, prefix="mine/"))
    mine.put_object(Bucket=b2.bucket, Key="mine/a", Body=b"1")
    mine.list_objects_v2(Bucket=b2.bucket, Prefix="mine/")
    for call, arguments in (
        (mine.put_object, {"Bucket": b2.bucket, "Key": "other", "Body": b""}),
        (mine.list_objects_v2, {"Bucket": b2.bucket}),
        (mine.list_objects_v2, {"Bucket": b2_locked.bucket, "Prefix": "mine/"}),
        (mine.copy_object, {"Bucket": b2.bucket, "Key": "mine/b", "CopySource": f"{b2.bucket}/other"}),
        (mine.create_bucket, {"Bucket": "giggles-another"}),
    ):
        assert refused(call, **arguments) == (403, "AccessDenied", "not entitled")
    mine.copy_object(Bucket=b2.bucket, Key="mine/b", CopySource=f"{b2.bucket}/mine/a")


def test_without_listing_what_is_missing_looks_forbidden(b2: Storage) -> None:
    blind = b2.client(b2.key("readFiles", "writeFiles"))
    assert refused(blind.get_object, Bucket=b2.bucket, Key="none") == (403, "AccessDenied", "Cannot access bucket")
    assert refused(b2.client().get_object, Bucket=b2.bucket, Key="none")[:2] == (404, "NoSuchKey")


def test_a_revoked_key_is_refused_at_once(b2: Storage) -> None:
    client = b2.client()
    client.list_objects_v2(Bucket=b2.bucket)
    b2.revoke()
    assert refused(client.list_objects_v2, Bucket=b2.bucket)[:2] == (403, "InvalidAccessKeyId")


def test_buckets_are_made_and_removed(b2: Storage) -> None:
    client, name = b2.client(), f"{b2.bucket}-more"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    assert refused(client.create_bucket, Bucket=name)[:2] == (409, "BucketAlreadyOwnedByYou")
    assert name in [one["Name"] for one in client.list_buckets()["Buckets"]]
    assert client.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    client.delete_bucket(Bucket=name)
    assert refused(client.list_objects_v2, Bucket=name)[:2] == (404, "NoSuchBucket")


# What goes wrong when told to.


def test_slow_down_with_and_without_retry_after(b2: Storage) -> None:
    b2.proxy.set_faults([{"kind": "slow-down", "next": 1, "retry_after": 7}, {"kind": "slow-down", "next": 1, "skip": 1}])
    first, second, third = (raw(b2, "GET", f"/{b2.bucket}") for _ in range(3))
    assert (first[0], code(first[1]), first[2].get("retry-after")) == (503, "SlowDown", "7")
    assert (second[0], third[0]) == (200, 503)
    assert "retry-after" not in third[2]
    assert raw(b2, "GET", f"/{b2.bucket}")[0] == 200


def test_faults_strike_where_they_are_told_to(b2: Storage) -> None:
    client = b2.client()
    b2.proxy.set_faults([{"kind": "slow-down", "operation": "PutObject", "key": "/packs/", "every": 2}])
    outcomes = []
    for name in ("packs/1", "other", "packs/2", "packs/3", "packs/4"):
        status, _, _ = raw(b2, "PUT", f"/{b2.bucket}/{name}", b"1")
        outcomes.append(status)
    assert outcomes == [200, 200, 503, 200, 503]
    client.list_objects_v2(Bucket=b2.bucket, Prefix="packs/")


def test_chance_is_the_same_each_time(b2: Storage) -> None:
    def storm() -> list[int]:
        b2.proxy.set_faults([{"kind": "slow-down", "probability": 0.5, "seed": 11}])
        return [raw(b2, "GET", f"/{b2.bucket}")[0] for _ in range(20)]

    first = storm()
    assert set(first) == {200, 503}
    assert storm() == first


def test_a_reset_before_stores_nothing_and_one_after_does(b2: Storage) -> None:
    for kind, stored in (("reset-before", False), ("reset-after", True)):
        b2.proxy.set_faults([{"kind": kind, "method": "PUT", "next": 1}])
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            raw(b2, "PUT", f"/{b2.bucket}/{kind}", b"1")
        assert ("Versions" in b2.bare_client().list_object_versions(Bucket=b2.bucket, Prefix=kind)) is stored
    assert [entry["fault"] for entry in b2.proxy.requests()] == ["reset-before", "reset-after"]


def test_an_answer_is_cut_or_has_a_bit_flipped(b2: Storage) -> None:
    body = bytes(3 * MIB)
    raw(b2, "PUT", f"/{b2.bucket}/a", body)
    b2.proxy.set_faults([{"kind": "truncate", "operation": "GetObject", "next": 1, "bytes": 1000}])
    with pytest.raises(http.client.IncompleteRead) as caught:
        raw(b2, "GET", f"/{b2.bucket}/a")
    assert len(caught.value.partial) == 1000
    b2.proxy.set_faults([{"kind": "corrupt", "operation": "GetObject", "next": 1, "seed": 5}])
    wrong, right = raw(b2, "GET", f"/{b2.bucket}/a")[1], raw(b2, "GET", f"/{b2.bucket}/a")[1]
    assert right == body
    assert sum(byte.bit_count() for byte in wrong) == 1
    assert len(wrong) == len(body)


def test_the_server_loses_half_and_lies_about_it(b2: Storage) -> None:
    body = b"1" * MIB + b"2" * MIB
    for lying in (False, True):
        b2.proxy.set_faults([{"kind": "lose-half", "next": 1, "lying": lying}])
        status, _, headers = raw(b2, "PUT", f"/{b2.bucket}/a", body, {"Content-MD5": md5(body)})
        assert status == 200
        assert (headers["etag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()) is lying
        assert raw(b2, "GET", f"/{b2.bucket}/a")[1] == b"1" * MIB


def test_a_server_that_is_down_refuses_and_comes_back(b2: Storage) -> None:
    b2.proxy.set_faults([{"kind": "down"}])
    with pytest.raises(ConnectionRefusedError):
        raw(b2, "GET", f"/{b2.bucket}")
    b2.proxy.clear_faults()
    assert raw(b2, "GET", f"/{b2.bucket}")[0] == 200


def test_latency_is_added(b2: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(b2_proxy.time, "sleep", waits.append)
    b2.proxy.set_faults([{"kind": "latency", "milliseconds": 50}, {"kind": "latency", "milliseconds": 20, "method": "PUT"}])
    raw(b2, "GET", f"/{b2.bucket}")
    raw(b2, "PUT", f"/{b2.bucket}/a", b"1")
    assert [round(wait, 3) for wait in waits if wait > 0.015] == [0.05, 0.07]


def test_the_control_port_does_all_of_it(b2: Storage) -> None:
    def control(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(b2.control + path, data, method=method)  # noqa: S310 (its own http)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    control("PUT", "/buckets/giggles-by-control", {"object_lock": True})
    control("PUT", "/keys", {"004new": {"secret": "K004new", "capabilities": ["listFiles"], "bucket": b2.bucket}})
    assert control("GET", "/keys")["004new"] == {"capabilities": ["listFiles"], "bucket": b2.bucket, "prefix": ""}
    b2.client(("004new", "K004new")).list_objects_v2(Bucket=b2.bucket)
    control("PUT", "/keys", {"004new": None})
    assert refused(b2.client(("004new", "K004new")).list_objects_v2, Bucket=b2.bucket)[1] == "InvalidAccessKeyId"
    control("PUT", "/clock", {"offset": 3600})
    assert refused(b2.client().list_objects_v2, Bucket=b2.bucket)[1] == "RequestTimeTooSkewed"
    control("PUT", "/clock", {"offset": 0})
    control("PUT", "/faults", [{"kind": "slow-down", "next": 1}])
    control("POST", "/faults", [{"kind": "latency", "milliseconds": 0}])
    assert raw(b2, "GET", f"/{b2.bucket}")[0] == 503
    assert [(rule["kind"], rule["fired"]) for rule in control("GET", "/faults")] == [("slow-down", 1), ("latency", 1)]
    control("DELETE", "/faults")
    assert control("GET", "/requests")["served"] == 4
    control("DELETE", "/requests")
    assert control("GET", "/requests") == {"served": 0, "requests": []}
    for wrong in ([{"kind": "unknown"}], [{"kind": "latency", "colour": 1}], {}):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            control("PUT", "/faults", wrong)


def test_https_is_served_with_the_given_certificate(b2_server: tuple[Any, tuple[str, int]], tmp_path: Path) -> None:
    certificate, private_key = tmp_path / "server.pem", tmp_path / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch", "-subj", "/CN=b2",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", private_key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    arguments = {"tls": ("127.0.0.1", 0), "certificate": certificate, "private_key": private_key, "control": None}
    with b2_proxy.serve(b2_server[1], **arguments) as proxy:
        port = urllib.parse.urlsplit(proxy.tls_endpoint).port
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=ssl.create_default_context(cafile=str(certificate)))
        for _ in range(2):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert (answer.status, code(answer.read())) == (403, "AccessDenied")
        connection.close()
        storage = harness.Storage.make(proxy, b2_server[1])
        body = bytes(2 * MIB)
        client = storage.client(endpoint=proxy.tls_endpoint, verify=str(certificate))
        client.put_object(Bucket=storage.bucket, Key="a", Body=body)
        assert client.get_object(Bucket=storage.bucket, Key="a")["Body"].read() == body
