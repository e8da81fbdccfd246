"""A user's rows in the app's database: found, counted and deleted, all or none.

The tables are those of the app. Everything of a user hangs on auth.users and would go with that row; each table is deleted
from by name all the same, so that the receipt can say how much it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from gigglekit import audit_log
from gigglekit.vault.errors import VaultError

if TYPE_CHECKING:
    import psycopg

_CONNECT_SECONDS = 10
_STATEMENT_MILLISECONDS = 60_000
# In the order in which rows may be deleted: what refers to others first.
_TABLES = (
    # Ours, beside the app's: who was processed in the last nights (gigglekit.fleet).
    ("giggles_salt", "nightly_users", "user_id"),
    ("public", "processing_logs", "user_id"),
    ("public", "laughter_detections", "user_id"),
    ("public", "audio_segments", "user_id"),
    ("public", "limitless_keys", "user_id"),
    ("public", "users", "id"),
    ("auth", "users", "id"),
)


class DatabaseError(VaultError):
    """The database could not be asked, or refused; nothing in it was changed."""


@dataclass(frozen=True)
class Database:
    """The app's database.

    Arguments:
        url: `postgresql://…`, as the app gets it. It holds a password and is never shown.
    """

    url: str = field(repr=False)

    def count(self, user_id: str) -> dict[str, int]:
        """Return how many rows of a user each table has, by the table's name; tables that are not there are left out."""
        with self._cursor() as cursor:
            ask = _asking(cursor)
            found = {f"{schema}.{table}": self._count(cursor, schema, table, column, user_id) for schema, table, column in _present(cursor)}
            if audit_log.is_there(ask):
                found[audit_log.NAME] = audit_log.count(ask, [user_id], audit_log.addresses(ask, [user_id]))
            return found

    def clip_paths(self, user_id: str | None = None) -> list[str]:
        """Return the paths of clips that rows name, of one user or of all.

        Raises:
            DatabaseError: the database cannot be read, or hides rows from this account.
        """
        from psycopg import sql

        with self._cursor() as cursor:
            if ("public", "laughter_detections", "user_id") not in _present(cursor):
                raise DatabaseError("The database has no table public.laughter_detections. Is giggles:secrets:app:DATABASE_URL the app's?")
            query = sql.SQL("SELECT clip_path FROM public.laughter_detections")
            if user_id is not None:
                cursor.execute(query + sql.SQL(" WHERE user_id = %s"), (user_id,))
            else:
                cursor.execute(query)
            return [str(row[0]) for row in cursor.fetchall()]

    def owners_of_clips(self) -> dict[str, str]:
        """Return whose each clip is that rows name: the user's id by the clip's path.

        Raises:
            DatabaseError: the database cannot be read, or hides rows from this account.
        """
        with self._cursor() as cursor:
            if ("public", "laughter_detections", "user_id") not in _present(cursor):
                raise DatabaseError("The database has no table public.laughter_detections. Is giggles:secrets:app:DATABASE_URL the app's?")
            cursor.execute("SELECT clip_path, user_id::text FROM public.laughter_detections WHERE clip_path IS NOT NULL")
            return {str(path): str(user) for path, user in cursor.fetchall()}

    def delete(self, user_id: str) -> dict[str, int]:
        """Delete every row of a user in one transaction; return how many each table had.

        Raises:
            DatabaseError: not all could be deleted, and then none was.
        """
        from psycopg import sql

        with self._cursor() as cursor:
            tables = _present(cursor)
            gone: dict[str, int] = {}
            ask = _asking(cursor)
            has_log = audit_log.is_there(ask)
            known_as = audit_log.addresses(ask, [user_id]) if has_log else []
            for schema, table, column in tables:
                cursor.execute(
                    sql.SQL("DELETE FROM {} WHERE {} = %s").format(sql.Identifier(schema, table), sql.Identifier(column)), (user_id,)
                )
                gone[f"{schema}.{table}"] = cursor.rowcount
            if has_log:
                gone[audit_log.NAME] = audit_log.delete(ask, [user_id], known_as)
            left = [f"{schema}.{table}" for schema, table, column in tables if self._count(cursor, schema, table, column, user_id)]
            left += [audit_log.NAME] if has_log and audit_log.count(ask, [user_id], known_as) else []
            if left:
                raise DatabaseError(
                    f"The database still has rows of this user in {', '.join(left)} after they were deleted; a trigger or a rule "
                    "keeps them. Nothing was deleted. Look at the table's triggers (\\d in psql), then ask again."
                )
            return gone

    @staticmethod
    def _count(cursor: psycopg.Cursor[tuple[Any, ...]], schema: str, table: str, column: str, user_id: str) -> int:
        from psycopg import sql

        cursor.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE {} = %s").format(sql.Identifier(schema, table), sql.Identifier(column)), (user_id,)
        )
        (number,) = cursor.fetchone() or (0,)
        return int(number)

    @contextmanager
    def _cursor(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        import psycopg

        host, _ = _host_and_password(self.url)
        try:
            with (
                psycopg.connect(
                    self.url, connect_timeout=_CONNECT_SECONDS, options=f"-c statement_timeout={_STATEMENT_MILLISECONDS}"
                ) as connection,
                connection.cursor() as cursor,
            ):
                self._insist_on_all_rows(cursor)
                yield cursor
        except psycopg.OperationalError as error:
            raise DatabaseError(
                f"The database at {host} does not answer ({_reason(error, self.url)}). Nothing in it was changed. Check that it runs and "
                "that giggles:secrets:app:DATABASE_URL is right (over IPv4 Supabase needs its session pooler), then ask again."
            ) from None
        except psycopg.Error as error:
            raise DatabaseError(
                f"The database at {host} refused ({_reason(error, self.url)}). Nothing in it was changed. The account of "
                "giggles:secrets:app:DATABASE_URL has to own the app's tables and to be let into auth.users and auth.audit_log_entries."
            ) from None

    @staticmethod
    def _insist_on_all_rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        """Row level security hides rows without a word: what cannot be seen would count as not there."""
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[])) AND row_security_active(c.oid)",
            ([*(schema for schema, _, _ in _TABLES), audit_log.SCHEMA], [*(table for _, table, _ in _TABLES), audit_log.TABLE]),
        )
        hidden = [row[0] for row in cursor.fetchall()]
        if hidden:
            raise DatabaseError(
                f"Row level security hides rows of {', '.join(hidden)} from the account of giggles:secrets:app:DATABASE_URL, so nobody "
                "could say whether all were deleted. Nothing in it was changed. Use the account that owns the tables (Supabase: postgres)."
            )


def _asking(cursor: psycopg.Cursor[tuple[Any, ...]]) -> audit_log.Ask:
    return lambda query: cursor.execute(query).fetchall()


def _present(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[str, str, str]]:
    cursor.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'auth', 'giggles_salt')"
    )
    there = set(cursor.fetchall())
    return [entry for entry in _TABLES if entry[:2] in there]


def _reason(error: Exception, url: str) -> str:
    """Return what the server or the driver says is wrong, without anything that it may quote: values, or the address."""
    state = getattr(error, "sqlstate", None)
    if state:
        return f"SQLSTATE {state}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    _, password = _host_and_password(url)
    quotes = "://" in lines[0] or any(form and form in lines[0] for form in (password, unquote(password))) if lines else True
    if not isinstance(error, _connection_error()) or quotes:
        return type(error).__name__
    return lines[0][:160]


def _host_and_password(url: str) -> tuple[str, str]:
    """Return the two as the address has them, so that the first can be told and the second cannot."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "localhost", parts.password or ""
    except ValueError:
        return "an address that is none", ""


def _connection_error() -> type[Exception]:
    import psycopg

    return psycopg.OperationalError
