"""A salt-master on this machine that droplets of the trial come to, configured as fleet/*.example say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .conftest import Converged, Droplet, by_id
from .fleet import Operator

_SECONDS = 300
_PROGRAM = "/opt/salt/current/bin/salt-minion"
_LEFT = "/etc/salt/fleet /var/log/salt/fleet /etc/systemd/system/giggles-minion.service"


class Master:
    """A master with an operator's tree and pillar.

    Arguments:
        folder: short, since names of sockets are; configuration, keys and what it says lie there.
        operator: whose droplets come to it.
    """

    def __init__(self, folder: Path, operator: Operator) -> None:
        self.folder = folder
        self.operator = operator
        # A bundle has no salt-minion.
        self.droplets = {name: one for name, one in operator.droplets.items() if one.shell(f"ls {_PROGRAM}", check=False)}
        self.address = next(iter(operator.droplets.values())).shell("ip route show default").split()[2]
        self.ports = _free_ports(self.address)
        settings = self._example("master") | {
            "root_dir": str(folder),
            "interface": self.address,
            "publish_port": self.ports[0],
            "ret_port": self.ports[1],
            # Whose key is whose is no matter here.
            "auto_accept": True,
        }
        settings["pillar_roots"]["base"][1] = str(operator.private / "pillar")
        (folder / "master").write_text(yaml.safe_dump(settings))

    def _example(self, kind: str) -> dict[str, Any]:
        text = (self.operator.tree / f"fleet/{kind}.example").read_text()
        if kind == "master":
            text = text.replace("/srv/giggles-salt", str(self.operator.tree))
        return dict(yaml.safe_load(text))

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Run the master, have its droplets come to it, and leave none of it at the end."""
        with (self.folder / "said").open("w") as said:
            process = subprocess.Popen(
                ["salt-master", "-c", str(self.folder)], stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            for name, one in self.droplets.items():
                self._join(name, one)
            self._wait()
            yield
        finally:
            for one in self.droplets.values():
                one.shell(f"systemctl disable --quiet --now giggles-minion; rm -rf {_LEFT}; systemctl daemon-reload", check=False)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _join(self, name: str, one: Droplet) -> None:
        settings = self._example("minion") | {"id": name, "master": self.address, "master_port": self.ports[1], "master_finger": ""}
        one.shell("install -d -m 0700 /etc/salt/fleet && cp /srv/giggles-salt/fleet/giggles-minion.service /etc/systemd/system/")
        one.write("/etc/salt/fleet/minion", yaml.safe_dump(settings), "0600")
        one.shell("systemctl daemon-reload && systemctl enable --quiet --now giggles-minion")

    def _wait(self) -> None:
        end = time.monotonic() + _SECONDS
        while set(self.salt("test.ping")) != set(self.droplets):
            assert time.monotonic() < end, (self.folder / "said").read_text()

    def salt(self, *arguments: str) -> dict[str, Any]:
        """Run `salt '*'` and return what each droplet answered; those that did not are left out."""
        done = subprocess.run(
            ["salt", "-c", str(self.folder), "--log-level=error", "--static", "--out=json", "*", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
        try:
            answers = json.loads(done.stdout)
        except ValueError:
            return {}
        return {name: answer for name, answer in answers.items() if name in self.droplets and answer is not False}

    def apply(self) -> dict[str, Converged]:
        """Apply the highstate, and return what came of it on each droplet."""
        answers = self.salt("state.apply")
        return {
            name: Converged(0 if isinstance(answer, dict) else 1, by_id(answer) if isinstance(answer, dict) else {}, str(answer)[:3000])
            for name, answer in ((one, answers.get(one)) for one in self.droplets)
        }


@contextlib.contextmanager
def master_of(operator: Operator) -> Iterator[Master]:
    """Have an operator's droplets come to a master."""
    with tempfile.TemporaryDirectory(prefix="master-") as name:
        one = Master(Path(name), operator)
        with one.started():
            yield one


def _free_ports(address: str) -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind((address, 0))
        return first.getsockname()[1], second.getsockname()[1]
