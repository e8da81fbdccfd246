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
# It gives way to everybody on its machine, and on this one many wait for it: what it starts has its own haste from it.
# Whether it may hurry changes nothing of what it does, and it may have ended by then. Some runs are meant to fail: what is asked is
# what they have recorded, and that there is a record at all is insisted on.
HURRIED = """
systemctl start --no-block giggles-converge
for _ in $(seq 200); do
  pid=$(systemctl show -p MainPID --value giggles-converge)
  if [ "$pid" != 0 ]; then renice -n 0 -p $pid >/dev/null || true; ionice -c 2 -p $pid || true; break; fi
  sleep 0.02
done
systemctl start giggles-converge || true
"""


def converge(droplet: Droplet) -> dict[str, Any]:
    """Let the timer's service run once; return what was recorded."""
    before = droplet.shell(f"wc -l < {CONVERGES}")
    droplet.shell(HURRIED)
    lines = droplet.shell(f"cat {CONVERGES}").splitlines()
    assert len(lines) == int(before) + 1, droplet.shell("journalctl -u giggles-converge -n 30 --no-pager")
    return dict(json.loads(lines[-1]))


def ids(entries: list[dict[str, str]]) -> set[str]:
    """Return the ids of what a record lists as drift, intended or failures."""
    return {entry["id"] for entry in entries}


def look(droplet: Droplet, times: int = 1) -> None:
    """Have the unit look that mails what changed."""
    droplet.shell(f"for _ in $(seq {times}); do systemctl start giggles-watch.service; done")


def look_until_over(droplet: Droplet, begins: str) -> None:
    """Have it look until no condition whose key begins like this is open; what came back several times lately must be gone for longer."""
    is_open = f'any(key.startswith("{begins}") for key in json.load(open("/var/lib/giggles/records/alerts-state.json"))["open"])'
    over = f"python3 -c 'import json, sys; sys.exit({is_open})'"
    look(droplet)
    droplet.shell(f"for _ in $(seq 24); do if {over}; then exit; fi; systemctl start giggles-watch; done; exit 1")


def mails(droplet: Droplet) -> list[EmailMessage]:
    """Return the mails that have arrived, the oldest first."""
    files = sorted(Path(droplet.info["mail_dir"]).glob("*.eml"))
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]  # type: ignore[misc]


def about_drift(told: list[EmailMessage]) -> list[str]:
    """Return the texts of those mails that tell of drift."""
    texts = [mail.get_content() for mail in told]
    return [text for text in texts if "Somebody or something changed what this repository says" in text]
