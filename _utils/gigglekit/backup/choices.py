"""From what a deployment chose to the file that the backup reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gigglekit.backup import settings


def settings_file(choices: Mapping[str, Any], secrets: Mapping[str, Any]) -> str:
    """Return the content of `/etc/giggles/backup.json`.

    Arguments:
        choices: the pillar's section `giggles:backup`, with its defaults and a bucket.
        secrets: its section `giggles:secrets:backup`.

    Raises:
        ValueError: the backup would not take it; one line that repeats no secret.
    """
    database = choices["database"]
    content = json.dumps(
        {
            "endpoint": choices["endpoint"],
            "region": choices["region"],
            "bucket": choices["bucket"],
            "prefix": choices["prefix"],
            "key_id": secrets.get("key_id"),
            "application_key": secrets.get("application_key"),
            "lock_days": choices["lock_days"],
            "upload_kib_per_second": choices["upload_kib_per_second"],
            "threads": choices["threads"],
            "keep": {name: choices["keep"][name] for name in ("daily", "weekly", "monthly")},
            "keep_dumps_days": choices["keep_dumps_days"],
            "database": database["enabled"],
            "pg_dump": database["pg_dump"] or "",
            "schemas": list(database["schemas"]),
            "ca_bundle": choices["ca_bundle"] or "",
        },
        indent=2,
        sort_keys=True,
    )
    # What is not taken is not written.
    settings.parse(content.encode())
    return content + "\n"
