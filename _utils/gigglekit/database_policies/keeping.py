"""Compares the policies in a database with what is wanted, and puts them right, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gigglekit.database_policies.errors import DatabaseError, UnreachableError
from gigglekit.database_policies.second_factor import BODY, FUNCTION, POLICY, ROLE, TABLES, Choice, condition

if TYPE_CHECKING:
    import psycopg

_CONNECT_SECONDS = 10
# A policy takes its table for a moment. Nobody's request waits for longer than that because of it.
_OPTIONS = "-c statement_timeout=30000 -c lock_timeout=5000 -c search_path="


@dataclass(frozen=True)
class Found:
    """What a look at the database found.

    Arguments:
        changes: what differs, by the name of the policy's table or of the function: `made`, `changed` or `removed`.
        absent: the app's tables that are not there.
    """

    changes: dict[str, str]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Policies:
    """The policies of one database.

    Arguments:
        url: `postgresql://…`, as the app gets it. It holds a password and is never shown.
    """

    url: str = field(repr=False)

    def look(self, enforced: Choice) -> Found:
        """Say what differs from what is wanted; nothing is changed.

        Raises:
            UnreachableError: it does not answer.
            DatabaseError: it cannot be told, or the policies would be without effect.
        """
        with self._cursor() as cursor:
            found = _compare(cursor, enforced)
            cursor.connection.rollback()
            return found

    def bring(self, enforced: Choice) -> Found:
        """Make the policies as they are wanted, in one transaction; return what was changed.

        Raises:
            UnreachableError: it does not answer.
            DatabaseError: something was refused, and nothing was changed.
        """
        with self._cursor() as cursor:
            found = _compare(cursor, enforced)
            if found.changes:
                _apply(cursor, enforced, found.changes)
                left = _compare(cursor, enforced).changes
                if left:
                    raise DatabaseError(
                        f"The policies in the database are not as they were just written ({', '.join(sorted(left))}); something there "
                        "changes them, such as an event trigger. Nothing was changed. Look at pg_event_trigger, then apply again."
                    )
            return found

    @contextmanager
    def _cursor(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        import psycopg

        host = _host(self.url)
        try:
            # A driver quotes what it cannot parse; so nothing of its words is told, and nothing is chained.
            connection = psycopg.connect(self.url, connect_timeout=_CONNECT_SECONDS, options=_OPTIONS)
        except psycopg.Error:
            raise UnreachableError(
                f"The database at {host} does not let this droplet in, or does not answer. Nothing in it was changed. Check that it runs "
                "and that giggles:secrets:app:DATABASE_URL is right (over IPv4 Supabase needs its session pooler), then apply again."
            ) from None
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            state = error.sqlstate or type(error).__name__
            raise DatabaseError(
                f"The database at {host} refused ({state}). Nothing in it was changed. The account of giggles:secrets:app:DATABASE_URL has "
                "to own the app's tables and to be let into auth.mfa_factors (Supabase: postgres); 55P03 means that a table was in use, "
                "and applying again helps."
            ) from None


def _compare(cursor: psycopg.Cursor[tuple[Any, ...]], enforced: Choice) -> Found:
    wanted = condition(enforced)
    cursor.execute(
        "SELECT relname::text, relrowsecurity FROM pg_catalog.pg_class"
        " WHERE relnamespace = 'public'::pg_catalog.regnamespace AND relkind IN ('r', 'p') AND relname = ANY(%s)",
        (list(TABLES),),
    )
    there = dict(cursor.fetchall())
    _insist_on_effect(cursor, enforced, there)
    function = _function(cursor) if enforced == "enrolled" else None
    changes: dict[str, str] = {}
    if enforced == "enrolled" and function is not True:
        changes[f"function public.{FUNCTION}"] = "made" if function is None else "changed"
    cursor.execute(
        "SELECT tablename::text, permissive, roles::text[], cmd, qual, with_check FROM pg_catalog.pg_policies"
        " WHERE schemaname = 'public' AND policyname = %s",
        (POLICY,),
    )
    policies = {row[0]: row[1:] for row in cursor.fetchall()}
    right = _as_told(cursor, wanted) if wanted and policies and (enforced != "enrolled" or function is not None) else None
    for table in sorted({*there, *policies}):
        if wanted and table in TABLES:
            if table not in policies:
                changes[f"policy on public.{table}"] = "made"
            elif policies[table] != right:
                changes[f"policy on public.{table}"] = "changed"
        elif table in policies and table in TABLES:
            changes[f"policy on public.{table}"] = "removed"
    if enforced != "enrolled" and _function(cursor) is not None:
        changes[f"function public.{FUNCTION}"] = "removed"
    return Found(changes, tuple(table for table in TABLES if table not in there))


def _insist_on_effect(cursor: psycopg.Cursor[tuple[Any, ...]], enforced: Choice, there: dict[str, bool]) -> None:
    """Refuse to promise what would have no effect."""
    if enforced == "off":
        return
    if not there:
        raise DatabaseError("The database has none of the app's tables. Is giggles:secrets:app:DATABASE_URL the app's?")
    if bare := sorted(table for table, secured in there.items() if not secured):
        raise DatabaseError(
            f"Row level security is off for public.{', public.'.join(bare)}, so no policy there has any effect and every user sees all "
            "rows. Nothing was changed. Switch it on with the app's own policies (its setup_database.sql), then apply again."
        )
    cursor.execute("SELECT pg_catalog.to_regclass('auth.mfa_factors') IS NOT NULL, pg_catalog.to_regprocedure('auth.jwt()') IS NOT NULL")
    factors, token = cursor.fetchone() or (False, False)
    if not token or (enforced == "enrolled" and not factors):
        raise DatabaseError(
            f"The database has no {'auth.mfa_factors' if token else 'auth.jwt()'}, so it is no Supabase project, or an old one, and cannot "
            'tell who has a second factor. Nothing was changed. Set giggles:app:second_factor to "off", or use the project\'s database.'
        )
    if enforced == "enrolled":
        cursor.execute(
            "SELECT pg_catalog.row_security_active('auth.mfa_factors') OR NOT pg_catalog.has_schema_privilege('auth', 'USAGE')"
            " OR NOT pg_catalog.has_table_privilege('auth.mfa_factors', 'SELECT')"
        )
        if cursor.fetchone() != (False,):
            raise DatabaseError(
                "The account of giggles:secrets:app:DATABASE_URL does not see all of auth.mfa_factors, so whoever has a second factor "
                "would count as somebody without. Nothing was changed. Use the account that owns the app's tables (Supabase: postgres)."
            )


def _function(cursor: psycopg.Cursor[tuple[Any, ...]]) -> bool | None:
    """Return whether the function is as it should be; None if there is none."""
    cursor.execute(
        "SELECT p.prosrc = %s AND p.prosecdef AND p.provolatile = 's' AND p.prorettype = 'boolean'::pg_catalog.regtype"
        " AND p.proowner = current_user::pg_catalog.regrole AND l.lanname = 'sql' AND p.proconfig = ARRAY['search_path=\"\"']"
        " AND ARRAY(SELECT a.grantee FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a"
        "   WHERE a.grantee <> p.proowner ORDER BY 1) = ARRAY(SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = %s)"
        " FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang"
        " WHERE p.oid = pg_catalog.to_regprocedure(%s)",
        (BODY, ROLE, f"public.{FUNCTION}()"),
    )
    row = cursor.fetchone()
    return None if row is None else bool(row[0])


def _as_told(cursor: psycopg.Cursor[tuple[Any, ...]], wanted: str) -> tuple[Any, ...]:
    """Return a right policy as the server tells of it, which is not how it was written: by one on a table that never comes to be."""
    from psycopg import sql

    probe = sql.Identifier("pg_temp", "giggles_probe")
    cursor.execute("SAVEPOINT giggles_probe")
    cursor.execute(sql.SQL("CREATE TABLE {} (id integer)").format(probe))
    cursor.execute(_create(probe, wanted))
    cursor.execute(
        "SELECT permissive, roles::text[], cmd, qual, with_check FROM pg_catalog.pg_policies"
        " WHERE tablename = 'giggles_probe' AND schemaname LIKE 'pg\\_temp%%' AND policyname = %s",
        (POLICY,),
    )
    told = cursor.fetchone()
    cursor.execute("ROLLBACK TO SAVEPOINT giggles_probe")
    cursor.execute("RELEASE SAVEPOINT giggles_probe")
    return tuple(told or ())


def _create(table: Any, wanted: str) -> Any:  # noqa: ANN401 - parts of psycopg's SQL
    from psycopg import sql

    return sql.SQL("CREATE POLICY {} ON {} AS RESTRICTIVE FOR ALL TO {} USING ({}) WITH CHECK ({})").format(
        sql.Identifier(POLICY),
        table,
        sql.Identifier(ROLE),
        sql.SQL(wanted),
        sql.SQL(wanted),
    )


def _apply(cursor: psycopg.Cursor[tuple[Any, ...]], enforced: Choice, changes: dict[str, str]) -> None:
    from psycopg import sql

    wanted, function = condition(enforced), sql.Identifier("public", FUNCTION)
    tables = [table for table in TABLES if f"policy on public.{table}" in changes]
    # The function cannot go, nor be of another kind, while a policy asks it.
    for table in tables:
        cursor.execute(sql.SQL("DROP POLICY IF EXISTS {} ON {}").format(sql.Identifier(POLICY), sql.Identifier("public", table)))
    verb = changes.get(f"function public.{FUNCTION}")
    if verb == "removed":
        cursor.execute(sql.SQL("DROP FUNCTION {}()").format(function))
    elif verb:
        cursor.execute(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {}() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS {}"
            ).format(function, sql.Literal(BODY))
        )
        cursor.execute(
            "SELECT r.rolname::text FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(p.proacl) AS a"
            " JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee WHERE p.oid = pg_catalog.to_regprocedure(%s) AND a.grantee <> p.proowner",
            (f"public.{FUNCTION}()",),
        )
        for (role,) in cursor.fetchall():
            cursor.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM {}").format(function, sql.Identifier(role)))
        cursor.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(function))
        cursor.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(function, sql.Identifier(ROLE)))
    if wanted:
        for table in tables:
            cursor.execute(_create(sql.Identifier("public", table), wanted))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "localhost"
    except ValueError:
        return "an address that is none"
