"""Deploys that are killed, find no room or lose Git half-way: the old release serves all the while, and the next deploy works.

A deploy is killed at moments that can be seen from outside: by default at two, with GIGGLES_DEPLOYS=20 at all, and with the box in
which systemd builds for it both left and killed. All steps by their name are killed in tests/unit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .broken_releases import renewed
from .conftest import Droplet
from .release_repository import commit
from .steady_load import Visits, steady_load
from .test_app import chosen
from .test_deploy import PATIENCE, ask, running
from .test_nightly import BEHAVIOUR

WHOLE = int(os.environ.get("GIGGLES_DEPLOYS", "3")) >= 20
UNIT = "deploy-on-trial"
RELEASES = "/opt/giggles/releases"
# What can be seen from outside once a deploy has come to it, in the order in which it does.
MOMENTS = {
    "git is asked": "pgrep -x git",
    "the release is built": "ls -d /opt/giggles/releases/*.building",
    "packages are installed": "systemctl -q is-active 'run-*.service'",
    "it runs beside the live one": "systemctl -q is-active giggles-candidate.service",
    "it is switched to": "grep -q '\"switching\"' /opt/giggles/switch.json",
    "it answers users": "test -e /run/giggles-own.sock",
    "the link names it": 'test "$(readlink /opt/giggles/current)" != "$LIVE"',
    "the service starts anew": 'test "$(systemctl show -p MainPID --value giggles.service)" != "$PROCESS"',
    "the service answers again": 'test "$(readlink /opt/giggles/current)" != "$LIVE" -a ! -e /run/giggles-own.sock',
}
SOME = ("packages are installed", "it answers users")
# Lets a deploy begin, and ends it with all that it has started itself; the box in which systemd builds for it goes on, or is ended too.
# What answers users is let live: nobody could have what it was asked answered then.
KILL = f"""
LIVE=$(readlink /opt/giggles/current) PROCESS=$(systemctl show -p MainPID --value giggles.service)
systemd-run -q --unit={UNIT} --setenv=PATH="$PATH" salt-call --log-level=error --out=json giggles.deploy "$1"
for _ in $(seq 3000); do
  if eval "$2" >/dev/null 2>&1; then echo seen; break; fi
  if ! systemctl -q is-active {UNIT}.service; then break; fi
  sleep 0.02
done
systemctl kill -s KILL {UNIT}.service 2>/dev/null || true
if [ "$3" = box ]; then systemctl kill -s KILL 'run-*.service' 2>/dev/null || true; fi
for _ in $(seq 600); do if ! systemctl -q is-active {UNIT}.service; then break; fi; sleep 0.1; done
systemctl show -p Result --value {UNIT}.service; systemctl reset-failed {UNIT}.service 2>/dev/null || true
"""
# Room for bytes, and none for names: so the build begins, and ends in the middle. What is there already stays to be seen.
FULL = f"""
cd {RELEASES}; mkdir /run/full; mount -t tmpfs -o size=1g,nr_inodes=400,mode=0755 tmpfs /run/full
for one in *; do mkdir "/run/full/$one"; mount --bind "$one" "/run/full/$one"; done
mount --rbind /run/full {RELEASES}
"""
EMPTIED = f"umount -l {RELEASES}; umount -l -R /run/full; rmdir /run/full"
# The server of the app's repository says a part of what it has to, and hangs up.
CUT = """
import socket, sys, threading
def carry(source, target, most):
    while most > 0 and (data := source.recv(min(1024, most))):
        most -= len(data)
        target.sendall(data)
    for one in (source, target):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
server = socket.create_server(("", 9418))
while True:
    client, _ = server.accept()
    behind = socket.create_connection(("127.0.0.1", 9419))
    threading.Thread(target=carry, args=(client, behind, 1 << 30), daemon=True).start()
    threading.Thread(target=carry, args=(behind, client, int(sys.argv[1])), daemon=True).start()
"""


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """A deploy is not looked at for long; at the end the release of the pillar is live again, and a highstate has nothing to repair."""
    first = running(droplet)
    with chosen(droplet, lambda top: top["app"].update(PATIENCE)):
        yield
    code, _, told = ask(droplet, "deploy")
    assert code == 0, told
    assert running(droplet) == first
    assert droplet.converge().changed == {}


@pytest.fixture(scope="module")
def visits(droplet: Droplet) -> Iterator[Visits]:
    with steady_load(droplet) as load:
        yield load


@contextmanager
def git_cut_off(droplet: Droplet, after: int) -> Iterator[None]:
    """Have the repository's server hang up after so many bytes during the block; after none at all it is not there."""
    neighbour = ["exec", "--role", "neighbours", "--", "bash", "-euc"]
    droplet.driver(*neighbour, "systemctl stop neighbour-git")
    try:
        if after:
            behind = "/usr/bin/git daemon --reuseaddr --export-all --port=9419 --base-path=/srv/git /srv/git"
            droplet.driver(
                *neighbour, f"systemd-run -q --unit=git-behind {behind}; systemd-run -q --unit=git-cut python3 -c '{CUT}' {after}"
            )
        yield
    finally:
        droplet.driver(*neighbour, "systemctl stop git-cut git-behind 2>/dev/null || true; systemctl start neighbour-git")


def new_release(droplet: Droplet) -> str:
    """Return a commit that nobody has deployed."""
    return commit(droplet, renewed(time.monotonic_ns())[1])


def next_one_works(droplet: Droplet, wanted: str) -> None:
    code, _, told = ask(droplet, "deploy", f"ref={wanted}")
    assert code == 0, told
    assert running(droplet) == wanted


@pytest.mark.parametrize(("moment", "box"), [(one, box) for one in MOMENTS for box in (False, True) if WHOLE or (one in SOME and box)])
def test_a_deploy_that_is_killed_harms_nothing(droplet: Droplet, visits: Visits, moment: str, box: bool) -> None:
    began, before, wanted = time.monotonic(), running(droplet), new_release(droplet)
    killed = ["bash", "-euc", KILL, "kill", f"ref={wanted}", MOMENTS[moment], "box" if box else "alone"]
    assert droplet.exec(killed).stdout.decode().split() == ["seen", "signal"], f"it was not killed when {moment}"
    # It may be starting anew.
    droplet.wait_for("the app to run from either release", lambda: running(droplet) in (before, wanted))
    next_one_works(droplet, wanted)
    assert visits.lost(began) == {}, f"up to {visits.behind(began)} visitors at once were late themselves"


def test_a_disk_that_fills_up_during_the_build_harms_nothing(droplet: Droplet, visits: Visits) -> None:
    moment, before, wanted = time.monotonic(), running(droplet), new_release(droplet)
    droplet.shell(FULL)
    try:
        code, _, told = ask(droplet, "deploy", f"ref={wanted}")
        left = droplet.shell(f"ls {RELEASES}")
    finally:
        droplet.shell(EMPTIED)
    assert code != 0
    assert "full" in told
    assert "left as it is" in told
    assert wanted not in left
    assert running(droplet) == before
    next_one_works(droplet, wanted)
    assert visits.lost(moment) == {}


@pytest.mark.parametrize("bytes_let_through", [0, 2000] if WHOLE else [2000])
def test_git_that_goes_away_half_way_harms_nothing(droplet: Droplet, visits: Visits, bytes_let_through: int) -> None:
    moment, before, wanted = time.monotonic(), running(droplet), new_release(droplet)
    with git_cut_off(droplet, bytes_let_through):
        code, _, told = ask(droplet, "deploy", f"ref={wanted}")
    assert code != 0
    assert "repository" in told
    assert "Traceback" not in told
    assert running(droplet) == before
    next_one_works(droplet, wanted)
    assert visits.lost(moment) == {}


def test_a_deploy_waits_for_the_nightly_job(droplet: Droplet, visits: Visits) -> None:
    moment, before, wanted = time.monotonic(), running(droplet), new_release(droplet)
    droplet.write(BEHAVIOUR, "hang:8\n")
    at_work = "systemctl show -p MainPID --value giggles-nightly"
    try:
        droplet.shell("systemctl start --no-block giggles-nightly")
        droplet.wait_for("the job to begin", lambda: droplet.shell(at_work).strip() != "0")
        # However long a deploy takes to begin, the job is still at work then.
        droplet.shell("systemctl kill -s STOP giggles-nightly")
        code, _, told = ask(droplet, "deploy", f"ref={wanted}", "wait=1")
        assert code != 0
        assert "nightly" in told
        assert running(droplet) == before
        droplet.shell("(sleep 4; systemctl kill -s CONT giggles-nightly) > /dev/null 2>&1 < /dev/null &")
        next_one_works(droplet, wanted)
        ended = droplet.shell("systemctl show -p InactiveEnterTimestampMonotonic --value giggles-nightly").strip()
        started = droplet.shell("systemctl show -p ExecMainStartTimestampMonotonic --value giggles").strip()
        assert 0 < int(ended) < int(started), "the job was still at work when the release was switched"
    finally:
        droplet.shell(f"systemctl stop giggles-nightly; rm -f {BEHAVIOUR}; systemctl reset-failed giggles-nightly 2>/dev/null || true")
    assert visits.lost(moment) == {}
