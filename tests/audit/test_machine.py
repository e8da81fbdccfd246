"""What outside judges say of the machine: open ports, ssh, sandboxes, and lynis' hardening index."""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.droplet.conftest import Droplet

POLICIES = {"bookworm": "Hardened Debian 12 (version 3)", "trixie": "Hardened Debian 13 (version 1)"}
MOST_EXPOSURE = 2.0
LEAST_HARDENING_INDEX = 80


def ssh_answers(droplet: Droplet) -> bool:
    """Tell whether port 22 takes a connection now: ufw refuses the seventh within 30 seconds."""
    try:
        with socket.create_connection((droplet.info["ip"], 22), timeout=3) as connection:
            return connection.recv(3) == b"SSH"
    except OSError:
        return False


@pytest.fixture
def rested(droplet: Droplet) -> Droplet:
    """Return the droplet at a time when the connection limit on ssh is not used up by the test before."""
    # ufw's limit would forget by itself after half a minute without another connection.
    droplet.shell("echo / > /proc/net/xt_recent/DEFAULT")
    assert ssh_answers(droplet)
    return droplet


def test_exactly_ssh_http_and_https_are_open(rested: Droplet) -> None:
    scan = subprocess.run(
        ["nmap", "-Pn", "-n", "-p-", "--min-rate", "16000", "--max-retries", "1", "-oG", "-", rested.info["ip"]],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    assert {int(port) for port in re.findall(r"(\d+)/open/tcp", scan)} == {22, 80, 443}, scan


def test_ssh_passes_the_policy_of_its_system(rested: Droplet) -> None:
    policy = POLICIES[rested.info["release"]]
    ssh_audit = Path(sys.executable).with_name("ssh-audit")
    # Its test of the connection rate trips over ufw's limit; that there is a limit is a promise of its own.
    command = [ssh_audit, "--skip-rate-test", "--policy", policy, rested.info["ip"]]
    judged = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("unit", ["giggles.service", "giggles-nightly.service"])
def test_systemd_finds_little_exposed(droplet: Droplet, unit: str) -> None:
    verdict = droplet.shell(f"systemd-analyze security --no-pager {unit}")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", verdict)
    assert exposure, verdict
    print(f"{unit}: exposure {exposure[1]}")
    assert float(exposure[1]) <= MOST_EXPOSURE, verdict
    assert droplet.healthy(), "a sandbox in which the app does not work proves nothing"


def lynis() -> bytes:
    """Return lynis as this machine has it, laid out to run from one folder: installing it would change the droplet."""
    packed = io.BytesIO()
    program = shutil.which("lynis")
    assert program, "lynis is not installed"
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(program, "lynis/lynis")
        archive.add("/usr/share/lynis", "lynis")
        archive.add("/etc/lynis", "lynis")
    return packed.getvalue()


def test_lynis_gives_a_good_hardening_index(droplet: Droplet) -> None:
    place = droplet.shell("mktemp -d /run/audit.XXXXXX").strip()
    try:
        droplet.exec(["tar", "-C", place, "-x"], stdin=lynis())
        droplet.shell(
            f"chown -R root:root {place}; cd {place}/lynis; "
            f"./lynis audit system --quick --no-colors --logfile {place}/log --report-file {place}/report"
        )
        report = droplet.shell(f"cat {place}/report")
    finally:
        droplet.shell(f"rm -rf {place}")
    index = re.search(r"^hardening_index=(\d+)", report, re.MULTILINE)
    assert index, report[-2000:]
    tests_done = re.search(r"^lynis_tests_done=(\d+)", report, re.MULTILINE)
    print(f"lynis: hardening index {index[1]} from {tests_done and tests_done[1]} tests")
    suggestions = "\n".join(re.findall(r"^(?:suggestion|warning)\[\]=(.*)", report, re.MULTILINE))
    assert int(index[1]) >= LEAST_HARDENING_INDEX, suggestions
