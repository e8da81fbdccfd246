"""Clips on disk: four seconds of sound in a folder per user, named as Giggles names them."""

import array
import io
import math
import os
import random
import re
import wave
from datetime import datetime, timedelta

RATE = 16000
SECONDS = 4
CLASS_NAMES = {13: "Laughter", 14: "Baby laughter", 15: "Giggle", 17: "Belly laugh", 18: "Chuckle, chortle"}
_CLIP_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*\.wav")


def segment_name(start: datetime, end: datetime) -> str:
    """Return the base name, without an ending, of the recording from `start` to `end` (both UTC)."""
    return f"{start:%Y%m%d_%H%M%S}-{end:%Y%m%d_%H%M%S}"


def synthesise() -> bytes:
    """Return a WAV file of 4 s, 16 kHz, mono, 16 bit (128,044 bytes), different on each call.

    Noise lies under the tone, so that such files compress about as badly as recorded sound does.
    """
    count = RATE * SECONDS
    pitch = random.uniform(180, 420)
    noise = array.array("h", os.urandom(2 * count))
    samples = array.array(
        "h",
        (
            int(9000 * math.sin(2 * math.pi * pitch * i / RATE) * abs(math.sin(2 * math.pi * 5 * i / RATE))) + (noise[i] >> 4)
            for i in range(count)
        ),
    )
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.tobytes())
    return buffer.getvalue()


def user_folder(upload_root: str, kind: str, user_id: str) -> str:
    """Create, if need be, and return `{upload_root}/{kind}/{user_id}`; a link in its place is followed.

    Args:
        upload_root: absolute upload folder.
        kind: `clips` or `audio`.
        user_id: the user's UUID.

    Raises:
        OSError: the folder can be neither found nor made.
    """
    folder = os.path.join(upload_root, kind, user_id)
    os.makedirs(folder, exist_ok=True)
    return folder


def store_clip(upload_root: str, user_id: str, base: str, wav: bytes | None = None) -> tuple[str, float, int]:
    """Write one clip of the recording `base`.

    Args:
        upload_root: absolute upload folder.
        user_id: the owner's UUID.
        base: base name of the recording, see `segment_name`.
        wav: the file's bytes; made up if None.

    Returns:
        The absolute path, links unresolved; the moment of laughter in seconds from the recording's start; and the
        YAMNet class.

    Raises:
        OSError: the clip cannot be written.
    """
    folder = user_folder(upload_root, "clips", user_id)
    content = synthesise() if wav is None else wav
    while True:
        hundredths = random.randrange(0, 1800 * 100)
        class_id = random.choice(list(CLASS_NAMES))
        moment = f"{hundredths // 100}-{hundredths % 100:02d}"
        path = os.path.join(folder, f"{base}_laughter_{moment}_{class_id}.wav")
        try:
            with open(path, "xb") as out:
                out.write(content)
        except FileExistsError:
            continue
        return path, hundredths / 100, class_id


def list_clips(upload_root: str, user_id: str) -> list[str]:
    """Return the names of a user's clips, sorted; empty where there is no folder yet."""
    try:
        names = os.listdir(os.path.join(upload_root, "clips", user_id))
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(".wav"))


def clip_path(upload_root: str, user_id: str, name: str) -> str | None:
    """Return the path of the user's clip called `name`, or None if there is none or the name is no clip's name."""
    if not _CLIP_NAME.fullmatch(name):
        return None
    path = os.path.join(upload_root, "clips", user_id, name)
    return path if os.path.isfile(path) else None


def half_hour(moment: datetime) -> tuple[datetime, datetime]:
    """Return start and end of the half hour that holds `moment`: the length of one recording."""
    start = moment.replace(minute=moment.minute // 30 * 30, second=0, microsecond=0)
    return start, start + timedelta(minutes=30)
