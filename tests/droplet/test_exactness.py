"""Exact means: what cannot be put right is said, what packages and people brought stays, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Converged, Droplet

STUCK = ["/etc/issue", "/etc/cron.d/stuck"]
FOLDERS = [
    "/etc/apt/apt.conf.d",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/fail2ban/filter.d",
    "/etc/logrotate.d",
    "/etc/profile.d",
    "/etc/ssh",
    "/etc/sudoers.d",
    "/etc/sysctl.d",
]


@pytest.fixture
def hindered(droplet: Droplet) -> Iterator[Converged]:
    """A highstate on a droplet where two files resist every change, and others do not."""
    droplet.converge()
    droplet.shell(
        "echo planted | tee -a /etc/issue /etc/issue.net > /dev/null; "
        "echo '* * * * * root /tmp/miner' | tee /etc/cron.d/stuck > /etc/cron.d/loose; "
        f"ufw allow 8080/tcp; chattr +i {' '.join(STUCK)}"
    )
    try:
        yield droplet.apply()
    finally:
        droplet.shell(f"chattr -i {' '.join(STUCK)}", check=False)
        droplet.apply()


def test_what_resists_is_named_and_the_rest_is_put_right_all_the_same(droplet: Droplet, hindered: Converged) -> None:
    assert hindered.code == 2
    assert set(hindered.failed) == {"/etc/issue", "nobody-else-schedules-or-configures", "failures-explained"}
    assert "/etc/issue" in hindered.failed["/etc/issue"]
    assert "chattr -ia" in hindered.failed["failures-explained"], "Salt's own words name no remedy"
    strays = hindered.failed["nobody-else-schedules-or-configures"]
    assert "/etc/cron.d/stuck" in strays
    assert "lsattr" in strays, "the remedy is not named"
    assert "/etc/cron.d/loose" in str(hindered.changed["nobody-else-schedules-or-configures"])
    assert "planted" not in droplet.shell("cat /etc/issue.net")
    assert droplet.exec(["test", "-e", "/etc/cron.d/loose"], check=False).returncode == 1
    assert "8080" not in droplet.shell("ufw status")
    assert droplet.healthy()
    droplet.shell(f"chattr -i {' '.join(STUCK)}")
    after = droplet.converge()
    assert set(after.changed) >= {"/etc/issue", "nobody-else-schedules-or-configures"}
    assert droplet.converge().changed == {}


def test_what_packages_bring_stays(droplet: Droplet) -> None:
    """Strays are removed, and no package's file is one."""
    listing = f"cat /var/lib/dpkg/info/*.list | grep -E '^({'|'.join(FOLDERS)})/[^/]+$' | sort -u"
    known = droplet.shell(listing).split()
    assert len(known) > 20
    droplet.converge()
    assert droplet.shell(listing).split() == known
    missing = droplet.shell('while read -r file; do test -e "$file" || echo "$file"; done <<\'X\'\n' + "\n".join(known) + "\nX\n").split()
    # sshd's and sudo's own files are ours by content; by name all are still there.
    assert missing == []


def test_people_and_their_files_stay(droplet: Droplet) -> None:
    droplet.shell("id -u paula || useradd -m paula; echo notes > /home/paula/notes; echo mine > /root/notes")
    droplet.shell("echo host > /home/operator/.ssh/known_hosts")
    try:
        assert droplet.converge().changed == {}
        assert droplet.shell("cat /home/paula/notes /home/operator/.ssh/known_hosts /root/notes").split() == ["notes", "host", "mine"]
        assert "/home/paula" in droplet.shell("getent passwd paula")
    finally:
        droplet.shell("userdel -r paula; rm -f /home/operator/.ssh/known_hosts /root/notes", check=False)
