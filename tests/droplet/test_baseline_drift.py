"""Promise 2 for updates, kernel, swap, journal and baseline: what somebody changes by hand is put back, and named."""

from __future__ import annotations

import pytest

from .conftest import Converged, Droplet

CHANGES: dict[str, tuple[str, str, str]] = {
    # what somebody does by hand: how, the state that names it, and what of it the changes say
    "a kernel parameter set": (
        "sysctl -qw net.ipv4.conf.all.accept_redirects=1",
        "kernel-hardened",
        "net.ipv4.conf.all.accept_redirects",
    ),
    "an interface's parameter set": (
        "sysctl -qw net.ipv4.conf.lo.rp_filter=0",
        "kernel-hardened",
        "net.ipv4.conf.lo.rp_filter",
    ),
    "a later sysctl file": (
        "echo net.ipv4.tcp_syncookies=0 > /etc/sysctl.d/zzz.conf",
        "kernel-configured-by-nobody-else",
        "/etc/sysctl.d/zzz.conf",
    ),
    "our sysctl file edited": ("echo x=1 >> /etc/sysctl.d/99-zz-giggles.conf", "kernel-configured", "-x=1"),
    "shared memory executable": ("mount -o remount,exec /dev/shm", "shared-memory-never-executed", "noexec"),
    "the swap's line removed": ("sed -i '/swapfile/d' /etc/fstab", "swap-in-use-after-boot", "new"),
    "updates switched off in a later file": (
        "echo 'APT::Periodic::Unattended-Upgrade \"0\";' > /etc/apt/apt.conf.d/99zz-off",
        "apt-configured-by-nobody-else",
        "/etc/apt/apt.conf.d/99zz-off",
    ),
    "updates switched off in our file": (
        'sed -i \'s/Unattended-Upgrade "1"/Unattended-Upgrade "0"/\' /etc/apt/apt.conf.d/99-giggles',
        "updates-configured",
        'Unattended-Upgrade "1"',
    ),
    "a timer stopped": ("systemctl stop apt-daily.timer", "update-timers-run", "apt-daily.timer"),
    "a timer disabled": (
        "systemctl disable -q --now apt-daily-upgrade.timer",
        "update-timers-run",
        "apt-daily-upgrade.timer",
    ),
    "a timer of ours masked over its file": (
        "ln -sf /dev/null /etc/systemd/system/giggles-reboot.timer; systemctl daemon-reload",
        "giggles-reboot.timer",
        "OnCalendar",
    ),
    "the upgrade made to do nothing": (
        "printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' > /etc/systemd/system/apt-daily-upgrade.service.d/override.conf",
        "update-units-changed-by-nobody-else",
        "override.conf",
    ),
    "the restart made to do nothing": (
        "echo 'exit 0' > /usr/local/lib/giggles/reboot-if-needed",
        "restart-when-idle",
        "Restarting for",
    ),
    "a package removed": ("apt-get -qq -y purge needrestart >/dev/null 2>&1", "updates-packages", "needrestart"),
    "a package nobody wants": (
        "apt-get -qq -y install --no-install-recommends inetutils-telnet >/dev/null 2>&1",
        "unwanted-packages-absent",
        "inetutils-telnet",
    ),
    "the journal's limit removed": ("rm /etc/systemd/journald.conf.d/giggles.conf", "journal-limited", "New file"),
    "the journal's limit overridden": (
        "printf '[Journal]\\nSystemMaxUse=10G\\n' > /etc/systemd/journald.conf.d/zz.conf",
        "journal-limited-by-nobody-else",
        "zz.conf",
    ),
    "a job in cron.d": ("echo '* * * * * root id' > /etc/cron.d/evil", "nobody-else-schedules-or-configures", "cron.d/evil"),
    "a job in cron.daily": (
        "ln -s /bin/true /etc/cron.daily/evil",
        "nobody-else-schedules-or-configures",
        "cron.daily/evil",
    ),
    "a crontab of root": (
        "echo '* * * * * id' > /var/spool/cron/crontabs/root",
        "nobody-else-schedules-or-configures",
        "crontabs/root",
    ),
    "a line in /etc/crontab": ("echo '* * * * * root id' >> /etc/crontab", "/etc/crontab", "root id"),
    "the cron folder opened": ("chmod 755 /etc/cron.d", "/etc/cron.d", "0700"),
    "everybody may schedule": ("rm /etc/cron.allow", "/etc/cron.allow", "New file"),
    "cron masked": ("systemctl mask -q --now cron.service", "cron-runs", "masked"),
    "accounting stopped": ("systemctl stop acct.service", "processes-accounted", "acct.service"),
    "core dumps allowed": (
        "echo '* hard core unlimited' > /etc/security/limits.d/core.conf",
        "nobody-else-schedules-or-configures",
        "limits.d/core.conf",
    ),
    "a weaker umask": ("sed -i 's/027/022/' /etc/login.defs", "/etc/login.defs", "UMASK"),
    "a changed owner": ("chown nobody /etc/issue", "/etc/issue", "root"),
    "a module allowed": ("rm /etc/modprobe.d/giggles.conf", "/etc/modprobe.d/giggles.conf", "New file"),
    "another time zone": ("ln -sf /usr/share/zoneinfo/Asia/Tokyo /etc/localtime", "timezone-set", "/etc/localtime"),
    "a compiler for everybody": (
        "dpkg-statoverride --remove /usr/bin/x86_64-linux-gnu-as",
        "compilers-are-roots",
        "x86_64-linux-gnu-as",
    ),
}


@pytest.fixture(scope="module")
def repaired(droplet: Droplet) -> Converged:
    """The one apply that follows all of the changes."""
    droplet.converge()
    droplet.shell("set +e\n" + "\n".join(command for command, _, _ in CHANGES.values()) + "\ntrue\n")
    outcome = droplet.apply("hardening")
    assert outcome.code == 0, outcome.failed or outcome.text
    return outcome


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_by_hand_is_undone_and_named(repaired: Converged, what: str) -> None:
    _, state, named = CHANGES[what]
    assert named in str(repaired.states[state]["changes"])


def test_after_that_nothing_is_left_to_do(droplet: Droplet, repaired: Converged) -> None:
    assert repaired.changed
    assert droplet.apply("hardening").changed == {}


def test_a_restart_brings_everything_back(droplet: Droplet, repaired: Converged) -> None:
    droplet.driver("restart")
    droplet.wait_for("the droplet", lambda: droplet.exec(["systemctl", "is-system-running"], check=False).returncode == 0)
    assert repaired.changed
    assert droplet.apply("hardening").changed == {}
    assert "noexec" in droplet.shell("grep ' /dev/shm ' /proc/mounts")
