"""Updates and restarts keep away from the jobs that must not be cut short."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "salt" / "hardening" / "files" / "usr" / "local" / "lib" / "giggles"


def minutes(time: str) -> int:
    hour, minute = time.split(":")
    return int(hour) * 60 + int(minute)


def test_default_times_keep_clear_of_each_other() -> None:
    defaults = yaml.safe_load((REPOSITORY / "salt" / "defaults.yaml").read_text())
    updates = minutes(defaults["hardening"]["updates_at"])
    nightly = minutes(defaults["nightly"]["at"])
    nightly_ends = nightly + defaults["nightly"]["timeout_hours"] * 60
    backup = minutes(defaults["backup"]["at"])
    restart = minutes(defaults["hardening"]["reboot_at"])
    # The timers spread by a quarter of an hour, and an upgrade is done within an hour.
    assert updates + 15 + 60 <= nightly
    assert restart >= nightly_ends
    assert restart >= backup + 60


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder of commands in front of the machine's own, and the script that looks at files beside them.

    systemctl says that the unit in the file `busy` is at work; pgrep finds something if the file `found` says 0.
    """
    text = (SCRIPTS / "idle").read_text()
    for place in ("/run/giggles-bootstrap.lock", "/var/lib/dpkg/lock-frontend"):
        assert place in text
        text = text.replace(place, f"{tmp_path}/{Path(place).name}")
    (tmp_path / "idle").write_text(text)
    pgrep = tmp_path / "pgrep"
    pgrep.write_text(f'#!/bin/sh\necho "$2" > {tmp_path}/pattern\nexit "$(cat {tmp_path}/found)"\n')
    pgrep.chmod(0o755)
    (tmp_path / "found").write_text("1")
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/asked
case "$*" in
  *"$(cat {tmp_path}/busy)") echo activating ;;
  show*) echo inactive ;;
esac
"""
    )
    systemctl.chmod(0o755)
    (tmp_path / "busy").write_text("nobody")
    return tmp_path


def idle(commands: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(commands / "idle"), *arguments],
        env={"PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_idle_machine_may_be_restarted(commands: Path) -> None:
    assert idle(commands, "0").returncode == 0


@pytest.mark.parametrize("job", ["giggles-nightly.service", "giggles-backup.service", "giggles-converge.service"])
def test_a_running_job_is_named_and_respected(commands: Path, job: str) -> None:
    (commands / "busy").write_text(job)
    for arguments in (("0",), ("0", "apt-daily-upgrade.service")):
        done = idle(commands, *arguments)
        assert done.returncode == 1
        assert job in done.stderr


def test_a_running_bootstrap_is_respected(commands: Path) -> None:
    lock = commands / "giggles-bootstrap.lock"
    with lock.open("w") as held:
        assert idle(commands, "0").returncode == 0
        fcntl.flock(held, fcntl.LOCK_EX)
        done = idle(commands, "0")
        assert (done.returncode, done.stderr) == (1, "bootstrap.sh is running, which must not be cut short.\n")
    assert idle(commands, "0").returncode == 0


def test_a_running_package_manager_is_respected_and_not_disturbed(commands: Path) -> None:
    lock = commands / "lock-frontend"
    with lock.open("w") as held:
        assert idle(commands, "0").returncode == 0
        fcntl.lockf(held, fcntl.LOCK_EX)
        done = idle(commands, "0")
        assert (done.returncode, done.stderr) == (1, "dpkg or apt is running, which must not be cut short.\n")
    assert idle(commands, "0").returncode == 0


def test_a_run_of_salt_is_respected_and_a_word_about_it_is_not(commands: Path) -> None:
    assert idle(commands, "0").returncode == 0
    (commands / "found").write_text("0")
    done = idle(commands, "0")
    assert (done.returncode, done.stderr) == (1, "salt-call is running, which must not be cut short.\n")
    pattern = (commands / "pattern").read_text().strip()
    for line in (
        "/opt/salt/8a04/bin/python /usr/local/bin/salt-call state.apply",
        "/opt/salt/current/bin/python3 /opt/salt/current/bin/salt-call",
        "/usr/local/bin/salt-call state.apply",
        "salt-call state.apply web",
    ):
        assert re.search(pattern, line), line
    for line in ("vi /root/salt-call", "bash -c salt-call state.apply", "grep salt-call"):
        assert not re.search(pattern, line), line


def test_an_upgrade_does_not_wait_for_itself_but_a_restart_waits_for_it(commands: Path) -> None:
    (commands / "busy").write_text("apt-daily-upgrade.service")
    assert idle(commands, "0", "apt-daily-upgrade.service").returncode == 0
    assert idle(commands, "0").returncode == 1


def test_the_upgrade_asks_before_it_starts() -> None:
    drop_in = SCRIPTS.parents[3] / "etc/systemd/system/apt-daily-upgrade.service.d/giggles.conf"
    assert "ExecCondition=/usr/local/lib/giggles/idle 30 apt-daily-upgrade.service\n" in drop_in.read_text()


def restart(commands: Path, needed: bool) -> tuple[str, list[str]]:
    """Run reboot-if-needed with its fixed places moved into the folder; return what it said and asked of systemd."""
    required = commands / "reboot-required"
    if needed:
        required.write_text("")
        (commands / "reboot-required.pkgs").write_text("linux-image-amd64\nlinux-image-amd64\n")
    script = (SCRIPTS / "reboot-if-needed").read_text()
    script = script.replace("/run/reboot-required", str(required))
    script = script.replace("/usr/local/lib/giggles/idle 60", f"bash {commands}/idle 0")
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    asked = (commands / "asked").read_text().splitlines() if (commands / "asked").exists() else []
    return done.stdout + done.stderr, asked


def test_no_restart_unless_an_update_asks(commands: Path) -> None:
    said, asked = restart(commands, needed=False)
    assert "No update asks" in said
    assert asked == []


def test_a_needed_restart_happens_and_says_for_what(commands: Path) -> None:
    said, asked = restart(commands, needed=True)
    assert "Restarting for linux-image-amd64." in said
    assert asked[-1] == "reboot"


def test_a_needed_restart_waits_for_the_nightly_job(commands: Path) -> None:
    (commands / "busy").write_text("giggles-nightly.service")
    said, asked = restart(commands, needed=True)
    assert "waits until tomorrow" in said
    assert "reboot" not in asked
