"""The backup on a booted droplet: what runs and when, what it may touch, what is put back, and what is said when there is no bucket."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from . import clips
from .clips import ask, new_users
from .conftest import Droplet
from .leaking import leaks, secrets_of

UNITS = ("giggles-backup.service", "giggles-backup.timer", "giggles-drill.service", "giggles-drill.timer")
SETTINGS, NOTES = "/etc/giggles/backup.json", "/var/lib/giggles/backup/checked.json"
PILLAR, KEPT = "/etc/giggles/pillar/droplet.sls", "/etc/giggles/droplet.sls.kept"
# The drill starts a server as somebody else than root, which takes rights that a backup does without.
MOST_EXPOSURE = {"giggles-backup.service": 2.0, "giggles-drill.service": 2.5}


def control(droplet: Droplet, method: str, path: str, content: Any = None) -> Any:
    """Ask the control port of the trial's bucket."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"{droplet.info['s3']['control']}{path}", data=body, method=method)  # noqa: S310 (its own http)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        said = answer.read()
    return json.loads(said) if said.strip() else None


def requests(droplet: Droplet) -> int:
    """Return how often the bucket was asked since the last look."""
    count = len(control(droplet, "GET", "/requests")["requests"])
    control(droplet, "DELETE", "/requests")
    return count


@contextmanager
def bucket_away(droplet: Droplet) -> Iterator[None]:
    """Have the bucket refuse every connection during the block."""
    control(droplet, "PUT", "/faults", [{"kind": "down"}])
    try:
        yield
    finally:
        control(droplet, "DELETE", "/faults")


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """A droplet with a recovery kit; at the end a highstate has nothing to repair."""
    droplet.converge()
    ask(droplet, "recovery_kit", "rotate=True")
    yield
    control(droplet, "DELETE", "/faults")
    assert droplet.converge().changed == {}
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*'") == ""


def records(droplet: Droplet, kind: str) -> list[dict[str, Any]]:
    """Return what is recorded of runs, the newest last."""
    return [json.loads(line) for line in droplet.shell(f"cat /var/lib/giggles/records/{kind}.jsonl").splitlines()]


def test_both_run_by_themselves_at_their_hours(droplet: Droplet) -> None:
    chosen = yaml.safe_load(droplet.shell("cat /srv/giggles-salt/salt/defaults.yaml"))["backup"]
    for name, hour in (("backup", f"*-*-* {chosen['at']}:00"), ("drill", f"{chosen['drill_at']}:00")):
        timer = droplet.shell(f"systemctl show --property=ActiveState,UnitFileState,TimersCalendar,Persistent giggles-{name}.timer")
        assert "ActiveState=active" in timer
        assert "UnitFileState=enabled" in timer
        assert "Persistent=yes" in timer
        calendar = re.search(r"OnCalendar=([^;]+) ;", timer)
        assert calendar is not None
        assert calendar[1] == hour.replace("Sat ", "Sat *-*-* ")
    droplet.shell(f"systemd-analyze verify {' '.join('/etc/systemd/system/' + unit for unit in UNITS)} 2>&1 | (! grep giggles-backup)")


def test_no_database_server_runs_or_listens(droplet: Droplet) -> None:
    assert droplet.shell("pgrep --exact postgres || true") == ""
    assert droplet.shell("ss --listening --tcp --numeric --no-header | grep ':5432' || true") == ""
    assert droplet.shell("pg_lsclusters --no-header") == ""
    assert droplet.shell("ls /usr/lib/postgresql/*/bin/postgres")


@pytest.mark.parametrize("unit", MOST_EXPOSURE)
def test_systemd_finds_little_exposed(droplet: Droplet, unit: str) -> None:
    verdict = droplet.shell(f"systemd-analyze security --no-pager {unit}")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", verdict)
    assert exposure, verdict
    assert float(exposure[1]) <= MOST_EXPOSURE[unit], verdict


def test_in_their_sandboxes_backup_and_drill_do_what_they_are_for(droplet: Droplet) -> None:
    users = new_users(3)
    done = clips.store(droplet, users, clips=3, size=20_000)
    assert done.failed == []
    begin = droplet.shell("date +%s").strip()
    try:
        droplet.shell("systemctl start giggles-backup.service")
        newest = records(droplet, "backup")[-1]
        assert newest["ok"] is True, newest
        assert newest["new_files"] >= len(done.written)
        droplet.shell("systemctl start giggles-drill.service")
        drilled = records(droplet, "drill")[-1]
        assert drilled["ok"] is True, drilled
        assert drilled["database"]["rows"] >= len(done.written), drilled
        modes = droplet.shell("stat -c '%a %U:%G' /var/lib/giggles/records/*.jsonl").split("\n")
        assert set(filter(None, modes)) == {"640 root:giggles"}
        said = droplet.shell(f"journalctl --no-pager --output=cat --since=@{begin} -u giggles-backup -u giggles-drill")
        assert said
        for user in users:
            assert user not in said + json.dumps(newest) + json.dumps(drilled)
        assert leaks(droplet, secrets_of(droplet)) == []
    finally:
        clips.forgotten(droplet, users)


TRIES = """#!/bin/bash
# What it can read is not shown: this is printed into the journal.
try() { if eval "$2" >/dev/null 2>&1; then echo "$1: yes"; else echo "$1: no"; fi; }
try 'write notes' ': > /var/lib/giggles/backup/probe && rm /var/lib/giggles/backup/probe'
try 'write records' ': > /var/lib/giggles/records/probe && rm /var/lib/giggles/records/probe'
try 'read clips' 'ls /var/lib/giggles/uploads/vaults'
try 'read settings' 'cat /etc/giggles/backup.json'
try 'take the lock' ': > /run/giggles/probe && rm /run/giggles/probe'
try 'write clips' ': > /var/lib/giggles/uploads/clips/probe'
try 'change settings' ': >> /etc/giggles/backup.json'
try 'read other secrets' 'cat /etc/giggles/pillar/droplet.sls'
try 'read host keys' 'cat /etc/ssh/ssh_host_ed25519_key'
try 'change the app' ': > /opt/giggles/probe'
try 'change the system' ': > /usr/local/probe'
try 'plant a unit' ': > /etc/systemd/system/probe.service'
try 'mount' 'mount -t tmpfs none /mnt'
try 'load a module' 'modprobe dummy'
true
"""
ALLOWED = {"write notes", "write records", "read clips", "read settings", "take the lock"}


@pytest.mark.parametrize("unit", MOST_EXPOSURE)
def test_the_sandbox_lets_through_what_is_needed_and_nothing_else(droplet: Droplet, unit: str) -> None:
    place = f"/run/systemd/system/{unit}.d"
    droplet.write("/usr/local/lib/giggles/tries", TRIES, "0755")
    droplet.shell(f"mkdir -p {place}")
    droplet.write(f"{place}/tries.conf", "[Service]\nExecStart=\nExecStart=/usr/local/lib/giggles/tries\n")
    try:
        begin = droplet.shell("systemctl daemon-reload; date +%s").strip()
        droplet.shell(f"systemctl start {unit}")
        said = droplet.shell(f"journalctl --no-pager --output=cat --since=@{begin} -u {unit} -t tries")
        free = droplet.shell("/usr/local/lib/giggles/tries")
    finally:
        droplet.shell(
            f"rm -rf {place} /usr/local/lib/giggles/tries; rm -f /var/lib/giggles/uploads/clips/probe /opt/giggles/probe /usr/local/probe; "
            "rm -f /etc/systemd/system/probe.service; mountpoint -q /mnt && umount /mnt; systemctl daemon-reload"
        )
    found = dict(line.split(": ") for line in said.splitlines() if ": " in line)
    assert {what for what, answer in found.items() if answer == "yes"} == ALLOWED
    assert len(found) == TRIES.count("\ntry '")
    outside = dict(line.split(": ") for line in free.splitlines() if ": " in line)
    assert outside["change the app"] == outside["read other secrets"] == outside["mount"] == "yes", "what nobody may do proves nothing"


FILLS = """#!/bin/bash
head -c 600M /dev/zero >/run/giggles/drill/rows || echo "filled: $(($(stat -c %s /run/giggles/drill/rows) >> 20))"
kill -KILL $$
"""


def test_what_a_killed_drill_had_loaded_fills_no_memory_but_its_own_and_is_gone_with_it(droplet: Droplet) -> None:
    """The next one comes in a week, and in the meantime systemd reloads nothing when /run is full."""
    place = "/run/systemd/system/giggles-drill.service.d"
    droplet.write("/usr/local/lib/giggles/fills", FILLS, "0755")
    droplet.shell(f"mkdir -p {place}")
    droplet.write(f"{place}/fills.conf", "[Service]\nExecStart=\nExecStart=/usr/local/lib/giggles/fills\n")
    try:
        begin = droplet.shell("systemctl daemon-reload; date +%s").strip()
        droplet.shell("! systemctl start giggles-drill.service")
        said = droplet.shell(f"journalctl --no-pager --output=cat --since=@{begin} -u giggles-drill -t fills")
        left = droplet.shell("ls -A /run/giggles/drill")
    finally:
        droplet.shell(
            f"rm -rf {place} /usr/local/lib/giggles/fills /run/giggles/drill/rows; systemctl daemon-reload; "
            "systemctl reset-failed giggles-drill.service"
        )
    most = yaml.safe_load(droplet.shell("cat /srv/giggles-salt/salt/defaults.yaml"))["backup"]["memory_max_mb"]
    assert re.findall(r"filled: (\d+)", said) == [str(most * 7 // 10)], "the control: it did not load until there was no more room"
    assert left == ""


DRIFT = {
    "a drop-in": (
        "mkdir -p /etc/systemd/system/giggles-backup.service.d; "
        "printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/giggles-backup.service.d/override.conf",
        "backup-units-unaltered",
        "override.conf",
    ),
    "a drop-in until the next boot": (
        "mkdir -p /run/systemd/system/giggles-drill.timer.d; "
        "printf '[Timer]\\nPersistent=no\\n' > /run/systemd/system/giggles-drill.timer.d/x.conf",
        "backup-units-unaltered",
        "x.conf",
    ),
    "another hour": (
        "sed -i 's/^OnCalendar=.*/OnCalendar=yearly/' /etc/systemd/system/giggles-backup.timer",
        "giggles-backup.timer-installed",
        "OnCalendar=yearly",
    ),
    "a service that does nothing": (
        "sed -i 's/^ExecStart=.*/ExecStart=\\/bin\\/true/' /etc/systemd/system/giggles-drill.service",
        "giggles-drill.service-installed",
        "/bin/true",
    ),
    "a timer that is off": ("systemctl disable --now giggles-drill.timer", "backup-timers-run", "giggles-drill.timer"),
    "a program that does nothing": ("echo exit > /usr/local/lib/giggles/backup", "backup-program-installed", "exit"),
    "settings that others can read": (f"chmod 0644 {SETTINGS}", "backup-settings", "0600"),
    "notes that others can read": ("chmod 0755 /var/lib/giggles/backup", "backup-folder-private", "0700"),
    "a cluster at the next package": (
        "echo 'create_main_cluster = true' > /etc/postgresql-common/createcluster.conf",
        "database-server-makes-no-cluster",
        "create_main_cluster",
    ),
}


def test_whatever_somebody_changes_is_put_back_and_named(droplet: Droplet) -> None:
    droplet.shell("systemctl daemon-reload; " + "; ".join(done for done, _, _ in DRIFT.values()))
    looked = droplet.apply("test=True")
    done = droplet.converge()
    for name, (_, state, words) in DRIFT.items():
        assert state in looked.changed, name
        assert words in str(done.changed.get(state)), (name, done.changed.get(state))
    assert droplet.converge().changed == {}
    shown = droplet.shell("systemctl show --property=ExecStart giggles-backup.service giggles-drill.service")
    assert shown.count("argv[]=/usr/local/lib/giggles/backup ") == 2
    assert "active" in droplet.shell("systemctl is-active giggles-backup.timer giggles-drill.timer")


def test_settings_that_were_changed_come_back_without_being_shown(droplet: Droplet) -> None:
    secret = yaml.safe_load(droplet.shell(f"cat {PILLAR}"))["giggles"]["secrets"]["backup"]["application_key"]
    droplet.shell(f'sed -i \'s/"threads": 4/"threads": 1/; s/"key_id": ".*"/"key_id": "somebody-elses"/\' {SETTINGS}')
    done = droplet.converge()
    assert "backup-settings" in done.changed
    assert secret not in done.text
    assert json.loads(droplet.shell(f"cat {SETTINGS}"))["threads"] == 4
    assert droplet.converge().changed == {}


def test_a_converge_with_nothing_to_do_asks_the_bucket_nothing(droplet: Droplet) -> None:
    droplet.converge()
    requests(droplet)
    assert droplet.converge().changed == {}
    assert droplet.apply("test=True").changed == {}
    assert requests(droplet) == 0
    droplet.shell(f'sed -i \'s/"time": [0-9]*/"time": 1/g\' {NOTES}')
    assert droplet.converge().changed == {}
    assert requests(droplet) > 0


def test_a_bucket_that_is_away_fails_no_converge_and_is_told(droplet: Droplet) -> None:
    droplet.shell(f'sed -i \'s/"time": [0-9]*/"time": 1/g\' {NOTES}')
    with bucket_away(droplet):
        done = droplet.converge()
        assert done.changed == {}
        assert "next backup" in done.states["backup-usable"]["comment"]
        failed = droplet.exec(["systemctl", "start", "giggles-backup.service"], check=False)
        assert failed.returncode != 0
        newest = records(droplet, "backup")[-1]
        assert newest["ok"] is False
        assert newest["reason"]
        assert "Traceback" not in droplet.shell("journalctl --no-pager --output=cat -n 20 -u giggles-backup")
        assert droplet.healthy()
    droplet.shell("systemctl start giggles-backup.service")
    assert records(droplet, "backup")[-1]["ok"] is True


def test_without_a_bucket_nothing_is_left_and_that_is_said(droplet: Droplet) -> None:
    droplet.shell(f"cp -a {PILLAR} {KEPT}")
    try:
        pillar = yaml.safe_load(droplet.shell(f"cat {PILLAR}"))
        pillar["giggles"]["backup"]["bucket"] = None
        droplet.exec(["bash", "-euc", f"cat > {PILLAR}"], stdin=("#!quiet_yaml\n" + yaml.safe_dump(pillar)).encode())
        looked = droplet.apply("test=True")
        assert looked.failed == {}
        assert {"backup-settings", "backup-units-absent"} <= set(looked.changed)
        done = droplet.converge()
        assert set(done.changed["backup-units-absent"]["removed"]) == set(UNITS)
        assert "NO backup" in done.states["backup-usable"]["comment"]
        assert droplet.converge().changed == {}
        assert droplet.exec(["test", "-e", SETTINGS], check=False).returncode == 1
        assert droplet.shell("systemctl list-unit-files --no-legend 'giggles-backup*' 'giggles-drill*' || true") == ""
        assert droplet.shell("systemctl list-timers --all --no-legend 'giggles-backup*' 'giggles-drill*'") == ""
        table = droplet.exec(["/srv/giggles-salt/bootstrap.sh", "--non-interactive"], check=False).stdout.decode()
        assert re.search(r"^ *backup +NONE +no backup: clips exist only on this droplet", table, re.M), table
        assert droplet.healthy()
    finally:
        droplet.shell(f"mv {KEPT} {PILLAR}")
        droplet.converge()
    table = droplet.exec(["/srv/giggles-salt/bootstrap.sh", "--non-interactive"], check=False).stdout.decode()
    assert re.search(r"^ *backup +up ", table, re.M), table
