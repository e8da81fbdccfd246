"""The database, dumped into the bucket: by pg_dump, encrypted on the way, with nothing on any disk.

What makes a dump whole is its last encrypted chunk, and that one is only made once pg_dump ended well. Whatever goes wrong before
is raised in the middle of what is sent, so that the upload ends without an object.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gigglekit.backup.complaints import explained
from gigglekit.backup.login import Server, login, memory_file, server, words
from gigglekit.backup.names import dump_context
from gigglekit.backup.postgresql import DatabaseError
from gigglekit.backup.postgresql import program as newest
from gigglekit.backup.snapshot import Dump
from gigglekit.crypto.chunked import Encryptor

SECONDS = 6 * 3600.0
"""How long a dump may take."""
STALL_SECONDS = 600.0
"""How long pg_dump may say nothing."""

_PIECE = 1 << 20
_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which the module fcntl of Python 3.10 does not have on every build
_VERSION = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,5}){0,2}(?![0-9])")
_GONE = "What was sent of it was given up; the backups before still hold."


def dump(
    url: str,
    *,
    program: str = "",
    schemas: Sequence[str],
    key: bytes,
    dump_id: str,
    sink: Callable[[Iterable[bytes]], int],
    seconds: float = SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> Dump:
    """Dump a database, encrypted, into `sink`.

    Owners and grants are not dumped: they belong to the project, not to its rows.

    Arguments:
        url: `postgresql://…`, as the app gets it.
        program: path of pg_dump; "" = the newest of this machine.
        schemas: which ones; each has to be there.
        key: 32 random bytes, of this dump alone.
        dump_id: its name below `database/`.
        sink: takes the encrypted bytes, all or none of them, and returns how many (`Bucket.put_stream`).
        seconds: how long it may take altogether.
        stall_seconds: how long pg_dump may say nothing.

    Returns:
        What a snapshot has to say of it.

    Raises:
        DatabaseError: the database cannot be dumped; one paragraph without password or rows.
        BackupError: from `sink`.
    """
    where = server(url)
    state = _look(where, url, schemas)
    path = newest("pg_dump", program, state.major)
    argv = [str(path), "--format=custom", "--no-owner", "--no-privileges", "--no-password", "--encoding=UTF8"]
    # Each name as it is, and not as a pattern.
    argv += ['--schema="' + schema.replace('"', '""') + '"' for schema in schemas]
    stream = _Stream(argv, where, Encryptor(key, dump_context(dump_id)), seconds, stall_seconds)
    with contextlib.closing(stream.pieces()) as pieces:
        taken = sink(pieces)
    if not stream.whole or taken != stream.size:
        raise DatabaseError(
            f"The dump has {stream.size} bytes and {taken} of them were taken, so it is not used. Ask again; if it stays, this is a bug."
        )
    return Dump(dump_id, stream.size, stream.digest.hexdigest(), state.version)


@dataclass(frozen=True)
class _State:
    version: str
    major: int


def _look(where: Server, url: str, schemas: Sequence[str]) -> _State:
    """Ask the database what would make a dump fail or lack something, while it can still be said plainly."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=15) as connection, connection.cursor() as cursor:
            version = connection.info.parameter_status("server_version") or ""
            major = connection.info.server_version // 10000
            cursor.execute(
                "SELECT name, has_schema_privilege(oid, 'USAGE') FROM unnest(%s::text[]) AS name LEFT JOIN pg_namespace ON nspname = name",
                (list(schemas),),
            )
            rights: dict[str, bool | None] = dict(cursor.fetchall())
            cursor.execute(
                "SELECT n.nspname || '.' || c.relname, has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)"
                " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'S', 'm') AND c.relpersistence <> 't' ORDER BY 1",
                (list(schemas),),
            )
            tables = cursor.fetchall()
    except psycopg.Error as error:
        said = f"ERROR: {error.sqlstate}: {error}" if error.sqlstate else str(error)
        raise explained(said, where, f"The database at {where.host} could not be dumped") from None
    if missing := [name for name, right in rights.items() if right is None]:
        raise DatabaseError(
            f"The database at {where.host} has no schema {', '.join(missing)}, so that nothing was dumped. Correct "
            "giggles:backup:database:schemas, or giggles:secrets:app:DATABASE_URL if it names another database than the app's."
        )
    closed = [name for name, right in rights.items() if not right] + [name for name, right, _ in tables if not right]
    if closed:
        more = f" and {len(closed) - 5} more" if len(closed) > 5 else ""
        raise DatabaseError(
            f"The account of giggles:secrets:app:DATABASE_URL may not read {', '.join(closed[:5])}{more}, so that nothing was "
            "dumped. Use the account that owns the tables (Supabase: postgres), or grant it USAGE of the schema and SELECT on its tables."
        )
    if hidden := [name for name, _, active in tables if active]:
        raise DatabaseError(
            f"Row level security hides rows of {', '.join(hidden[:5])} from the account of giggles:secrets:app:DATABASE_URL, and a dump "
            "without them would not be one. Use the account that owns the tables, or one with BYPASSRLS (Supabase: postgres)."
        )
    return _State(_version(version, major), major)


def _version(said: str, major: int) -> str:
    """Return a server's version as a snapshot may name it: one that says anything else of itself would make the head unreadable."""
    match = _VERSION.match(said)
    return match[0] if match else str(major)


class _Stream:
    """What pg_dump writes, encrypted; `whole` only once all of it was handed on."""

    def __init__(self, argv: list[str], where: Server, encryptor: Encryptor, seconds: float, stall_seconds: float) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.whole = False
        self._argv = argv
        self._where = where
        self._encryptor = encryptor
        self._end = time.monotonic() + seconds
        self._stall = stall_seconds

    def pieces(self) -> Generator[bytes, None, None]:
        with login(self._where) as (environment, inherited), memory_file() as complaints:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
                cwd="/",
                pass_fds=inherited,
                start_new_session=True,
            )
            try:
                for plain in self._read(process):
                    if piece := self._encryptor.update(plain):
                        yield self._counted(piece)
                self._insist_on_success(process, complaints)
                yield self._counted(self._encryptor.finish())
                self.whole = True
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()

    def _counted(self, piece: bytes) -> bytes:
        self.size += len(piece)
        self.digest.update(piece)
        return piece

    def _read(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        output = process.stdout.fileno()
        with contextlib.suppress(OSError):  # a larger pipe saves switches between the two, nothing else
            fcntl.fcntl(output, _PIPE_SIZE, _PIECE)
        poll = select.poll()
        poll.register(output, select.POLLIN)
        while True:
            left = self._end - time.monotonic()
            if left <= 0:
                raise DatabaseError(
                    f"The dump of the database at {self._where.host} took longer than it may. {_GONE} Ask again at a quieter time."
                )
            if not poll.poll(min(left, self._stall) * 1000):
                if left > self._stall:
                    raise DatabaseError(
                        f"pg_dump got nothing from the database at {self._where.host} for {self._stall:.0f} s. {_GONE} Look whether "
                        "something holds a lock on the app's tables, or whether the network is down; then ask again."
                    )
                continue
            plain = os.read(output, _PIECE)
            if not plain:
                return
            yield plain

    def _insist_on_success(self, process: subprocess.Popen[bytes], complaints: int) -> None:
        try:
            code = process.wait(timeout=max(1.0, min(self._stall, self._end - time.monotonic())))
        except subprocess.TimeoutExpired:
            raise DatabaseError(f"pg_dump wrote all and did not end. {_GONE} Ask again.") from None
        what = f"The database at {self._where.host} could not be dumped"
        if code < 0:
            raise DatabaseError(
                f"{what}: pg_dump was ended by signal {-code}. {_GONE} Look in the journal for a lack of memory, then ask again."
            )
        if code:
            raise explained(words(complaints), self._where, what, _GONE)
