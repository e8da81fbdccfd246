"""Mail: a message as RFC 5322 has it, and msmtp, which takes it as sendmail would.

The recipient stands in the message, not among the arguments, and the password in msmtp's own file. msmtp writes one line into a log
of this letter as soon as the server has answered, so that it can be told later whether a letter was taken, also when whoever started
msmtp was killed in between.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from pathlib import Path

from gigglekit.command import SYSTEM_PATH, CommandTimeoutError, run
from gigglekit.health.watch import Letter

PROGRAM = "/usr/bin/msmtp"
CONFIGURATION = Path("/etc/msmtprc")
LOGS = Path("/var/lib/giggles/alerts")
_SECONDS = 120
_TAKEN = "exitcode=EX_OK"
_WHY = {
    64: "msmtp was called wrongly", 65: "the server did not take the message", 66: "msmtp found no message",
    67: "the server does not know the recipient", 68: "the mail server's name is not known", 69: "the mail server is not there, or refused",
    70: "msmtp failed by itself", 71: "the system refused msmtp something", 72: "a file of the system is missing",
    73: "msmtp could not write", 74: "the connection broke", 75: "the mail server has no time just now",
    76: "the mail server spoke another protocol", 77: "the mail server refused the login", 78: "the settings of msmtp are wrong",
}  # fmt: skip
_NAME, _ENDED = "the mail server's certificate is for another name", "the mail server's certificate has ended"
_UNKNOWN = "the mail server's certificate is by no authority that this droplet knows"
_NO_OFFER, _NO_TLS = "the mail server offers no encryption", "the mail server speaks no TLS at this port"
_NO_SAFE_LOGIN = "the mail server offers no login that keeps the password safe"
# Of what msmtp says itself (built with GnuTLS, as by Debian and Ubuntu) when its exit code does not tell.
_WORDS = (
    (r"certificate verification failed.*does not match", _NAME),
    (r"certificate verification failed.*expired", _ENDED),
    (r"certificate verification failed", _UNKNOWN),
    (r"does not support TLS via the STARTTLS", _NO_OFFER),
    (r"TLS handshake failed", _NO_TLS),
    (r"cannot use a secure authentication method", _NO_SAFE_LOGIN),
)
_HOST = "giggles:monitoring:mail:host"
_REMEDIES = {
    _NAME: f"Nothing was sent to it, the password neither. Put the name that the provider tells into {_HOST}; if that is what stands "
    "there, somebody else answers in its place.",
    _ENDED: "Nothing was sent to it, the password neither. Look at this droplet's clock (timedatectl); if it is right, the provider has to "
    "renew the certificate.",
    _UNKNOWN: f"Nothing was sent to it, the password neither. Look whether {_HOST} is the provider's; if it is, somebody else may be "
    "answering in its place.",
    _NO_OFFER: "Nothing was sent to it, the password neither. If the provider's port is for TLS from the beginning (465), set "
    "giggles:monitoring:mail:security to tls; if the offer was there yesterday, somebody on the way may be removing it.",
    _NO_TLS: "Nothing was sent to it, the password neither. Most providers have TLS from the beginning at port 465 and STARTTLS at 587: "
    "correct giggles:monitoring:mail:port, or security.",
    _NO_SAFE_LOGIN: "The password was not sent. Set giggles:monitoring:mail:security to starttls or tls.",
    _WHY[
        77
    ]: "Correct smtp_user and smtp_password in giggles:secrets:monitoring, then salt-call state.apply monitoring. Many providers want "
    "a password made for this use alone.",
}


REFUSED = frozenset({_WHY[65], _WHY[67], _WHY[69]})
"""What `Mailer.send` returns when it may be this very mail that the server does not want."""


@dataclass(frozen=True)
class Mailer:
    """How mail leaves this droplet.

    Arguments:
        sender, recipient: addresses.
        domain: of the droplet, for Message-ID.
        program: msmtp, or what behaves like it.
        configuration: its file.
        logs: folder for the logs of letters, root's alone.
    """

    sender: str
    recipient: str
    domain: str
    program: str = PROGRAM
    configuration: Path = CONFIGURATION
    logs: Path = LOGS

    def message(self, letter: Letter) -> bytes:
        """Return a letter as it goes over the wire (RFC 5322), the same bytes each time.

        A Message-ID is made of the letter's number and time, so that a letter that was sent twice is shown once by most mail programs.
        """
        message = EmailMessage(policy=SMTP)
        message["Message-ID"] = f"<giggles.{letter.number}.{int(letter.made)}@{self.domain}>"
        message["Date"] = formatdate(letter.made)
        message["From"] = Address(display_name="Giggles server", addr_spec=self.sender)
        message["To"] = Address(addr_spec=self.recipient)
        message["Subject"] = " ".join(letter.subject.split())
        # No vacation notice answers to it (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.body)
        return message.as_bytes()

    def send(self, letter: Letter) -> str:
        """Hand a letter over.

        Returns:
            "" if the server took it; otherwise why not, in a few words without any address.
        """
        log = self._log(letter)
        with contextlib.suppress(OSError):
            self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
        try:
            done = run(
                [self.program, f"--file={self.configuration}", f"--logfile={log}", "--read-recipients"],
                seconds=_SECONDS,
                environment={"PATH": SYSTEM_PATH, "HOME": "/nonexistent"},
                stdin=self.message(letter).decode("utf-8", "surrogateescape"),
            )
        except CommandTimeoutError:
            return f"the mail server did not answer within {_SECONDS} s"
        except OSError as error:
            return f"{self.program} cannot be started ({error.strerror})"
        if done.code == 0:
            return ""
        # Words of its own only: what it quotes of the server's holds addresses.
        said = "\n".join(line for line in done.complaint.splitlines() if "server message" not in line)
        known = next((why for pattern, why in _WORDS if re.search(pattern, said)), None)
        return known or _WHY.get(done.code, f"msmtp ended with exit code {done.code}")

    def was_taken(self, letter: Letter) -> bool:
        """Tell whether msmtp noted that the server took this letter, whatever became of who started msmtp."""
        try:
            return _TAKEN in self._log(letter).read_text(errors="replace")
        except OSError:
            return False

    def forget(self, letter: Letter) -> None:
        """Remove the log of a letter of which it is written down that it was sent."""
        with contextlib.suppress(OSError):
            self._log(letter).unlink(missing_ok=True)

    def _log(self, letter: Letter) -> Path:
        return self.logs / f"letter-{letter.number}-{int(letter.made)}.log"


def remedy(problem: str) -> str:
    """Return what to do about what `Mailer.send` returned."""
    return _REMEDIES.get(
        problem,
        "Look at giggles:monitoring:mail and giggles:secrets:monitoring in the pillar; docs/TROUBLESHOOTING.md, No alert arrives, goes "
        "through it.",
    )


def letter_of_test(name: str) -> Letter:
    """Return a letter that only shows that mail arrives."""
    now = time.time()
    return Letter(0, now, f"[{name}] test", "This is a test: alerts of this droplet reach you.\n")


def configuration(*, host: str, port: int, security: str, sender: str, domain: str, user: str | None, password: str | None) -> str:
    """Return the content of /etc/msmtprc.

    Arguments:
        host: mail server, and its `port`.
        security: `starttls`, `tls` or `none`.
        sender: envelope sender.
        domain: what the droplet calls itself (EHLO).
        user: account at the server, None if it asks for no login, and its `password`.

    Raises:
        ValueError: msmtp could not read it; one line that repeats no secret.

    Source: msmtp(1), "Configuration files": one command in a line of at most 500 characters; a value in double quotes is taken as it
    is, quotes in it included.
    """
    lines = [
        "# Managed by Salt. How alerts leave this droplet; for root alone.",
        "defaults",
        "timeout 30",
        "auth off",
        # A server's certificate is always verified, with what the system trusts.
        f"tls {'off' if security == 'none' else 'on'}",
        f"tls_starttls {'on' if security == 'starttls' else 'off'}",
        "tls_trust_file /etc/ssl/certs/ca-certificates.crt",
        "account default",
        f"host {host}",
        f"port {port}",
        f"from {sender}",
        f"domain {domain}",
    ]
    if user:
        lines += ["auth on", f"user {_quoted('smtp_user', user)}"]
        if password:
            lines.append(f"password {_quoted('smtp_password', password)}")
    return "\n".join(lines) + "\n"


def _quoted(name: str, value: str) -> str:
    if not value.isprintable() or len(value.encode()) > 480:
        raise ValueError(
            f"giggles:secrets:monitoring:{name} cannot be used: msmtp takes at most 480 characters, and none that cannot be printed."
        )
    return f'"{value}"'
