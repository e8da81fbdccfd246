"""After a restart of the machine everything comes back by itself, in the right order, and is still as it should be."""

from __future__ import annotations

import dataclasses
import time

import pytest

from .conftest import Droplet
from .harm import login

SERVICES = [
    "ssh.service",
    "ufw.service",
    "fail2ban.service",
    "cron.service",
    "nginx.service",
    "acct.service",
    "giggles.socket",
    "giggles.service",
]
TIMERS = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "giggles-reboot.timer",
    "giggles-certbot.timer",
    "giggles-watch.timer",
    "logrotate.timer",
]
# Kernel modules are the host's; a Debian 13 container says so by failing this one.
NOT_OURS = {"systemd-modules-load.service"}
KEPT = "/var/lib/giggles/uploads/clips/kept-over-restart.wav"


@dataclasses.dataclass(frozen=True)
class Restart:
    """One restart.

    Arguments:
        boot_before, boot_after: the kernel's name for the boot.
        seconds: how long it took until the app answered over HTTPS.
    """

    boot_before: str
    boot_after: str
    seconds: float


def boot_of(droplet: Droplet) -> str:
    """Return the name of the current boot, which is another one after each."""
    return droplet.shell("cat /proc/sys/kernel/random/boot_id").strip()


@pytest.fixture(scope="module")
def restarted(droplet: Droplet) -> Restart:
    droplet.converge()
    droplet.shell(f"install -o giggles -g giggles -m 0640 /dev/null {KEPT}; echo sound > {KEPT}; sync")
    before = boot_of(droplet)
    started = time.monotonic()
    done = droplet.driver("restart", check=False)
    # The facts name the droplet's first process, which is another one now.
    vars(droplet).pop("info", None)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    droplet.wait_for("the app behind nginx after the restart", droplet.healthy, seconds=120)
    return Restart(before, boot_of(droplet), time.monotonic() - started)


def test_the_machine_was_really_restarted(restarted: Restart) -> None:
    assert restarted.boot_before != restarted.boot_after


def test_the_app_answers_over_https_without_anybody_doing_anything(droplet: Droplet, restarted: Restart) -> None:
    # The fixture waited for the trusted certificate and a 200; here is what was said.
    answer = droplet.request(path="/api/health")
    assert answer.status == 200
    assert b"healthy" in answer.body
    assert restarted.seconds < 120


@pytest.mark.parametrize("unit", SERVICES + TIMERS)
def test_every_unit_is_back_and_stays_enabled(droplet: Droplet, restarted: Restart, unit: str) -> None:
    states = droplet.shell(f"systemctl is-active {unit}; systemctl is-enabled {unit}").split()
    assert states == ["active", "enabled"]


def test_no_unit_failed_at_boot(droplet: Droplet, restarted: Restart) -> None:
    lines = droplet.shell("systemctl list-units --all --plain --no-legend --state=failed").splitlines()
    assert {line.split()[0] for line in lines if line.strip()} - NOT_OURS == set()


def test_the_firewall_filters_before_anything_listens(droplet: Droplet, restarted: Restart) -> None:
    assert droplet.shell("iptables -S INPUT").startswith("-P INPUT DROP")
    assert "Status: active" in droplet.shell("ufw status")
    assert "network-pre.target" in droplet.shell("systemctl show -p Before --value ufw.service").split()

    def microseconds(moment: str, unit: str) -> int:
        return int(droplet.shell(f"systemctl show -p {moment} --value {unit}"))

    filtering = microseconds("ActiveEnterTimestampMonotonic", "ufw.service")
    assert filtering > 0
    for unit in ("ssh.service", "nginx.service", "giggles.socket"):
        assert microseconds("InactiveExitTimestampMonotonic", unit) >= filtering, f"{unit} was started before the firewall filtered"


def test_the_administrator_can_log_in_and_become_root(droplet: Droplet, restarted: Restart) -> None:
    login(droplet)


def test_fail2ban_watches_ssh_again(droplet: Droplet, restarted: Restart) -> None:
    assert "Journal matches" in droplet.shell("fail2ban-client status sshd")


def test_the_nightly_job_is_still_due(droplet: Droplet, restarted: Restart) -> None:
    assert "systemctl start --no-block giggles-nightly.service" in droplet.shell("cat /etc/cron.d/giggles-nightly")
    assert droplet.shell("systemctl show -p LoadState --value giggles-nightly.service").strip() == "loaded"


def test_timers_know_when_to_run_next(droplet: Droplet, restarted: Restart) -> None:
    for timer in TIMERS:
        assert droplet.shell(f"systemctl show -p NextElapseUSecRealtime --value {timer}").strip(), f"{timer} will never run"


def test_users_files_and_the_journal_outlive_it(droplet: Droplet, restarted: Restart) -> None:
    assert droplet.shell(f"stat -c '%U:%G %a' {KEPT}; cat {KEPT}") == "giggles:giggles 640\nsound\n"
    droplet.shell(f"rm {KEPT}")
    boots = droplet.shell("journalctl --list-boots --no-pager")
    assert restarted.boot_before.replace("-", "") in boots
    assert restarted.boot_after.replace("-", "") in boots


def test_a_highstate_after_it_changes_nothing(droplet: Droplet, restarted: Restart) -> None:
    outcome = droplet.converge()
    assert len(outcome.states) > 50
    assert outcome.changed == {}
    looked = droplet.apply("test=True")
    assert looked.code == 0, looked.failed
    assert looked.changed == {}
