"""Asks UptimeRobot's v3 API: one request after the other, no faster than the account may, and in no other place than it."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from gigglekit.health.uptimerobot.errors import DeniedError, LimitedError, RefusedError, UnreachableError, UptimeRobotError
from gigglekit.health.uptimerobot.settings import API, KEY

FREE_REQUESTS = 10
"""Requests a minute on the free plan, reckoned with until the account's own figure is known."""
_WINDOW = 60.0
_PAGE = 200
_MOST_PAGES = 100
_LONGEST_ANSWER = 8 * 1024 * 1024
_TRIES = 3


@dataclass(frozen=True)
class Patience:
    """How long a client waits.

    Arguments:
        seconds: in all, for its turn and after errors.
        answer_seconds: for one answer.
        clock: seconds since any moment, which never go back.
        wall: seconds since 1970.
        sleep: waits for so many seconds.
    """

    seconds: float = 150.0
    answer_seconds: float = 20.0
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Monitor:
    """A monitor as it is there.

    Arguments:
        ident: its id.
        name: its friendly name.
        fields: all else that the API tells of it.
    """

    ident: int
    name: str
    fields: Mapping[str, Any]

    @property
    def contacts(self) -> frozenset[int]:
        """Ids of the contacts that it alerts."""
        assigned = self.fields.get("assignedAlertContacts")
        entries = assigned if isinstance(assigned, list) else []
        ids = (str(entry.get("alertContactId")) for entry in entries if isinstance(entry, dict))
        return frozenset(int(ident) for ident in ids if ident.isdecimal())


@dataclass(frozen=True)
class Contact:
    """An alert contact as it is there.

    Arguments:
        ident: its id.
        name: its friendly name.
        address: where alerts go.
        kind: `Email` for e-mail.
        status: `Active`, `NotActivated`, `Paused`, …
    """

    ident: int
    name: str
    address: str
    kind: str
    status: str


class _StayHere(urllib.request.HTTPRedirectHandler):
    """The key is for one host: nobody sends it, or what is asked, to another."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        del req, fp, code, msg, headers, newurl
        return None


class Client:
    """A conversation with the API.

    Arguments:
        key: the account's main API key; it is in no message and in no representation.
        api: address of the API.
        patience: how long is waited.

    Raises:
        DeniedError: the key is none.
    """

    def __init__(self, key: str, *, api: str = API, patience: Patience | None = None) -> None:
        if not KEY.fullmatch(key):
            raise DeniedError("The key of UptimeRobot is none that it would show. Correct giggles:secrets:monitoring:uptimerobot_key.")
        self._key = key
        self._api = api
        self._patience = patience or Patience()
        self._opener = urllib.request.build_opener(_StayHere)
        self._limit = FREE_REQUESTS
        self._sent: deque[float] = deque()
        self._not_before = self._patience.clock()
        self._left = self._patience.seconds

    def monitors(self) -> list[Monitor]:
        """Return all monitors of the account.

        Raises:
            UptimeRobotError: they cannot be had.
        """
        found = []
        for entry in self._pages("/monitors", limit=str(_PAGE)):
            found.append(Monitor(_ident(entry), str(entry.get("friendlyName") or ""), entry))
        return found

    def contacts(self) -> list[Contact]:
        """Return the account's own alert contacts.

        Raises:
            UptimeRobotError: they cannot be had.
        """
        found = []
        for entry in self._pages("/alert-contacts"):
            texts = (str(entry.get(name) or "") for name in ("friendlyName", "value", "type", "status"))
            found.append(Contact(_ident(entry), *texts))
        return found

    def create_monitor(self, fields: Mapping[str, Any]) -> int:
        """Make a monitor; return its id."""
        return _ident(_mapping(self._ask("POST", "/monitors", fields)))

    def change_monitor(self, ident: int, fields: Mapping[str, Any]) -> None:
        """Change what `fields` names of a monitor, and nothing else."""
        self._ask("PATCH", f"/monitors/{ident}", fields)

    def delete_monitor(self, ident: int) -> None:
        """Remove a monitor; one that is gone already is none of anybody's concern."""
        self._ask("DELETE", f"/monitors/{ident}")

    def create_contact(self, name: str, address: str) -> int:
        """Make an e-mail contact; return its id. UptimeRobot asks the address by mail whether it agrees."""
        wanted = {"type": "Email", "friendlyName": name, "value": address, "enableNotificationsFor": "UpAndDown"}
        return _ident(_mapping(self._ask("POST", "/alert-contacts", wanted)))

    def delete_contact(self, ident: int) -> None:
        """Remove an alert contact; one that is gone already is none of anybody's concern."""
        self._ask("DELETE", f"/alert-contacts/{ident}")

    def _pages(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for _ in range(_MOST_PAGES):
            page = _mapping(self._ask("GET", f"{path}?{urlencode(query)}" if query else path))
            entries = page.get("data")
            if not isinstance(entries, list):
                raise UnreachableError(_STRANGE)
            for entry in entries:
                yield _mapping(entry)
            following = page.get("nextLink")
            if following is None:
                return
            # Only the cursor is taken from the link: where requests go is not for an answer to say.
            cursor = _cursor(following)
            if not re.fullmatch(r"[A-Za-z0-9_=.-]{1,200}", cursor) or cursor in seen:
                raise UnreachableError(_STRANGE)
            seen.add(cursor)
            query["cursor"] = cursor
        raise UnreachableError(_STRANGE)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> object:
        tries = 0
        while True:
            self._wait_for_turn()
            status, headers, answer = self._send(method, path, body, repeat=tries + 1 < _TRIES)
            self._learn(status, headers)
            # Whoever comes too often is turned away before anything is done, so every kind of request can be repeated.
            if status == 429:
                continue
            if (status == 0 or status >= 500) and method != "POST" and tries + 1 < _TRIES:
                tries += 1
                self._wait(2.0 * tries, f"UptimeRobot answered with an error of its own ({status})")
                continue
            if status == 404 and method == "DELETE":
                return None
            if 200 <= status < 300:
                return _parsed(answer) if method in ("GET", "POST") else None
            raise self._refusal(status, answer)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, *, repeat: bool) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json", "User-Agent": "giggles-salt"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(f"{self._api}{path}", data=data, headers=headers, method=method)  # noqa: S310 - see settings
        self._sent.append(self._patience.clock())
        try:
            with self._opener.open(request, timeout=self._patience.answer_seconds) as answer:
                return int(answer.status), _lower(answer.headers), answer.read(_LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read(_LONGEST_ANSWER)
        except (OSError, HTTPException, ValueError) as error:
            # A request that makes something may have been done all the same; the next look finds it by its name.
            if method != "POST" and repeat:
                return 0, {}, b""
            reason = getattr(error, "reason", error)
            what = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
            raise UnreachableError(
                f"UptimeRobot does not answer ({what}). Look at https://status.uptimerobot.com and at the way out of this droplet; "
                "the next apply tries again."
            ) from None

    def _wait_for_turn(self) -> None:
        now = self._patience.clock()
        while self._sent and now - self._sent[0] >= _WINDOW:
            self._sent.popleft()
        own = self._sent[-self._limit] + _WINDOW - now if len(self._sent) >= self._limit else 0.0
        self._wait(max(own, self._not_before - now), f"The account may ask UptimeRobot {self._limit} times a minute")

    def _wait(self, seconds: float, why: str) -> None:
        if seconds <= 0:
            return
        if seconds > self._left:
            raise LimitedError(
                f"{why}, and this run does not wait longer for it. What was done holds; the next apply goes on. If something else uses the "
                "same account's API, it uses up the same requests."
            )
        self._left -= seconds
        self._patience.sleep(seconds)

    def _learn(self, status: int, headers: Mapping[str, str]) -> None:
        """Heed what an answer says of the account's limit."""
        now = self._patience.clock()
        limit = _number(headers.get("x-ratelimit-limit"))
        if limit is not None and limit >= 1:
            self._limit = int(limit)
        reset = _number(headers.get("x-ratelimit-reset"))
        if reset is not None and reset > 1_000_000:  # seconds since 1970, not seconds from now
            reset -= self._patience.wall()
        if status == 429:
            after = _number(headers.get("retry-after"))
            wait = after if after is not None else reset if reset is not None and reset > 0 else _WINDOW
            self._not_before = now + max(wait, 1.0)
        elif _number(headers.get("x-ratelimit-remaining")) == 0 and reset is not None:
            self._not_before = now + min(max(reset, 0.0), _WINDOW)

    def _refusal(self, status: int, answer: bytes) -> UptimeRobotError:
        said = self._said(answer)
        quoted = f" ({said})" if said else ""
        if status == 401:
            return DeniedError(
                f"UptimeRobot refuses the key{quoted}. Take the main API key from Integrations & API in its dashboard, and put it into "
                "giggles:secrets:monitoring:uptimerobot_key."
            )
        if status == 403:
            return DeniedError(
                f"UptimeRobot does not allow that{quoted}: the key may only read, or the account's plan lacks something. Use the main API "
                "key; if the plan has no reminder of certificates, set giggles:monitoring:uptimerobot:certificate_days to [], and "
                "interval_seconds to at least 300 on the free plan."
            )
        if status == 0 or status >= 500 or 300 <= status < 400:
            return UnreachableError(
                f"UptimeRobot answered with {f'status {status}' if status else 'nothing'}, which is an error of its own. Look at "
                "https://status.uptimerobot.com; the next apply tries again."
            )
        return RefusedError(
            f"UptimeRobot does not take what was asked (status {status}){quoted}. Look at giggles:monitoring:uptimerobot and at the limits "
            "of the account's plan (number of monitors, interval), then apply again."
        )

    def _said(self, answer: bytes) -> str:
        """Return what an answer says of itself, in one short line, without the key."""
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError):
            return ""
        message = content.get("message") if isinstance(content, dict) else None
        parts = message if isinstance(message, list) else [message]
        code = content.get("code") if isinstance(content, dict) else None
        said = "; ".join(str(part) for part in [*parts, code] if isinstance(part, str))
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())
        return line.replace(self._key, "…")[:200]


_STRANGE = (
    "What answered is not UptimeRobot's API as it is documented, so nothing was concluded from it. Look whether something between this "
    "droplet and api.uptimerobot.com answers in its place; the next apply tries again."
)


def _cursor(link: object) -> str:
    try:
        return (parse_qs(urlsplit(link).query).get("cursor") or [""])[0] if isinstance(link, str) else ""
    except ValueError:
        return ""


def _parsed(answer: bytes) -> object:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise UnreachableError(_STRANGE) from None


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnreachableError(_STRANGE)
    return value


def _ident(entry: Mapping[str, Any]) -> int:
    ident = entry.get("id")
    if type(ident) is int:
        return ident
    if isinstance(ident, str) and re.fullmatch(r"[0-9]{1,18}", ident):
        return int(ident)
    raise UnreachableError(_STRANGE)


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text.strip()) else None


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
