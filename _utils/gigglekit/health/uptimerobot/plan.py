"""What has to be done so that UptimeRobot is as the settings want it. Nothing is asked here: entries in, changes out.

This droplet's own entries are told from those of people by two things together: their names end with `MARK`, and they are named
for this droplet's domain, or were noted by their ids when they were made. Everything else is left alone, whatever it watches.
Whoever wants to keep one of ours renames it: without the mark it is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gigglekit.health.uptimerobot.client import Contact, Monitor
from gigglekit.health.uptimerobot.noted import Noted
from gigglekit.health.uptimerobot.settings import Settings

MARK = " (giggles-salt)"
_TIMEOUT_SECONDS = 30
_CASE = {"CaseSensitive": 0, "CaseInsensitive": 1}
"""How it is written, and how it is read."""


@dataclass(frozen=True)
class Change:
    """One thing to be done.

    Arguments:
        action: `create`, `change` or `delete`.
        kind: `monitor` or `contact`.
        name: of the entry, for a person; of a contact without what stands before the @.
        ident: of the entry; None if it is to be created.
        fields: what is sent; of a contact that is created, its `value`.
        assigns: whether the wanted contacts are assigned to the monitor with it.
        before: what the fields were, for a person.
    """

    action: str
    kind: str
    name: str
    ident: int | None
    fields: Mapping[str, Any]
    assigns: bool = False
    before: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """All that has to be done, in this order, and what a person should know.

    Arguments:
        changes: what has to be done.
        remarks: sentences.
        assigned: ids of the wanted contacts that are there already.
        monitors: ids of our monitors before the changes.
        contacts: ids of our contacts before them.
    """

    changes: tuple[Change, ...]
    remarks: tuple[str, ...]
    assigned: frozenset[int]
    monitors: frozenset[int]
    contacts: frozenset[int]


def wanted_monitors(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the monitors that are to be there: what the API calls their fields, by their names."""
    if not settings.enabled:
        return {}
    common: dict[str, Any] = {
        "interval": settings.interval_seconds,
        "timeout": _TIMEOUT_SECONDS,
        # The app answers nothing but GET.
        "httpMethodType": "GET",
    }
    reminds = bool(settings.certificate_days)
    site: dict[str, Any] = {
        **common,
        "type": "HTTP",
        "url": f"https://{settings.domain}/",
        "checkSSLErrors": reminds,
        "sslExpirationReminder": reminds,
    }
    if reminds:
        site["config"] = {"sslExpirationPeriodDays": list(settings.certificate_days)}
    health = {
        **common,
        "type": "KEYWORD",
        "url": f"https://{settings.domain}/api/health",
        "keywordType": "ALERT_NOT_EXISTS",
        "keywordCaseType": "CaseSensitive",
        # With its quotes, or "unhealthy" would do.
        "keywordValue": '"healthy"',
    }
    return {f"{settings.domain}: website{MARK}": site, f"{settings.domain}: health{MARK}": health}


def plan(settings: Settings, monitors: Iterable[Monitor], contacts: Iterable[Contact], noted: Noted) -> Plan:
    """Compare what is there with what is wanted.

    Arguments:
        settings: what is wanted.
        monitors: all monitors of the account.
        contacts: all alert contacts of the account.
        noted: what this droplet made before.
    """
    monitors, contacts = list(monitors), list(contacts)
    changes: list[Change] = []
    remarks: list[str] = []
    assigned, missing = _contacts(settings, contacts)
    for address in missing:
        changes.append(Change("create", "contact", told(address), None, {"value": address}))
    for contact in contacts:
        if contact.ident in assigned and contact.status not in ("Active", ""):
            why = "has not agreed yet, by the mail that UptimeRobot sent" if contact.status == "NotActivated" else f"is {contact.status}"
            remarks.append(f"{told(contact.address)} {why}, and is not alerted.")

    wanted = wanted_monitors(settings)
    if wanted and not settings.contacts:
        remarks.append("Nobody is named to be alerted (giggles:monitoring:uptimerobot:contacts); that is left to the account's dashboard.")
    ours = {monitor.ident for monitor in monitors if _is_ours(monitor, settings, noted)}
    kept: dict[str, Monitor] = {}
    delete: list[Monitor] = []
    for monitor in sorted((monitor for monitor in monitors if monitor.ident in ours), key=lambda monitor: monitor.ident):
        fits = monitor.name in wanted and monitor.name not in kept and monitor.fields.get("type") == wanted[monitor.name]["type"]
        if fits:
            kept[monitor.name] = monitor
        else:
            delete.append(monitor)
    for name, fields in wanted.items():
        there = kept.get(name)
        if there is None:
            changes.append(Change("create", "monitor", name, None, {"friendlyName": name, **fields}, assigns=bool(settings.contacts)))
            continue
        if there.fields.get("status") == "PAUSED":
            remarks.append(f"{name} is paused in the dashboard, and looks at nothing until it is started there.")
        differing = {field: value for field, value in fields.items() if not _agrees(field, value, there.fields.get(field))}
        assigns = bool(settings.contacts) and (bool(missing) or there.contacts != assigned)
        if differing or assigns:
            before = {field: there.fields.get(field) for field in differing}
            changes.append(Change("change", "monitor", name, there.ident, differing, assigns, before))
    changes += [Change("delete", "monitor", monitor.name, monitor.ident, {}) for monitor in delete]

    own_contacts = {contact.ident for contact in contacts if contact.ident in noted.contacts and contact.name.endswith(MARK)}
    others = frozenset[int]().union(*(monitor.contacts for monitor in monitors if monitor.ident not in ours))
    for contact in contacts:
        if contact.ident in own_contacts - assigned:
            if contact.ident in others:
                remarks.append(f"{told(contact.address)} is wanted no more, and stays, since monitors of others alert it.")
            else:
                changes.append(Change("delete", "contact", told(contact.address), contact.ident, {}))
    return Plan(tuple(changes), tuple(remarks), assigned, frozenset(ours), frozenset(own_contacts))


def told(address: str) -> str:
    """Return an address as it may stand in records: without who is behind it."""
    return f"…@{address.rpartition('@')[2]}"


def contact_name(address: str) -> str:
    """Return the name of a contact that this droplet makes."""
    return f"{address}{MARK}"


def _contacts(settings: Settings, contacts: list[Contact]) -> tuple[frozenset[int], list[str]]:
    """Return the ids of the wanted contacts that are there, whoever made them, and the addresses of those that are not."""
    there: dict[str, int] = {}
    for contact in sorted(contacts, key=lambda contact: (contact.status != "Active", contact.ident)):
        if contact.kind.lower() == "email":
            there.setdefault(contact.address.lower(), contact.ident)
    wanted = list(dict.fromkeys(settings.contacts)) if settings.enabled else []
    return (
        frozenset(there[address.lower()] for address in wanted if address.lower() in there),
        [address for address in wanted if address.lower() not in there],
    )


def _is_ours(monitor: Monitor, settings: Settings, noted: Noted) -> bool:
    if not monitor.name.endswith(MARK):
        return False
    return monitor.ident in noted.monitors or monitor.name.startswith(f"{settings.domain}: ")


def _agrees(field: str, wanted: Any, there: Any) -> bool:  # noqa: ANN401 (what JSON holds)
    if field == "config":
        have = there if isinstance(there, Mapping) else {}
        return all(_same(value, have.get(name)) for name, value in wanted.items())
    if field == "keywordCaseType":
        return there in (wanted, _CASE[wanted]) and not isinstance(there, bool)
    if field == "url":
        return isinstance(there, str) and there.rstrip("/") == wanted.rstrip("/")
    if isinstance(wanted, bool):
        return bool(there) is wanted
    return bool(wanted == there)


def _same(wanted: object, there: object) -> bool:
    if isinstance(wanted, list):
        return isinstance(there, list) and sorted(wanted) == sorted(entry for entry in there if isinstance(entry, int))
    return wanted == there
