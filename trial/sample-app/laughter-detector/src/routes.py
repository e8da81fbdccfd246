"""Routes below /api: those of Giggles that a deployment has to protect, proxy or survive, and one to store a clip."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import date, datetime, timezone
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from . import accounts, clips, database
from .settings import settings

router = APIRouter()

# Frozen when the app starts, like Giggles': an answer says that the process lives, and nothing else.
STARTED = datetime.now(timezone.utc).isoformat()

LONGEST_SECONDS = 900


def current_user(authorization: Annotated[str, Header()] = "") -> str:
    """Return the user id of the bearer token, or answer 401."""
    scheme, _, token = authorization.partition(" ")
    user_id = accounts.user_of_token(token.strip(), settings.secret_key) if scheme.lower() == "bearer" else None
    if user_id is None:
        raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})
    return user_id


User = Annotated[str, Depends(current_user)]


@router.get("/health")
def health() -> dict[str, str]:
    """Say that the process lives; neither database nor disk is looked at."""
    return {"status": "healthy", "timestamp": STARTED, "app": "sample"}


async def _credentials(request: Request) -> dict[str, str]:
    """Read e-mail and password, and a user id if given, from a JSON or form body."""
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            fields: Any = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        else:
            fields = await request.json()
        email, password = fields["email"], fields["password"]
        user_id = str(uuid.UUID(fields["user_id"])) if "user_id" in fields else accounts.user_id_of(email)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HTTPException(422, "Send email and password (and a UUID as user_id, if you like)") from error
    return {"email": email, "password": password, "user_id": user_id}


def _register(user_id: str, email: str) -> bool:
    try:
        database.sign_up(settings.database_url, user_id, email)
    except database.Unavailable as error:
        print(f"⚠️ Sample account not stored: {type(error).__name__}", flush=True)
        return False
    return True


def _session(given: dict[str, str], stored: bool) -> dict[str, Any]:
    return {
        "access_token": accounts.issue_token(given["user_id"], settings.secret_key),
        "token_type": "bearer",
        "user": {"id": given["user_id"], "email": given["email"]},
        "database": stored,
    }


@router.post("/auth/register")
async def register(request: Request) -> dict[str, Any]:
    """Create an account, in the database too if it is reachable, and sign in."""
    given = await _credentials(request)
    return _session(given, await run_in_threadpool(_register, given["user_id"], given["email"]))


@router.post("/auth/login")
async def login(request: Request) -> dict[str, Any]:
    """Sign in: any password will do, except `wrong`, which gets 401."""
    given = await _credentials(request)
    if given["password"] == "wrong":
        raise HTTPException(401, "Invalid credentials")
    return _session(given, await run_in_threadpool(_register, given["user_id"], given["email"]))


@router.get("/auth/me")
def me(user_id: User) -> dict[str, str]:
    """Say who the token belongs to."""
    return {"user_id": user_id}


async def _limited_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > settings.max_file_size:
            raise HTTPException(413, f"A clip may have at most {settings.max_file_size} bytes")
    return bytes(body)


def _store(user_id: str, wav: bytes | None) -> dict[str, Any]:
    start, end = clips.half_hour(datetime.now(timezone.utc))
    base = clips.segment_name(start, end)
    clip = clips.store_clip(settings.upload_root, user_id, base, wav)
    detection_id = None
    try:
        with database.as_user(settings.database_url, user_id) as cursor:
            audio = os.path.join(settings.upload_root, "audio", user_id, base + ".ogg")
            segment_id = database.add_segment(cursor, user_id, start, end, audio)
            detection_id = database.add_detection(cursor, user_id, segment_id, start, clip)
            database.finish_segment(cursor, segment_id)
    except database.Unavailable as error:
        detection_id = None
        print(f"⚠️ Sample clip stored without its row: {type(error).__name__}", flush=True)
    return {"id": detection_id, "name": os.path.basename(clip[0]), "clip_path": clip[0]}


@router.post("/audio-clips", status_code=201)
async def store_clip(request: Request, user_id: User) -> dict[str, Any]:
    """Store the body as a clip, or a made-up one if there is no body; `id` is null where the database took no row."""
    wav = await _limited_body(request)
    if wav and not (wav[:4] == b"RIFF" and wav[8:12] == b"WAVE"):
        raise HTTPException(400, "A clip must be a WAV file")
    return await run_in_threadpool(_store, user_id, wav or None)


@router.get("/audio-clips")
def list_clips(user_id: User) -> list[str]:
    """List the names of the user's clips on disk."""
    return clips.list_clips(settings.upload_root, user_id)


@router.get("/audio-clips/{clip_id}")
def get_clip(clip_id: str, user_id: User) -> FileResponse:
    """Send a clip, found by the id of its row or, with no database needed, by its name."""
    path = clips.clip_path(settings.upload_root, user_id, clip_id)
    if path is None:
        path = _path_of_detection(clip_id, user_id)
    if path is None or not os.path.isfile(path):
        raise HTTPException(404, "Audio clip not found")
    return FileResponse(path, media_type="audio/wav")


def _path_of_detection(clip_id: str, user_id: str) -> str | None:
    try:
        detection_id = uuid.UUID(clip_id)
    except ValueError:
        return None
    try:
        with database.as_user(settings.database_url, user_id) as cursor:
            row = cursor.execute("SELECT clip_path FROM public.laughter_detections WHERE id = %s", (detection_id,)).fetchone()
    except database.Unavailable as error:
        raise HTTPException(500, "Error getting audio clip") from error
    return row["clip_path"] if row else None


@router.get("/laughter-detections/{day}")
def detections(day: date, user_id: User) -> list[dict[str, Any]]:
    """List the user's rows of one day (UTC)."""
    try:
        with database.as_user(settings.database_url, user_id) as cursor:
            return cursor.execute(
                "SELECT id, audio_segment_id, timestamp, probability, clip_path, notes, class_id, class_name"
                " FROM public.laughter_detections WHERE (timestamp AT TIME ZONE 'UTC')::date = %s ORDER BY timestamp",
                (day,),
            ).fetchall()
    except database.Unavailable as error:
        raise HTTPException(500, "Failed to get laughter detections") from error


@router.delete("/laughter-detections/{detection_id}")
def delete_detection(detection_id: str, user_id: User) -> None:
    """Fail with 500, always: the defect of Giggles that a deployment has to live with."""
    raise HTTPException(500, "Failed to delete detection")


@router.delete("/user-data")
def delete_user_data(user_id: User) -> dict[str, str]:
    """Erase EVERY user's files below the working directory: the hazard of Giggles that a deployment has to contain."""
    for folder in ("uploads/audio", "uploads/clips"):
        if os.path.isdir(folder):
            shutil.rmtree(folder)
            os.makedirs(folder)
    try:
        with database.as_user(settings.database_url, user_id) as cursor:
            cursor.execute("DELETE FROM public.laughter_detections")
            cursor.execute("DELETE FROM public.audio_segments")
    except database.Unavailable as error:
        raise HTTPException(500, "Failed to delete user data") from error
    return {"message": "User data deleted"}


async def _ticks(seconds: float) -> AsyncIterator[str]:
    elapsed = 0.0
    while elapsed < seconds:
        step = min(1.0, seconds - elapsed)
        await asyncio.sleep(step)
        elapsed += step
        yield f"processed {elapsed:.1f} of {seconds:.1f} s\n"
    yield "done\n"


async def _take_long(seconds: float, stream: bool) -> Response:
    if stream:
        return StreamingResponse(_ticks(seconds), media_type="text/plain")
    # Silent until the end, like Giggles: a proxy sees nothing at all for that long.
    await asyncio.sleep(seconds)
    return JSONResponse({"status": "success", "seconds": seconds})


Seconds = Annotated[float, Query(ge=0, le=LONGEST_SECONDS)]


@router.post("/reprocess-date-range")
async def reprocess_date_range(user_id: User, seconds: Seconds = 0, stream: bool = False) -> Response:
    """Take `seconds` to answer; with `stream`, send a line each second instead of staying silent."""
    return await _take_long(seconds, stream)


@router.post("/process-current-day")
async def process_current_day(user_id: User, seconds: Seconds = 0, stream: bool = False) -> Response:
    """Do the same, but only where the process environment has SUPABASE_ANON_KEY; 500 without it."""
    if not os.environ.get("SUPABASE_ANON_KEY"):
        raise HTTPException(500, "Database configuration error")
    return await _take_long(seconds, stream)
