"""The droplet mends itself: what was changed by hand is drift, a new commit is not, and a broken commit costs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Droplet

TREE, REMOTE, WORK, KEPT = "/srv/giggles-salt", "/root/self-converge.git", "/root/self-converge", "/root/self-converge.kept"
GIT = "git -c user.name=tests -c user.email=tests@giggles.test"
CRON, VALIDATOR = "/etc/cron.d/giggles-nightly", "/usr/local/lib/giggles/validate"
# The trial has it switched off: it would come in between the other tests.
ENABLED = 'pillar={"giggles": {"converge": {"enabled": true}}}'
UNITS = "giggles-converge.timer giggles-converge.service"

PREPARE = f"""
cp -a {TREE}/.git {KEPT}
cd {TREE}; git checkout -q -B self-converge; git add -A; {GIT} commit -q --allow-empty -m base
git clone -q --bare . {REMOTE}; git remote remove origin 2>/dev/null || true
git remote add origin {REMOTE}; git fetch -q origin; git branch -q --set-upstream-to=origin/self-converge
git clone -q {REMOTE} {WORK}
"""
RESTORE = f"""
systemctl -q disable --now giggles-converge.timer 2>/dev/null || true
cd {TREE}; base=$(git rev-list --grep='^base$' -n 1 HEAD); git reset -q --hard "$base"; rm -rf .git; mv {KEPT} .git
cd /; rm -rf {REMOTE} {WORK}; for unit in {UNITS}; do rm -f /etc/systemd/system/$unit; done; systemctl daemon-reload
systemctl reset-failed giggles-converge.service 2>/dev/null || true
"""


@pytest.fixture(scope="module", autouse=True)
def repository(droplet: Droplet) -> Iterator[None]:
    """A tree with a remote of its own, and the service without the timer, which would come in between."""
    droplet.shell(PREPARE)
    try:
        assert droplet.apply("converge", ENABLED).failed == {}
        timer = droplet.shell("systemctl is-active giggles-converge.timer; systemctl is-enabled giggles-converge.timer; "
                              "systemctl show -p Persistent -p RandomizedDelayUSec giggles-converge.timer")  # fmt: skip
        assert timer.split()[:2] == ["active", "enabled"]
        assert "Persistent=yes" in timer
        assert "RandomizedDelayUSec=0" not in timer
        assert droplet.apply("converge", ENABLED).changed == {}
        droplet.shell("systemctl stop giggles-converge.timer")
        droplet.converge()
        yield
    finally:
        droplet.shell(RESTORE)
        droplet.converge()


def run(droplet: Droplet) -> dict[str, Any]:
    """Let the timer's service run once; return what was recorded."""
    before = droplet.shell("wc -l < /var/lib/giggles/records/converge.jsonl")
    droplet.shell("systemctl start giggles-converge.service", check=False)
    lines = droplet.shell("cat /var/lib/giggles/records/converge.jsonl").splitlines()
    assert len(lines) == int(before) + 1, droplet.shell("journalctl -u giggles-converge -n 30 --no-pager")
    return json.loads(lines[-1])


def push(droplet: Droplet, change: str) -> str:
    return droplet.shell(f"cd {WORK}; {change}; {GIT} commit -q -a -m change; git push -q; git rev-parse HEAD").strip()


def ids(entries: list[dict[str, str]]) -> set[str]:
    return {entry["id"] for entry in entries}


def test_what_was_changed_by_hand_is_mended_and_named_as_drift(droplet: Droplet) -> None:
    droplet.shell(f"rm {CRON} {VALIDATOR}; echo '# planted' >> /etc/logrotate.d/giggles; echo planted >> {TREE}/README.md")
    seen = json.loads(droplet.shell("salt-call --local --out=json giggles.drift"))["local"]
    assert {"nightly-scheduled", "validator-installed", "logs-rotated"} <= ids(seen)
    made = run(droplet)
    assert made["ok"] is True, made
    assert made["trigger"] == "timer"
    assert {"nightly-scheduled", "validator-installed", "logs-rotated", "repository-unedited"} == ids(made["drift"])
    assert made["intended"] == []
    assert "planted" in str(made["diffs"])
    droplet.shell(f"test -s {CRON}; test -x {VALIDATOR}; ! grep -q planted /etc/logrotate.d/giggles {TREE}/README.md")
    assert droplet.shell("stat -c '%a %U:%G' /var/lib/giggles/records/converge.jsonl").strip() == "640 root:giggles"


def test_a_new_commit_is_intended_and_drift_beside_it_is_still_told(droplet: Droplet) -> None:
    new = push(droplet, "echo '# changed by a commit' >> salt/nightly/files/etc/cron.d/giggles-nightly")
    droplet.shell(f"rm {VALIDATOR}")
    made = run(droplet)
    assert (made["ok"], made["commit"]) == (True, new)
    assert ids(made["intended"]) == {"nightly-scheduled"}
    assert ids(made["drift"]) == {"validator-installed"}
    newest = json.loads(droplet.shell("salt-call --local --out=json giggles.history 1"))["local"]
    assert newest[0]["commit"] == new[:12]


def test_a_commit_that_does_not_render_is_put_back_and_told_while_the_droplet_serves(droplet: Droplet) -> None:
    good = droplet.shell(f"git -C {TREE} rev-parse HEAD").strip()
    bad = push(droplet, "echo '{{ no.such.thing }}' >> salt/web/init.sls")
    droplet.shell(f"rm {VALIDATOR}")
    made = run(droplet)
    assert made["ok"] is False
    assert [failure["name"] for failure in made["failures"]] == [bad[:12]]
    assert "put back" in made["failures"][0]["comment"]
    assert ids(made["drift"]) == {"validator-installed"}
    assert droplet.shell(f"git -C {TREE} rev-parse HEAD").strip() == good
    droplet.shell(f"test -x {VALIDATOR}")
    assert droplet.healthy()
