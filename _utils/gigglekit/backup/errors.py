"""What can go wrong with the backup. Each message is one paragraph for an operator: what happened, why, what to do."""

from __future__ import annotations

from datetime import datetime


class BackupError(Exception):
    """Anything that keeps the backup from doing what it was asked; what was in the bucket before still holds."""


class UnreachableError(BackupError):
    """The bucket does not answer, or only with errors of its own; asking again later helps."""


class DeniedError(BackupError):
    """The bucket refuses: the credentials are wrong, or a right is missing. The message says which one and where it is given."""


class ClockError(BackupError):
    """The clock of this droplet is so far off that the bucket takes no request from it."""


class MissingError(BackupError):
    """There is no such object.

    Arguments:
        name: of the object, without the prefix.
        text: what an operator reads.
    """

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(text or f"{name} is not in the bucket. It was removed there, or the bucket or its prefix is not the right one.")
        self.name = name


class DamagedError(BackupError):
    """The bytes are not those that were written.

    Arguments:
        name: of the object, without the prefix.
        text: what an operator reads.
    """

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(
            text or f"{name} in the bucket is damaged: its bytes are not those that were written. giggles.verify says what is affected."
        )
        self.name = name


class LockedError(BackupError):
    """An object cannot be deleted yet.

    Arguments:
        until: when its lock ends; None if nobody knows (a legal hold).
        text: what an operator reads.
    """

    def __init__(self, until: datetime | None, text: str = "") -> None:
        when = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "by a legal hold, which has no end"
        super().__init__(text or f"An object in the bucket is locked {when}. It can be deleted only after that.")
        self.until = until


class BusyError(BackupError):
    """Something else holds what is needed; asking again later helps."""


class RefusedError(BackupError):
    """What was asked for makes no sense or would harm somebody else; nothing was changed."""
