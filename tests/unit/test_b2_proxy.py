"""The strict proxy refuses what B2 refuses, keeps what is locked, and fails when it is told to."""

from __future__ import annotations

import base64
import hashlib

from tests.unit.b2 import Storage


def md5(body: bytes) -> str:
    """Return a body's Content-MD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def test_what_is_put_comes_back(b2: Storage) -> None:
    client = b2.client()
    body = bytes(range(256)) * 8192
    version = client.put_object(Bucket=b2.bucket, Key="a/b c+d é", Body=body, ContentMD5=md5(body))["VersionId"]
    assert client.get_object(Bucket=b2.bucket, Key="a/b c+d é", VersionId=version)["Body"].read() == body
    assert [entry["operation"] for entry in b2.proxy.requests()] == ["PutObject", "GetObject"]
