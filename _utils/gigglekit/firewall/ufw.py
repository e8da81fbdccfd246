"""Bringing ufw to an exact rule set, and noticing every way in which it is not there.

Four things have to agree: ufw's settings, its rules, the framework files below them, and what the kernel enforces. The
first three are compared with what they should be. The kernel prints rules in words of its own, so it is compared with
what it held right after ufw last loaded everything, which is kept in `RECORD`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..command import ask
from ..files.replacing import replace
from . import live
from .errors import FirewallError
from .rules import Rule, admits, parse

RECORD = "/var/lib/giggles/firewall.json"
FRAMEWORK = ("before.rules", "before6.rules", "after.rules", "after6.rules")
HOOKS = ("before.init", "after.init")
LEVELS = ("off", "low", "medium", "high", "full")
POLICIES = {"allow": "ACCEPT", "deny": "DROP", "reject": "REJECT"}
_SHOWN = 12
_USER = {4: "etc/ufw/user.rules", 6: "etc/ufw/user6.rules"}
_SAVE = {4: ("iptables-save", "-t", "filter"), 6: ("ip6tables-save", "-t", "filter")}
_TABLES = {4: "iptables", 6: "ip6tables"}

Run = Callable[[Sequence[str]], "tuple[int, str]"]


@dataclass(frozen=True)
class Wish:
    """What the firewall should be.

    Arguments:
        rules: every rule, in the order in which they apply (see `rules.wanted`).
        enabled: whether it filters, now and after a restart.
        incoming, outgoing, routed: what becomes of traffic no rule is about: `allow`, `deny` or `reject`.
        logging: one of `LEVELS`.
        ipv6: whether IPv6 is filtered as well.
        ssh_port: the TCP port that must never be closed.
    """

    rules: tuple[Rule, ...]
    enabled: bool = True
    incoming: str = "deny"
    outgoing: str = "allow"
    routed: str = "deny"
    logging: str = "low"
    ipv6: bool = True
    ssh_port: int = 22

    def check(self) -> None:
        """Refuse a wish that would lock the operator out or that ufw does not know.

        Raises:
            FirewallError: with what is wrong and what is allowed.
        """
        for name in ("incoming", "outgoing", "routed"):
            if getattr(self, name) not in POLICIES:
                raise FirewallError(
                    f"The firewall's policy for {name} traffic is {getattr(self, name)!r}; it can be "
                    f"{', '.join(POLICIES)}. Nothing was changed. Correct it and apply again."
                )
        if self.logging not in LEVELS:
            raise FirewallError(
                f"The firewall's log level is {self.logging!r}; it can be {', '.join(LEVELS)}. Nothing was changed. "
                "Correct it and apply again."
            )
        if self.enabled and self.incoming != "allow":
            for version in self.versions():
                if not admits(self.rules, self.ssh_port, version):
                    raise FirewallError(
                        f"The wanted firewall rules do not let anybody reach ssh (TCP port {self.ssh_port}) over "
                        f"IPv{version}, so the machine would be locked. Nothing was changed. Add {{action: limit, "
                        f"port: {self.ssh_port}, proto: tcp}} before any rule that denies it."
                    )

    def versions(self) -> tuple[int, ...]:
        """Return the IP versions that are filtered."""
        return (4, 6) if self.ipv6 else (4,)

    def settings(self) -> str:
        """Return the content of /etc/default/ufw.

        Kernel parameters are left to /etc/sysctl.d (ufw would set them a second time, with other values), hence no
        IPT_SYSCTL.
        """
        lines = {
            "IPV6": "yes" if self.ipv6 else "no",
            "DEFAULT_INPUT_POLICY": f'"{POLICIES[self.incoming]}"',
            "DEFAULT_OUTPUT_POLICY": f'"{POLICIES[self.outgoing]}"',
            "DEFAULT_FORWARD_POLICY": f'"{POLICIES[self.routed]}"',
            "DEFAULT_APPLICATION_POLICY": '"SKIP"',
            "MANAGE_BUILTINS": "no",
            "IPT_SYSCTL": "",
            "IPT_MODULES": '""',
        }
        return "# Managed by Salt: changes made here are undone.\n" + "".join(f"{k}={v}\n" for k, v in lines.items())


@dataclass
class Firewall:
    """ufw on one machine.

    Arguments:
        root: where its file system begins.
        execute: runs a command and returns exit code and output.
    """

    root: Path = field(default_factory=lambda: Path("/"))
    execute: Run = ask

    def installed(self) -> bool:
        """Tell whether ufw is there to be asked."""
        return (self.root / "usr/sbin/ufw").exists()

    def differences(self, wish: Wish) -> dict[str, Any]:
        """Compare everything with `wish`.

        Returns:
            By kind, what is to be changed: `rules` ({"added": […], "removed": […]} or {"order": …}), `files`,
            `logging`, `enabled` and `enforced` ({"added": […], "removed": […]}, what somebody did to the kernel's
            rules behind ufw's back). Empty when all is as it should be.
        """
        found: dict[str, Any] = {}
        if not self.installed():
            found["rules"] = {"added": [str(rule) for rule in wish.rules]}
            if wish.enabled:
                found["enabled"] = {"old": False, "new": True}
            return found
        if rules := self._rule_differences(wish):
            found["rules"] = rules
        if files := [str(Path("/") / path) for path, _, _ in self._file_differences(wish)]:
            found["files"] = files
        configuration = self._configuration()
        level = configuration.get("LOGLEVEL", "")
        if level != wish.logging:
            found["logging"] = {"old": level, "new": wish.logging}
        enabled = configuration.get("ENABLED", "no") == "yes"
        if enabled != wish.enabled:
            found["enabled"] = {"old": enabled, "new": wish.enabled}
        if wish.enabled and enabled:
            record = self._record()
            if edited := self._edited(record):
                found.setdefault("files", []).extend(edited)
            if enforced := self._enforced_differences(record, wish):
                found["enforced"] = enforced
        return found

    def bring(self, wish: Wish) -> None:
        """Make everything as `wish` says, never closing ssh on the way.

        Raises:
            FirewallError: ufw refused something, or does not enforce what it was told.
        """
        wish.check()
        was_enabled = self._configuration().get("ENABLED") == "yes"
        for path, content, mode in self._file_differences(wish):
            self._write(path, content, mode)
        if was_enabled and wish.enabled and self._enforced_differences(self._record(), wish):
            # Rules can only be changed one by one in chains that are there.
            self._flush(wish)
            self._ufw("reload")
        self._bring_rules(wish)
        # Writes both files of rules anew from what ufw knows, which undoes edits between its lines.
        self._ufw("logging", wish.logging)
        if not wish.enabled:
            if was_enabled:
                self._ufw("--force", "disable")
            return
        if not was_enabled or any(self.enforced(version).foreign() for version in wish.versions()):
            self._flush(wish)
        self._ufw(*(["reload"] if was_enabled else ["--force", "enable"]))
        self._prove(wish)

    def _bring_rules(self, wish: Wish) -> None:
        for version in (4, 6):
            wanted = [rule for rule in wish.rules if rule.version == version]
            for rule in wanted:
                if rule not in self.rules(version):
                    self._ufw(*rule.to_add())
        for version in (4, 6):
            wanted = [rule for rule in wish.rules if rule.version == version]
            for rule in self.rules(version):
                if rule not in wanted:
                    self._ufw(*rule.to_delete())
            current = self.rules(version)
            pairs = enumerate(zip(current, wanted, strict=False))
            kept = next((number for number, (is_now, will_be) in pairs if is_now != will_be), len(wanted))
            for rule in wanted[kept:]:
                if rule in current:
                    self._ufw(*rule.to_delete())
                self._ufw(*rule.to_add())

    def _prove(self, wish: Wish) -> None:
        left = self.differences_of_rules(wish)
        if left:
            raise FirewallError(
                f"ufw took every command but its rules still differ ({json.dumps(left)}). Look at 'ufw status "
                "numbered', delete what should not be there by its number, and apply again."
            )
        tables = {version: self.enforced(version) for version in wish.versions()}
        for version, table in tables.items():
            if live.verdict(table, wish.ssh_port, version) != "ACCEPT":
                raise FirewallError(
                    f"The kernel's IPv{version} rules do not let new connections reach ssh (TCP port {wish.ssh_port}) "
                    f"although ufw has a rule for it. Look at '{_TABLES[version]}-save' for what is in its way, remove "
                    "that and apply again."
                )
        record = {
            "files": {path: self._digest(path) for path in _USER.values()},
            "enforced": {str(version): table.lines() for version, table in tables.items()},
        }
        self._write(RECORD.lstrip("/"), json.dumps(record, indent=1) + "\n", 0o600)

    def differences_of_rules(self, wish: Wish) -> dict[str, list[str]]:
        """Compare only the rules ufw has written down with those of `wish`."""
        return self._rule_differences(wish)

    def rules(self, version: int) -> list[Rule]:
        """Return the rules ufw has written down for an IP version, in order."""
        return parse(self._read(_USER[version]), version)

    def enforced(self, version: int) -> live.RuleSet:
        """Return what the kernel enforces for an IP version.

        Raises:
            FirewallError: it cannot be asked.
        """
        code, output = self.execute(_SAVE[version])
        if code != 0:
            raise FirewallError(
                f"The kernel's IPv{version} rules cannot be read ({_SAVE[version][0]} ended with {code}: "
                f"{_last(output)}). Check that iptables is installed and that the kernel has netfilter."
            )
        return live.parse(output)

    def _rule_differences(self, wish: Wish) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for version in (4, 6):
            wanted = [rule for rule in wish.rules if rule.version == version]
            current = self.rules(version)
            added = [str(rule) for rule in wanted if rule not in current]
            removed = [str(rule) for rule in current if rule not in wanted]
            if added:
                found["added"] = found.get("added", []) + added
            if removed:
                found["removed"] = found.get("removed", []) + removed
            if not added and not removed and current != wanted:
                found["order"] = found.get("order", []) + [str(rule) for rule in wanted]
        return found

    def _file_differences(self, wish: Wish) -> list[tuple[str, str, int]]:
        found: list[tuple[str, str, int]] = []
        expected = {"etc/default/ufw": (wish.settings(), 0o644)}
        for name in FRAMEWORK:
            original = self.root / "usr/share/ufw/iptables" / name
            if original.exists():
                expected[f"etc/ufw/{name}"] = (original.read_text(errors="replace"), 0o640)
        for name in HOOKS:
            original = self.root / "usr/share/ufw" / name
            if original.exists():
                # Not executable: ufw runs these when they are.
                expected[f"etc/ufw/{name}"] = (original.read_text(errors="replace"), 0o640)
        for path, (content, mode) in expected.items():
            place = self.root / path
            if self._read(path) != content or place.is_symlink() or (place.stat().st_mode & 0o7777) != mode:
                found.append((path, content, mode))
        return found

    def _edited(self, record: Mapping[str, Any]) -> list[str]:
        known = record.get("files", {})
        if not known:
            return []
        return [f"/{path}" for path in _USER.values() if known.get(path) != self._digest(path)]

    def _enforced_differences(self, record: Mapping[str, Any], wish: Wish) -> dict[str, list[str]]:
        known = record.get("enforced")
        if not known:
            return {"added": ["(loaded for the first time)"]}
        added: list[str] = []
        removed: list[str] = []
        for version in wish.versions():
            before = known.get(str(version), [])
            now = self.enforced(version).lines()
            suffix = " (v6)" if version == 6 else ""
            added += [line + suffix for line in before if line not in now]
            removed += [line + suffix for line in now if line not in before]
            if sorted(before) == sorted(now) and before != now:
                added.append(f"the order of the rules{suffix}")
        return {key: _shortened(lines) for key, lines in (("added", added), ("removed", removed)) if lines}

    def _flush(self, wish: Wish) -> None:
        # ufw makes its jumps from the built-in chains only together with its chains: after somebody flushed INPUT, a
        # reload alone leaves everything closed. From empty tables it builds all of it.
        for version in wish.versions():
            for arguments in (*(("-P", chain, "ACCEPT") for chain in live.BUILT_IN), ("-F",), ("-X",)):
                self._must([_TABLES[version], "-w", "5", *arguments])

    def _configuration(self) -> dict[str, str]:
        lines = self._read("etc/ufw/ufw.conf").splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if key.strip()}

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._read(RECORD.lstrip("/")) or "{}")
        except json.JSONDecodeError:
            return {}
        return record if isinstance(record, dict) else {}

    def _ufw(self, *arguments: str) -> None:
        self._must(["ufw", *arguments])

    def _must(self, command: Sequence[str]) -> None:
        code, output = self.execute(command)
        if code != 0:
            raise FirewallError(
                f"'{' '.join(command)}' ended with exit code {code} ({_last(output)}), so the firewall is not as it "
                "should be. The rules that let ssh in are added first and were not touched. Run that command by hand "
                "to see more, then apply again."
            )

    def _read(self, path: str) -> str:
        try:
            return (self.root / path).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _digest(self, path: str) -> str:
        return hashlib.sha256(self._read(path).encode()).hexdigest()

    def _write(self, path: str, content: str, mode: int) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, content.encode(), mode)


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"]


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def summary(differences: Mapping[str, Any]) -> str:
    """Say in one line which kinds of things differ.

    Arguments:
        differences: what `Firewall.differences` returned.
    """
    words = {"logging": "log level", "enabled": "whether it is on", "enforced": "what the kernel enforces"}
    return ", ".join(words.get(kind, kind) for kind in differences)
