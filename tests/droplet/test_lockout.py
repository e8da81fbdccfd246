"""Nobody gets locked out: a change after which the administrator could not log in is taken back by the run that made it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from .conftest import Converged, Droplet

TREE = "/srv/giggles-salt/salt/hardening"
SSHD = f"{TREE}/files/etc/ssh/sshd_config.d/00-giggles.conf"
DROPLET_PILLAR = "/etc/giggles/pillar/droplet.sls"
GUARD = "giggles-login-guard"

# What decides about logins, with content, owner and mode; the firewall without its counters and what fail2ban adds.
WAY_IN = r"""
cd /; find etc/ssh etc/sudoers etc/sudoers.d etc/ufw etc/default/ufw etc/default/ssh home/operator root/.ssh \
  -printf '%p %y %m %u:%g\n' 2>/dev/null | sort
sed -E 's/^([^:]*):[!*][^:]*:[1-9][0-9]*:/\1:locked:some day:/' etc/shadow
cat etc/passwd etc/group etc/ssh/sshd_config etc/ssh/sshd_config.d/* etc/sudoers etc/sudoers.d/* \
  home/operator/.ssh/authorized_keys
iptables-save -t filter | sed 's/\[.*//; /^#/d; /f2b-/d'; ip6tables-save -t filter | sed 's/\[.*//; /^#/d; /f2b-/d'
sshd -T
"""


def ssh(
    droplet: Droplet,
    *command: str,
    user: str | None = None,
    options: tuple[str, ...] = (),
    forgive: bool = True,
    seconds: float = 60,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command over ssh from outside, without a terminal.

    ufw's limit of six connections in half a minute is forgotten first, since how often these tests log in is not the
    question; with `forgive`, so are fail2ban's bans.
    """
    forget = "echo / > /proc/net/xt_recent/DEFAULT"
    droplet.shell(f"{forget}; fail2ban-client unban --all > /dev/null" if forgive else forget)
    login = droplet.info["ssh"]
    return subprocess.run(
        ["ssh", "-F", "none", "-i", login["private_key"], "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
         "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no",
         *(options or ("-o", "BatchMode=yes")), f"{user or login['user']}@{droplet.info['ip']}", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False, start_new_session=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip


def gets_in(droplet: Droplet) -> bool:
    """Tell whether the administrator gets in; a login that a firewall taken back meanwhile has cut off is another "not yet"."""
    try:
        return ssh(droplet, "true", seconds=15).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def assert_the_administrator_gets_in(droplet: Droplet) -> None:
    for last in (False, False, True):
        try:
            done = ssh(droplet, "sudo -n id -u", seconds=20)
            break
        except subprocess.TimeoutExpired:
            # Who is locked out is refused, or gets no connection; one that hangs was cut off by what the test before put back.
            if last:
                raise
    assert (done.returncode, done.stdout.strip()) == (0, "0"), f"locked out: {done.stderr}"


def way_in(droplet: Droplet) -> str:
    """Return everything that decides about logins, to be compared with a later look."""
    text = droplet.shell(WAY_IN)
    assert "ufw-user-input" in text, "a picture that shows too little stays the same whatever happens"
    return text


@contextmanager
def edited(droplet: Droplet, path: str, script: str) -> Iterator[None]:
    """Let a file on the droplet be edited by a sed script during the block."""
    kept = f"/root/kept-{Path(path).name}"
    droplet.shell(f"cp -a {path} {kept}; sed -E -i {shlex.quote(script)} {path}")
    try:
        assert droplet.exec(["cmp", "-s", path, kept], check=False).returncode == 1, "the edit changes nothing"
        yield
    finally:
        droplet.shell(f"mv -f {kept} {path}")


def one_paragraph(text: str, *words: str) -> None:
    assert "\n" not in text.strip(), f"that is more than a paragraph: {text}"
    assert "Traceback" not in text
    for word in words:
        assert re.search(word, text), f"it does not say {word!r}: {text}"


def only_failure(outcome: Converged) -> dict[str, str]:
    """Return what failed by itself, not for a requisite's sake."""
    assert outcome.code == 2, outcome.text
    return {name: comment for name, comment in outcome.failed.items() if "requisite failed" not in comment}


@pytest.fixture(scope="module")
def whole(droplet: Droplet) -> Iterator[str]:
    """Return how the way in is on a converged droplet; at the end a highstate has nothing left to do."""
    droplet.converge()
    yield way_in(droplet)
    # Bans and one-time keys, had any been left, would show here.
    assert droplet.converge().changed == {}
    assert droplet.shell("ls -A /run/giggles/login 2>/dev/null || true") == ""


@pytest.fixture
def mended(droplet: Droplet, whole: str) -> Iterator[None]:
    """After the test: the tree is right again, at most one run repairs something, the next changes nothing."""
    yield
    first = droplet.apply("hardening")
    assert first.code == 0, first.failed or first.text
    if first.changed:
        again = droplet.apply("hardening")
        assert (again.code, again.changed) == (0, {})
    assert way_in(droplet) == whole
    assert_the_administrator_gets_in(droplet)


# Each passes its own check (sshd -t, visudo -c) and shuts the administrator out.
LOCK_OUTS = {
    "another account is let in": (SSHD, "s/^AllowUsers .*/AllowUsers nobody/", "sshd did not let it in", "00-giggles.conf"),
    "keys are looked for elsewhere": (
        SSHD, r"s/^AuthorizedKeysFile .*/AuthorizedKeysFile .ssh\/elsewhere/", "sshd did not let it in", "00-giggles.conf",
    ),
    "sshd listens on another port": (SSHD, "1a Port 2222", "sshd did not let it in", "00-giggles.conf"),
    "sshd listens on loopback alone": (SSHD, "1a ListenAddress 127.0.0.1", "sshd did not let it in", "00-giggles.conf"),
    "only this machine itself is let in": (SSHD, "s/^AllowUsers .*/AllowUsers *@127.0.0.1/", "sshd did not let it in", "00-giggles.conf"),
    "no shell": (
        f"{TREE}/accounts.sls", "s/\\/bin\\/bash/\\/usr\\/sbin\\/nologin/", "could not become root|did not let it in", "/etc/passwd",
    ),
    "a home that sshd does not trust": (
        f"{TREE}/accounts.sls", "/admin-home-private:/,/mode:/ s/'0750'/'0777'/", "sshd did not let it in", "/home/operator",
    ),
    "sudo wants a password that nobody has": (
        f"{TREE}/files/etc/sudoers.d/giggles", "s/NOPASSWD: //", "could not become root by sudo", "/etc/sudoers.d/giggles",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOCK_OUTS)
def test_a_lock_out_is_taken_back_in_the_same_run(droplet: Droplet, whole: str, mended: None, case: str) -> None:
    path, script, step, named = LOCK_OUTS[case]
    with edited(droplet, path, script):
        outcome = droplet.apply("hardening.guard")
        # Before the tree is right again: what was there is back, and works.
        assert way_in(droplet) == whole
        assert_the_administrator_gets_in(droplet)
    failures = only_failure(outcome)
    assert "login-proven" in failures, outcome.text
    one_paragraph(failures["login-proven"], "operator could not log in any more", step, re.escape(named), "put back", "apply again")
    assert droplet.shell(f"systemctl is-active {GUARD}.timer || true").strip() == "inactive"


def test_a_highstate_takes_it_back_too_and_the_rest_of_it_is_done(droplet: Droplet, whole: str, mended: None) -> None:
    droplet.shell("rm /etc/cron.d/giggles-nightly")
    with edited(droplet, SSHD, "s/^AllowUsers .*/AllowUsers nobody/"):
        outcome = droplet.apply()
        assert way_in(droplet) == whole
    assert set(only_failure(outcome)) == {"login-proven"}
    assert outcome.states["nightly-scheduled"]["changes"]
    assert droplet.healthy()


CLOSED = {
    "no rule for 22": "/port: 22/ d",
    "the wrong protocol": "/port: 22/ s/tcp/udp/",
    "from one other network": "/port: 22/ s/comment: ssh/from: 203.0.113.0\\/24/",
    "denied first": "/port: 22/ s/limit/deny/",
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_firewall_without_ssh_is_refused(droplet: Droplet, whole: str, case: str) -> None:
    with edited(droplet, f"{TREE}/firewall.sls", CLOSED[case]):
        outcome = droplet.apply("hardening.firewall")
        assert way_in(droplet) == whole
    failures = only_failure(outcome)
    assert set(failures) == {"firewall-exact"}
    one_paragraph(failures["firewall-exact"], r"do not let anybody reach ssh \(TCP port 22\)", "Nothing was changed", "Add")


NO_KEYS = {
    "none": ([], "ssh_keys"),
    "half of one": (["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI operator"], "ssh_keys"),
}


@pytest.mark.parametrize("case", NO_KEYS)
def test_an_administrator_without_a_usable_key_is_refused(droplet: Droplet, whole: str, case: str) -> None:
    keys, named = NO_KEYS[case]
    pillar = yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)
    pillar["giggles"]["admin"]["ssh_keys"] = keys
    kept = "/etc/giggles/kept.sls"
    droplet.exec(
        ["bash", "-euc", f"umask 077; cp -a {DROPLET_PILLAR} {kept}; cat > {DROPLET_PILLAR}"],
        stdin=b"#!quiet_yaml\n" + json.dumps(pillar).encode(),
    )
    try:
        outcome = droplet.apply()
    finally:
        droplet.shell(f"mv -f {kept} {DROPLET_PILLAR}")
    assert outcome.code == 5, outcome.text
    assert outcome.states == {}
    assert named in outcome.text
    assert way_in(droplet) == whole


HOLD = """

held-before-the-proof:
  cmd.run:
    - name: touch /run/held; exec sleep 200
    - require: [ssh-runs, firewall-starts]
    - require_in: [login-proven]
"""


def test_a_run_that_is_killed_before_the_proof_is_taken_back_by_the_timer(droplet: Droplet, whole: str, mended: None) -> None:
    guard = f"{TREE}/guard.sls"
    droplet.shell(f"rm -f /run/held; cp -a {guard} /root/kept-guard.sls; cat >> {guard} <<'END'\n{HOLD}\nEND")
    try:
        with edited(droplet, SSHD, "s/^AllowUsers .*/AllowUsers nobody/"):
            droplet.shell(
                "setsid salt-call --local state.apply hardening.guard > /run/killed.log 2>&1 < /dev/null & echo $! > /run/killed.pid"
            )
            droplet.wait_for("the run to come to the proof", lambda: droplet.exec(["test", "-e", "/run/held"], check=False).returncode == 0)
            refused = ssh(droplet, "true")
            assert "Permission denied" in refused.stderr, "nobody was locked out, so there is nothing to take back"
            # As the kernel does when memory runs out: no handler runs, and its children go on.
            droplet.shell("kill -9 $(cat /run/killed.pid)")
            killed = time.monotonic()
            droplet.wait_for("the timer to take it back", lambda: gets_in(droplet), seconds=120)
            print(f"the administrator was locked out for {time.monotonic() - killed:.0f} s after the kill")
            assert way_in(droplet) == whole
    finally:
        droplet.shell(f"mv -f /root/kept-guard.sls {guard}; pkill -9 -f 'sleep 20[0]' || true; rm -f /run/held /run/killed.*")
    assert "ended before it had proved" in droplet.shell(f"journalctl -u {GUARD}.service --no-pager -n 20")
    droplet.wait_for("the timer to go", lambda: droplet.shell(f"systemctl is-active {GUARD}.timer || true").strip() == "inactive")


def test_root_is_refused_even_with_a_key_of_his_own(droplet: Droplet, mended: None) -> None:
    public = Path(f"{droplet.info['ssh']['private_key']}.pub").read_text()
    droplet.shell("install -d -m 0700 /root/.ssh")
    droplet.write("/root/.ssh/authorized_keys", public, "0600")
    done = ssh(droplet, "id", user="root")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr
    assert_the_administrator_gets_in(droplet)


def test_a_right_password_is_refused(droplet: Droplet, tmp_path: Path, mended: None) -> None:
    droplet.exec(["chpasswd"], stdin=b"operator:correct-horse-battery-staple\nroot:correct-horse-battery-staple\n")
    answer = tmp_path / "answer"
    answer.write_text("#!/bin/sh\necho correct-horse-battery-staple\n")
    answer.chmod(0o700)
    only_password = (
        "-o",
        "PreferredAuthentications=password,keyboard-interactive",
        "-o",
        "PubkeyAuthentication=no",
        "-o",
        "NumberOfPasswordPrompts=1",
    )
    for user in ("operator", "root"):
        done = ssh(droplet, "id", user=user, options=only_password, SSH_ASKPASS=str(answer), SSH_ASKPASS_REQUIRE="force", DISPLAY=":0")
        assert done.returncode == 255
        # Only keys are offered; a server that takes passwords says so here.
        assert "Permission denied (publickey)." in done.stderr


def banned(droplet: Droplet) -> bool:
    """Tell whether fail2ban says that it has banned somebody."""
    return "Currently banned:\t1" in droplet.shell("fail2ban-client status sshd")


def counted(droplet: Droplet) -> int:
    """Return how many refusals fail2ban has counted since it started."""
    return int(droplet.shell(r"fail2ban-client status sshd | sed -n 's/.*Total failed:\s*//p'"))


def forget_refusals(droplet: Droplet) -> None:
    """Have fail2ban count from nought: to unban somebody does not forget what was counted of him, but to ban him does."""
    here = ssh(droplet, 'echo "${SSH_CLIENT%% *}"').stdout.strip()
    droplet.shell(f"fail2ban-client set sshd attempt {here} $(seq $(fail2ban-client get sshd maxretry))")
    droplet.wait_for("fail2ban to ban at its word", lambda: banned(droplet))
    droplet.shell("fail2ban-client unban --all")


def wait_to_be_counted(droplet: Droplet, before: int, seconds: float = 5) -> None:
    """Give fail2ban, which reads the journal in its own time, some of it to count more than `before`."""
    end = time.monotonic() + seconds
    while counted(droplet) <= before and time.monotonic() < end:
        time.sleep(0.3)


def test_guessing_gets_the_guesser_banned(droplet: Droplet) -> None:
    forget_refusals(droplet)
    denied = 0
    try:
        for number in range(8):
            before = counted(droplet)
            done = ssh(droplet, "id", user=f"guess{number}", forgive=False)
            # A ban that arrives during a connection cuts it off, and then ssh says nothing of use.
            if "Permission denied" not in done.stderr:
                break
            denied += 1
            wait_to_be_counted(droplet, before)
            if banned(droplet):
                break
        print(f"{denied} refused logins until the ban; the last connection said {done.stderr.strip()!r}")
        assert denied >= 2, "nobody could even mistype his name"
        droplet.wait_for("fail2ban to ban who guessed eight times at most", lambda: banned(droplet))

        def shut_out() -> bool:
            new = ssh(droplet, "id", user="guess", forgive=False)
            return new.returncode == 255 and ("refused" in new.stderr or "timed out" in new.stderr)

        # fail2ban counts a ban before it has told the firewall.
        droplet.wait_for("a new connection to be refused", shut_out)
        # The ban is about ssh, so that a guesser in the same office does not take the app away from everybody.
        assert droplet.healthy()
    finally:
        droplet.shell("fail2ban-client unban --all")
