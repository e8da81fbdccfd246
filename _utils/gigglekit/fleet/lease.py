"""The lease that each nightly job holds in the app's database, and the users that are claimed under it.

A round is one night: jobs that begin within hours of each other belong to it, on whichever droplet. In a round each user is
claimed by one lease at a time. A lease ends when its holder ends it, or at a time that the holder keeps putting off; from then on
whoever asks may claim its users that are not done. Only the database's clock counts, and one transaction at a time.

What this promises: of two droplets at most one holds a lease that covers a user. That a holder stops in time when it can put the
end off no more is the runner's part (`runner.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gigglekit.fleet import environment, sharding, tables
from gigglekit.fleet.errors import LeaseError, LostError, UnreachableError

if TYPE_CHECKING:
    import psycopg

ROUND_HOURS = 6
"""A job that begins so long after a round began joins it. More than any delay of a start, less than from an evening to the night."""
MOST_ATTEMPTS = 2
"""So often a user is claimed in one round: somebody whose processing kills droplets must not kill all of them."""
AWAITED_SECONDS = 900
"""So long the others wait for a droplet that has not begun."""
_KEPT_DAYS = 8
_CONNECT_SECONDS = 8
# Nobody is held up for long by a droplet that falls silent in the middle of a transaction. Claiming a hundred thousand users takes seconds.
_OPTIONS = "-c statement_timeout=120000 -c lock_timeout=20000 -c idle_in_transaction_session_timeout=10000 -c search_path="

_IS_ALIVE = "EXISTS (SELECT FROM giggles_salt.nightly_leases AS l WHERE l.token = c.token AND l.ended IS NULL AND l.expires > %(now)s)"
# As the app looks for them. Who came after the round began is for the next night.
_ACTIVE = """
FROM public.users AS u WHERE u.is_active AND EXISTS (
    SELECT FROM public.limitless_keys AS k WHERE k.user_id = u.id AND k.is_active AND k.created_at < %(began)s)
"""
_HIDDEN = """
SELECT count(*) FROM unnest(ARRAY['public.processing_logs', 'public.users', 'public.limitless_keys']) AS t(name)
WHERE pg_catalog.row_security_active(t.name)
"""


@dataclass(frozen=True)
class Holder:
    """Who asks for leases.

    Arguments:
        droplet: its name, as the list of droplets has it.
        machine: which machine it is, in a form that says nothing else; a name may be given twice.
        boot: which start of that machine, the same way.
    """

    droplet: str
    machine: str
    boot: str


@dataclass(frozen=True)
class Lease:
    """One start of the job.

    Arguments:
        token: its number; later ones have higher ones.
        round: the night.
    """

    token: int
    round: int


@dataclass(frozen=True)
class Share:
    """What there is to do.

    Arguments:
        users: ids that are now claimed by this lease.
        all_of_them: whether these are all active users, and no other droplet has to do with this round.
        left: users of the round that are not done, those claimed now and those of other droplets included.
        elsewhere: users of the round whom other leases have done.
        given_up: users whose processing has ended a job `MOST_ATTEMPTS` times.
    """

    users: tuple[str, ...]
    all_of_them: bool
    left: int
    elsewhere: int
    given_up: int


@dataclass(frozen=True)
class Leases:
    """Asks for leases, and keeps them.

    Arguments:
        url: of the app's database. It holds a password and is never shown.
        holder: who asks.
        seconds: how long a lease holds from when it was taken or put off.
        whose: the environment of this droplet.
    """

    url: str = field(repr=False)
    holder: Holder
    seconds: float
    whose: str = environment.PRODUCTION

    def take(self) -> Lease:
        """Take part in the round that is at work, or begin one.

        Raises:
            UnreachableError: the database does not answer.
            ForeignError: it belongs to another environment.
            LeaseError: it refuses.
        """
        with self._transaction() as connection:
            if not _one(connection, tables.ARE_RIGHT)[0]:
                for statement in tables.MAKE:
                    connection.execute(statement.encode())
            environment.insist(connection, self.whose)
            (now,) = _one(connection, "SELECT clock_timestamp()")
            values = {
                "now": now,
                "droplet": self.holder.droplet,
                "machine": self.holder.machine,
                "boot": self.holder.boot,
                "hours": ROUND_HOURS,
            }
            connection.execute(
                b"DELETE FROM giggles_salt.nightly_rounds WHERE began < %(now)s - make_interval(days => %(kept)s)",
                {**values, "kept": _KEPT_DAYS},
            )
            # systemd runs one job at a time on a machine, so an earlier one of the same start of it is over.
            connection.execute(
                b"UPDATE giggles_salt.nightly_leases SET ended = %(now)s WHERE machine = %(machine)s AND boot = %(boot)s AND ended IS NULL",
                values,
            )
            # Who has been part of a round whose droplets are all done wants another, as whoever starts the job again by hand does.
            found = connection.execute(
                b"""SELECT r.id FROM giggles_salt.nightly_rounds AS r
                WHERE r.id = (SELECT max(id) FROM giggles_salt.nightly_rounds)
                AND r.began > %(now)s - make_interval(hours => %(hours)s)
                AND (EXISTS (SELECT FROM giggles_salt.nightly_leases AS l
                             WHERE l.round = r.id AND l.ended IS NULL AND l.expires > %(now)s)
                     OR NOT EXISTS (SELECT FROM giggles_salt.nightly_leases AS l
                                    WHERE l.round = r.id AND l.droplet = %(droplet)s AND l.machine = %(machine)s))""",
                values,
            ).fetchone()
            (number,) = found or _one(connection, "INSERT INTO giggles_salt.nightly_rounds DEFAULT VALUES RETURNING id")
            (token,) = _one(
                connection,
                "INSERT INTO giggles_salt.nightly_leases (round, droplet, machine, boot, expires) VALUES (%(round)s, %(droplet)s,"
                " %(machine)s, %(boot)s, clock_timestamp() + make_interval(secs => %(seconds)s)) RETURNING token",
                {**values, "round": number, "seconds": self.seconds},
            )
            return Lease(token, number)

    def renew(self, lease: Lease) -> None:
        """Put the end of a lease off.

        Raises:
            LostError: it is over.
            UnreachableError: the database does not answer.
            LeaseError: it refuses.
        """
        with self._transaction() as connection:
            self._renew(connection, lease)

    def claim(self, lease: Lease, droplets: Sequence[str], *, again: bool = False) -> Share:
        """Claim the users that are this droplet's now, and that nobody else has; puts the end of the lease off as well.

        Arguments:
            lease: under which.
            droplets: names of all droplets that run the nightly job.
            again: whether the answer to an earlier call may have been lost on its way: then whom that one has claimed is returned as well.

        Raises:
            LostError: the lease is over.
            UnreachableError: the database does not answer.
            LeaseError: it refuses, or hides rows from this account.
        """
        with self._transaction() as connection:
            self._renew(connection, lease)
            if _one(connection, _HIDDEN)[0]:
                raise LeaseError(
                    "Row level security hides users from the account of giggles:secrets:app:DATABASE_URL, so nobody can say whom the "
                    "nightly job has to process. Use the account that owns the app's tables (Supabase: postgres)."
                )
            now, began, awaited = _one(
                connection,
                "SELECT clock_timestamp(), began, clock_timestamp() < began + make_interval(secs => %(awaited)s)"
                " FROM giggles_salt.nightly_rounds WHERE id = %(round)s",
                {"round": lease.round, "awaited": AWAITED_SECONDS},
            )
            values = {"round": lease.round, "token": lease.token, "now": now, "began": began, "most": MOST_ATTEMPTS}
            seen = connection.execute(
                b"SELECT droplet, bool_or(ended IS NULL AND expires > %(now)s) FROM giggles_salt.nightly_leases"
                b" WHERE round = %(round)s GROUP BY droplet",
                values,
            ).fetchall()
            contenders = sharding.contenders(
                droplets, self.holder.droplet, [name for name, alive in seen if alive], [name for name, _ in seen], awaited
            )
            self._settle(connection, values)
            users = self._claim(connection, {**values, "own": self.holder.droplet, "contenders": contenders})
            if again:
                users = self._claimed(connection, values)
            left, elsewhere, given_up = self._count(connection, values)
            (leases,) = _one(
                connection, "SELECT count(*) FROM giggles_salt.nightly_leases WHERE round = %(round)s AND token <> %(token)s", values
            )
            return Share(users, not leases and contenders == [self.holder.droplet], left, elsewhere, given_up)

    def done(self, lease: Lease) -> None:
        """Write down that all users claimed under a lease have been processed.

        Raises:
            UnreachableError: the database does not answer.
            LeaseError: it refuses.
        """
        with self._transaction() as connection:
            connection.execute(
                b"UPDATE giggles_salt.nightly_users SET done = clock_timestamp() WHERE round = %s AND token = %s AND done IS NULL",
                (lease.round, lease.token),
            )

    def end(self, lease: Lease) -> None:
        """Give a lease back; what was claimed under it and is not done may be claimed by others at once.

        Raises:
            UnreachableError: the database does not answer.
            LeaseError: it refuses.
        """
        with self._transaction() as connection:
            connection.execute(
                b"UPDATE giggles_salt.nightly_leases SET ended = clock_timestamp() WHERE token = %s AND ended IS NULL",
                (lease.token,),
            )

    def withdraw(self, lease: Lease) -> None:
        """Have a lease never been taken: its job did not begin.

        Raises:
            UnreachableError: the database does not answer.
            LeaseError: it refuses.
        """
        with self._transaction() as connection:
            for statement in (
                "DELETE FROM giggles_salt.nightly_users WHERE round = %(round)s AND token = %(token)s AND attempts = 1",
                "DELETE FROM giggles_salt.nightly_leases WHERE token = %(token)s",
                "DELETE FROM giggles_salt.nightly_rounds AS r WHERE id = %(round)s"
                " AND NOT EXISTS (SELECT FROM giggles_salt.nightly_leases AS l WHERE l.round = r.id)",
            ):
                connection.execute(statement.encode(), {"round": lease.round, "token": lease.token})

    def _renew(self, connection: psycopg.Connection[tuple[Any, ...]], lease: Lease) -> None:
        renewed = connection.execute(
            b"UPDATE giggles_salt.nightly_leases SET expires = clock_timestamp() + make_interval(secs => %s)"
            b" WHERE token = %s AND ended IS NULL AND expires > clock_timestamp()",
            (self.seconds, lease.token),
        )
        if renewed.rowcount != 1:
            raise LostError("The lease of this droplet's nightly job is over, so other droplets may have taken its users.")

    @staticmethod
    def _settle(connection: psycopg.Connection[tuple[Any, ...]], values: dict[str, Any]) -> None:
        """Write down who was done by a droplet that could not do so itself: the app's own log of each user tells."""
        connection.execute(
            f"""UPDATE giggles_salt.nightly_users AS c SET done = %(now)s
            WHERE c.round = %(round)s AND c.done IS NULL AND NOT {_IS_ALIVE} AND EXISTS (
                SELECT FROM public.processing_logs AS p
                WHERE p.user_id = c.user_id AND p.status IN ('completed', 'failed') AND p.trigger_type IS DISTINCT FROM 'manual'
                AND greatest(p.created_at, (to_jsonb(p) ->> 'last_processed')::timestamptz) >= c.claimed)""".encode(),  # noqa: S608 (texts of ours)
            values,
        )

    @staticmethod
    def _claim(connection: psycopg.Connection[tuple[Any, ...]], values: dict[str, Any]) -> tuple[str, ...]:
        owner = sharding.WEIGHED.format(droplets="%(contenders)s::text[]", user="u.id")
        rows = connection.execute(
            f"""INSERT INTO giggles_salt.nightly_users AS c (round, user_id, token, claimed)
            SELECT %(round)s, u.id, %(token)s, %(now)s {_ACTIVE} AND {owner} = %(own)s
            ON CONFLICT (round, user_id) DO UPDATE
            SET token = excluded.token, claimed = excluded.claimed, attempts = c.attempts + 1
            WHERE c.done IS NULL AND c.token <> excluded.token AND c.attempts < %(most)s
            AND NOT {_IS_ALIVE}
            RETURNING c.user_id::text""".encode(),  # noqa: S608 (texts of ours)
            values,
        ).fetchall()
        return tuple(sorted(user for (user,) in rows))

    @staticmethod
    def _claimed(connection: psycopg.Connection[tuple[Any, ...]], values: dict[str, Any]) -> tuple[str, ...]:
        """Return who is claimed under a lease and not done."""
        rows = connection.execute(
            f"""SELECT c.user_id::text FROM giggles_salt.nightly_users AS c
            WHERE c.round = %(round)s AND c.token = %(token)s AND c.done IS NULL
            AND EXISTS (SELECT {_ACTIVE} AND u.id = c.user_id)""".encode(),  # noqa: S608 (texts of ours)
            values,
        ).fetchall()
        return tuple(sorted(user for (user,) in rows))

    @staticmethod
    def _count(connection: psycopg.Connection[tuple[Any, ...]], values: dict[str, Any]) -> tuple[int, int, int]:
        """Return how many users are left, how many others have done, and how many are given up."""
        given_up = f"(c.attempts >= %(most)s AND NOT {_IS_ALIVE})"
        left, elsewhere, lost = _one(
            connection,
            f"""SELECT count(*) FILTER (WHERE c.done IS NULL AND {given_up} IS NOT TRUE),
                count(*) FILTER (WHERE c.done IS NOT NULL AND c.token <> %(token)s),
                count(*) FILTER (WHERE c.done IS NULL AND {given_up})
            FROM (SELECT u.id {_ACTIVE}) AS a
            LEFT JOIN giggles_salt.nightly_users AS c ON c.round = %(round)s AND c.user_id = a.id""",  # noqa: S608 (texts of ours)
            values,
        )
        return left, elsewhere, lost

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Have a connection of its own for one transaction: a pooler may end one that was kept."""
        import psycopg

        try:
            # A driver quotes what it cannot parse; so nothing of its words is told, and nothing is chained.
            connection = psycopg.connect(
                self.url, connect_timeout=_CONNECT_SECONDS, options=_OPTIONS, application_name="giggles-nightly-lease"
            )
        except psycopg.Error:
            raise UnreachableError(
                "The app's database does not answer, or does not let this droplet in. Check that it runs and that "
                "giggles:secrets:app:DATABASE_URL is right (over IPv4 Supabase needs its session pooler)."
            ) from None
        try:
            with connection:
                connection.execute(tables.LOCK.encode())
                yield connection
        except psycopg.OperationalError as error:
            raise UnreachableError(
                f"The app's database stopped answering, or was busy for too long ({error.sqlstate or type(error).__name__})."
            ) from None
        except psycopg.Error as error:
            raise LeaseError(
                f"The app's database refused ({error.sqlstate or type(error).__name__}). The account of giggles:secrets:app:DATABASE_URL "
                f"has to see the app's users and to be allowed to make a schema ({tables.SCHEMA}) beside them (Supabase: postgres); "
                "42P01 and 42703 mean that this version of the app has other tables."
            ) from None


def _one(connection: psycopg.Connection[tuple[Any, ...]], query: str, values: dict[str, Any] | None = None) -> tuple[Any, ...]:
    return connection.execute(query.encode(), values).fetchone() or ()
