"""What a droplet does by itself, without a hand: it converges, looks at itself, and writes mails."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from .conftest import Droplet

CONVERGES = "/var/lib/giggles/records/converge.jsonl"


def converge(droplet: Droplet) -> dict[str, Any]:
    """Let the timer's service run once; return what was recorded."""
    before = droplet.shell(f"wc -l < {CONVERGES}")
    droplet.shell("systemctl start giggles-converge.service", check=False)
    lines = droplet.shell(f"cat {CONVERGES}").splitlines()
    assert len(lines) == int(before) + 1, droplet.shell("journalctl -u giggles-converge -n 30 --no-pager")
    return dict(json.loads(lines[-1]))


def ids(entries: list[dict[str, str]]) -> set[str]:
    """Return the ids of what a record lists as drift, intended or failures."""
    return {entry["id"] for entry in entries}


def look(droplet: Droplet, times: int = 1) -> None:
    """Have the unit look that mails what changed."""
    droplet.shell(f"for _ in $(seq {times}); do systemctl start giggles-watch.service; done")


def mails(droplet: Droplet) -> list[EmailMessage]:
    """Return the mails that have arrived, the oldest first."""
    files = sorted(Path(droplet.info["mail_dir"]).glob("*.eml"))
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]  # type: ignore[misc]


def about_drift(told: list[EmailMessage]) -> list[str]:
    """Return the texts of those mails that tell of drift."""
    texts = [mail.get_content() for mail in told]
    return [text for text in texts if "Somebody or something changed what this repository says" in text]
