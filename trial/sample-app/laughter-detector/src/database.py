"""Rows in PostgreSQL, each transaction under the role that Supabase would use."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from . import clips

# psycopg's own error class, so that callers need not import the driver.
Unavailable = psycopg.Error

_CONNECT_SECONDS = 3


@contextmanager
def _transaction(url: str, role: str, claims: dict[str, str]) -> Iterator[psycopg.Cursor[dict[str, Any]]]:
    with (
        psycopg.connect(url, connect_timeout=_CONNECT_SECONDS, row_factory=dict_row) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
        cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        yield cursor


def as_user(url: str, user_id: str) -> AbstractContextManager[psycopg.Cursor[dict[str, Any]]]:
    """Open a transaction in which row level security lets `user_id` see their own rows and no others.

    Args:
        url: `postgresql://…`; its role must be allowed to become `authenticated`.
        user_id: the UUID that `auth.uid()` returns in this transaction.

    Raises:
        Unavailable: the database cannot be reached or refuses.
    """
    return _transaction(url, "authenticated", {"role": "authenticated", "sub": user_id})


def as_service(url: str) -> AbstractContextManager[psycopg.Cursor[dict[str, Any]]]:
    """Open a transaction that sees every row, as the service role key does.

    Args:
        url: `postgresql://…`; its role must be allowed to become `service_role`.

    Raises:
        Unavailable: the database cannot be reached or refuses.
    """
    return _transaction(url, "service_role", {"role": "service_role"})


def sign_up(url: str, user_id: str, email: str) -> None:
    """Create the account in `auth.users` (a trigger adds `public.users`) with an API key, unless it exists.

    Raises:
        Unavailable: the database cannot be reached or refuses, or another account has this e-mail address.
    """
    with as_service(url) as cursor:
        cursor.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING", (user_id, email))
        if cursor.rowcount:
            cursor.execute(
                "INSERT INTO public.limitless_keys (user_id, encrypted_api_key) VALUES (%s, 'sample, not a key')",
                (user_id,),
            )


def add_segment(cursor: psycopg.Cursor[dict[str, Any]], user_id: str, start: datetime, end: datetime, path: str) -> str:
    """Insert the row of one recording, not processed yet, and return its id."""
    row = cursor.execute(
        "INSERT INTO public.audio_segments (user_id, date, start_time, end_time, file_path) VALUES (%s, %s, %s, %s, %s) RETURNING id",
        (user_id, start.date(), start, end, path),
    ).fetchone()
    assert row is not None
    return str(row["id"])


def add_detection(
    cursor: psycopg.Cursor[dict[str, Any]],
    user_id: str,
    segment_id: str,
    start: datetime,
    clip: tuple[str, float, int],
) -> str:
    """Insert the row of one clip, as `clips.store_clip` returned it, and return its id."""
    path, moment, class_id = clip
    row = cursor.execute(
        "INSERT INTO public.laughter_detections"
        " (user_id, audio_segment_id, timestamp, probability, clip_path, class_id, class_name)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (
            user_id,
            segment_id,
            start + timedelta(seconds=moment),
            0.75,
            path,
            class_id,
            clips.CLASS_NAMES[class_id],
        ),
    ).fetchone()
    assert row is not None
    return str(row["id"])


def finish_segment(cursor: psycopg.Cursor[dict[str, Any]], segment_id: str) -> None:
    """Mark a recording as processed."""
    cursor.execute("UPDATE public.audio_segments SET processed = true WHERE id = %s", (segment_id,))


def add_log(
    cursor: psycopg.Cursor[dict[str, Any]],
    user_id: str,
    day: datetime,
    trigger: str,
    seconds: float,
    files: int,
    events: int,
    errors: dict[str, str] | None = None,
) -> None:
    """Insert the row that says how processing one user's day went.

    Args:
        cursor: an open transaction.
        user_id: the user's UUID.
        day: any moment of the day that was processed.
        trigger: `cron` or `manual`.
        seconds: how long it took.
        files: recordings fetched.
        events: clips made.
        errors: details of what failed; None means completed.
    """
    cursor.execute(
        "INSERT INTO public.processing_logs (user_id, date, status, message, trigger_type,"
        " processing_duration_seconds, audio_files_downloaded, laughter_events_found, error_details)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            user_id,
            day.date(),
            "failed" if errors else "completed",
            "sample run",
            trigger,
            round(seconds),
            files,
            events,
            Jsonb(errors) if errors else None,
        ),
    )
