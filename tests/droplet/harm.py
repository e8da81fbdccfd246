"""Whether a droplet came to harm: does it serve all the time, is everything on it as it was, can one still log in?"""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .conftest import Droplet

_PAUSE = 0.3
_PATIENCE = 60
_LOGIN_PAUSE = 6.0
"""The firewall lets six connections in half a minute through to ssh."""
_last_login = 0.0

# A run that fails is recorded all the same, and what looks at the droplet every five minutes notes what it saw. The image of a volume
# that is mounted is written to whenever the kernel likes.
_PICTURE = r"""
find /etc /opt/giggles /opt/certbot /usr/local /var/lib/giggles /var/spool/cron /root /home -xdev \
  \( -path /opt/giggles/python -o -path /opt/giggles/repository.git -o -path /root/.cache \
     -o -path /etc/giggles/pillar/droplet.sls -o -name '*.lock' -o -name __pycache__ \
     -o -path /var/lib/giggles/records/converge.jsonl -o -path /var/lib/giggles/converge \
     -o -path '/var/lib/giggles/records/alerts*' -o -path '/var/lib/giggles/records/.alerts*' -o -path /var/lib/giggles/records/disk.jsonl \
     -o -path '/var/lib/giggles/records/.disk.jsonl.*' -o -path '/var/lib/giggles/records/.status.jsonl.*' \
     -o -path '/var/lib/giggles/records/.converge.jsonl.*' \
     -o -path /var/lib/giggles/records/status.jsonl -o -path /var/lib/giggles/alerts \) -prune \
  -o -path /var/lib/giggles/vault.img -printf '%p %y %m %U:%G %s\n' \
  -o -printf '%p %y %m %U:%G %l' \( -type d -printf '\n' -o -printf ' %s %T@\n' \)
systemctl show --property=Id,MainPID,ActiveState,UnitFileState giggles.service giggles.socket nginx.service ssh.service \
  fail2ban.service cron.service
iptables-save | sed 's/\[.*//; /^#/d; /f2b-/d'
"""


@contextmanager
def serving(droplet: Droplet) -> Iterator[list[str]]:
    """Ask for the app over HTTPS during the block, and insist at its end that every request was answered.

    Yields:
        What went wrong so far.
    """
    failures: list[str] = []
    stop, asked = threading.Event(), 0

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            asked += 1
            try:
                status = droplet.request(path="/api/health", timeout=_PATIENCE).status
                if status != 200:
                    failures.append(f"{time.strftime('%T')}: status {status}")
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{time.strftime('%T')}: {error!r}")
            stop.wait(_PAUSE)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(_PATIENCE + 10)
    assert asked
    assert not failures, f"{len(failures)} of {asked} requests failed while this ran: {failures[:5]}"


@contextmanager
def unharmed(droplet: Droplet) -> Iterator[None]:
    """Insist that the block harms nothing: the app answers all the while, and afterwards everything is as before."""
    before = picture(droplet)
    with serving(droplet):
        yield
    changed = before ^ picture(droplet)
    assert not changed, f"this changed although nothing should have: {sorted(changed)[:20]}"
    if time.monotonic() - _last_login > _LOGIN_PAUSE:
        login(droplet)


def picture(droplet: Droplet) -> frozenset[str]:
    """Return a line for every file, service and firewall rule that matters, to be compared with a later one."""
    lines = frozenset(droplet.shell(_PICTURE).splitlines())
    assert len(lines) > 500, "an empty picture stays the same whatever happens"
    return lines


def login(droplet: Droplet) -> None:
    """Log in from outside as the administrator, and become root."""
    global _last_login  # noqa: PLW0603
    ssh = droplet.info["ssh"]
    done = subprocess.run(
        ["ssh", "-i", ssh["private_key"], "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "LogLevel=ERROR",
         "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", f"{ssh['user']}@{droplet.info['ip']}",
         "sudo -n id -u"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    _last_login = time.monotonic()
    assert done.stdout.strip() == "0", f"the administrator cannot log in any more: {done.stderr}"
