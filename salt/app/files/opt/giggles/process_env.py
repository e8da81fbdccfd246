#!py
"""Renders /opt/giggles/process.env, which systemd reads for the app's processes."""

from gigglekit.release.dotenv import systemd_file
from gigglekit.release.environment import process_environment


def run() -> str:
    secrets = __pillar__.get("giggles", {}).get("secrets", {}).get("app", {})
    return systemd_file(process_environment(secrets))
