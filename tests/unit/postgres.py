"""A PostgreSQL server for tests, thrown away at the end, and the app's database in it."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
from gigglekit.backup.scratch import scratch, superuser
from psycopg import sql

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = PROJECT / "trial/sample-app/laughter-detector/setup_database.sql"
NEIGHBOUR = PROJECT / "trial/neighbours/files/opt/neighbours/database.sql"
PASSWORD = "pl4nted: p@ss\\w/rd%"
"""Everything in it that files and addresses have a meaning for."""
UPLOADS = "/var/lib/giggles/uploads"


@dataclass
class Cluster:
    """A server.

    Arguments:
        folder: where its socket is.
        admin: the superuser's address.
    """

    folder: str
    admin: str = field(repr=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, user: str | None = None, password: str = PASSWORD) -> str:
        """Return the address of a database; for the superuser, or for a user with a password."""
        login = "postgres" if user is None else f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@/{database}?host={quote(self.folder, safe='')}"

    def empty(self) -> str:
        """Make an empty database; return its name."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def app(self) -> str:
        """Make the app's database as the trial's neighbour has it, owned by a user of its name without superuser's rights."""
        name = f"app_{next(self._numbers)}"
        psql(self.admin, NEIGHBOUR, {"name": name, "password": PASSWORD})
        execute(self.url(name), f"SET ROLE {name};\n{SCHEMA.read_text()}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database."""
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Have a server in memory."""
    # Memory where there is some that any account can reach. Always the same folder: what a killed run left is found by the next.
    memory = Path("/dev/shm")
    base = (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())) / f"giggles-tests-{os.geteuid()}"
    base.mkdir(mode=0o711, exist_ok=True)
    assert base.stat().st_uid == os.geteuid(), f"{base} is somebody else's"
    base.chmod(0o711)
    with scratch(base) as owned:
        url = superuser(owned)
        folder = Path(parse_qs(urlsplit(url).query)["host"][0])
        (folder / "data/pg_hba.conf").write_text("local all postgres peer map=scratch\nlocal all all scram-sha-256\n")
        execute(url, "SELECT pg_reload_conf()")
        yield Cluster(str(folder), url)


def execute(url: str, statements: str) -> None:
    """Have statements done in one transaction."""
    with psycopg.connect(url) as connection:
        connection.execute(statements)  # type: ignore[arg-type]


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    """Return what a query finds."""
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def psql(url: str, file: Path, variables: dict[str, str]) -> None:
    """Have psql read a file."""
    script = "".join(f"\\set {name} '{value.replace(chr(92), chr(92) * 2)}'\n" for name, value in variables.items()) + file.read_text()
    done = subprocess.run(
        ["/usr/bin/psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={url}"],
        input=script.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()


def user_id(number: int) -> str:
    """Return the id of a user of `fill`."""
    return str(uuid.UUID(int=number + (4 << 76) + (8 << 60)))


def fill(url: str, users: int = 50, clips: int = 4) -> None:
    """Put users into the app's database, each with rows in every table."""
    with psycopg.connect(url) as connection:
        for number in range(users):
            ident = user_id(number)
            connection.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", (ident, f"user{number}@example.test"))
            connection.execute(
                "INSERT INTO public.limitless_keys (user_id, encrypted_api_key) VALUES (%s, %s)", (ident, f"key\t'{number}'\\.\n\\q ü")
            )
            (segment,) = connection.execute(
                "INSERT INTO public.audio_segments (user_id, date, start_time, end_time, file_path) VALUES (%s, '2026-11-01',"
                " '2026-11-01 00:00Z', '2026-11-01 02:00Z', %s) RETURNING id",
                (ident, f"{UPLOADS}/audio/{ident}/a.ogg"),
            ).fetchone() or (None,)
            for clip in range(clips):
                connection.execute(
                    "INSERT INTO public.laughter_detections (user_id, audio_segment_id, timestamp, probability, clip_path, notes)"
                    " VALUES (%s, %s, '2026-11-01 01:00Z', 0.9, %s, %s)",
                    (ident, segment, f"{UPLOADS}/clips/{ident}/c{clip}.wav", f"note {number}-{clip}"),
                )
            connection.execute(
                "INSERT INTO public.processing_logs (user_id, date, status, error_details) VALUES (%s, '2026-11-01', 'completed', %s)",
                (ident, '{"why": null}'),
            )


TABLES = (
    "auth.users",
    "public.audio_segments",
    "public.laughter_detections",
    "public.limitless_keys",
    "public.processing_logs",
    "public.users",
)


_DEFINITIONS = """
WITH s AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'auth')), r AS (SELECT * FROM pg_class WHERE relnamespace IN (TABLE s))
SELECT 'key', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN (SELECT oid FROM r)
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text || pg_get_triggerdef(oid) FROM pg_trigger
    WHERE NOT tgisinternal
UNION ALL SELECT 'policy', tablename, policyname, schemaname || roles::text || qual || coalesce(with_check, '') FROM pg_policies
UNION ALL SELECT 'security', oid::regclass::text, '', relrowsecurity::text FROM r WHERE relkind = 'r'
UNION ALL SELECT 'function', oid::regprocedure::text, '', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace IN (TABLE s)
UNION ALL SELECT 'index', indexrelid::regclass::text, '', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM r)
ORDER BY 1, 2, 3, 4
"""


def content(url: str) -> dict[str, object]:
    """Return all there is in a database: rows of every table, and what is defined in its schemas."""
    with psycopg.connect(url) as connection:
        found: dict[str, object] = {}
        for schema, table in connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall():
            query = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, table))
            found[f"{schema}.{table}"] = connection.execute(query).fetchall()
        connection.execute("SET search_path = ''")
        found["definitions"] = connection.execute(_DEFINITIONS).fetchall()
        return found
