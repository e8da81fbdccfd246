#!py
"""Renders /etc/giggles/monitoring.json. Python and not Jinja, since a secret may hold any character and must come back exactly."""

from gigglekit.health.monitoring import settings_file


def run() -> str:
    # What the state that renders this hands over: sections of the settings with their defaults.
    secrets = __pillar__.get("giggles", {}).get("secrets", {}).get("monitoring", {})
    return settings_file(context["choices"], secrets)  # noqa: F821 (given by Salt)
