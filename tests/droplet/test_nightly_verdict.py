"""What became of the nightly job is recorded on the droplet, whatever its end was, and the job is none the worse for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .clips import sql
from .conftest import Droplet
from .load import under_load
from .test_nightly import BEHAVIOUR, BY_HAND, LOG, UNIT, properties, told

RECORDS = "/var/lib/giggles/records/nightly.jsonl"
NOTE = "/var/lib/giggles/nightly-begun.json"
UPLOADS = "/var/lib/giggles/uploads"
# What each word of the sample app has to be called, and what systemd says of it.
VERDICTS = {
    "some-failed": ("partial", "success"),
    "fatal": ("failed", "exit-code"),
    "database-down": ("silent-failure", "success"),
    "key-load-failed": ("silent-failure", "success"),
    "no-key": ("silent-failure", "success"),
    "date-range-error": ("silent-failure", "success"),
    "date-range-error-empty": ("silent-failure", "success"),
    "retries-skipped": ("silent-failure", "success"),
    "killed": ("killed", "signal"),
}
# Its two made-up users, as the sample app knows them.
STRUCK = "uuid.uuid5(uuid.NAMESPACE_URL, 'mailto:sample-user-2@example.org')"


def nights(droplet: Droplet, count: int = 1) -> list[dict[str, Any]]:
    """Ask as an operator does, the newest first."""
    done = droplet.exec(["salt-call", "--local", "--out=json", "giggles.nightly", f"count={count}"])
    return list(json.loads(done.stdout)["local"])


def newest(droplet: Droplet) -> dict[str, Any]:
    return dict(json.loads(droplet.shell(f"tail -n 1 {RECORDS}")))


def number(droplet: Droplet) -> int:
    return int(droplet.shell(f"cat {RECORDS} 2>/dev/null | wc -l"))


def night(droplet: Droplet, word: str) -> dict[str, Any]:
    """Let one job run to its end; return what was recorded of it."""
    told(droplet, word)
    before = number(droplet)
    droplet.exec(["systemctl", "start", UNIT], check=False)
    assert number(droplet) == before + 1
    return newest(droplet)


def active(droplet: Droplet, users: str, value: str) -> None:
    """Switch users on or off; `users` are ids with commas between them."""
    sql(
        droplet,
        "UPDATE public.users SET is_active = :'value' WHERE id = ANY (string_to_array(:'users', ',')::uuid[])",
        users=users,
        value=value,
    )


@pytest.fixture(scope="module", autouse=True)
def left_as_found(droplet: Droplet) -> Iterator[None]:
    """Nobody in the database whom the job that is played does not find, and the job's own way to behave afterwards."""
    others = sql(
        droplet, "SELECT string_agg(id::text, ',') FROM public.users WHERE is_active AND email NOT LIKE 'sample-user-_@example.org'"
    )
    active(droplet, others, "false")
    yield
    active(droplet, others, "true")
    droplet.shell(f"systemctl stop {UNIT}; rm -f {BEHAVIOUR}; systemctl reset-failed {UNIT} 2>/dev/null || true")


@pytest.fixture(autouse=True)
def awake(droplet: Droplet) -> None:
    """No job before each test; nor does systemd count the starts of earlier ones, of which it takes five in ten seconds."""
    droplet.shell(f"systemctl stop {UNIT}; systemctl reset-failed {UNIT} 2>/dev/null || true")


@pytest.mark.parametrize("word", VERDICTS)
def test_each_way_to_end_has_its_verdict(droplet: Droplet, word: str) -> None:
    one = night(droplet, word)
    assert (one["verdict"], one["result"]) == VERDICTS[word], one
    assert one["users_found"] == (2 if word not in ("fatal", "database-down") else None)
    assert one["clips_found"] == 0
    assert one["peak_mb"] is not None
    assert one["seconds"] > 0
    assert "@" not in json.dumps(one)
    # What follows the run in the log would be what the recorder complains of.
    assert "could not be written" not in droplet.shell(f"tail -n 2 {LOG}")
    assert properties(droplet, UNIT, "Result")["Result"] == one["result"]


def test_a_job_that_finds_nobody_is_checked_with_the_database(droplet: Droplet) -> None:
    # Other tests may have left users who have a key; the job would have found them.
    one = night(droplet, "no-users")
    assert one["verdict"] in ("nothing-to-do", "silent-failure")
    assert not any("not cross-checked" in reason for reason in one["reasons"]), "the database could not be asked"
    if one["verdict"] == "silent-failure":
        assert "active and have a key" in one["reasons"][0]


def test_a_night_that_is_not_played_is_checked_with_the_database_too(droplet: Droplet) -> None:
    one = night(droplet, "ok")
    if one["users_found"]:
        assert (one["verdict"], one["clips_found"]) == ("ok", 2 * one["users_found"])
        assert one["reasons"] == [one["reasons"][0]], "the database has an entry of each user"
    else:
        assert one["verdict"] == "nothing-to-do"
        assert len(one["reasons"]) == 1, "the database has no user who should have been found"


def test_recordings_that_are_erased_for_nothing_are_noticed(droplet: Droplet) -> None:
    make = f"import uuid; print({STRUCK})"
    user = droplet.shell(f'/opt/salt/current/bin/python -c "{make}"').strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", user)
    droplet.shell(f"runuser -u giggles -- bash -c 'mkdir -p {UPLOADS}/audio/{user} && echo x > {UPLOADS}/audio/{user}/a.ogg'")
    settled = f"if test -L {UPLOADS}/audio/{user} && ! ls -d {UPLOADS}/audio/.adopting-* 2>/dev/null; then echo yes; fi"
    droplet.wait_for("the new user to be adopted", lambda: droplet.shell(settled) == "yes\n")
    try:
        one = night(droplet, "inference-errors")
    finally:
        droplet.shell(f"rm -f {UPLOADS}/audio/{user}/a.ogg")
    assert one["verdict"] == "silent-failure"
    assert "1 recording was erased" in one["reasons"][0]


def test_running_out_of_memory_is_told_and_the_app_answers_meanwhile(droplet: Droplet) -> None:
    with under_load(droplet, clients=2) as load:
        one = night(droplet, "out-of-memory")
    assert (one["verdict"], one["users_found"]) == ("killed", 2)
    assert "memory" in one["reasons"][0]
    assert one["peak_mb"] > 500
    assert load.answers.total() > 10
    assert load.lost == {}


def test_a_rotation_in_the_middle_loses_nothing(droplet: Droplet) -> None:
    told(droplet, "hang:6")
    before = number(droplet)
    droplet.shell(f"systemctl start --no-block {UNIT}")
    droplet.wait_for("the job to begin", lambda: "👥 Found 2" in droplet.shell(f"tail -n 6 {LOG}"))
    droplet.shell("logrotate --force /etc/logrotate.d/giggles")
    droplet.wait_for("the job to be recorded", lambda: number(droplet) > before, seconds=60)
    one = newest(droplet)
    assert (one["verdict"], one["users_found"]) == ("ok", 2), one


def test_a_refused_start_is_no_night_and_nobody_else_reads_the_records(droplet: Droplet) -> None:
    told(droplet, "hang:20")
    before = number(droplet)
    droplet.shell(f"({BY_HAND}) > /run/by-hand.log 2>&1 < /dev/null & echo $! > /run/by-hand.pid")
    try:
        droplet.wait_for("the run by hand to begin", lambda: "👥" in droplet.shell("cat /run/by-hand.log 2>/dev/null || true"))
        droplet.exec(["systemctl", "start", UNIT])
        assert droplet.shell(f"systemctl show -p ExecMainStatus --value {UNIT}").strip() == "75"
        assert number(droplet) == before
        assert droplet.exec(["test", "-e", NOTE], check=False).returncode != 0
    finally:
        droplet.shell("pkill -f 'python process_nightly_audi[o]' || true; rm -f /run/by-hand.*")
    assert droplet.shell(f"stat -c '%U:%G %a' {RECORDS}").strip() == "root:giggles 640"


def test_a_recorder_that_is_broken_does_not_fail_the_job_and_the_next_night_tells(droplet: Droplet) -> None:
    told(droplet, "hang:0")
    before = number(droplet)
    droplet.shell("mount --bind /bin/false /usr/local/lib/giggles/nightly-record")
    try:
        droplet.exec(["systemctl", "start", UNIT])
    finally:
        droplet.shell("umount /usr/local/lib/giggles/nightly-record")
    assert number(droplet) == before
    # As after a power cut: the note of a run that nobody saw end.
    droplet.shell(f"/opt/salt/current/bin/python -c 1; /usr/local/lib/giggles/nightly-record begin 20; test -s {NOTE}")
    assert night_and_the_lost_one(droplet) == ["ok", "killed"]
    assert [one["verdict"] for one in nights(droplet, 2)] == ["ok", "killed"]


def night_and_the_lost_one(droplet: Droplet) -> list[str]:
    """Run a good night after one that was lost; return both verdicts, the newest first."""
    droplet.exec(["systemctl", "start", UNIT])
    lines = droplet.shell(f"tail -n 2 {RECORDS}").splitlines()
    return [json.loads(line)["verdict"] for line in reversed(lines)]
