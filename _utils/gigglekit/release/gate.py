"""Decides whether a release is well: by its health, a page, a static file, what users are answered, and that it goes on running."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gigglekit.release import health
from gigglekit.release.front import Front, Traffic
from gigglekit.release.health import HEALTH, Answer

_PATIENCE = 10.0
_PAUSE = 0.5
_LAST_WORDS, _LOST = 3.0, "could not be asked"
"""How long systemd may take to notice that a process has ended, which its connections tell at once."""
_FEWEST_FAILED, _FAILED_SHARE = 3, 0.05
"""So many requests of users, and such a part of them, have to fail before a release is blamed: some pages fail in each."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_NAMED = re.compile(r"""(?:src|href)=["']/static/([A-Za-z0-9._/%-]+)""")
_MOST_STATIC = 1 << 20

Ask = Callable[[str, float], Answer]


@dataclass(frozen=True)
class Asked:
    """Whom to ask, and for what.

    Arguments:
        ask: asks for a page, within so many seconds.
        where: "through nginx" or "at its socket".
        app: folder of the app in its release, whose static files are asked for.
        whole_files: whether static files have to come as they lie there; nginx serves them itself, an app need not.
    """

    ask: Ask
    where: str
    app: Path
    whole_files: bool


def through_nginx(front: Front, app: Path) -> Asked:
    """Ask as users do."""
    return Asked(front.ask, "through nginx", app, whole_files=True)


def at_socket(socket: Path, app: Path) -> Asked:
    """Ask the app itself."""
    return Asked(lambda page, seconds: health.at(socket, page, seconds), "at its socket", app, whole_files=False)


def judge(asked: Asked, seconds: float, trouble: Callable[[], str], traffic: Traffic | None = None) -> str:
    """Look for so long whether a release is well, and at least once.

    Arguments:
        asked: see there.
        seconds: how long it has to be well.
        trouble: what became of its process, "" while it runs.
        traffic: what users are answered meanwhile.

    Returns:
        "" if it was well all the time, else what was wrong first.
    """
    began = time.monotonic()
    static = _static_file(asked.app / "static")
    while True:
        reason = trouble() or _look(asked, static) or _blame(traffic)
        if reason:
            # A process that has just ended explains why it did not answer.
            ended = _last_words(trouble, _LAST_WORDS if _LOST in reason else 0.0)
            after = time.monotonic() - began
            return f"{ended or reason} ({after:.0f} s after it had begun to answer)" if after >= 1 else ended or reason
        if time.monotonic() - began >= seconds:
            return ""
        time.sleep(min(_PAUSE, max(0.0, seconds - (time.monotonic() - began))))


def _last_words(trouble: Callable[[], str], seconds: float) -> str:
    end = time.monotonic() + seconds
    while not (ended := trouble()) and time.monotonic() < end:
        time.sleep(0.1)
    return ended


def _look(asked: Asked, static: Path | None) -> str:
    answer = asked.ask(HEALTH, _PATIENCE)
    reason = _said(answer, HEALTH, asked.where)
    if reason:
        return reason
    if answer.status != 200 or not _is_healthy(answer.body):
        return f"{HEALTH} answered {answer.status} {asked.where}, and not that it is healthy"
    answer = asked.ask("/", _PATIENCE)
    reason = _said(answer, "its first page (/)", asked.where)
    if reason:
        return reason
    if answer.status >= 400:
        return f"its first page (/) answered {answer.status} {asked.where}"
    for name in _NAMED.findall(answer.body.decode(errors="replace")):
        # nginx serves these from the release, so that they lie there is all it takes.
        if not (asked.app / "static" / unquote(name)).is_file():
            return f"its first page (/) asks for /static/{name}, and the release has no such file"
    if static is None:
        return ""
    page = f"/static/{static.name}"
    answer = asked.ask(page, _PATIENCE)
    reason = _said(answer, page, asked.where)
    if reason:
        return reason
    if asked.whole_files and (answer.status != 200 or answer.body != static.read_bytes()):
        return f"{page} answered {answer.status} {asked.where}, and not what lies in the release"
    return ""


def _said(answer: Answer, page: str, where: str) -> str:
    if answer.trouble == "it did not answer":
        return f"{page} did not answer {where} within {_PATIENCE:.0f} s: it hangs"
    if answer.trouble:
        return f"{page} {_LOST} {where}: {answer.trouble}"
    return f"{page} answered {answer.status} {where}" if answer.status >= 500 else ""


def _blame(traffic: Traffic | None) -> str:
    if traffic is None:
        return ""
    asked, failed = traffic.counted()
    if failed < _FEWEST_FAILED or failed < _FAILED_SHARE * asked:
        return ""
    return f"of {asked} requests of users it failed {failed} (nginx's access log has them)"


def _is_healthy(body: bytes) -> bool:
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("status") == "healthy"


def _static_file(folder: Path) -> Path | None:
    """Return a file that can be asked for by its plain name, or None if the release has none."""
    try:
        for path in sorted(folder.iterdir()):
            if _PLAIN_NAME.fullmatch(path.name) and not path.is_symlink() and path.is_file() and path.stat().st_size <= _MOST_STATIC:
                return path
    except OSError:
        pass
    return None


class Waiting:
    """Asks again and again during a block, from a thread of its own, and notes the longest that an answer took.

    Arguments:
        ask: asks for a page, within so many seconds.
        seconds: how long one answer may take.
    """

    def __init__(self, ask: Ask, seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self.longest = 0.0
        self.failed = 0

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _go_on(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            answer = self._ask(HEALTH, self._seconds)
            self.longest = max(self.longest, time.monotonic() - began)
            self.failed += bool(answer.trouble) or answer.status >= 500
            self._stop.wait(0.1)
