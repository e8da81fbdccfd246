"""The private keys below certbot's configuration folder are for root alone.

certbot makes them so, and on each renewal gives the new key the mode of the old one: a key opened once stays open.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gigglekit.certificate.errors import CertificateError

_FOLDERS = ("accounts", "archive", "live")
_KEYS = ("archive/*/privkey*.pem", "accounts/**/private_key.json")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def exposed(config_dir: Path) -> dict[Path, str]:
    """Return the keys, and the folders that hold them, which belong to somebody else or which others have rights to.

    Args:
        config_dir: certbot's configuration folder, usually /etc/letsencrypt; it need not exist.

    Returns:
        For each path its owner, group and mode, such as `0:0 0644`. Links are not followed.
    """
    paths = [config_dir / folder for folder in _FOLDERS]
    for pattern in _KEYS:
        paths += config_dir.glob(pattern)
    found = {}
    for path in paths:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(status.st_mode):
            continue
        if status.st_mode & _OTHERS or (status.st_uid, status.st_gid) != (0, 0):
            found[path] = f"{status.st_uid}:{status.st_gid} {stat.S_IMODE(status.st_mode):04o}"
    return dict(sorted(found.items()))


def close(path: Path) -> None:
    """Give one path that `exposed` named to root, and take everybody else's rights to it away.

    Raises:
        CertificateError: the owner or the mode cannot be changed.
    """
    try:
        os.chown(path, 0, 0, follow_symlinks=False)
        path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS)
    except OSError as error:
        raise CertificateError(
            f"Owner and mode of {path} could not be set: {error.strerror}. It leads to a private key, which must be "
            "readable to root alone. Look for an immutable flag (lsattr) or a read-only mount, then apply again."
        ) from error
