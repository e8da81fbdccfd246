"""Salt from a bundle in the place of Salt from the lock file, and back: nothing on the server is different for it.

Leaves the droplet on the bundle, so that what is tested after it is tested under it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import harm
from .conftest import Droplet

ROOT = Path(__file__).resolve().parents[2]
LOCK, KEPT, THERE = "/srv/giggles-salt/requirements/salt.txt", "/root/kept-lock", "/root/giggles-bundle.tar.gz"
BOOTSTRAP = "/srv/giggles-salt/bootstrap.sh"
RECORDS = "/var/lib/giggles/records/converge.jsonl"
_PYTHON = "PYTHONPATH=/srv/giggles-salt/_utils PYTHONDONTWRITEBYTECODE=1 /opt/salt/current/bin/python -s"


@pytest.fixture(scope="module")
def digest(droplet: Droplet) -> str:
    """Have a bundle of this tree on the droplet; return its sum. It is built if `packaging/build` was not run before."""
    packed = Path(os.environ.get("GIGGLES_TRIAL_BUNDLE", ""))
    if not packed.is_file():
        done = subprocess.run([ROOT / "packaging/build"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        packed = ROOT / json.loads(done.stdout)["bundle"]
    content = packed.read_bytes()
    droplet.exec(["bash", "-euc", 'cat > "$1"', "write", THERE], stdin=content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def lock(droplet: Droplet) -> Iterator[str]:
    """Return what the lock file says, which is so again afterwards."""
    droplet.shell(f"cp -a {LOCK} {KEPT}")
    yield droplet.shell(f"cat {LOCK}")
    droplet.shell(f"mv {KEPT} {LOCK}")


def current(droplet: Droplet) -> str:
    return droplet.shell("readlink /opt/salt/current").strip()


def by_itself(droplet: Droplet) -> dict[str, object]:
    """Start the self-converge; return what it recorded."""
    droplet.exec(["systemctl", "start", "giggles-converge.service"], check=False)
    return json.loads(droplet.shell(f"tail -n 1 {RECORDS}"))


def test_a_bundle_with_another_sum_changes_nothing(droplet: Droplet, digest: str) -> None:
    with harm.unharmed(droplet):
        before = droplet.shell("ls -l --time-style=full-iso /opt/salt /opt/giggles-tools/uv")
        done = droplet.exec([BOOTSTRAP, "--non-interactive", "--bundle", THERE, "--sha256", "0" * 64], check=False)
        assert droplet.shell("ls -l --time-style=full-iso /opt/salt /opt/giggles-tools/uv") == before
    said = " ".join(done.stderr.decode().split())
    assert done.returncode == 1
    assert "Nothing was changed" in said
    assert f"its SHA-256 is {digest}" in said


def test_a_bundle_takes_the_place_of_what_was_there(droplet: Droplet, digest: str) -> None:
    before = current(droplet)
    done = droplet.exec([BOOTSTRAP, "--non-interactive", "--bundle", THERE, "--sha256", digest], check=False)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    assert current(droplet) == f"bundle-{digest[:16]}", said
    if before != current(droplet):
        assert droplet.shell("readlink /opt/salt/previous").strip() == before
    assert droplet.converge().changed == {}


def test_the_programs_of_the_server_run_under_it(droplet: Droplet, digest: str) -> None:
    droplet.shell(f"{_PYTHON} -m gigglekit.health.converge_run --try")
    modules = "boto3, cryptography, jsonschema, psycopg, sqlite3, ssl, yaml, ctypes, multiprocessing, lzma"
    shown = droplet.shell(f"{_PYTHON} -c 'import {modules}; print(psycopg.pq.__impl__, sqlite3.__file__)'").split()
    assert shown[0] == "binary"
    assert shown[1].startswith(f"/opt/salt/bundle-{digest[:16]}/"), "it is a Python of the machine"
    droplet.shell("systemctl start giggles-watch.service giggles-vault-sweep.service")
    told = json.loads(droplet.shell("salt-call --local --out=json giggles.releases"))["local"]
    assert told


def test_what_it_starts_loads_the_libraries_of_the_machine(droplet: Droplet, digest: str) -> None:
    for command in ("printenv", f"{_PYTHON} -c 'import os; print(*os.environ)'"):
        done = droplet.exec(["salt-call", "--local", "--out=json", "cmd.run", f"cmd={command}", "python_shell=True"])
        shown = json.loads(done.stdout)["local"]
        assert "PATH" in shown
        assert "LD_LIBRARY_PATH" not in shown
        assert "_PYI" not in shown


def test_the_self_converge_follows_the_lock_file_refuses_what_does_not_start_and_finds_back(droplet: Droplet, lock: str) -> None:
    bundle = current(droplet)
    droplet.write(LOCK, lock + "# another\n")
    made = by_itself(droplet)
    assert (made["ok"], made["failures"]) == (True, [])
    other = current(droplet)
    assert other != bundle
    assert droplet.shell("readlink /opt/salt/previous; test ! -e /opt/salt/unproven; salt-call --version").split()[0] == bundle
    # Nothing of Salt is in it.
    droplet.write(LOCK, "# nothing\n")
    made = by_itself(droplet)
    assert [failure["id"] for failure in made["failures"]] == ["salt-runtime"]
    assert f"{other} stays in force" in made["failures"][0]["comment"]
    assert current(droplet) == other
    droplet.write(LOCK, lock)
    made = by_itself(droplet)
    assert (made["ok"], current(droplet)) == (True, bundle)
