"""Backblaze B2's S3 interface in front of a moto server: strict where B2 is, and able to fail on request.

What B2 refuses is refused here, in its form and as far as known in its words: checksum headers, chunked bodies, requests that
are not signed right, a missing or wrong Content-MD5, whatever a key is not entitled to, deletions of locked versions. Where
B2's own behaviour is not documented, the stricter reading is taken. Object Lock is kept here, in memory, since moto cannot.

Only the standard library. A thread per connection; bodies pass through in pieces of 256 KiB, with the last piece held back
until the digests are right, so that a refused upload leaves nothing behind.

Sources: backblaze.com/docs/cloud-storage-s3-compatible-api, .../cloud-storage-s3-compatible-app-keys, backblaze.com/apidocs
(s3-*), and for what answers look like, reports of users (iterate-ch/cyberduck#16107, kopia/kopia#5329, Intrinsec/s3proxy#34).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import calendar
import contextlib
import hashlib
import hmac
import json
import random
import re
import secrets
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree
from xml.sax.saxutils import escape

Address = tuple[str, int]

CHUNK = 256 * 1024
MINIMUM_PART = 5_000_000
MAXIMUM_PART = 5_000_000_000
SKEW_SECONDS = 15 * 60
LOG_LENGTH = 20_000
MAXIMUM_CONNECTIONS = 256
IDLE_SECONDS = 120.0
_LARGEST_DOCUMENT = 8 << 20
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# moto reads the account from it and checks nothing; with one for all, every key sees the same buckets.
_UPSTREAM_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=proxy/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0000000000000000"
)

CAPABILITIES = frozenset(
    (
        "listKeys", "writeKeys", "deleteKeys", "listBuckets", "listAllBucketNames", "readBuckets", "writeBuckets",
        "deleteBuckets", "readBucketEncryption", "writeBucketEncryption", "readBucketRetentions", "writeBucketRetentions",
        "readBucketReplications", "writeBucketReplications", "readBucketNotifications", "writeBucketNotifications",
        "readBucketLogging", "writeBucketLogging", "readBucketLifecycleRules", "writeBucketLifecycleRules", "listFiles",
        "readFiles", "shareFiles", "writeFiles", "deleteFiles", "readFileLegalHolds", "writeFileLegalHolds",
        "readFileRetentions", "writeFileRetentions", "bypassGovernance",
    )
)  # fmt: skip
"""Every capability that B2 knows."""

_NEEDED: dict[str, tuple[str, ...]] = {
    "ListBuckets": ("listBuckets",),
    "HeadBucket": ("listBuckets",),
    "GetBucketLocation": ("readBuckets",),
    "GetBucketAcl": ("readBuckets",),
    "GetBucketVersioning": ("readBuckets",),
    "GetBucketCors": ("readBuckets",),
    "GetBucketLifecycleConfiguration": ("readBucketLifecycleRules",),
    "PutBucketLifecycleConfiguration": ("writeBucketLifecycleRules",),
    "DeleteBucketLifecycle": ("writeBucketLifecycleRules",),
    "GetBucketEncryption": ("readBucketEncryption",),
    "PutBucketEncryption": ("writeBucketEncryption",),
    "DeleteBucketEncryption": ("writeBucketEncryption",),
    "CreateBucket": ("writeBuckets",),
    "PutBucketAcl": ("writeBuckets",),
    "PutBucketVersioning": ("writeBuckets",),
    "PutBucketCors": ("writeBuckets",),
    "DeleteBucketCors": ("writeBuckets",),
    "DeleteBucket": ("deleteBuckets",),
    "GetObjectLockConfiguration": ("readBucketRetentions",),
    "PutObjectLockConfiguration": ("writeBucketRetentions",),
    "ListObjects": ("listFiles",),
    "ListObjectsV2": ("listFiles",),
    "ListObjectVersions": ("listFiles",),
    "ListMultipartUploads": ("listFiles",),
    "ListParts": ("listFiles",),
    "GetObject": ("readFiles",),
    "HeadObject": ("readFiles",),
    "GetObjectAcl": ("readFiles",),
    "PutObjectAcl": ("writeFiles",),
    "PutObject": ("writeFiles",),
    "CopyObject": ("readFiles", "writeFiles"),
    "CreateMultipartUpload": ("writeFiles",),
    "UploadPart": ("writeFiles",),
    "UploadPartCopy": ("readFiles", "writeFiles"),
    "CompleteMultipartUpload": ("writeFiles",),
    "AbortMultipartUpload": ("writeFiles",),
    # Hiding is writing; only a version's end is a deletion. Which of the two it is, is decided per request.
    "DeleteObject": (),
    "DeleteObjects": (),
    "GetObjectRetention": ("readFileRetentions",),
    "PutObjectRetention": ("writeFileRetentions",),
    "GetObjectLegalHold": ("readFileLegalHolds",),
    "PutObjectLegalHold": ("writeFileLegalHolds",),
}

_BUCKET_OPERATIONS = {
    ("GET", ""): "ListObjects",
    ("HEAD", ""): "HeadBucket",
    ("PUT", ""): "CreateBucket",
    ("DELETE", ""): "DeleteBucket",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "acl"): "GetBucketAcl",
    ("PUT", "acl"): "PutBucketAcl",
    ("GET", "versioning"): "GetBucketVersioning",
    ("PUT", "versioning"): "PutBucketVersioning",
    ("GET", "object-lock"): "GetObjectLockConfiguration",
    ("PUT", "object-lock"): "PutObjectLockConfiguration",
    ("GET", "lifecycle"): "GetBucketLifecycleConfiguration",
    ("PUT", "lifecycle"): "PutBucketLifecycleConfiguration",
    ("DELETE", "lifecycle"): "DeleteBucketLifecycle",
    ("GET", "encryption"): "GetBucketEncryption",
    ("PUT", "encryption"): "PutBucketEncryption",
    ("DELETE", "encryption"): "DeleteBucketEncryption",
    ("GET", "cors"): "GetBucketCors",
    ("PUT", "cors"): "PutBucketCors",
    ("DELETE", "cors"): "DeleteBucketCors",
    ("POST", "delete"): "DeleteObjects",
}
_OBJECT_OPERATIONS = {
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("PUT", ""): "PutObject",
    ("DELETE", ""): "DeleteObject",
    ("GET", "acl"): "GetObjectAcl",
    ("PUT", "acl"): "PutObjectAcl",
    ("GET", "retention"): "GetObjectRetention",
    ("PUT", "retention"): "PutObjectRetention",
    ("GET", "legal-hold"): "GetObjectLegalHold",
    ("PUT", "legal-hold"): "PutObjectLegalHold",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("GET", "uploadId"): "ListParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}
_SUBRESOURCES = frozenset(name for _, name in (*_BUCKET_OPERATIONS, *_OBJECT_OPERATIONS) if name)
_PLAIN_PARAMETERS = frozenset(
    (
        "list-type", "prefix", "delimiter", "marker", "max-keys", "encoding-type", "continuation-token", "start-after",
        "fetch-owner", "key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "partNumber",
        "part-number-marker", "max-parts", "versionId", "x-id", "response-content-type", "response-content-language",
        "response-expires", "response-cache-control", "response-content-disposition", "response-content-encoding",
    )
)  # fmt: skip
_KNOWN_HEADERS = frozenset(
    (
        "x-amz-date", "x-amz-content-sha256", "x-amz-acl", "x-amz-storage-class", "x-amz-expected-bucket-owner",
        "x-amz-source-expected-bucket-owner", "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date",
        "x-amz-object-lock-legal-hold", "x-amz-bypass-governance-retention", "x-amz-bucket-object-lock-enabled",
        "x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-server-side-encryption-customer-key", "x-amz-server-side-encryption-customer-key-md5", "x-amz-copy-source",
        "x-amz-copy-source-range", "x-amz-copy-source-if-match", "x-amz-copy-source-if-none-match",
        "x-amz-copy-source-if-modified-since", "x-amz-copy-source-if-unmodified-since", "x-amz-metadata-directive",
        "x-amz-copy-source-server-side-encryption-customer-algorithm",
        "x-amz-copy-source-server-side-encryption-customer-key",
        "x-amz-copy-source-server-side-encryption-customer-key-md5",
    )
)  # fmt: skip
_LOCK_HEADERS = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold")
# With these the digest of the document is demanded, as Amazon did before its checksum headers and B2 has never ceased to.
_NEED_MD5 = frozenset(
    (
        "DeleteObjects", "PutObjectRetention", "PutObjectLegalHold", "PutObjectLockConfiguration",
        "PutBucketLifecycleConfiguration",
    )
)  # fmt: skip
_STREAMED_UP = frozenset(("PutObject", "UploadPart"))
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "server", "date", "content-length", "upgrade"))
_NOT_FORWARDED = frozenset(
    (*_LOCK_HEADERS, "x-amz-bypass-governance-retention", "x-amz-bucket-object-lock-enabled", "x-amz-acl", "authorization",
     "host", "connection", "keep-alive", "expect", "content-length", "content-md5", "x-amz-content-sha256", "accept-encoding",
     "x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner")
)  # fmt: skip
_REASONS = {
    200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 409: "Conflict", 411: "Length Required", 412: "Precondition Failed",
    416: "Range Not Satisfiable", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip


class Refusal(Exception):
    """An answer that is an error, as S3 words it."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        """Arguments: the HTTP status, S3's error code, the message, and headers beside it."""
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def document(self) -> bytes:
        """Return the body, byte for byte in B2's form."""
        return (
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
            f"<Error>\n    <Code>{self.code}</Code>\n    <Message>{escape(self.message)}</Message>\n</Error>\n"
        ).encode()


class Gone(Exception):
    """The other side has closed the connection, or is to lose it."""


def _not_entitled() -> Refusal:
    return Refusal(403, "AccessDenied", "not entitled")


def _not_implemented(what: str) -> Refusal:
    return Refusal(501, "NotImplemented", f"{what} implies functionality that is not implemented.")


@dataclass(frozen=True)
class Key:
    """An application key.

    Arguments:
        identifier: what S3 calls the access key id.
        secret: the application key itself.
        capabilities: what it may do.
        bucket: the only bucket it may touch, None for all.
        prefix: what names of objects it may touch begin with.
    """

    identifier: str
    secret: str = field(repr=False)
    capabilities: frozenset[str] = CAPABILITIES
    bucket: str | None = None
    prefix: str = ""

    @staticmethod
    def read(identifier: str, described: dict[str, Any]) -> Key:
        """Return the key that a JSON description means.

        Raises:
            ValueError: an unknown capability or member.
        """
        unknown = set(described) - {"secret", "capabilities", "bucket", "prefix"}
        wanted = described.get("capabilities", "all")
        capabilities = CAPABILITIES if wanted == "all" else frozenset(wanted)
        if unknown or capabilities - CAPABILITIES:
            raise ValueError(f"not known for a key: {', '.join(sorted(unknown | (capabilities - CAPABILITIES)))}")
        return Key(identifier, described["secret"], capabilities, described.get("bucket"), described.get("prefix") or "")


@dataclass
class Lock:
    """What keeps one version of an object."""

    mode: str | None = None
    until: float = 0.0
    hold: bool = False


@dataclass
class Bucket:
    """What is remembered of a bucket."""

    locking: bool = False
    default: tuple[str, str, int] | None = None
    acl: str = "private"


@dataclass
class Upload:
    """An unfinished upload in parts: its lock, and each part's size."""

    lock: Lock | None
    sizes: dict[int, int] = field(default_factory=dict)


FAULTS = ("slow-down", "reset-before", "reset-after", "truncate", "corrupt", "lose-half", "unchecked", "latency", "down")


@dataclass
class Fault:
    """A rule for what goes wrong, and when.

    Arguments:
        kind: one of FAULTS.
        method: only requests with this method.
        operation: only this S3 operation, such as PutObject.
        key: only requests whose `bucket/name` this regular expression is found in.
        probability: of each request that matches, between 0 and 1.
        every: only each n-th of them.
        next: only so many, then never again.
        skip: not the first n of them.
        retry_after: seconds, for the Retry-After of slow-down; None sends none.
        milliseconds: for latency.
        bytes: how many of the body truncate lets through; half of it when None.
        lying: whether lose-half answers with the ETag of all that was sent, so that only reading it again shows the loss.
        seed: of what is left to chance.
    """

    kind: str
    method: str | None = None
    operation: str | None = None
    key: str | None = None
    probability: float | None = None
    every: int | None = None
    next: int | None = None
    skip: int = 0
    retry_after: int | None = None
    milliseconds: float = 0.0
    bytes: int | None = None
    lying: bool = False
    seed: int = 0
    matched: int = 0
    fired: int = 0
    chance: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.kind not in FAULTS:
            raise ValueError(f"no fault is called {self.kind!r}; known are {', '.join(FAULTS)}")
        self.pattern = re.compile(self.key) if self.key else None
        self.chance = random.Random(self.seed)  # noqa: S311 (chance that can be repeated)

    def strikes(self, request: Request) -> bool:
        """Return whether this request is one that goes wrong; each call counts."""
        if self.method not in (None, request.method) or self.operation not in (None, request.operation):
            return False
        if self.pattern is not None and not self.pattern.search(f"{request.bucket}/{request.key}"):
            return False
        self.matched += 1
        if self.matched <= self.skip or (self.next is not None and self.fired >= self.next):
            return False
        if self.every is not None and (self.matched - self.skip) % self.every != 0:
            return False
        if self.probability is not None and self.chance.random() >= self.probability:
            return False
        self.fired += 1
        return True


@dataclass
class Request:
    """A request as it was sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int
    bucket: str = ""
    key: str = ""
    operation: str = ""
    unread: int = 0
    waiting: bool = False

    @property
    def under_lock(self) -> bool:
        """Whether it carries Object Lock headers."""
        return any(name in self.headers for name in _LOCK_HEADERS)


@dataclass
class Answer:
    """What goes back: a body in memory, or one that is still with the upstream server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    length: int | None = None
    source: Stream | None = None

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Stream:
    """A socket that is read by lines, pieces and exact amounts."""

    def __init__(self, connection: socket.socket) -> None:
        """Argument: the socket; it belongs to the stream from here on."""
        self.connection = connection
        self._buffer = bytearray()

    def head(self) -> list[str] | None:
        """Return the lines of a head, None when the other side has ended before one."""
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            searched = max(0, len(self._buffer) - 3)
            if len(self._buffer) > 64 << 10:
                raise Gone
            piece = self.connection.recv(64 << 10)
            if not piece:
                if self._buffer:
                    raise Gone
                return None
            self._buffer += piece
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        return lines

    def read_into(self, view: memoryview) -> int:
        """Fill some of `view` and return how much; at least a byte.

        Raises:
            Gone: there is no more.
        """
        if self._buffer:
            count = min(len(view), len(self._buffer))
            view[:count] = self._buffer[:count]
            del self._buffer[:count]
            return count
        count = self.connection.recv_into(view)
        if count == 0:
            raise Gone
        return count

    def read(self, length: int) -> bytes:
        """Return exactly so many bytes."""
        body = bytearray(length)
        view, done = memoryview(body), 0
        while done < length:
            done += self.read_into(view[done:])
        return bytes(body)

    def rest(self) -> bytes:
        """Return everything until the other side ends."""
        pieces = [bytes(self._buffer)]
        self._buffer.clear()
        while piece := self.connection.recv(CHUNK):
            pieces.append(piece)
        return b"".join(pieces)

    def chunks(self) -> bytes:
        """Return a body in chunked transfer encoding, whole."""
        body = bytearray()
        while True:
            size = int(self._line().split(b";")[0], 16)
            body += self.read(size)
            self._line()
            if size == 0:
                return bytes(body)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            piece = self.connection.recv(64 << 10)
            if not piece:
                raise Gone
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.connection.close()


@dataclass
class Port:
    """Where is listened, or only bound so that nobody else takes it."""

    socket: socket.socket
    context: ssl.SSLContext | None

    @staticmethod
    def bind(address: Address) -> socket.socket:
        """Return a socket that is bound and refuses everybody."""
        bound = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound

    def close(self) -> Address:
        """End it, and whoever waits in accept with it; return where it was."""
        address: Address = self.socket.getsockname()[:2]
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        return address

    def refuse(self) -> None:
        """Keep the port and answer nobody."""
        self.socket = self.bind(self.close())


def _reset(connection: socket.socket) -> None:
    """End a connection so that the other side sees a reset."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.close()


class Upstream:
    """The moto server behind."""

    def __init__(self, address: Address) -> None:
        """Argument: where it listens."""
        self.address = address

    def open(self) -> Stream:
        """Return a new connection to it; moto's server ends each after one answer, so none is kept.

        Raises:
            Refusal: it is not there.
        """
        try:
            connection = socket.create_connection(self.address, timeout=IDLE_SECONDS)
        except OSError as error:
            raise Refusal(503, "ServiceUnavailable", f"no tomes available ({error})") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Stream(connection)

    @staticmethod
    def head(method: str, target: str, headers: list[tuple[str, str]], length: int) -> bytes:
        """Return the head of a request to it."""
        lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {_UPSTREAM_AUTHORIZATION}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1")

    def call(self, method: str, target: str, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> Answer:
        """Send a request whose answer is read whole."""
        stream = self.open()
        try:
            stream.connection.sendall(self.head(method, target, headers or [], len(body)) + body)
            return self.finish(stream, method)
        except BaseException:
            stream.close()
            raise

    def begin(self, stream: Stream, method: str) -> Answer:
        """Read the head of an answer; its body stays in `source` when its length is known."""
        lines = stream.head()
        while lines is not None and lines[0].split(" ", 2)[1] == "100":
            lines = stream.head()
        if lines is None:
            raise Gone
        status = int(lines[0].split(" ", 2)[1])
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        answer = Answer(status, pairs)
        length = answer.header("content-length")
        if method == "HEAD" or status in (204, 304):
            answer.length = int(length) if length else 0
        elif (answer.header("transfer-encoding") or "").lower() == "chunked":
            answer.body = stream.chunks()
            answer.length = len(answer.body)
        elif length is None:
            answer.body = stream.rest()
            answer.length = len(answer.body)
        else:
            answer.length, answer.source = int(length), stream
        return answer

    def finish(self, stream: Stream, method: str) -> Answer:
        """Read an answer whole and end the connection."""
        answer = self.begin(stream, method)
        if answer.source is not None:
            answer.body, answer.source = stream.read(answer.length or 0), None
        stream.close()
        return answer


def _encode(text: str, safe: str = "") -> str:
    return urllib.parse.quote(text, safe=f"-_.~{safe}")


def _instant(text: str) -> float:
    """Return the time that an ISO 8601 date means, in seconds."""
    for form in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).timestamp()
    except ValueError as error:
        raise Refusal(400, "InvalidArgument", "The retain until date must be provided in ISO 8601 format") from error


def _iso(instant: float) -> str:
    return datetime.fromtimestamp(instant, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(instant % 1 * 1000):03}Z"


def _parse(body: bytes, root: str) -> ElementTree.Element:
    """Return a document's root with the namespaces taken off."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
    try:
        tree = ElementTree.fromstring(body)  # noqa: S314 (no entities, see above)
    except ElementTree.ParseError as error:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema") from error
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
    if tree.tag != root:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
    return tree


def _document(inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{inner}\n'.encode()


class B2Proxy:
    """The server: starts, stops, and is told what to do wrong.

    Arguments:
        upstream: where moto listens.
        listen: where to listen for plain HTTP; port 0 takes a free one.
        tls: where to listen for HTTPS, None for nowhere.
        certificate, private_key: PEM files for it.
        control: where to listen for control, None for nowhere.
        keys: the application keys, by id.
        region: what GetBucketLocation says.
    """

    def __init__(
        self,
        upstream: Address,
        *,
        listen: Address = ("127.0.0.1", 0),
        tls: Address | None = None,
        certificate: Path | None = None,
        private_key: Path | None = None,
        control: Address | None = ("127.0.0.1", 0),
        keys: dict[str, dict[str, Any]] | None = None,
        region: str = "us-west-004",
    ) -> None:
        """Bind nothing yet."""
        self.upstream = Upstream(upstream)
        self.region = region
        self._addresses = (listen, tls)
        self._files = (certificate, private_key)
        self._control_address = control
        self._guard = threading.RLock()
        self._keys: dict[str, Key] = {}
        self._faults: list[Fault] = []
        self._offset = 0.0
        self._log: deque[dict[str, Any]] = deque(maxlen=LOG_LENGTH)
        self._served = 0
        self._buckets: dict[str, Bucket] = {}
        self._locks: dict[tuple[str, str, str], Lock] = {}
        self._uploads: dict[str, Upload] = {}
        self._signing_keys: dict[tuple[str, str, str], bytes] = {}
        self._ports: list[Port] = []
        self._connections: set[socket.socket] = set()
        self._up = threading.Event()
        self._stopping = False
        self._control: ThreadingHTTPServer | None = None
        self.endpoint = ""
        self.tls_endpoint: str | None = None
        self.control: str | None = None
        if keys:
            self.set_keys(keys)

    def start(self) -> B2Proxy:
        """Listen, and serve in threads of its own.

        Raises:
            OSError: a port is taken, or a certificate cannot be read.
        """
        plain, tls = self._addresses
        for address, secure in ((plain, False), (tls, True)):
            if address is None:
                continue
            context = None
            if secure:
                certificate, private_key = self._files
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(str(certificate), str(private_key) if private_key else None)
            port = Port(Port.bind(address), context)
            port.socket.listen(128)
            self._ports.append(port)
            url = f"{'https' if secure else 'http'}://{address[0]}:{port.socket.getsockname()[1]}"
            if secure:
                self.tls_endpoint = url
            else:
                self.endpoint = url
        self._up.set()
        for port in self._ports:
            threading.Thread(target=self._accept, args=(port,), daemon=True).start()
        if self._control_address is not None:
            self._control = _control_server(self, self._control_address)
            self.control = f"http://{self._control_address[0]}:{self._control.server_address[1]}"
            threading.Thread(target=self._control.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Close every port and connection."""
        self._stopping = True
        self._up.set()
        for port in self._ports:
            port.close()
        self._reset_connections()
        if self._control is not None:
            self._control.shutdown()
            self._control.server_close()

    def __enter__(self) -> B2Proxy:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # What the control port does, for callers in the same process too.

    def set_keys(self, keys: dict[str, dict[str, Any] | None]) -> None:
        """Add or change keys; None revokes one.

        Raises:
            ValueError: a description is wrong; nothing is changed then.
        """
        changed = {name: None if described is None else Key.read(name, described) for name, described in keys.items()}
        with self._guard:
            for name, key in changed.items():
                if key is None:
                    self._keys.pop(name, None)
                else:
                    self._keys[name] = key
            self._signing_keys.clear()

    def keys(self) -> dict[str, dict[str, Any]]:
        """Return the keys without their secrets."""
        with self._guard:
            return {
                name: {"capabilities": sorted(key.capabilities), "bucket": key.bucket, "prefix": key.prefix}
                for name, key in self._keys.items()
            }

    def set_faults(self, rules: list[dict[str, Any]], *, add: bool = False) -> None:
        """Replace the rules for what goes wrong, or add to them; see Fault.

        Raises:
            ValueError, TypeError, re.error: a rule cannot be meant; nothing is changed then.
        """
        if not isinstance(rules, list):
            raise TypeError("the faults are a list of rules")
        fresh = [Fault(**rule) for rule in rules]
        with self._guard:
            self._faults = [*(self._faults if add else []), *fresh]
            down = any(fault.kind == "down" for fault in self._faults)
        self._listen(not down)

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules, with how often each has matched and fired."""
        with self._guard:
            return [{name: value for name, value in vars(fault).items() if name not in ("chance", "pattern")} for fault in self._faults]

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self.set_faults([])

    def requests(self) -> list[dict[str, Any]]:
        """Return what was asked and answered, oldest first, at most the last LOG_LENGTH."""
        with self._guard:
            return list(self._log)

    def clear_requests(self) -> None:
        """Forget what was asked."""
        with self._guard:
            self._log.clear()
            self._served = 0

    def served(self) -> int:
        """Return how many requests were answered since the log was cleared."""
        return self._served

    def set_clock(self, offset: float) -> None:
        """Let the server believe that it is so many seconds later than it is."""
        self._offset = float(offset)

    def now(self) -> float:
        """Return the time that the server believes in, in seconds."""
        return time.time() + self._offset

    def make_bucket(self, name: str, *, object_lock: bool = False) -> None:
        """Make a bucket as Backblaze has them, with all versions kept; one that exists is fine.

        Raises:
            Refusal: moto refuses.
        """
        target = f"/{_encode(name)}"
        for query, body in (("", b""), ("?versioning", b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")):
            answer = self.upstream.call("PUT", target + query, body)
            if answer.status not in (200, 409):
                raise Refusal(answer.status, "InternalError", f"moto answers {answer.status} to PUT {target}{query}")
        with self._guard:
            known = self._buckets.setdefault(name, Bucket())
            known.locking = known.locking or object_lock

    def _listen(self, wanted: bool) -> None:
        if wanted == self._up.is_set():
            return
        if wanted:
            for port in self._ports:
                port.socket.listen(128)
            self._up.set()
            return
        self._up.clear()
        for port in self._ports:
            port.refuse()
        self._reset_connections()

    def _reset_connections(self) -> None:
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Not SSLSocket's, which would pull the rug from under the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    # Connections.

    def _accept(self, port: Port) -> None:
        while not self._stopping:
            self._up.wait()
            try:
                connection, _ = port.socket.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(0.01)
                continue
            if len(self._connections) >= MAXIMUM_CONNECTIONS:
                _reset(connection)
                continue
            threading.Thread(target=self._serve, args=(connection, port.context), daemon=True).start()

    def _serve(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            # OSError: the other side is gone, which is its right.
            with contextlib.suppress(OSError, Gone):
                connection.settimeout(IDLE_SECONDS)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                with self._guard:
                    self._connections.add(connection)
                stream = Stream(connection)
                while self._up.is_set() and not self._stopping and (lines := stream.head()) is not None:
                    if not self._exchange(stream, lines):
                        break
        finally:
            with self._guard:
                self._connections.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()

    def _exchange(self, stream: Stream, lines: list[str]) -> bool:
        """Answer one request and return whether the connection goes on."""
        request: Request | None = None
        key_id, fault = "", None
        try:
            request = _read_request(lines)
            self._understand(request)
            fault = self._strike(request)
            if fault is not None and fault.kind == "reset-before":
                raise Gone
            if fault is not None and fault.kind == "slow-down":
                after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                raise Refusal(503, "SlowDown", "Please reduce your request rate.", after)
            key = self._authenticate(request)
            key_id = key.identifier
            self._check(request, key)
            answer = self._answer(stream, request, key, fault)
        except Refusal as refusal:
            headers = [("Content-Type", "application/xml"), *refusal.headers.items()]
            body = refusal.document()
            answer = Answer(refusal.status, headers, body, len(body))
        except Gone:
            self._note(request, key_id, fault, 0, 0)
            _reset(stream.connection)
            return False
        if fault is not None and fault.kind == "reset-after":
            if answer.source is not None:
                answer.source.close()
            self._note(request, key_id, fault, answer.status, 0)
            _reset(stream.connection)
            return False
        goes_on = self._send(stream, request, key_id, answer, fault)
        if request is None or not goes_on:
            return False
        if request.unread:
            return _drain(stream, request)
        return request.headers.get("connection", "").lower() != "close"

    def _send(self, stream: Stream, request: Request | None, key_id: str, answer: Answer, fault: Fault | None) -> bool:
        method = request.method if request else "GET"
        length = len(answer.body) if answer.length is None else answer.length
        closing = request is None or (request.unread > 0 and (request.waiting or request.unread > CHUNK * 64))
        identity = secrets.token_hex(8)
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
            "Server: nginx",
            f"Date: {formatdate(self.now(), usegmt=True)}",
            f"x-amz-request-id: {identity}",
            f"x-amz-id-2: {base64.b64encode(identity.encode()).decode()}",
            "Cache-Control: max-age=0, no-cache, no-store",
        ]
        lines += [f"{name}: {value}" for name, value in answer.headers if name.lower() not in _HOP_BY_HOP]
        if answer.status != 204:
            lines.append(f"Content-Length: {length}")
        lines.append("Connection: close" if closing else "Connection: keep-alive")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        bare = method == "HEAD" or answer.status in (204, 304)
        allowed, flipped = length, -1
        if fault is not None and not bare and length:
            if fault.kind == "truncate":
                allowed = min(length - 1, fault.bytes if fault.bytes is not None else length // 2)
            elif fault.kind == "corrupt":
                with self._guard:
                    flipped = fault.chance.randrange(length * 8)
        # Before the answer is out: whoever has it may ask for the log.
        self._note(request, key_id, fault, answer.status, 0 if bare else allowed)
        if bare:
            stream.connection.sendall(head)
            return not closing
        if answer.source is None:
            body = answer.body[:allowed]
            if flipped >= 0:
                changed = bytearray(body)
                changed[flipped // 8] ^= 1 << flipped % 8
                body = bytes(changed)
            stream.connection.sendall(head + body)
        else:
            self._stream_down(stream, head, answer, allowed, flipped)
        return not closing and allowed == length

    @staticmethod
    def _stream_down(stream: Stream, head: bytes, answer: Answer, allowed: int, flipped: int) -> None:
        source = answer.source
        assert source is not None  # noqa: S101 (for the type checker)
        try:
            stream.connection.sendall(head)
            buffer = bytearray(min(CHUNK, max(1, answer.length or 0)))
            view, position = memoryview(buffer), 0
            while position < allowed:
                count = source.read_into(view[: min(len(buffer), allowed - position)])
                if position <= flipped // 8 < position + count and flipped >= 0:
                    buffer[flipped // 8 - position] ^= 1 << flipped % 8
                stream.connection.sendall(view[:count])
                position += count
        finally:
            source.close()

    def _note(self, request: Request | None, key_id: str, fault: Fault | None, status: int, sent: int) -> None:
        entry = {
            "method": request.method if request else "",
            "operation": request.operation if request else "",
            "bucket": request.bucket if request else "",
            "key": request.key if request else "",
            "query": request.query if request else {},
            "status": status,
            "received": request.length - request.unread if request else 0,
            "sent": sent,
            "key_id": key_id,
            "fault": fault.kind if fault else None,
        }
        with self._guard:
            self._served += 1
            self._log.append(entry)

    def _strike(self, request: Request) -> Fault | None:
        """Return what goes wrong with this request, after the latencies."""
        wait, struck = 0.0, None
        with self._guard:
            for fault in self._faults:
                if fault.kind == "latency":
                    wait += fault.milliseconds / 1000 if fault.strikes(request) else 0
                elif fault.kind != "down" and struck is None and fault.strikes(request):
                    struck = fault
        if wait:
            time.sleep(wait)
        return struck

    # What a request means, and whether it may.

    @staticmethod
    def _understand(request: Request) -> None:
        """Find the operation, and refuse what B2 does not have."""
        bucket, _, key = request.path.lstrip("/").partition("/")
        request.bucket, request.key = urllib.parse.unquote(bucket), urllib.parse.unquote(key)
        named = [name for name in request.query if name in _SUBRESOURCES]
        unknown = [name for name in request.query if name not in _SUBRESOURCES and name not in _PLAIN_PARAMETERS]
        if unknown and any(name.lower().startswith("x-amz-") for name in unknown):
            raise Refusal(403, "AccessDenied", "Pre-signed requests are not part of this server")
        if unknown or len(named) > 1:
            raise _not_implemented(f"A parameter you provided ({', '.join(unknown or named)})")
        table = _OBJECT_OPERATIONS if request.key else _BUCKET_OPERATIONS
        operation = table.get((request.method, named[0] if named else ""))
        if not request.bucket:
            operation = "ListBuckets" if request.method == "GET" and not named else None
        if operation is None:
            raise _not_implemented(f"{request.method} {named[0] if named else ''}".strip())
        if operation == "ListObjects" and "list-type" in request.query:
            operation = "ListObjectsV2"
        if "x-amz-copy-source" in request.headers:
            operation = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(operation, operation)
        request.operation = operation

    def _authenticate(self, request: Request) -> Key:
        """Return the key that signed the request, by version 4 of Amazon's signatures."""
        text = request.headers.get("authorization")
        if text is None:
            raise Refusal(403, "AccessDenied", "Unauthenticated requests are not allowed for this api")
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 +Credential=([^/,]+)/(\d{8})/([^/,]+)/s3/aws4_request, *"
            r"SignedHeaders=([a-z0-9;_.-]+), *Signature=([0-9a-f]{64})",
            text,
        )
        if found is None:
            raise Refusal(400, "AuthorizationHeaderMalformed", "The authorization header that you provided is not valid.")
        identifier, day, region, signed, signature = found.groups()
        with self._guard:
            key = self._keys.get(identifier)
        if key is None:
            raise Refusal(403, "InvalidAccessKeyId", f"The key '{identifier}' is not valid")
        stamp = request.headers.get("x-amz-date", "")
        try:
            moment = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        except ValueError as error:
            raise Refusal(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from error
        if abs(moment - self.now()) > SKEW_SECONDS:
            raise Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
        names = signed.split(";")
        unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in names]
        if "host" not in names or unsigned:
            raise Refusal(403, "AccessDenied", "There were headers present in the request which were not signed")
        payload = request.headers.get("x-amz-content-sha256")
        if payload is None:
            raise Refusal(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
        canonical = "\n".join(
            (
                request.method,
                _encode(urllib.parse.unquote(request.path), "/"),
                "&".join(sorted(f"{_encode(name)}={_encode(value)}" for name, value in request.query.items())),
                *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
                "",
                signed,
                payload,
            )
        )
        to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, f"{day}/{region}/s3/aws4_request", hashlib.sha256(canonical.encode()).hexdigest()))
        expected = hmac.new(self._signing_key(key, day, region), to_sign.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, signature) or not stamp.startswith(day):
            raise Refusal(403, "SignatureDoesNotMatch", "Signature validation failed")
        return key

    def _signing_key(self, key: Key, day: str, region: str) -> bytes:
        name = (key.identifier, day, region)
        known = self._signing_keys.get(name)
        if known is None:
            known = f"AWS4{key.secret}".encode()
            for part in (day, region, "s3", "aws4_request"):
                known = hmac.new(known, part.encode(), hashlib.sha256).digest()
            self._signing_keys[name] = known
        return known

    def _check(self, request: Request, key: Key) -> None:
        """Refuse what B2 does not know, and what the key may not do."""
        headers, operation = request.headers, request.operation
        for name in headers:
            if name.startswith("x-amz-") and not name.startswith("x-amz-meta-") and name not in _KNOWN_HEADERS:
                raise Refusal(400, "InvalidArgument", f"Unsupported header '{name}' received for this API call.")
        payload = headers["x-amz-content-sha256"]
        if payload.startswith("STREAMING-") or "aws-chunked" in headers.get("content-encoding", ""):
            raise Refusal(400, "InvalidArgument", f"Unsupported value '{payload}' of x-amz-content-sha256 for this API call.")
        if payload != "UNSIGNED-PAYLOAD" and not re.fullmatch("[0-9a-f]{64}", payload):
            raise Refusal(400, "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.")
        if headers.get("x-amz-server-side-encryption", "AES256") != "AES256":
            raise _not_implemented("The header x-amz-server-side-encryption")
        if headers.get("x-amz-storage-class", "STANDARD") != "STANDARD":
            raise _not_implemented("The header x-amz-storage-class")
        if request.method in ("PUT", "POST") and ("if-match" in headers or "if-none-match" in headers):
            raise _not_implemented("A conditional header")
        if headers.get("x-amz-acl", "private") not in ("private", "public-read"):
            raise _not_implemented("The header x-amz-acl")
        needed = set(_NEEDED[operation])
        if operation == "DeleteObject":
            needed.add("deleteFiles" if "versionId" in request.query else "writeFiles")
        if "x-amz-object-lock-mode" in headers or "x-amz-object-lock-retain-until-date" in headers:
            needed.add("writeFileRetentions")
        if "x-amz-object-lock-legal-hold" in headers:
            needed.add("writeFileLegalHolds")
        if headers.get("x-amz-bypass-governance-retention", "").lower() == "true":
            needed.add("bypassGovernance")
        if operation == "CreateBucket" and headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true":
            needed.add("writeBucketRetentions")
        if key.bucket is not None and operation in ("CreateBucket", "DeleteBucket"):
            raise _not_entitled()
        if key.bucket is not None and operation == "ListBuckets":
            needed.add("listAllBucketNames")
        if not needed <= key.capabilities:
            raise _not_entitled()
        if key.bucket is not None and request.bucket and request.bucket != key.bucket:
            raise _not_entitled()
        if key.prefix and not self._within(request, key):
            raise _not_entitled()
        self._check_body(request)

    @staticmethod
    def _within(request: Request, key: Key) -> bool:
        """Return whether a request stays with names that begin as the key demands."""
        if request.key:
            return request.key.startswith(key.prefix)
        if request.operation in ("ListObjects", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads"):
            return request.query.get("prefix", "").startswith(key.prefix)
        return True

    def _check_body(self, request: Request) -> None:
        headers, operation = request.headers, request.operation
        digest = headers.get("content-md5")
        if digest is not None:
            try:
                right = len(base64.b64decode(digest, validate=True)) == 16
            except binascii.Error:
                right = False
            if not right:
                raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        if operation in _NEED_MD5 and digest is None:
            raise Refusal(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
        if operation in _STREAMED_UP:
            if "content-length" not in headers:
                raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
            if request.length > MAXIMUM_PART:
                raise Refusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
        elif request.length > _LARGEST_DOCUMENT:
            raise Refusal(400, "MaxMessageLengthExceeded", "Your request was too big.")
        if operation == "UploadPart" and not request.query.get("partNumber", "").isdecimal():
            raise Refusal(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
        if operation == "UploadPart" and not 1 <= int(request.query["partNumber"]) <= 10_000:
            raise Refusal(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")

    # Answers.

    def _answer(self, stream: Stream, request: Request, key: Key, fault: Fault | None) -> Answer:
        operation = request.operation
        if operation in _STREAMED_UP:
            return self._upload(stream, request, fault)
        body = self._body(stream, request)
        own: dict[str, Callable[[Request, Key, bytes], Answer]] = {
            "CreateBucket": self._create_bucket,
            "DeleteBucket": self._delete_bucket,
            "GetBucketLocation": self._bucket_location,
            "GetBucketVersioning": self._bucket_versioning,
            "PutBucketVersioning": self._put_versioning,
            "GetBucketAcl": self._acl,
            "GetObjectAcl": self._acl,
            "PutBucketAcl": self._put_acl,
            "PutObjectAcl": self._put_acl,
            "PutBucketLifecycleConfiguration": self._put_lifecycle,
            "GetObjectLockConfiguration": self._lock_configuration,
            "PutObjectLockConfiguration": self._put_lock_configuration,
            "GetObjectRetention": self._retention,
            "PutObjectRetention": self._put_retention,
            "GetObjectLegalHold": self._legal_hold,
            "PutObjectLegalHold": self._put_legal_hold,
            "DeleteObject": self._delete_object,
            "DeleteObjects": self._delete_objects,
            "CreateMultipartUpload": self._create_upload,
            "CompleteMultipartUpload": self._complete_upload,
            "AbortMultipartUpload": self._abort_upload,
            "CopyObject": self._copy_object,
            "GetObject": self._get_object,
            "HeadObject": self._get_object,
        }
        if operation in own:
            return own[operation](request, key, body)
        if request.bucket:
            self._bucket(request.bucket)
        return self._pass(request, body)

    def _body(self, stream: Stream, request: Request) -> bytes:
        """Return a request's document after its digests were found right."""
        _go_on(stream, request)
        body = stream.read(request.length) if request.length else b""
        request.unread = 0
        digests = Digests(request)
        digests.update(body)
        digests.verify()
        return body

    def _bucket(self, name: str) -> Bucket:
        """Return what is known of a bucket.

        Raises:
            Refusal: there is none.
        """
        with self._guard:
            known = self._buckets.get(name)
        if known is not None:
            return known
        if self.upstream.call("HEAD", f"/{_encode(name)}").status == 404:
            raise Refusal(404, "NoSuchBucket", f"The specified bucket does not exist: {name}")
        # It was made behind this server's back; Backblaze has none without versions.
        self.make_bucket(name)
        return self._buckets[name]

    @staticmethod
    def _target(request: Request) -> str:
        query = "&".join(
            name if not value and name in _SUBRESOURCES else f"{_encode(name)}={_encode(value)}"
            for name, value in request.query.items()
            if name != "x-id"
        )
        path = f"/{_encode(request.bucket)}" + (f"/{_encode(request.key, '/')}" if request.key else "")
        return (path if request.bucket else "/") + (f"?{query}" if query else "")

    @staticmethod
    def _forwarded(request: Request) -> list[tuple[str, str]]:
        return [(name, value) for name, value in request.headers.items() if name not in _NOT_FORWARDED]

    def _pass(self, request: Request, body: bytes = b"") -> Answer:
        return self.upstream.call(request.method, self._target(request), body, self._forwarded(request))

    def _upload(self, stream: Stream, request: Request, fault: Fault | None) -> Answer:
        loss = fault if fault is not None and fault.kind == "lose-half" else None
        bucket = self._bucket(request.bucket)
        part = request.operation == "UploadPart"
        upload = self._uploads.get(request.query.get("uploadId", "")) if part else None
        lock = None if part else self._wanted_lock(request, bucket)
        locked = bucket.locking or (upload is not None and upload.lock is not None)
        if (locked or request.under_lock) and "content-md5" not in request.headers:
            what = "Put Part" if part else "Put Object"
            raise Refusal(400, "InvalidRequest", f"Content-MD5 HTTP header is required for {what} requests with Object Lock parameters")
        _go_on(stream, request)
        forwarded = request.length if loss is None else request.length // 2
        digests = Digests(request, md5=loss is not None)
        digests.counts = fault is None or fault.kind != "unchecked"
        server = self.upstream.open()
        try:
            head = self.upstream.head(request.method, self._target(request), self._forwarded(request), forwarded)
            self._stream_up(stream, request, server, head, forwarded, digests)
            answer = self.upstream.finish(server, request.method)
        except BaseException:
            server.close()
            raise
        if loss is not None and loss.lying:
            answer.headers = [(name, digests.etag() if name.lower() == "etag" else value) for name, value in answer.headers]
        if answer.status == 200 and part and upload is not None:
            upload.sizes[int(request.query["partNumber"])] = request.length
        if answer.status == 200 and not part:
            self._remember(request, answer, lock)
        return answer

    @staticmethod
    def _stream_up(stream: Stream, request: Request, server: Stream, head: bytes, forwarded: int, digests: Digests) -> None:
        """Pass a body on, the last piece only when the digests are right."""
        size = min(CHUNK, max(1, request.length))
        buffers, turn = (memoryview(bytearray(size)), memoryview(bytearray(size))), 0
        pending: list[memoryview | bytes] = [head]
        passed = 0
        while request.unread:
            view = buffers[turn]
            count = stream.read_into(view[: min(size, request.unread)])
            request.unread -= count
            piece = view[:count]
            digests.update(piece)
            if len(pending) > 1 or passed:
                # Only what is known to be followed by more.
                server.connection.sendall(pending.pop())
            elif request.unread:
                server.connection.sendall(pending.pop())
            keep = piece[: max(0, forwarded - passed)]
            passed += len(keep)
            pending.append(keep)
            turn = 1 - turn
        digests.verify()
        server.connection.sendall(b"".join(pending))

    def _remember(self, request: Request, answer: Answer, lock: Lock | None) -> None:
        version = answer.header("x-amz-version-id")
        if lock is not None and version is not None:
            with self._guard:
                self._locks[request.bucket, request.key, version] = lock

    def _wanted_lock(self, request: Request, bucket: Bucket) -> Lock | None:
        """Return the lock that a new version gets: the one asked for, or the bucket's own."""
        mode, until, hold = (request.headers.get(name) for name in _LOCK_HEADERS)
        if request.under_lock and not bucket.locking:
            raise Refusal(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
        if (mode is None) != (until is None):
            raise Refusal(
                400, "InvalidArgument",
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            )  # fmt: skip
        if hold not in (None, "ON", "OFF"):
            raise Refusal(400, "InvalidArgument", "Legal hold must be either of ON or OFF")
        lock = Lock(hold=hold == "ON")
        if mode is not None and until is not None:
            lock.mode, lock.until = self._retention_wanted(mode, until)
        elif bucket.default is not None:
            lock.mode = bucket.default[0]
            lock.until = self.now() + bucket.default[2] * 86400 * (365 if bucket.default[1] == "Years" else 1)
        return lock if lock.mode or lock.hold else None

    def _retention_wanted(self, mode: str, until: str) -> tuple[str, float]:
        if mode not in ("GOVERNANCE", "COMPLIANCE"):
            raise Refusal(400, "InvalidArgument", "Unknown wormMode directive.")
        instant = _instant(until)
        if instant <= self.now():
            raise Refusal(400, "InvalidArgument", "The retain until date must be in the future!")
        return mode, instant

    # Buckets.

    def _create_bucket(self, request: Request, _key: Key, _body: bytes) -> Answer:
        name = request.bucket
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{4,61}[a-z0-9]", name) or name.startswith("b2-"):
            raise Refusal(400, "InvalidBucketName", "The specified bucket is not valid.")
        if self.upstream.call("HEAD", f"/{_encode(name)}").status != 404:
            raise Refusal(
                409, "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it."
            )
        self.make_bucket(name, object_lock=request.headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true")
        self._buckets[name].acl = request.headers.get("x-amz-acl", "private")
        return Answer(200, [("Location", f"/{name}")])

    def _delete_bucket(self, request: Request, _key: Key, _body: bytes) -> Answer:
        answer = self._pass(request)
        if answer.status == 204:
            with self._guard:
                self._buckets.pop(request.bucket, None)
        return answer

    def _bucket_location(self, request: Request, _key: Key, _body: bytes) -> Answer:
        self._bucket(request.bucket)
        return _xml(f'<LocationConstraint xmlns="{_NAMESPACE}">{escape(self.region)}</LocationConstraint>')

    def _bucket_versioning(self, request: Request, _key: Key, _body: bytes) -> Answer:
        self._bucket(request.bucket)
        return _xml(f'<VersioningConfiguration xmlns="{_NAMESPACE}"><Status>Enabled</Status></VersioningConfiguration>')

    def _put_versioning(self, request: Request, _key: Key, body: bytes) -> Answer:
        self._bucket(request.bucket)
        if _parse(body, "VersioningConfiguration").findtext("Status") != "Enabled":
            raise _not_implemented("Suspending versions")
        return Answer(200, [])

    def _acl(self, request: Request, _key: Key, _body: bytes) -> Answer:
        bucket = self._bucket(request.bucket)
        everyone = (
            '<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="Group">'
            "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant>"
        )
        return _xml(
            f'<AccessControlPolicy xmlns="{_NAMESPACE}"><Owner><ID>owner</ID><DisplayName></DisplayName></Owner><AccessControlList>'
            '<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>owner</ID>'
            "<DisplayName></DisplayName></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
            f"{everyone if bucket.acl == 'public-read' else ''}</AccessControlList></AccessControlPolicy>"
        )

    def _put_acl(self, request: Request, _key: Key, _body: bytes) -> Answer:
        bucket = self._bucket(request.bucket)
        wanted = request.headers.get("x-amz-acl")
        if wanted is None:
            raise _not_implemented("An access control list in the body")
        if request.operation == "PutObjectAcl" and wanted != bucket.acl:
            raise Refusal(400, "InvalidArgument", "The ACL of an object must be the same as that of its bucket")
        if request.operation == "PutBucketAcl":
            bucket.acl = wanted
        return Answer(200, [])

    def _put_lifecycle(self, request: Request, _key: Key, body: bytes) -> Answer:
        self._bucket(request.bucket)
        tree = _parse(body, "LifecycleConfiguration")
        for name in ("Transition", "NoncurrentVersionTransition", "Tag", "And", "ObjectSizeGreaterThan", "ObjectSizeLessThan",
                     "Date", "NewerNoncurrentVersions"):  # fmt: skip
            if tree.find(f".//{name}") is not None:
                raise _not_implemented(f"The element {name} of a lifecycle rule")
        return self._pass(request, body)

    def _lock_configuration(self, request: Request, _key: Key, _body: bytes) -> Answer:
        bucket = self._bucket(request.bucket)
        if not bucket.locking:
            raise Refusal(404, "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")
        rule = ""
        if bucket.default is not None:
            mode, unit, count = bucket.default
            rule = f"<Rule><DefaultRetention><Mode>{mode}</Mode><{unit}>{count}</{unit}></DefaultRetention></Rule>"
        return _xml(
            f'<ObjectLockConfiguration xmlns="{_NAMESPACE}"><ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}</ObjectLockConfiguration>'
        )

    def _put_lock_configuration(self, request: Request, _key: Key, body: bytes) -> Answer:
        bucket = self._bucket(request.bucket)
        tree = _parse(body, "ObjectLockConfiguration")
        wrong = Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
        if tree.findtext("ObjectLockEnabled") != "Enabled":
            raise wrong
        default = None
        if (rule := tree.find("Rule/DefaultRetention")) is not None:
            mode, days, years = (rule.findtext(name) for name in ("Mode", "Days", "Years"))
            count = days if years is None else years
            if mode not in ("GOVERNANCE", "COMPLIANCE") or (days is None) == (years is None) or not (count or "").isdecimal():
                raise wrong
            default = (mode, "Days" if years is None else "Years", int(count or "0"))
        bucket.locking, bucket.default = True, default
        return Answer(200, [])

    # Objects.

    def _find(self, request: Request) -> tuple[str, Lock | None]:
        """Return the version that a request means, and its lock."""
        if not self._bucket(request.bucket).locking:
            raise Refusal(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
        version = request.query.get("versionId")
        target = f"/{_encode(request.bucket)}/{_encode(request.key, '/')}" + (f"?versionId={_encode(version)}" if version else "")
        answer = self.upstream.call("HEAD", target)
        found = answer.header("x-amz-version-id")
        if answer.status == 405 or (version and answer.header("x-amz-delete-marker") == "true"):
            raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if answer.status != 200 or found is None:
            if version:
                raise Refusal(404, "NoSuchVersion", "The specified version does not exist.")
            raise Refusal(404, "NoSuchKey", "Key not found")
        with self._guard:
            return found, self._locks.get((request.bucket, request.key, found))

    def _retention(self, request: Request, _key: Key, _body: bytes) -> Answer:
        _, lock = self._find(request)
        if lock is None or lock.mode is None:
            raise Refusal(404, "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
        return _xml(
            f'<Retention xmlns="{_NAMESPACE}"><Mode>{lock.mode}</Mode><RetainUntilDate>{_iso(lock.until)}</RetainUntilDate></Retention>'
        )

    def _put_retention(self, request: Request, key: Key, body: bytes) -> Answer:
        version, lock = self._find(request)
        tree = _parse(body, "Retention")
        mode, until = tree.findtext("Mode"), tree.findtext("RetainUntilDate")
        if (mode is None) != (until is None):
            raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
        wanted = self._retention_wanted(mode, until) if mode is not None and until is not None else (None, 0.0)
        if lock is not None and lock.mode is not None and lock.until > self.now():
            weaker = wanted[1] < lock.until or (lock.mode == "COMPLIANCE" and wanted[0] != "COMPLIANCE")
            if weaker and (lock.mode == "COMPLIANCE" or not _bypasses(request, key)):
                raise Refusal(403, "AccessDenied", "Access Denied because object protected by object lock.")
        with self._guard:
            kept = self._locks.setdefault((request.bucket, request.key, version), Lock())
            kept.mode, kept.until = wanted
        return Answer(200, [])

    def _legal_hold(self, request: Request, _key: Key, _body: bytes) -> Answer:
        _, lock = self._find(request)
        if lock is None:
            raise Refusal(404, "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
        return _xml(f'<LegalHold xmlns="{_NAMESPACE}"><Status>{"ON" if lock.hold else "OFF"}</Status></LegalHold>')

    def _put_legal_hold(self, request: Request, _key: Key, body: bytes) -> Answer:
        version, _ = self._find(request)
        status = _parse(body, "LegalHold").findtext("Status")
        if status not in ("ON", "OFF"):
            raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
        with self._guard:
            self._locks.setdefault((request.bucket, request.key, version), Lock()).hold = status == "ON"
        return Answer(200, [])

    def _protected(self, request: Request, key: Key, name: str, version: str) -> bool:
        """Return whether a version may not be deleted now."""
        with self._guard:
            lock = self._locks.get((request.bucket, name, version))
        if lock is None:
            return False
        if lock.hold:
            return True
        if lock.mode is None or lock.until <= self.now():
            return False
        return lock.mode == "COMPLIANCE" or not _bypasses(request, key)

    def _delete_object(self, request: Request, key: Key, _body: bytes) -> Answer:
        self._bucket(request.bucket)
        version = request.query.get("versionId")
        if version is not None and self._protected(request, key, request.key, version):
            raise Refusal(403, "AccessDenied", "Access Denied because object protected by object lock.")
        answer = self._pass(request)
        if version is not None and answer.status == 204:
            with self._guard:
                self._locks.pop((request.bucket, request.key, version), None)
        return answer

    def _delete_objects(self, request: Request, key: Key, body: bytes) -> Answer:
        self._bucket(request.bucket)
        tree = _parse(body, "Delete")
        wanted = tree.findall("Object")
        if not 1 <= len(wanted) <= 1000:
            raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our schema")
        quiet = tree.findtext("Quiet", "false").strip().lower() == "true"
        allowed, refused = "", ""
        for element in wanted:
            name, version = element.findtext("Key", ""), element.findtext("VersionId")
            if not name or {child.tag for child in element} - {"Key", "VersionId"}:
                raise _not_implemented("A condition on a deletion")
            entitled = ("deleteFiles" if version is not None else "writeFiles") in key.capabilities and name.startswith(key.prefix)
            named = f"<Key>{escape(name)}</Key>" + (f"<VersionId>{escape(version)}</VersionId>" if version is not None else "")
            if not entitled:
                refused += f"<Error>{named}<Code>AccessDenied</Code><Message>not entitled</Message></Error>"
            elif version is not None and self._protected(request, key, name, version):
                message = "Access Denied because object protected by object lock."
                refused += f"<Error>{named}<Code>AccessDenied</Code><Message>{message}</Message></Error>"
            else:
                allowed += f"<Object>{named}</Object>"
        done = ""
        if allowed:
            answer = self.upstream.call(
                "POST", f"/{_encode(request.bucket)}?delete", f"<Delete>{allowed}</Delete>".encode(), [("Content-Type", "application/xml")]
            )
            if answer.status != 200:
                return answer
            for element in _parse(answer.body, "DeleteResult"):
                text = "".join(f"<{child.tag}>{escape(child.text or '')}</{child.tag}>" for child in element)
                if element.tag == "Error" or not quiet:
                    done += f"<{element.tag}>{text}</{element.tag}>"
                if element.tag == "Deleted" and (version := element.findtext("VersionId")):
                    with self._guard:
                        self._locks.pop((request.bucket, element.findtext("Key", ""), version), None)
        return _xml(f'<DeleteResult xmlns="{_NAMESPACE}">{done}{refused}</DeleteResult>')

    def _create_upload(self, request: Request, _key: Key, _body: bytes) -> Answer:
        bucket = self._bucket(request.bucket)
        lock = self._wanted_lock(request, bucket)
        answer = self._pass(request)
        if answer.status == 200:
            with self._guard:
                identity = _parse(answer.body, "InitiateMultipartUploadResult").findtext("UploadId", "")
                self._uploads[identity] = Upload(lock)
        return answer

    def _complete_upload(self, request: Request, _key: Key, body: bytes) -> Answer:
        self._bucket(request.bucket)
        identity = request.query["uploadId"]
        upload = self._uploads.get(identity)
        parts = [int(part.findtext("PartNumber", "0")) for part in _parse(body, "CompleteMultipartUpload").findall("Part")]
        if upload is not None and any(upload.sizes.get(part, MINIMUM_PART) < MINIMUM_PART for part in parts[:-1]):
            raise Refusal(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
        answer = self._pass(request, body)
        if answer.status == 200:
            with self._guard:
                self._uploads.pop(identity, None)
            if upload is not None:
                self._remember(request, answer, upload.lock)
        return answer

    def _abort_upload(self, request: Request, _key: Key, _body: bytes) -> Answer:
        self._bucket(request.bucket)
        answer = self._pass(request)
        if answer.status == 204:
            with self._guard:
                self._uploads.pop(request.query["uploadId"], None)
        return answer

    def _copy_object(self, request: Request, key: Key, _body: bytes) -> Answer:
        lock = self._wanted_lock(request, self._bucket(request.bucket))
        source, _, name = urllib.parse.unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")
        if (key.bucket is not None and source != key.bucket) or not name.startswith(key.prefix):
            raise _not_entitled()
        answer = self._pass(request)
        if answer.status == 200:
            self._remember(request, answer, lock)
        return answer

    def _get_object(self, request: Request, key: Key, _body: bytes) -> Answer:
        self._bucket(request.bucket)
        server = self.upstream.open()
        try:
            head = self.upstream.head(request.method, self._target(request), self._forwarded(request), 0)
            server.connection.sendall(head)
            answer = self.upstream.begin(server, request.method)
        except BaseException:
            server.close()
            raise
        if answer.source is None:
            server.close()
        if answer.status == 404 and "listBuckets" not in key.capabilities:
            server.close()
            # What is not there is none of the business of who may not list (kopia/kopia#5329).
            raise Refusal(403, "AccessDenied", "Cannot access bucket")
        with self._guard:
            lock = self._locks.get((request.bucket, request.key, answer.header("x-amz-version-id") or ""))
        if lock is not None and lock.mode and "readFileRetentions" in key.capabilities:
            answer.headers += [(_LOCK_HEADERS[0], lock.mode), (_LOCK_HEADERS[1], _iso(lock.until))]
        if lock is not None and lock.hold and "readFileLegalHolds" in key.capabilities:
            answer.headers.append((_LOCK_HEADERS[2], "ON"))
        return answer


class Digests:
    """The digests of a body, against those that its request names."""

    def __init__(self, request: Request, *, md5: bool = False) -> None:
        """Arguments: the request whose body it will be, and whether MD5 is wanted although none is named."""
        self.counts = True
        self._named = request.headers.get("content-md5")
        self._signed = request.headers["x-amz-content-sha256"]
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 or self._named is not None else None
        self._sha256 = hashlib.sha256() if self._signed != "UNSIGNED-PAYLOAD" else None

    def update(self, piece: bytes | memoryview) -> None:
        """Take another piece of the body in."""
        if self._md5 is not None:
            self._md5.update(piece)
        if self._sha256 is not None:
            self._sha256.update(piece)

    def etag(self) -> str:
        """Return the ETag of what was taken in."""
        return f'"{self._md5.hexdigest()}"' if self._md5 is not None else ""

    def verify(self) -> None:
        """Refuse a body that is not the one announced."""
        if self.counts and self._sha256 is not None and self._sha256.hexdigest() != self._signed:
            raise Refusal(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
        if self._md5 is not None and self._named not in (None, base64.b64encode(self._md5.digest()).decode()):
            raise Refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")


def _bypasses(request: Request, key: Key) -> bool:
    asked = request.headers.get("x-amz-bypass-governance-retention", "").lower() == "true"
    return asked and "bypassGovernance" in key.capabilities


def _xml(inner: str) -> Answer:
    return Answer(200, [("Content-Type", "application/xml")], _document(inner))


def _read_request(lines: list[str]) -> Request:
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError as error:
        raise Gone from error
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    if "chunked" in headers.get("transfer-encoding", "").lower():
        # Its end could not be found, so nothing can follow it either.
        raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise Gone
    request = Request(method, path, dict(urllib.parse.parse_qsl(query, keep_blank_values=True)), headers, int(length))
    request.unread = request.length
    request.waiting = headers.get("expect", "").lower() == "100-continue"
    return request


def _go_on(stream: Stream, request: Request) -> None:
    """Let a client that asked first send its body."""
    if request.waiting:
        request.waiting = False
        stream.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def _drain(stream: Stream, request: Request) -> bool:
    """Read what is left of a refused body, so that the next request can be found."""
    view = memoryview(bytearray(CHUNK))
    while request.unread:
        request.unread -= stream.read_into(view[: min(CHUNK, request.unread)])
    return True


def _control_server(proxy: B2Proxy, address: Address) -> ThreadingHTTPServer:
    """Return the server of the control port: small JSON, and no signatures."""

    def changes(method: str, path: str, body: Any) -> object:  # noqa: ANN401 (JSON)
        if path.startswith("/buckets/") and method == "PUT":
            return proxy.make_bucket(path.removeprefix("/buckets/"), object_lock=bool((body or {}).get("object_lock")))
        actions: dict[tuple[str, str], Callable[[], Any]] = {
            ("GET", "/faults"): proxy.faults,
            ("PUT", "/faults"): lambda: proxy.set_faults(body),
            ("POST", "/faults"): lambda: proxy.set_faults(body, add=True),
            ("DELETE", "/faults"): proxy.clear_faults,
            ("GET", "/requests"): lambda: {"served": proxy.served(), "requests": proxy.requests()},
            ("DELETE", "/requests"): proxy.clear_requests,
            ("GET", "/keys"): proxy.keys,
            ("PUT", "/keys"): lambda: proxy.set_keys(body),
            ("GET", "/clock"): lambda: {"now": proxy.now()},
            ("PUT", "/clock"): lambda: proxy.set_clock(body["offset"]),
        }
        return actions[method, path]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout: ClassVar[float] = 30

        def _do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                done, status = changes(self.command, self.path, json.loads(sent) if sent else None), 200
            except Refusal as refusal:
                done, status = {"error": refusal.message}, 502
            except (ValueError, KeyError, TypeError, re.error) as error:
                done, status = {"error": f"{type(error).__name__}: {error}"}, 400
            body = json.dumps(done).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 (the names that http.server looks for)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    return server


@contextlib.contextmanager
def serve(upstream: Address, **arguments: Any) -> Iterator[B2Proxy]:  # noqa: ANN401 (handed on)
    """Run a proxy for as long as the block does; the arguments are B2Proxy's."""
    proxy = B2Proxy(upstream, **arguments)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Backblaze B2's S3 interface in front of moto")
    parser.add_argument("--upstream", type=_address, default=("127.0.0.1", 9001))
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 9000))
    parser.add_argument("--tls", type=_address)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--private-key", type=Path)
    parser.add_argument("--control", type=_address)
    parser.add_argument("--keys", type=Path, help="a JSON file: key id → {secret, capabilities, bucket, prefix}")
    parser.add_argument("--region", default="us-west-004")
    chosen = parser.parse_args()
    keys = json.loads(chosen.keys.read_text()) if chosen.keys else {}
    with serve(
        chosen.upstream,
        listen=chosen.listen,
        tls=chosen.tls,
        certificate=chosen.certificate,
        private_key=chosen.private_key,
        control=chosen.control,
        keys=keys,
        region=chosen.region,
    ) as proxy:
        print(f"serving {proxy.endpoint}, {proxy.tls_endpoint}, control {proxy.control}", file=sys.stderr, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
