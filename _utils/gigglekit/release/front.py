"""nginx, as a user on this very droplet meets it: TLS, the right name, the certificate that it is meant to serve, and its log."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from gigglekit.release.health import AGENT, Answer, get

_LINE = re.compile(rb'^\S+ - - \[[^]]*\] "(?P<method>\S+) (?P<path>\S+) [^"]*" (?P<status>\d+) \d+ .* upstream=(?P<upstream>[\d, :-]+)$')
# Always answers 500 upstream, whatever the release (docs of the app): a user who tries it says nothing about this one.
_KNOWN = re.compile(rb"/api/laughter-detections/[^/]*$")
# nginx refuses it by itself, so that an app which hangs does not look like an nginx that is away.
_REFUSED = "/.giggles-gate"
_AGENT = f'"{AGENT}"'.encode()


@dataclass(frozen=True)
class Front:
    """How nginx is reached.

    Arguments:
        domain: name of the site.
        address: where it listens.
        certificate: the chain that it is meant to serve, the placeholder or the real one.
        log: its access log.
    """

    domain: str
    address: tuple[str, int] = ("127.0.0.1", 443)
    certificate: Path = Path("/etc/nginx/tls/current/fullchain.pem")
    log: Path = Path("/var/log/nginx/access.log")

    def ask(self, page: str, seconds: float) -> Answer:
        """Ask for a page, over TLS.

        Arguments:
            page: absolute path of the page.
            seconds: how long the answer may take.
        """
        return get(_Connection(self, seconds), page, self.domain)

    def unreachable(self, seconds: float = 10.0) -> str:
        """Return why nginx itself cannot be asked; "" if it can, whatever the app behind it answers."""
        return self.ask(_REFUSED, seconds).trouble


class _Connection(http.client.HTTPConnection):
    def __init__(self, front: Front, timeout: float) -> None:
        super().__init__(front.address[0], front.address[1], timeout=timeout)
        self._front = front

    def connect(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        # Who signed it is no question here: the placeholder signed itself. It has to be the very one that lies on this droplet.
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(self._front.address, timeout=self.timeout)
        try:
            secured = context.wrap_socket(plain, server_hostname=self._front.domain)
        except BaseException:
            plain.close()
            raise
        self.sock = secured
        if secured.getpeercert(binary_form=True) != _leaf(self._front.certificate):
            raise OSError("nginx serves another certificate than the one in /etc/nginx/tls/current")


def _leaf(chain: Path) -> bytes:
    text = chain.read_text(encoding="ascii")
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)])


class Traffic:
    """What users are answered from now on, by nginx's access log.

    Arguments:
        log: the log.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._asked = self._failed = 0
        try:
            found = log.stat()
            self._inode, self._offset = found.st_ino, found.st_size
        except OSError:
            self._inode, self._offset = 0, 0

    def counted(self) -> tuple[int, int]:
        """Return how many requests of users the app was asked since then, and how many of them it failed (5xx, or no answer)."""
        try:
            with self._log.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    # Rotated meanwhile: what is lost are a few lines of the old one.
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole, end, _ = file.read().rpartition(b"\n")
        except OSError:
            return self._asked, self._failed
        # What nginx has only half written is read with the rest of it.
        self._offset += len(whole) + len(end)
        for line in whole.splitlines():
            found = _LINE.match(line)
            if found is None or _AGENT in line or found["upstream"] == b"-":
                continue
            if found["method"] == b"DELETE" and _KNOWN.match(found["path"]):
                continue
            self._asked += 1
            self._failed += found["status"].startswith(b"5")
        return self._asked, self._failed
