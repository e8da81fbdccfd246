"""salt-call as often as a test likes, with Salt loaded once.

A process that has Salt's modules in memory forks for each call, and the child does what the program `salt-call` does. So nothing of one
call is left for the next, and the half second that Python takes to load Salt is spent once for all tests. Whoever waits in it for somebody
else to become better, as after a server's error, waits a twentieth of that time.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HURRY = 20
_LOADED = (
    "salt.cli.call", "salt.cli.caller", "salt.client.ssh.wrapper", "salt.fileclient", "salt.grains.extra", "salt.loader", "salt.minion",
    "salt.modules.cmdmod", "salt.modules.file", "salt.modules.network", "salt.modules.smbios", "salt.output", "salt.runner", "salt.scripts",
    "salt.state", "salt.utils.dns", "salt.utils.gitfs", "salt.utils.pkg.rpm", "salt.utils.thin", "salt.utils.win_update",
)  # fmt: skip


class SaltCalls:
    """The process; it ends with whoever has made it, or with `close`."""

    def __init__(self) -> None:
        # Unbuffered: both of its answers may have come when the first is waited for, and the second must still be seen to be there.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def run(self, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run salt-call with this process's environment and folder.

        Raises:
            TimeoutExpired: it took longer than `seconds`, and was killed.
        """
        with tempfile.TemporaryDirectory(prefix="salt-call-") as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            asked = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "out": str(out), "err": str(err)}
            child = self._say(asked, 60)
            try:
                code = self._say(None, seconds)
            except TimeoutError:
                os.killpg(child, signal.SIGKILL)
                self._say(None, 60)
                raise subprocess.TimeoutExpired(["salt-call", *arguments], seconds, out.read_text(), err.read_text()) from None
            return subprocess.CompletedProcess(["salt-call", *arguments], code, out.read_text(), err.read_text())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)

    def _say(self, what: Any, seconds: float) -> int:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("pipes were asked for")
        if what is not None:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise TimeoutError
        return int(self._process.stdout.readline())


@functools.cache
def salt_calls() -> SaltCalls:
    """Return the process for all tests; it ends with them."""
    calls = SaltCalls()
    atexit.register(calls.close)
    return calls


def main() -> None:
    """Fork for each line of standard input; say the child's id, then its exit code."""
    # What every call loads, besides what it reads from the repository.
    for module in _LOADED:
        importlib.import_module(module)
    # None of it will go, so no child need look at it, and so have a copy of its own.
    gc.freeze()
    sleep = time.sleep
    # Before gigglekit is loaded, which keeps what it waits with.
    time.sleep = lambda seconds: sleep(seconds / _HURRY)
    # Not by the file's iterator, whose buffer a child would have a copy of.
    while line := sys.stdin.readline():
        asked = json.loads(line)
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            os.chdir(asked["folder"])
            os.environ.clear()
            os.environ.update(asked["environment"])
            for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], os.O_WRONLY), (2, asked["err"], os.O_WRONLY)):
                os.dup2(os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
            sys.argv = [str(Path(sys.executable).with_name("salt-call")), *asked["arguments"]]
            sys.modules["salt.scripts"].salt_call()
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
