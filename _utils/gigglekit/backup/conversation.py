"""One transaction in psql that only this process can commit.

psql is given what to do on a pipe that stays open. It never learns of an end: either it is told to commit, by name, or the pipe
breaks and the server takes everything back. So a restore that is killed, or whose source turns out to be damaged at its very end,
leaves a database as it was.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gigglekit.backup.complaints import explained
from gigglekit.backup.login import Server, login, memory_file, words
from gigglekit.backup.postgresql import DatabaseError

if TYPE_CHECKING:
    from psycopg import sql

UNCHANGED = "Nothing in it was changed."

_HEADER_BYTES = 64 * 1024
_TICK = 1.0
_NEVER_ENDS = 10.0


class Conversation:
    """psql with a transaction open. Made by `conversation`."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: int, where: Server, end: float) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("pipes were asked for")
        self.process = process
        self.committed = False
        self._stdin = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        self._complaints = complaints
        self._where = where
        self._end = end
        self._marks = 0
        self._rest = b""
        self._after = UNCHANGED
        os.set_blocking(self._stdin, False)
        # A server that waits for somebody who is gone, as after a power cut, keeps tables locked until it notices.
        self.ask("BEGIN; SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6", 0)

    def ask(self, statement: str | sql.Composable, columns: int) -> list[tuple[str, ...]]:
        """Have one statement or several done, and return the rows of the answer.

        Raises:
            DatabaseError: it was refused, or took longer than it may.
        """
        self._marks += 1
        mark = f"giggles-{os.urandom(8).hex()}-{self._marks}".encode()
        last = mark + b"\0"
        text = statement if isinstance(statement, str) else statement.as_string(None)
        self.write(text.encode() + b";\nSELECT '" + mark + b"';\n")
        answer = self._rest
        while last not in answer:
            answer += self._read()
        found, _, self._rest = answer.partition(last)
        values = [value.decode("utf-8", "replace") for value in found.strip(b"\n").split(b"\0")]
        if columns == 0:
            return []
        if values and not values[-1]:
            values.pop()
        return [tuple(values[at : at + columns]) for at in range(0, len(values), columns)]

    def commit(self) -> None:
        """Make it last.

        Raises:
            DatabaseError: it was refused, or the connection ended at this moment.
        """
        self._after = ""
        try:
            self.ask("COMMIT", 0)
        except DatabaseError as error:
            raise DatabaseError(
                f"{error} It happened while the rows were made to last, so they may be there or not: all or none. Look, then ask again."
            ) from None
        self.committed = True

    def write(self, data: bytes) -> None:
        """Give psql something to do, without waiting until it is done."""
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        view = memoryview(data)
        while view:
            self._wait(poll)
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self.failure() from None

    def take_script(self, source: int, server_version: int) -> Pump:
        """Start to hand over to psql what `pg_restore --file=-` writes; `source` is closed at its end."""
        os.set_blocking(self._stdin, True)
        return Pump(source, self._stdin, server_version)

    def go_on(self) -> None:
        """After a script was taken: wait until it is done, leave what it answered, and talk again."""
        os.set_blocking(self._stdin, False)
        self.ask("SELECT 1", 0)

    def failure(self) -> DatabaseError:
        """Return why psql ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_NEVER_ENDS)
        what = f"The dump could not be loaded into the database at {self._where.host}"
        return explained(words(self._complaints), self._where, what, self._after)

    def _read(self) -> bytes:
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        self._wait(poll)
        data = os.read(self._stdout, 1 << 16)
        if not data:
            raise self.failure()
        return data

    def _wait(self, poll: select.poll) -> None:
        while not poll.poll(_TICK * 1000):
            if time.monotonic() > self._end:
                what = f"The database at {self._where.host} took longer than it may."
                raise DatabaseError(" ".join(filter(None, (what, self._after, "Ask again at a quieter time."))))


class Pump:
    """A script on its way from pg_restore to psql, in a thread of its own; only its beginning is looked at."""

    def __init__(self, source: int, target: int, server_version: int) -> None:
        self._source, self._target, self._server_version = source, target, server_version
        self.refused = ""
        self.broken = False
        self._thread = threading.Thread(target=self._run, name="giggles-restore", daemon=True)
        self._thread.start()

    def is_done(self, seconds: float) -> bool:
        """Wait at most so long for the script's end; tell whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            header = b""
            while len(header) < _HEADER_BYTES and b"\nSET row_security" not in header:
                piece = os.read(self._source, _HEADER_BYTES)
                if not piece:
                    break
                header += piece
            if not header:
                return
            view = memoryview(script_header(header, self._server_version))
            while view:
                view = view[os.write(self._target, view) :]
            while os.splice(self._source, self._target, 1 << 20):
                pass
        except DatabaseError as error:
            self.refused = str(error)
        except OSError:
            self.broken = True
        finally:
            os.close(self._source)


def script_header(header: bytes, server_version: int) -> bytes:
    """Return the beginning of a script as a server of this version takes it.

    Raises:
        DatabaseError: the script does not keep psql from obeying commands that stand in it.
    """
    # psql runs programs if a script says so. Who rules the database that was dumped must not rule this machine (CVE-2025-8714).
    # Only what stands before everything else is pg_restore's own: the server's version is the first thing that it is told.
    lines = (line for line in header.split(b"\n") if line and (not line.startswith(b"--") or line.startswith(b"-- Dumped ")))
    if not next(lines, b"").startswith(b"\\restrict "):
        raise DatabaseError(
            "pg_restore on this machine is from before August 2025 and would let a dump run commands here (CVE-2025-8714), so it was "
            f"not used. {UNCHANGED} Install the newest minor version: apt-get update && apt-get upgrade."
        )
    if server_version < 170000:
        header = header.replace(b"\nSET transaction_timeout = 0;\n", b"\n", 1)
    return header


@contextmanager
def conversation(psql: Path, where: Server, end: float) -> Iterator[Conversation]:
    """Have psql with a transaction open, which is taken back unless `commit` was asked for.

    Arguments:
        psql: the program.
        where: the database.
        end: until when it may take, in seconds of time.monotonic().

    Raises:
        DatabaseError: no connection can be made.
    """
    argv = [str(psql), "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"]
    argv += ["--field-separator-zero", "--record-separator-zero"]
    argv += [f"--set={name}" for name in ("ON_ERROR_STOP=1", "VERBOSITY=verbose", "SHOW_CONTEXT=never")]
    with login(where) as (environment, inherited), memory_file() as complaints:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            cwd="/",
            pass_fds=inherited,
            start_new_session=True,
        )
        try:
            yield Conversation(process, complaints, where, end)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
