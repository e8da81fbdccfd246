"""Rules as ufw 0.36.2 of Debian 12 wrote them down, and the commands that bring them there or away."""

from __future__ import annotations

import pytest
from gigglekit.firewall.errors import FirewallError
from gigglekit.firewall.rules import Rule, admits, parse, wanted

# What ufw wrote after: allow 9000/udp; limit 22/tcp comment 'secure shell'; allow proto tcp from 10.0.0.0/8 to any
# port 5432,6000:6010; route allow in on eth0 out on eth1 from 1.2.3.4; allow SSH; reject in on eth0 to any port 113
# proto tcp; allow from 9.9.9.9; allow out log 25/tcp; deny out log-all to 8.8.8.8.
USER_RULES = """\
*filter
:ufw-user-input - [0:0]
### RULES ###

### tuple ### allow udp 9000 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p udp --dport 9000 -j ACCEPT

### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=736563757265207368656c6c
-A ufw-user-input -p tcp --dport 22 -j ufw-user-limit-accept

### tuple ### allow tcp 5432,6000:6010 0.0.0.0/0 any 10.0.0.0/8 in
### tuple ### route:allow any any 0.0.0.0/0 any 1.2.3.4 in_eth0!out_eth1
### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 SSH - in
### tuple ### reject tcp 113 0.0.0.0/0 any 0.0.0.0/0 in_eth0
### tuple ### allow any any 0.0.0.0/0 any 9.9.9.9 in
### tuple ### allow_log tcp 25 0.0.0.0/0 any 0.0.0.0/0 out
### tuple ### deny_log-all any any 8.8.8.8 any 0.0.0.0/0 out
### END RULES ###
"""
USER6_RULES = """\
### tuple ### limit tcp 22 ::/0 any ::/0 in comment=736563757265207368656c6c
### tuple ### allow tcp 25 ::/0 any 2001:db8::/32 in
### tuple ### allow tcp 80,443 ::/0 any ::/0 Nginx%20Full - in
"""


def test_every_kind_of_rule_is_read_and_put_in_short_words() -> None:
    assert [str(rule) for rule in parse(USER_RULES, 4)] == [
        "allow 9000/udp",
        "limit 22/tcp # secure shell",
        "allow from 10.0.0.0/8 5432,6000:6010/tcp",
        "route allow in on eth0 out on eth1 from 1.2.3.4 anything",
        "allow SSH",
        "reject in on eth0 113/tcp",
        "allow from 9.9.9.9 anything",
        "allow out log 25/tcp",
        "deny out log-all to 8.8.8.8 anything",
    ]
    assert [str(rule) for rule in parse(USER6_RULES, 6)] == [
        "limit 22/tcp (v6) # secure shell",
        "allow from 2001:db8::/32 25/tcp (v6)",
        "allow Nginx Full (v6)",
    ]


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (0, "delete allow in proto udp from 0.0.0.0/0 to 0.0.0.0/0 port 9000"),
        (1, "delete limit in proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 22"),
        (2, "delete allow in proto tcp from 10.0.0.0/8 to 0.0.0.0/0 port 5432,6000:6010"),
        (3, "route delete allow in on eth0 out on eth1 from 1.2.3.4 to 0.0.0.0/0"),
        (4, "delete allow in from 0.0.0.0/0 to 0.0.0.0/0 app SSH"),
        (5, "delete reject in on eth0 proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 113"),
        (6, "delete allow in from 9.9.9.9 to 0.0.0.0/0"),
        (7, "delete allow out log proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 25"),
        (8, "delete deny out log-all from 0.0.0.0/0 to 8.8.8.8"),
    ],
)
def test_a_rule_is_deleted_by_what_it_says_and_not_by_its_number(number: int, command: str) -> None:
    assert " ".join(parse(USER_RULES, 4)[number].to_delete()) == command


def test_a_deletion_is_for_one_ip_version_only() -> None:
    assert parse(USER6_RULES, 6)[0].to_delete()[-5:] == ("::/0", "to", "::/0", "port", "22")


def test_an_old_rule_without_direction_is_for_incoming_traffic() -> None:
    assert parse("### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0", 4) == [Rule(4, "allow", "tcp", "22")]


def test_a_mangled_line_is_refused_and_shown() -> None:
    with pytest.raises(FirewallError, match="allow tcp twenty-two"):
        parse("### tuple ### allow tcp twenty-two", 4)


def test_what_ufw_wrote_for_a_wish_is_that_wish() -> None:
    definitions = [{"action": "limit", "port": 22, "proto": "tcp", "comment": "secure shell"}]
    rules = wanted(definitions, ipv6=True)
    assert rules == [parse(USER_RULES, 4)[1], parse(USER6_RULES, 6)[0]]
    assert rules[0].to_add()[-2:] == ("comment", "secure shell")


def test_a_rule_from_one_network_is_for_its_ip_version_only() -> None:
    definition = {"action": "allow", "port": "5432,6000:6010", "proto": "tcp", "from": "10.0.0.0/8"}
    assert wanted([definition], ipv6=True) == [parse(USER_RULES, 4)[2]]
    assert wanted([definition | {"from": "2001:db8::1"}], ipv6=True)[0].source == "2001:db8::1"


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        ({"action": "permit"}, "no known action"),
        ({"proto": "icmp"}, "no proto"),
        ({"port": 0}, "no valid port"),
        ({"port": 70000}, "no valid port"),
        ({"port": "22;reboot"}, "no valid port"),
        ({"from": "10.0.0.1/8"}, "no network"),
        ({"form": "10.0.0.0/8"}, "unknown form"),
        ({"comment": "it's"}, "apostrophe"),
    ],
)
def test_a_wrong_definition_is_refused_with_what_is_allowed(spoiled: dict[str, object], why: str) -> None:
    with pytest.raises(FirewallError, match=why) as refusal:
        wanted([{"action": "allow", "port": 80, "proto": "tcp"} | spoiled], ipv6=True)
    assert "A rule has an action (allow, deny, limit, reject)" in str(refusal.value)


def test_two_rules_about_the_same_traffic_are_refused() -> None:
    rules = [{"action": action, "port": 22, "proto": "tcp"} for action in ("allow", "limit")]
    with pytest.raises(FirewallError, match="two things about the same traffic"):
        wanted(rules, ipv6=False)


@pytest.mark.parametrize(
    ("definitions", "open_"),
    [
        ([{"action": "limit", "port": 22, "proto": "tcp"}], True),
        ([{"action": "allow", "port": "20:30", "proto": "tcp"}], True),
        ([{"action": "allow", "port": "80,22", "proto": "tcp"}], True),
        ([{"action": "allow", "port": 80, "proto": "tcp"}], False),
        ([{"action": "allow", "port": 22, "proto": "udp"}], False),
        ([{"action": "allow", "port": 22, "proto": "tcp", "from": "10.0.0.0/8"}], False),
        ([{"action": "deny", "port": "1:100", "proto": "tcp"}, {"action": "limit", "port": 22, "proto": "tcp"}], False),
        ([], False),
    ],
)
def test_whether_ssh_is_open_to_everybody(definitions: list[dict[str, object]], open_: bool) -> None:
    assert admits(wanted(definitions, ipv6=True), 22, 4) is open_
