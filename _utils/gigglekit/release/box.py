"""A box for strangers' build scripts: an account of its own that sees no secret, no data, and nobody to talk to but the network.

Whatever a package runs while it is built or installed runs in here, and has ended when the box is closed: systemd kills
what is left of its control group. Only then does anybody look at what it made.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gigglekit.command import SYSTEM_PATH, Outcome, run
from gigglekit.release.dotenv import systemd_file
from gigglekit.release.errors import BuildError

ACCOUNT = "giggles-build"
# Root's own: what lies in here may hold a password for a package index.
_DESK = Path("/run/giggles-build")
_HIDDEN = (
    "/etc/giggles",
    "/etc/letsencrypt",
    "/etc/salt",
    "/etc/ssh",
    "/etc/shadow",
    "/etc/gshadow",
    "/opt/giggles/.env",
    "/opt/giggles/process.env",
    "/opt/giggles/repository.git",
    "/root",
    "/run/dbus",
    "/run/giggles.sock",
    "/run/giggles-build",
    "/run/systemd/private",
    "/srv/giggles-salt",
    "/var/cache/giggles",
    "/var/cache/salt",
    "/var/lib/giggles",
    "/var/log",
    "/var/spool",
)
# No AF_UNIX: no D-Bus, no systemd, no database. Names are resolved over UDP by the libc, through systemd's stub as well.
_WALLS = (
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6",
    "IPAddressDeny=link-local",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "LimitCORE=0",
    "UMask=0022",
    # When memory runs out, the build goes and the live app stays.
    "OOMScoreAdjust=700",
)


def account() -> pwd.struct_passwd:
    """Return the account that builds.

    Raises:
        BuildError: it does not exist, or is root.
    """
    try:
        found = pwd.getpwnam(ACCOUNT)
    except KeyError as error:
        raise BuildError(
            f"The account {ACCOUNT}, which packages are built as, does not exist. Apply the state that makes it: "
            "salt-call state.apply app.account. The live release was left as it is."
        ) from error
    if found.pw_uid == 0 or found.pw_gid == 0:
        raise BuildError(
            f"The account {ACCOUNT} has the number of root, and what it builds is strangers' code. Remove it with "
            f"userdel {ACCOUNT}, then apply again, which makes it anew. The live release was left as it is."
        )
    return found


def run_boxed(
    argv: Sequence[str], environment: Mapping[str, str], writable: Sequence[Path], *, seconds: int, desk: Path = _DESK
) -> Outcome:
    """Run a command in the box, to the end of all its children.

    Arguments:
        argv: program and arguments; nothing secret.
        environment: all variables it gets besides those that say where it is. They may be secret: they reach it through
            a file that only root can read and that is removed at the end, since systemd shows a unit's variables to
            everybody who asks.
        writable: folders it may write besides its own /tmp, if their owner lets it.
        seconds: how long it may take.
        desk: folder for that file; made if it is missing.

    Returns:
        How it ended.

    Raises:
        CommandTimeoutError: it did not end in time.
        OSError: systemd-run is missing, or the file could not be written.
    """
    desk.mkdir(mode=0o700, exist_ok=True)
    desk.chmod(0o700)
    # Of a run that was killed before it could tidy up; there is one build at a time.
    for left in desk.glob("*.env"):
        left.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(dir=desk, suffix=".env")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # Its own /tmp, which ends with it.
            file.write(systemd_file({"HOME": "/tmp", "PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **environment}))  # noqa: S108
        box = [
            "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec",
            f"--property=RuntimeMaxSec={seconds}", "--property=WorkingDirectory=/",
            f"--property=User={ACCOUNT}", f"--property=Group={ACCOUNT}",
            *(f"--property={wall}" for wall in _WALLS),
            f"--property=ReadWritePaths={' '.join(map(str, writable))}",
            f"--property=InaccessiblePaths={' '.join('-' + path for path in _HIDDEN)}",
            f"--property=EnvironmentFile={name}",
        ]  # fmt: skip
        return run([*box, *argv], seconds=seconds + 30)
    finally:
        Path(name).unlink(missing_ok=True)
