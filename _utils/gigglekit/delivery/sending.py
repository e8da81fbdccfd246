"""The nightly droplet's part: its clips go into the bucket, and are removed here when the receipt says that they have arrived."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError
from gigglekit.delivery.parcel import MOST_CLIP_BYTES, MOST_RECEIPT_BYTES, PARCELS, RECEIPTS, Clip, Keys, ParcelError, ident_of, is_clip
from gigglekit.vault.places import is_user_id

SETTLED_SECONDS = 30.0
"""So long nobody may have written to a clip before it is sent."""


@dataclass
class Sent:
    """What a run did.

    Attributes:
        sent: clips that are on their way since this run.
        waiting: clips that are on their way and have no receipt.
        delivered: clips that have arrived, and were removed here.
        oldest: how long ago the first of those that wait was sent, in seconds.
        problems: one sentence each.
    """

    sent: int = 0
    waiting: int = 0
    delivered: int = 0
    oldest: float = 0.0
    problems: list[str] = field(default_factory=list)


def send(bucket: Bucket, keys: Keys, clips: Path, now: float | None = None) -> Sent:
    """Send what is not on its way, and remove what has arrived.

    Arguments:
        bucket: the fleet's.
        keys: the fleet's.
        clips: the app's folder of them.
        now: seconds since the epoch; the clock's if None.

    Raises:
        BackupError: the bucket cannot be had.
    """
    moment = time.time() if now is None else now
    done = Sent()
    parcels = {ident_of(found.name, PARCELS): found.modified.timestamp() for found in bucket.list(PARCELS)}
    receipts = {ident_of(found.name, RECEIPTS) for found in bucket.list(RECEIPTS)}
    for path, clip in _clips(clips, moment, done.problems):
        ident = keys.id_of(clip)
        if ident in receipts:
            _arrived(bucket, keys, ident, path, clip, done, on_its_way=ident in parcels)
        elif ident in parcels:
            done.waiting += 1
            done.oldest = max(done.oldest, moment - parcels[ident])
        else:
            bucket.put(PARCELS + ident, keys.pack(clip)[1])
            done.sent += 1
    return done


def _arrived(bucket: Bucket, keys: Keys, ident: str, path: Path, clip: Clip, done: Sent, *, on_its_way: bool) -> None:
    try:
        keys.read_receipt(ident, bucket.get(RECEIPTS + ident, MOST_RECEIPT_BYTES))
    except (ParcelError, BackupError) as error:
        done.problems.append(f"A receipt in the bucket ({ident}) does not count: {error}. The clip stays here.")
        return
    with contextlib.suppress(FileNotFoundError):
        # Whoever wrote it anew meanwhile has another one.
        if path.stat().st_mtime_ns == clip.modified:
            path.unlink()
    if on_its_way:
        # Whoever wrote the receipt was killed before it removed the parcel, and would take it again once there is no receipt.
        bucket.erase(PARCELS + ident)
    bucket.erase(RECEIPTS + ident)
    done.delivered += 1


def _clips(folder: Path, moment: float, problems: list[str]) -> Iterator[tuple[Path, Clip]]:
    for user in sorted(name for name in os.listdir(folder) if is_user_id(name)):
        # Of a user whose vault is locked, or who was erased, there is nothing to read.
        with contextlib.suppress(OSError):
            for name in sorted(filter(is_clip, os.listdir(folder / user))):
                path = folder / user / name
                with contextlib.suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    status = os.fstat(file.fileno())
                    if not stat.S_ISREG(status.st_mode) or moment - status.st_mtime <= SETTLED_SECONDS:
                        continue
                    if status.st_size > MOST_CLIP_BYTES:
                        problems.append(
                            f"The clip {name} has {status.st_size >> 20} MiB, and at most {MOST_CLIP_BYTES >> 20} are delivered, so it was "
                            f"not sent; the others were. Find it (find -L {folder} -name {name}), copy it to the same path on the droplet "
                            "that serves clips, and remove it here."
                        )
                    else:
                        yield path, Clip(user, name, status.st_mtime_ns, file.read())
