"""The firewall as an exact set of rules.

Everything ufw has that is not listed is removed: rules added by hand, edits to its files, rules put into the kernel
behind its back. What it does is in `gigglekit.firewall`.
"""

from __future__ import annotations

from typing import Any

from gigglekit.firewall import ufw as machinery
from gigglekit.firewall.errors import FirewallError
from gigglekit.firewall.rules import wanted

__virtualname__ = "ufw"


def __virtual__() -> str:
    return __virtualname__


def exactly(
    name: str,
    rules: list[dict[str, Any]],
    enabled: bool = True,
    incoming: str = "deny",
    outgoing: str = "allow",
    routed: str = "deny",
    logging: str = "low",
    ipv6: bool = True,
    ssh_port: int = 22,
) -> dict[str, Any]:
    """Have ufw enforce these rules and no others.

    name
        Only an identifier.
    rules
        Mappings with ``action`` (allow, deny, limit, reject), ``port`` (22, ``6000:6010``, ``80,443``), ``proto`` (tcp,
        udp) and optionally ``from`` (address or network) and ``comment``, in the order in which they apply. Without
        ``from`` a rule is for IPv4 and IPv6.
    enabled
        Whether it filters, now and after a restart.
    incoming, outgoing, routed
        What becomes of traffic no rule is about: allow, deny or reject.
    logging
        off, low, medium, high or full.
    ipv6
        Whether IPv6 is filtered.
    ssh_port
        TCP port that the rules must let in; otherwise nothing is changed and the state fails.

    .. code-block:: yaml

        firewall-exact:
          ufw.exactly:
            - rules:
              - {action: limit, port: 22, proto: tcp}
              - {action: allow, port: "80,443", proto: tcp}
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}}
    ret["comment"] = "The firewall is exactly as it should be."
    firewall = machinery.Firewall()
    try:
        wish = machinery.Wish(
            rules=tuple(wanted(rules, ipv6=ipv6)),
            enabled=enabled,
            incoming=incoming,
            outgoing=outgoing,
            routed=routed,
            logging=logging,
            ipv6=ipv6,
            ssh_port=int(ssh_port),
        )
        wish.check()
        differences = firewall.differences(wish)
        if not differences:
            return ret
        ret["changes"] = differences
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"To be changed: {machinery.summary(differences)}."
            return ret
        if not firewall.installed():
            raise FirewallError("ufw is not installed, so no firewall could be set up. Install the package ufw before this state.")
        firewall.bring(wish)
    except FirewallError as error:
        ret["result"] = False
        ret["comment"] = str(error)
        return ret
    ret["comment"] = f"Changed: {machinery.summary(differences)}."
    return ret
