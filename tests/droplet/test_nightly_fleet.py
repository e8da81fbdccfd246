"""The nightly job on two droplets with one database: each has its users, the clips come to the one that serves them, and when one
dies in the run the other does the rest.

The second droplet stands beside the first one, and is killed in the end. The first one is as it was then.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import signal
from collections.abc import Iterator

import pytest
from gigglekit.fleet.sharding import shards

from .clips import UPLOADS, new_users, sql
from .conftest import Droplet
from .test_nightly import BEHAVIOUR, UNIT, properties, running, told
from .test_nightly_verdict import active, newest, number

PILLAR = "/etc/giggles/pillar/droplet.sls"
ROLES = "vault,app,nightly"
# Users with a key from long ago, as the app has them after a registration.
_USERS = """
INSERT INTO auth.users (id, email) SELECT id, id || '@example.com' FROM unnest(string_to_array(:'users', ',')::uuid[]) AS id;
INSERT INTO public.limitless_keys (user_id, encrypted_api_key, created_at)
SELECT id, 'sample', now() - interval '1 day' FROM unnest(string_to_array(:'users', ',')::uuid[]) AS id
"""
_DONE = """
SELECT coalesce(json_object_agg(user_id, number), '{}') FROM (
    SELECT user_id, count(*) AS number FROM public.processing_logs
    WHERE user_id = ANY (string_to_array(:'users', ',')::uuid[]) AND status = 'completed' AND trigger_type <> 'manual' GROUP BY 1) AS done
"""

_PATHS = """
SELECT string_agg(clip_path, ',' ORDER BY clip_path) FROM public.laughter_detections
WHERE user_id = ANY (string_to_array(:'users', ',')::uuid[])
"""
DELIVERY = "giggles-delivery.service"


@pytest.fixture(scope="module")
def other(droplet: Droplet, beside: Droplet) -> Droplet:
    """Return a droplet that runs the nightly job with the database of the first one; one that was moved to does as well."""
    if beside.driver("info", "--json", check=False).returncode != 0:
        up = beside.driver("up", "--beside", droplet.name, "--roles", ROLES, check=False)
        assert up.returncode == 0, up.stderr.decode(errors="replace")
    return beside


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Two droplets that know each other's names.

    Arguments:
        first, second: the droplets.
        names: theirs.
    """

    first: Droplet
    second: Droplet
    names: tuple[str, str]


@pytest.fixture(scope="module")
def fleet(droplet: Droplet, other: Droplet) -> Iterator[Fleet]:
    """Have both share the nightly job."""
    before = droplet.shell(f"cat {PILLAR}")
    # A droplet's minion id is the name that the trial gave it.
    names = (droplet.name, other.name)
    key = secrets.token_hex(32)
    for one, mode in ((droplet, "receive"), (other, "send")):
        one.shell(f"sed -i 's/^  secrets:$/&\\n    delivery: {{key: \"{key}\"}}/' {PILLAR}")
        one.shell(f"echo '  nightly: {{droplets: {json.dumps(names)}}}\n  delivery: {{mode: {mode}}}' >> {PILLAR}")
        applied = one.apply("nightly,delivery")
        assert applied.code == 0, applied.text
    yield Fleet(droplet, other, names)
    droplet.write(PILLAR, before, "0600")
    droplet.shell(f"systemctl stop {UNIT}; rm -f {BEHAVIOUR}")
    applied = droplet.apply("nightly,delivery")
    assert applied.code == 0, applied.text


@pytest.fixture
def users(fleet: Fleet) -> Iterator[dict[str, list[str]]]:
    """The only active users: six of each droplet, by its name."""
    drawn = shards(fleet.names, new_users(200))
    made = {name: drawn[name][:6] for name in fleet.names}
    everybody = ",".join(user for part in made.values() for user in part)
    others = sql(fleet.first, "SELECT string_agg(id::text, ',') FROM public.users WHERE is_active")
    active(fleet.first, others, "false")
    sql(fleet.first, _USERS, users=everybody)
    yield made
    active(fleet.first, everybody, "false")
    active(fleet.first, others, "true")


def done(droplet: Droplet, users: list[str]) -> dict[str, int]:
    """Return how often each user was processed."""
    return dict(json.loads(sql(droplet, _DONE, users=",".join(users))))


def both_started(fleet: Fleet, own: list[str]) -> None:
    """Start both jobs, the second one when the first one has done its own users and waits.

    The other way round the second one could come in time for a round that an earlier test has left.
    """
    fleet.first.shell(f"systemctl start --no-block {UNIT}")
    fleet.first.wait_for("the first one to have done its own users", lambda: set(own) <= set(done(fleet.first, own)), seconds=120)
    fleet.second.shell(f"systemctl start --no-block {UNIT}")


def lease_over(droplet: Droplet, name: str) -> None:
    """Have the minutes pass after which a droplet counts as dead."""
    sql(droplet, "UPDATE giggles_salt.nightly_leases SET expires = clock_timestamp() WHERE droplet = :'name'", name=name)


def test_clips_come_to_the_droplet_that_serves_them_and_stay_nowhere_else(fleet: Fleet, users: dict[str, list[str]]) -> None:
    (own, theirs), both = users.values(), (fleet.first, fleet.second)
    records = {one.name: number(one) for one in both}
    for one in both:
        told(one, "ok")
    both_started(fleet, own)
    # Of both: a night that still waits for the other droplet would do the users of the next test as well.
    for one in both:
        one.wait_for("the night to be recorded", lambda one=one: number(one) > records[one.name], seconds=120)
    assert newest(fleet.second)["users_completed"] == len(theirs)
    paths = sql(fleet.first, _PATHS, users=",".join(theirs)).split(",")
    assert len(paths) == 2 * len(theirs)
    made = fleet.second.shell(f"cd / && sha256sum {' '.join(paths)}")
    # What is sent is at rest for a while.
    fleet.second.shell(f"touch -h -d '1 hour ago' {' '.join(paths)}; systemctl start {DELIVERY}")
    fleet.first.shell(f"systemctl start {DELIVERY}")
    assert fleet.first.shell(f"cd / && sha256sum {' '.join(paths)}") == made
    assert set(fleet.first.shell(f"stat -c '%U:%G %a' {' '.join(paths)}").splitlines()) == {"giggles:giggles 640"}
    fleet.first.wait_for(
        "new users to be adopted", lambda: fleet.first.shell(f"find {UPLOADS}/clips -mindepth 1 -maxdepth 1 -type d") == "", seconds=60
    )
    fleet.second.shell(f"systemctl start {DELIVERY}")
    assert fleet.second.shell(f"for path in {' '.join(paths)}; do if test -e $path; then echo $path; fi; done") == ""
    assert fleet.first.shell(f"cd / && sha256sum {' '.join(paths)}") == made
    assert done(fleet.first, [*own, *theirs]) == dict.fromkeys([*own, *theirs], 1)


def test_a_nightly_droplet_dies_in_the_run_and_another_does_its_users_and_nobody_twice(fleet: Fleet, users: dict[str, list[str]]) -> None:
    droplet, (own, theirs) = fleet.first, users.values()
    everybody = [*own, *theirs]
    told(fleet.second, "stall:600")
    told(droplet, "ok")
    records = number(droplet)
    both_started(fleet, own)
    droplet.wait_for("both to have done all but one user", lambda: len(done(droplet, everybody)) == len(everybody) - 1, seconds=120)
    os.kill(json.loads(fleet.second.driver("info", "--json").stdout)["leader_pid"], signal.SIGKILL)
    # The first one waits for the other, and takes nothing while that may be at work.
    droplet.wait_for("the first one to wait", lambda: not running(droplet), seconds=60)
    assert properties(droplet, UNIT, "ActiveState")["ActiveState"] == "activating"
    assert len(done(droplet, everybody)) == len(everybody) - 1
    lease_over(droplet, fleet.names[1])
    droplet.wait_for("the night to be recorded", lambda: number(droplet) > records, seconds=120)
    assert done(droplet, everybody) == dict.fromkeys(everybody, 1)
    one = newest(droplet)
    assert (one["verdict"], one["users_completed"], one["users_elsewhere"]) == ("ok", len(own) + 1, len(theirs) - 1), one
