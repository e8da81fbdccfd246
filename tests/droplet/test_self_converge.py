"""The droplet mends itself: what was changed by hand is drift, a new commit is not, and a broken commit or pull costs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from . import by_itself
from .by_itself import CONVERGES, about_drift, ids, look, look_until_over, mails
from .conftest import Droplet

TREE, REMOTE, WORK, KEPT = "/srv/giggles-salt", "/root/self-converge.git", "/root/self-converge", "/root/self-converge.kept"
SIGNER = "/root/self-converge.signer"
GIT = "git -c user.name=tests -c user.email=tests@giggles.test"
SIGNED = f"{GIT} -c gpg.format=ssh -c user.signingkey={SIGNER} -c commit.gpgSign=true"
CRON, VALIDATOR, VERIFIER = "/etc/cron.d/giggles-nightly", "/usr/local/lib/giggles/validate", "/usr/local/lib/giggles/verify-unit"
PILLAR, PILLAR_KEPT = "/etc/giggles/pillar/droplet.sls", "/etc/giggles/droplet.sls.before-self-converge"
SERVICE, TIMER = "giggles-converge.service", "giggles-converge.timer"
NOW = f"/run/systemd/system/{TIMER}.d/now.conf"
# When it was due last, by which systemd makes up for what was missed.
STAMP = f"/var/lib/systemd/timers/stamp-{TIMER}"

PREPARE = f"""
cp -a {PILLAR} {PILLAR_KEPT}; rm -f {STAMP}
cp -a {TREE}/.git {KEPT}
ssh-keygen -q -t ed25519 -N '' -f {SIGNER}
cd {TREE}; git checkout -q -B self-converge; git add -A; {GIT} commit -q --allow-empty -m base
git clone -q --bare . {REMOTE}; git remote remove origin 2>/dev/null || true
git remote add origin {REMOTE}; git fetch -q origin; git branch -q --set-upstream-to=origin/self-converge
git clone -q {REMOTE} {WORK}
"""
RESTORE = f"""
if mountpoint -q {TREE}/.git; then umount {TREE}/.git; fi
systemctl -q disable --now {TIMER} 2>/dev/null || true
cd {TREE}; base=$(git rev-list --grep='^base$' -n 1 HEAD); git reset -q --hard "$base"; rm -rf .git; mv {KEPT} .git
cd /; rm -rf {REMOTE} {WORK} {SIGNER}* {NOW}; mv {PILLAR_KEPT} {PILLAR}
systemctl daemon-reload; systemctl reset-failed {SERVICE} 2>/dev/null || true
"""


@pytest.fixture(scope="module", autouse=True)
def repository(droplet: Droplet) -> Iterator[None]:
    """A tree with a remote of its own, from which only signed commits are taken; and a timer that is due at midnight only.

    The trial has none: it would come in between the tests.
    """
    droplet.shell(PREPARE)
    try:
        pillar = yaml.safe_load(droplet.shell(f"cat {PILLAR}"))
        signers = [f"tests@giggles.test {droplet.shell(f'cat {SIGNER}.pub').strip()}"]
        pillar["giggles"]["converge"] = {"every_minutes": 1440, "allowed_signers": signers}
        pillar["giggles"].setdefault("monitoring", {}).setdefault("thresholds", {})["converge_hours"] = 25
        droplet.write(PILLAR, "#!quiet_yaml\n" + yaml.safe_dump(pillar), "0600")
        droplet.converge()
        timer = droplet.shell(f"systemctl is-active {TIMER}; systemctl is-enabled {TIMER}; "
                              f"systemctl show -p Persistent -p RandomizedDelayUSec {TIMER}")  # fmt: skip
        assert timer.split()[:2] == ["active", "enabled"]
        assert "Persistent=yes" in timer
        assert "RandomizedDelayUSec=0" not in timer
        assert droplet.apply("converge").changed == {}
        look(droplet)
        yield
    finally:
        droplet.shell(RESTORE)
        droplet.converge()


def head(droplet: Droplet) -> str:
    return droplet.shell(f"git -C {TREE} rev-parse HEAD").strip()


def push(droplet: Droplet, change: str, git: str = SIGNED, how: str = "") -> str:
    return droplet.shell(f"cd {WORK}; {change}; {git} commit -q -a -m change; git push -q {how}; git rev-parse HEAD").strip()


def alerts(droplet: Droplet) -> list[dict[str, Any]]:
    """Return what looks found to be different, the oldest first."""
    return [json.loads(line) for line in droplet.shell("cat /var/lib/giggles/records/alerts.jsonl || true").splitlines()]


def test_the_timer_comes_by_itself_and_puts_back_that_somebody_hurried_it(droplet: Droplet) -> None:
    before = int(droplet.shell(f"wc -l < {CONVERGES}"))
    # An edit of systemd's: due at once, and then not for a hundred years.
    droplet.shell(f"rm {VALIDATOR}; mkdir -p $(dirname {NOW})")
    droplet.write(NOW, "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n")
    droplet.shell(f"systemctl daemon-reload; systemctl restart {TIMER}")
    droplet.wait_for("the timer's own converge", lambda: int(droplet.shell(f"wc -l < {CONVERGES}")) > before, seconds=90)
    droplet.wait_for("its end", lambda: droplet.exec(["systemctl", "is-active", "-q", SERVICE], check=False).returncode == 3)
    made = json.loads(droplet.shell(f"tail -n 1 {CONVERGES}"))
    assert {"validator-installed", "converge-units-unaltered"} <= ids(made["drift"])
    assert NOW in str(made["drift"])
    assert int(droplet.shell(f"wc -l < {CONVERGES}")) == before + 1
    shown = droplet.shell(f"test ! -e {NOW}; systemctl show -p ActiveState -p NextElapseUSecRealtime -p TimersCalendar {TIMER}")
    assert "ActiveState=active" in shown
    assert "OnCalendar=*-*-* 00:00:00" in shown


def test_what_was_changed_by_hand_is_mended_and_named_as_drift(droplet: Droplet) -> None:
    droplet.shell(f"rm {CRON} {VALIDATOR}; echo '# planted' >> /etc/logrotate.d/giggles; echo planted >> {TREE}/README.md")
    seen = json.loads(droplet.shell("salt-call --local --out=json giggles.drift"))["local"]
    assert {"nightly-scheduled", "validator-installed", "logs-rotated"} <= ids(seen)
    made = by_itself.converge(droplet)
    assert made["ok"] is True, made
    assert made["trigger"] == "timer"
    assert {"nightly-scheduled", "validator-installed", "logs-rotated", "repository-unedited"} == ids(made["drift"])
    assert made["intended"] == []
    assert "planted" in str(made["diffs"])
    droplet.shell(f"test -s {CRON}; test -x {VALIDATOR}; ! grep -q planted /etc/logrotate.d/giggles {TREE}/README.md")
    assert droplet.shell(f"stat -c '%a %U:%G' {CONVERGES}").strip() == "640 root:giggles"


def test_a_new_commit_is_intended_and_drift_beside_it_is_still_told(droplet: Droplet) -> None:
    look(droplet)
    before = len(mails(droplet))
    new = push(droplet, "echo '# changed by a commit' >> salt/nightly/files/etc/cron.d/giggles-nightly")
    # Not what the test before removed: that is still open, and would be told only once.
    droplet.shell(f"rm {VERIFIER}")
    made = by_itself.converge(droplet)
    assert (made["ok"], made["commit"]) == (True, new)
    assert ids(made["intended"]) == {"nightly-scheduled"}
    assert ids(made["drift"]) == {"unit-verifier-installed"}
    newest = json.loads(droplet.shell("salt-call --local --out=json giggles.history 1"))["local"]
    assert newest[0]["commit"] == new[:12]
    look(droplet)
    (told,) = about_drift(mails(droplet)[before:])
    assert "(unit-verifier-installed)" in told
    assert "nightly-scheduled" not in told


def test_a_commit_that_does_not_render_is_put_back_and_told_while_the_droplet_serves(droplet: Droplet) -> None:
    good = head(droplet)
    bad = push(droplet, "echo '{{ no.such.thing }}' >> salt/web/init.sls")
    droplet.shell(f"rm {VALIDATOR}")
    made = by_itself.converge(droplet)
    assert made["ok"] is False
    assert [failure["name"] for failure in made["failures"]] == [bad[:12]]
    assert "put back" in made["failures"][0]["comment"]
    assert ids(made["drift"]) == {"validator-installed"}
    assert head(droplet) == good
    droplet.shell(f"test -x {VALIDATOR}")
    assert droplet.healthy()


def test_whatever_breaks_the_pull_the_last_good_tree_is_applied_and_that_is_told_once(droplet: Droplet) -> None:
    """One after the other, without a good run between: unsigned, rewritten, a full disk, a commit of its own."""
    good = head(droplet)
    droplet.shell(f"cd {WORK}; git reset -q --hard {good}; git push -q --force")
    by_itself.converge(droplet)
    look_until_over(droplet, "converge")
    before, known = len(mails(droplet)), alerts(droplet)

    def refused(why: str, mended_as: str = "drift") -> None:
        droplet.shell(f"rm {VALIDATOR}")
        made = by_itself.converge(droplet)
        assert (made["ok"], made["commit"]) == (False, head(droplet))
        assert ids(made["failures"]) == {"repository-fetched"}
        assert why in made["failures"][0]["comment"]
        assert ids(made[mended_as]) == {"validator-installed"}
        droplet.shell(f"test -x {VALIDATOR}")
        look(droplet)

    readme = "echo more >> README.md"
    push(droplet, readme, GIT)
    refused("is not signed")
    push(droplet, f"git reset -q --hard {good}~; {readme}", SIGNED, "--force")
    refused("a force-push")
    droplet.shell(f"size=$(du -sk {TREE}/.git | cut -f 1); mount -t tmpfs -o size=$((size + 1024))k,mode=0755 none /mnt; "
                  f"cp -a {TREE}/.git/. /mnt; mount --bind /mnt {TREE}/.git; umount /mnt")  # fmt: skip
    push(droplet, f"head -c 4M /dev/urandom > large; git add large; {readme}", SIGNED, "--force")
    refused("The disk is full")
    assert head(droplet) == good
    droplet.shell(f"umount {TREE}/.git")
    # The same line, so that nobody could merge the two either. After a commit by hand nobody knows what is drift.
    droplet.shell(f"cd {TREE}; echo other >> README.md; {GIT} commit -q -a -m local")
    new = push(droplet, f"git reset -q --hard {good}; {readme}", SIGNED, "--force")
    refused("a commit that was never pushed", "intended")
    droplet.shell(f"git -C {TREE} reset -q --hard {good}")
    made = by_itself.converge(droplet)
    assert (made["ok"], made["commit"]) == (True, new), made
    look_until_over(droplet, "converge")
    news = alerts(droplet)[len(known) :]
    assert [(one["event"], one["told"]) for one in news if one["key"] == "converge"] == [("open", True), ("over", True)]
    assert len(mails(droplet)) - before == len({one["time"] for one in news if one["told"]}), "something was told twice, or never"
    assert droplet.healthy()
