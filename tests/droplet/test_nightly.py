"""The nightly job: started by cron, once at a time, in a sandbox, and the first to go when memory runs out."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator

import pytest

from .conftest import Droplet
from .load import under_load

UNIT = "giggles-nightly.service"
LOG = "/var/log/giggles/nightly.log"
BEHAVIOUR = "/var/lib/giggles/sample-nightly-behaviour"
CLIPS = "/var/lib/giggles/uploads/clips"
BY_HAND = "cd /opt/giggles/current/.app && exec runuser -u giggles -- /opt/giggles/current/.venv/bin/python process_nightly_audio.py"
START = "🌙 Starting nightly audio processing"
END = "✅ Nightly processing completed successfully"


def properties(droplet: Droplet, unit: str, *names: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    shown = droplet.shell(f"systemctl show {unit} --property={','.join(names)}")
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def told(droplet: Droplet, word: str) -> None:
    """Tell the sample app's nightly job how to behave."""
    droplet.write(BEHAVIOUR, f"{word}\n")


def log_size(droplet: Droplet) -> int:
    return int(droplet.shell(f"stat -c %s {LOG}"))


def logged_since(droplet: Droplet, size: int) -> str:
    return droplet.shell(f"tail -c +{size + 1} {LOG}")


def night(droplet: Droplet, word: str) -> tuple[str, str]:
    """Let one nightly job run to its end; return systemd's result and what it logged."""
    told(droplet, word)
    before = log_size(droplet)
    droplet.exec(["systemctl", "start", UNIT], check=False)
    return properties(droplet, UNIT, "Result")["Result"], logged_since(droplet, before)


def running(droplet: Droplet) -> int:
    """Return how many processes run the nightly script."""
    return int(droplet.shell("pgrep -u giggles -fc 'python process_nightly_audio' || true"))


@pytest.fixture(autouse=True)
def awake(droplet: Droplet) -> Iterator[None]:
    """Have no job running before and after each test, and the job's own way to behave after it."""
    droplet.shell(f"systemctl stop {UNIT}; systemctl reset-failed {UNIT} 2>/dev/null || true")
    yield
    droplet.shell(f"systemctl stop {UNIT}; rm -f {BEHAVIOUR}; systemctl reset-failed {UNIT} 2>/dev/null || true")


@pytest.fixture(scope="module")
def user(droplet: Droplet) -> str:
    """Return the id of a user whom the nightly job finds in the database."""
    wanted = str(uuid.uuid4())
    json_body = {"Content-Type": "application/json"}
    body = json.dumps({"email": f"{wanted}@example.com", "password": "right", "user_id": wanted}).encode()
    droplet.wait_for(
        "a registration that is not slowed down and is stored",
        lambda: b'"database":true' in droplet.request("POST", "/api/auth/register", headers=json_body, body=body).body,
        seconds=65,
    )
    return wanted


def test_the_line_in_cron_really_starts_the_service(droplet: Droplet) -> None:
    assert droplet.shell("stat -c '%U:%G %a' /etc/cron.d/giggles-nightly").strip() == "root:root 644"
    text = droplet.shell("cat /etc/cron.d/giggles-nightly")
    assert text.endswith("\n"), "cron ignores a last line without an end"
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    environment = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    (entry,) = [line for line in lines if not re.match(r"\w+=", line)]
    minute, hour, *days, account, command = entry.split(None, 6)
    assert days == ["*", "*", "*"]
    assert (int(hour), int(minute)) == (2, 30)
    told(droplet, "no-users")
    before = log_size(droplet)
    cursor = droplet.shell("journalctl -n 0 --show-cursor -q").split("cursor: ")[1].strip()
    # What cron gives a job (crontab(5)): its account, /bin/sh, that account's home, and the file's own variables.
    given = {"HOME": "/root", "LOGNAME": account, "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", **environment}
    done = droplet.exec(
        [
            "runuser",
            "-u",
            account,
            "--",
            "env",
            "-i",
            "-C",
            "/root",
            *(f"{key}={value}" for key, value in given.items()),
            "/bin/sh",
            "-c",
            command,
        ]
    )
    assert done.stdout + done.stderr == b"", "cron would send this by mail every night"
    droplet.wait_for("the job to have run", lambda: END in logged_since(droplet, before))
    said = f"journalctl --sync; journalctl -u {UNIT} --after-cursor='{cursor}' -o cat"
    droplet.wait_for("systemd to say that the service ended", lambda: "Finished giggles-nightly.service" in droplet.shell(said))


def test_two_starts_and_one_by_hand_are_one_run(droplet: Droplet) -> None:
    told(droplet, "hang:5")
    before = log_size(droplet)
    droplet.shell(f"systemctl start --no-block {UNIT} & systemctl start --no-block {UNIT} & wait")
    droplet.wait_for("the job to begin", lambda: START in logged_since(droplet, before))
    by_hand = droplet.exec(["bash", "-c", BY_HAND], check=False)
    assert by_hand.returncode == 75
    assert b"already running" in by_hand.stderr
    assert b"systemctl status giggles-nightly" in by_hand.stderr
    assert running(droplet) == 1
    droplet.wait_for("the job to end", lambda: properties(droplet, UNIT, "ActiveState")["ActiveState"] == "inactive")
    logged = logged_since(droplet, before)
    assert logged.count(START) == 1
    assert logged.count(END) == 1
    assert properties(droplet, UNIT, "Result")["Result"] == "success"


def test_a_run_by_hand_keeps_the_service_out(droplet: Droplet) -> None:
    told(droplet, "hang:30")
    before = log_size(droplet)
    droplet.shell(f"({BY_HAND}) > /run/by-hand.log 2>&1 < /dev/null & echo $! > /run/by-hand.pid")
    try:
        droplet.wait_for("the run by hand to begin", lambda: START in droplet.shell("cat /run/by-hand.log 2>/dev/null || true"))
        droplet.exec(["systemctl", "start", UNIT])
        # Whoever starts it learns that it did not run, and no alert does.
        assert b"status=75" in droplet.exec(["systemctl", "status", "--no-pager", UNIT], check=False).stdout
        assert properties(droplet, UNIT, "ExecMainStatus", "ActiveState") == {"ExecMainStatus": "75", "ActiveState": "inactive"}
        assert "already running" in logged_since(droplet, before)
        assert running(droplet) == 1
    finally:
        droplet.shell("pkill -f 'python process_nightly_audi[o]' || true; rm -f /run/by-hand.*")
    # The lock goes with the process, however it ended.
    result, _ = night(droplet, "no-users")
    assert result == "success"


def test_a_good_night_writes_clips_that_only_the_app_reads(droplet: Droplet, user: str) -> None:
    result, logged = night(droplet, "ok")
    assert result == "success"
    assert f"✅ User {user}@example.com: Processing completed successfully" in logged
    assert re.search(r"📊 Total: \d+ users processed successfully, 0 failed", logged)
    clips = droplet.shell(f"find -L {CLIPS}/{user} -type f -printf '%f %u:%g %m %s\\n'").splitlines()
    assert len(clips) == 2
    for clip in clips:
        assert re.fullmatch(r"\d{8}_\d{6}-\d{8}_\d{6}_laughter_\d+-\d\d_\d+\.wav giggles:giggles 640 128044", clip)
    folders = droplet.shell(f"stat -L -c '%U:%G %a' {CLIPS} {CLIPS}/{user} {CLIPS}/../audio/{user}").splitlines()
    assert folders == ["giggles:giggles 750"] * 3
    assert droplet.shell(f"ls {CLIPS}/../audio/{user}/") == "", "a recording is erased once it is processed"
    # What the job writes is how the states want it: they have nothing to put right.
    assert droplet.apply("app.folders").changed == {}


NIGHTS = {
    "some-failed": ("success", r"❌ Error processing user .*: sample failure[\s\S]*📊 Total: 1 users processed successfully, 1 failed"),
    "database-down": ("success", r"❌ Error getting active users: .*\n.*No active users found"),
    "date-range-error-empty": ("success", r"❌ Error processing date range: \n"),
    "fatal": ("exit-code", r"❌ Fatal error in nightly processing: "),
    "killed": ("signal", r"👥 Found 2 active users"),
}


@pytest.mark.parametrize("word", NIGHTS)
def test_a_bad_night_is_logged_and_known_to_systemd(droplet: Droplet, word: str) -> None:
    wanted, pattern = NIGHTS[word]
    result, logged = night(droplet, word)
    assert result == wanted
    assert START in logged
    assert re.search(pattern, logged), logged
    assert (END in logged) == (wanted == "success")
    assert droplet.shell(f"stat -c '%U:%G %a' {LOG}").strip() == "giggles:giggles 640"


def test_running_out_of_memory_takes_the_job_and_never_the_app(droplet: Droplet) -> None:
    web = ("MainPID", "NRestarts", "ActiveState")
    before = properties(droplet, "giggles.service", *web)
    with under_load(droplet, clients=3) as load:
        result, logged = night(droplet, "out-of-memory")
    print(f"{load.answers.total()} requests meanwhile, the slowest {load.slowest:.2f} s")
    assert load.answers.total() > 20
    assert load.lost == {}
    # With version 1 control groups systemd cannot tell who sent the signal.
    assert result in ("oom-kill", "signal")
    assert properties(droplet, UNIT, "ExecMainStatus")["ExecMainStatus"] == "9"
    assert "👥 Found 2 active users" in logged
    assert END not in logged
    assert "Fatal error" not in logged, "it gave up by itself, so nothing limited it"
    assert properties(droplet, "giggles.service", *web) == before
    assert before["ActiveState"] == "active"
    result, logged = night(droplet, "no-users")
    assert result == "success", "the next night goes well again"


# Tries from within the job what nobody who took it over may do; prints JSON {what: how it ended}.
PROBE = r"""
import json, os, socket
found = {}
def attempt(what, do):
    try:
        do()
        found[what] = "possible"
    except OSError as error:
        found[what] = type(error).__name__ + " " + os.strerror(error.errno or 0)
for path in ("/etc/giggles/pillar/droplet.sls", "/srv/giggles-salt/salt/top.sls", "/opt/giggles/process.env", "/etc/shadow",
             "/root/.bashrc", "/home/operator/.ssh/authorized_keys", "/etc/ssh/ssh_host_ed25519_key"):
    attempt("read " + path, lambda: open(path).read())
attempt("list /etc/giggles", lambda: os.listdir("/etc/giggles"))
for path in ("/opt/giggles/current/.app/x", "/opt/giggles/.env", "/etc/x", "/usr/local/bin/x", "/var/lib/giggles/x",
             "/var/lib/giggles/records/x", "/var/log/giggles/x", "/var/spool/cron/crontabs/giggles"):
    attempt("write " + path, lambda: open(path, "a").close())
attempt("write uploads", lambda: open("/var/lib/giggles/uploads/temp/probe", "w").close())
os.unlink("/var/lib/giggles/uploads/temp/probe")
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("namespace", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else (_ for _ in ()).throw(PermissionError(1, "")))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 3))
found["others"] = sum(name.isdigit() and os.stat("/proc/" + name).st_uid != os.getuid() for name in os.listdir("/proc"))
found["groups"] = os.getgroups()
print("PROBE " + json.dumps(found), flush=True)
"""
ALLOWED = {"write uploads"}


def test_whoever_takes_the_job_over_gets_nowhere(droplet: Droplet) -> None:
    """The unit as it is, with another program in it."""
    place = f"/run/systemd/system/{UNIT}.d"
    version_two = droplet.shell("stat -fc %T /sys/fs/cgroup").strip() == "cgroup2fs"
    instead = "[Service]\nExecStart=\nExecStart=/opt/giggles/current/.venv/bin/python /run/probe.py\n"
    before = log_size(droplet)
    try:
        droplet.write("/run/probe.py", PROBE)
        droplet.shell(f"mkdir -p {place}")
        droplet.write(f"{place}/probe.conf", instead)
        # nginx answers where the metadata service would, so that only the sandbox stands between the two.
        droplet.shell("systemctl daemon-reload; ip address add 169.254.169.254/32 dev lo; exec 3<>/dev/tcp/169.254.169.254/80")
        droplet.exec(["systemctl", "start", UNIT])
        logged = logged_since(droplet, before)
    finally:
        droplet.shell(f"ip address delete 169.254.169.254/32 dev lo || true; rm -rf {place} /run/probe.py; systemctl daemon-reload")
    found = json.loads(logged.split("PROBE ", 1)[1].splitlines()[0])
    print(found)
    assert found.pop("others") == 0, "it sees processes of others"
    assert len(found.pop("groups")) <= 1
    if not version_two:
        # systemd filters addresses by BPF, which version 1 control groups do not carry; what it was told is all there is to see.
        del found["metadata"]
        assert "169.254.0.0/16" in properties(droplet, UNIT, "IPAddressDeny")["IPAddressDeny"]
    assert len(found) > 15
    assert {what for what, end in found.items() if end == "possible"} == ALLOWED
