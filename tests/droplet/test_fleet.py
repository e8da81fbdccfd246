"""One droplet becomes three: converged over salt-ssh from a clone of the tree, each with its own roles, and then by themselves."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from .conftest import Converged, Droplet
from .fleet import Operator, host_key
from .master import master_of

ROLES = {
    "web": ["hardening", "vault", "app", "web", "backup", "monitoring", "converge"],
    "night": ["vault", "app", "nightly", "converge"],
    "store": ["vault", "backup"],
}
# Where the role hardening is, root cannot log in.
USERS = {"web": "operator", "night": "root", "store": "root"}


@pytest.fixture(scope="module")
def operator(droplet: Droplet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator of the droplet that serves the web, and of two more that know nothing yet."""
    new = {name: Droplet(f"{droplet.name}-{name}") for name in ("night", "store")}

    def boot(one: Droplet) -> None:
        up = one.driver("up", "--beside", droplet.name, "--bare", check=False)
        assert up.returncode == 0, up.stderr.decode(errors="replace")
        # A droplet begins with nothing of ours.
        one.shell("rm -rf /srv/giggles-salt")

    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(boot, new.values()))
        # Whatever the tests before this one have left is not a part of what joining a fleet changes.
        droplet.converge()
        one = Operator(tmp_path_factory.mktemp("operator"), {"web": droplet, **new})
        answers = yaml.safe_load(droplet.exec(["cat", "/etc/giggles/pillar/droplet.sls"]).stdout)["giggles"]
        answers.pop("roles", None)
        one.choose("fleet", {**answers, "converge": {**answers.get("converge", {}), "pull": False}})
        for name, roles in ROLES.items():
            # One bucket, and a place in it for each droplet that comes to it.
            one.choose(f"droplets/{name}", {"roles": roles, **({"backup": {"prefix": "store/"}} if name == "store" else {})})
        one.list_droplets(USERS)
        packed = one.pack()
        assert packed.returncode == 0, packed.stderr
        yield one
    finally:
        for one in new.values():
            one.driver("down", "--purge", check=False)


@pytest.fixture(scope="module")
def first(operator: Operator) -> dict[str, Converged]:
    """What came of the first time that the operator applied everything."""
    return operator.apply("--pre-flight")


def shown(outcome: Converged) -> str:
    return str(outcome.failed or outcome.text[-3000:])


def test_one_call_converges_three_droplets_with_their_roles(first: dict[str, Converged]) -> None:
    for name, outcome in first.items():
        assert outcome.code == 0, f"{name}: {shown(outcome)}"
        ran = {state["__sls__"].partition(".")[0] for state in outcome.states.values() if "__sls__" in state}
        assert set(ROLES[name]) <= ran, f"{name} did not get its roles"
        assert ("web" in ran) == (name == "web")


def test_the_droplet_that_was_there_before_only_loses_the_role_that_another_one_has_now(first: dict[str, Converged]) -> None:
    # Besides it is told by somebody else what it was told before.
    told = {"answers-kept", "name-kept", "status-expectations"}
    assert set(first["web"].changed) - told == {"nightly-not-scheduled", "nightly-units-gone"}, first["web"].changed


def test_applied_again_nothing_changes_on_any_of_them(first: dict[str, Converged], operator: Operator) -> None:
    for name, outcome in operator.apply().items():
        assert (outcome.code, outcome.changed) == (0, {}), f"{name}: {outcome.changed or shown(outcome)}"
        assert len(outcome.states) > 30
    for name in ("night", "store"):
        # By itself, with what it keeps.
        announced = operator.droplets[name].apply("test=True")
        assert (announced.code, announced.changed) == (0, {}), f"{name}: {announced.changed or shown(announced)}"


def test_each_does_its_work_and_no_other(first: dict[str, Converged], operator: Operator) -> None:
    assert operator.droplets["web"].healthy()
    traces = {
        "web": "/etc/nginx/nginx.conf",
        "nightly": "/etc/cron.d/giggles-nightly",
        "backup": "/etc/systemd/system/giggles-backup.timer",
    }
    for name, one in operator.droplets.items():
        there = one.shell(f"cd /etc && ls {' '.join(traces.values())} 2>/dev/null || true").split()
        assert there == sorted(trace for role, trace in traces.items() if role in ROLES[name]), name
    for name in ("night", "store"):
        ports = (
            operator.droplets[name].shell("ss --no-header --tcp --listening --numeric | awk '{print $4}' | sed 's/.*://' | sort -u").split()
        )
        assert ports == ["22"], f"{name} listens where nobody should come in"


def test_they_keep_themselves_as_they_were_told(first: dict[str, Converged], operator: Operator) -> None:
    night = operator.droplets["night"]
    told = json.loads(night.shell("tail -n 1 /var/lib/giggles/records/converge.jsonl"))
    assert (told["trigger"], told["full"], told["ok"]) == ("pushed", True, True)
    night.shell("rm /etc/cron.d/giggles-nightly && systemctl start giggles-converge.service && test -e /etc/cron.d/giggles-nightly")
    told = json.loads(night.shell("tail -n 1 /var/lib/giggles/records/converge.jsonl"))
    assert [one["id"] for one in told["drift"]] == ["nightly-scheduled"], "what somebody else changed is not told as drift"
    assert told["intended"] == []


def test_no_secret_stays_where_salt_ssh_works(first: dict[str, Converged], operator: Operator) -> None:
    secret = yaml.safe_load(operator.droplets["web"].exec(["cat", "/etc/giggles/pillar/droplet.sls"]).stdout)["giggles"]["secrets"]
    needle = secret["app"]["ENCRYPTION_KEY"]
    for name, one in operator.droplets.items():
        places = one.exec(
            ["grep", "-rlF", "-f", "-", "/var/tmp", "/tmp", "/var/log", "/var/cache/salt"], stdin=needle.encode(), check=False
        )
        assert places.stdout.decode() == "", f"{name} holds the key there"
        assert one.shell("find /var/tmp /tmp -name salt_state.tgz") == ""
        assert one.shell("stat -c '%a %U' /etc/giggles/pillar/droplet.sls").split() == ["600", "root"]
    kept = [path for path in (operator.private / "cache").rglob("*") if path.is_file() and needle.encode() in path.read_bytes()]
    assert kept == [], "the operator's cache holds the key"


def test_states_do_not_run_on_another_commit(first: dict[str, Converged], operator: Operator) -> None:
    operator.commit("Another one")
    outcome = operator.apply(target="night")["night"]
    assert outcome.code != 0
    assert "fleet/pack" in outcome.failed["tree-is-the-same"]
    assert not outcome.changed
    (operator.tree / "README.md").write_text("An edit.\n")
    refused = operator.salt_ssh("night", "state.apply")
    assert refused.returncode != 0
    assert "edits that are in no commit" in refused.stdout + refused.stderr
    assert operator.pack().returncode != 0
    operator.git("reset", "--quiet", "--hard", "HEAD~1")


def test_a_droplet_with_another_host_key_is_told_nothing(first: dict[str, Converged], operator: Operator) -> None:
    right = {name: host_key(one) for name, one in operator.droplets.items()}
    try:
        operator.know_hosts({**right, "night": right["store"]})
        # The connection that is still open was made to the right one.
        for socket in operator.private.glob("ssh-*"):
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "night"], capture_output=True, check=False, timeout=30)
        done = operator.salt_ssh("night", "test.ping")
        assert done.returncode != 0
        assert "True" not in done.stdout
    finally:
        operator.know_hosts(right)


def test_a_user_is_erased_on_all_of_them_by_one_command(first: dict[str, Converged], operator: Operator) -> None:
    user = str(uuid.uuid4())
    folder = f"/var/lib/giggles/uploads/clips/{user}"
    holders = [operator.droplets[name] for name in ("web", "night")]
    for one in holders:
        one.shell(f"runuser -u giggles -- sh -c 'mkdir {folder} && echo clip > {folder}/a.wav'")
    done = operator.salt_ssh("--out=json", "--static", "*", "giggles.shred", f"user_id={user}")
    answers = json.loads(done.stdout)
    assert set(answers) == set(ROLES), done.stderr
    assert all(answers[name]["erased"] and answers[name]["receipt"] for name in ("web", "night")), done.stdout
    assert "Nothing is known of this user" in answers["store"]["stderr"]
    for one in holders:
        # What is left is a link to nowhere, which keeps the app from making the folder again.
        assert one.shell(f"test -e {folder}/ || echo gone") == "gone\n"


def test_handed_over_to_a_master_nothing_changes_on_any_of_them(first: dict[str, Converged], operator: Operator) -> None:
    before = {name: len(records(one)) for name, one in operator.droplets.items()}
    with master_of(operator) as master:
        outcomes = master.apply()
        assert {"night", "store"} <= set(outcomes)
        for name, outcome in outcomes.items():
            assert (outcome.code, outcome.failed, outcome.changed) == (0, {}, {}), f"{name}: {outcome.changed or shown(outcome)}"
            ran = {state["__sls__"].partition(".")[0] for state in outcome.states.values() if "__sls__" in state}
            assert {"common", *ROLES[name]} <= ran, f"{name} did not get its roles"
        for name, one in master.droplets.items():
            # It is recorded after it was answered.
            one.wait_for(f"the record of {name}", lambda one=one, name=name: len(records(one)) > before[name])  # type: ignore[misc]
            told = json.loads(records(one)[-1])
            assert (told["trigger"], told["full"], told["ok"], told["changed"]) == ("pushed", True, True, 0), name


def records(one: Droplet) -> list[str]:
    return one.shell("cat /var/lib/giggles/records/converge.jsonl").splitlines()
