"""Rules as ufw writes them down, and the commands that add and delete them.

ufw keeps each rule of /etc/ufw/user.rules and user6.rules in a comment above the iptables lines it made of it:

    ### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=7368656c6c

The fields are action, protocol, destination port, destination, source port, source, [two application profiles,]
direction with interfaces, [comment in hexadecimal]; see `UFWBackendIptables._read_rules` in ufw 0.36.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from .errors import FirewallError

TUPLE = "### tuple ###"
ACTIONS = ("allow", "deny", "limit", "reject")
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_PORT = re.compile(r"[0-9]{1,5}(:[0-9]{1,5})?")
_KEYS = {"action", "port", "proto", "from", "comment"}


@dataclass(frozen=True)
class Rule:
    """One rule for one IP version, with everything ufw can express.

    Arguments:
        version: 4 or 6.
        action: one of `ACTIONS`.
        protocol: `tcp`, `udp`, another name, or `any`.
        port: destination port, range `a:b`, list `a,b`, or `any`.
        destination: address, network, or `any`.
        source_port: like `port`.
        source: like `destination`.
        application: profile of the destination, or an empty string.
        source_application: profile of the source, or an empty string.
        direction: `in`, `out`, or `route` for forwarded traffic.
        interface_in: name of the receiving interface, or an empty string.
        interface_out: name of the sending interface, or an empty string.
        log: an empty string, `log` or `log-all`.
        comment: the operator's words.
    """

    version: int
    action: str
    protocol: str = "any"
    port: str = "any"
    destination: str = "any"
    source_port: str = "any"
    source: str = "any"
    application: str = ""
    source_application: str = ""
    direction: str = "in"
    interface_in: str = ""
    interface_out: str = ""
    log: str = ""
    comment: str = ""

    def specification(self) -> tuple[str, ...]:
        """Return the arguments by which ufw knows this rule, for this IP version alone, without its comment."""
        words = [self.action]
        if self.direction == "route":
            if self.interface_in:
                words += ["in", "on", self.interface_in]
            if self.interface_out:
                words += ["out", "on", self.interface_out]
        else:
            interface = self.interface_in or self.interface_out
            words += [self.direction] + (["on", interface] if interface else [])
        if self.log:
            words.append(self.log)
        # ufw takes the protocol of an application from its profile and refuses to be told.
        if self.protocol != "any" and not (self.application or self.source_application):
            words += ["proto", self.protocol]
        anywhere = _ANYWHERE[self.version]
        words += ["from", anywhere if self.source == "any" else self.source]
        words += self._end(self.source_application, self.source_port)
        words += ["to", anywhere if self.destination == "any" else self.destination]
        words += self._end(self.application, self.port)
        return tuple(words)

    @staticmethod
    def _end(application: str, port: str) -> list[str]:
        if application:
            return ["app", application]
        return ["port", port] if port != "any" else []

    def to_add(self) -> tuple[str, ...]:
        """Return the ufw arguments that append this rule."""
        route = ("route",) if self.direction == "route" else ()
        comment = ("comment", self.comment) if self.comment else ()
        return (*route, *self.specification(), *comment)

    def to_delete(self) -> tuple[str, ...]:
        """Return the ufw arguments that delete this rule, whatever its number."""
        route = ("route",) if self.direction == "route" else ()
        return (*route, "delete", *self.specification())

    def __str__(self) -> str:
        """Return the rule in short words, the way `ufw show added` puts it."""
        words = ["route", self.action] if self.direction == "route" else [self.action]
        if self.direction == "out":
            words.append("out")
        if self.interface_in:
            words += [*(["in"] if "out" not in words else []), "on", self.interface_in]
        if self.interface_out:
            words += [*(["out"] if "out" not in words else []), "on", self.interface_out]
        if self.log:
            words.append(self.log)
        if self.source != "any" or self.source_port != "any" or self.source_application:
            words += ["from", self.source, *self._end(self.source_application, self.source_port)]
        if self.destination != "any":
            words += ["to", self.destination]
        target = self.application or ("anything" if self.port == "any" else self.port)
        words.append(target + ("" if self.protocol == "any" or self.application else f"/{self.protocol}"))
        if self.version == 6:
            words.append("(v6)")
        if self.comment:
            words.append(f"# {self.comment}")
        return " ".join(words)


def parse(text: str, version: int) -> list[Rule]:
    """Read the rules out of a user.rules file, in its order.

    Arguments:
        text: content of /etc/ufw/user.rules or user6.rules.
        version: 4 or 6, which of the two it is.

    Raises:
        FirewallError: a rule is written in a form that no known ufw writes.
    """
    return [_parse_tuple(line, version) for line in text.splitlines() if line.startswith(TUPLE)]


def _parse_tuple(line: str, version: int) -> Rule:
    fields = line[len(TUPLE) :].split()
    comment = ""
    if fields and fields[-1].startswith("comment="):
        try:
            comment = bytes.fromhex(fields.pop().partition("=")[2]).decode(errors="replace")
        except ValueError:
            comment = ""
    if len(fields) == 6:
        fields = [*fields, "in"]
    application = source_application = ""
    if len(fields) == 9:
        application, source_application = ("" if name == "-" else unquote(name) for name in fields[6:8])
        del fields[6:8]
    if len(fields) != 7:
        raise FirewallError(
            f"ufw's list of IPv{version} rules holds a line that cannot be understood ({line!r}), probably edited by "
            "hand. Remove that line from /etc/ufw/user.rules or /etc/ufw/user6.rules and apply again."
        )
    action, protocol, port, destination, source_port, source, direction = fields
    action, _, log = action.partition("_")
    routed = action.startswith("route:")
    action = action.removeprefix("route:")
    way, interface_in, interface_out = "route" if routed else direction.split("_")[0], "", ""
    for part in direction.split("!"):
        name, _, interface = part.partition("_")
        if name == "in":
            interface_in = interface
        elif name == "out":
            interface_out = interface
    anywhere = _ANYWHERE[version]
    return Rule(
        version=version,
        action=action,
        protocol=protocol,
        port=port,
        destination="any" if destination == anywhere else destination,
        source_port=source_port,
        source="any" if source == anywhere else source,
        application=application,
        source_application=source_application,
        direction=way,
        interface_in=interface_in,
        interface_out=interface_out,
        log=log,
        comment=comment,
    )


def wanted(definitions: Iterable[Mapping[str, Any]], *, ipv6: bool) -> list[Rule]:
    """Turn rules as a state lists them into rules as ufw keeps them, IPv4 first.

    Arguments:
        definitions: mappings with `action` (one of `ACTIONS`), `port` (number, `a:b` or `a,b`), `proto` (`tcp` or
            `udp`), and optionally `from` (address or network) and `comment`.
        ipv6: whether the firewall filters IPv6 as well.

    Raises:
        FirewallError: a definition is wrong, naming it and what is allowed.
    """
    rules: list[Rule] = []
    for definition in definitions:
        rules += _wanted(definition, ipv6=ipv6)
    duplicates = {str(rule) for rule in rules if sum(_same_place(rule, other) for other in rules) > 1}
    if duplicates:
        raise FirewallError(
            f"The firewall is told two things about the same traffic ({'; '.join(sorted(duplicates))}): ufw keeps only "
            "the last of them. Leave one in the list of rules."
        )
    return sorted(rules, key=lambda rule: rule.version)


def _same_place(one: Rule, other: Rule) -> bool:
    return replace(one, action="", log="", comment="") == replace(other, action="", log="", comment="")


def _wanted(definition: Mapping[str, Any], *, ipv6: bool) -> list[Rule]:
    def refuse(problem: str) -> FirewallError:
        return FirewallError(
            f"The firewall rule {dict(definition)!r} {problem}. A rule has an action ({', '.join(ACTIONS)}), a port "
            "(22, 6000:6010 or 80,443), a proto (tcp or udp), and may have a from (address or network) and a comment."
        )

    if unknown := set(definition) - _KEYS:
        raise refuse(f"has the unknown {', '.join(sorted(unknown))}")
    if definition.get("action") not in ACTIONS:
        raise refuse("has no known action")
    if definition.get("proto") not in ("tcp", "udp"):
        raise refuse("has no proto of tcp or udp")
    port = str(definition.get("port", ""))
    for part in port.split(","):
        numbers = part.split(":")
        if not _PORT.fullmatch(part) or any(not 0 < int(number) < 65536 for number in numbers):
            raise refuse("has no valid port")
    versions = (4, 6) if ipv6 else (4,)
    source = "any"
    if definition.get("from") not in (None, "any"):
        try:
            network = ipaddress.ip_network(str(definition["from"]))
        except ValueError as error:
            raise refuse(f"has a from that is no network ({error})") from error
        if network.version not in versions:
            raise refuse("is for IPv6, which this firewall is told not to filter")
        versions = (network.version,)
        source = str(network.network_address) if network.num_addresses == 1 else str(network)
    comment = str(definition.get("comment") or "")
    if "'" in comment or not comment.isprintable():
        raise refuse("has a comment with an apostrophe or a control character, which ufw refuses")
    return [
        Rule(
            version=version,
            action=definition["action"],
            protocol=definition["proto"],
            port=port,
            source=source,
            comment=comment,
        )
        for version in versions
    ]


def admits(rules: Iterable[Rule], port: int, version: int) -> bool:
    """Tell whether the first rule about TCP `port` from anywhere lets new connections in.

    Arguments:
        rules: rules in the order in which ufw applies them.
        port: TCP port number.
        version: 4 or 6.
    """
    for rule in rules:
        if (
            rule.version == version
            and rule.direction == "in"
            and rule.protocol in ("tcp", "any")
            and rule.source == "any"
            and rule.source_port == "any"
            and not rule.interface_in
            and _covers(rule.port, port)
        ):
            return rule.action in ("allow", "limit")
    return False


def _covers(ports: str, port: int) -> bool:
    if ports == "any":
        return True
    for part in ports.split(","):
        low, _, high = part.partition(":")
        if int(low) <= port <= int(high or low):
            return True
    return False
