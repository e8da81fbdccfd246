#!py
"""Renders /opt/giggles/.env. Python and not Jinja, since a secret may hold any character and must come back exactly."""

from gigglekit.release.dotenv import dotenv_file
from gigglekit.release.environment import app_environment


def run() -> str:
    giggles = __pillar__.get("giggles", {})
    names = [giggles.get("domain") or "localhost", *giggles.get("aliases", [])]
    return dotenv_file(
        app_environment(
            choices=giggles.get("app", {}).get("environment", {}),
            secrets=giggles.get("secrets", {}).get("app", {}),
            origins=[f"https://{name}" for name in names],
            uploads="/var/lib/giggles/uploads",
        )
    )
