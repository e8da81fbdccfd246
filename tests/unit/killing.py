"""Operations that are killed: by SIGKILL, in a child process, right before one of their state-changing calls.

Counted are the calls that change something on a disk or in the kernel. A write counts twice: it is killed before, and
after the first half of it. What was done until then stays done, as after kill -9 or `systemctl kill`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from gigglekit.files import draining, links
from gigglekit.vault import adopt, fscrypt, lobby, volume

_CHANGING = (
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "symlink",
    "link",
    "fsync",
    "fchown",
    "fchmod",
    "chmod",
    "utime",
    "ftruncate",
)
_IOCTLS = (fscrypt._ADD_KEY, fscrypt._REMOVE_KEY_ALL_USERS, fscrypt._SET_POLICY, volume._SET_FLAGS)
_SECONDS = 30.0


def killed_before(call: int, act: Callable[[], object], also: Callable[[Countdown], None] = lambda _: None) -> bool:
    """Run `act` in a child that is killed before its state-changing call number `call`, counted from 1.

    Arguments:
        call: at which.
        act: what is killed.
        also: called in the child, to have more of its calls counted.

    Returns:
        Whether it was killed; False if it ended before it came to that call.
    """
    child = os.fork()
    if child == 0:
        try:
            also(_arm(call))
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    end = time.monotonic() + _SECONDS
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"the operation took more than {_SECONDS} s")
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the operation failed by itself before call {call}"
    return code != 0


def calls_of(act: Callable[[], object], also: Callable[[Countdown], None] = lambda _: None) -> int:
    """Run `act` here in a child to its end, and return how many state-changing calls it made; `also` is as above."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            countdown = _arm(1 << 30)
            also(countdown)
            act()
            os.write.__wrapped__(writer, str((1 << 30) - countdown.left).encode())  # type: ignore[attr-defined]
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        counted = file.read()
    os.waitpid(child, 0)
    assert counted, "the operation failed"
    print(f"calls: {counted}")
    return int(counted)


class Countdown:
    """What is left until the child is killed."""

    def __init__(self, left: int) -> None:
        self.left = left

    def tick(self) -> None:
        """Count a call."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class _Unbuffered:
    """A file object whose writes go through os.write, where they are counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> _Unbuffered:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _arm(call: int) -> Countdown:
    countdown = Countdown(call)

    def counted(function: Callable[..., Any], counts: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments, **options):
                countdown.tick()
            return function(*arguments, **options)

        return wrapped

    write = os.write

    def torn(descriptor: int, content: bytes) -> int:
        countdown.tick()
        half = len(content) // 2
        done = write(descriptor, memoryview(content)[:half]) if half else 0
        countdown.tick()
        return done + write(descriptor, memoryview(content)[done:])

    torn.__wrapped__ = write  # type: ignore[attr-defined]
    os.write = torn  # type: ignore[assignment]
    os.open = counted(os.open, lambda path, flags, *_, **__: bool(flags & os.O_CREAT))  # type: ignore[assignment]
    os.fdopen = lambda descriptor, mode="r", *_, **__: _Unbuffered(descriptor)  # type: ignore[assignment,return-value]
    for name in _CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    fcntl.ioctl = counted(fcntl.ioctl, lambda _, request, *__, **___: request in _IOCTLS)
    draining.sync = counted(draining.sync)
    draining.move_in = counted(draining.move_in)
    links.exchange_in = adopt.exchange_in = lobby.exchange_in = counted(links.exchange_in)
    return countdown
