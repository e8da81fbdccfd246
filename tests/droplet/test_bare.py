"""Looking at a machine with nothing of ours on it tells no lies and touches nothing, and a droplet can be removed whole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinery import answers, record
from machinery.settings import Place, images_directory, state_directory

from .conftest import NAME, Converged, Droplet

BARE = f"{NAME}-bare"
BOOTSTRAP_MAY_ADD = ("/etc/salt", "/etc/giggles", "/opt/salt", "/opt/giggles-tools", "/usr/local/bin/salt-call")
TOOLS = {"python3-venv", "git", "curl", "ca-certificates"}

# Everything but what changes by itself: logs, what only lives until the next boot, and Salt's scratch.
_FILES = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log -o -path /var/cache \
  -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /root/.cache -o -path /srv/giggles-salt \
  -o -name __pycache__ \) -prune -o \( -type d -printf '%p %y %m %U:%G\n' \) -o -printf '%p %y %m %U:%G %s %T@ %l\n'
"""
_REST = r"""
dpkg-query -W -f '${Package} ${Version} ${Status}\n'
getent passwd; getent group; getent shadow
systemctl list-units --all --plain --no-legend --type=service,socket,timer | awk '{print $1, $3}' \
  | grep -Ev '^(systemd-tmpfiles-clean|systemd-hostnamed|systemd-timedated|apt-|dpkg-db|logrotate|e2scrub|run-)'
systemctl list-unit-files --plain --no-legend
sysctl -a -r '^net\.ipv[46]\.(conf|tcp_syn|tcp_rfc)' 2>/dev/null
iptables-save 2>/dev/null | grep -v '^#' || true
cut -d' ' -f1-4 /proc/self/mounts
"""


def picture(droplet: Droplet) -> frozenset[str]:
    """Return a line for every file, package, account, unit, firewall rule, mount and kernel parameter."""
    lines = frozenset((droplet.shell(_FILES) + droplet.shell(_REST)).splitlines())
    assert len(lines) > 5000, "an empty picture stays the same whatever happens"
    return lines


@pytest.fixture(scope="module")
def bare() -> Iterator[Droplet]:
    one = Droplet(BARE)
    try:
        done = one.driver("up", "--bare", "--fresh", check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        yield one
    finally:
        one.driver("down", "--purge", check=False)


@pytest.fixture(scope="module")
def before_bootstrap(bare: Droplet) -> frozenset[str]:
    bare.write(answers.PATH, answers.text(record.require(BARE)), "0600")
    return picture(bare)


@pytest.fixture(scope="module")
def prepared(bare: Droplet, before_bootstrap: frozenset[str]) -> frozenset[str]:
    """Have Salt on the machine and nothing converged; return how the machine looks then."""
    bare.exec(["/srv/giggles-salt/bootstrap.sh", "--no-apply", "--non-interactive", "--answers", answers.PATH])
    # Salt's first start makes folders of its own, whatever it is asked.
    bare.exec(["salt-call", "--local", "test.ping"])
    return picture(bare)


@pytest.fixture(scope="module")
def looked(bare: Droplet, prepared: frozenset[str]) -> Converged:
    return bare.apply("test=True")


def test_the_machine_is_bare(bare: Droplet) -> None:
    """Otherwise what follows would mean nothing."""
    absent = bare.shell("for program in ufw nginx fail2ban-client unattended-upgrade salt-call; do command -v $program || echo no; done")
    assert absent.split() == ["no"] * 5
    assert bare.exec(["getent", "passwd", "giggles"], check=False).returncode != 0


def test_preparing_adds_nothing_but_salt_and_what_it_needs(before_bootstrap: frozenset[str], prepared: frozenset[str]) -> None:
    installed = {line.split()[0] for line in prepared - before_bootstrap if line.endswith(" install ok installed")}
    assert installed >= {"python3-venv"} or not installed, "packages were installed, but not what was asked for"
    accounts = {line for line in prepared ^ before_bootstrap if line.count(":") >= 3 and not line.startswith("/")}
    assert accounts == set(), "preparing made accounts"
    configuration = {
        line.split()[0] for line in prepared ^ before_bootstrap if line.startswith(("/etc/", "/opt/", "/root/", "/home/", "/usr/local/"))
    }
    of_packages = ("/etc/alternatives", "/etc/bash_completion.d", "/etc/ld.so.cache", "/etc/python3", "/etc/ca-certificates", "/etc/ssl")
    assert [path for path in sorted(configuration) if not path.startswith(BOOTSTRAP_MAY_ADD + of_packages)] == []
    assert any(path.startswith("/opt/salt/") for path in configuration)


def test_looking_at_a_bare_machine_gives_no_false_failure(looked: Converged) -> None:
    assert looked.failed == {}
    assert looked.code == 0, looked.text


def test_looking_at_a_bare_machine_announces_what_is_to_come(looked: Converged) -> None:
    assert len(looked.changed) > 100
    for state in ("firewall-exact", "admin-exists", "fail2ban-installed", "release-live", "nginx-packages-installed", "nightly-scheduled"):
        assert state in looked.changed


def test_looking_at_a_bare_machine_changes_nothing(bare: Droplet, prepared: frozenset[str], looked: Converged) -> None:
    assert looked.states
    after = picture(bare)
    assert (sorted(prepared - after), sorted(after - prepared)) == ([], [])


def test_the_picture_would_show_a_change(bare: Droplet, prepared: frozenset[str], looked: Converged) -> None:
    bare.shell("touch /etc/planted; useradd -M planted; sysctl -q -w net.ipv4.tcp_syncookies=0; systemctl -q stop ssh")
    shown = "\n".join(prepared ^ picture(bare))
    bare.shell("rm /etc/planted; userdel planted; sysctl -q -w net.ipv4.tcp_syncookies=1; systemctl -q start ssh")
    for trace in ("/etc/planted", "planted:", "tcp_syncookies", "ssh.service"):
        assert trace in shown


def test_monitoring_by_itself_brings_its_folders_as_every_droplet_has_them(bare: Droplet, looked: Converged) -> None:
    done = bare.apply("monitoring")
    assert done.failed == {}
    bare.shell("systemctl start giggles-watch.service")
    wanted = {
        "/etc/giggles": "755 root:root", "/etc/giggles/monitoring.json": "600 root:root", "/etc/giggles/status.json": "644 root:root",
        "/var/lib/giggles": "750 root:giggles", "/var/lib/giggles/records": "750 root:giggles", "/var/lib/giggles/alerts": "700 root:root",
        "/var/lib/giggles-status": "755 root:root", "/var/lib/giggles-status/index.html": "644 root:root",
    }  # fmt: skip
    assert dict(line.split(" ", 1) for line in bare.shell(f"stat -c '%n %a %U:%G' {' '.join(wanted)}").splitlines()) == wanted
    page = bare.shell("cat /var/lib/giggles-status/index.html")
    assert "Not everything is all right" in page, "there is no app yet"


def traces(name: str, address: str) -> set[str]:
    """Return everything on this host by which a trial could be noticed, one line each."""
    place, title = str(Place(name).folder), f"giggles-{name}"
    number = (int(address.rsplit(".", 1)[1]) - 1) // 2
    found = {f"folder {path}" for path in [Path(place)] if path.exists()}
    for folder in (state_directory(), images_directory(), Path("/run"), Path("/tmp"), Path("/var/tmp")):
        found |= {f"file {path}" for depth in ("", "*/") for path in folder.glob(f"{depth}*{name}*")}
    links = subprocess.run(["ip", "-oneline", "link", "show"], capture_output=True, text=True, check=True).stdout
    for line in links.splitlines():
        index, link = line.split(": ")[:2]
        if link.split("@")[0] in (f"giggles{number}d", f"giggles{number}n"):
            found.add(f"link {index} {link}")
    found |= {f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if place in line or title in line}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                about = f"{(process / 'cmdline').read_bytes()!r} {(process / 'root').readlink()} {(process / 'cgroup').read_text()}"
            except OSError:
                continue
            if f"{place}/" in about or f"{title}-" in about:
                found.add(f"process {process.name}")
    found |= {f"cgroup {path}" for depth in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{depth}giggles-trial/{title}-*")}
    return found


def attached() -> set[str]:
    """Return a line for each loop device of this host in use: its name, and the inode and device of what it is attached to."""
    columns = "NAME,BACK-INO,BACK-MAJ:MIN"
    done = subprocess.run(["losetup", "--list", "--noheadings", "--output", columns], capture_output=True, text=True, check=True)
    return {" ".join(line.split()) for line in done.stdout.splitlines()}


def rules() -> list[str]:
    """Return this host's packet filter without its counters."""
    text = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [line.partition(" [")[0] for line in text.splitlines() if not line.startswith("#")]


def test_purging_a_running_droplet_leaves_nothing_behind(bare: Droplet) -> None:
    """Runs last here: the droplet is gone after it."""
    address, before = bare.info["ip"], rules()
    # What a droplet left attached when it went down is the host's to free.
    bare.shell("mount -t tmpfs none /mnt; truncate -s 8M /root/disk.img /mnt/disk.img")
    devices = bare.shell("losetup --find --show /root/disk.img; losetup --find --show /mnt/disk.img").split()
    loops = {line for line in attached() if line.split()[0] in devices}
    assert len(loops) == 2
    kinds = {line.split()[0] for line in traces(BARE, address)}
    assert kinds == {"folder", "file", "link", "mount", "process", "cgroup"}, "the search is blind for a kind of trace"
    done = bare.driver("down", "--purge", check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert sorted(traces(BARE, address)) == []
    assert loops & attached() == set()
    assert rules() == before, "the host's packet filter is another one than while it ran beside the other trial"
    assert BARE not in record.names()
