"""Who may restart the app: a change of what is live while it switches and judges, or somebody else in between, never both at once.

A lock of its own and not the one of a whole deploy: that one is held for as long as a build or a migration takes, whose dump waits for
the vault in its turn, and an erasure, which holds the vault, has no time for either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gigglekit.files.locking import only_one
from gigglekit.release.errors import ReleaseError
from gigglekit.release.service import Service
from gigglekit.release.settings import Layout

_WAIT_SECONDS = 1200.0
"""A switch lasts for as long as the app takes to start, its last requests (at most ten minutes) and the gate."""


@contextmanager
def turn(layout: Layout, seconds: float = _WAIT_SECONDS) -> Iterator[None]:
    """Be the only one who restarts the app, for as long as the block lasts.

    Arguments:
        layout: where the lock lies.
        seconds: how long others are waited for.

    Raises:
        ReleaseError: somebody else was at it all that time.
    """
    busy = ReleaseError(
        f"The app is being restarted by somebody else, a deploy or an erasure, and that has not ended within {seconds / 60:.0f} minutes. "
        f"fuser {layout.turn} names the process. Ask again once it has ended, which goes on where this stopped."
    )
    with only_one(layout.turn, seconds=seconds, busy=lambda: busy):
        yield


def restart(service: Service, layout: Layout) -> None:
    """Restart the app, but not while a release is switched to and judged: it would be taken back for what this does.

    Raises:
        ReleaseError: it could not be restarted.
    """
    if not layout.root.is_dir():
        service.restart()
        return
    with turn(layout):
        service.restart()
