"""What the kernel enforces, read from iptables-save, and what becomes of one packet in it."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
_TESTER = {4: "192.0.2.1", 6: "2001:db8::1"}
_DEPTH = 32


@dataclass(frozen=True)
class RuleSet:
    """The filter table of one IP version.

    Arguments:
        policies: what becomes of a packet that no rule decides, for each built-in chain.
        chains: the rules of each chain, in order, each as its arguments.
    """

    policies: dict[str, str] = field(default_factory=dict)
    chains: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return policies and rules as text, for comparing and for telling a reader what differs."""
        result = [f"policy {chain} {policy}" for chain, policy in sorted(self.policies.items())]
        for chain, rules in sorted(self.chains.items()):
            result += [f"{chain} {shlex.join(rule)}" for rule in rules]
        return result

    def foreign(self) -> list[str]:
        """Return what ufw did not put here: rules in built-in chains, and chains of other names."""
        found = [
            f"{chain} {shlex.join(rule)}"
            for chain in BUILT_IN
            for rule in self.chains.get(chain, ())
            if not _target(rule).startswith("ufw")
        ]
        return found + [name for name in self.chains if name not in BUILT_IN and not name.startswith("ufw")]


def parse(text: str) -> RuleSet:
    """Read the filter table from what iptables-save or ip6tables-save prints; other tables and counters are skipped."""
    policies: dict[str, str] = {}
    chains: dict[str, list[tuple[str, ...]]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table != "filter":
            continue
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chains.setdefault(name, [])
            if policy != "-":
                policies[name] = policy
        elif line.startswith("-A "):
            _, name, *rule = shlex.split(line)
            chains.setdefault(name, []).append(tuple(rule))
    return RuleSet(policies, {name: tuple(rules) for name, rules in chains.items()})


def verdict(rules: RuleSet, port: int, version: int) -> str:
    """Return ACCEPT, DROP or REJECT: what becomes of a stranger's first packet to a TCP port.

    The packet comes over a network interface from a documentation address (RFC 5737, RFC 3849), so that rules about a
    particular sender or the loopback interface do not decide. A condition that is not understood counts as not met.

    Arguments:
        rules: the filter table.
        port: TCP destination port.
        version: 4 or 6, which table it is.
    """
    return _walk(rules, "INPUT", port, version, 0) or rules.policies.get("INPUT", "ACCEPT")


def _walk(rules: RuleSet, chain: str, port: int, version: int, depth: int) -> str | None:
    if depth > _DEPTH:
        return "DROP"
    for rule in rules.chains.get(chain, ()):
        if not _matches(rule, port, version):
            continue
        target = _target(rule)
        if target in ("ACCEPT", "DROP", "REJECT"):
            return target
        if target == "RETURN":
            return None
        if target in rules.chains:
            decided = _walk(rules, target, port, version, depth + 1)
            if decided:
                return decided
    return None


def _target(rule: Sequence[str]) -> str:
    for option in ("-j", "-g"):
        if option in rule:
            return rule[rule.index(option) + 1]
    return ""


def _matches(rule: Sequence[str], port: int, version: int) -> bool:
    words = list(rule)
    position = 0
    while position < len(words):
        word = words[position]
        negated = word == "!"
        if negated:
            position += 1
            word = words[position]
        value = words[position + 1] if position + 1 < len(words) else ""
        if word in ("-j", "-g"):
            return True
        met = _condition(word, value, port, version)
        if met is negated:
            return False
        # --set, --update, --rsource stand alone; everything else that iptables-save prints has one value.
        position += 1 if word in ("--set", "--update", "--rsource", "--rdest", "--rttl") else 2
    return True


_ALWAYS = frozenset({"-m", "--set", "--rsource", "--rdest", "--name", "--mask", "--limit", "--limit-burst"})
_ALWAYS |= {"--seconds", "--comment"}


def _condition(word: str, value: str, port: int, version: int) -> bool:
    if word == "-s":
        return ipaddress.ip_address(_TESTER[version]) in ipaddress.ip_network(value, strict=False)
    if word in ("--dport", "--dports"):
        return any(_within(part, port) for part in value.split(","))
    decided = {
        "-p": value == "tcp",
        "--ctstate": "NEW" in value.split(","),
        "--dst-type": "LOCAL" in value.split(","),
        "-i": value != "lo",
    }
    return word in _ALWAYS or decided.get(word, False)


def _within(ports: str, port: int) -> bool:
    low, _, high = ports.partition(":")
    return low.isdigit() and int(low) <= port <= int(high or low)
