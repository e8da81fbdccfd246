"""The keys by which sshd proves what machine it is, and the primes it offers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..files.replacing import rewrite
from .errors import LoginError
from .keys import read

FOLDER = Path("/etc/ssh")
MODULI = Path("/etc/ssh/moduli")
_SIZE_FIELD = 4


def differences(wanted: Mapping[str, int], folder: Path = FOLDER) -> dict[str, str]:
    """Say which host keys are to be made, removed or given their mode back.

    Arguments:
        wanted: size in bits by kind (`ed25519`, `rsa`); an RSA key may be larger.
        folder: where the keys are.

    Returns:
        By file name, what is to be done and why. Empty when all is right.
    """
    found = {}
    for kind, bits in wanted.items():
        private = folder / f"ssh_host_{kind}_key"
        public = private.with_suffix(".pub")
        if not private.is_file():
            found[private.name] = "to be made: there is none"
            continue
        try:
            size = read(public.read_text()).bits
        except (FileNotFoundError, ValueError):
            found[private.name] = "to be made: its public half cannot be read"
            continue
        if size < bits:
            found[private.name] = f"to be made: it has {size} bits instead of {bits}"
        elif private.stat().st_mode & 0o7777 != 0o600 or private.stat().st_uid != folder.stat().st_uid:
            found[private.name] = "mode to be 0600, owner root"
        elif public.stat().st_mode & 0o7777 != 0o644:
            found[public.name] = "mode to be 0644"
    for path in sorted(folder.glob("ssh_host_*")):
        name = path.name.removesuffix(".pub").removeprefix("ssh_host_").removesuffix("_key")
        if name not in wanted or path.name not in (f"ssh_host_{name}_key", f"ssh_host_{name}_key.pub"):
            found[path.name] = "to be removed: sshd does not use it"
    return found


def bring(wanted: Mapping[str, int], folder: Path = FOLDER) -> None:
    """Make the host keys as `differences` says they should be.

    Raises:
        LoginError: a key could not be made.
    """
    for name, what in differences(wanted, folder).items():
        path = folder / name
        if what.startswith("to be removed"):
            path.unlink()
        elif what.startswith("to be made"):
            kind = name.removeprefix("ssh_host_").removesuffix("_key")
            _make(kind, wanted[kind], path)
        else:
            os.chown(path, folder.stat().st_uid, folder.stat().st_gid)
            path.chmod(0o644 if name.endswith(".pub") else 0o600)


def _make(kind: str, bits: int, path: Path) -> None:
    # Made beside its place and moved there: sshd never meets half a key.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        new = Path(folder) / "key"
        command = ["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-C", f"root@{os.uname().nodename}"]
        done = subprocess.run(
            [*command, "-f", str(new)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise LoginError(
                f"The host key {path} could not be made: ssh-keygen ended with {done.returncode} "
                f"({done.stderr.strip()}). Check that openssh-client is installed and that the disk is "
                "not full, then apply again."
            )
        new.with_suffix(".pub").chmod(0o644)
        new.with_suffix(".pub").replace(path.with_suffix(".pub"))
        new.replace(path)


def weak_moduli(minimum: int, path: Path = MODULI) -> int:
    """Return how many primes of sshd's list have less than `minimum` bits (moduli(5), the fifth field is bits - 1)."""
    try:
        return sum(_bits(line) < minimum for line in path.read_text().splitlines() if _is_prime(line))
    except FileNotFoundError:
        return 0


def drop_weak_moduli(minimum: int, path: Path = MODULI) -> None:
    """Remove those primes from the list."""
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not _is_prime(line) or _bits(line) >= minimum]
    rewrite(path, ("\n".join(kept) + "\n").encode())


def _is_prime(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#") and len(line.split()) > _SIZE_FIELD


def _bits(line: str) -> int:
    return int(line.split()[_SIZE_FIELD]) + 1
