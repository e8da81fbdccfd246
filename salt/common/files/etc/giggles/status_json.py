#!py
"""Renders /etc/giggles/status.json."""

from gigglekit.health.expected import settings_file


def run() -> str:
    # What the state that renders this hands over: sections of the settings with their defaults, none of them secret.
    return settings_file(context["choices"])  # noqa: F821 (given by Salt)
