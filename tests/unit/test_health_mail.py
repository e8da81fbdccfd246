"""A mail is one that any server takes, and msmtp's file says exactly what was chosen."""

from __future__ import annotations

import email
import email.policy
import json
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import monitoring
from gigglekit.health.mail import Mailer, configuration
from gigglekit.health.watch import Letter

LETTER = Letter(7, 1_800_000_000.0, "[giggles.test] backup\nfailed – ünd more " + "x" * 150, "A line.\n.\nFrom here\n" + "ö" * 1200 + "\n")


def mailer(folder: Path, script: str = "") -> Mailer:
    program = folder / "msmtp"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Mailer("root@giggles.test", "you@example.test", "giggles.test", str(program), folder / "rc", folder / "logs")


def test_a_message_is_as_rfc_5322_has_it(tmp_path: Path) -> None:
    content = mailer(tmp_path).message(LETTER)
    assert all(len(line) <= 998 and b"\n" not in line for line in content.split(b"\r\n"))
    assert content.isascii()
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["Message-ID"] == "<giggles.7.1800000000@giggles.test>"
    assert message["Date"] == "Fri, 15 Jan 2027 08:00:00 -0000"
    assert message["To"] == "you@example.test"
    assert message["From"].addresses[0].addr_spec == "root@giggles.test"
    assert message["Subject"] == "[giggles.test] backup failed – ünd more " + "x" * 150
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"
    assert message.get_content().splitlines() == LETTER.body.splitlines()
    assert content == mailer(tmp_path).message(LETTER), "sent again it is the same mail"


def test_the_recipient_is_in_the_message_and_in_no_argument(tmp_path: Path) -> None:
    post = mailer(tmp_path, f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/message')
    assert post.send(LETTER) == ""
    arguments = (tmp_path / "arguments").read_text()
    assert "example.test" not in arguments
    assert f"--file={tmp_path}/rc" in arguments
    assert "--read-recipients" in arguments
    assert b"To: you@example.test" in (tmp_path / "message").read_bytes()


@pytest.mark.parametrize(("code", "words"), [(69, "not there"), (75, "no time"), (77, "refused the login"), (3, "exit code 3")])
def test_why_a_mail_was_not_taken_is_told_without_what_the_server_said(tmp_path: Path, code: int, words: str) -> None:
    post = mailer(tmp_path, f"cat >/dev/null; echo 'you@example.test: no' >&2; exit {code}")
    assert words in post.send(LETTER)
    assert "example.test" not in post.send(LETTER)
    assert not post.was_taken(LETTER)


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    post = mailer(tmp_path)
    Path(post.program).unlink()
    assert "cannot be started" in post.send(LETTER)


def test_what_msmtp_noted_is_of_this_letter_and_of_the_last_attempt(tmp_path: Path) -> None:
    note = 'for word in "$@"; do case $word in --logfile=*) log=${word#--logfile=} ;; esac; done; cat >/dev/null; '
    post = mailer(tmp_path, note + 'echo "host=mail exitcode=EX_OK" >> "$log"')
    assert post.send(LETTER) == ""
    assert post.was_taken(LETTER)
    assert not post.was_taken(Letter(8, LETTER.made, "", ""))
    refused = mailer(tmp_path, note + 'echo "host=mail exitcode=EX_TEMPFAIL" >> "$log"; exit 75')
    assert refused.send(LETTER)
    assert not refused.was_taken(LETTER)
    post.forget(LETTER)
    assert list((tmp_path / "logs").iterdir()) == []
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def chosen(**changes: object) -> str:
    values = {
        "host": "smtp.example.test",
        "port": 587,
        "security": "starttls",
        "sender": "a@b.test",
        "domain": "b.test",
        "user": None,
        "password": None,
    }
    return configuration(**{**values, **changes})  # type: ignore[arg-type]


def test_the_connection_is_encrypted_as_chosen_and_always_verified() -> None:
    assert "tls on\ntls_starttls on\n" in chosen()
    assert "tls on\ntls_starttls off\n" in chosen(security="tls")
    assert "tls off\n" in chosen(security="none")
    for security in ("starttls", "tls", "none"):
        assert "tls_certcheck off" not in chosen(security=security)
        assert "tls_trust_file /etc/ssl/certs/ca-certificates.crt\n" in chosen(security=security)


@pytest.mark.parametrize(("environment", "called"), [("production", "g.test"), ("staging", "staging g.test"), (None, "g.test")])
def test_a_subject_tells_staging_from_production(tmp_path: Path, environment: str | None, called: str) -> None:
    chosen: dict[str, Any] = {"domain": "g.test", "monitoring": {"mail": {"to": "you@example.com", "from": None, "digest": False}}}
    kept = tmp_path / "monitoring.json"
    kept.write_text(monitoring.settings_file(chosen | ({"environment": environment} if environment else {}), {}))
    read = monitoring.read(kept)
    assert read is not None
    assert (read.called, read.domain, read.sender) == (called, "g.test", "root@g.test")
    if environment is None:
        content = json.loads(kept.read_text())
        del content["environment"]
        kept.write_text(json.dumps(content))
        assert monitoring.read(kept) == read, "one from before there were environments still tells"


def test_a_droplet_without_a_domain_writes_in_its_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "alpha")
    choices: dict[str, Any] = {"domain": None, "monitoring": {"mail": {"to": "you@example.com", "from": None, "digest": False}}}
    kept = tmp_path / "monitoring.json"
    kept.write_text(monitoring.settings_file(choices, {}))
    read = monitoring.read(kept)
    assert read is not None
    assert (read.domain, read.sender) == ("alpha", "root@alpha")
    message = Mailer(read.sender, "you@example.com", read.domain).message(Letter(1, 0.0, "s", "b"))
    assert b"root@alpha>" in message
    assert monitoring.name(choices | {"domain": "g.test"}) == "g.test"
    choices["monitoring"]["mail"]["from"] = "me@example.com"
    assert monitoring.sender(choices) == "me@example.com"


def test_a_password_is_written_as_it_is_and_one_that_cannot_be_is_refused_without_being_shown() -> None:
    assert "auth on" not in chosen()
    text = chosen(user="me", password='pa "ss# \\word')
    assert 'user "me"\npassword "pa "ss# \\word"\n' in text
    for wrong in ("two\nlines", "x" * 481, "tab\there", "ü" * 241):
        with pytest.raises(ValueError, match="smtp_password") as raised:
            chosen(user="me", password=wrong)
        assert wrong not in str(raised.value)
