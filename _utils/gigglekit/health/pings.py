"""Dead-man pings: each run reports its start and how it ended to a check elsewhere, which alerts when it hears nothing.

`python -m gigglekit.health.pings KIND start|end`. Addresses are secret: whoever knows one can say that all is well. They are read from
root's own file, and no message here repeats one. Source: Healthchecks' pinging API (`/start`, `/fail`, `/EXIT-STATUS`).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from gigglekit import records

KINDS = ("nightly", "backup", "converge")
TRIES = 3
SECONDS = 10.0
ALL_SECONDS = 45
"""A run waits no longer for its ping than this, whatever the other side does."""
_PAUSES = (1.0, 3.0)
_AGAIN = frozenset({408, 425, 429})
_GOOD = frozenset({"ok", "nothing-to-do"})
_FRESH_S = 600.0
_GAVE_UP = str(os.EX_TEMPFAIL)
"""How a run ends that something else kept from beginning."""
_NIGHTLY_LOCK = Path("/opt/giggles/nightly.lock")


class PingError(Exception):
    """A ping did not arrive; why, in a few words without any address."""


def ping(
    url: str, signal_: str, *, seconds: float = SECONDS, pauses: tuple[float, ...] = _PAUSES, trust: ssl.SSLContext | None = None
) -> None:
    """Tell a check something.

    Arguments:
        url: its address; https.
        signal_: `start`, `fail`, an exit status from 0 to 255, or "" for success.
        seconds: how long to wait for each answer.
        pauses: seconds between the tries; there is one more try than pauses.
        trust: which certificates to trust; None for what the system does.

    Raises:
        PingError: it did not arrive.
    """
    address = _with(url, signal_)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust or ssl.create_default_context()), _OnlyEncrypted()
    )
    for pause in (*pauses, None):
        problem, again = _once(opener, address, seconds)
        if not problem:
            return
        if pause is None or not again:
            raise PingError(problem)
        time.sleep(pause)


def _with(url: str, signal_: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise PingError("its address is not an https one")
    path = parts.path.rstrip("/") + (f"/{signal_}" if signal_ else "")
    return urlunsplit(("https", parts.netloc, path, parts.query, ""))


def _once(opener: urllib.request.OpenerDirector, address: str, seconds: float) -> tuple[str, bool]:
    request = urllib.request.Request(address, headers={"User-Agent": "giggles"})  # noqa: S310 (https, looked at before)
    try:
        with opener.open(request, timeout=seconds) as answer:
            code = int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        code = error.code
    except urllib.error.URLError as error:
        return _told(error.reason), not isinstance(error.reason, ssl.SSLCertVerificationError)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _told(error), True
    if 200 <= code < 300:
        return "", False
    return f"the server answered {code}", code >= 500 or code in _AGAIN


def _told(error: object) -> str:
    # No message of another library: it may name the address.
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the server's certificate is not accepted"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"no connection ({error.strerror})"
    return f"no connection ({type(error).__name__})"


class _OnlyEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows a server only to where the address stays encrypted."""

    max_redirections = 3

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return what to ask next; the answer itself where that would not be encrypted, which counts as a failure."""
        return super().redirect_request(req, fp, code, msg, headers, newurl) if urlsplit(newurl).scheme == "https" else None


def start_signal(kind: str) -> str | None:
    """Return what to tell of a run that starts; None while something else keeps it from beginning: who hears a start waits for its end.

    Arguments:
        kind: as in `KINDS`.
    """
    from gigglekit.files.locking import is_locked
    from gigglekit.health.at_work import at_work

    kept_out = (kind == "converge" and at_work()) or (kind == "nightly" and is_locked(_NIGHTLY_LOCK))
    return None if kept_out else "start"


def end_signal(kind: str, environment: Mapping[str, str], folder: Path, now: float) -> str | None:
    """Return what to tell of a run that ended, from what systemd passes to ExecStopPost= and, of the nightly job, its verdict.

    A run that gave up before it began is neither good nor bad, so nothing is told (None): the check alerts when it has heard nothing
    for as long as it was set to wait.

    Arguments:
        kind: `nightly`, `backup` or `converge`.
        environment: SERVICE_RESULT, EXIT_CODE and EXIT_STATUS of systemd.exec(5).
        folder: where records lie.
        now: seconds since 1970.
    """
    gave_up = (environment.get("EXIT_CODE"), environment.get("EXIT_STATUS")) == ("exited", _GAVE_UP)
    if gave_up and kind == "converge":
        return None
    if gave_up and kind == "nightly":
        # A start that found the job at work leaves no record; one that found no lock is a night that failed.
        return _GAVE_UP if _newest_verdict(folder, now) == "failed" else None
    if environment.get("SERVICE_RESULT") != "success":
        status = environment.get("EXIT_STATUS", "")
        if environment.get("EXIT_CODE") == "exited" and re.fullmatch(r"[1-9]\d{0,2}", status) and int(status) <= 255:
            return status
        return "fail"
    if kind == "nightly":
        # It ends with 0 whatever happened; its recorder, which runs before, knows better.
        return "" if _newest_verdict(folder, now) in _GOOD else "fail"
    return ""


def _newest_verdict(folder: Path, now: float) -> object:
    """Return the verdict of a night that has just been recorded; None if none has."""
    from gigglekit.health.recent import moment_of

    newest = records.last(folder, "nightly") or {}
    ended = moment_of(newest.get("time"))
    return newest.get("verdict") if ended is not None and abs(now - ended) < _FRESH_S else None


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def late(_signal: int, _frame: object) -> None:
        raise PingError("the server did not answer in time")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: list[str], send: Callable[[str, str], None] = ping) -> int:
    """Ping as the arguments say. Without an address for this kind, nothing is done."""
    if len(arguments) != 2 or arguments[0] not in KINDS or arguments[1] not in {"start", "end"}:
        print(f"Usage: ping {'|'.join(KINDS)} start|end", file=sys.stderr)
        return 2
    from gigglekit.health import monitoring

    kind, moment = arguments
    chosen = monitoring.read()
    url = chosen.pings.get(kind) if chosen else None
    if not url:
        return 0
    told = start_signal(kind) if moment == "start" else end_signal(kind, os.environ, records.FOLDER, time.time())
    if told is None:
        return 0
    try:
        with _limited(ALL_SECONDS):
            send(url, told)
    except PingError as error:
        print(
            f"The check for {kind} could not be told of this run's {moment}: {error}. It will alert if it hears nothing.", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
