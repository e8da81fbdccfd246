"""Lends the app's public socket to a second process, so that requests are answered while the service itself starts anew.

A UNIX socket is found by its name, and a name can be given to another socket in one step. Whoever has connected already stays with whom it
has; whoever connects from then on reaches the other one. systemd keeps its own socket meanwhile, under a second name.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_CONNECTED = ("02", "03")
"""States in /proc/net/unix: on its way to being accepted, and accepted."""
_QUIET_LOOKS, _LOOK_SECONDS = 3, 0.1


def own_name(public: Path) -> Path:
    """Return the name under which the service's own socket is reached while the public one is lent."""
    return public.with_name(f"{public.stem}-own.sock")


def lend(public: Path, candidate: Path) -> Path:
    """Have whoever connects to `public` from now on reach the process at `candidate`.

    Arguments:
        public: name of the service's socket.
        candidate: name of another one in the same folder, which it loses by this.

    Returns:
        The second name of the service's own socket.

    Raises:
        OSError: one of them is not there.
    """
    own = own_name(public)
    own.unlink(missing_ok=True)
    os.link(public, own, follow_symlinks=False)
    candidate.rename(public)
    return own


def give_back(public: Path) -> bool:
    """Have whoever connects to `public` reach the service's own socket again.

    Returns:
        Whether it was lent.
    """
    own = own_name(public)
    try:
        # Two names of one socket: a rename would leave both (rename(2)).
        if os.path.samestat(own.lstat(), public.lstat()):
            own.unlink()
            return False
    except FileNotFoundError:
        if not os.path.lexists(own):
            return False
    with suppress(FileNotFoundError):
        own.rename(public)
        return True
    return False


def drain(bound: Path, seconds: float, table: Path = Path("/proc/net/unix")) -> bool:
    """Wait until whoever has connected to a socket that has no name any more was answered, those in its queue too.

    Arguments:
        bound: name that the socket was made with; the kernel goes by that.
        seconds: how long to wait at most.
        table: the kernel's list of UNIX sockets.

    Returns:
        Whether nobody is left.
    """
    end = time.monotonic() + seconds
    quiet = 0
    while True:
        # Somebody may have found the name a moment ago and be about to connect.
        quiet = 0 if _connections(bound, table) else quiet + 1
        if quiet >= _QUIET_LOOKS:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_SECONDS)


def _connections(bound: Path, table: Path) -> int:
    """Return how many connections a socket has, by proc(5): number, count, protocol, flags, type, state, inode, path."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    name = str(bound)
    return sum(1 for words in map(str.split, lines) if len(words) == 8 and words[7] == name and words[5] in _CONNECTED)
