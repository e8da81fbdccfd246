"""A mail server for tests that lets somebody in only by a login, and certificates for it, right ones and wrong ones.

Sources: RFC 5321 (SMTP), RFC 3207 (STARTTLS), RFC 4954 (AUTH) with RFC 4616 (PLAIN).
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "planted-mail-user", 'planted "mail" pass#word \\ üp'


@dataclass
class Served:
    """What a server was told, and what it took.

    Arguments:
        port: where it listens, on this machine.
        clear: lines that came before the connection was encrypted.
        encrypted: lines that came after it.
        mails: what was taken.
    """

    port: int = 0
    clear: list[str] = field(default_factory=list)
    encrypted: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)

    @property
    def heard_in_the_clear(self) -> str:
        """Return all that somebody on the line could have read."""
        return "\n".join(self.clear)


@contextmanager
def mail_server(*, security: str, certificate: Path | None, offers_starttls: bool = True, refuses: str = "\0") -> Iterator[Served]:
    """Have a mail server.

    Arguments:
        security: `starttls` or `tls`: when the connection is encrypted.
        certificate: its certificate and key; None for a server that cannot encrypt.
        offers_starttls: False for one whose offer somebody on the line has removed.
        refuses: words with which it takes no mail.
    """
    served = Served()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    class Conversation(socketserver.StreamRequestHandler):
        timeout = 30

        def encrypt(self) -> None:
            assert context is not None
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)  # type: ignore[assignment]

        def say(self, *lines: str) -> None:
            self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

        def line(self) -> str:
            line = self.rfile.readline(2000).decode(errors="replace").rstrip("\r\n")
            (served.encrypted if isinstance(self.connection, ssl.SSLSocket) else served.clear).append(line)
            return line

        def handle(self) -> None:
            # A client that does not trust the certificate breaks off, which is what some of the tests are about.
            with contextlib.suppress(OSError):
                if security == "tls":
                    self.encrypt()
                self.converse()

        def converse(self) -> None:
            let_in = False
            self.say("220 mail.test")
            while line := self.line():
                verb, _, rest = line.partition(" ")
                secured = isinstance(self.connection, ssl.SSLSocket)
                match verb.upper():
                    case "EHLO":
                        offer = ["250-STARTTLS"] if security == "starttls" and offers_starttls and not secured else []
                        # Offered in the clear as well, as a stranger on the line would to learn the password.
                        self.say("250-mail.test", *offer, "250 AUTH PLAIN LOGIN")
                    case "STARTTLS" if offers_starttls:
                        self.say("220 go on")
                        self.encrypt()
                    case "AUTH":
                        let_in = self.login(rest)
                        self.say("235 come in" if let_in else "535 planted words of the server about you@example.test")
                    case "MAIL" | "RCPT":
                        self.say("250 ok" if let_in else "530 log in first")
                    case "DATA" if let_in:
                        self.say("354 go on")
                        mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                        if refuses.encode() in mail:
                            self.say("554 planted words of the server about you@example.test")
                        else:
                            served.mails.append(mail)
                            self.say("250 taken")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("502 not here")

        def login(self, rest: str) -> bool:
            method, _, said = rest.partition(" ")
            if method.upper() != "PLAIN":
                return False
            if not said:
                self.say("334 ")
                said = self.line()
            return base64.b64decode(said).split(b"\0")[1:] == [USER.encode(), PASSWORD.encode()]

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation) as server:
        server.daemon_threads = True
        served.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Authority:
    """A certificate authority of a test's own.

    Arguments:
        folder: where its files lie.
    """

    folder: Path
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)

    @property
    def root(self) -> Path:
        """Its own certificate, for those who trust it."""
        path = self.folder / "root.pem"
        if not path.exists():
            path.write_bytes(self._sign(self._key.public_key(), "authority", None, 30).public_bytes(serialization.Encoding.PEM))
        return path

    def certificate(self, name: str, *, days: int = 30) -> Path:
        """Return a file with a key and a certificate for a name, which ends in so many days, or ended before."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(key.public_key(), name, name, days)
        path = self.folder / f"{name}.{days}.pem"
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + made.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _sign(self, key: ec.EllipticCurvePublicKey, subject: str, name: str | None, days: int) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
        )
        if name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())
