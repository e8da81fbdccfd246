#!py
"""Renders /etc/giggles/delivery.json. Python and not Jinja, since a secret may hold any character and must come back exactly."""

import json

from gigglekit.backup.choices import settings_file


def run() -> str:
    # What the state that renders this hands over: the section `backup` with its defaults, and the fleet's own prefix.
    secrets = __pillar__.get("giggles", {}).get("secrets", {})
    bucket = settings_file({**context["choices"], "prefix": context["prefix"]}, secrets.get("backup", {}))  # noqa: F821 (given by Salt)
    return json.dumps({"bucket": json.loads(bucket), "key": secrets["delivery"]["key"]}, indent=2, sort_keys=True) + "\n"
