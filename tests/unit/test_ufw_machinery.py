"""Bringing a firewall to its rules: against a ufw that keeps its files as the real one does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from gigglekit.firewall.errors import FirewallError
from gigglekit.firewall.rules import TUPLE, Rule, parse, wanted
from gigglekit.firewall.ufw import RECORD, Firewall, Wish

SSH = {"action": "limit", "port": 22, "proto": "tcp", "comment": "ssh"}
WEB = {"action": "allow", "port": 443, "proto": "tcp"}


def wish(*definitions: dict[str, object], **more: object) -> Wish:
    return Wish(rules=tuple(wanted(definitions or (SSH, WEB), ipv6=True)), **more)  # type: ignore[arg-type]


class Machine:
    """Just enough of ufw and iptables: the rules in its files, and kernel tables made of them by a reload."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []
        self.enforced: dict[int, list[str]] = {4: [], 6: []}
        self.policy = {4: "ACCEPT", 6: "ACCEPT"}
        self.built = {4: False, 6: False}
        self.deaf = False
        for folder in ("usr/sbin", "usr/share/ufw/iptables", "etc/ufw", "etc/default", "var/lib/giggles"):
            (root / folder).mkdir(parents=True)
        (root / "usr/sbin/ufw").touch()
        (root / "etc/ufw/ufw.conf").write_text("# comment\nENABLED=no\nLOGLEVEL=low\n")
        for name in ("before.rules", "before6.rules", "after.rules", "after6.rules"):
            (root / "usr/share/ufw/iptables" / name).write_text(f"packaged {name}\n")
        for name in ("before.init", "after.init"):
            (root / "usr/share/ufw" / name).write_text("#!/bin/sh\n")

    def path(self, version: int) -> Path:
        return self.root / ("etc/ufw/user.rules" if version == 4 else "etc/ufw/user6.rules")

    def rules(self, version: int) -> list[Rule]:
        return parse(self.path(version).read_text(), version) if self.path(version).exists() else []

    def write(self, version: int, rules: Sequence[Rule]) -> None:
        anywhere = "0.0.0.0/0" if version == 4 else "::/0"
        lines = []
        for rule in rules:
            source = anywhere if rule.source == "any" else rule.source
            comment = f" comment={rule.comment.encode().hex()}" if rule.comment else ""
            lines.append(f"{TUPLE} {rule.action} {rule.protocol} {rule.port} {anywhere} any {source} in{comment}\n")
        self.path(version).write_text("".join(lines))

    def hand_adds(self, rule: Rule) -> None:
        self.write(rule.version, [*self.rules(rule.version), rule])

    def load(self) -> None:
        """Do as ufw-init does: jumps from INPUT are made together with the chains, and foreign rules are left alone."""
        for version in (4, 6):
            prefix = "ufw" if version == 4 else "ufw6"
            self.policy[version] = "DROP"
            kept = [line for line in self.enforced[version] if not line.startswith(f"-A {prefix}-")]
            jump = [] if self.built[version] else [f"-A INPUT -j {prefix}-user-input"]
            self.built[version] = True
            self.enforced[version] = [*kept, *jump] + [
                f"-A {prefix}-user-input -p tcp -m tcp --dport {rule.port} -j ACCEPT"
                for rule in self.rules(version)
                if rule.action in ("allow", "limit")
            ]

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        text = " ".join(command)
        if command[0].endswith("-save"):
            version = 6 if command[0].startswith("ip6") else 4
            chains = sorted({line.split()[1] for line in self.enforced[version]} - {"INPUT"})
            head = ["*filter", f":INPUT {self.policy[version]} [12:34]", *(f":{chain} - [0:0]" for chain in chains)]
            return 0, "\n".join([*head, *self.enforced[version], "COMMIT"])
        self.commands.append(text)
        if command[0] in ("iptables", "ip6tables"):
            version = 6 if command[0] == "ip6tables" else 4
            if "-F" in command:
                self.enforced[version] = []
            if "-X" in command:
                self.built[version] = False
            if "-P" in command:
                self.policy[version] = "ACCEPT"
            return 0, ""
        if self.deaf:
            return 1, "ERROR: problem running ufw\n"
        words = list(command[1:])
        configuration = self.root / "etc/ufw/ufw.conf"
        if words == ["--force", "enable"]:
            configuration.write_text(configuration.read_text().replace("ENABLED=no", "ENABLED=yes"))
            self.load()
        elif words == ["--force", "disable"]:
            configuration.write_text(configuration.read_text().replace("ENABLED=yes", "ENABLED=no"))
            self.enforced = {4: [], 6: []}
        elif words == ["reload"]:
            self.load()
        elif words[0] == "logging":
            lines = [line for line in configuration.read_text().splitlines() if not line.startswith("LOGLEVEL")]
            configuration.write_text("\n".join([*lines, f"LOGLEVEL={words[1]}"]) + "\n")
            for version in (4, 6):
                self.write(version, self.rules(version))
        else:
            self.change(words)
        return 0, ""

    def change(self, words: list[str]) -> None:
        version = 6 if ":" in words[words.index("to") + 1] else 4
        current = self.rules(version)
        if words[0] == "delete":
            self.write(version, [rule for rule in current if list(rule.specification()) != words[1:]])
            return
        comment = words[words.index("comment") + 1] if "comment" in words else ""
        source = words[words.index("from") + 1]
        new = Rule(
            version=version,
            action=words[0],
            protocol=words[words.index("proto") + 1],
            port=words[-3] if comment else words[-1],
            source="any" if source.endswith("/0") else source,
            comment=comment,
        )
        place = next((n for n, rule in enumerate(current) if rule.port == new.port and rule.source == new.source), None)
        if place is None:
            current.append(new)
        else:
            current[place] = new
        self.write(version, current)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def firewall(machine: Machine) -> Firewall:
    return Firewall(machine.root, machine)


def test_from_nothing_to_the_exact_rules_and_then_nothing_more(machine: Machine, firewall: Firewall) -> None:
    found = firewall.differences(wish())
    assert found["rules"] == {"added": ["limit 22/tcp # ssh", "allow 443/tcp", "limit 22/tcp (v6) # ssh", "allow 443/tcp (v6)"]}
    assert found["enabled"] == {"old": False, "new": True}
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}
    first_rule = next(n for n, command in enumerate(machine.commands) if "port 22" in command)
    assert first_rule < machine.commands.index("ufw --force enable"), "ssh is let in before the firewall is on"


def test_without_ufw_everything_is_announced_and_nothing_is_asked(tmp_path: Path) -> None:
    def nobody(command: Sequence[str]) -> tuple[int, str]:
        raise AssertionError(command)

    assert set(Firewall(tmp_path, nobody).differences(wish())) == {"rules", "enabled"}


def test_leftovers_go_and_are_named(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    machine.hand_adds(Rule(4, "allow", "tcp", "8080"))
    machine.hand_adds(Rule(6, "allow", "tcp", "25", source="2001:db8::/32"))
    assert firewall.differences(wish())["rules"] == {"removed": ["allow 8080/tcp", "allow from 2001:db8::/32 25/tcp (v6)"]}
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}
    assert [rule.port for rule in machine.rules(4)] == ["22", "443"]


def test_a_weakened_rule_is_replaced(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    machine.write(4, [replace(rule, action="allow") for rule in machine.rules(4)])
    assert firewall.differences(wish())["rules"] == {"added": ["limit 22/tcp # ssh"], "removed": ["allow 22/tcp # ssh"]}
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}


def test_rules_in_another_order_are_put_in_order(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    machine.write(4, machine.rules(4)[::-1])
    assert firewall.differences(wish())["rules"] == {"order": ["limit 22/tcp # ssh", "allow 443/tcp"]}
    firewall.bring(wish())
    assert [rule.port for rule in machine.rules(4)] == ["22", "443"]


@pytest.mark.parametrize("line", ["-A INPUT -p tcp -m tcp --dport 9999 -j ACCEPT", "-A evil -j ACCEPT"])
def test_rules_put_into_the_kernel_behind_its_back_are_noticed_and_removed(machine: Machine, firewall: Firewall, line: str) -> None:
    firewall.bring(wish())
    machine.enforced[4].insert(0, line)
    assert firewall.differences(wish())["enforced"] == {"removed": [line.removeprefix("-A ")]}
    firewall.bring(wish())
    assert line not in machine.enforced[4]
    assert firewall.differences(wish()) == {}


def test_a_flushed_kernel_table_is_noticed_and_filled(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    machine.enforced[4] = []
    machine.policy[4] = "ACCEPT"
    found = firewall.differences(wish())
    assert "policy INPUT DROP" in found["enforced"]["added"]
    assert "policy INPUT ACCEPT" in found["enforced"]["removed"]
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}


@pytest.mark.parametrize("name", ["etc/default/ufw", "etc/ufw/before.rules", "etc/ufw/after6.rules"])
def test_an_edited_file_is_noticed_and_put_back(machine: Machine, firewall: Firewall, name: str) -> None:
    firewall.bring(wish())
    before = (machine.root / name).read_text()
    (machine.root / name).write_text(before + "-A ufw-before-input -j ACCEPT\n")
    assert firewall.differences(wish()) == {"files": [f"/{name}"]}
    firewall.bring(wish())
    assert (machine.root / name).read_text() == before


def test_a_line_between_the_rules_of_ufw_is_noticed_and_written_over(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    with machine.path(4).open("a") as handle:
        handle.write("-A ufw-user-input -p tcp --dport 5 -j ACCEPT\n")
    assert firewall.differences(wish()) == {"files": ["/etc/ufw/user.rules"]}
    firewall.bring(wish())
    assert "--dport 5" not in machine.path(4).read_text()


def test_a_hook_made_executable_is_noticed(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    (machine.root / "etc/ufw/before.init").chmod(0o750)
    assert firewall.differences(wish()) == {"files": ["/etc/ufw/before.init"]}


def test_switched_off_and_flushed_is_switched_on_again(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    machine(["ufw", "--force", "disable"])
    assert firewall.differences(wish()) == {"enabled": {"old": False, "new": True}}
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}


def test_rules_without_ssh_are_refused_before_anything_happens(machine: Machine, firewall: Firewall) -> None:
    with pytest.raises(FirewallError, match="do not let anybody reach ssh"):
        firewall.bring(wish(WEB))
    assert machine.commands == []


def test_a_port_for_ssh_of_its_own_has_to_be_open(firewall: Firewall) -> None:
    with pytest.raises(FirewallError, match="TCP port 2222"):
        wish(ssh_port=2222).check()
    wish(SSH | {"port": 2222}, ssh_port=2222).check()


@pytest.mark.parametrize("spoiled", [{"incoming": "drop"}, {"logging": "loud"}])
def test_an_unknown_choice_is_refused_with_what_is_allowed(spoiled: dict[str, str]) -> None:
    with pytest.raises(FirewallError, match=r"it can be (allow, deny|off, low)"):
        wish(**spoiled).check()


def test_what_ufw_refuses_is_told_with_its_words(machine: Machine, firewall: Firewall) -> None:
    machine.deaf = True
    with pytest.raises(FirewallError, match=r"ended with exit code 1 \(ERROR: problem running ufw\)"):
        firewall.bring(wish())


def test_kernel_rules_that_keep_ssh_out_fail_the_run(machine: Machine, firewall: Firewall) -> None:
    machine.load = lambda: machine.policy.update({4: "DROP", 6: "DROP"})  # type: ignore[method-assign]
    with pytest.raises(FirewallError, match="do not let new connections reach ssh"):
        firewall.bring(wish())


def test_the_record_is_only_for_root(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    record = machine.root / RECORD.lstrip("/")
    assert record.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(record.read_text())) == {"files", "enforced"}


def test_a_damaged_record_means_loading_again_and_not_a_crash(machine: Machine, firewall: Firewall) -> None:
    firewall.bring(wish())
    (machine.root / RECORD.lstrip("/")).write_text("{")
    assert firewall.differences(wish())["enforced"] == {"added": ["(loaded for the first time)"]}
    firewall.bring(wish())
    assert firewall.differences(wish()) == {}
