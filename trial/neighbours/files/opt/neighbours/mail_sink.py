"""Keep every mail that arrives over SMTP as one .eml file.

Usage: mail_sink.py ADDRESS PORT FOLDER SUBMISSION-PORT CERTIFICATE KEY LOGIN

At PORT everybody may leave mail; at SUBMISSION-PORT only over STARTTLS and with the login that is in the JSON file LOGIN (`user`,
`password`). Each file begins with X-Envelope-From and X-Envelope-To, since a mail's own headers need not name its recipients, and
with X-Login if there was one.
"""

from __future__ import annotations

import json
import signal
import ssl
import sys
import time
from email.message import Message
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class Sink:
    """Writes mails into a folder.

    Arguments:
        folder: where; each file appears there complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 (the protocol's)
        """Store one mail; the SMTP server calls this (aiosmtpd's handler protocol) and sends the answer returned."""
        self._count += 1
        head = Message()
        head["X-Envelope-From"] = envelope.mail_from or "<>"
        head["X-Envelope-To"] = ", ".join(envelope.rcpt_tos)
        if session.authenticated:
            head["X-Login"] = str(session.auth_data)
        content = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        name = f"{time.time_ns()}-{self._count:04d}.eml"
        incoming = self._folder / f".{name}"
        incoming.write_bytes(head.as_bytes().rstrip(b"\n") + b"\r\n" + content)
        incoming.rename(self._folder / name)
        return "250 Kept"


def main() -> None:
    """Serve until told to end."""
    address, port, folder, submission, certificate, key, login = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    sink = Sink(Path(folder))
    known = json.loads(Path(login).read_text(encoding="utf-8"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def let_in(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: LoginPassword) -> AuthResult:
        right = (given.login, given.password) == (known["user"].encode(), known["password"].encode())
        return AuthResult(success=right, auth_data=known["user"])

    controllers = (
        Controller(sink, hostname=address, port=int(port)),
        Controller(
            sink,
            hostname=address,
            port=int(submission),
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            authenticator=let_in,
        ),
    )
    for controller in controllers:
        controller.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for controller in controllers:
        controller.stop()


if __name__ == "__main__":
    main()
