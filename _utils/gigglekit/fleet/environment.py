"""Whose database it is: production's or staging's. The first nightly job writes it down, and a job of another environment does not begin.

Two droplets that are asked for the same project by mistake would process the same users, and staging would do so with code that nobody
has tried. Production always has its way: a mistake on staging must not cost a night of real users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gigglekit.fleet.errors import ForeignError
from gigglekit.fleet.tables import SCHEMA

if TYPE_CHECKING:
    import psycopg

PRODUCTION = "production"
_MARK = "giggles-salt: "
_READ = f"SELECT pg_catalog.obj_description(pg_catalog.to_regnamespace('{SCHEMA}'), 'pg_namespace')"


def insist(connection: psycopg.Connection[tuple[Any, ...]], environment: str) -> None:
    """Write down that the database is this environment's, if nobody has; the schema is there.

    Arguments:
        connection: in a transaction that nobody else is in.
        environment: of this droplet, by its settings.

    Raises:
        ForeignError: it is another one's.
    """
    (comment,) = connection.execute(_READ.encode()).fetchone() or (None,)
    known = str(comment).removeprefix(_MARK) if comment and str(comment).startswith(_MARK) else None
    if known == environment:
        return
    if known is not None and environment != PRODUCTION:
        raise ForeignError(
            f"This droplet is {environment}, and its settings lead to the database of {known}, so the job did not begin: it would process "
            "other people's recordings. Give this droplet a Supabase project of its own (giggles:secrets:app), then salt-call state.apply. "
            f"If the project was given to {environment} for good, say so in the database: COMMENT ON SCHEMA {SCHEMA} IS "
            f"'{_MARK}{environment}'"
        )
    from psycopg import sql

    connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(SCHEMA), sql.Literal(f"{_MARK}{environment}")))
