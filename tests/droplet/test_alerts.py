"""Alerts on a booted droplet: real mail over the real program, once for each change; and nothing secret on its way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .by_itself import look, mails
from .conftest import Converged, Droplet
from .leaking import leaks, now, secrets, watched

PILLAR, KEPT = "/etc/giggles/pillar/droplet.sls", "/etc/giggles/droplet.sls.before-alerts"
RECIPIENT = "who-is-told@alerts.example"
STARTERS = "giggles-watch.timer giggles-watch.path"
BUNDLE, KEPT_BUNDLE = "/etc/ssl/certs/ca-certificates.crt", "/root/ca-certificates.before-alerts"
PINGS = {"backup": "https://127.0.0.1:9/planted-address-of-the-backup-check", "nightly": "https://127.0.0.1:9/planted-of-nightly"}
WEAK = "[Service]\nType=oneshot\nExecStart=/usr/bin/test -e /run/alerts-test-well\nRemainAfterExit=yes\n"


def choose(droplet: Droplet, to: str | None) -> Converged:
    """Have alerts go to somebody, or to nobody."""
    pillar = yaml.safe_load(droplet.shell(f"cat {PILLAR}"))
    login = droplet.info["smtp_login"]
    pillar["giggles"]["monitoring"] = {"mail": {"to": to, "host": login["host"] if to else None, "port": login["port"]}}
    pillar["giggles"]["secrets"]["monitoring"] = {"pings": PINGS, "smtp_user": login["user"], "smtp_password": login["password"]}
    droplet.exec(["bash", "-euc", f"cat > {PILLAR}"], stdin=("#!quiet_yaml\n" + yaml.safe_dump(pillar)).encode())
    done = droplet.apply("monitoring")
    assert done.code == 0, done.failed or done.text
    return done


@pytest.fixture(scope="module", autouse=True)
def told(droplet: Droplet) -> Iterator[Converged]:
    """Somebody is written to; what starts looks is stopped, so that each look is one of the test's."""
    # The mail server's certificate is by the trial's own authority.
    droplet.shell(f"cp -a {PILLAR} {KEPT}; cp -a {BUNDLE} {KEPT_BUNDLE}; cat /etc/giggles-trial/acme-ca.pem >> {BUNDLE}")
    try:
        done = choose(droplet, RECIPIENT)
        droplet.shell(f"systemctl stop {STARTERS}; rm -f /var/lib/giggles/records/alerts*")
        look(droplet)
        yield done
    finally:
        # A test may have failed before it made its unit: then there is nothing to stop or to reset, and the droplet is put back all the
        # same. What matters is seen after it: the settings are moved back, and applied.
        droplet.shell(
            f"systemctl stop alerts-test.service || true; mv {KEPT} {PILLAR}; mv {KEPT_BUNDLE} {BUNDLE}; "
            "rm -f /run/systemd/system/alerts-test.service /run/alerts-test-well; systemctl daemon-reload; "
            "systemctl reset-failed 'alerts-test*' || true"
        )
        droplet.apply("monitoring")
        droplet.shell(f"systemctl start {STARTERS}")


def asked(droplet: Droplet, *arguments: str) -> dict[str, Any]:
    """Return what giggles.alerts says."""
    return json.loads(droplet.exec(["salt-call", "--local", "--out=json", "giggles.alerts", *arguments]).stdout)["local"]


def test_a_second_apply_changes_nothing(droplet: Droplet) -> None:
    droplet.shell(f"systemctl start {STARTERS}")
    done = droplet.apply("monitoring")
    droplet.shell(f"systemctl stop {STARTERS}")
    assert done.changed == {}
    modes = droplet.shell("stat -c '%a %U:%G' /etc/msmtprc /etc/giggles/monitoring.json /var/lib/giggles/records/alerts-state.json")
    assert modes.split("\n")[:3] == ["600 root:root", "600 root:root", "640 root:giggles"]
    assert droplet.exec(["test", "-e", "/usr/sbin/sendmail"], check=False).returncode == 1, "root's mail would leave the droplet"


def test_a_failed_unit_is_one_mail_and_its_recovery_another(droplet: Droplet) -> None:
    before = len(mails(droplet))
    begin = now(droplet)
    droplet.write("/run/systemd/system/alerts-test.service", WEAK)
    # Nothing is planted in what the droplet had before: these are its own, and what this test gave it.
    pillar = yaml.safe_load(droplet.exec(["cat", PILLAR]).stdout)["giggles"]["secrets"]
    # The account's name is no secret, and a word of every page.
    del pillar["monitoring"]["smtp_user"]
    wanted = secrets({**pillar, "address": "planted-address-of-the-backup-check"})
    with watched(droplet, wanted) as witness:
        # There may be none to stop, and the start is meant to fail: that is what is told.
        droplet.shell("systemctl stop alerts-test.service || true; systemctl daemon-reload; systemctl start alerts-test.service || true")
        look(droplet, 3)
        droplet.shell("touch /run/alerts-test-well; systemctl start alerts-test.service")
        look(droplet, 4)
        droplet.exec(["/usr/local/lib/giggles/ping", "backup", "start"], check=False)
    assert witness.looks > 3
    assert witness.leaks == set()
    opened, over = mails(droplet)[before:]
    assert opened["X-Login"] == over["X-Login"] == droplet.info["smtp_login"]["user"]
    assert opened["X-Envelope-To"] == opened["To"] == over["To"] == RECIPIENT
    assert opened["Subject"] == f"[{droplet.info['domain']}] alerts-test.service failed"
    assert over["Subject"] == f"[{droplet.info['domain']}] over: alerts-test.service failed"
    assert opened["Message-ID"] != over["Message-ID"]
    assert "systemctl status alerts-test.service" in opened.get_content()
    assert not any(wanted.found_in(mail.as_bytes()) for mail in (opened, over))
    assert leaks(droplet, wanted, since=begin) == []
    told = [json.loads(line) for line in droplet.shell("cat /var/lib/giggles/records/alerts.jsonl").splitlines()]
    assert [(one["event"], one["told"]) for one in told if one["key"] == "unit:alerts-test.service"] == [("open", True), ("over", True)]
    assert RECIPIENT not in droplet.shell("cat /var/lib/giggles/records/alerts*")


def test_a_mail_server_that_is_away_gets_the_mail_when_it_is_back(droplet: Droplet) -> None:
    before = len(mails(droplet))
    droplet.shell("rm -f /run/alerts-test-well; systemctl restart alerts-test.service || true; cp -a /etc/msmtprc /run/msmtprc")
    droplet.shell("sed -i 's/^port .*/port 9/' /etc/msmtprc")
    try:
        look(droplet, 2)
        waiting = asked(droplet)
        assert waiting["mail"]["waiting"] == 1
        assert "mail server" in waiting["mail"]["failing"]["why"]
        failed = droplet.exec(["salt-call", "--local", "--retcode-passthrough", "giggles.alerts", "test=True"], check=False)
        assert failed.returncode != 0
        assert b"was not taken" in failed.stdout + failed.stderr
    finally:
        droplet.shell("mv /run/msmtprc /etc/msmtprc")
    assert len(mails(droplet)) == before
    look(droplet, 2)
    assert len(mails(droplet)) == before + 1
    found = asked(droplet, "test=True")
    assert found["mail"]["waiting"] == 0
    assert "unit:alerts-test.service" in {one["key"] for one in found["open"]}
    assert mails(droplet)[-1]["Subject"] == f"[{droplet.info['domain']}] test"


def test_systemd_finds_little_exposed(droplet: Droplet) -> None:
    verdict = droplet.shell("systemd-analyze security --no-pager giggles-watch.service")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", verdict)
    assert exposure, verdict
    # /tmp is its own by TemporaryFileSystem=, which works without inodes as well and which this tool does not count.
    assert float(exposure[1]) <= 2.2, verdict


def test_without_an_address_it_still_looks_and_says_that_nobody_is_written_to(droplet: Droplet) -> None:
    choose(droplet, None)
    droplet.shell(f"systemctl stop {STARTERS}")
    before = len(mails(droplet))
    assert droplet.exec(["test", "-e", "/etc/msmtprc"], check=False).returncode == 1
    droplet.shell("touch /run/alerts-test-well; systemctl restart alerts-test.service")
    # It came back soon after it was over, so it must be gone for longer.
    look(droplet, 7)
    found = asked(droplet)
    assert found["mail"]["somebody"] is False
    assert "unit:alerts-test.service" not in {one["key"] for one in found["open"]}
    assert len(mails(droplet)) == before
