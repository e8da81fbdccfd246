"""A client of S3 that sends what Backblaze B2 takes, and starts quickly."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gigglekit.backup.body import Body, Requests
from gigglekit.backup.sending import Broken

if TYPE_CHECKING:
    from gigglekit.backup.settings import Settings

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_NOT_AT_B2 = ("x-amz-sdk-checksum-algorithm", "x-amz-checksum-", "x-amz-trailer", "expect")
"""Headers, or how they begin, that B2 refuses, and `Expect`, which costs a round trip for every object."""


def connect(settings: Settings) -> Any:  # noqa: ANN401 - botocore has no types
    """Return a client of botocore. Several threads may use it at once. It does not retry; see `sending`.

    Arguments:
        settings: endpoint, region and credentials.

    Source: measured with botocore 1.44: of 0.1 s, half went into its list of the regions of all services, of which nothing is needed
    when the endpoint is given. Credentials and profiles of AWS are not looked for: there must be none here.
    """
    with _without("urllib3.contrib.pyopenssl"):
        # botocore takes from it what `ssl` has as well, and it takes a tenth of the start.
        import botocore.httpsession  # type: ignore[import-untyped]
    import botocore.config  # type: ignore[import-untyped]
    import botocore.loaders  # type: ignore[import-untyped]
    import botocore.session  # type: ignore[import-untyped]

    class Loader(botocore.loaders.Loader):  # type: ignore[misc]
        """Reads the description of S3, and nothing about other services."""

        def list_available_services(self, _type_name: str) -> list[str]:
            return ["s3"]

        def load_data_with_path(self, name: str) -> tuple[Any, str]:
            if name != "endpoints":
                return super().load_data_with_path(name)  # type: ignore[no-any-return]
            aws = {
                "partition": "aws",
                "partitionName": "",
                "dnsSuffix": "amazonaws.com",
                "regionRegex": ".*",
                "regions": {},
                "services": {},
            }
            return {"version": 3, "partitions": [aws | {"defaults": {"hostname": "{service}.{region}.{dnsSuffix}"}}]}, ""

    nothing = (None, None, None, None)
    session = botocore.session.Session(
        session_vars={
            "profile": nothing,
            "ca_bundle": nothing,
            "config_file": (None, None, "/dev/null", None),
            "credentials_file": (None, None, "/dev/null", None),
        }
    )
    session.register_component("data_loader", Loader())
    return session.create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=settings.ca_bundle or True,
        aws_access_key_id=settings.key_id,
        aws_secret_access_key=settings.application_key,
        config=botocore.config.Config(
            signature_version="s3v4",
            # The bucket's name in the path: B2 takes both, and so no name server learns it.
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=max(8, 2 * settings.threads),
            tcp_keepalive=True,
            inject_host_prefix=False,
            ignore_configured_endpoint_urls=True,
            disable_request_compression=True,
            user_agent="giggles-salt",
        ),
    )


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Have a module not found by whoever is imported in the block, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def fit(client: Any, requests: Requests) -> None:  # noqa: ANN401 - botocore has no types
    """Make a client of botocore send only what B2 takes, and count what it sends.

    Arguments:
        client: of botocore.
        requests: what counts.
    """

    def before_call(params: dict[str, Any], **_: object) -> None:
        # The way to another region: B2 has no such thing, and it would send signed requests where nobody said.
        params["context"].setdefault("s3_redirect", {})["redirected"] = True

    def before_sign(request: Any, **_: object) -> None:  # noqa: ANN401
        for name in [name for name in request.headers if name.lower().startswith(_NOT_AT_B2)]:
            del request.headers[name]
        body = request.data
        if request.method != "GET" and isinstance(body, (bytes, bytearray)) and body and "Content-MD5" not in request.headers:
            request.headers["Content-MD5"] = md5(body)

    def before_send(request: Any, **_: object) -> None:  # noqa: ANN401
        requests.add(request.method)
        if isinstance(request.body, Body):
            request.body.sending()
        else:
            requests.add(sent=int(request.headers.get("Content-Length") or 0))

    def before_parse(response_dict: dict[str, Any], **_: object) -> None:
        # botocore takes an answer that was cut to nothing for an empty one: a listing without anything in it.
        body, length = response_dict["body"], response_dict["headers"].get("content-length")
        if response_dict["context"]["operation_name"].startswith("Head") or not isinstance(body, bytes) or length is None:
            return
        if len(body) != int(length):
            raise Broken(f"{len(body)} bytes of an answer came, {length} were announced")

    client.meta.events.register("before-call.s3", before_call)
    client.meta.events.register("before-sign.s3", before_sign)
    client.meta.events.register("before-send.s3", before_send)
    client.meta.events.register("before-parse.s3", before_parse)


def md5(data: bytes | bytearray | memoryview) -> str:
    """Return the MD5 of `data` as the header Content-MD5 has it (RFC 1864). It guards against faults of the way, not against people."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def has_md5(md5: str, answer: dict[str, Any]) -> bool:
    """Tell whether the bucket says that an object has this MD5, as far as it says so: not of uploads in parts, nor where it encrypts.

    Arguments:
        md5: what `md5` has returned for the content.
        answer: of botocore, to a GET or PUT.
    """
    tag = str(answer.get("ETag", "")).strip('"')
    if not re.fullmatch(r"[0-9a-f]{32}", tag) or answer.get("ServerSideEncryption") or answer.get("SSECustomerAlgorithm"):
        return True
    return base64.b64decode(md5).hex() == tag
