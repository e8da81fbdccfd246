"""Names, addresses and folders of the trial, in one place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The working tree this file belongs to, which is what a droplet gets at `TREE`."""

TREE = "/srv/giggles-salt"
UPLOADS = "/var/lib/giggles/uploads"
RELEASES = ("bookworm", "trixie")
DEFAULT_NAME = "trial"

BRIDGE = "giggles-trial"
NETWORK_PREFIX = "10.213.0"
GATEWAY = f"{NETWORK_PREFIX}.1"
MAXIMUM_TRIALS = 120
"""Two addresses for each trial out of one /24."""

ZONE = "giggles.test"

DROPLET_MEMORY_BYTES = 2 * 1024**3
DROPLET_PROCESSORS = 2
NEIGHBOURS_MEMORY_BYTES = 3 * 1024**3

LOOP_DEVICES = 64

_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


def state_directory() -> Path:
    """Return the folder that holds everything of all trials (`GIGGLES_TRIAL_DIR`)."""
    return Path(os.environ.get("GIGGLES_TRIAL_DIR") or "/var/lib/giggles-trial").resolve()


def images_directory() -> Path:
    """Return the folder of the cached base images."""
    return state_directory() / "images"


def is_valid_name(name: str) -> bool:
    """Tell whether `name` can be a trial's name: it becomes a host name, so a DNS label."""
    return bool(_NAME.fullmatch(name)) and not name.endswith("-")


@dataclass(frozen=True)
class Place:
    """The folders of one trial.

    Arguments:
        name: the trial's name.
    """

    name: str

    @property
    def folder(self) -> Path:
        """Everything of this trial, and of nobody else."""
        return state_directory() / "trials" / self.name

    @property
    def record(self) -> Path:
        """What is remembered of the trial between two commands; holds its secrets, so 0600."""
        return self.folder / "trial.json"

    @property
    def part(self) -> Path:
        """The part that the droplet plays among others: beside whom it stands, and its roles."""
        return self.folder / "part.json"

    @property
    def private_key(self) -> Path:
        """The SSH key of whoever operates the droplet."""
        return self.folder / "id_ed25519"

    @property
    def acme_ca(self) -> Path:
        """The CA that signs the ACME directory's own certificate."""
        return self.folder / "acme-ca.pem"

    @property
    def acme_root(self) -> Path:
        """The root of the certificates which the ACME server issues, fetched from it."""
        return self.folder / "acme-root.pem"
