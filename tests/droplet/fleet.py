"""A fleet of trial droplets, converged over salt-ssh from a clone of the tree, as an operator does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from .conftest import Converged, Droplet, by_id

_SECONDS = 900
_SOMEBODY = ("-c", "user.name=Operator", "-c", "user.email=operator@giggles.test")


class Operator:
    """Somebody with a clone of the tree, a roster and the secrets of a fleet.

    Arguments:
        folder: where the clone is made.
        droplets: by their names in the roster.
    """

    def __init__(self, folder: Path, droplets: dict[str, Droplet]) -> None:
        self.tree = folder / "tree"
        self.droplets = droplets
        # What the first droplet has, edits that are not committed included: tests may run in the middle of work.
        first = next(iter(droplets.values()))
        shutil.copytree(Path(first.info["rootfs"]) / "srv/giggles-salt", self.tree, symlinks=True)
        if self.git("status", "--porcelain"):
            self.commit("Edits")
        self.private = self.tree / "fleet/private"
        (self.private / "pillar/droplets").mkdir(parents=True, mode=0o700)
        self.private.chmod(0o700)
        self.know_hosts({name: host_key(one) for name, one in droplets.items()})

    def git(self, *arguments: str) -> str:
        """Run git in the clone and return what it printed."""
        command = ["git", "-c", f"safe.directory={self.tree}", *_SOMEBODY, "-C", str(self.tree), *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout

    def commit(self, message: str) -> None:
        """Commit everything in the clone, or nothing at all."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", message)

    def know_hosts(self, keys: dict[str, str]) -> None:
        """Say which host key each droplet has."""
        lines = (f"{self.droplets[name].info['ip']} {key}\n" for name, key in keys.items())
        (self.private / "known_hosts").write_text("".join(lines))

    def list_droplets(self, users: dict[str, str]) -> None:
        """Write the roster, with who logs in where."""
        key = next(iter(self.droplets.values())).info["ssh"]["private_key"]
        entries = {name: {"host": one.info["ip"], "user": users[name], "priv": key} for name, one in self.droplets.items()}
        (self.private / "roster").write_text(yaml.safe_dump(entries))

    def choose(self, name: str, settings: dict[str, Any]) -> None:
        """Write a file of the fleet's pillar: `fleet`, or `droplets/<name>`."""
        path = self.private / "pillar" / f"{name}.sls"
        path.write_text("#!quiet_yaml\n" + json.dumps({"giggles": settings}))
        path.chmod(0o600)

    def pack(self) -> subprocess.CompletedProcess[str]:
        """Run fleet/pack."""
        return subprocess.run([self.tree / "fleet/pack"], capture_output=True, text=True, check=False, timeout=60)

    def salt_ssh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run salt-ssh in the clone."""
        return subprocess.run(
            ["salt-ssh", "--log-level=error", *arguments],
            cwd=self.tree,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def apply(self, *arguments: str, target: str = "*") -> dict[str, Converged]:
        """Apply the highstate over salt-ssh, and return what came of it on each droplet."""
        done = self.salt_ssh("--out=json", "--static", *(one for one in arguments if one.startswith("--")), target, "state.apply",
                             *(one for one in arguments if not one.startswith("--")))  # fmt: skip
        text = done.stdout + done.stderr
        try:
            answers = json.loads(done.stdout)
        except ValueError:
            answers = {}
        return {
            name: Converged(done.returncode, by_id(answer) if isinstance(answer, dict) else {}, text)
            for name, answer in ((one, answers.get(one)) for one in self.droplets)
        }


def host_key(droplet: Droplet) -> str:
    """Return the droplet's Ed25519 host key, read on it, as its provider's console shows it."""
    return " ".join(droplet.shell("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
