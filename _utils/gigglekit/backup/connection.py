"""The way to one bucket: which one, by which client, and how names and locks are written there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from gigglekit.backup import client as s3
from gigglekit.backup.body import Body, Requests
from gigglekit.backup.errors import RefusedError
from gigglekit.backup.sending import Attempts, Patience, ask
from gigglekit.backup.settings import Settings
from gigglekit.backup.throttle import Throttle

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LONGEST_NAME = 500


def is_ours(name: str) -> bool:
    """Tell whether this project gives such names: letters, digits, dots, hyphens and underscores, in folders."""
    return _NAME.fullmatch(name) is not None and ".." not in name and len(name) <= _LONGEST_NAME


class Connection:
    """A client of botocore and what belongs to it; made when it is first needed, for several threads.

    Arguments:
        settings: which bucket, and the credentials.
        client: of botocore; one is made if None.
        patience: how long to go on asking.
        now: the time of day, UTC.
    """

    def __init__(
        self,
        settings: Settings,
        client: Any = None,  # noqa: ANN401 - botocore has no types
        patience: Patience | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.settings = settings
        self.requests = Requests()
        self.patience = patience or Patience()
        self.now = now or (lambda: datetime.now(timezone.utc))
        self.throttle = Throttle(settings.upload_kib_per_second * 1024, clock=self.patience.clock, sleep=self.patience.sleep)
        self._lock = threading.Lock()
        self._client = client
        if client is not None:
            s3.fit(client, self.requests)

    @property
    def client(self) -> Any:  # noqa: ANN401 - botocore has no types
        """The client of botocore."""
        with self._lock:
            if self._client is None:
                client = s3.connect(self.settings)
                s3.fit(client, self.requests)
                self._client = client
            return self._client

    def ask(self, operation: str, name: str = "", **parameters: Any) -> Any:  # noqa: ANN401
        """Return the answer to one question about the bucket, after as many attempts as it takes.

        Arguments:
            operation: of S3, such as `ListObjectsV2`.
            name: of the object, without the prefix; "" if it is about none.
            parameters: as botocore wants them, without the bucket and the key.

        Raises:
            BackupError: it cannot be had; `__cause__` is what botocore says.
        """
        which = {"Bucket": self.settings.bucket, **({"Key": self.settings.prefix + name} if name else {}), **parameters}
        return self.repeat(operation, name, lambda: self.call(operation, which))

    def call(self, operation: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401
        """Ask once."""
        from botocore import xform_name  # type: ignore[import-untyped]

        return getattr(self.client, xform_name(operation))(**parameters)

    def attempts(self, operation: str, name: str = "", *, locked: bool = False) -> Attempts:
        """Return a new count of attempts."""
        return Attempts(self.patience, operation, name, endpoint=self.settings.endpoint, locked=locked)

    def repeat(self, operation: str, name: str, question: Callable[[], Any], *, locked: bool = False) -> Any:  # noqa: ANN401
        """Return what `question` returns, after as many attempts as it takes."""
        return ask(self.attempts(operation, name, locked=locked), question)

    def body(self, data: bytes | bytearray | memoryview) -> Body:
        """Return `data` for one attempt to send it."""
        return Body(data, self.throttle, self.requests)

    def key(self, name: str) -> str:
        """Return the name that the bucket knows an object by.

        Raises:
            RefusedError: this project gives no such names.
        """
        if not is_ours(name):
            raise RefusedError(
                "An object was asked for by a name that this project never gives: names have letters, digits, dots, hyphens and "
                "underscores, in folders. Nothing was sent. If the name came out of the bucket, somebody else writes "
                "there: see giggles:backup:prefix."
            )
        return self.settings.prefix + name

    def name(self, key: str) -> str:
        """Return an object's name without the prefix."""
        return key[len(self.settings.prefix) :]

    def below(self, prefix: str) -> dict[str, str]:
        """Return the parameters of a listing."""
        return {"Prefix": self.settings.prefix + prefix}

    def lock(self, locked: bool) -> dict[str, Any]:
        """Return the parameters that lock an object from now on, none if nothing is to be locked."""
        if not locked or not self.settings.lock_days:
            return {}
        until = (self.now() + timedelta(days=self.settings.lock_days)).replace(microsecond=0)
        # Governance would leave it to whoever steals a key with one more right. Erasing a user needs no way round: it deletes the key.
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
