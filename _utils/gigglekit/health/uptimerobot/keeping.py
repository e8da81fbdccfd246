"""Looks at UptimeRobot, and does what has to be done there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gigglekit.health.uptimerobot import noted as notes_of
from gigglekit.health.uptimerobot.client import Client
from gigglekit.health.uptimerobot.noted import Noted
from gigglekit.health.uptimerobot.plan import Change, Plan, contact_name, plan
from gigglekit.health.uptimerobot.settings import Settings


def look(client: Client, settings: Settings, noted: Noted) -> Plan:
    """Ask for what is there, and return what has to be done.

    Arguments:
        client: asks.
        settings: what is wanted.
        noted: what this droplet made before.

    Raises:
        UptimeRobotError: it cannot be asked.
    """
    return plan(settings, client.monitors(), client.contacts(), noted)


def carry_out(client: Client, wanted: Plan, notes: Path, *, done: Callable[[Change], None]) -> tuple[frozenset[int], frozenset[int]]:
    """Do what has to be done, and note at once what of it is this droplet's.

    Arguments:
        client: asks.
        wanted: what has to be done.
        notes: where ids are noted.
        done: told of each change that was made.

    Returns:
        The ids of this droplet's monitors and contacts.

    Raises:
        UptimeRobotError: something was not done; `done` was told of what was.
        OSError: it cannot be noted.
    """
    monitors, contacts, assigned = set(wanted.monitors), set(wanted.contacts), set(wanted.assigned)
    for change in wanted.changes:
        fields: dict[str, Any] = dict(change.fields)
        if change.assigns:
            # On the free plan threshold and recurrence are 0 whatever one sends.
            fields["assignedAlertContacts"] = [
                {"alertContactId": str(ident), "threshold": 0, "recurrence": 0} for ident in sorted(assigned)
            ]
        if change.kind == "contact":
            if change.ident is None:
                made = client.create_contact(contact_name(fields["value"]), fields["value"])
                contacts.add(made)
                assigned.add(made)
            else:
                client.delete_contact(change.ident)
                contacts.discard(change.ident)
        elif change.ident is None:
            monitors.add(client.create_monitor(fields))
        elif change.action == "delete":
            client.delete_monitor(change.ident)
            monitors.discard(change.ident)
        else:
            client.change_monitor(change.ident, fields)
        notes_of.note_ids(notes, frozenset(monitors), frozenset(contacts))
        done(change)
    return frozenset(monitors), frozenset(contacts)


def announced(changes: tuple[Change, ...]) -> dict[str, Any]:
    """Return changes as a state shows them: by name, made, removed, or each field before and after."""
    shown: dict[str, Any] = {}
    for change in changes:
        name = f"{change.kind} {change.name}"
        if change.action == "change":
            fields: dict[str, Any] = {
                field: {"old": (change.before or {}).get(field), "new": value} for field, value in change.fields.items()
            }
            if change.assigns:
                fields["alerts"] = "assigned anew"
            shown[name] = fields
        else:
            shown[name] = "made" if change.action == "create" else "removed"
    return shown
