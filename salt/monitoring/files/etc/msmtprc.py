#!py
"""Renders /etc/msmtprc. Python and not Jinja, since a password may hold any character and must come back exactly."""

from gigglekit.health import mail, monitoring


def run() -> str:
    choices = context["choices"]  # noqa: F821 (given by Salt)
    secrets = __pillar__.get("giggles", {}).get("secrets", {}).get("monitoring", {})
    chosen = choices["monitoring"]["mail"]
    return mail.configuration(
        host=chosen["host"],
        port=chosen["port"],
        security=chosen["security"],
        sender=monitoring.sender(choices),
        domain=monitoring.name(choices),
        user=secrets.get("smtp_user"),
        password=secrets.get("smtp_password"),
    )
