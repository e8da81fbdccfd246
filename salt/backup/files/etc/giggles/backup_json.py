#!py
"""Renders /etc/giggles/backup.json. Python and not Jinja, since a secret may hold any character and must come back exactly."""

from gigglekit.backup.choices import settings_file


def run() -> str:
    # What the state that renders this hands over: the section `backup` with its defaults.
    secrets = __pillar__.get("giggles", {}).get("secrets", {}).get("backup", {})
    return settings_file(context["choices"], secrets)  # noqa: F821 (given by Salt)
