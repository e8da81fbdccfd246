"""An old droplet and a new one, both alive: the steps of docs/MOVING.md, and a night on which both run the job.

The new droplet stands beside the first one, which is as it was afterwards, but for its backup: that goes on from the new one. So no test
of the backup may run after this on the same trial.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import clips
from .clips import Written, ask, new_users, sql
from .conftest import Droplet
from .test_backup import KIT
from .test_nightly import BEHAVIOUR, UNIT, told
from .test_nightly_fleet import done
from .test_nightly_verdict import active, newest, number

ANSWERS, PILLAR = "/root/answers.yaml", "/etc/giggles/pillar/droplet.sls"
EVERY_ROLE = "hardening, vault, app, web, nightly, backup, monitoring, converge"
# The trial has no timer of the self-converge.
QUIET = """
for unit in giggles-converge.timer giggles-converge.service; do systemctl stop $unit || true; done
systemctl stop giggles-nightly.service giggles.socket giggles.service
"""
AGAIN = "systemctl start giggles.socket giggles-backup.timer giggles-drill.timer giggles.service"

_OTHERS = """
SELECT coalesce(string_agg(id::text, ','), '') FROM public.users WHERE is_active AND id <> ALL (string_to_array(:'users', ',')::uuid[])
"""
_KEYS_FROM_BEFORE = """
UPDATE public.limitless_keys SET created_at = now() - interval '1 day' WHERE user_id = ANY (string_to_array(:'users', ',')::uuid[])
"""


@dataclasses.dataclass
class Move:
    """What there was on the old droplet.

    Arguments:
        old, new: the droplets.
        written: what users have stored.
    """

    old: Droplet
    new: Droplet
    written: Written


def with_roles(pillar: str, roles: str) -> str:
    """Return the pillar of a droplet with other roles."""
    head, _, rest = pillar.partition("\ngiggles:\n")
    rest = re.sub(r"^  roles:.*\n(?:  +- .*\n)*", "", rest, flags=re.MULTILINE)
    return f"{head}\ngiggles:\n  roles: [{roles}]\n{rest}"


def succeeded(droplet: Droplet, function: str, *arguments: str) -> dict[str, object]:
    asked = ask(droplet, function, *arguments)
    assert asked.code == 0, asked.text
    print(f"{droplet.name}: {function} in {asked.seconds:.1f} s")
    return dict(asked.returned) if isinstance(asked.returned, dict) else {"": asked.returned}


@pytest.fixture(scope="module")
def move(droplet: Droplet, beside: Droplet) -> Iterator[Move]:
    """Move, as docs/MOVING.md says."""
    new = beside
    pillar = droplet.exec(["cat", PILLAR]).stdout.decode()
    kit = ask(droplet, "recovery_kit", "rotate=True")
    assert kit.code == 0, kit.text
    written = clips.store(droplet, new_users(4), clips=3, size=16_000)
    assert written.failed == []
    succeeded(droplet, "sync")
    try:
        up = new.driver("up", "--beside", droplet.name, "--bare", check=False)
        assert up.returncode == 0, up.stderr.decode(errors="replace")
        # Before.
        new.write(ANSWERS, with_roles(pillar, "hardening, vault, app, backup"), "0600")
        new.exec(["/srv/giggles-salt/bootstrap.sh", "--non-interactive", "--answers", ANSWERS, "--shred-answers", "--skip-dns-check"])
        new.write(KIT, kit.returned, "0600")
        succeeded(new, "restore", f"kit={KIT}")
        # The old one goes on meanwhile: somebody is new, and somebody stores more.
        later = clips.store(droplet, new_users(2), clips=2, size=16_000)
        assert later.failed == []
        # The move.
        droplet.shell(QUIET)
        succeeded(droplet, "sync")
        droplet.shell("systemctl stop giggles-backup.timer giggles-drill.timer")
        succeeded(new, "restore", f"kit={KIT}")
        droplet.driver("dns", "--answer", new.info["ip"])
        new.write(PILLAR, with_roles(new.exec(["cat", PILLAR]).stdout.decode(), EVERY_ROLE), "0600")
        new.converge()
        new.shell(f"shred -u {KIT}")
        written.written += later.written
        written.tokens |= later.tokens
        yield Move(droplet, new, written)
    finally:
        droplet.driver("dns", "--reset")
        droplet.shell(f"rm -f {BEHAVIOUR}; {AGAIN}")
        droplet.wait_for("the app", droplet.healthy, seconds=120)


def test_every_clip_is_on_the_new_droplet_and_the_domain_leads_there(move: Move) -> None:
    move.new.wait_for(
        "the app", lambda: move.new.shell("curl -fsS --unix-socket /run/giggles.sock http://localhost/api/health || true") != "", 120
    )
    assert clips.wrong(move.new, move.written) == []
    leads = move.old.info["domain"]
    asked = ["curl", "-fsS", "--cacert", "/dev/stdin", "--resolve", f"{leads}:443:{move.new.info['ip']}", f"https://{leads}/api/health"]
    assert b"healthy" in move.new.exec(asked, stdin=Path(move.old.info["acme_root"]).read_bytes()).stdout
    assert move.new.apply().changed == {}


def test_the_backup_goes_on_from_the_new_droplet(move: Move) -> None:
    saved = succeeded(move.new, "sync")
    assert saved["snapshot"]
    succeeded(move.new, "verify")


def test_an_old_droplet_that_was_forgotten_processes_nobody_twice(move: Move) -> None:
    users = move.written.users
    everybody = ",".join(users)
    others = sql(move.old, _OTHERS, users=everybody)
    active(move.old, others, "false")
    sql(move.old, _KEYS_FROM_BEFORE, users=everybody)
    before = done(move.old, users)
    records = {one.name: number(one) for one in (move.old, move.new)}
    try:
        for one in (move.old, move.new):
            told(one, "ok")
            one.shell(f"systemctl start --no-block {UNIT}")
        for one in (move.old, move.new):
            one.wait_for("the night to be recorded", lambda one=one: number(one) > records[one.name], seconds=180)
    finally:
        active(move.old, others, "true")
    after = done(move.old, users)
    assert {user: after[user] - before.get(user, 0) for user in users} == dict.fromkeys(users, 1)
    nights = [newest(one) for one in (move.old, move.new)]
    assert sorted(night["verdict"] for night in nights) == ["nothing-to-do", "ok"], nights
    (idle,) = [night for night in nights if night["verdict"] == "nothing-to-do"]
    assert idle["users_elsewhere"] == len(users)
    assert "other droplets have processed" in json.dumps(idle)
