"""Asks the app whether it is well, through the socket that nginx uses."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEALTH = "/api/health"
AGENT = "giggles-gate"
"""By this our own questions are told from those of users in nginx's log."""
_ANSWERED = "it answered "
_WRONG_SECONDS, _PAUSE = 10.0, 0.25
_MOST = 4 << 20


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Arguments:
        status: of HTTP; 0 if there was no answer.
        body: what was answered, its first 4 MB.
        trouble: why there was no answer, or "".
    """

    status: int
    body: bytes
    trouble: str = ""


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
    answer = get(_Connection(path, seconds), HEALTH)
    if answer.trouble:
        return answer.trouble
    return "" if answer.status == 200 else f"{_ANSWERED}{answer.status} to {HEALTH}"


def at(path: Path, page: str, seconds: float) -> Answer:
    """Ask the app for a page.

    Arguments:
        path: the UNIX socket.
        page: absolute path of the page.
        seconds: how long the answer may take.
    """
    return get(_Connection(path, seconds), page)


def get(connection: http.client.HTTPConnection, page: str, host: str | None = None) -> Answer:
    """Ask once over a connection, and close it.

    Arguments:
        connection: to whom.
        page: absolute path of the page.
        host: name to ask for, unless it is the connection's own.
    """
    headers = {"Connection": "close", "User-Agent": AGENT, **({"Host": host} if host else {})}
    try:
        connection.request("GET", page, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.read(_MOST))
    except TimeoutError:
        return Answer(0, b"", "it did not answer")
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, b"", f"the connection failed ({error or type(error).__name__})")
    finally:
        connection.close()


def wait(where: Callable[[], Path], seconds: float, given_up: Callable[[], str]) -> str:
    """Ask until the app is well.

    Arguments:
        where: names the UNIX socket, which may get another name meanwhile.
        seconds: how long to wait in all.
        given_up: returns a reason to stop waiting, or "".

    Returns:
        "" once it is well, else the last reason.
    """
    end = time.monotonic() + seconds
    wrong_since = None
    while True:
        left = end - time.monotonic()
        # Short questions, so that a service which keeps crashing is noticed before the time is over.
        reason = ask(where(), max(0.1, min(left, 10.0)))
        if not reason:
            return ""
        # Who answers has started, and does not get well by being asked for minutes.
        wrong_since = (wrong_since or time.monotonic()) if reason.startswith(_ANSWERED) else None
        if wrong_since is not None and time.monotonic() - wrong_since >= _WRONG_SECONDS:
            return reason
        ended = given_up()
        if ended:
            return ended
        if end - time.monotonic() <= 0:
            return f"{reason} within {seconds:.0f} s"
        time.sleep(_PAUSE)
