"""The answers that bootstrap would ask an operator for, as the pillar of the trial droplet."""

from __future__ import annotations

import json
import time
from typing import Any

from . import neighbourhood
from .record import Record

PATH = "/root/giggles-answers.yaml"
_AFTERNOON, _FARTHEST = 14, 14
VOLUME_MB = 1024
"""Room for the clips of some tests; all of it is taken from this machine's disk."""


def quiet_zone(made: float) -> str:
    """Return a time zone where it is early afternoon, so that nothing which comes at an hour of the night begins during a test.

    Nightly job, updates, backup and restart come between half past midnight and seven there.

    Arguments:
        made: when the trial was made, in seconds since 1970; its zone stays.
    """
    ahead = min(_AFTERNOON - time.gmtime(made).tm_hour, _FARTHEST)
    # The names have the sign of POSIX: UTC minus local time.
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/UTC"


def pillar(trial: Record) -> dict[str, Any]:
    """Return what this deployment chose and what only it knows.

    Arguments:
        trial: the trial, its neighbours prepared.
    """
    database = neighbourhood.database_url(trial)
    bucket = neighbourhood.bucket(trial)
    public = trial.home_place.private_key.with_suffix(".pub")
    return {
        "giggles": {
            "environment": "production",
            **({"roles": list(trial.roles)} if trial.roles else {}),
            "domain": trial.domain,
            "admin": {
                "name": "operator",
                "ssh_keys": [public.read_text().strip()],
            },
            "hardening": {"timezone": quiet_zone(public.stat().st_mtime)},
            "vault": {"size_mb": VOLUME_MB},
            # By its timer it would come in between the tests, and fetching puts away what a working tree has not committed. The
            # service is there, for tests to start.
            "converge": {"enabled": False, "pull": False},
            "monitoring": {"mail": {"to": f"operator@{trial.domain}", **neighbourhood.mail_server(), "security": "none"}},
            "web": {
                "acme": {
                    "email": f"operator@{trial.domain}",
                    "directory": neighbourhood.ACME_DIRECTORY,
                    "ca_bundle": "/etc/giggles-trial/acme-ca.pem",
                }
            },
            "backup": {
                "endpoint": bucket.endpoint,
                "region": bucket.region,
                "bucket": bucket.name,
                "ca_bundle": "/etc/giggles-trial/acme-ca.pem",
            },
            "app": {
                "repository": neighbourhood.app_repository(trial),
                "ref": neighbourhood.app_ref(trial),
                "subdirectory": "laughter-detector",
                "python": "system",
                "packages": [],
                "requirements": "requirements.lock",
                # The sample starts in two seconds, but on a machine that has ten times as much to do in twenty or more.
                "start_seconds": 90,
                "gate_seconds": 1,
            },
            "secrets": {
                "app": {
                    "SUPABASE_URL": f"http://{trial.neighbours_port.address}:8000",
                    "SUPABASE_KEY": f"trial-anon-{trial.s3_access_key}",
                    "SUPABASE_SERVICE_ROLE_KEY": f"trial-service-{trial.s3_secret_key}",
                    "DATABASE_URL": database,
                },
                "backup": {"key_id": trial.s3_access_key, "application_key": trial.s3_secret_key},
            },
        }
    }


def text(trial: Record) -> str:
    """Return the answers file: JSON, which is YAML too."""
    return json.dumps(pillar(trial), indent=2) + "\n"
