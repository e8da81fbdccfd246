"""Waiting for new folders in the lobby, and having them adopted.

A systemd path unit would miss what happens while the service it has started runs (it looks again only for conditions that
last, such as a folder that is not empty, and the lobby never is), so this watches by itself. It stays small: adoption runs in
a process of its own, and only when there is something to adopt.

Source: inotify(7); path_spec_check_good() in systemd's src/core/path.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_KINDS = ("clips", "audio")
_CREATE, _MOVED_TO, _ONLYDIR, _ISDIR, _OVERFLOW, _UNMOUNT = 0x100, 0x80, 0x01000000, 0x40000000, 0x4000, 0x2000
_EVENT = struct.Struct("iIII")
_SETTLE_SECONDS = 0.3
_AGAIN_SECONDS = 1.0
_TROUBLE_SECONDS = 15.0
_LOOK_ANYWAY_SECONDS = 300.0
WAITING = 3
"""Exit code of an adoption that has to be repeated, since somebody was still writing."""


class Watch:
    """Watches the folders of the lobby, whichever inode they are at the moment.

    Arguments:
        uploads: the root of the volume.
    """

    def __init__(self, uploads: Path) -> None:
        self._uploads = uploads
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def look(self) -> None:
        """Watch the folders that are there now; one that is watched already stays so.

        Raises:
            OSError: one of them is not there.
        """
        for folder in (self._uploads, *(self._uploads / kind for kind in _KINDS)):
            if self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _CREATE | _MOVED_TO | _ONLYDIR) < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(folder))

    def wait(self, seconds: float) -> bool:
        """Wait until a folder appears, is exchanged or goes with its volume; return False if none did in that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._descriptor], [], [], left)[0] and self._folder_came():
                return True
        return False

    def _folder_came(self) -> bool:
        try:
            events = os.read(self._descriptor, 1 << 16)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            raise
        place, came = 0, False
        while place < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, place)
            place += _EVENT.size + length
            came = came or bool(mask & (_ISDIR | _OVERFLOW | _UNMOUNT))
        return came


def watch(uploads: Path, adopt: Sequence[str]) -> None:
    """Have new user folders adopted, for ever.

    Arguments:
        uploads: the root of the volume.
        adopt: the command that adopts; it ends with `WAITING` if it has to be repeated soon.

    Raises:
        OSError: the folders are not there: the volume is not mounted.
    """
    one = Watch(uploads)
    while True:
        # Watched before it is looked at, so that nothing comes in between.
        one.look()
        code = subprocess.run(adopt, stdin=subprocess.DEVNULL, check=False).returncode
        if code == 0:
            one.wait(_LOOK_ANYWAY_SECONDS)
            time.sleep(_SETTLE_SECONDS)
        else:
            one.wait(_AGAIN_SECONDS if code == WAITING else _TROUBLE_SECONDS)
