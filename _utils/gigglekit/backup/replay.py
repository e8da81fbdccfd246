"""The ledger, replayed on a database: whoever was erased since a dump was made is erased from what was restored from it.

The ledger knows users by their vault ids, which are keyed hashes, so the id of every user in the database is hashed and looked up.
A restore by `loading.restore` leaves erased users out by itself (`forget`); this is for databases that others restored, Supabase's
own backups included, and to prove that nobody is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from gigglekit import audit_log
from gigglekit.backup.complaints import explained
from gigglekit.backup.login import server
from gigglekit.backup.postgresql import DatabaseError


def replay(url: str, erased: Collection[str], vault_id_of: Callable[[str], str], *, delete: Callable[[str], dict[str, int]]) -> int:
    """Delete every user from a database who was erased.

    Each is deleted in one transaction. It can be asked again at any time, and then goes on where it ended.

    Arguments:
        url: `postgresql://…`, as the app gets it.
        erased: vault ids of erased users.
        vault_id_of: returns the vault id of a user's id.
        delete: deletes every row of one user, all or none.

    Returns:
        How many users were deleted.

    Raises:
        DatabaseError: the database cannot be read, or erased users are still in it.
        Whatever `delete` raises.
    """
    gone = [user for user in users(url) if vault_id_of(user) in erased]
    for user in gone:
        delete(user)
    left = sum(vault_id_of(user) in erased for user in users(url)) if gone else 0
    if left:
        raise DatabaseError(
            f"{left} erased user(s) still have rows in the database after they were deleted. Do not start the app. A table with a column "
            "user_id is unknown to giggles.shred, or a trigger puts rows back: look at the tables, then ask again."
        )
    return len(gone)


def users(url: str) -> list[str]:
    """Return the ids of all users that a database has anything of, sorted.

    Raises:
        DatabaseError: it cannot be read, or hides rows from this account.
    """
    import psycopg
    from psycopg import sql

    where = server(url)
    try:
        with psycopg.connect(url, connect_timeout=15) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT n.nspname, c.relname, a.attname, row_security_active(c.oid) FROM pg_attribute a"
                " JOIN pg_class c ON c.oid = a.attrelid"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT a.attisdropped"
                " AND n.nspname IN ('public', 'auth') AND (a.attname = 'user_id' OR a.attname = 'id' AND c.relname = 'users'"
                " OR n.nspname = %s AND c.relname = %s AND a.attname = 'payload')",
                (audit_log.SCHEMA, audit_log.TABLE),
            )
            columns = cursor.fetchall()
            if hidden := [f"{schema}.{table}" for schema, table, _, active in columns if active]:
                raise DatabaseError(
                    f"Row level security hides rows of {', '.join(hidden)} from the account of giggles:secrets:app:DATABASE_URL, so nobody "
                    "could say whether an erased user is there. Use the account that owns the tables (Supabase: postgres)."
                )
            if not columns:
                raise DatabaseError(
                    "The database has no tables of users. Is giggles:secrets:app:DATABASE_URL the app's, and was the dump loaded into it?"
                )
            logs = [column for column in columns if column[:2] == (audit_log.SCHEMA, audit_log.TABLE)]
            queries = [
                sql.SQL("SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL").format(
                    column=sql.Identifier(column), table=sql.Identifier(schema, table)
                )
                for schema, table, column, _ in columns
                if (schema, table) != (audit_log.SCHEMA, audit_log.TABLE)
            ]
            cursor.execute(sql.SQL(" UNION ").join(queries))
            found = {str(row[0]) for row in cursor.fetchall()}
            if logs:
                found |= audit_log.users(lambda query: cursor.execute(query).fetchall())
            return sorted(found)
    except psycopg.Error as error:
        said = f"ERROR: {error.sqlstate}: {error}" if error.sqlstate else str(error)
        raise explained(said, where, f"The users in the database at {where.host} could not be read") from None
