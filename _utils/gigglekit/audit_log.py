"""What Supabase's accounts service notes of each sign-up, login and change: `auth.audit_log_entries`.

No column there says whose a row is. The JSON in `payload` does: `actor_id` and `actor_username`, which is the e-mail address, and where
an administrator did something to somebody, `user_id` and `user_email` below `traits`. Nothing refers to the table and no foreign key
reaches it, so a user who is deleted stays in it.

Source: rows as the service writes them; github.com/supabase/auth, internal/models/audit_log_entry.go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import sql

SCHEMA, TABLE = "auth", "audit_log_entries"
NAME = f"{SCHEMA}.{TABLE}"
_ACCOUNTS = (("auth", "users"), ("public", "users"))

Ask = Callable[["sql.Composed"], list[Any]]
"""Asks a database a query with one column, and returns the rows."""


def is_there(ask: Ask) -> bool:
    """Tell whether this database has it."""
    return _has_column(ask, SCHEMA, TABLE, "payload")


def users(ask: Ask) -> set[str]:
    """Return every id that rows in it name."""
    from psycopg import sql

    found = ask(
        sql.SQL(
            "SELECT DISTINCT lower(found[1]) FROM {}, LATERAL pg_catalog.regexp_matches(payload::text,"
            " '[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}', 'g') AS found"
        ).format(_table())
    )
    return {str(row[0]) for row in found}


def addresses(ask: Ask, ids: Collection[str]) -> list[str]:
    """Return the e-mail addresses of users, as their accounts have them; asked before the accounts are deleted."""
    from psycopg import sql

    found: set[str] = set()
    for schema, table in _ACCOUNTS:
        if _has_column(ask, schema, table, "email"):
            query = sql.SQL("SELECT lower(email) FROM {} WHERE id::text = ANY({}::text[]) AND email <> ''")
            found |= {str(row[0]) for row in ask(query.format(sql.Identifier(schema, table), sql.Literal(list(ids))))}
    return sorted(found)


def count(ask: Ask, ids: Collection[str], known_as: Collection[str]) -> int:
    """Return how many rows name one of these users, by id or by an address of theirs.

    Arguments:
        ask: asks the database.
        ids: of users.
        known_as: their e-mail addresses, in lower case.
    """
    from psycopg import sql

    return int(ask(sql.SQL("SELECT pg_catalog.count(*) FROM {} WHERE {}").format(_table(), _about(ids, known_as)))[0][0])


def delete(ask: Ask, ids: Collection[str], known_as: Collection[str]) -> int:
    """Delete the rows that `count` counts; return how many."""
    from psycopg import sql

    query = sql.SQL("WITH gone AS (DELETE FROM {} WHERE {} RETURNING 1) SELECT pg_catalog.count(*) FROM gone")
    return int(ask(query.format(_table(), _about(ids, known_as)))[0][0])


def _table() -> sql.Composable:
    from psycopg import sql

    return sql.Identifier(SCHEMA, TABLE)


def _about(ids: Collection[str], known_as: Collection[str]) -> sql.Composable:
    from psycopg import sql

    # Wherever in it: which keys there are depends on what was done, and on the service's version.
    patterns = [f"%{one.lower().translate(_ESCAPED)}%" for one in ids]
    return sql.SQL(
        "(lower(payload::text) LIKE ANY({ids}::text[]) OR lower(payload->>'actor_username') = ANY({mails}::text[])"
        " OR lower(payload->'traits'->>'user_email') = ANY({mails}::text[]))"
    ).format(ids=sql.Literal(patterns), mails=sql.Literal(list(known_as)))


_ESCAPED = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})


def _has_column(ask: Ask, schema: str, table: str, column: str) -> bool:
    from psycopg import sql

    query = sql.SQL(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT a.attisdropped"
        " AND n.nspname = {} AND c.relname = {} AND a.attname = {}"
    )
    return int(ask(query.format(sql.Literal(schema), sql.Literal(table), sql.Literal(column)))[0][0]) > 0
