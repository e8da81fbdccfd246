"""Backblaze B2 in small, for tests: moto in a process of its own, and the trial's strict proxy before it in a thread.

One server for a whole test session, started when the first test asks for it; a bucket and keys of its own for each test.
Every test in this folder can ask for the fixtures `b2` and `b2_locked`; elsewhere, `server()` and `Storage.make()` do the
same. What the proxy can do wrong is described in its `Fault`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROXY = Path(__file__).resolve().parents[2] / "trial/neighbours/files/opt/neighbours/b2_proxy.py"
REGION = "us-west-004"
# Ends with whoever started it, killed or not: its standard input ends then.
_MOTO = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def _load() -> Any:
    known = sys.modules.get("b2_proxy")
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location("b2_proxy", PROXY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["b2_proxy"] = module
    spec.loader.exec_module(module)
    return module


b2_proxy = _load()
B2Proxy = b2_proxy.B2Proxy
ALL = "all"


@dataclass(frozen=True)
class Storage:
    """A bucket of a test's own, and a key that may do everything with it.

    Arguments:
        proxy: the server, whose set_faults, clear_faults, set_keys, set_clock, requests and clear_requests concern all
            tests of the session; the fixtures put them right again.
        upstream: where moto listens, for looking at what is really stored.
        bucket: its name.
        key_id, application_key: the key.
        object_lock: whether the bucket has it.
    """

    proxy: Any
    upstream: tuple[str, int]
    bucket: str
    key_id: str
    application_key: str
    object_lock: bool

    @property
    def endpoint(self) -> str:
        """Where the S3 interface is (http)."""
        return str(self.proxy.endpoint)

    @property
    def control(self) -> str:
        """Where the control port is, for processes other than this one."""
        return str(self.proxy.control)

    @staticmethod
    def make(proxy: Any, upstream: tuple[str, int], *, object_lock: bool = False) -> Storage:
        """Make a bucket and a key."""
        name = f"giggles-test-{secrets.token_hex(6)}"
        key_id, key = f"004{secrets.token_hex(11)}", f"K004{secrets.token_hex(14)}"
        proxy.make_bucket(name, object_lock=object_lock)
        proxy.set_keys({key_id: {"secret": key, "capabilities": "all"}})
        return Storage(proxy, upstream, name, key_id, key, object_lock)

    def key(self, *capabilities: str, bucket: str | None = None, prefix: str = "") -> tuple[str, str]:
        """Make another key, with these capabilities only; return its id and secret."""
        key_id, key = f"004{secrets.token_hex(11)}", f"K004{secrets.token_hex(14)}"
        self.proxy.set_keys({key_id: {"secret": key, "capabilities": list(capabilities), "bucket": bucket, "prefix": prefix}})
        return key_id, key

    def revoke(self, key_id: str | None = None) -> None:
        """Take a key away, the test's own by default."""
        self.proxy.set_keys({key_id or self.key_id: None})

    def client(self, key: tuple[str, str] | None = None, *, endpoint: str | None = None, verify: str | None = None, **config: Any) -> Any:
        """Return a boto3 client that sends what B2 accepts, and that does not try again.

        Arguments:
            key: id and secret of another key than the test's own.
            endpoint, verify: another address, and the certificates to trust there.
            config: changes to the client's settings.
        """
        import boto3
        from botocore.config import Config

        settings = {
            "signature_version": "s3v4",
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path"},
            **config,
        }
        key_id, secret = key or (self.key_id, self.application_key)
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            verify=verify,
            region_name=REGION,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(**settings),
        )

    def bare_client(self) -> Any:
        """Return a boto3 client of moto itself, to look behind the proxy."""
        import boto3

        host, port = self.upstream
        return boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="proxy",
            aws_secret_access_key="proxy",
        )


@contextlib.contextmanager
def moto() -> Iterator[tuple[str, int]]:
    """Run moto's S3 server in a process of its own and give its address."""
    # Parts are checked by the proxy, whose least size is a little below moto's.
    # With parts that small it would keep each object in a file of its own, and thousands of them open.
    environment = {**os.environ, "S3_UPLOAD_PART_MIN_SIZE": "1", "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(8 << 20)}
    with subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            assert port, "moto did not start"
            yield "127.0.0.1", int(port)
        finally:
            process.kill()


@contextlib.contextmanager
def server(**arguments: Any) -> Iterator[tuple[Any, tuple[str, int]]]:
    """Run moto and the proxy, with nothing in them, and give the proxy and moto's address."""
    with moto() as upstream, b2_proxy.serve(upstream, **arguments) as proxy:
        yield proxy, upstream


@pytest.fixture(scope="session")
def b2_server() -> Iterator[tuple[Any, tuple[str, int]]]:
    """The session's server."""
    with server() as running:
        yield running


def _storage(b2_server: tuple[Any, tuple[str, int]], *, object_lock: bool) -> Iterator[Storage]:
    proxy, upstream = b2_server
    storage = Storage.make(proxy, upstream, object_lock=object_lock)
    proxy.clear_requests()
    try:
        yield storage
    finally:
        proxy.clear_faults()
        proxy.set_clock(0)
        storage.revoke()


@pytest.fixture
def b2(b2_server: tuple[Any, tuple[str, int]]) -> Iterator[Storage]:
    """A bucket with all versions kept, without Object Lock."""
    yield from _storage(b2_server, object_lock=False)


@pytest.fixture
def b2_locked(b2_server: tuple[Any, tuple[str, int]]) -> Iterator[Storage]:
    """A bucket with Object Lock."""
    yield from _storage(b2_server, object_lock=True)
