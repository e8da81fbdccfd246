"""What giggles-nightly.service runs: `python -m gigglekit.fleet --droplet NAME [--droplets NAME,…] --lease-minutes N --hours N …`."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

from gigglekit.fleet.environment import PRODUCTION
from gigglekit.fleet.lease import Holder, Leases
from gigglekit.fleet.runner import Runner, end_as
from gigglekit.fleet.script import Script
from gigglekit.release.dotenv import read_back

ENVIRONMENT = Path("/opt/giggles/.env")
APP = Path("/opt/giggles/current/.app")
PYTHON = "/opt/giggles/current/.venv/bin/python"
SCRIPT = "process_nightly_audio.py"
_EARLIER_SECONDS = 600
"""So long before systemd's limit it waits for other droplets no longer."""


def _identity(path: str) -> str:
    """Return what tells one machine, or one start of it, from others, and nothing else (machine-id(5))."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        text = "unknown"
    return hashlib.sha256(f"giggles-salt nightly {text}".encode()).hexdigest()[:32]


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Run the night."""
    parser = argparse.ArgumentParser(prog="gigglekit.fleet")
    parser.add_argument("--droplet", required=True, help="name of this droplet")
    parser.add_argument("--droplets", default="", help="names of all that run the nightly job, with commas between them")
    parser.add_argument("--lease-minutes", type=float, required=True)
    parser.add_argument("--hours", type=float, required=True, help="after which systemd ends the job")
    parser.add_argument("--environment", default=PRODUCTION, help="whose database it has to be")
    given = parser.parse_args(arguments)
    try:
        url = read_back(ENVIRONMENT.read_text(encoding="utf-8")).get("DATABASE_URL")
    except (OSError, ValueError):
        url = None
    holder = Holder(given.droplet, _identity("/etc/machine-id"), _identity("/proc/sys/kernel/random/boot_id"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    runner = Runner(
        script=Script(PYTHON, SCRIPT, APP, environment),
        leases=Leases(url, holder, given.lease_minutes * 60, given.environment) if url else None,
        droplets=[name for name in given.droplets.split(",") if name] or [given.droplet],
        seconds=max(60.0, given.hours * 3600 - _EARLIER_SECONDS),
        say=_say,
    )
    return end_as(runner.run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
