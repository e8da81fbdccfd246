"""A booted droplet for the tests, and what a stranger can ask of it from outside."""

from __future__ import annotations

import dataclasses
import functools
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from .entries import Entries

DRIVER = Path(__file__).parents[2] / "trial" / "droplet"
NAME = os.environ.get("GIGGLES_TRIAL_NAME", "ci")
EXEC_TIMEOUT = 600
"""Seconds after which a command in the droplet counts as hanging; no test waits for longer."""


@dataclasses.dataclass(frozen=True)
class Response:
    """What came back: `headers` keeps every header that was sent, twice if it was sent twice."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value sent under the header `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclasses.dataclass(frozen=True)
class Converged:
    """The outcome of a `state.apply`: Salt's exit code and the states by their IDs."""

    code: int
    states: dict[str, dict[str, Any]]
    text: str

    @property
    def changed(self) -> dict[str, Any]:
        """Return the changes of each state that made or, under `test=True`, announced any."""
        return {
            name: state["changes"] or state["comment"] for name, state in self.states.items() if state["changes"] or state["result"] is None
        }

    @property
    def failed(self) -> dict[str, str]:
        """Return the comment of each state that failed."""
        return {name: state["comment"] for name, state in self.states.items() if state["result"] is False}


def by_id(returned: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what a run returned, by ID; of a state with several names, the further ones' changes are under their names."""
    states: dict[str, dict[str, Any]] = {}
    for key, state in returned.items():
        # A state whose requisites failed was not run, and has its ID in its key only.
        _, identifier, name, _ = key.split("_|-")
        if identifier not in states:
            states[identifier] = dict(state)
            continue
        first = states[identifier]
        if state["changes"]:
            first["changes"] = {**first["changes"], name: state["changes"]}
        if first["result"] is True or state["result"] is False:
            first["result"] = state["result"]
        first["comment"] = f"{first['comment']}\n{state['comment']}"
    return states


@functools.cache
def entries() -> Entries:
    """Return the process that enters droplets for all tests."""
    return Entries()


class Droplet:
    """A trial droplet by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """Return what `trial/droplet info --json` says of it."""
        return json.loads(self.driver("info", "--json").stdout)

    def driver(self, verb: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a verb of trial/droplet for this droplet."""
        return subprocess.run(
            [str(DRIVER), verb, "--name", self.name, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=check,
            timeout=EXEC_TIMEOUT,
        )

    def exec(
        self, command: Sequence[str], stdin: bytes = b"", check: bool = True, timeout: float = EXEC_TIMEOUT, role: str = "droplet"
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as root inside, or in the machine with its neighbours; with `check`, a failure shows what the command printed."""
        done = entries().exec(self.name, command, stdin, timeout, role)
        if check and done.returncode != 0:
            pytest.fail(
                f"{list(command)} exited {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
            )
        return done

    def shell(self, script: str, check: bool = True) -> str:
        """Run a bash script as root inside and return what it printed."""
        return self.exec(["bash", "-euc", script], check=check).stdout.decode(errors="replace")

    def write(self, path: str, content: str, mode: str = "0644") -> None:
        """Put a file into the droplet, as somebody with root would."""
        self.exec(["bash", "-euc", 'umask 077; cat > "$1"; chmod "$2" "$1"', "write", path, mode], stdin=content.encode())

    def apply(self, *arguments: str) -> Converged:
        """Run `salt-call state.apply` with these arguments."""
        done = self.exec(["salt-call", "--local", "--out=json", "--log-level=error", "state.apply", *arguments], check=False)
        text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        try:
            returned = json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            returned = {}
        return Converged(done.returncode, by_id(returned) if isinstance(returned, dict) else {}, text)

    def converge(self) -> Converged:
        """Apply the highstate and insist that nothing failed."""
        outcome = self.apply()
        assert outcome.code == 0, f"the highstate failed: {outcome.failed or outcome.text}"
        return outcome

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        host: str | None = None,
        headers: Mapping[str, str] | None = None,
        scheme: str = "https",
        raw_target: str | None = None,
        body: bytes | None = None,
        timeout: float = 60,
    ) -> Response:
        """Ask the droplet from outside, trusting only the trial's certificate authority.

        Args:
            host: the Host header, if it shall differ from the domain; the TLS name stays the domain.
            raw_target: the request target as it goes over the wire, instead of `path`.
        """
        domain, address = self.info["domain"], self.info["ip"]
        if scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(domain, 443, timeout=timeout, context=self.tls())
        else:
            connection = http.client.HTTPConnection(domain, 80, timeout=timeout)
        # The domain is known to the trial's own DNS only.
        connection._create_connection = lambda target, *rest, **more: socket.create_connection((address, target[1]), timeout)  # type: ignore[attr-defined]
        try:
            connection.putrequest(method, raw_target if raw_target is not None else path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host if host is not None else domain)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Response(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def tls(self) -> ssl.SSLContext:
        """Return a client's TLS settings that trust the trial's certificate authority and nobody else."""
        return ssl.create_default_context(cafile=self.info["acme_root"])

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until `ready()`; a test that waits in vain says for what."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(0.2)

    def healthy(self) -> bool:
        """Tell whether the app answers through nginx over HTTPS."""
        try:
            return self.request(path="/api/health", timeout=5).status == 200
        except (OSError, http.client.HTTPException):
            return False


@pytest.fixture(scope="session")
def droplet() -> Iterator[Droplet]:
    """Return the droplet that tests/run has brought up (`trial/droplet up --name ci`)."""
    one = Droplet(NAME)
    if one.driver("info", "--json", check=False).returncode != 0:
        pytest.fail(f"There is no trial droplet '{NAME}'. Bring it up with: ./bootstrap.sh --trial --name {NAME}", pytrace=False)
    return one


@pytest.fixture(scope="session")
def beside(droplet: Droplet) -> Iterator[Droplet]:
    """Return another droplet, with the neighbours of the first one: whoever needs it brings it up. It is gone at the end."""
    one = Droplet(f"{droplet.name}-new")
    yield one
    one.driver("down", "--purge", check=False)
