"""The web droplet's part: clips come out of the bucket to where the app looks for them, and a receipt says so.

It writes as the app does, as the app's account: into the user's folder, which it makes where there is none. So they come into the
user's vault like any other clip, and where a user was erased nothing can be written (gigglekit.vault.adopt, `block`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError, MissingError
from gigglekit.delivery.parcel import MOST_PARCEL_BYTES, PARCELS, RECEIPTS, REFUSED, STORED, Clip, Keys, ParcelError, ident_of

_RECEIPT_DAYS = 30
"""So long a receipt waits for a droplet that was off; then its clip is sent, and received, once more."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Received:
    """What a run did.

    Attributes:
        stored: clips that are here now.
        refused: clips of users who were erased.
        problems: one sentence each.
    """

    stored: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def receive(bucket: Bucket, keys: Keys, clips: Path, stored: Path, now: float | None = None) -> Received:
    """Take all parcels that there are.

    Arguments:
        bucket: the fleet's.
        keys: the fleet's.
        clips: the app's folder of them.
        stored: a folder for notes of what is stored and has no receipt yet.
        now: seconds since the epoch; the clock's if None.

    Raises:
        BackupError: the bucket cannot be had.
        OSError: the disk is full.
    """
    done = Received()
    waiting = {ident for found in bucket.list(PARCELS) if (ident := ident_of(found.name, PARCELS)) is not None}
    for note in stored.iterdir():
        if note.name not in waiting:
            note.unlink()
    for ident in sorted(waiting):
        if not (stored / ident).exists():
            try:
                taken = _take(bucket, keys, ident, clips, done.problems)
            except _NotTaken:
                continue
            done.stored += taken
            done.refused += not taken
            if not taken:
                _answer(bucket, keys, ident, REFUSED)
                continue
            # From here on it is its user's, who may delete it: it is not written again, however long the receipt takes.
            (stored / ident).touch()
        _answer(bucket, keys, ident, STORED)
        (stored / ident).unlink()
    moment = time.time() if now is None else now
    for found in bucket.list(RECEIPTS):
        if moment - found.modified.timestamp() > _RECEIPT_DAYS * 86400:
            bucket.erase(found.name)
    return done


def refuse(bucket: Bucket, keys: Keys, ident: str) -> None:
    """Answer a parcel with a refusal, as for an erased user: the droplet that made the clip removes it.

    Arguments:
        bucket, keys: the fleet's.
        ident: the parcel's.

    Raises:
        ParcelError: there is none.
        BackupError: the bucket cannot be had.
    """
    if ident not in {ident_of(found.name, PARCELS) for found in bucket.list(PARCELS)}:
        raise ParcelError(f"no parcel in the bucket has the id {ident}")
    _answer(bucket, keys, ident, REFUSED)


class _NotTaken(Exception):
    """A parcel stays where it is; why is among the problems."""


def _take(bucket: Bucket, keys: Keys, ident: str, clips: Path, problems: list[str]) -> bool:
    """Take one parcel; False if its user was erased.

    Raises:
        _NotTaken: it could not be.
        OSError: the disk is full.
    """
    try:
        clip = keys.unpack(ident, bucket.get(PARCELS + ident, MOST_PARCEL_BYTES))
    except MissingError:
        # Removed since it was listed, with its receipt by who had sent it.
        raise _NotTaken from None
    except (ParcelError, BackupError) as error:
        problems.append(f"A parcel in the bucket ({ident}) was not taken: {error}.")
        raise _NotTaken from None
    try:
        return _store(clips, clip, ident)
    except FileExistsError:
        # By its name, which tells when and not whose: the log is kept for longer than an erased user may be named.
        problems.append(
            f"The clip {clip.name} came, and another one of that name and user is here, which was left as it is; all others were taken. "
            f"Listen to the one that is here (find -L {clips} -name {clip.name}). If the new one shall take its place, remove it, and the "
            f"next run takes the new one. If it shall stay, have the new one removed from where it was made: docs/NIGHTLY.md, "
            f"`gigglekit.delivery refuse {ident}`."
        )
    except _LockedError:
        problems.append(
            f"The clip of the parcel {ident} was not taken, since the vault of its user is locked. It stays in the bucket, and is "
            "tried again. Look at systemctl status giggles-vault-unlock; while that user is being erased, it ends with that."
        )
    except OSError as error:
        if error.errno in _FULL:
            raise
        # Its words may name the user.
        problems.append(f"The clip of the parcel {ident} could not be stored ({error.strerror}). It stays in the bucket.")
    raise _NotTaken


def _answer(bucket: Bucket, keys: Keys, ident: str, what: str) -> None:
    bucket.put(RECEIPTS + ident, keys.receipt(ident, what))
    bucket.erase(PARCELS + ident)


def _store(clips: Path, clip: Clip, ident: str) -> bool:
    """Store a clip; False if its user was erased.

    Raises:
        FileExistsError: another one has its name.
        _LockedError: nothing can be written for its user now.
        OSError: it cannot be written.
    """
    folder = clips / clip.user
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
    except FileExistsError:
        # A link that leads nowhere. An erased user's vault is gone; in one that is there, and locked, no name is found.
        if os.path.lexists(clips / os.path.dirname(os.readlink(folder))):
            raise _LockedError from None
        return False
    with contextlib.closing(_Folder(folder)) as place:
        # What one that was killed has left.
        place.remove(f".{ident}")
        if not place.is_there(clip):
            place.write(clip, f".{ident}")
    return True


class _LockedError(Exception):
    """The user's vault is there, and cannot be entered."""


class _Folder:
    """A user's folder, held open: it may be exchanged for a link to the vault at any moment, and what is written into it follows."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def is_there(self, clip: Clip) -> bool:
        """Tell whether the clip is there.

        Raises:
            FileExistsError: something else has its name.
        """
        try:
            with open(os.open(clip.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._descriptor), "rb") as file:
                if file.read(len(clip.content) + 1) == clip.content:
                    return True
        except FileNotFoundError:
            return False
        raise FileExistsError(clip.name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def write(self, clip: Clip, aside: str) -> None:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640, dir_fd=self._descriptor)
        try:
            with open(descriptor, "wb") as file:
                file.write(clip.content)
                file.flush()
                os.utime(file.fileno(), ns=(clip.modified, clip.modified))
                os.fsync(file.fileno())
            os.link(aside, clip.name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor, follow_symlinks=False)
        finally:
            self.remove(aside)
        os.fsync(self._descriptor)
