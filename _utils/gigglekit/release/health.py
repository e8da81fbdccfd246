"""Asks the app whether it is well, through the socket that nginx uses."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        # TrustedHostMiddleware lets only this name pass.
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: Path, seconds: float) -> str:
    """Ask once.

    Arguments:
        path: the UNIX socket.
        seconds: how long the answer may take.

    Returns:
        "" if the app answered 200, else what happened instead.
    """
    connection = _Connection(path, seconds)
    try:
        connection.request("GET", "/api/health", headers={"Connection": "close"})
        status = connection.getresponse().status
        return "" if status == 200 else f"it answered {status}"
    except TimeoutError:
        return "it did not answer"
    except (OSError, http.client.HTTPException) as error:
        return f"the connection failed ({error or type(error).__name__})"
    finally:
        connection.close()


def wait(path: Path, seconds: float, given_up: Callable[[], str]) -> str:
    """Ask until the app is well.

    Arguments:
        path: the UNIX socket.
        seconds: how long to wait in all.
        given_up: returns a reason to stop waiting, or "".

    Returns:
        "" once it is well, else the last reason.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        # Short questions, so that a service which keeps crashing is noticed before the time is over.
        reason = ask(path, max(0.1, min(left, 10.0)))
        if not reason:
            return ""
        ended = given_up()
        if ended:
            return ended
        if end - time.monotonic() <= 0:
            return f"{reason} within {seconds:.0f} s"
        time.sleep(0.25)
