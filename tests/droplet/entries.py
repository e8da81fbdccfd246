"""Commands inside a droplet as often as a test likes, with the trial's machinery loaded once.

A process that has it in memory forks for each command, and the child does what the program `trial/droplet exec` does. So the tenth of a
second of processor that Python takes to load it is spent once, and not for each of thousands of commands. What the program itself
promises is tried by tests/droplet/test_trial.py.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_LENGTH_BYTES = 8


class Entries:
    """The process; it ends with whoever has made it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs, start_new_session=True)
        self._lock = threading.Lock()

    def exec(
        self, name: str, command: Sequence[str], stdin: bytes, seconds: float, role: str = "droplet"
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the droplet `name`, or another machine of that trial; several threads may.

        Raises:
            TimeoutExpired: it took longer than `seconds`, and was killed.
        """
        with contextlib.ExitStack() as until_done:
            given = until_done.enter_context(open(os.memfd_create("stdin") if stdin else os.devnull, "r+b", buffering=0))
            if stdin:
                given.write(stdin)
                given.seek(0)
            with contextlib.ExitStack() as until_passed:
                out, err, told = (_pipe(until_done, until_passed) for _ in range(3))
                self._pass(["exec", "--name", name, "--role", role, "--", *command], [given, *(writer for _, writer in (out, err, told))])
            child, code, said = _follow(told[0], [out[0], err[0]], time.monotonic() + seconds)
            if code is None:
                os.kill(child, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(command), seconds, *said)
            return subprocess.CompletedProcess(list(command), code, *said)

    def _pass(self, arguments: Sequence[str], files: Sequence[IO[bytes]]) -> None:
        asked = json.dumps(arguments).encode()
        with self._lock:
            socket.send_fds(self._socket, [len(asked).to_bytes(_LENGTH_BYTES, "big")], [file.fileno() for file in files])
            self._socket.sendall(asked)


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    reader, writer = os.pipe()
    return reading.enter_context(open(reader, "rb", buffering=0)), writing.enter_context(open(writer, "wb", buffering=0))


def _follow(told: IO[bytes], said: Sequence[IO[bytes]], end: float) -> tuple[int, int | None, list[bytes]]:
    """Return the child's id, how it ended (None: it is still running at the time `end`) and what it said until everybody had closed it."""
    contents = {file: bytearray() for file in (told, *said)}
    with selectors.DefaultSelector() as waiting:
        for file in contents:
            waiting.register(file, selectors.EVENT_READ)
        while waiting.get_map():
            found = waiting.select(max(0.0, end - time.monotonic()))
            if not found:
                break
            for key, _ in found:
                block = os.read(key.fd, 1 << 16)
                contents[key.fileobj] += block  # type: ignore[index]
                if not block:
                    waiting.unregister(key.fileobj)
        else:
            end = float("inf")
    numbers = contents[told].split()
    assert numbers, "the process that enters droplets has ended"
    return int(numbers[0]), int(numbers[1]) if end == float("inf") else None, [bytes(contents[file]) for file in said]


def main() -> None:
    """Fork for each order that comes through the socket at standard input; tell the child's id, then its exit code."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(Path(__file__).parents[2] / "trial"))
    from machinery import cli

    gc.freeze()
    orders = socket.socket(fileno=0)
    running: dict[int, tuple[int, int]] = {}
    waiting = selectors.DefaultSelector()
    waiting.register(orders, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fd in running:
                child, told = running.pop(key.fd)
                waiting.unregister(key.fd)
                # Who did not want to wait any longer does not listen.
                with contextlib.suppress(BrokenPipeError):
                    os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
                os.close(key.fd)
                os.close(told)
                continue
            length, descriptors, *_ = socket.recv_fds(orders, _LENGTH_BYTES, 4)
            if not length:
                return
            asked = b""
            while len(asked) < int.from_bytes(length, "big"):
                asked += orders.recv(int.from_bytes(length, "big") - len(asked))
            child = os.fork()
            if child == 0:
                for number, descriptor in enumerate(descriptors[:3]):
                    os.dup2(descriptor, number)
                # Whoever waits for another command's end would wait for this one's, if it had a copy of what tells it.
                os.closerange(3, 4096)
                sys.argv = ["trial/droplet", *json.loads(asked)]
                code = 1
                try:
                    cli.main()
                except SystemExit as end:
                    code = int(end.code or 0)
                except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
                    traceback.print_exc()
                finally:
                    # Without the work that Python does at its end.
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            os.write(descriptors[3], f"{child}\n".encode())
            ended = os.pidfd_open(child)
            running[ended] = child, descriptors[3]
            waiting.register(ended, selectors.EVENT_READ)


if __name__ == "__main__":
    main()
