"""A dump, loaded back into a database: all of it or nothing.

pg_restore turns the dump into a script and psql carries it out in a transaction that only this process commits (`conversation.py`),
after the dump's last encrypted chunk proved that all of it was there. pg_restore could do it alone, in a single transaction, but it
commits as soon as it has read what it wants, which may be before the end; and it has nothing to say about tables that exist.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gigglekit import audit_log
from gigglekit.backup import archive
from gigglekit.backup.complaints import explained
from gigglekit.backup.conversation import UNCHANGED, Conversation, Pump, conversation
from gigglekit.backup.errors import DamagedError
from gigglekit.backup.login import Server, memory_file, server, words
from gigglekit.backup.names import DATABASE, dump_context
from gigglekit.backup.postgresql import DatabaseError, program
from gigglekit.command import SYSTEM_PATH
from gigglekit.crypto import chunked

if TYPE_CHECKING:
    from psycopg import sql

SECONDS = 12 * 3600.0
"""How long a restore may take."""

_HEAD_BYTES = 1 << 20
_LARGEST_HEAD_BYTES = 64 << 20
_LIST_SECONDS = 60.0
_TICK = 0.5
_LOCK_WAIT = "60s"

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_POLICY = re.compile(rf"^CREATE POLICY {_NAME} ON [^\n]*? TO ({_NAME}(?:, {_NAME})*)(?= USING| WITH CHECK|;|$)", re.MULTILINE)
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\('.*', (-?[0-9]+), (true|false)\);", re.DOTALL)
_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"}

# What is deleted from before others, since it refers to them; everything else that has a user_id goes before these.
_FORGOTTEN_LAST = (
    ("public", "processing_logs"),
    ("public", "laughter_detections"),
    ("public", "audio_segments"),
    ("public", "limitless_keys"),
    ("public", "users"),
    ("auth", "users"),
)


@dataclass(frozen=True)
class Restored:
    """What a restore loaded.

    Arguments:
        tables: how many rows each table has now, by `schema.table`.
        forgotten: how many erased users were left out.
    """

    tables: dict[str, int]
    forgotten: int = 0


def restore(
    url: str,
    source: Iterable[bytes],
    *,
    key: bytes,
    dump_id: str,
    program_restore: str = "",
    clean: bool = False,
    forget: Callable[[str], bool] | None = None,
    make_roles: str = "",
    seconds: float = SECONDS,
) -> Restored:
    """Load a dump into a database, in one transaction.

    What the database lacks of the dump (schemas, tables, functions, policies, …) is made. What it has stays as it is, with its
    owners and grants, and only gets the rows: its triggers do not fire for them. So it works for

    - an empty database, and for a scratch one. Grants are not in a dump; the roles that policies name have to exist, or are made
      (`make_roles`). Load the app's own schema file first, or again afterwards, to have grants as the app wants them;
    - a new Supabase project, whose schema auth belongs to supabase_auth_admin and has its tables, empty: the rows of accounts are
      loaded into them, as Supabase's guide does it, by `session_replication_role = replica`. Tables of auth that an older or newer
      project has and this one has not cannot be made there by anybody but Supabase: then the restore is refused, with the name.
      Let the project be brought to the same version, or leave auth out of `schemas`. `auth.schema_migrations` stays the project's;
    - the app's database as it is, with `clean`: the tables of the dump are emptied first, others are not touched.

    Arguments:
        url: `postgresql://…`; the account has to own the tables that exist, or be let by the server to silence their triggers.
        source: the dump as it lies in the bucket.
        key: the dump's.
        dump_id: its name below `database/`.
        program_restore: path of pg_restore, beside which psql lies; "" = the newest of this machine.
        clean: let rows of the dump's tables that are there be replaced.
        forget: tells of a user's id whether this user was erased; such users are deleted within the same transaction, so that nobody
            ever sees them.
        make_roles: the server's address for somebody who may make roles: those that policies name and it lacks are made, without login,
            and stay whatever becomes of the dump. "" = none is made.
        seconds: how long it may take altogether.

    Raises:
        DamagedError: the dump is not what was written. Nothing in the database was changed.
        DatabaseError: it was refused. Nothing in the database was changed, unless the message says otherwise.
    """
    end = time.monotonic() + seconds
    where = server(url)
    pg_restore = program("pg_restore", program_restore)
    psql = program("psql", str(pg_restore.with_name("psql")))
    plain = _decrypted(source, key, dump_id)
    with contextlib.closing(plain), memory_file() as head:
        entries = _contents(pg_restore, head, plain)
        with conversation(psql, where, end) as talk:
            return _Loading(talk, where, pg_restore, entries, end).run(head, plain, clean, forget, make_roles)


class _Loading:
    """One restore, in an open transaction."""

    def __init__(self, talk: Conversation, where: Server, pg_restore: Path, entries: list[archive.Entry], end: float) -> None:
        self._talk, self._where, self._pg_restore, self._entries, self._end = talk, where, pg_restore, entries, end
        self._schemas = sorted({entry.schema for entry in entries} | {entry.name for entry in entries if entry.kind == "SCHEMA"})

    def run(self, head: int, plain: Iterator[bytes], clean: bool, forget: Callable[[str], bool] | None, make_roles: str) -> Restored:
        from psycopg import sql

        talk = self._talk
        talk.ask(f"SET lock_timeout = '{_LOCK_WAIT}'; SET statement_timeout = 0; SET search_path = ''", 0)
        catalogue = talk.ask(sql.SQL(archive.CATALOGUE).format(schemas=sql.Literal(self._schemas)), 3)
        there: set[archive.Thing] = {(row[0], row[1], row[2]) for row in catalogue}
        entries = archive.wanted(self._entries, there)
        tables = archive.tables(entries)
        existing = [table for table in tables if ("relation", *table) in there]
        with memory_file(archive.use_list(entries)) as chosen:
            self._have_roles(entries, head, chosen, make_roles)
        again = self._prepare(existing, clean)
        later = self._keep_sequences(entries, there)
        with memory_file(archive.use_list([entry for entry in entries if entry not in later])) as chosen:
            self._load(head, plain, chosen)
        for statement in again:
            talk.ask(statement, 0)
        forgotten = self._forget(forget) if forget is not None else 0
        counts = {".".join(table): self._number(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table))) for table in tables}
        for entry, oid in later.items():
            self._set_sequence(entry, oid, head)
        talk.commit()
        return Restored(counts, forgotten)

    # --- before ---------------------------------------------------------------------------------------------------------

    def _have_roles(self, entries: list[archive.Entry], head: int, chosen: int, make_roles: str) -> None:
        """Policies name roles, which belong to the server and are in no dump."""
        import psycopg
        from psycopg import sql

        if not any(entry.kind == "POLICY" for entry in entries):
            return
        script = _ask_pg_restore(self._pg_restore, ("--schema-only", "--file=-", f"--use-list=/proc/self/fd/{chosen}"), head, (chosen,))
        named = {_unquoted(name) for match in _POLICY.finditer(script) for name in re.findall(_NAME, match[1])}
        special = {"public", "current_user", "current_role", "session_user"}
        known = {row[0] for row in self._talk.ask("SELECT rolname FROM pg_catalog.pg_roles", 1)}
        missing = sorted(named - special - known)
        if missing and not make_roles:
            raise DatabaseError(
                f"The policies in the dump are for the roles {', '.join(missing)}, which the server at {self._where.host} does not have. "
                f"{UNCHANGED} Make them (CREATE ROLE {missing[0]} NOLOGIN; …), or load the app's schema into it first, then ask again."
            )
        if not missing:
            return
        try:
            with psycopg.connect(make_roles, connect_timeout=15) as connection:
                for role in missing:
                    connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        except psycopg.Error as error:
            said = f"ERROR: {error.sqlstate}: {error}" if error.sqlstate else str(error)
            what = f"The roles that policies in the dump are for could not be made at {self._where.host}"
            raise explained(said, self._where, what, UNCHANGED) from None

    def _prepare(self, existing: list[tuple[str, str]], clean: bool) -> list[sql.Composable]:
        """Have the tables that are there empty, closed to others, and deaf to what is loaded; return how they are woken again."""
        from psycopg import sql

        if not existing:
            return []
        names = sql.SQL(", ").join([sql.Identifier(*table) for table in existing])
        self._talk.ask(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names), 0)
        found = self._talk.ask(
            sql.SQL(
                "SELECT c.oid, n.nspname || '.' || relname, row_security_active(c.oid)::int, pg_has_role(relowner, 'USAGE')::int"
                " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE (n.nspname, relname) IN ({})"
            ).format(sql.SQL(", ").join([sql.SQL("({}, {})").format(*map(sql.Literal, table)) for table in existing])),
            4,
        )
        if hidden := [name for _, name, active, _ in found if active == "1"]:
            raise DatabaseError(
                f"Row level security hides rows of {', '.join(hidden[:5])} from the account of this address, so nobody could say whether "
                f"they are empty. {UNCHANGED} Use the account that owns the tables (Supabase: postgres)."
            )
        if clean:
            self._talk.ask(sql.SQL("TRUNCATE {}").format(names), 0)
        else:
            has_rows = sql.SQL("SELECT EXISTS (SELECT FROM {})::int")
            full = [".".join(table) for table in existing if self._number(has_rows.format(sql.Identifier(*table)))]
            if full:
                raise DatabaseError(
                    f"The database at {self._where.host} is not empty: {', '.join(full[:6])} has rows. {UNCHANGED} Restore into an empty "
                    "one; or, if what is there may go, ask with clean=True, which empties the tables of the dump first."
                )
        if all(owned == "1" for _, _, _, owned in found):
            return self._silence([int(oid) for oid, _, _, _ in found])
        # Somebody else's tables, as Supabase's auth is. The rows are those of one moment, so nothing has to be checked.
        self._talk.ask("SET LOCAL session_replication_role = replica", 0)
        return [sql.SQL("SET LOCAL session_replication_role = origin")]

    def _silence(self, oids: list[int]) -> list[sql.Composable]:
        """Silence triggers, and let foreign keys be checked at the end: tables come in the order of their names."""
        from psycopg import sql

        again: list[sql.Composable] = [sql.SQL("SET CONSTRAINTS ALL IMMEDIATE")]
        triggers = self._talk.ask(
            sql.SQL(
                "SELECT n.nspname, relname, tgname, tgenabled FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class c ON c.oid = tgrelid"
                " JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace"
                " WHERE tgrelid = ANY({}::oid[]) AND NOT tgisinternal AND tgenabled IN ('O', 'A')"
            ).format(sql.Literal(oids)),
            4,
        )
        for schema, table, name, enabled in triggers:
            names = {"table": sql.Identifier(schema, table), "trigger": sql.Identifier(name)}
            self._talk.ask(sql.SQL("ALTER TABLE {table} DISABLE TRIGGER {trigger}").format(**names), 0)
            how = sql.SQL("ENABLE ALWAYS" if enabled == "A" else "ENABLE")
            again.append(sql.SQL("ALTER TABLE {table} {how} TRIGGER {trigger}").format(how=how, **names))
        keys = self._talk.ask(
            sql.SQL(
                "SELECT n.nspname, relname, conname FROM pg_catalog.pg_constraint JOIN pg_catalog.pg_class c ON c.oid = conrelid"
                " JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace"
                " WHERE conrelid = ANY({}::oid[]) AND contype = 'f' AND NOT condeferrable AND conparentid = 0"
            ).format(sql.Literal(oids)),
            3,
        )
        for schema, table, name in keys:
            names = {"table": sql.Identifier(schema, table), "key": sql.Identifier(name)}
            self._talk.ask(sql.SQL("ALTER TABLE {table} ALTER CONSTRAINT {key} DEFERRABLE").format(**names), 0)
            again.append(sql.SQL("ALTER TABLE {table} ALTER CONSTRAINT {key} NOT DEFERRABLE").format(**names))
        self._talk.ask("SET CONSTRAINTS ALL DEFERRED", 0)
        return again

    def _keep_sequences(self, entries: list[archive.Entry], there: set[archive.Thing]) -> dict[archive.Entry, int]:
        """See that sequences that are there are as before if anything fails; return those that can only be set at the very end.

        A transaction takes no setval back, but that of a sequence that was restarted in it (PostgreSQL's documentation, ALTER SEQUENCE).
        Only its owner may do that: others, as in Supabase's auth, are set when nothing is left to be done but to commit.
        """
        from psycopg import sql

        named = {
            (one.schema, one.name): one for one in entries if one.kind == "SEQUENCE SET" and ("relation", one.schema, one.name) in there
        }
        if not named:
            return {}
        found = self._talk.ask(
            sql.SQL(
                "SELECT n.nspname, relname, c.oid, pg_has_role(relowner, 'USAGE')::int FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE relkind = 'S' AND (n.nspname, relname) IN ({})"
            ).format(sql.SQL(", ").join([sql.SQL("({}, {})").format(*map(sql.Literal, name)) for name in named])),
            4,
        )
        for schema, name, _, owned in found:
            if owned == "1":
                self._talk.ask(sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(schema, name)), 0)
        return {named[schema, name]: int(oid) for schema, name, oid, owned in found if owned != "1"}

    def _set_sequence(self, entry: archive.Entry, oid: int, head: int) -> None:
        """Set a sequence as the dump has it."""
        from psycopg import sql

        with memory_file(archive.use_list([entry])) as chosen:
            script = _ask_pg_restore(self._pg_restore, ("--file=-", f"--use-list=/proc/self/fd/{chosen}"), head, (chosen,))
        match = _SETVAL.search(script)
        if match is None:
            raise DatabaseError(f"pg_restore does not say where the dump has the sequence {entry.name}. {UNCHANGED} This is a bug.")
        value = sql.SQL("SELECT pg_catalog.setval({}::oid::regclass, {}, {})")
        self._talk.ask(value.format(sql.Literal(oid), sql.Literal(int(match[1])), sql.Literal(match[2] == "true")), 0)

    # --- the rows -------------------------------------------------------------------------------------------------------

    def _load(self, head: int, plain: Iterator[bytes], chosen: int) -> None:
        version = self._number("SHOW server_version_num")
        with memory_file() as complaints:
            process = subprocess.Popen(
                [
                    str(self._pg_restore),
                    "--file=-",
                    "--no-owner",
                    "--no-privileges",
                    "--exit-on-error",
                    f"--use-list=/proc/self/fd/{chosen}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(chosen,),
                start_new_session=True,
            )
            if process.stdin is None or process.stdout is None:
                raise AssertionError("pipes were asked for")
            pump = self._talk.take_script(os.dup(process.stdout.fileno()), version)
            process.stdout.close()
            try:
                self._feed(process, pump, head, plain)
                process.stdin.close()
                self._wait_for(process, pump, complaints)
            finally:
                process.kill()
                process.wait()
                with contextlib.suppress(OSError):
                    process.stdin.close()
                if not pump.is_done(0):
                    # It may wait for psql, which has not to go on with anything now.
                    self._talk.process.kill()
                    pump.is_done(_LIST_SECONDS)
        self._talk.go_on()

    def _feed(self, process: subprocess.Popen[bytes], pump: Pump, head: int, plain: Iterator[bytes]) -> None:
        """Hand the dump to pg_restore and read it to its end in any case: only there is it known to be whole."""
        if process.stdin is None:
            raise AssertionError("a pipe was asked for")
        target = process.stdin.fileno()
        os.set_blocking(target, False)
        poll = select.poll()
        poll.register(target, select.POLLOUT)
        listens = True
        for piece in _with_head(head, plain):
            view = memoryview(piece)
            while listens and view:
                if time.monotonic() > self._end:
                    raise self._too_long()
                if not poll.poll(_TICK * 1000):
                    if pump.is_done(0) and (pump.broken or pump.refused):
                        listens = False
                    continue
                try:
                    view = view[os.write(target, view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    listens = False
            if not listens and (process.poll() or pump.broken or pump.refused):
                return  # it failed; if it was satisfied with less than all, the rest is read for what it proves
        if time.monotonic() > self._end:
            raise self._too_long()

    def _wait_for(self, process: subprocess.Popen[bytes], pump: Pump, complaints: int) -> None:
        while not pump.is_done(_TICK):
            if time.monotonic() > self._end:
                raise self._too_long()
            if self._talk.process.poll() is not None:
                raise self._talk.failure()
        if pump.refused:
            raise DatabaseError(pump.refused)
        if pump.broken:
            raise self._talk.failure()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LIST_SECONDS)
        if process.returncode != 0:
            raise explained(words(complaints), self._where, "pg_restore could not read the dump", UNCHANGED)

    def _too_long(self) -> DatabaseError:
        return DatabaseError(
            f"Loading the dump into the database at {self._where.host} took longer than it may. {UNCHANGED} Ask again at a quieter time."
        )

    # --- after ----------------------------------------------------------------------------------------------------------

    def _forget(self, erased: Callable[[str], bool]) -> int:
        """Delete everything of users who were erased after the dump was made."""
        from psycopg import sql

        columns = self._talk.ask(
            sql.SQL(
                "SELECT n.nspname, c.relname, a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT a.attisdropped"
                " AND n.nspname = ANY({}) AND (a.attname = 'user_id' OR a.attname = 'id' AND c.relname = 'users')"
            ).format(sql.Literal(self._schemas)),
            3,
        )
        order = {table: number for number, table in enumerate(_FORGOTTEN_LAST)}
        columns.sort(key=lambda found: order.get((found[0], found[1]), -1))
        owners = [{"table": sql.Identifier(schema, table), "column": sql.Identifier(column)} for schema, table, column in columns]
        if not owners:
            return 0
        every = sql.SQL(" UNION ").join(
            [sql.SQL("SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL").format(**at) for at in owners]
        )
        named = {row[0] for row in self._talk.ask(every, 1)}
        has_log = audit_log.SCHEMA in self._schemas and audit_log.is_there(self._one)
        if has_log:
            named |= audit_log.users(self._one)
        ids = sorted(one for one in named if erased(one))
        if not ids:
            return 0
        if has_log:
            known_as = audit_log.addresses(self._one, ids)
            audit_log.delete(self._one, ids, known_as)
            if audit_log.count(self._one, ids, known_as):
                raise self._kept(audit_log.NAME)
        gone = sql.Literal(ids)
        for at in owners:
            self._talk.ask(sql.SQL("DELETE FROM {table} WHERE {column}::text = ANY({gone})").format(gone=gone, **at), 0)
        for (schema, table, _), at in zip(columns, owners, strict=True):
            if self._number(sql.SQL("SELECT count(*) FROM {table} WHERE {column}::text = ANY({gone})").format(gone=gone, **at)):
                raise self._kept(f"{schema}.{table}")
        return len(ids)

    @staticmethod
    def _kept(table: str) -> DatabaseError:
        return DatabaseError(f"Rows of erased users stay in {table}: a trigger or a rule keeps them. {UNCHANGED} Look at its triggers.")

    def _one(self, query: sql.Composed) -> list[tuple[str, ...]]:
        return self._talk.ask(query, 1)

    def _number(self, query: str | sql.Composable) -> int:
        ((number,),) = self._talk.ask(query, 1)
        return int(number or 0)


def _decrypted(source: Iterable[bytes], key: bytes, dump_id: str) -> Generator[bytes, None, None]:
    """Yield the dump; its end only comes if all of it was right."""
    decryptor = chunked.Decryptor(key, dump_context(dump_id))
    try:
        for piece in source:
            if plain := decryptor.update(piece):
                yield plain
        if plain := decryptor.finish():
            yield plain
    except chunked.DamagedError as error:
        name = DATABASE + dump_id
        raise DamagedError(
            name, f"{name} in the bucket is damaged ({error}), so it was not loaded. {UNCHANGED} Restore the dump of another snapshot."
        ) from None


def _contents(pg_restore: Path, head: int, plain: Iterator[bytes]) -> list[archive.Entry]:
    """Collect the beginning of the dump in `head` until its table of contents can be read; return it."""
    size, enough = 0, _HEAD_BYTES
    while True:
        whole = True
        for piece in plain:
            size += len(piece)
            _append(head, piece)
            if size >= enough:
                whole = False
                break
        try:
            return archive.read(_ask_pg_restore(pg_restore, ("--list",), head))
        except DatabaseError:
            if whole or size > _LARGEST_HEAD_BYTES:
                raise
        enough *= 4


def _ask_pg_restore(pg_restore: Path, arguments: tuple[str, ...], head: int, inherited: tuple[int, ...] = ()) -> str:
    """Return what pg_restore says of the beginning of a dump."""
    # Opened anew, to be read from its beginning.
    with memory_file() as answer, memory_file() as complaints, open(f"/proc/self/fd/{head}", "rb") as beginning:
        try:
            code = subprocess.run(
                [str(pg_restore), *arguments],
                stdin=beginning,
                stdout=answer,
                stderr=complaints,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=inherited,
                timeout=_LIST_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
        if code:
            raise explained(words(complaints), Server({}, ""), "pg_restore could not read the dump's table of contents", UNCHANGED)
        return words(answer, os.fstat(answer).st_size)


def _append(target: int, data: bytes) -> None:
    os.lseek(target, 0, os.SEEK_END)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _with_head(head: int, plain: Iterator[bytes]) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(head, 1 << 20, offset):
        offset += len(piece)
        yield piece
    yield from plain


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
