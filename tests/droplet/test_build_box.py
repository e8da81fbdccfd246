"""What a package runs while it is built can build, and finds neither secrets, nor data, nor anybody to talk to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Droplet

# Runs as root, and puts a program of a stranger's into the box.
_INTO_THE_BOX = """
import sys
from pathlib import Path
from gigglekit.release import box
cache = Path("/var/cache/giggles-build/uv")
outcome = box.run_boxed([sys.argv[1], "-I", "-c", sys.stdin.read()], {"GIGGLES_PLANTED": "planted-secret"}, [cache], seconds=120)
print(outcome.output, end="")
print(outcome.complaint, end="", file=sys.stderr)
sys.exit(outcome.code)
"""

_STRANGER = r"""
import ctypes, glob, json, os, socket, subprocess, tempfile
found = {}

def attempt(name, action):
    try:
        found[name] = str(action() or "done")[:300]
    except BaseException as error:
        found[name] = f"refused: {type(error).__name__}"

def reached(path):
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)

for path in ["/etc/shadow", "/opt/giggles/.env", "/opt/giggles/process.env", "/proc/1/environ"]:
    attempt(f"read {path}", lambda: open(path).read())
for folder in ["/etc/letsencrypt", "/etc/giggles", "/etc/ssh", "/etc/salt", "/root", "/home", "/var/lib/giggles", "/var/log",
               "/srv/giggles-salt", "/run/giggles-build", "/opt/giggles/repository.git"]:
    # A folder that is hidden is empty, or closed.
    attempt(f"look into {folder}", lambda: os.listdir(folder) or 1 / 0)
for path in ["/run/systemd/private", "/run/dbus/system_bus_socket", "/run/giggles.sock"]:
    attempt(f"talk to {path}", lambda: reached(path))
for path in ["/etc/new", "/opt/giggles/releases/new", "/opt/giggles/new", "/usr/local/bin/new", "/var/cache/giggles/new"]:
    attempt(f"write {path}", lambda: open(path, "w"))
attempt("become root", lambda: os.setuid(0))
attempt("give a file away", lambda: os.chown("/tmp", 0, 0))
attempt("make a namespace", lambda: ctypes.CDLL(None).unshare(0x10000000) and 1 / 0)

def compiled():
    folder = tempfile.mkdtemp()
    with open(f"{folder}/a.c", "w") as file:
        file.write("int main(void) { return 42; }")
    subprocess.run(["gcc", "-o", f"{folder}/a", f"{folder}/a.c"], check=True)
    return subprocess.run([f"{folder}/a"]).returncode

attempt("compile", compiled)
attempt("write the cache", lambda: os.unlink(tempfile.mkstemp(dir="/var/cache/giggles-build/uv")[1]))
attempt("resolve a name", lambda: socket.getaddrinfo("acme.giggles.test", 14000)[0][4][0])
attempt("connect", lambda: socket.create_connection(("acme.giggles.test", 14000), 10))
attempt("user", lambda: f"{os.getuid() != 0} {[int(line.split()[1], 16) for line in open('/proc/self/status') if line.startswith('Cap')]}")
attempt("variable", lambda: os.environ["GIGGLES_PLANTED"])
print(json.dumps(found))
"""
_PYTHON = ["env", "PYTHONPATH=/srv/giggles-salt/_utils", "PYTHONDONTWRITEBYTECODE=1", "/opt/salt/current/bin/python"]
_ALLOWED = {"compile": "42", "write the cache": "done", "variable": "planted-secret", "user": "True [0, 0, 0, 0, 0]"}


def boxed(droplet: Droplet, program: str) -> str:
    """Run a Python program in the box and return what it printed."""
    return droplet.exec([*_PYTHON, "-c", _INTO_THE_BOX, "/usr/bin/python3"], stdin=program.encode()).stdout.decode()


@pytest.fixture(scope="module", autouse=True)
def compiler(droplet: Droplet) -> Iterator[None]:
    """A compiler as the real app's packages bring one; the sample app needs none."""
    there = droplet.shell("command -v gcc || true")
    if not there:
        droplet.shell(
            "apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install gcc libc6-dev python3-dev"
        )
    yield
    if not there:
        droplet.shell("DEBIAN_FRONTEND=noninteractive apt-get -qq -y --autoremove purge gcc libc6-dev python3-dev; apt-get clean")


@pytest.fixture(scope="module")
def found(droplet: Droplet) -> dict[str, Any]:
    assert droplet.apply("app").code == 0
    return json.loads(boxed(droplet, _STRANGER))


def test_a_package_can_compile_and_reach_the_network(found: dict[str, Any]) -> None:
    assert {name: found[name] for name in _ALLOWED} == _ALLOWED
    assert found["resolve a name"].count(".") == 3, found["resolve a name"]
    assert "laddr" in found["connect"], found["connect"]


def test_a_package_finds_no_secret_no_data_and_nobody_to_talk_to(found: dict[str, Any]) -> None:
    rest = {name: what for name, what in found.items() if name not in {*_ALLOWED, "resolve a name", "connect"}}
    assert len(rest) > 20
    assert {name: what for name, what in rest.items() if not what.startswith("refused")} == {}


def test_variables_of_a_build_are_shown_to_nobody_and_left_nowhere(droplet: Droplet) -> None:
    """Looked at by an account without rights while the build runs, until it was seen at work, and by root after it."""
    look = (
        "import subprocess,threading,time,sys\n"
        "program = ['bash', '-c', 'trap \"exit 0\" TERM; sleep 60 & wait']\n"
        "from pathlib import Path\n"
        "from gigglekit.release import box\n"
        "ended = []\n"
        "build = threading.Thread(target=lambda: ended.append(box.run_boxed(program, {'A': 'planted-secret'}, [], seconds=60)))\n"
        "build.start()\n"
        'script = \'set +e; systemctl list-units --plain --no-legend "run-u*.service" | cut -d" " -f1'
        " | xargs -r systemctl show; cat /run/systemd/transient/*; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ;"
        " cat /run/giggles-build/*'\n"
        "end = time.monotonic() + 60\n"
        "while True:\n"
        "    seen = subprocess.run(['runuser', '-u', 'nobody', '--', 'bash', '-c', script], capture_output=True)\n"
        "    if b'EnvironmentFiles=/run/giggles-build/' in seen.stdout and b'sleep\\x0060' in seen.stdout or time.monotonic() > end:\n"
        "        break\n"
        "subprocess.run(['systemctl', 'kill', 'run-u*.service'])\n"
        "build.join()\n"
        "assert ended[0].code == 0, ended\n"
        "assert b'EnvironmentFiles=/run/giggles-build/' in seen.stdout and b'sleep' in seen.stdout, seen\n"
        "print(b'planted-secret' in seen.stdout + seen.stderr, list(Path('/run/giggles-build').iterdir()))\n"
    )
    # By standard input: an argument would be seen.
    told = droplet.exec([*_PYTHON, "-"], stdin=look.encode())
    assert told.stdout.decode().strip() == "False []"


# A package with a part in C whose setup.py plants links where root writes afterwards.
_PACKAGE = {
    "setup.py": """
import glob, os
from setuptools import Extension, setup
for packages in glob.glob("/opt/giggles/releases/*.building/.venv/lib/python*/site-packages"):
    for name in ("giggles_single_run.py", "giggles_single_run.pth"):
        if not os.path.lexists(os.path.join(packages, name)):
            os.symlink("/opt/giggles/planted", os.path.join(packages, name))
    os.chmod(packages, 0o777)
setup(name="planter", version="1", ext_modules=[Extension("planter", ["planter.c"])])
""",
    "planter.c": """
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "planter", 0, -1, 0};
PyMODINIT_FUNC PyInit_planter(void) { return PyModule_Create(&definition); }
""",
}
_BUILD = """
import json, subprocess, sys, shutil
from pathlib import Path
from gigglekit.release import venv
from gigglekit.release.settings import Layout, Settings
folder = Path("/opt/giggles/releases/build-box-test.building")
package = folder / "planter"
try:
    package.mkdir(parents=True)
    for name, text in json.load(sys.stdin).items():
        (package / name).write_text(text)
    shutil.make_archive(str(folder / "planter-1"), "gztar", folder, "planter")
    (folder / "requirements.txt").write_text(f"planter @ file://{folder}/planter-1.tar.gz\\n")
    Path("/opt/giggles/planted").write_text("kept")
    venv.create(Settings("file:///x", "main", "", "system", "requirements.txt", (), "a:b", 2), Layout(), folder)
    subprocess.run([str(folder / ".venv/bin/python"), "-c", "import planter, giggles_single_run"], check=True)
    (packages,) = folder.glob(".venv/lib/python*/site-packages")
    print(Path("/opt/giggles/planted").read_text())
    print((packages / "giggles_single_run.pth").is_symlink(), packages.owner(), oct(packages.stat().st_mode)[-3:])
finally:
    shutil.rmtree(folder)
    Path("/opt/giggles/planted").unlink(missing_ok=True)
"""


def test_a_package_in_c_is_built_and_the_links_it_plants_lead_root_nowhere(droplet: Droplet) -> None:
    told = droplet.exec([*_PYTHON, "-c", _BUILD], stdin=json.dumps(_PACKAGE).encode()).stdout.decode()
    assert told.split("\n")[:2] == ["kept", "False root 755"]
    assert droplet.shell("find /var/cache/giggles-build/uv -name 'planter*' | head -1"), "setup.py did not run"


def test_a_release_belongs_to_root_although_it_was_built_by_somebody_else(droplet: Droplet) -> None:
    assert droplet.shell("find /opt/giggles/releases/ ! -user root -o ! -group root -o -type f -perm /6022") == ""
    assert droplet.shell("find -L /opt/giggles/current/ -user giggles-build -print -quit") == ""
    assert droplet.shell("stat -c '%U:%G %a' /var/cache/giggles-build /var/cache/giggles-build/uv").split("\n")[:2] == [
        "root:giggles-build 750",
        "giggles-build:giggles-build 700",
    ]


def test_only_builders_and_root_may_compile(droplet: Droplet) -> None:
    assert droplet.shell("gcc --version")
    for account in ("giggles", "www-data", "operator", "nobody"):
        assert droplet.exec(["runuser", "-u", account, "--", "gcc", "--version"], check=False).returncode != 0, account
    assert droplet.shell("getent group giggles-build").strip().endswith(":")


def test_a_log_that_grows_is_rotated_within_the_hour(droplet: Droplet) -> None:
    assert "OnCalendar=hourly" in droplet.shell("systemctl show -p TimersCalendar --value logrotate.timer").replace(
        "*-*-* *:00:00", "hourly"
    )
    size = droplet.shell("cd /var/log/giggles; truncate -s 60M web.log; systemctl start logrotate.service; stat -c %s web.log; ls")
    droplet.shell("rm -f /var/log/giggles/web.log.1.gz")
    assert int(size.split()[0]) < 1_000_000, size
    assert "web.log.1.gz" in size
