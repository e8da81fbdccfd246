"""Settings with a secret in them: a file that only root may read, and that says nothing of what is in it when it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Settings = TypeVar("Settings")


def load(
    path: Path, parse: Callable[[bytes], Settings], *, error: type[Exception], holds: str, renew: str, concern: str
) -> Settings | None:
    """Read settings.

    Arguments:
        path: the file; no link is followed.
        parse: makes settings of its content, or raises ValueError with one line that repeats no secret.
        error: what is raised.
        holds: what is secret in it, and `renew` what to do when others may have read it: parts of sentences.
        concern: what writes the file.

    Returns:
        Them, or None if there is no file.

    Raises:
        error: the file cannot be read, others can read or write it, or something in it is wrong. No secret is repeated.
    """
    apply = f"salt-call state.apply {concern}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as failed:
        raise error(f"{path} cannot be read: {failed.strerror}. Ask as root; if it is a link, {apply} writes a file again.") from failed
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise error(
                f"{path} holds {holds}, and is owned by user {status.st_uid} with mode {status.st_mode & 0o7777:04o}: others may have read "
                f"or changed it. {renew} if that can be, and let {apply} put owner and mode right."
            )
        content = file.read()
    try:
        return parse(content)
    except ValueError as wrong:
        raise error(f"{path} is wrong: {wrong}. Correct the pillar and write it anew with {apply}.") from None
