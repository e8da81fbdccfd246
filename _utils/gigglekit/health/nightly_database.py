"""What the app's database says of one run: numbers of users, and never which.

It is asked in a process of its own (`python -m gigglekit.health.nightly_database SECONDS [LEASE]`), since neither the search for a
server's address nor a server that says nothing has an end by itself. The database's own clock decides what belongs to the run:
that of the droplet may be another.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gigglekit
from gigglekit.command import SYSTEM_PATH, CommandTimeoutError, run
from gigglekit.health.nightly import Database

if TYPE_CHECKING:
    import psycopg

ENVIRONMENT = Path("/opt/giggles/.env")
_ALL_SECONDS = 20.0
_CONNECT_SECONDS = 8
_STATEMENT_MS = 5000

# Users counted once each. The app keeps one entry for each day of a user and writes it anew, with `last_processed` where it has that
# column. Somebody who asks by hand meanwhile is not the nightly job.
_ENTRIES = """
SELECT count(DISTINCT user_id) FILTER (WHERE status = 'completed'),
       count(DISTINCT user_id) FILTER (WHERE status = 'failed'),
       count(DISTINCT user_id) FILTER (WHERE status IN ('pending', 'processing'))
FROM public.processing_logs l
WHERE greatest(created_at, (to_jsonb(l) ->> 'last_processed')::timestamptz) >= now() - make_interval(secs => %s)
AND trigger_type IS DISTINCT FROM 'manual'
"""
# Who came while it ran could not be found.
_ACTIVE = """
SELECT count(*) FROM public.users u
WHERE u.is_active AND EXISTS (
    SELECT FROM public.limitless_keys k
    WHERE k.user_id = u.id AND k.is_active AND k.created_at < now() - make_interval(secs => %s)
)
"""
# Of a run with a lease: whom it had, and nobody else's.
_ITS_OWN = " AND user_id IN (SELECT user_id FROM giggles_salt.nightly_users WHERE token = %s)"
_CLAIMED = "SELECT count(*) FROM giggles_salt.nightly_users WHERE token = %s"
# Row level security hides rows without a word.
_HIDDEN = """
SELECT count(*) FROM unnest(ARRAY['public.processing_logs', 'public.users', 'public.limitless_keys']) AS t(name)
WHERE row_security_active(t.name)
"""


def ask(seconds: float, lease: int | None = None) -> Database | None:
    """Return what the database says of the last seconds; None if none is configured, or it does not answer, or not of that.

    Arguments:
        seconds: since the run began.
        lease: the number of its lease; None if it had none, and then every user counts.
    """
    argv = [sys.executable, "-s", "-m", "gigglekit.health.nightly_database", str(round(seconds)), *([str(lease)] if lease else [])]
    environment = {"PATH": SYSTEM_PATH, "PYTHONPATH": str(Path(gigglekit.__path__[0]).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        outcome = run(argv, seconds=_ALL_SECONDS, environment=environment)
        # What it complains of may quote the address, and is dropped.
        return Database(**json.loads(outcome.output)) if outcome.code == 0 else None
    except (OSError, CommandTimeoutError, ValueError, TypeError):
        return None


def look(url: str, seconds: float, lease: int | None = None) -> Database:
    """Ask the database.

    Arguments:
        url: `postgresql://…`; it holds a password.
        seconds: since the run began.
        lease: the number of its lease; None if it had none.

    Raises:
        psycopg.Error: it does not answer, or not of that.
        PermissionError: it hides rows from this account.
    """
    import psycopg

    options = f"-c statement_timeout={_STATEMENT_MS} -c default_transaction_read_only=on"
    with psycopg.connect(
        url, connect_timeout=_CONNECT_SECONDS, options=options, application_name="giggles-nightly-record", autocommit=True
    ) as connection:
        (hidden,) = _row(connection, _HIDDEN)
        if hidden:
            raise PermissionError("row level security hides rows from this account")
        if lease is not None:
            (active,) = _row(connection, _CLAIMED, lease)
            return Database(active, *_row(connection, _ENTRIES + _ITS_OWN, seconds, lease))
        completed, failed, unfinished = _row(connection, _ENTRIES, seconds)
        try:
            (active,) = _row(connection, _ACTIVE, seconds)
        except psycopg.Error:
            # Another version of the app may know other columns.
            active = None
    return Database(active, completed, failed, unfinished)


def _row(connection: psycopg.Connection[tuple[Any, ...]], query: str, *values: float) -> tuple[Any, ...]:
    return connection.execute(query.encode(), values or None).fetchone() or ()


def main() -> int:
    """Print the numbers as JSON; exit with 1 if they cannot be had."""
    import dataclasses

    import psycopg

    from gigglekit.release.dotenv import read_back

    try:
        url = read_back(ENVIRONMENT.read_text()).get("DATABASE_URL")
        if not url:
            return 1
        print(json.dumps(dataclasses.asdict(look(url, float(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None))))
    except (OSError, ValueError, psycopg.Error):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
