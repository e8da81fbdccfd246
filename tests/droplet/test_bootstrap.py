"""bootstrap.sh on a machine that is converged already, without a terminal and with one."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import yaml

from . import harm
from .conftest import DRIVER, Droplet
from .leaking import leaks, secrets_of, watched

BOOTSTRAP = "/srv/giggles-salt/bootstrap.sh"
DROPLET_PILLAR = "/etc/giggles/pillar/droplet.sls"
ANSWERS = "/root/giggles-answers.yaml"
ROWS = ("ssh", "firewall", "bans", "web", "app", "certificate", "clips", "nightly", "backup", "alerts", "converge")
GENERATED = ("SECRET_KEY", "ENCRYPTION_KEY")
KEY = re.compile(r"(?m)^  (\S+) +(up|ready|off|DOWN|MISSING|REFUSED|NONE|EDITED) ")
# Whether somebody has made the recovery kit by then is not what these tests ask, and the trial has no timer of the self-converge.
WORKS = {"up", "ready", "off"}


def bootstrap(droplet: Droplet, *arguments: str) -> tuple[int, str]:
    """Run bootstrap.sh without a terminal, its standard input at its end already."""
    done = droplet.exec([BOOTSTRAP, *arguments], check=False)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def pillar(droplet: Droplet) -> dict[str, object]:
    """Return what droplet.sls says below `giggles`."""
    return yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)["giggles"]


def test_a_second_run_changes_nothing_and_everything_is_up(droplet: Droplet) -> None:
    droplet.converge()
    wanted, before = secrets_of(droplet), pillar(droplet)
    begin = time.time() - 0.1
    with harm.unharmed(droplet), watched(droplet, wanted) as witness:
        code, text = bootstrap(droplet, "--non-interactive", "--answers", ANSWERS)
    assert code == 0, text
    assert re.search(r"(?m)^Succeeded: \d+$", text), f"it counts changes: {text}"
    assert re.search(r"(?m)^Failed: +0$", text), text
    assert tuple(name for name, _ in KEY.findall(text)) == ROWS, text
    assert {state for _, state in KEY.findall(text)} <= WORKS, text
    # What was generated stays: with another ENCRYPTION_KEY the users' keys would be lost.
    after = pillar(droplet)
    assert after == before
    assert all(after["secrets"]["app"][name] for name in GENERATED)
    assert any("salt-call" in words for words in witness.seen), "nothing was watched"
    assert not witness.leaks
    assert leaks(droplet, wanted, text, since=begin) == []


def test_looking_changes_nothing(droplet: Droplet) -> None:
    with harm.unharmed(droplet):
        code, text = bootstrap(droplet, "--check")
    assert code == 0, text
    assert "Everything that can be checked beforehand is in order" in text
    assert "preparing" not in text


def test_the_exit_code_of_a_failed_apply_is_passed_on(droplet: Droplet) -> None:
    # A folder where the state wants a file: it fails, and nothing else does.
    file = "/etc/cron.d/giggles-nightly"
    with harm.serving(droplet):
        droplet.shell(f"mv {file} /root/kept-cron; mkdir {file}; touch {file}/stray")
        try:
            code, text = bootstrap(droplet, "--non-interactive")
        finally:
            droplet.shell(f"rm -r {file}; mv /root/kept-cron {file}")
    flat = " ".join(text.split())
    assert code == 2, text
    assert "Not everything converged (exit code 2)" in flat
    assert "run: sudo salt-call state.apply" in flat
    assert file in flat.partition("Not everything converged")[2], "what failed is told again at the end"
    assert re.search(r"(?m)^Failed: +[1-9]", text), text
    assert dict(KEY.findall(text))["web"] == "up"
    assert droplet.converge().changed == {}


def test_a_service_that_is_down_is_told_as_down(droplet: Droplet) -> None:
    """The closing table says what is, not what should be."""
    script = f"source <(sed '/^main$/d' {BOOTSTRAP}) --non-interactive; domain=x.test; report"
    droplet.shell("systemctl stop fail2ban")
    try:
        rows = dict(KEY.findall(droplet.shell(script)))
    finally:
        droplet.shell("systemctl start fail2ban")
    assert rows.pop("backup") in WORKS
    assert rows == {**{name: "up" for name in ROWS if name != "backup"}, "bans": "DOWN", "converge": "off"}


def test_missing_answers_are_asked_for_on_a_terminal_and_secrets_are_not_echoed(droplet: Droplet) -> None:
    before = pillar(droplet)
    key = before["secrets"]["app"]["SUPABASE_SERVICE_ROLE_KEY"]
    begin = time.time() - 0.1
    droplet.shell(f"cp -a {DROPLET_PILLAR} /etc/giggles/kept.sls; sed -i '/SUPABASE_SERVICE_ROLE_KEY/d' {DROPLET_PILLAR}")
    wanted = None
    try:
        code, shown = _on_a_terminal(
            [str(DRIVER), "exec", "--name", droplet.name, "--", BOOTSTRAP, "--no-apply"],
            {"service role key (not shown): ": key + "\n"},
        )
        after = pillar(droplet)
    finally:
        droplet.shell(f"mv /etc/giggles/kept.sls {DROPLET_PILLAR}")
    wanted = secrets_of(droplet)
    assert code == 0, shown
    assert after == before
    assert "Ready" in shown
    assert leaks(droplet, wanted, shown, since=begin) == []


def test_without_a_terminal_a_missing_answer_is_an_error(droplet: Droplet) -> None:
    droplet.shell(f"cp -a {DROPLET_PILLAR} /etc/giggles/kept.sls; sed -i '/SUPABASE_SERVICE_ROLE_KEY/d' {DROPLET_PILLAR}")
    try:
        with harm.serving(droplet):
            code, text = bootstrap(droplet)
    finally:
        droplet.shell(f"mv /etc/giggles/kept.sls {DROPLET_PILLAR}")
    assert code == 1, text
    assert "giggles:secrets:app:SUPABASE_SERVICE_ROLE_KEY: it is missing" in text
    assert "Nothing was converged" in " ".join(text.split())


def _on_a_terminal(command: list[str], answers: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal, type each answer when its question is shown, return exit code and all that was shown."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=Path("/"))
    os.close(slave)
    shown, waiting, end = "", dict(answers), time.monotonic() + 120
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 1)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:
                    break
                shown += piece.decode(errors="replace")
            for question in [question for question in waiting if shown.endswith(question)]:
                os.write(master, waiting.pop(question).encode())
    finally:
        os.close(master)
        if process.poll() is None:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert not waiting, f"it never asked {list(waiting)}: {shown}"
    return process.returncode, shown
