"""Keep every mail that arrives over SMTP as one .eml file.

Usage: mail_sink.py ADDRESS PORT FOLDER

Each file begins with X-Envelope-From and X-Envelope-To, since a mail's own headers need not name its recipients.
"""

from __future__ import annotations

import signal
import sys
import time
from email.message import Message
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    """Writes mails into a folder.

    Arguments:
        folder: where; each file appears there complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 (the protocol's)
        """Store one mail; the SMTP server calls this (aiosmtpd's handler protocol) and sends the answer returned."""
        self._count += 1
        head = Message()
        head["X-Envelope-From"] = envelope.mail_from or "<>"
        head["X-Envelope-To"] = ", ".join(envelope.rcpt_tos)
        content = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        name = f"{time.time_ns()}-{self._count:04d}.eml"
        incoming = self._folder / f".{name}"
        incoming.write_bytes(head.as_bytes().rstrip(b"\n") + b"\r\n" + content)
        incoming.rename(self._folder / name)
        return "250 Kept"


def main() -> None:
    """Serve until told to end."""
    address, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    controller = Controller(Sink(folder), hostname=address, port=port)
    controller.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    controller.stop()


if __name__ == "__main__":
    main()
