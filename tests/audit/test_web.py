"""What outside judges say of the web server: testssl.sh of its TLS, gixy of its configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.droplet.conftest import Droplet

TOOLS = Path(__file__).parents[2] / "build" / "tools"
"""Where tests/run unpacks the testssl.sh of Debian 13: the one of Debian 12 does not grade."""
# A certificate from the trial's authority names no place to ask whether it was revoked; a public one does.
OF_THE_TEST_AUTHORITY = {"cert_revocation", "cert_chain_of_trust", "cert_trust"}


def test_testssl_grades_a_plus(droplet: Droplet, tmp_path: Path) -> None:
    """Trust aside, since the authority is the trial's own: its root is handed to testssl."""
    report, data = tmp_path / "report.json", tmp_path / "testssl"
    shutil.copytree(TOOLS / "etc/testssl", data)
    # What fifty clients would agree on with this server is no judgement of it, and takes a third of the time.
    (data / "client-simulation.txt").write_text("")
    run = subprocess.run(
        [TOOLS / "usr/bin/testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", droplet.info["ip"], "--nodns", "none",
         "--add-ca", droplet.info["acme_root"], "--jsonfile", str(report), f"https://{droplet.info['domain']}/"],
        env={**os.environ, "TESTSSL_INSTALL_DIR": str(data)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert report.exists(), run.stdout + run.stderr
    entries = json.loads(report.read_text())
    found = {entry["id"]: entry["finding"] for entry in entries}
    print(f"testssl.sh: grade {found.get('overall_grade')}, score {found.get('final_score')}")
    faults = [
        entry
        for entry in entries
        if entry["severity"] in {"LOW", "MEDIUM", "HIGH", "CRITICAL"} and entry["id"] not in OF_THE_TEST_AUTHORITY
    ]
    assert faults == []
    assert {name for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1") if found[name] != "not offered"} == set()
    assert found["TLS1_2"].startswith("offered")
    assert found["TLS1_3"].startswith("offered")
    assert "HSTS_time" in found
    assert found["overall_grade"] == "A+"


def test_gixy_finds_nothing(droplet: Droplet, tmp_path: Path) -> None:
    configuration = tmp_path / "nginx-configuration.txt"
    configuration.write_bytes(droplet.exec(["nginx", "-T"]).stdout)
    assert gixy(configuration) == []


def test_gixy_would_find_something(tmp_path: Path) -> None:
    """The control: a configuration with a known hole."""
    configuration = tmp_path / "nginx.conf"
    configuration.write_text("events {} http { server { location /i { alias /srv/files/; } } }")
    assert gixy(configuration) != []


def gixy(configuration: Path) -> list[object]:
    """Return what gixy finds in a configuration as `nginx -T` prints it."""
    program = shutil.which("gixy")
    assert program, "gixy (gixy-ng) is not installed"
    done = subprocess.run([program, "-f", "json", str(configuration)], capture_output=True, text=True, check=False, timeout=60)
    findings = json.loads(done.stdout or "[]")
    assert isinstance(findings, list), done.stderr
    return findings
