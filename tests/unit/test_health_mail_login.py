"""Mail with a login, by the real msmtp: neither mail nor password goes to a server that is not the right one, or over an open line."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import mail, monitoring, outbox, watch, watching
from gigglekit.health.places import Places
from gigglekit.health.watch import Letter

from tests.unit.smtp_server import PASSWORD, USER, Authority, Served, mail_server

NOW = 1_800_000_000.0
LETTER = Letter(1, NOW, "[giggles.test] backup failed", "planted words of the mail\n")
SECRETS = (PASSWORD, USER, LETTER.body.strip(), "you@example.test")


@dataclass
class Sender:
    """A droplet with one letter to send."""

    folder: Path
    authority: Authority

    def __post_init__(self) -> None:
        self.places = Places(self.folder / "droplet")
        for place in (self.places.settings, self.places.told):
            place.parent.mkdir(parents=True)
        settings: dict[str, Any] = {
            "domain": "giggles.test", "monitoring": {"mail": {"to": "you@example.test", "from": None, "digest": False}},
        }  # fmt: skip
        self.places.settings.write_text(monitoring.settings_file(settings, {}))
        watch.store(self.places.told, watch.State(letters=(LETTER,)), None)

    def send(self, served: Served, *, security: str, password: str = PASSWORD) -> str:
        """Try to send what waits; return what an operator is told of it."""
        written = mail.configuration(
            host="localhost", port=served.port, security=security, sender="root@giggles.test", domain="giggles.test", user=USER,
            password=password,
        )  # fmt: skip
        configuration = self.folder / "msmtprc"
        configuration.touch(mode=0o600)
        configuration.write_text(written.replace("/etc/ssl/certs/ca-certificates.crt", str(self.authority.root)))
        post = mail.Mailer("root@giggles.test", "you@example.test", "giggles.test", configuration=configuration, logs=self.folder / "logs")
        state = watch.load(self.places.told, NOW)
        outbox.deliver(state, post, lambda now: watch.store(self.places.told, now, None), now=NOW)
        told = watching.told(self.places, NOW)["mail"]
        assert not any(secret in json.dumps(told) for secret in SECRETS)
        return str(told["failing"]["why"]) if told["waiting"] else ""


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    (tmp_path / "authority").mkdir()
    return Sender(tmp_path, Authority(tmp_path / "authority"))


def shown(lines: list[str]) -> str:
    """Return lines with what is in them in base64, as a login has it."""
    decoded = []
    for word in " ".join(lines).split():
        with contextlib.suppress(ValueError):
            decoded.append(base64.b64decode(word, validate=True).decode(errors="replace"))
    return "\n".join([*lines, *decoded])


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_login_over_an_encrypted_line_has_the_mail_taken_once(sender: Sender, security: str) -> None:
    with mail_server(security=security, certificate=sender.authority.certificate("localhost")) as served:
        assert sender.send(served, security=security) == ""
        assert sender.send(served, security=security) == ""
    assert len(served.mails) == 1
    assert LETTER.body.strip().encode() in served.mails[0]
    assert [line.split()[0] for line in served.clear] == (["EHLO", "STARTTLS"] if security == "starttls" else [])


def test_a_text_that_the_server_refuses_leaves_with_its_subject_alone(sender: Sender) -> None:
    text = LETTER.body.strip().splitlines()[0]
    certificate = sender.authority.certificate("localhost")
    with mail_server(security="starttls", certificate=certificate, refuses=text) as served:
        for _ in range(outbox.REFUSALS - 1):
            assert sender.send(served, security="starttls")
        assert served.mails == []
        assert sender.send(served, security="starttls") == ""
    (mail,) = served.mails
    assert f"Subject: {LETTER.subject}".encode() in mail
    assert b"refused the text of this mail" in mail


# What is wrong, with what the server is made: security chosen, security served, name and age of the certificate, who signed it.
WRONG = {
    "the password": ("starttls", "starttls", "localhost", 30, True, "refused the login.*smtp_password"),
    "the name, by STARTTLS": ("starttls", "starttls", "other.test", 30, True, "another name.*monitoring:mail:host"),
    "the name": ("tls", "tls", "other.test", 30, True, "another name.*monitoring:mail:host"),
    "the time": ("starttls", "starttls", "localhost", -1, True, "has ended.*timedatectl"),
    "the authority": ("starttls", "starttls", "localhost", 30, False, "no authority.*somebody else may be answering"),
    "the offer, which is removed": ("starttls", "stripped", "localhost", 30, True, "no encryption.*security to tls"),
    "the port": ("tls", "starttls", "localhost", 30, True, "no TLS at this port.*465"),
    "the choice of an open line": ("none", "starttls", "localhost", 30, True, "keeps the password safe.*starttls or tls"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_with_what_to_do_and_the_mail_waits(sender: Sender, tmp_path: Path, wrong: str) -> None:
    security, serves, name, days, known, words = WRONG[wrong]
    (tmp_path / "stranger").mkdir()
    signer = sender.authority if known else Authority(tmp_path / "stranger")
    with mail_server(
        security="tls" if serves == "tls" else "starttls",
        certificate=signer.certificate(name, days=days),
        offers_starttls=serves != "stripped",
    ) as served:
        told = sender.send(served, security=security, password="planted-wrong" if wrong == "the password" else PASSWORD)
    assert "\n" not in told
    assert re.search(words, told), told
    assert served.mails == []
    assert not any(secret in shown(served.clear) for secret in SECRETS)
    # Who is not known to be the right one is not even asked to let somebody in.
    assert wrong == "the password" or not any(line.startswith("AUTH") for line in served.encrypted + served.clear)
    with mail_server(security="starttls", certificate=sender.authority.certificate("localhost")) as right:
        assert sender.send(right, security="starttls") == ""
    assert len(right.mails) == 1
