"""Visitors who come at a steady rate, whatever becomes of those before them, and every answer that they get.

A client that waits for its answer before it asks again asks less while the app is away, and so hides what others would have felt.
Here a request is sent each fiftieth of a second (an open loop); it is one failure if it gets no answer, another one than it should,
or one that is not whole. Nobody tries again.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import json
import math
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from .conftest import Droplet

_PATIENCE_S = 90
"""How long a visitor waits for one answer: longer than any start of the app takes."""
_IDLE_S = 15
"""How long a visitor keeps a connection that is not used: half of what nginx does."""
_ADDRESSES = 16
"""nginx lets an address have 200 requests under way; those who wait for a restart must not be turned away for that."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request, and what has to come back.

    Arguments:
        name: in words.
        method, path, body: what is sent.
        signed_in: whether it carries a token.
        status: the answer's.
        holds: words of the answer's body.
    """

    name: str
    method: str
    path: str
    status: int = 200
    holds: bytes = b""
    body: bytes = b""
    signed_in: bool = False


# One round of ten. Of those that are sent only once (POST), one is answered at once, and one is under way for half a second, so that
# there are always some that a restart could cut off.
ROUND = (
    Asked("health", "GET", "/api/health", holds=b'"status":"healthy"'),
    Asked("page", "GET", "/", holds=b"</html>"),
    Asked("health", "GET", "/api/health", holds=b'"status":"healthy"'),
    Asked("upload without a token", "POST", "/api/audio-clips", status=401, holds=b"Not authenticated", body=b"x" * 20_000),
    Asked("static file", "GET", "/static/style.css", holds=b"{"),
    Asked("health", "GET", "/api/health", holds=b'"status":"healthy"'),
    Asked("clips of a user", "GET", "/api/audio-clips", holds=b"[", signed_in=True),
    Asked("page", "GET", "/", holds=b"</html>"),
    Asked("long work", "POST", "/api/process-current-day?seconds=0.5", holds=b"success", signed_in=True),
    Asked("health", "GET", "/api/health", holds=b'"status":"healthy"'),
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one request.

    Arguments:
        name: the request's.
        sent, seconds: when, and how long it took.
        failure: "", or what went wrong.
        app: what the answer of the health route calls the app, if it was asked.
    """

    name: str
    sent: float
    seconds: float
    failure: str
    app: str


class Visits:
    """What became of all requests so far.

    How many are planned is told by the clock alone. So visitors who stood still, which a machine that is too busy makes them do, cannot
    be taken for visitors who met with no failure.

    Arguments:
        rate: requests a second.
    """

    def __init__(self, rate: float) -> None:
        self.answers: list[Answer] = []
        self.sent: list[float] = []
        """When each request was handed to the kernel, the last byte of it."""
        self.most_at_once = 0
        self._rate = rate
        self._began = self._ended = math.inf
        self._came: list[float] = []
        self._still = 0.0
        self._enough = threading.Event()

    def begin(self) -> None:
        """From now on requests are planned."""
        self._began = time.monotonic()

    def enough(self) -> None:
        """Plan nothing more."""
        self._enough.set()

    def is_over(self) -> bool:
        """Tell whether nothing more is planned than there is by now; for whoever sends, who alone can tell until when that is."""
        if self._enough.is_set():
            self._ended = min(self._ended, time.monotonic())
        return self._enough.is_set()

    def planned(self, moment: float = math.inf) -> int:
        """Return how many requests were planned until a moment of `time.monotonic`; until now, if that is to come."""
        seconds = min(moment, self._ended, time.monotonic()) - self._began
        return int(seconds * self._rate) + 1 if seconds >= 0 else 0

    @property
    def due(self) -> int:
        """How many visitors have come, whether they could send anything or not."""
        return len(self._came)

    def come(self) -> int:
        """Note that a visitor comes now; return a number of its own."""
        self._came.append(time.monotonic())
        return len(self._came) - 1

    def behind(self, since: float = 0, until: float = math.inf) -> int:
        """Return how many planned visitors had not come yet, at the worst moment between two of `time.monotonic`.

        One or two, where they come one by one. Who comes late comes all the same, so that no sum would show it.
        """
        until, worst = min(until, self._ended, time.monotonic()), 0
        for before, moment in enumerate([*self._came, math.inf]):
            if moment >= since:
                worst = max(worst, self.planned(min(moment, until)) - before)
            if moment > until:
                break
        return worst

    def stand_still(self, seconds: float) -> None:
        """Have the visitors do nothing at all for so long, as on a machine that is too busy."""
        self._still = seconds

    def rest(self) -> None:
        """Stand still, if somebody has asked for that; for whoever sends."""
        seconds, self._still = self._still, 0.0
        time.sleep(seconds)

    def since(self, moment: float) -> list[Answer]:
        """Return what was sent at or after a moment of `time.monotonic`."""
        return [answer for answer in self.answers if answer.sent >= moment]

    def lost(self, moment: float = 0) -> dict[str, int]:
        """Return how often what went wrong, of what was sent since then."""
        return dict(collections.Counter(f"{answer.name}: {answer.failure}" for answer in self.since(moment) if answer.failure))

    def longest(self, moment: float = 0) -> float:
        """Return the seconds that the slowest answer took beyond what it was asked to take, of what was sent since then."""
        return max((answer.seconds - (0.5 if answer.name == "long work" else 0) for answer in self.since(moment)), default=0.0)

    def first_of(self, app: str, moment: float) -> float | None:
        """Return when the app that calls itself so answered for the first time since then."""
        heard = [answer.sent + answer.seconds for answer in self.since(moment) if answer.app == app]
        return min(heard, default=None)


class _Visitors:
    """An event loop of its own, in a thread of its own."""

    def __init__(self, droplet: Droplet, rate: float, visits: Visits, token: str) -> None:
        self._domain, self._ip, self._tls = droplet.info["domain"], droplet.info["ip"], droplet.tls()
        self._interval, self._visits, self._token = 1 / rate, visits, token
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._come()), daemon=True)

    def start(self) -> None:
        self._visits.begin()
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait for the answers to what was sent."""
        self._visits.enough()
        self._thread.join(_PATIENCE_S + 30)
        assert not self._thread.is_alive(), "visitors wait for ever"

    async def _come(self) -> None:
        waiting, is_over = set(), False
        requests = itertools.cycle(ROUND)
        while not is_over:
            self._visits.rest()
            is_over = self._visits.is_over()
            while self._visits.due < self._visits.planned():
                task = asyncio.create_task(self._visit(self._visits.come(), next(requests)))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            self._visits.most_at_once = max(self._visits.most_at_once, len(waiting))
            await asyncio.sleep(self._interval / 2)
        if waiting:
            await asyncio.wait(waiting)
        for _, _, writer in self._idle:
            writer.close()

    async def _visit(self, number: int, asked: Asked) -> None:
        sent, failure, app = time.monotonic(), "", ""
        try:
            status, body = await asyncio.wait_for(self._ask(number, asked), _PATIENCE_S)
            if status != asked.status or asked.holds not in body:
                failure = f"status {status}, {body[:80]!r}"
            elif asked.name == "health":
                app = str(json.loads(body).get("app"))
        except asyncio.TimeoutError:
            failure = f"no answer within {_PATIENCE_S} s"
        except (OSError, EOFError, ValueError) as error:
            failure = repr(error)
        self._visits.answers.append(Answer(asked.name, sent, time.monotonic() - sent, failure, app))

    async def _ask(self, number: int, asked: Asked) -> tuple[int, bytes]:
        # Rounds take turns: a new connection for each request, and whatever is open already.
        keep = number // len(ROUND) % 2 == 0
        reader, writer = (self._open_already() if keep else None) or await asyncio.open_connection(
            self._ip, 443, ssl=self._tls, server_hostname=self._domain, local_addr=(_address(self._ip, number % _ADDRESSES), 0)
        )
        done = False
        try:
            lines = [f"{asked.method} {asked.path} HTTP/1.1", f"Host: {self._domain}", f"Connection: {'keep-alive' if keep else 'close'}"]
            lines += [f"Authorization: Bearer {self._token}"] if asked.signed_in else []
            lines += [f"Content-Length: {len(asked.body)}"] if asked.method == "POST" else []
            writer.write("\r\n".join([*lines, "", ""]).encode() + asked.body)
            self._visits.sent.append(time.monotonic())
            status, body, open_still = await _answer(reader)
            done = keep and open_still
        finally:
            if done:
                self._idle.append((time.monotonic(), reader, writer))
            else:
                writer.close()
        return status, body

    def _open_already(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if not reader.at_eof() and time.monotonic() - since < _IDLE_S:
                return reader, writer
            writer.close()
        return None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return status, body, headers.get("connection", "") != "close"


def _address(droplet: str, number: int) -> str:
    """Return a visitor's address: of a net that is kept for measurements (RFC 2544), and of this droplet's alone."""
    return f"198.18.{droplet.rpartition('.')[2]}.{number + 1}"


def _token(droplet: Droplet) -> str:
    """Return what a new user signs in with; asked for behind nginx, which slows down who signs up often."""
    who = str(uuid.uuid4())
    body = json.dumps({"email": f"{who}@example.com", "password": "right", "user_id": who})
    asking = ["curl", "-sS", "--fail", "--unix-socket", "/run/giggles.sock", "-H", "Content-Type: application/json", "-d", "@-"]
    return str(json.loads(droplet.exec([*asking, "http://localhost/api/auth/register"], stdin=body.encode()).stdout)["access_token"])


@contextmanager
def steady_load(droplet: Droplet, rate: float = 50) -> Iterator[Visits]:
    """Have `rate` requests a second come through nginx over HTTPS during the block, from several addresses; look at it at any time.

    At the end of the block every request has had its answer, or is counted as lost.
    """
    addresses = [f"{_address(droplet.info['ip'], number)}/32" for number in range(_ADDRESSES)]
    visits = Visits(rate)
    visitors = _Visitors(droplet, rate, visits, _token(droplet))
    for address in addresses:
        subprocess.run(["ip", "address", "replace", address, "dev", "lo"], check=True)
    try:
        visitors.start()
        try:
            yield visits
        finally:
            visitors.stop()
    finally:
        for address in addresses:
            subprocess.run(["ip", "address", "delete", address, "dev", "lo"], check=True)
    assert len(visits.answers) == visits.planned(), "some visitors never came, or nobody knows what became of them"
