"""Whatever somebody changes by hand, the timer's service puts back without a hand, and says by name what it was, in one mail.

The changes are made all together, so that no repair may depend on the rest being whole: first what can be edited, added or
opened, then what can be deleted, stopped or taken away.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from . import by_itself
from .conftest import Converged, Droplet, by_id
from .leaking import secrets_of

APP = "$live/laughter-detector"
"""The app's folder in the release that was live at first; the link to it is swapped, too."""
STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDvj0lQdN2Kj7cq9m1rZx5o3T8Wv4uYb6eP1sHgFnRtA stranger"

# Runs many scripts inside the droplet for the price of one entry: JSON {name: script} in, {name: [exit code, output]} out.
_RUNNER = """
import json, subprocess, sys
answers = {}
for name, script in json.load(sys.stdin).items():
    try:
        done = subprocess.run(["bash", "-euc", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
        answers[name] = [done.returncode, (done.stdout + done.stderr).decode(errors="replace")[-2000:]]
    except subprocess.TimeoutExpired:
        answers[name] = [124, "still running after 240 s"]
json.dump(answers, sys.stdout)
"""


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One thing that somebody with root does to a droplet.

    Arguments:
        name: what it is, in words.
        done_by: bash that does it.
        whole: bash that succeeds only on a droplet to which it was not done.
        state: ID of the state that undoes it.
        named: what its changes must say, so that a reader knows what was undone.
    """

    name: str
    done_by: str
    whole: str
    state: str
    named: str


def without(text: str, path: str) -> str:
    """Return a check that a file is there and does not hold `text`."""
    return f"test -s {path} && ! grep -qF -e {shlex.quote(text)} {path}"


def gone(path: str) -> str:
    """Return a check that nothing is at a path, not even a broken link."""
    return f"test ! -e {path} && test ! -L {path}"


def has(access: str, path: str) -> str:
    """Return a check of `owner:group mode`."""
    return f'test "$(stat -c "%U:%G %a" {path})" = "{access}"'


def appended(name: str, line: str, path: str, state: str) -> Mutation:
    """A line more at the end of a file; the line itself must be named."""
    return Mutation(name, f"printf '%s\\n' {shlex.quote(line)} >> {path}", without(line, path), state, line)


def added(name: str, path: str, content: str, state: str, then: str = "true") -> Mutation:
    """A file that does not belong; its path must be named."""
    return Mutation(name, f"mkdir -p $(dirname {path}); printf '%s\\n' {shlex.quote(content)} > {path}; {then}", gone(path), state, path)


def overridden(name: str, unit: str, folder: str, setting: str, whole: str) -> Mutation:
    """A drop-in for a unit, as `systemctl edit` leaves it; its folder must be named."""
    file = f"{folder}/override.conf"
    write = f"mkdir -p {folder}; printf '[Service]\\n%s\\n' {setting} > {file}; systemctl daemon-reload"
    shown = f'test "$(systemctl show -p {setting.partition("=")[0]} --value {unit})" = {whole}'
    return Mutation(name, write, f"{gone(file)} && {shown}", f"unit-not-altered-by-{folder}", folder)


def opened(name: str, path: str, mode: str, wanted: str, state: str, named: str | None = None) -> Mutation:
    """Other permissions."""
    return Mutation(name, f"chmod {mode} {path}", has(wanted, path), state, named or wanted.split()[1].zfill(4))


def stopped(name: str, unit: str, state: str, how: str = "disable --now") -> Mutation:
    """A unit that does not run any more, nor after the next boot."""
    return Mutation(
        name,
        f"systemctl -q {how} {unit}",
        f'systemctl -q is-active {unit} && test "$(systemctl is-enabled {unit})" = enabled',
        state,
        unit,
    )


# It gives way to nobody for this once, since tests wait for it.
QUICK = "[Service]\nNice=0\nCPUWeight=100\nIOWeight=100\nIOSchedulingClass=best-effort"

CHANGED = [
    # --- the machine
    Mutation(
        "shared memory made executable",
        "mount -o remount,exec /dev/shm",
        "grep -q ' /dev/shm .*noexec' /proc/mounts",
        "shared-memory-never-executed",
        "noexec",
    ),
    Mutation(
        "the swap file's line removed", "sed -i /swapfile/d /etc/fstab", "grep -q swapfile /etc/fstab", "swap-in-use-after-boot", "new"
    ),
    stopped("cron stopped and disabled", "cron.service", "cron-runs"),
    stopped("process accounting stopped and disabled", "acct.service", "processes-accounted"),
    Mutation("another owner of the banner", "chown nobody /etc/issue", has("root:root 644", "/etc/issue"), "/etc/issue", "root"),
    # --- what watches and mends
    stopped("the watch stopped", "giggles-watch.timer", "watch-runs"),
    opened("the settings of the watch made readable", "/etc/giggles/monitoring.json", "0644", "root:root 600", "monitoring-settings"),
    added(
        "the self-converge overridden",
        "/etc/systemd/system/giggles-converge.service.d/o.conf",
        QUICK,
        "converge-units-unaltered",
        "systemctl daemon-reload",
    ),
    # --- accounts
    appended("a key added for the administrator", STRANGER, "/home/operator/.ssh/authorized_keys", "admin-keys-exact"),
    added("a second key file for the administrator", "/home/operator/.ssh/authorized_keys2", STRANGER, "nobody-else-has-power"),
    added("a key added for root", "/root/.ssh/authorized_keys", STRANGER, "nobody-else-has-power"),
    added("a key added for the app's account", "/var/lib/giggles/.ssh/authorized_keys", STRANGER, "nobody-else-has-power"),
    Mutation(
        "a new account that can log in with a key",
        f"id -u eve || useradd -m eve; install -d -o eve -m 0700 /home/eve/.ssh; echo '{STRANGER}' > /home/eve/.ssh/authorized_keys",
        f"id -u eve && {gone('/home/eve/.ssh/authorized_keys')}",
        "nobody-else-has-power",
        "/home/eve/.ssh/authorized_keys",
    ),
    Mutation(
        "an account added to sudo",
        "usermod -aG sudo games",
        "! id -nG games | grep -qw sudo",
        "nobody-else-has-power",
        "games",
    ),
    Mutation(
        "an account added to the group that reads disks",
        "usermod -aG disk backup",
        "! id -nG backup | grep -qw disk",
        "nobody-else-has-power",
        "backup",
    ),
    Mutation(
        "a second account with uid 0",
        "useradd -o -u 0 -g 0 -M -d /nonexistent toor",
        "! getent passwd toor && test \"$(getent passwd | awk -F: '$3 == 0' | wc -l)\" = 1 && ! grep -q ^toor: /etc/shadow",
        "nobody-else-has-power",
        "toor",
    ),
    Mutation(
        "a password for root",
        "echo root:correct-horse | chpasswd",
        "passwd -S root | grep -q '^root L'",
        "nobody-else-has-power",
        "'passwords locked': ['root'",
    ),
    Mutation(
        "an account without a password",
        "passwd -q -d man",
        "getent shadow man | grep -Eq '^man:[!*]'",
        "nobody-else-has-power",
        "man",
    ),
    added("a sudoers file added", "/etc/sudoers.d/zz-mine", "games ALL=(ALL) NOPASSWD: ALL", "sudoers-drop-ins-exact"),
    appended("sudoers edited", "games ALL=(ALL) NOPASSWD: ALL", "/etc/sudoers", "/etc/sudoers"),
    opened("sudoers file opened", "/etc/sudoers.d/giggles", "0644", "root:root 440", "/etc/sudoers.d/giggles"),
    opened("the administrator's home opened", "/home/operator", "0777", "operator:operator 750", "admin-home-private"),
    Mutation(
        "the administrator's shell changed",
        "usermod -s /usr/sbin/nologin operator",
        "getent passwd operator | grep -q ':/bin/bash$'",
        "admin-exists",
        "/bin/bash",
    ),
    Mutation(
        "a shell for the app's account",
        "usermod -s /bin/bash giggles",
        "getent passwd giggles | grep -q ':/usr/sbin/nologin$'",
        "account-giggles",
        "/usr/sbin/nologin",
    ),
    Mutation(
        "the app's account put into a group",
        "usermod -aG video giggles",
        'test "$(id -nG giggles)" = giggles',
        "account-giggles",
        "groups",
    ),
    Mutation(
        "the administrator's account past its date",
        "chage -E 1 operator",
        "chage -l operator | grep -q 'Account expires.*never'",
        "admin-exists",
        "'expire': -1",
    ),
    Mutation(
        "an account let in to the users' files",
        "usermod -aG giggles games; usermod -aG www-data news",
        "! id -nG games | grep -qw giggles && ! id -nG news | grep -qw www-data",
        "nobody-else-has-power",
        "'giggles': {'removed': ['games']}",
    ),
    opened("the password hashes made readable", "/etc/shadow", "0644", "root:shadow 640", "account-file-/etc/shadow"),
    # --- ssh
    Mutation(
        "sshd_config edited",
        "sed -i '1i PermitRootLogin yes' /etc/ssh/sshd_config",
        "sshd -T | grep -qix 'permitrootlogin no' && ! grep -q 'PermitRootLogin yes' /etc/ssh/sshd_config",
        "/etc/ssh/sshd_config",
        "PermitRootLogin yes",
    ),
    added(
        "an sshd drop-in added",
        "/etc/ssh/sshd_config.d/00-a.conf",
        "PasswordAuthentication yes",
        "ssh-files-exact",
        "systemctl reload ssh",
    ),
    appended(
        "the sshd drop-in edited", "X11Forwarding yes", "/etc/ssh/sshd_config.d/00-giggles.conf", "/etc/ssh/sshd_config.d/00-giggles.conf"
    ),
    added("a script that sshd runs at login", "/etc/ssh/sshrc", "touch /tmp/seen", "ssh-files-exact"),
    Mutation(
        "sshd given options",
        "echo 'SSHD_OPTS=\"-o PermitRootLogin=yes\"' > /etc/default/ssh; systemctl restart ssh",
        '! ps -o args= -p "$(systemctl show -p MainPID --value ssh)" | grep -q RootLogin && ! grep -q RootLogin /etc/default/ssh',
        "/etc/default/ssh",
        "PermitRootLogin=yes",
    ),
    Mutation(
        "sshd's unit overridden",
        "mkdir -p /etc/systemd/system/ssh.service.d; systemctl daemon-reload; "
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/sshd -D -o MaxAuthTries=99\\n' > /etc/systemd/system/ssh.service.d/o.conf; "
        "systemctl daemon-reload; systemctl restart ssh",
        f"{gone('/etc/systemd/system/ssh.service.d')} && ! ps -C sshd -o args= | grep -q MaxAuthTries=99",
        "ssh-unit-unaltered",
        "/etc/systemd/system/ssh.service.d/o.conf",
    ),
    opened("a host key made readable", "/etc/ssh/ssh_host_ed25519_key", "0644", "root:root 600", "ssh-host-keys-strong"),
    Mutation(
        "a weak host key added",
        "ssh-keygen -q -t ecdsa -b 256 -N '' -f /etc/ssh/ssh_host_ecdsa_key",
        gone("/etc/ssh/ssh_host_ecdsa_key"),
        "ssh-host-keys-strong",
        "ssh_host_ecdsa_key",
    ),
    Mutation(
        "weak primes added",
        "echo '20220220000000 2 6 100 1023 2 D2CB' >> /etc/ssh/moduli",
        "awk '$5 && $5 < 3071 {exit 1}' /etc/ssh/moduli",
        "ssh-moduli-strong",
        "1 primes",
    ),
    # --- firewall
    Mutation(
        "a ufw rule added", "ufw allow 8080/tcp", "ufw status | grep -q ^443/tcp && ! ufw status | grep -q 8080", "firewall-exact", "8080"
    ),
    Mutation("a ufw rule removed", "ufw delete allow 80/tcp", "ufw status | grep -Eq '^80/tcp +ALLOW'", "firewall-exact", "80/tcp"),
    Mutation(
        "every packet let in behind ufw's back",
        "iptables -P INPUT ACCEPT; iptables -F INPUT",
        "iptables -S INPUT | grep -qx -e '-P INPUT DROP' && iptables -S INPUT | grep -q ufw-before-input",
        "firewall-exact",
        "INPUT",
    ),
    Mutation(
        "a port opened in the kernel",
        "iptables -I INPUT -p tcp --dport 4444 -j ACCEPT; ip6tables -I INPUT -p tcp --dport 4444 -j ACCEPT",
        "iptables -S | grep -q ufw && ! iptables -S | grep -q 4444 && ! ip6tables -S | grep -q 4444",
        "firewall-exact",
        "4444",
    ),
    Mutation(
        "ufw's own rules edited",
        "sed -i '/^COMMIT/i -A ufw-before-input -p tcp --dport 5555 -j ACCEPT' /etc/ufw/before.rules",
        without("5555", "/etc/ufw/before.rules"),
        "firewall-exact",
        "/etc/ufw/before.rules",
    ),
    Mutation(
        "forwarding switched on in ufw",
        "sed -i s/DEFAULT_FORWARD_POLICY=.*/DEFAULT_FORWARD_POLICY=ACCEPT/ /etc/default/ufw",
        "grep -q 'DEFAULT_FORWARD_POLICY=\"DROP\"' /etc/default/ufw",
        "firewall-exact",
        "/etc/default/ufw",
    ),
    Mutation("ufw made silent", "ufw logging off", "ufw status verbose | grep -q 'Logging: on (low)'", "firewall-exact", "logging"),
    added(
        "the firewall's unit overridden",
        "/etc/systemd/system/ufw.service.d/o.conf",
        "[Unit]\nAfter=nginx.service",
        "firewall-unit-unaltered",
    ),
    # --- fail2ban
    added(
        "fail2ban's unit overridden",
        "/etc/systemd/system/fail2ban.service.d/o.conf",
        "[Service]\nEnvironment=A=b",
        "fail2ban-unit-unaltered",
        "systemctl daemon-reload",
    ),
    added("a fail2ban jail switched off", "/etc/fail2ban/jail.d/zz.local", "[sshd]\nenabled = false", "fail2ban-files-exact"),
    added("a fail2ban jail.local added", "/etc/fail2ban/jail.local", "[DEFAULT]\nignoreip = 0.0.0.0/0", "fail2ban-files-exact"),
    appended("the fail2ban jail edited", "maxretry = 100000", "/etc/fail2ban/jail.d/giggles.local", "/etc/fail2ban/jail.d/giggles.local"),
    # --- updates
    appended("updates switched off", 'APT::Periodic::Enable "0";', "/etc/apt/apt.conf.d/99-giggles", "updates-configured"),
    added(
        "unsigned packages allowed", "/etc/apt/apt.conf.d/99-zz", 'APT::Get::AllowUnauthenticated "true";', "apt-configured-by-nobody-else"
    ),
    appended("needrestart edited", "$nrconf{restart} = 'l';", "/etc/needrestart/conf.d/giggles.conf", "needrestart-configured"),
    added(
        "a needrestart file added", "/etc/needrestart/conf.d/zz.conf", "$nrconf{restart} = 'l';", "needrestart-configured-by-nobody-else"
    ),
    added(
        "the update timer overridden",
        "/etc/systemd/system/apt-daily-upgrade.timer.d/override.conf",
        "[Timer]\nOnCalendar=\nOnCalendar=yearly",
        "update-units-changed-by-nobody-else",
        "systemctl daemon-reload",
    ),
    Mutation(
        "restarting when needed made to do nothing",
        "sed -i '2i exit 0' /usr/local/lib/giggles/reboot-if-needed",
        "! grep -qx 'exit 0' <(sed -n 2p /usr/local/lib/giggles/reboot-if-needed)",
        "restart-when-idle",
        "-exit 0",
    ),
    # --- kernel, journal, baseline
    Mutation(
        "a kernel parameter set at run time",
        "sysctl -q -w net.ipv4.conf.all.accept_redirects=1 net.ipv4.tcp_syncookies=0",
        'test "$(sysctl -n net.ipv4.tcp_syncookies)" = 1 && test "$(sysctl -n net.ipv4.conf.all.accept_redirects)" = 0',
        "kernel-hardened",
        "net.ipv4.tcp_syncookies",
    ),
    Mutation(
        "forwarding switched on",
        "sysctl -q -w net.ipv4.ip_forward=1",
        'test "$(sysctl -n net.ipv4.ip_forward)" = 0',
        "kernel-hardened",
        "forwarding",
    ),
    added("a sysctl.d file added", "/etc/sysctl.d/99-zzz.conf", "net.ipv4.tcp_syncookies = 0", "kernel-configured-by-nobody-else"),
    appended("the sysctl.d file edited", "net.ipv4.tcp_rfc1337 = 0", "/etc/sysctl.d/99-zz-giggles.conf", "kernel-configured"),
    appended("the journal's limits edited", "SystemMaxUse=40G", "/etc/systemd/journald.conf.d/giggles.conf", "journal-limited"),
    added("a journald file added", "/etc/systemd/journald.conf.d/zz.conf", "[Journal]\nStorage=none", "journal-limited-by-nobody-else"),
    opened("the journal opened", "/var/log/journal", "0777", "root:systemd-journal 2755", "journal-kept-on-disk"),
    appended("login.defs edited", "UMASK 000", "/etc/login.defs", "/etc/login.defs"),
    Mutation(
        "a kernel module allowed",
        "sed -i /usb-storage/d /etc/modprobe.d/giggles.conf",
        "grep -q usb-storage /etc/modprobe.d/giggles.conf",
        "/etc/modprobe.d/giggles.conf",
        "usb-storage",
    ),
    appended("limits edited", "* hard core unlimited", "/etc/security/limits.d/giggles.conf", "/etc/security/limits.d/giggles.conf"),
    added("limits added", "/etc/security/limits.d/zz.conf", "* hard core unlimited", "nobody-else-schedules-or-configures"),
    appended("the password rules edited", "minlen = 6", "/etc/security/pwquality.conf", "/etc/security/pwquality.conf"),
    appended("the banner edited", "Debian GNU/Linux 12", "/etc/issue.net", "/etc/issue.net"),
    appended("the shells' settings edited", "umask 000", "/etc/profile.d/giggles.sh", "/etc/profile.d/giggles.sh"),
    Mutation(
        "the time zone changed",
        "ln -sfn /usr/share/zoneinfo/America/New_York /etc/localtime",
        "readlink /etc/localtime | grep -q '^/usr/share/zoneinfo/Etc/'",
        "timezone-set",
        "/etc/localtime",
    ),
    Mutation(
        "the time zone's name changed",
        "echo America/New_York > /etc/timezone",
        "grep -q '^Etc/' /etc/timezone",
        "timezone-named",
        "America/New_York",
    ),
    Mutation(
        "a compiler opened",
        "dpkg-statoverride --remove /usr/bin/x86_64-linux-gnu-as",
        "dpkg-statoverride --list /usr/bin/x86_64-linux-gnu-as",
        "compilers-are-roots",
        "/usr/bin/x86_64-linux-gnu-as",
    ),
    added("a kernel module's ban lifted", "/etc/modprobe.d/zz.conf", "install udf /bin/true", "nobody-else-schedules-or-configures"),
    added("a script for every login", "/etc/profile.d/zz.sh", "umask 000", "nobody-else-schedules-or-configures"),
    added("a log rotation added", "/etc/logrotate.d/zz", "/var/log/giggles/*.log { rotate 9999 }", "nobody-else-schedules-or-configures"),
    # --- schedules
    added(
        "cron's unit overridden",
        "/etc/systemd/system/cron.service.d/o.conf",
        "[Service]\nEnvironment=A=b",
        "baseline-units-unaltered",
        "systemctl daemon-reload",
    ),
    added(
        "every service's limits lifted",
        "/etc/systemd/system/service.d/o.conf",
        "[Service]\nEnvironment=A=b",
        "nobody-else-schedules-or-configures",
        "systemctl daemon-reload",
    ),
    appended("a line in crontab", "* * * * * root /tmp/miner", "/etc/crontab", "/etc/crontab"),
    added("a file in cron.d", "/etc/cron.d/miner", "* * * * * root /tmp/miner", "nobody-else-schedules-or-configures"),
    added(
        "a script in cron.daily",
        "/etc/cron.daily/miner",
        "#!/bin/sh",
        "nobody-else-schedules-or-configures",
        "chmod 0755 /etc/cron.daily/miner",
    ),
    Mutation(
        "a crontab of root",
        "echo '* * * * * /tmp/miner' | crontab -u root -",
        "! crontab -u root -l",
        "nobody-else-schedules-or-configures",
        "/var/spool/cron/crontabs/root",
    ),
    Mutation(
        "a crontab of the app's account",
        # crontab(1) refuses accounts that are not in cron.allow; cron runs what lies there all the same.
        "echo '* * * * * /tmp/miner' > /var/spool/cron/crontabs/giggles",
        gone("/var/spool/cron/crontabs/giggles"),
        "nobody-else-schedules-or-configures",
        "/var/spool/cron/crontabs/giggles",
    ),
    appended("an account allowed to use cron", "games", "/etc/cron.allow", "/etc/cron.allow"),
    opened("cron.d opened", "/etc/cron.d", "0777", "root:root 700", "/etc/cron.d"),
    Mutation(
        "the nightly cron line edited",
        "sed -i 's/^30 2/0 12/' /etc/cron.d/giggles-nightly",
        "grep -q '^30 2 ' /etc/cron.d/giggles-nightly",
        "nightly-scheduled",
        "0 12 * * *",
    ),
    # --- Salt's own
    appended("the minion's configuration edited", "hash_type: sha512", "/etc/salt/minion.d/giggles.conf", "minion-configured"),
    added("a minion file added", "/etc/salt/minion.d/zz.conf", "log_level_logfile: quiet", "minion-has-no-other-configuration"),
    opened(
        "the secrets made readable",
        "/etc/giggles/pillar/droplet.sls",
        "0644",
        "root:root 600",
        "secrets-pillar-private",
        "/etc/giggles/pillar/droplet.sls",
    ),
    opened("the keys' folder made readable", "/etc/giggles/keys", "0755", "root:root 700", "keys-private"),
    Mutation(
        "validation switched off",
        "printf '#!/bin/sh\\nexit 0\\n' > /usr/local/lib/giggles/validate",
        "test $(stat -c %s /usr/local/lib/giggles/validate) -gt 100",
        "validator-installed",
        "-exit 0",
    ),
    Mutation(
        "the repository given away",
        "chown games /srv/giggles-salt",
        has("root:root 755", "/srv/giggles-salt"),
        "code-is-roots-/srv/giggles-salt",
        "root",
    ),
    opened("Salt made writable", "/opt/salt", "0777", "root:root 755", "code-is-roots-/opt/salt"),
    # --- the app
    Mutation(
        "the app's environment edited",
        "echo 'DEBUG=True' >> /opt/giggles/.env",
        without("DEBUG=True", "/opt/giggles/.env"),
        "app-environment",
        "diff",
    ),
    opened("the app's environment made readable", "/opt/giggles/.env", "0644", "giggles:giggles 600", "app-environment"),
    opened("the process environment made readable", "/opt/giggles/process.env", "0644", "root:root 600", "process-environment"),
    Mutation(
        "a release file edited",
        f"echo '# planted' >> {APP}/src/main.py",
        f"test -s {APP}/src/main.py && ! grep -q planted {APP}/src/main.py",
        "release-live",
        "changed: laughter-detector/src/main.py",
    ),
    Mutation(
        "a release file added",
        f"echo 'raise SystemExit' > {APP}/src/sitecustomize.py",
        gone(f"{APP}/src/sitecustomize.py"),
        "release-live",
        "added: laughter-detector/src/sitecustomize.py",
    ),
    Mutation(
        "a release file deleted",
        f"rm {APP}/static/style.css",
        f"test -s {APP}/static/style.css",
        "release-live",
        "deleted: laughter-detector/static/style.css",
    ),
    Mutation(
        "a release file opened",
        f"chmod 0666 {APP}/src/routes.py",
        f'test "$(stat -c %a {APP}/src/routes.py)" != 666',
        "release-live",
        "changed: laughter-detector/src/routes.py",
    ),
    Mutation(
        "the live link swapped",
        "ln -sfn /tmp /opt/giggles/current",
        "readlink /opt/giggles/current | grep -Eq '^/opt/giggles/releases/[0-9a-f]{40}$'",
        "release-live",
        "/tmp, which is no release",
    ),
    Mutation(
        "the app's folder given away",
        "chown giggles /opt/giggles",
        has("root:root 755", "/opt/giggles"),
        "folder-/opt/giggles",
        "root",
    ),
    opened("the uploads opened", "/var/lib/giggles/uploads/audio", "0777", "giggles:giggles 750", "folder-/var/lib/giggles/uploads/audio"),
    Mutation(
        "a user's folder opened",
        "install -d -m 0777 /var/lib/giggles/uploads/clips/drift",
        has("giggles:giggles 750", "/var/lib/giggles/uploads/clips/drift"),
        "uploads-private",
        "/var/lib/giggles/uploads/clips/drift",
    ),
    Mutation(
        "a clip given to root",
        "install -m 0666 /dev/null /var/lib/giggles/uploads/clips/drift.wav",
        has("giggles:giggles 640", "/var/lib/giggles/uploads/clips/drift.wav"),
        "uploads-private",
        "/var/lib/giggles/uploads/clips/drift.wav",
    ),
    Mutation(
        "the app's unit edited",
        "sed -i '/^\\[Service\\]/a LimitNOFILE=77777' /etc/systemd/system/giggles.service",
        f"{without('77777', '/etc/systemd/system/giggles.service')} && ! systemctl show -p LimitNOFILE giggles.service | grep -q 77777",
        "unit-giggles.service",
        "77777",
    ),
    overridden(
        "the app's unit overridden (systemctl edit)",
        "giggles.service",
        "/etc/systemd/system/giggles.service.d",
        "ProtectSystem=no",
        "strict",
    ),
    Mutation(
        "the app's memory budget lifted (systemctl set-property)",
        "systemctl set-property giggles.service MemoryMax=infinity",
        'test "$(systemctl show -p MemoryMax --value giggles.service)" != infinity',
        "unit-not-altered-by-/etc/systemd/system.control/giggles.service.d",
        "/etc/systemd/system.control/giggles.service.d",
    ),
    overridden(
        "the nightly unit overridden",
        "giggles-nightly.service",
        "/etc/systemd/system/giggles-nightly.service.d",
        "User=root",
        "giggles",
    ),
    appended("the nightly unit edited", "TimeoutStartSec=infinity", "/etc/systemd/system/giggles-nightly.service", "nightly-unit"),
    opened("the app's socket opened", "/run/giggles.sock", "0666", "giggles:www-data 660", "app-socket-private"),
    opened("the app's log made readable", "/var/log/giggles/web.log", "0644", "giggles:giggles 640", "web-log-private"),
    Mutation(
        "log rotation edited",
        "sed -i 's/rotate .*/rotate 3650/' /etc/logrotate.d/giggles",
        without("3650", "/etc/logrotate.d/giggles"),
        "logs-rotated",
        "rotate 3650",
    ),
    # --- web
    Mutation(
        "the site edited",
        "sed -i 's/^\\( *\\)ssl_protocols .*/\\1ssl_protocols TLSv1 TLSv1.2;/; $a # planted' /etc/nginx/sites-available/giggles",
        without("planted", "/etc/nginx/sites-available/giggles"),
        "nginx-site-giggles",
        "planted",
    ),
    opened("the site made writable", "/etc/nginx/sites-available/giggles", "0666", "root:root 644", "nginx-site-giggles"),
    Mutation(
        "nginx.conf broken",
        "echo 'no directive' >> /etc/nginx/nginx.conf",
        f"nginx -q -t && {without('no directive', '/etc/nginx/nginx.conf')}",
        "nginx-configuration",
        "no directive",
    ),
    Mutation(
        "the default site brought back",
        "cd /etc/nginx; echo 'server { listen 80 default_server; }' > sites-available/default; "
        "ln -s ../sites-available/default sites-enabled/default",
        f"{gone('/etc/nginx/sites-available/default')} && {gone('/etc/nginx/sites-enabled/default')}",
        "nginx-sites-enabled-exact",
        "/etc/nginx/sites-enabled/default",
    ),
    added("an nginx conf.d file added", "/etc/nginx/conf.d/mine.conf", "client_max_body_size 9g;", "nginx-conf.d-exact"),
    Mutation(
        "the site's link swapped",
        "ln -sfn /etc/nginx/mime.types /etc/nginx/sites-enabled/giggles",
        'test "$(readlink /etc/nginx/sites-enabled/giggles)" = /etc/nginx/sites-available/giggles',
        "nginx-site-giggles-enabled",
        "/etc/nginx/sites-enabled/giggles",
    ),
    Mutation(
        "the certificate's link swapped",
        "ln -sfn /etc/nginx/tls/placeholder /etc/nginx/tls/current",
        "readlink /etc/nginx/tls/current | grep -q ^/etc/letsencrypt/live/",
        "certificate-linked",
        "/etc/letsencrypt/live",
    ),
    Mutation(
        "the certificate's key made readable",
        "chmod 0755 /etc/letsencrypt/archive /etc/letsencrypt/live; chmod 0644 /etc/letsencrypt/archive/*/privkey*.pem",
        "test -z \"$(find /etc/letsencrypt/archive -name 'privkey*' -perm /0077)\" && " + has("root:root 700", "/etc/letsencrypt/archive"),
        "certificate-keys-private",
        "privkey1.pem",
    ),
    added(
        "nginx overridden (systemctl edit)",
        "/etc/systemd/system/nginx.service.d/override.conf",
        "[Service]\nUMask=0000",
        "nginx-unit-overrides-exact",
        "systemctl daemon-reload",
    ),
    added(
        "the renewal put off",
        "/etc/systemd/system/giggles-certbot.timer.d/o.conf",
        "[Timer]\nOnCalendar=\nOnCalendar=yearly",
        "renewal-units-unaltered",
        "systemctl daemon-reload",
    ),
    added("a renewal hook added", "/etc/letsencrypt/renewal-hooks/deploy/mine", "#!/bin/sh", "renewal-deploy-hooks-exact"),
    opened("nginx's logs opened", "/var/log/nginx", "0777", "root:adm 751", "nginx-logs-private"),
]

GONE = [
    # --- what watches and mends
    added(
        "the self-converge overridden until the next boot",
        "/run/systemd/system/giggles-converge.service.d/o.conf",
        QUICK,
        "converge-units-unaltered",
        "systemctl daemon-reload",
    ),
    Mutation(
        "the settings of the mail deleted",
        "rm /etc/msmtprc",
        f"test -s /etc/msmtprc && {has('root:root 600', '/etc/msmtprc')}",
        "mail-settings",
        "diff",
    ),
    Mutation(
        "the program of the pings deleted",
        "rm /usr/local/lib/giggles/ping",
        "test -x /usr/local/lib/giggles/ping",
        "ping-program-installed",
        "New file",
    ),
    # --- packages
    Mutation(
        "fail2ban purged",
        "DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 --purge install inetutils-telnet "
        "fail2ban- cron- unattended-upgrades- acct-",
        "systemctl -q is-active fail2ban && test -s /etc/fail2ban/jail.d/giggles.local && fail2ban-client status sshd",
        "fail2ban-installed",
        "fail2ban",
    ),
    # Done by the same apt run, since each of its own would take seconds.
    Mutation("cron purged", "true", "systemctl -q is-active cron && test -s /etc/crontab", "baseline-packages", "cron"),
    Mutation(
        "unattended-upgrades purged",
        "true",
        "unattended-upgrade --help",
        "updates-packages",
        "unattended-upgrades",
    ),
    Mutation(
        "an unwanted package installed", "true", "! command -v telnet inetutils-telnet", "unwanted-packages-absent", "inetutils-telnet"
    ),
    # --- services
    Mutation(
        "ssh stopped and masked",
        "systemctl -q stop ssh; systemctl -q mask ssh",
        'systemctl -q is-active ssh && test "$(systemctl is-enabled ssh)" = enabled',
        "ssh-runs",
        "ssh",
    ),
    Mutation(
        "ufw disabled",
        "ufw disable",
        "ufw status | grep -qx 'Status: active' && iptables -S INPUT | grep -qx -e '-P INPUT DROP'",
        "firewall-exact",
        "enabled",
    ),
    stopped("the firewall not loaded at boot", "ufw", "firewall-starts", "disable"),
    stopped("the update timer stopped", "apt-daily-upgrade.timer", "update-timers-run"),
    stopped("the update timer masked", "apt-daily.timer", "update-timers-run", "mask --now"),
    stopped("the restart timer stopped", "giggles-reboot.timer", "update-timers-run"),
    Mutation(
        "the clock left alone",
        "systemctl -q disable systemd-timesyncd",
        'test "$(systemctl is-enabled systemd-timesyncd)" = enabled',
        "time-synchronised",
        "systemd-timesyncd",
    ),
    stopped("nginx stopped and disabled", "nginx.service", "nginx-running"),
    stopped("the renewal timer stopped", "giggles-certbot.timer", "renewal-timer-running"),
    Mutation(
        "the app stopped and disabled",
        "systemctl -q disable --now giggles.service",
        'systemctl -q is-active giggles.service && test "$(systemctl is-enabled giggles.service)" = enabled',
        "release-live",
        "giggles.service is not running",
    ),
    Mutation(
        "the app's socket masked by hand",
        "systemctl -q stop giggles.socket; ln -sfn /dev/null /etc/systemd/system/giggles.socket; systemctl daemon-reload",
        'systemctl -q is-active giggles.socket && test "$(systemctl is-enabled giggles.socket)" = enabled && test -S /run/giggles.sock',
        "unit-giggles.socket",
        # All of it is new: what was there says nothing.
        "@@ -0,0 +1",
    ),
    Mutation(
        "the nightly job masked by hand",
        "ln -sfn /dev/null /etc/systemd/system/giggles-nightly.service; systemctl daemon-reload",
        'test "$(systemctl show -p LoadState --value giggles-nightly.service)" = loaded',
        "nightly-unit",
        # All of it is new: what was there says nothing.
        "@@ -0,0 +1",
    ),
    # --- files and folders
    Mutation(
        "the administrator's keys deleted",
        "rm -r /home/operator/.ssh",
        "grep -q ^ssh- /home/operator/.ssh/authorized_keys",
        "admin-keys-exact",
        "New file",
    ),
    Mutation("sudoers file deleted", "rm /etc/sudoers.d/giggles", "su operator -c 'sudo -n true'", "/etc/sudoers.d/giggles", "New file"),
    Mutation(
        "the sshd drop-in deleted",
        "rm /etc/ssh/sshd_config.d/00-giggles.conf",
        "sshd -T | grep -qix 'passwordauthentication no'",
        "/etc/ssh/sshd_config.d/00-giggles.conf",
        "New file",
    ),
    Mutation(
        "an sshd host key deleted",
        "rm /etc/ssh/ssh_host_ed25519_key",
        "test -s /etc/ssh/ssh_host_ed25519_key",
        "ssh-host-keys-strong",
        "ssh_host_ed25519_key",
    ),
    Mutation(
        "the sysctl.d file deleted",
        "rm /etc/sysctl.d/99-zz-giggles.conf",
        "test -s /etc/sysctl.d/99-zz-giggles.conf",
        "kernel-configured",
        "New file",
    ),
    Mutation(
        "the apt settings deleted",
        "rm /etc/apt/apt.conf.d/99-giggles",
        "test -s /etc/apt/apt.conf.d/99-giggles",
        "updates-configured",
        "New file",
    ),
    Mutation(
        "the nightly cron file deleted",
        "rm -f /etc/cron.d/giggles-nightly",
        "test -s /etc/cron.d/giggles-nightly",
        "nightly-scheduled",
        "New file",
    ),
    Mutation(
        "the app's environment deleted",
        "rm /opt/giggles/.env",
        f"grep -q ^SECRET_KEY= /opt/giggles/.env && {has('giggles:giggles 600', '/opt/giggles/.env')}",
        "app-environment",
        "diff",
    ),
    Mutation(
        "the live release deleted",
        "rm -rf /opt/giggles/releases/*",
        f"test -s {APP}/src/main.py && test -x /opt/giggles/current/.venv/bin/python",
        "release-live",
        "is not built",
    ),
    Mutation(
        "the uploads' folder replaced",
        "chattr -i /var/lib/giggles/uploads && rm -rf /var/lib/giggles/uploads/temp",
        has("giggles:giggles 750", "/var/lib/giggles/uploads/temp"),
        "vault-ready",
        "temp made",
    ),
    Mutation(
        "the app's log rotation deleted", "rm /etc/logrotate.d/giggles", "test -s /etc/logrotate.d/giggles", "logs-rotated", "New file"
    ),
    Mutation(
        "the certificate deleted",
        "rm -rf /etc/letsencrypt/live /etc/letsencrypt/archive /etc/letsencrypt/renewal",
        "test -s /etc/letsencrypt/live/*/fullchain.pem && test -s /etc/nginx/tls/current/privkey.pem",
        "certificate-issued",
        "certificate",
    ),
    Mutation(
        "the site deleted",
        "rm /etc/nginx/sites-available/giggles /etc/nginx/sites-enabled/giggles",
        "test -s /etc/nginx/sites-enabled/giggles",
        "nginx-site-giggles",
        "New file",
    ),
    Mutation(
        "the validator deleted",
        "rm /usr/local/lib/giggles/validate",
        "test -x /usr/local/lib/giggles/validate",
        "validator-installed",
        "New file",
    ),
    Mutation(
        "certbot deleted",
        'rm -r "$(readlink -f /opt/certbot/current)"',
        "/opt/certbot/current/bin/certbot --version",
        "certbot-installed",
        "built",
    ),
]


# Salt's own returner beside ours has all that the states of a run said. That somebody configured it is drift as well.
RETURNED, CONFIGURED = "/run/drift-returned", "/etc/salt/minion.d/zz-drift.conf"
RETURNING = f"return: giggles_record,rawfile_json\nrawfile_json.filename: {RETURNED}\n"


@dataclasses.dataclass(frozen=True)
class Repair:
    """What happened to a droplet to which a list of mutations was done.

    Arguments:
        done: exit code and output of each mutation's script.
        looked: a highstate with test=True right after.
        broken: each check after that look, so that looking has repaired nothing.
        outcome: the highstate that the timer's service made.
        record: what was recorded of it.
        told: the mails that tell of drift, from then on until looking again after all was whole.
        whole: each check after it.
        again: a further highstate.
    """

    done: dict[str, Any]
    looked: Converged
    broken: dict[str, Any]
    outcome: Converged
    record: dict[str, Any]
    told: list[str]
    whole: dict[str, Any]
    again: Converged


def run_all(droplet: Droplet, scripts: dict[str, str]) -> dict[str, Any]:
    """Run scripts inside one after the other and return exit code and output of each."""
    return json.loads(droplet.exec(["/usr/bin/python3", "-c", _RUNNER], stdin=json.dumps(scripts).encode()).stdout)


def repair(droplet: Droplet, mutations: Sequence[Mutation]) -> Repair:
    """Do all mutations, look, have the droplet converge by itself once, and look again."""
    live = f"live={droplet.shell('readlink -f /opt/giggles/current')}"
    checks = {one.name: live + one.whole for one in mutations}
    assert len(checks) == len(mutations), "two mutations have the same name"
    # What was recorded before is known by then.
    by_itself.look(droplet)
    mails = len(by_itself.mails(droplet))
    done = run_all(droplet, {one.name: live + one.done_by for one in mutations})
    looked = droplet.apply("test=True")
    broken = run_all(droplet, checks)
    droplet.write(CONFIGURED, RETURNING)
    record = by_itself.converge(droplet)
    text = droplet.shell(f"cat {RETURNED}; rm {RETURNED}")
    outcome = Converged(0 if record["ok"] else 1, by_id(json.loads(text.splitlines()[-1])["return"]), text)
    by_itself.look(droplet)
    whole = run_all(droplet, checks)
    again = droplet.apply()
    by_itself.look(droplet)
    told = by_itself.about_drift(by_itself.mails(droplet)[mails:])
    return Repair(done, looked, broken, outcome, record, told, whole, again)


@pytest.fixture(scope="module")
def changed(droplet: Droplet) -> Iterator[Repair]:
    try:
        droplet.converge()
        yield repair(droplet, CHANGED)
    finally:
        # Nobody's account is removed by a highstate, and these files are users'.
        droplet.shell("userdel -r eve; rm -rf /var/lib/giggles/uploads/clips/drift*", check=False)


@pytest.fixture(scope="module")
def gone_again(droplet: Droplet, changed: Repair) -> Repair:
    return repair(droplet, GONE)


def judge(one: Mutation, what: Repair) -> None:
    """Insist that a mutation was really made, was announced, is undone, is named, and is told as drift."""
    assert what.done[one.name][0] == 0, f"could not be done: {what.done[one.name][1]}"
    assert what.broken[one.name][0] != 0, "the check cannot tell a broken droplet from a whole one"
    code, output = what.whole[one.name]
    assert code == 0, f"not repaired: {output}"
    assert one.state in what.outcome.states, f"there is no state {one.state}"
    state = what.outcome.states[one.state]
    assert one.named in str(state["changes"]), f"not named in the changes of {one.state}: {state['changes']}, {state['comment']}"
    assert one.state in what.looked.changed, f"test=True did not announce it: {what.looked.states[one.state]}"
    assert one.state in by_itself.ids(what.record["drift"]), f"{one.state} is not recorded as drift"
    assert f"({one.state})" in "".join(what.told), f"no mail names {one.state}"


def by_name(mutations: Sequence[Mutation]) -> Any:
    """Run a test once for each mutation, named after it."""
    return pytest.mark.parametrize("one", mutations, ids=[one.name.replace(" ", "-") for one in mutations])


@by_name(CHANGED)
def test_what_was_changed_by_hand_is_put_back_and_named(changed: Repair, one: Mutation) -> None:
    judge(one, changed)


@by_name(GONE)
def test_what_was_taken_away_comes_back_and_is_named(gone_again: Repair, one: Mutation) -> None:
    judge(one, gone_again)


@pytest.mark.parametrize("group", ["changed", "gone_again"])
def test_all_of_it_is_drift_and_told_in_one_mail(group: str, request: pytest.FixtureRequest) -> None:
    what: Repair = request.getfixturevalue(group)
    assert (what.record["trigger"], what.record["intended"]) == ("timer", [])
    assert "minion-has-no-other-configuration" in by_itself.ids(what.record["drift"])
    assert what.record["changed"] == len(what.record["drift"]), "some of it had no room in the record"
    assert len(what.told) == 1


@pytest.mark.parametrize("group", ["changed", "gone_again"])
def test_one_highstate_is_enough(group: str, request: pytest.FixtureRequest) -> None:
    what: Repair = request.getfixturevalue(group)
    assert what.looked.failed == {}
    assert what.outcome.code == 0, what.outcome.failed or what.outcome.text
    assert what.again.code == 0, what.again.failed or what.again.text
    assert len(what.again.states) > 50
    assert what.again.changed == {}


def test_repairing_the_environment_shows_no_secret(droplet: Droplet, gone_again: Repair) -> None:
    secrets = [
        line.partition("=")[2].strip("\"'")
        for line in droplet.shell("cat /opt/giggles/.env").splitlines()
        if "KEY=" in line or "URL=" in line
    ]
    assert len(secrets) >= 5
    said = gone_again.looked.text + gone_again.outcome.text
    assert [number for number, value in enumerate(secrets) if value in said] == []


def test_no_secret_is_in_the_record_or_in_the_mail(droplet: Droplet, changed: Repair, gone_again: Repair) -> None:
    secrets = secrets_of(droplet)
    for what in (changed, gone_again):
        assert what.record["diffs"]
        assert secrets.found_in(json.dumps([what.record, what.told]).encode()) == set()


def test_after_all_of_it_the_droplet_serves(droplet: Droplet, gone_again: Repair) -> None:
    droplet.wait_for("the app behind nginx", droplet.healthy)
