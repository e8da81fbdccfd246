"""Copied into each release's virtual environment as `giggles_single_run`: the nightly script never runs twice at once.

systemd starts a unit only once, but knows nothing of a script that somebody starts by hand. Every Python of the virtual
environment passes through here before its script, so whoever runs process_nightly_audio.py, and however, takes one and
the same lock first. This file may import nothing but the standard library, and does nothing for any other program.
"""

import fcntl
import os

_LOCK = "/opt/giggles/nightly.lock"
_SCRIPT = b"process_nightly_audio.py"
_BUSY = 75  # EX_TEMPFAIL of sysexits.h: try again later

held: list[int] = []


def _is_nightly() -> bool:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == _SCRIPT for word in words[1:])


def take() -> None:
    """Take the lock for the life of this process, or end it with exit code 75 if another one has it."""
    try:
        # flock(2) works on a file that may only be read: the app can hold the lock but not replace it.
        held.append(os.open(_LOCK, os.O_RDONLY | os.O_CLOEXEC))
        fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(
            2,
            b"The nightly job is already running, so this one ends without doing anything. Wait for it: "
            b"systemctl status giggles-nightly, or pgrep -f process_nightly_audio.py.\n",
        )
        os._exit(_BUSY)
    except OSError as error:
        os.write(
            2,
            f"The lock {_LOCK} of the nightly job cannot be opened ({error.strerror}); run it as the user "
            "giggles: sudo -u giggles. salt-call state.apply nightly puts the file back.\n".encode(),
        )
        os._exit(_BUSY)


if _is_nightly():
    take()
    # The service sets these; a run by hand needs them as well, since no release can be written by the app.
    for _name, _folder in (("TFHUB_CACHE_DIR", "tfhub"), ("NUMBA_CACHE_DIR", "numba")):
        os.environ.setdefault(_name, f"/var/cache/giggles/{_folder}")
