#!py
"""Renders /etc/giggles/uptimerobot.json. Python and not Jinja, since a secret must come back exactly."""

from gigglekit.health.uptimerobot.settings import settings_file


def run() -> str:
    # What the state that renders this hands over: the section `monitoring:uptimerobot` with its defaults, and who gets mail.
    secrets = __pillar__.get("giggles", {}).get("secrets", {}).get("monitoring", {})
    given = context  # noqa: F821 (given by Salt)
    return settings_file(given["choices"], given["domain"], given["mail"], secrets.get("uptimerobot_key"))
