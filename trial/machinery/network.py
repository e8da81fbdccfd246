"""One bridge on this machine, with a network namespace for each machine of each trial.

The bridge, two forwarding flags and three firewall rules exist while any trial does. Everything is looked up in the
kernel rather than remembered, so that a command killed half-way leaves nothing that the next one cannot find.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import TrialError
from .locking import held
from .settings import BRIDGE, GATEWAY, NETWORK_PREFIX, state_directory
from .steps import run, succeeds

_SUBNET = f"{NETWORK_PREFIX}.0/24"
_MARK = ("-m", "comment", "--comment", BRIDGE)
_RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("nat", "POSTROUTING", ("-s", _SUBNET, "!", "-d", _SUBNET, *_MARK, "-j", "MASQUERADE")),
    ("filter", "FORWARD", ("-i", BRIDGE, *_MARK, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-o", BRIDGE, *_MARK, "-j", "ACCEPT")),
)
NAMESPACE_PREFIX = "giggles-"
_NAMESPACES = Path("/run/netns")
_REMEDY = "`trial/droplet down --purge` of every trial removes the network; run this again after it."


@dataclass(frozen=True)
class Port:
    """Where one machine is plugged in.

    Arguments:
        namespace: its network namespace's name.
        link: the name of the cable's end on this machine.
        address: its IPv4 address.
    """

    namespace: str
    link: str
    address: str

    @property
    def path(self) -> Path:
        """The namespace as a file."""
        return _NAMESPACES / self.namespace


def _ip(*arguments: str) -> str:
    return run(["ip", *arguments], why="The trial's network could not be set up", remedy=_REMEDY)


def _flag(interface: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / interface / "forwarding"


def _uplinks() -> dict[str, int]:
    """Return the interfaces with a default route, with their largest packet in bytes."""
    routes = json.loads(_ip("-4", "-json", "route", "show", "default") or "[]")
    names = {str(route["dev"]) for route in routes if "dev" in route}
    return {name: int(_link(name)["mtu"]) for name in sorted(names)}


def _link(name: str) -> dict[str, Any]:
    """Return what the kernel says of an interface. Not from /sys, which may show another network namespace's."""
    links: list[dict[str, Any]] = json.loads(_ip("-json", "link", "show", "dev", name))
    return links[0]


def _owner() -> str:
    """Return the state directory whose trials the bridge belongs to, nothing when there is none."""
    if not succeeds(["ip", "link", "show", BRIDGE]):
        return ""
    return str(_link(BRIDGE).get("ifalias", ""))


def _before() -> Path:
    return state_directory() / "network-before.json"


def _ensure() -> None:
    """Make the bridge, its way out and its rules, unless they exist."""
    uplinks = _uplinks()
    if not succeeds(["ip", "link", "show", BRIDGE]):
        _ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    owner = _owner()
    if owner and owner != str(state_directory()):
        raise TrialError(
            f"The bridge {BRIDGE} belongs to trials kept in {owner}, and this command keeps its own in "
            f"{state_directory()}. Two of them would hand out the same addresses. Use the same GIGGLES_TRIAL_DIR, or "
            "purge the others first."
        )
    _ip("link", "set", BRIDGE, "alias", str(state_directory()))
    _ip("link", "set", BRIDGE, "mtu", str(min([1500, *uplinks.values()])), "up")
    _ip("address", "replace", f"{GATEWAY}/24", "dev", BRIDGE)
    known: dict[str, str] = json.loads(_before().read_text()) if _before().exists() else {}
    for name in uplinks:
        known.setdefault(name, _flag(name).read_text().strip())
    # Written down before it is changed: a kill in between must not make the change look original.
    _before().write_text(json.dumps(known))
    for name in (*uplinks, BRIDGE):
        _flag(name).write_text("1")
    for table, chain, rule in _RULES:
        if not succeeds(["iptables", "-w", "-t", table, "-C", chain, *rule]):
            run(
                ["iptables", "-w", "-t", table, "-I", chain, *rule],
                why="The firewall rule that lets the trial's machines out could not be added",
                remedy="Check that iptables works on this machine.",
            )


def _remove() -> None:
    """Take the bridge and its rules away and set the forwarding flags as they were found; idempotent."""
    for table, chain, rule in _RULES:
        while succeeds(["iptables", "-w", "-t", table, "-C", chain, *rule]):
            run(
                ["iptables", "-w", "-t", table, "-D", chain, *rule],
                why="A firewall rule could not be removed",
                remedy=f"Remove the rules commented {BRIDGE} with iptables -D.",
            )
    if succeeds(["ip", "link", "show", BRIDGE]):
        _ip("link", "delete", BRIDGE)
    if _before().exists():
        for name, value in json.loads(_before().read_text()).items():
            if _flag(name).exists():
                _flag(name).write_text(str(value))
        _before().unlink()


def plug_in(port: Port) -> None:
    """Connect a machine to the network from scratch, making the network first if this is the first one.

    Raises:
        TrialError: another state directory's trials own the network, or the kernel refuses.
    """
    with held("network"):
        _ensure()
        _unplug(port)
        _ip("netns", "add", port.namespace)
        _ip("link", "add", port.link, "type", "veth", "peer", "name", "eth0", "netns", port.namespace)
        mtu = str(_link(BRIDGE)["mtu"])
        _ip("link", "set", port.link, "mtu", mtu, "master", BRIDGE, "up")
        inside = ("-n", port.namespace)
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", "eth0", "mtu", mtu, "up")
        _ip(*inside, "address", "add", f"{port.address}/24", "dev", "eth0")
        _ip(*inside, "route", "add", "default", "via", GATEWAY)


def unplug(port: Port) -> None:
    """Disconnect a machine, and take the network away with the last one; a disconnected one is fine."""
    with held("network"):
        if _owner() not in ("", str(state_directory())):
            return
        _unplug(port)
        if not any(_NAMESPACES.glob(f"{NAMESPACE_PREFIX}*")):
            _remove()


def _unplug(port: Port) -> None:
    if succeeds(["ip", "link", "show", port.link]):
        _ip("link", "delete", port.link)
    if port.path.exists():
        _ip("netns", "delete", port.namespace)
