"""ssh with a second factor: key and code let in, nothing less does, and switching it on or breaking it locks nobody out."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.login.second_factor import STEP, code

from .conftest import Converged, Droplet
from .leaking import Secrets, leaks, now
from .test_lockout import DROPLET_PILLAR, TREE, assert_the_administrator_gets_in, edited, one_paragraph, only_failure, ssh, way_in

FOLDER, FILE = "/etc/giggles/second-factor", "/etc/giggles/second-factor/operator"
NOTE = "/var/lib/giggles/second-factor.json"
KEPT = "/etc/giggles/kept.sls"


@dataclass
class Phone:
    """What the administrator has besides the key.

    Arguments:
        droplet: which asks for it.
        folder: a place for what ssh asks.
        secret, scratch: as they were shown.
        outcome: of the run that put it in force.
        record: what is recorded of that run.
    """

    droplet: Droplet
    folder: Path
    secret: bytes
    scratch: list[str]
    outcome: Converged
    record: dict[str, Any]

    def unused(self) -> str:
        """Return a right code that counts as one that nobody used yet."""
        self.note("DISALLOW_REUSE", "")
        return code(self.secret, int(time.time()) // STEP)

    def forget(self) -> None:
        """Have the module forget how often somebody tried, since that is not the question here."""
        self.note("RATE_LIMIT 3 30", "")

    def note(self, option: str, what: str) -> None:
        """Have the module's own notes behind an option be others."""
        self.droplet.shell(f"sed -i 's/^\" {option}.*/\" {option}{what}/' {FILE}")

    def lets_in(self, typed: str, *, forget: bool = True) -> bool:
        """Tell whether key and code let the administrator in."""
        answer = self.folder / "answer"
        answer.write_text(f"#!/bin/sh\necho '{typed}'\n")
        answer.chmod(0o700)
        if forget:
            self.forget()
        done = ssh(
            self.droplet,
            "sudo -n id -u",
            options=("-o", "NumberOfPasswordPrompts=1"),
            SSH_ASKPASS=str(answer),
            SSH_ASKPASS_REQUIRE="force",
            DISPLAY=":0",
        )
        assert done.returncode == 0 or "Permission denied (keyboard-interactive)" in done.stderr, done.stderr
        return done.returncode == 0


def ask(droplet: Droplet, *arguments: str, stdin: str = "") -> tuple[int, str]:
    command = ["salt-call", "--local", "--retcode-passthrough", "giggles.second_factor", *arguments]
    done = droplet.exec(command, stdin=stdin.encode(), check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.fixture(scope="module")
def phone(droplet: Droplet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """Have it chosen, set up and in force; afterwards the droplet is as before."""
    before = way_in(droplet)
    pillar = yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)
    pillar["giggles"].setdefault("hardening", {})["ssh_second_factor"] = True
    droplet.shell(f"cp -a {DROPLET_PILLAR} {KEPT}")
    try:
        droplet.exec(["bash", "-euc", f"cat > {DROPLET_PILLAR}"], stdin=b"#!quiet_yaml\n" + json.dumps(pillar).encode())
        chosen = droplet.apply()
        assert chosen.code == 0, chosen.failed or chosen.text
        # ssh asks for nothing yet; that it will is expected of the droplet from now on.
        assert set(chosen.changed) == {"status-expectations"}
        assert "does NOT ask" in chosen.states["second-factor-chosen"]["comment"]
        begin = now(droplet)
        _, page = ask(droplet)
        shown = re.search("secret=([A-Z2-7]{32})&", page)
        assert shown, page
        secret = base64.b32decode(shown[1])
        done, text = ask(droplet, "confirm=True", stdin=f"{code(secret, int(time.time()) // STEP)}\n")
        assert done == 0, text
        outcome = droplet.apply("hardening.guard")
        assert outcome.code == 0, outcome.failed or outcome.text
        record = json.loads(droplet.shell("tail -n 1 /var/lib/giggles/records/converge.jsonl"))
        wanted = Secrets({shown[1].encode(): "the secret", **{one.encode(): "a code" for one in re.findall(r"(?m)^ +(\d{8})$", page)}})
        assert leaks(droplet, wanted, outcome.text, text, since=begin) == [f"{name} in {FILE}" for name in ("a code", "the secret")]
        # Wrong codes count as refusals, and there are enough of them here for a ban.
        droplet.shell("fail2ban-client set sshd addignoreip 0.0.0.0/0")
        yield Phone(droplet, tmp_path_factory.mktemp("phone"), secret, re.findall(r"(?m)^ +(\d{8})$", page), outcome, record)
    finally:
        droplet.shell(f"mv -f {KEPT} {DROPLET_PILLAR}; rm -rf {FOLDER}")
        off = droplet.apply()
        droplet.shell("fail2ban-client set sshd delignoreip 0.0.0.0/0", check=False)
        droplet.shell("rm -f /usr/local/lib/giggles/ssh-answer")
    assert off.code == 0, off.failed or off.text
    assert droplet.exec(["test", "-e", NOTE], check=False).returncode == 1, "who does without would be told later that it is gone"
    assert_the_administrator_gets_in(droplet)
    assert way_in(droplet) == before


def test_putting_it_in_force_is_proven_with_a_real_code(droplet: Droplet, phone: Phone) -> None:
    assert "logged in with a one-time key and a code and became root" in phone.outcome.states["login-proven"]["comment"]
    modes = droplet.shell(f"stat -c '%a %U' {FOLDER} {FILE}")
    assert modes.split("\n")[:2] == ["700 root", "400 root"]


def test_confirming_it_after_the_pillar_asked_for_it_is_no_drift(phone: Phone) -> None:
    assert phone.outcome.changed
    assert (phone.record["drift"], phone.record["changed"]) == ([], len(phone.outcome.changed))


def test_only_key_and_unused_code_let_in(droplet: Droplet, phone: Phone) -> None:
    alone = ssh(droplet, "true")
    assert alone.returncode == 255
    assert "Permission denied (keyboard-interactive)" in alone.stderr
    assert not phone.lets_in("")
    assert not phone.lets_in(code(phone.secret, int(time.time()) // STEP - 9))
    right = phone.unused()
    assert phone.lets_in(right)
    assert not phone.lets_in(right)
    assert phone.lets_in(phone.scratch[0])
    assert not phone.lets_in(phone.scratch[0])
    # A code without the key is not even asked for.
    keyless = ssh(droplet, "true", options=("-o", "PubkeyAuthentication=no"))
    assert "Permission denied (publickey)." in keyless.stderr


def test_after_three_tries_even_the_right_code_waits(droplet: Droplet, phone: Phone) -> None:
    right = phone.unused()
    phone.note("RATE_LIMIT 3 30", f" {int(time.time()) - 2}" * 3)
    assert not phone.lets_in(right, forget=False)
    assert phone.lets_in(right)


def test_a_way_past_the_code_is_removed_and_a_lock_out_taken_back(droplet: Droplet, phone: Phone) -> None:
    right = way_in(droplet) + droplet.shell("cat /etc/pam.d/sshd")
    # So that the proofs need not wait.
    phone.unused()
    phone.forget()
    droplet.shell("sed -i '1i auth sufficient pam_permit.so' /etc/pam.d/sshd")
    mended = droplet.apply("hardening.guard")
    # And nothing else is to do the second time.
    assert (mended.code, set(mended.changed)) == (0, {"ssh-asks-exactly"}), mended.text
    phone.forget()
    with edited(droplet, f"{TREE}/second_factor.sls", "s/secret=\\S+/secret=\\/nowhere/"):
        outcome = droplet.apply("hardening.guard")
        assert way_in(droplet) + droplet.shell("cat /etc/pam.d/sshd") == right
    one_paragraph(only_failure(outcome)["login-proven"], "sshd did not let it in", "/etc/pam.d/sshd", "put back")
    assert phone.lets_in(phone.unused())


def test_a_disk_that_takes_no_notes_locks_nobody_out_and_lets_no_wrong_code_in(droplet: Droplet, phone: Phone) -> None:
    right = phone.unused()
    phone.forget()
    droplet.shell(f"mount --bind {FOLDER} {FOLDER}; mount -o remount,bind,ro {FOLDER}")
    try:
        assert droplet.exec(["touch", FILE], check=False).returncode == 1
        assert not phone.lets_in(code(phone.secret, int(time.time()) // STEP - 9), forget=False)
        assert phone.lets_in(right, forget=False)
    finally:
        droplet.shell(f"umount {FOLDER}")


def test_one_that_is_gone_or_is_something_else_fails_and_is_still_asked_for(droplet: Droplet, phone: Phone) -> None:
    right = way_in(droplet) + droplet.shell("cat /etc/pam.d/sshd")
    droplet.shell(f"mv {FILE} {FOLDER}/kept")
    try:
        for instead in ("", f"ln -s /nowhere {FILE}", f"mkdir {FILE}"):
            droplet.shell(instead)
            outcome = droplet.apply("hardening.guard")
            one_paragraph(only_failure(outcome)["second-factor-chosen"], "was not changed", "Stay logged in", "giggles.second_factor")
            assert (set(only_failure(outcome)), outcome.changed) == ({"second-factor-chosen"}, {}), outcome.text
            droplet.shell(f"rm -rf {FILE}")
    finally:
        droplet.shell(f"rm -rf {FILE}; mv {FOLDER}/kept {FILE}")
    assert way_in(droplet) + droplet.shell("cat /etc/pam.d/sshd") == right
