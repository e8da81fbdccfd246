"""The nightly job's real work: for each active user a made-up recording, its clips, and the rows that go with them."""

import os
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from . import clips, database
from .settings import settings


def active_users(user_ids: Sequence[uuid.UUID], emails: Sequence[str]) -> list[tuple[str, str]]:
    """Return id and e-mail address of each active user with an active API key, in a stable order.

    Args:
        user_ids: if these or `emails` hold any, only the users named by either.
        emails: see `user_ids`.

    Raises:
        database.Unavailable: the database cannot be reached or refuses.
    """
    with database.as_service(settings.database_url) as cursor:
        rows = cursor.execute(
            "SELECT u.id, u.email FROM public.users u WHERE u.is_active"
            " AND EXISTS (SELECT FROM public.limitless_keys k WHERE k.user_id = u.id AND k.is_active)"
            " AND (%(all)s OR u.id = ANY(%(ids)s) OR u.email = ANY(%(emails)s)) ORDER BY u.created_at, u.id",
            {"all": not user_ids and not emails, "ids": list(user_ids), "emails": list(emails)},
        ).fetchall()
    return [(str(row["id"]), row["email"]) for row in rows]


def process_user(user_id: str) -> int:
    """Make one recording of yesterday (UTC) with SAMPLE_NIGHTLY_CLIPS clips (default 2), then erase the recording.

    Returns:
        The number of recordings processed.

    Raises:
        OSError: a file cannot be written or erased.
        database.Unavailable: the database cannot be reached or refuses.
    """
    began = time.monotonic()
    start, end = clips.half_hour(datetime.now(timezone.utc) - timedelta(days=1))
    base = clips.segment_name(start, end)
    root = settings.upload_root
    audio = os.path.join(clips.user_folder(root, "audio", user_id), base + ".ogg")
    with open(audio, "wb") as out:
        out.write(os.urandom(64 * 1024))
    wanted = int(os.environ.get("SAMPLE_NIGHTLY_CLIPS", "2"))
    with database.as_service(settings.database_url) as cursor:
        segment_id = database.add_segment(cursor, user_id, start, end, audio)
        for _ in range(wanted):
            database.add_detection(cursor, user_id, segment_id, start, clips.store_clip(root, user_id, base))
        database.finish_segment(cursor, segment_id)
        database.add_log(cursor, user_id, start, "cron", time.monotonic() - began, files=1, events=wanted)
    os.unlink(audio)
    return 1


def remove_orphans(project: str) -> int:
    """Erase clips in `{project}/uploads/clips` that have no row: live ones, too, if the database is behind.

    This is a hazard of Giggles, kept so that a trial can show that the release holds no `uploads`.

    Returns:
        The number of files erased.

    Raises:
        database.Unavailable: the database cannot be reached or refuses.
    """
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(os.path.join(project, "uploads", "clips"))
        for name in names
        if name.endswith(".wav")
    ]
    if not found:
        return 0
    with database.as_service(settings.database_url) as cursor:
        rows: list[dict[str, Any]] = cursor.execute("SELECT clip_path FROM public.laughter_detections").fetchall()
    known = {row["clip_path"] for row in rows}
    orphans = [path for path in found if path not in known]
    for path in orphans:
        os.unlink(path)
    return len(orphans)
