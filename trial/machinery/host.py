"""What the trial needs of the machine it runs on, and what it takes over from it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .errors import TrialError
from .locking import held
from .steps import run, step

_PACKAGE_OF_COMMAND = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "iptables": "iptables",
    "git": "git",
    "openssl": "openssl",
    "ssh-keygen": "openssh-client",
    "losetup": "mount",
    "curl": "curl",
}
_CA_FOLDER = Path("/usr/local/share/ca-certificates")
_LOCAL_APT_OPTIONS = re.compile(r"^Acquire::(?:https?::Proxy|Check-Valid-Until|Check-Date|Max-FutureTime|Retries)\b.*;$", re.MULTILINE)


def require_root() -> None:
    """Refuse to go on without root.

    Raises:
        TrialError: the effective user is not root.
    """
    if os.geteuid() != 0:
        raise TrialError(
            "A trial droplet needs root: it is a machine with its own network, booted by systemd-nspawn. Run the same command with sudo."
        )


def install_packages() -> None:
    """Install what is missing of the packages the trial stands on; does nothing when nothing is.

    Raises:
        TrialError: this is not a Debian-like machine, or apt cannot install them.
    """
    missing = sorted({package for command, package in _PACKAGE_OF_COMMAND.items() if not _found(command)})
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not keyring.exists():
        missing.append("debian-archive-keyring")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise TrialError(
            f"The trial needs the packages {', '.join(missing)}, and this machine has no apt-get to install them with. "
            "Run it on Debian 12 or 13, or install their equivalents by hand."
        )
    with held("packages"), step(f"installed {', '.join(missing)} on this machine"):
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", *missing]
        try:
            run(install, why="Packages for the trial could not be installed", remedy="")
        except TrialError:
            run(
                ["apt-get", "-o", "DPkg::Lock::Timeout=300", "update"],
                why="The package lists could not be refreshed",
                remedy="Check this machine's network and its apt sources.",
            )
            run(
                install,
                why="Packages for the trial could not be installed",
                remedy="Install them by hand with apt-get, then run this again.",
            )


def _found(command: str) -> bool:
    return shutil.which(command, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is not None


def mirrors() -> tuple[str, str | None]:
    """Return the Debian mirror this machine's apt uses, and its security mirror if it has one.

    Raises:
        TrialError: apt knows no Debian archive.
    """
    found = _archives()
    if "Debian" not in found:
        with held("packages"):
            run(["apt-get", "update"], why="The package lists could not be refreshed", remedy="Check apt's sources.")
        found = _archives()
    if "Debian" not in found:
        raise TrialError(
            "apt on this machine knows no Debian archive, so there is nothing to build a Debian droplet from. "
            "Add a Debian source under /etc/apt/sources.list.d, run apt-get update, then this again."
        )
    return found["Debian"], found.get("Debian-Security")


def _archives() -> dict[str, str]:
    listing = run(
        ["apt-get", "indextargets", "--format", "$(LABEL)|$(ORIGIN)|$(REPO_URI)", "Created-By: Packages"],
        why="apt's sources could not be read",
        remedy="Check that apt works on this machine.",
    )
    result: dict[str, str] = {}
    for line in listing.splitlines():
        label, origin, address = line.split("|", 2)
        if origin == "Debian":
            result.setdefault(label, address.rstrip("/"))
    return result


def apt_options() -> str:
    """Return this machine's apt settings about reaching archives (proxies, clock checks), as apt.conf text."""
    dump = run(["apt-config", "dump"], why="apt's settings could not be read", remedy="Check that apt works.")
    return "".join(f"{line}\n" for line in _LOCAL_APT_OPTIONS.findall(dump))


def local_authorities() -> list[Path]:
    """Return the CA certificates that were added to this machine by hand, e.g. of a TLS-inspecting proxy."""
    return sorted(path for path in _CA_FOLDER.glob("**/*.crt") if path.is_file())


def resolvers() -> list[str]:
    """Return the IPv4 name servers this machine asks, none of them on a loopback address.

    Raises:
        TrialError: there is none that a droplet could reach.
    """
    for source in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            text = Path(source).read_text()
        except FileNotFoundError:
            continue
        servers = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", text, re.MULTILINE)
        usable = [server for server in servers if not server.startswith("127.")]
        if usable:
            return usable
    raise TrialError(
        "/etc/resolv.conf names no IPv4 name server that a droplet could reach; loopback ones cannot be. "
        "Name one there, or in /run/systemd/resolve/resolv.conf, then run this again."
    )
