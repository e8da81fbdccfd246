"""Running a command inside a machine as if it had been started there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from . import cgroups
from .errors import TrialError
from .steps import die_with_parent

_libc = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt")
_FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
    signal.SIGWINCH,
)  # fmt: skip
_FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_TRIES, _PAUSE_SECONDS = 10, 0.01

LOGIN_ENVIRONMENT = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


def enter(leader: int, command: Sequence[str]) -> int:
    """Run `command` as root inside the machine and return how it ended.

    Standard input, output and error are the caller's own, untouched; signals are passed on. The environment is the
    one of a fresh login, the working directory is /root.

    Arguments:
        leader: the machine's first process, as this host counts.
        command: program (looked up in the machine's PATH) and arguments.

    Returns:
        The exit code, or minus the number of the signal that ended it. 127: no such program; 126: it cannot be run.

    Raises:
        TrialError: the machine went away.
    """
    environment = dict(LOGIN_ENVIRONMENT)
    if "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    try:
        processes = os.open(f"/proc/{leader}/ns/pid", os.O_RDONLY)
        namespaces = [os.open(f"/proc/{leader}/ns/{name}", os.O_RDONLY) for name in _NAMESPACES]
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TrialError(
            "The machine went away while it was being entered: it is restarting or was stopped. See its state with `trial/droplet list`."
        ) from error
    sys.stdout.flush()
    sys.stderr.flush()
    # Only children change their process namespace, so the next one is born inside and this process stays outside.
    _set_namespace(processes)
    outside, inside = socket.socketpair()
    # A signal that comes before it can be passed on waits.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        outside.close()
        _become(leader, command, environment, namespaces, inside, blocked)
    inside.close()
    _set_namespace(own)
    for descriptor in (processes, own, *namespaces):
        os.close(descriptor)
    with contextlib.suppress(OSError), outside:
        outside.send(outside.recv(1))

    def forward(number: int, _: FrameType | None) -> None:
        # The keyboard's signals reach the whole foreground group by themselves.
        if not (number in _FROM_KEYBOARD and os.isatty(0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return os.waitstatus_to_exitcode(status)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def join(leader: int) -> None:
    """Move this process into the machine's groups.

    Raises:
        OSError: it cannot be.
    """
    for left in reversed(range(_TRIES)):
        try:
            for group in cgroups.beside(leader):
                (group / "cgroup.procs").write_text("0")
        except OSError as error:
            # The machine's systemd removes the visitors' group when it finds that empty, at this moment too.
            if error.errno not in (errno.ENOENT, errno.ENODEV) or not left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _become(
    leader: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    namespaces: Sequence[int],
    parent: socket.socket,
    signals: Iterable[int],
) -> NoReturn:
    """Turn the freshly forked child into the command; never returns to the caller's code."""
    try:
        die_with_parent()
        # A parent that was killed before this point does not answer, and its end would go unnoticed.
        parent.send(b".")
        if not parent.recv(1):
            os._exit(125)
        try:
            join(leader)
        except OSError as error:
            os.write(2, f"{command[0]}: the droplet cannot be entered, it may just be stopping: {error.strerror}\n".encode())
            os._exit(126)
        for namespace in namespaces:
            _set_namespace(namespace)
        os.chdir("/root")
        os.umask(0o022)
        for number in _CHANGED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.execvpe(command[0], list(command), dict(environment))  # noqa: S606 (that is what this is for)
    except FileNotFoundError:
        os.write(2, f"{command[0]}: not found in the droplet\n".encode())
        os._exit(127)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(126)
    finally:
        os._exit(125)


def end_like(code: int) -> NoReturn:
    """End this process the way a command ended: with the same exit code, or by the same signal.

    Arguments:
        code: as `enter` returns it.
    """
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code if code >= 0 else 128 - code)
