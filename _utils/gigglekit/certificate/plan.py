"""Whether what lies on disk is what was asked for, and if not, why a new certificate is needed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from gigglekit.certificate.lineage import Lineage

# certbot's timer renews when a third of the lifetime is left, or when the authority says so (ARI, RFC 9773). Whoever
# converges the machine steps in a little later, so that the two never compete and a missed renewal still gets done.
REMAINING_SHARE = 0.30

_HOOKS = ("pre_hook", "post_hook", "renew_hook")


@dataclass(frozen=True)
class Wanted:
    """The certificate as it should be.

    Attributes:
        name: certbot's name for it.
        domains: names it must cover, the first one leading.
        directory: URL of the authority's ACME directory (RFC 8555).
        webroot: folder below which challenges are answered.
        email: contact for the account, or None.
        ca_bundle: file with the root of a private authority, or None for the public ones.
        key_type: `ecdsa` or `rsa`.
    """

    name: str
    domains: tuple[str, ...]
    directory: str
    webroot: Path
    email: str | None = None
    ca_bundle: Path | None = None
    key_type: str = "ecdsa"

    def fingerprint(self) -> str:
        """Return a line that changes whenever a request for this certificate would be a different one."""
        return " ".join([self.directory, self.key_type, str(self.ca_bundle), str(self.email), *sorted(self.domains)])


def due(lineage: Lineage, now: datetime.datetime) -> bool:
    """Return whether less than `REMAINING_SHARE` of the certificate's lifetime is left at `now` (with time zone)."""
    lifetime = lineage.not_after - lineage.not_before
    return lineage.not_after - now < lifetime * REMAINING_SHARE


def reasons(lineage: Lineage | None, wanted: Wanted, now: datetime.datetime) -> list[str]:
    """Return why a certificate must be requested, one phrase each; empty if nothing is to be done.

    Args:
        lineage: what lies on disk, or None.
        wanted: what should.
        now: current time, with a time zone.
    """
    if lineage is None:
        return ["there is none yet"]
    found = []
    if not lineage.sound:
        found.append("certbot could not renew it, since its files or its renewal settings are damaged")
    if lineage.domains != frozenset(wanted.domains):
        found.append(f"it covers {_list(lineage.domains)} instead of {_list(frozenset(wanted.domains))}")
    if lineage.key_type != wanted.key_type:
        found.append(f"its key is {lineage.key_type} instead of {wanted.key_type}")
    if not lineage.key_matches:
        found.append("its private key belongs to another certificate")
    if due(lineage, now):
        found.append(f"it ends on {lineage.not_after:%Y-%m-%d %H:%M} UTC and has not been renewed")
    if lineage.renewal and lineage.renewal.get("server") != wanted.directory:
        found.append(f"it came from {lineage.renewal.get('server', 'an unknown authority')}")
    return found + (_renewal_faults(lineage, wanted) if lineage.renewal else [])


def _renewal_faults(lineage: Lineage, wanted: Wanted) -> list[str]:
    found = []
    if lineage.renewal.get("authenticator") != "webroot":
        found.append("it would not be renewed through the webroot")
    elif {_webroot(lineage, domain) for domain in wanted.domains} != {str(wanted.webroot)}:
        found.append(f"it would be renewed through another folder than {wanted.webroot}")
    if lineage.renewal.get("key_type", "ecdsa") != wanted.key_type:
        found.append("it would be renewed with a key of another type")
    if str(lineage.renewal.get("autorenew", "True")).lower() == "false":
        found.append("its renewal is switched off")
    hooks = [hook for hook in _HOOKS if lineage.renewal.get(hook) not in (None, "None", "")]
    if hooks:
        found.append(f"its renewal would run a command that nobody asked for ({', '.join(hooks)})")
    return found


def _webroot(lineage: Lineage, domain: str) -> str:
    # Names that the authority still trusted when it was asked last have no entry of their own.
    return lineage.webroots.get(domain) or lineage.renewal.get("webroot_path", "").strip(", ")


def _list(domains: frozenset[str]) -> str:
    return ", ".join(sorted(domains)) or "no name"
