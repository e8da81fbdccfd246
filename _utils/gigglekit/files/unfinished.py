"""Files that a restore is writing and that do not have their names yet, told from those that a killed one has left.

Who writes such files holds a shared flock on the folder that they lie in, through a descriptor of its own. The kernel takes it away
from whoever was killed. So who gets the folder for itself knows that nobody is going to give the files in it their names.

Source: flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

PREFIX = ".restoring-"
"""What their names begin with."""
_TRIES, _PAUSE = 10, 0.02


def hold(folder: int) -> None:
    """Remove what killed runs have left in a folder, and let nobody remove what is written into it while this descriptor is open.

    Where somebody else holds the folder nothing is removed.

    Arguments:
        folder: a descriptor of the caller's own, which holds no lock.
    """
    with contextlib.suppress(OSError):
        # Whoever keeps the folder for itself for longer keeps others from tidying, too; nothing waits for it.
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.scandir(folder) as entries:
            left = [entry.name for entry in entries if entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False)]
        for name in left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    for _ in range(_TRIES):
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # Somebody else is tidying.
            time.sleep(_PAUSE)
        except OSError:
            # A file system that has no locks.
            return
        else:
            return


def is_held(folder: int) -> bool:
    """Tell whether somebody is writing such files into a folder, as far as can be told.

    Arguments:
        folder: a descriptor of the caller's own, which holds no lock.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system that has no locks.
        return False
    fcntl.flock(folder, fcntl.LOCK_UN)
    return False
