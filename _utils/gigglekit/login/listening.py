"""The socket through which systemd starts sshd on the systems that do it so (Ubuntu from 22.10 on).

While sshd runs without it, systemd refuses to start the socket ("already active, refusing"), and it stays failed: the
socket has to come first. Stopping sshd ends no session, since its unit has `KillMode=process`.
"""

from __future__ import annotations

from ..command import ask
from .errors import LoginError

SOCKET = "ssh.socket"
SERVICE = "ssh.service"


def enabled() -> bool:
    """Tell whether this machine is meant to start sshd by its socket."""
    return ask(["systemctl", "is-enabled", "--quiet", SOCKET])[0] == 0


def listens() -> bool:
    """Tell whether the socket is open."""
    return ask(["systemctl", "is-active", "--quiet", SOCKET])[0] == 0


def listen() -> None:
    """Open the socket, and start sshd again behind it; nothing is done when it is open.

    Raises:
        LoginError: it could not be opened; sshd then runs as before.
    """
    if listens():
        return
    ask(["systemctl", "stop", SERVICE])
    code, said = ask(["systemctl", "start", SOCKET])
    # A connection would start it, too. But without its socket it has to run, and now is when a mistake is noticed.
    ask(["systemctl", "start", SERVICE])
    if code != 0:
        raise LoginError(
            f"{SOCKET} could not be started ({said.strip() or f'code {code}'}), so {SERVICE} was started without it and logins "
            f"go on. See 'journalctl -u {SOCKET} -n 50', then apply again."
        )
