"""The app on its droplet: it keeps clips, survives its own end and its own renewal, and cannot touch what it runs from."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from .conftest import Droplet, Response
from .load import under_load
from .release_repository import commit
from .steady_load import steady_load

CLIPS = "/var/lib/giggles/uploads/clips"
WEB_LOG = "/var/log/giggles/web.log"
DROPLET_PILLAR = "/etc/giggles/pillar/droplet.sls"


def app(droplet: Droplet, *names: str) -> dict[str, str]:
    """Return what systemd says of the app's service."""
    shown = droplet.shell(f"systemctl show giggles.service --property={','.join(names)}")
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def wav() -> bytes:
    """Return a clip of 4 s, 16 kHz, mono, 16 bit, unlike any other."""
    sound = os.urandom(128_000)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(sound), b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", len(sound)
    )
    return header + sound


@contextmanager
def chosen(droplet: Droplet, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """Let this deployment choose something else during the block, in which there may be another one."""
    kept = f"/etc/giggles/kept-{uuid.uuid4().hex}.sls"
    pillar = yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)
    change(pillar["giggles"])
    droplet.exec(
        ["bash", "-euc", f"umask 077; cp -a {DROPLET_PILLAR} {kept}; cat > {DROPLET_PILLAR}"],
        stdin=b"#!quiet_yaml\n" + json.dumps(pillar).encode(),
    )
    try:
        yield
    finally:
        droplet.shell(f"mv -f {kept} {DROPLET_PILLAR}")


class User:
    """Somebody who is signed in."""

    def __init__(self, droplet: Droplet) -> None:
        self._droplet = droplet
        self.id = str(uuid.uuid4())
        body = json.dumps({"email": f"{self.id}@example.com", "password": "right", "user_id": self.id}).encode()
        answers: list[Response] = []

        def registered() -> bool:
            # Who signs up too often waits; other tests of this address may have.
            answers.append(droplet.request("POST", "/api/auth/register", headers={"Content-Type": "application/json"}, body=body))
            return answers[-1].status != 429

        droplet.wait_for("a registration that is not slowed down", registered, seconds=65)
        assert answers[-1].status == 200, answers[-1].body
        self.token = json.loads(answers[-1].body)["access_token"]

    def request(self, method: str, path: str, body: bytes | None = None) -> Response:
        return self._droplet.request(method, path, headers={"Authorization": f"Bearer {self.token}"}, body=body)


@pytest.fixture(scope="module")
def user(droplet: Droplet) -> User:
    return User(droplet)


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """At the end of all that is done to the app, a highstate has nothing to repair."""
    droplet.converge()
    yield
    assert droplet.converge().changed == {}


def test_a_clip_comes_back_as_it_was_stored(droplet: Droplet, user: User) -> None:
    sound = wav()
    stored = user.request("POST", "/api/audio-clips", sound)
    assert stored.status == 201, stored.body
    clip = json.loads(stored.body)
    assert clip["clip_path"].startswith(f"{CLIPS}/{user.id}/")
    assert clip["id"], "the database took no row"
    for name in (clip["name"], clip["id"]):
        answer = user.request("GET", f"/api/audio-clips/{name}")
        assert answer.status == 200
        assert answer.body == sound
    assert droplet.exec(["cat", clip["clip_path"]]).stdout == sound
    # Followed: adoption may have put a link in the folder's place by now.
    assert droplet.shell(f"stat -L -c '%U:%G %a' {clip['clip_path']} {CLIPS}/{user.id}").splitlines() == [
        "giggles:giggles 640",
        "giggles:giggles 750",
    ]
    assert droplet.request(path=f"/api/audio-clips/{clip['name']}").status == 401
    assert User(droplet).request("GET", f"/api/audio-clips/{clip['name']}").status == 404


def test_a_route_that_needs_the_process_environment_has_it(user: User) -> None:
    assert user.request("POST", "/api/process-current-day?seconds=0").status == 200


def test_a_killed_app_comes_back_by_itself_and_requests_wait(droplet: Droplet) -> None:
    before = app(droplet, "MainPID", "NRestarts")
    # From before the kill: on a busy machine the app may be half-way back when the command that kills it returns.
    began = time.monotonic()
    droplet.shell("systemctl kill --kill-who=main --signal=KILL giggles.service")
    assert droplet.request(path="/api/health", timeout=60).status == 200
    waited = time.monotonic() - began
    print(f"the first request after the kill was answered after {waited:.1f} s")
    after = app(droplet, "MainPID", "NRestarts", "ActiveState")
    assert after["MainPID"] != before["MainPID"]
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    assert waited > 1, "somebody answered while the app was dead"


def test_a_restart_under_load_loses_no_request(droplet: Droplet) -> None:
    before = app(droplet, "MainPID")
    with under_load(droplet) as load:
        for _ in range(3):
            droplet.shell("systemctl restart giggles.service")
            time.sleep(1)
    print(f"3 restarts, {load.answers.total()} requests, the slowest {load.slowest:.1f} s")
    assert app(droplet, "MainPID") != before
    assert load.answers.total() > 20
    assert load.lost == {}


def test_a_crowd_that_waits_for_a_start_is_let_in(droplet: Droplet) -> None:
    """As many as come in half a minute, all at once: more than 1,024, which systemd, uvicorn and the kernel take by themselves."""
    process = app(droplet, "MainPID")["MainPID"]
    with steady_load(droplet, rate=400) as visits:
        # To those who ask, an app that loads its model is one that does not run.
        droplet.shell(f"kill -STOP {process}")
        try:
            droplet.wait_for("a crowd", lambda: visits.due > 1300)
        finally:
            visits.enough()
            droplet.shell(f"kill -CONT {process}")
    assert visits.most_at_once > 1100
    assert visits.lost() == {}


def test_secrets_of_the_app_are_its_own(droplet: Droplet) -> None:
    files = droplet.shell("stat -c '%n %U:%G %a %F' /opt/giggles/.env /opt/giggles/process.env").splitlines()
    assert files == ["/opt/giggles/.env giggles:giggles 600 regular file", "/opt/giggles/process.env root:root 600 regular file"]
    link = droplet.shell("readlink -f /opt/giggles/current/.app/.env").strip()
    assert link == "/opt/giggles/.env"
    for other in ("nobody", "www-data", "operator"):
        assert droplet.exec(["runuser", "-u", other, "--", "cat", link], check=False).returncode != 0


def test_the_app_cannot_write_what_it_runs_from(droplet: Droplet) -> None:
    # find fails on what the account may not even read, and names the rest.
    by_rights = droplet.shell("runuser -u giggles -- find /opt/giggles ! -type l -writable 2>/dev/null || true").split()
    assert by_rights == ["/opt/giggles/.env"]
    assert droplet.shell("find /opt/giggles/releases ! -user root -o ! -group root -o -perm /6022 ! -type l") == ""
    # In its own view of the files not even root could: everything but its data is read-only.
    process = app(droplet, "MainPID")["MainPID"]
    for path in (
        "/opt/giggles/.env",
        "/opt/giggles/current/.app/src/main.py",
        "/opt/giggles/current/.app/new",
        "/etc/new",
        "/usr/bin/new",
        "/var/lib/giggles/new",
    ):
        refused = droplet.exec(["nsenter", "-t", process, "-m", "--", "bash", "-c", 'echo >> "$1"', "try", path], check=False)
        assert b"Read-only file system" in refused.stderr, path
    droplet.shell(f"nsenter -t {process} -m -- touch /var/lib/giggles/uploads/temp/probe; rm /var/lib/giggles/uploads/temp/probe")


def test_nothing_in_a_release_is_called_uploads(droplet: Droplet) -> None:
    assert droplet.shell("ls /opt/giggles/current/.app/src/main.py")
    assert droplet.shell("find /opt/giggles/releases -name uploads") == ""


def test_erasing_everything_erases_no_clip(droplet: Droplet, user: User) -> None:
    """Even asked behind nginx's back: what the app erases does not lie where it looks."""
    stored = json.loads(user.request("POST", "/api/audio-clips").body)["clip_path"]
    before = droplet.shell(f"find -L {CLIPS} -type f | sort")
    assert stored in before
    assert user.request("DELETE", "/api/user-data").status == 403
    behind = droplet.exec(
        [
            "curl",
            "-sS",
            "--unix-socket",
            "/run/giggles.sock",
            "-X",
            "DELETE",
            "-H",
            "@-",
            "-w",
            "\n%{http_code}",
            "http://localhost/api/user-data",
        ],
        stdin=f"Authorization: Bearer {user.token}".encode(),
    )
    assert behind.stdout.splitlines()[-1] == b"200", "the app was not asked, so this shows nothing"
    assert droplet.shell(f"find -L {CLIPS} -type f | sort") == before


def provoke(droplet: Droplet) -> None:
    """Have the running app and nginx write a line each into their logs."""
    speak = """
import socket
app = socket.socket(socket.AF_UNIX)
app.connect("/run/giggles.sock")
app.sendall(b"nonsense\\r\\n\\r\\n")
app.recv(100)
"""
    droplet.exec(["python3", "-c", speak])
    assert droplet.request(path="/api/health").status == 200


def test_rotated_logs_go_on_being_written(droplet: Droplet) -> None:
    before = app(droplet, "MainPID")
    said = "Invalid HTTP request received"
    provoke(droplet)
    assert said in droplet.shell(f"cat {WEB_LOG}")
    droplet.shell("echo night >> /var/log/giggles/nightly.log; logrotate -f /etc/logrotate.d/giggles; logrotate -f /etc/logrotate.d/nginx")
    assert droplet.shell(f"cat {WEB_LOG} /var/log/giggles/nightly.log") == ""
    provoke(droplet)
    assert said in droplet.shell(f"cat {WEB_LOG}")
    # Its workers open it by themselves, and cannot where they do not get through the folder.
    droplet.wait_for("a line in nginx's new log", lambda: "/api/health" in droplet.shell("cat /var/log/nginx/access.log"))
    assert app(droplet, "MainPID") == before, "nobody had to restart it"
    assert said in droplet.shell(f"zcat {WEB_LOG}.1.gz")
    rights = droplet.shell("stat -c '%n %U:%G %a' /var/log/giggles/*").splitlines()
    assert len(rights) >= 4
    for line in rights:
        assert line.endswith("giggles:giggles 640"), line
    assert droplet.shell("find /var/log/nginx -type f -perm /007") == ""
    again = droplet.converge()
    assert again.changed == {}


def test_logs_are_kept_for_14_days_at_most(droplet: Droplet) -> None:
    rules = droplet.shell("cat /etc/logrotate.d/giggles")
    assert re.search(r"^\s*daily$", rules, re.MULTILINE)
    # One day in the live file, 13 in rotated ones.
    assert int(re.search(r"^\s*rotate (\d+)$", rules, re.MULTILINE)[1]) <= 13  # type: ignore[index]
    assert int(re.search(r"^\s*maxage (\d+)$", rules, re.MULTILINE)[1]) <= 13  # type: ignore[index]
    assert droplet.shell("systemctl is-active logrotate.timer").strip() == "active"


def test_a_new_commit_goes_live_without_a_failed_request(droplet: Droplet) -> None:
    old = droplet.shell("readlink /opt/giggles/current").strip()
    new = commit(droplet, {"src/routes.py": lambda text: text.replace('"app": "sample"', '"app": "sample, renewed"')})
    with under_load(droplet, clients=2) as load:
        with chosen(droplet, lambda top: top["app"].update(ref=new)):
            outcome = droplet.apply("app")
            assert outcome.code == 0, outcome.failed
            assert json.loads(droplet.request(path="/api/health").body)["app"] == "sample, renewed"
            assert droplet.shell("readlink /opt/giggles/current").strip() == f"/opt/giggles/releases/{new}"
            # Static files come from the new release as well.
            assert droplet.request(path="/static/style.css").status == 200
        back = droplet.apply("app")
        assert back.code == 0, back.failed
    print(f"there and back, {load.answers.total()} requests, the slowest {load.slowest:.1f} s")
    assert new[:12] in str(outcome.states["release-live"]["changes"])
    assert droplet.shell("readlink /opt/giggles/current").strip() == old
    assert json.loads(droplet.request(path="/api/health").body)["app"] == "sample"
    assert load.answers.total() > 20
    assert load.lost == {}


def test_a_commit_that_does_not_import_never_goes_live(droplet: Droplet) -> None:
    before = app(droplet, "MainPID", "NRestarts")
    broken = commit(droplet, {"src/routes.py": lambda text: "import a_module_that_nobody_has\n" + text})
    with under_load(droplet, clients=2) as load, chosen(droplet, lambda top: top["app"].update(ref=broken)):
        outcome = droplet.apply("app")
        assert droplet.shell("readlink /opt/giggles/current").strip() != f"/opt/giggles/releases/{broken}"
    assert outcome.code == 2
    assert "a_module_that_nobody_has" in outcome.failed["release-live"]
    assert app(droplet, "MainPID", "NRestarts") == before, "it was not even stopped"
    assert load.lost == {}
    assert broken not in droplet.shell("ls /opt/giggles/releases")


def test_security_updates_would_install(droplet: Droplet) -> None:
    done = droplet.exec(["unattended-upgrade", "--dry-run", "--debug"], check=False)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert "label=Debian-Security" in text, "it would not look for security updates"


def test_restarts_come_at_the_hour_that_was_chosen(droplet: Droplet) -> None:
    with chosen(droplet, lambda top: top.setdefault("hardening", {}).update(reboot_at="08:40")):
        assert droplet.apply("hardening.updates").code == 0
        assert "08:40" in droplet.shell("systemctl show -p TimersCalendar --value giggles-reboot.timer")
    assert droplet.apply("hardening.updates").code == 0
    assert "07:00" in droplet.shell("systemctl show -p TimersCalendar --value giggles-reboot.timer")
    assert 'Automatic-Reboot "false"' in droplet.shell("apt-config dump Unattended-Upgrade::Automatic-Reboot")
