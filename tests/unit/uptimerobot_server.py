"""UptimeRobot's v3 API for tests, as gigglekit.health.uptimerobot describes it, and stricter: what is not documented is refused."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "u1234567-planted0uptimerobot0key"
READ_ONLY = "ur1234567-planted0readonly0key"

_TYPES: dict[str, tuple[type, ...]] = {
    "friendlyName": (str,),
    "url": (str,),
    "type": (str,),
    "interval": (int,),
    "timeout": (int,),
    "httpMethodType": (str,),
    "keywordType": (str,),
    "keywordCaseType": (str,),
    "keywordValue": (str,),
    "assignedAlertContacts": (list,),
    "checkSSLErrors": (bool,),
    "sslExpirationReminder": (bool,),
    "config": (dict,),
}
_NEEDED = {
    "HTTP": {"friendlyName", "url", "interval", "timeout"},
    "KEYWORD": {"friendlyName", "url", "interval", "timeout", "keywordType", "keywordCaseType", "keywordValue"},
}
_CASE = {"CaseSensitive": 0, "CaseInsensitive": 1}


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    body: Any


@dataclass
class Account:
    """An account, and how the server behaves.

    Arguments:
        limit: requests a minute.
        least_interval: seconds; 300 on the free plan.
        reminds: whether the plan has the reminder of certificates.
        epoch: whether the reset is told as documented (seconds since 1970), or as observed (seconds to the end of the window).
        clock: seconds since 1970.
        faults: answers given instead of the right one, each once: (method, status, headers, body); status 0 closes the connection
            unanswered, -1 does what was asked and then closes it.
    """

    limit: int = 10_000
    least_interval: int = 300
    reminds: bool = True
    epoch: bool = False
    clock: Callable[[], float] = time.time
    monitors: dict[int, dict[str, Any]] = field(default_factory=dict)
    contacts: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[str, int, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    most_per_page: int = 200
    turned_away: int = 0
    _next: int = 803_000_000
    _window: tuple[float, int] = (-math.inf, 0)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ident(self) -> int:
        """Return a fresh id."""
        self._next += 7
        return self._next

    def by_hand(self, **fields: Any) -> int:
        """Make a monitor as a person does in the dashboard; return its id."""
        ident = self.ident()
        self.monitors[ident] = _monitor(
            ident, {"friendlyName": "by hand", "type": "HTTP", "url": "https://a.test", "interval": 300, **fields}
        )
        return ident

    def contact(self, address: str, name: str = "mine", kind: str = "Email", status: str = "Active") -> int:
        """Make a contact as a person does; return its id."""
        ident = self.ident()
        self.contacts[ident] = {"id": ident, "friendlyName": name, "type": kind, "value": address, "status": status}
        return ident

    def writes(self) -> list[str]:
        """Return what was written since the last look at it."""
        found = [f"{entry.method} {entry.path}" for entry in self.asked if entry.method != "GET"]
        self.asked.clear()
        return found

    def named(self, name: str) -> dict[str, Any]:
        """Return the one monitor of that name."""
        (one,) = [monitor for monitor in self.monitors.values() if monitor["friendlyName"] == name]
        return one

    def admit(self) -> tuple[bool, dict[str, str]]:
        """Count a request; tell whether it is let in, and the headers about it."""
        now = self.clock()
        began, count = self._window
        if now - began >= 60:
            began, count = now, 0
        allowed = count < self.limit
        self._window = (began, count + allowed)
        left = max(self.limit - count - 1, 0)
        reset = began + 60 if self.epoch else began + 60 - now
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(math.ceil(reset)),
        }
        if not allowed:
            self.turned_away += 1
            headers["Retry-After"] = "60"
        return allowed, headers


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str | list[str], code: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = json.dumps({"message": message, **({"code": code} if code else {})}).encode()


@contextmanager
def server(account: Account) -> Iterator[Account]:
    """Serve an account on loopback; its address is in `account.url`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            with account.lock:
                status, headers, body = self._answer(raw)
            if status <= 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 (the names that http.server calls)

        def _answer(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
            path = self.path.removeprefix("/v3")
            body = json.loads(raw) if raw else None
            account.asked.append(Asked(self.command, path, body))
            given = self.headers.get("Authorization", "")
            if given not in (f"Bearer {KEY}", f"Bearer {READ_ONLY}"):
                return 401, {}, json.dumps({"message": "Unauthorized", "code": "003-005"}).encode()
            allowed, headers = account.admit()
            if not allowed:
                return 429, headers | {"Content-Type": "text/plain"}, b"ThrottlerException: Too Many Requests"
            for number, fault in enumerate(account.faults):
                if fault[0] in (self.command, "*"):
                    _, status, extra, answer = account.faults.pop(number)
                    if status == -1:
                        _handle(account, self.command, path, body)
                    return status, headers | extra, answer
            try:
                if raw and self.headers.get("Content-Type") != "application/json":
                    raise RefusedError(415, "Unsupported Media Type")
                if given != f"Bearer {KEY}" and self.command != "GET":
                    raise RefusedError(403, "This API key can only read", "000-006")
                status, content = _handle(account, self.command, path, body)
            except RefusedError as error:
                return error.status, headers, error.body
            return status, headers, b"" if content is None else json.dumps(content).encode()

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    account.url = f"http://127.0.0.1:{serving.server_address[1]}/v3"
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield account
    finally:
        serving.shutdown()
        serving.server_close()
        thread.join(5)


def _handle(account: Account, method: str, address: str, body: Any) -> tuple[int, Any]:
    parts = urlsplit(address)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    _, kind, *rest = parts.path.split("/")
    if kind not in ("monitors", "alert-contacts") or len(rest) > 1 or (method != "GET" and query):
        raise RefusedError(404, f"Cannot {method} {parts.path}")
    there = account.monitors if kind == "monitors" else account.contacts
    if not rest:
        if method == "GET":
            return 200, _page(account, kind, there, query)
        if method == "POST":
            made = _new_monitor(account, body) if kind == "monitors" else _new_contact(account, body)
            there[made["id"]] = made
            return 201, made
        raise RefusedError(404, f"Cannot {method} {parts.path}")
    if not rest[0].isdecimal() or int(rest[0]) not in there:
        raise RefusedError(404, "Not found", "000-004")
    if method == "DELETE":
        del there[int(rest[0])]
        return 204, None
    if method == "PATCH" and kind == "monitors":
        _check(account, body, needed=set())
        monitor = there[int(rest[0])]
        config = {**(monitor["config"] or {}), **body.get("config", {})} or None
        monitor.update(_read(body), config=config)
        return 200, monitor
    raise RefusedError(404, f"Cannot {method} {parts.path}")


def _page(account: Account, kind: str, there: dict[int, dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    if unknown := query.keys() - ({"limit", "cursor"} if kind == "monitors" else {"cursor"}):
        raise RefusedError(400, [f"property {name} should not exist" for name in unknown])
    limit = int(query.get("limit", 50))
    if not 1 <= limit <= 200:
        raise RefusedError(400, ["Limit must be between 1 and 200"])
    size = min(limit, account.most_per_page)
    after = int(query.get("cursor", 0))
    entries = [there[ident] for ident in sorted(there) if ident > after][:size]
    # As observed: after every full page, and to the real host with all of the query.
    more = f"https://api.uptimerobot.com/v3/{kind}/?limit={limit}&cursor={entries[-1]['id']}" if len(entries) == size else None
    return {"data": entries, "nextLink": more}


def _check(account: Account, body: Any, needed: set[str]) -> None:
    if not isinstance(body, dict) or not body:
        raise RefusedError(400, ["body should not be empty"])
    wrong = [f"property {name} should not exist" for name in body.keys() - _TYPES.keys()]
    wrong += [f"{name} must be given" for name in sorted(needed - body.keys())]
    wrong += [f"{name} is of the wrong type" for name, value in body.items() if name in _TYPES and type(value) not in _TYPES[name]]
    if wrong:
        raise RefusedError(400, wrong)
    if body.get("interval", 86400) < account.least_interval:
        raise RefusedError(400, [f"interval must not be less than {account.least_interval}"])
    if "type" in body and body["type"] not in _NEEDED:
        raise RefusedError(400, ["type is not known"])
    if body.get("keywordType", "ALERT_EXISTS") not in ("ALERT_EXISTS", "ALERT_NOT_EXISTS"):
        raise RefusedError(400, ["keywordType is not known"])
    if body.get("keywordCaseType", "CaseSensitive") not in _CASE:
        raise RefusedError(400, ["keywordCaseType is not known"])
    if body.get("sslExpirationReminder") and not account.reminds:
        raise RefusedError(403, "Your plan does not include this feature", "000-003")
    if "config" in body and body["config"].keys() - {"sslExpirationPeriodDays"}:
        raise RefusedError(400, ["config has unknown keys"])
    for entry in body.get("assignedAlertContacts", []):
        if entry.keys() != {"alertContactId", "threshold", "recurrence"} or int(entry["alertContactId"]) not in account.contacts:
            raise RefusedError(400, ["assignedAlertContacts names no contact of this account"])


def _new_monitor(account: Account, body: Any) -> dict[str, Any]:
    _check(account, body, _NEEDED.get(body.get("type") if isinstance(body, dict) else None, {"type"}))
    return _monitor(account.ident(), body)


def _new_contact(account: Account, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or body.keys() - {"type", "friendlyName", "value", "enableNotificationsFor"}:
        raise RefusedError(400, ["property should not exist"])
    if body.get("type") != "Email" or "@" not in body.get("value", ""):
        raise RefusedError(400, ["value must be an email"])
    ident = account.ident()
    return {"id": ident, "friendlyName": body.get("friendlyName"), "type": "Email", "value": body["value"], "status": "NotActivated"}


def _monitor(ident: int, body: dict[str, Any]) -> dict[str, Any]:
    monitor = {
        "id": ident,
        "status": "STARTED",
        "httpMethodType": None,
        "authType": "HTTP_BASIC",
        "httpPassword": "",
        "keywordType": None,
        "keywordCaseType": 0,
        "keywordValue": "",
        "checkSSLErrors": False,
        "sslExpirationReminder": None,
        "timeout": 30,
        "assignedAlertContacts": [],
        "config": None,
        "tags": [],
    }
    return {**monitor, **_read(body)}


def _read(body: dict[str, Any]) -> dict[str, Any]:
    """Return fields as they are read, which is not always as they were written."""
    fields = dict(body)
    if "keywordCaseType" in fields:
        fields["keywordCaseType"] = _CASE[fields["keywordCaseType"]]
    if "assignedAlertContacts" in fields:
        fields["assignedAlertContacts"] = [
            {**entry, "alertContactId": int(entry["alertContactId"])} for entry in fields["assignedAlertContacts"]
        ]
    return fields
