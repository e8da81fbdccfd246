"""The lease of the nightly job in a real PostgreSQL with the app's schema: no two droplets have the same user, and nobody is missed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from gigglekit.fleet.errors import ForeignError, LeaseError, LostError, UnreachableError
from gigglekit.fleet.lease import AWAITED_SECONDS, ROUND_HOURS, Holder, Lease, Leases, Share
from gigglekit.fleet.sharding import shards
from gigglekit.health import nightly_database
from gigglekit.health.nightly import Database as Seen
from gigglekit.vault import rows as rows_of_users

from .postgres import Cluster, cluster, execute, fill, rows, user_id

NAMES = ["night1", "night2", "night3"]
USERS = 40
EVERYBODY = [user_id(number) for number in range(USERS)]


@dataclass
class Night:
    """A database with users, and droplets that share it."""

    url: str
    admin: str
    name: str
    droplets: list[str] = field(default_factory=lambda: list(NAMES))

    def leases(self, name: str, boot: str = "one", machine: str | None = None, whose: str = "production") -> Leases:
        return Leases(self.url, Holder(name, machine or f"machine of {name}", boot), 600, whose)

    def later(self, seconds: int) -> None:
        """Have time pass: everything that is written down was so much earlier."""
        execute(
            self.url,
            f"""UPDATE giggles_salt.nightly_rounds SET began = began - interval '{seconds} s';
            UPDATE giggles_salt.nightly_leases SET began = began - interval '{seconds} s', expires = expires - interval '{seconds} s',
                ended = ended - interval '{seconds} s';
            UPDATE giggles_salt.nightly_users SET claimed = claimed - interval '{seconds} s', done = done - interval '{seconds} s';
            UPDATE public.processing_logs SET created_at = created_at - interval '{seconds} s'""",  # noqa: S608
        )

    def logged(self, users: list[str], status: str = "completed", trigger: str = "cron") -> None:
        """Have the app write down what became of users."""
        values = ",".join(f"('{user}', now()::date, '{status}', '{trigger}')" for user in users)
        execute(self.url, f"INSERT INTO public.processing_logs (user_id, date, status, trigger_type) VALUES {values}")  # noqa: S608

    def begin(self, name: str, **who: str) -> tuple[Leases, Lease, Share]:
        leases = self.leases(name, **who)
        lease = leases.take()
        return leases, lease, leases.claim(lease, self.droplets)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def night(server: Cluster) -> Iterator[Night]:
    name = server.app()
    url = server.url(name, name)
    fill(url, users=USERS, clips=0)
    execute(url, "UPDATE public.limitless_keys SET created_at = now() - interval '1 day'")
    execute(url, "UPDATE public.processing_logs SET created_at = now() - interval '1 day'")
    yield Night(url, server.url(name), name)
    server.drop(name)


def test_each_droplet_has_its_shard_and_everybody_has_one(night: Night) -> None:
    began = [night.begin(name) for name in NAMES]
    assert {lease.round for _, lease, _ in began} == {began[0][1].round}
    assert {name: list(share.users) for name, (_, _, share) in zip(NAMES, began, strict=True)} == {
        name: sorted(users) for name, users in shards(NAMES, EVERYBODY).items()
    }
    for leases, lease, share in began:
        assert share.left == USERS
        assert not share.all_of_them
        leases.done(lease)
    for leases, lease, share in began:
        after = leases.claim(lease, NAMES)
        assert (after.users, after.left, after.elsewhere) == ((), 0, USERS - len(share.users))


def test_a_single_droplet_has_all_and_again_when_it_is_started_again(night: Night) -> None:
    night.droplets = ["alone"]
    leases, lease, share = night.begin("alone")
    assert (sorted(share.users), share.all_of_them) == (EVERYBODY, True)
    leases.done(lease)
    assert leases.claim(lease, ["alone"]) == Share((), True, 0, 0, 0)
    leases.end(lease)
    _, again, share = night.begin("alone")
    assert again.token > lease.token
    assert again.round != lease.round
    assert (sorted(share.users), share.all_of_them) == (EVERYBODY, True)


@pytest.mark.parametrize("later", [0, 3600])
def test_an_old_and_a_new_droplet_that_know_nothing_of_each_other_process_nobody_twice(night: Night, later: int) -> None:
    night.droplets = ["giggles"]
    old, lease, share = night.begin("giggles", machine="old")
    assert len(share.users) == USERS
    if later:
        old.done(lease)
        old.end(lease)
        night.later(later)
    _, other, share = night.begin("giggles", machine="new")
    assert (share.users, share.all_of_them) == ((), False)
    assert share.left == (0 if later else USERS)
    assert other.token > lease.token


def test_staging_never_processes_the_users_of_production(night: Night) -> None:
    night.begin("night1")
    with pytest.raises(ForeignError, match="settings lead to the database of production") as told:
        night.leases("stage", whose="staging").take()
    assert rows(night.url, "SELECT DISTINCT droplet FROM giggles_salt.nightly_leases") == [("night1",)]
    # What the message says to do is what helps.
    execute(night.url, str(told.value).partition("in the database: ")[2])
    night.leases("stage", whose="staging").take()


def test_a_database_of_staging_stays_its_own_until_production_needs_it(night: Night) -> None:
    for _ in range(2):
        leases = night.leases("stage", whose="staging")
        leases.end(leases.take())
    # A mistake on staging costs production no night.
    night.begin("night1")
    with pytest.raises(ForeignError):
        night.leases("stage", whose="staging").take()


def test_a_comment_of_somebody_elses_on_the_schema_is_no_environment(night: Night) -> None:
    night.begin("night1")
    execute(night.url, "COMMENT ON SCHEMA giggles_salt IS 'production of ours'")
    night.leases("stage", whose="staging").take()


def test_the_next_night_is_another(night: Night) -> None:
    leases, lease, _ = night.begin("night1")
    leases.done(lease)
    leases.end(lease)
    night.later(ROUND_HOURS * 3600 + 1)
    _, other, share = night.begin("night2")
    assert other.round != lease.round
    assert share.users


def test_a_droplet_that_dies_leaves_its_users_to_others_who_take_those_that_are_not_done(night: Night) -> None:
    one, lease, first = night.begin("night1")
    two, other, second = night.begin("night2")
    three, third, _ = night.begin("night3")
    # In the middle: some are done by the app's own log; of others it says that they failed, or were begun, or were asked for by hand.
    done, failed, begun, by_hand, *_ = first.users
    night.logged([done])
    night.logged([failed], "failed")
    night.logged([begun], "processing")
    night.logged([by_hand], trigger="manual")
    night.later(500)
    two.renew(other)
    three.renew(third)
    assert two.claim(other, NAMES).users == (), "it may still be at work"
    night.later(101)
    taken = [*two.claim(other, NAMES).users, *three.claim(third, NAMES).users]
    assert sorted(taken) == sorted(set(first.users) - {done, failed})
    assert not set(taken) & set(second.users)
    # It only seemed to be dead: whatever it does now is refused.
    with pytest.raises(LostError):
        one.renew(lease)
    with pytest.raises(LostError):
        one.claim(lease, NAMES)
    one.done(lease)
    assert rows(night.url, f"SELECT count(*) FROM giggles_salt.nightly_users WHERE token = {lease.token} AND done IS NOT NULL") == [(2,)]  # noqa: S608
    two.done(other)
    three.done(third)
    assert two.claim(other, NAMES).left == 0


def test_one_that_gives_its_lease_back_leaves_its_users_at_once(night: Night) -> None:
    one, lease, first = night.begin("night1")
    two, other, _ = night.begin("night2")
    three, third, _ = night.begin("night3")
    one.end(lease)
    assert sorted([*two.claim(other, NAMES).users, *three.claim(third, NAMES).users]) == sorted(first.users)


def test_a_droplet_that_does_not_come_is_waited_for_and_then_done_without(night: Night) -> None:
    one, lease, mine = night.begin("night1")
    two, other, theirs = night.begin("night2")
    one.done(lease)
    assert one.claim(lease, NAMES).users == ()
    for _ in range(AWAITED_SECONDS // 300 + 1):
        night.later(300)
        one.renew(lease)
        two.renew(other)
    taken = [*one.claim(lease, NAMES).users, *two.claim(other, NAMES).users]
    assert sorted([*mine.users, *theirs.users, *taken]) == EVERYBODY
    # And when it comes after all, it finds what is left: nothing.
    assert night.begin("night3")[2].users == ()


def test_wrong_lists_of_droplets_never_have_a_user_processed_twice(night: Night) -> None:
    chance = random.Random(6)  # noqa: S311 (the same lists every time)
    pool = [*NAMES, "night4", "nobody"]
    for _ in range(12):
        execute(night.url, "DROP SCHEMA IF EXISTS giggles_salt CASCADE")
        taken: list[str] = []
        began = []
        for name in NAMES:
            leases = night.leases(name)
            lists = chance.sample(pool, chance.randrange(1, 5))
            lease = leases.take()
            taken += leases.claim(lease, lists).users
            began.append((leases, lease, lists))
        assert len(set(taken)) == len(taken)
        for _ in range(AWAITED_SECONDS // 300 + 1):
            night.later(300)
            for leases, lease, _ in began:
                leases.renew(lease)
        for leases, lease, lists in began:
            taken += leases.claim(lease, lists).users
        assert sorted(taken) == EVERYBODY


@pytest.mark.parametrize("known", [True, False])
def test_droplets_that_begin_at_the_same_moment_share_and_nobody_is_done_twice(night: Night, known: bool) -> None:
    found: list[tuple[str, ...]] = []
    gate = threading.Barrier(6)

    def begin(name: str) -> None:
        leases = night.leases(name)
        gate.wait(30)
        found.append(leases.claim(leases.take(), NAMES if known else [name]).users)

    threads = [threading.Thread(target=begin, args=(name,)) for name in [*NAMES, "a", "b", "c"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6, "one of them failed"
    taken = [user for users in found for user in users]
    assert len(set(taken)) == len(taken)
    assert known or sorted(taken) == EVERYBODY
    assert len(rows(night.url, "SELECT DISTINCT round FROM giggles_salt.nightly_leases")) == 1


def test_a_user_who_ends_every_job_is_given_up_and_told(night: Night) -> None:
    night.droplets = ["night1", "night2"]
    one, lease, first = night.begin("night1")
    two, other, _ = night.begin("night2")
    two.done(other)
    one.end(lease)
    assert sorted(two.claim(other, night.droplets).users) == sorted(first.users)
    two.end(other)
    three, third, share = night.begin("night3")
    assert share.users == ()
    assert (share.left, share.given_up) == (0, len(first.users))
    assert three.claim(third, night.droplets).users == ()


def test_a_job_that_was_killed_with_all_its_processes_does_not_wait_for_itself(night: Night) -> None:
    night.droplets = ["alone"]
    _, first, _ = night.begin("alone")
    _, second, share = night.begin("alone")
    assert (second.round != first.round, share.all_of_them) == (True, True)
    # After a restart of the machine nobody can say that from another machine with the same name.
    _, third, share = night.begin("alone", boot="two")
    assert (third.round, share.users) == (second.round, ())
    night.later(601)
    leases = night.leases("alone", boot="two")
    assert len(leases.claim(leases.take(), ["alone"]).users) == USERS


def test_a_job_that_did_not_begin_leaves_nothing(night: Night) -> None:
    leases, lease, share = night.begin("night1")
    assert share.users
    leases.withdraw(lease)
    assert [rows(night.url, f"SELECT count(*) FROM giggles_salt.nightly_{table}") for table in ("rounds", "leases", "users")] == [  # noqa: S608
        [(0,)]
    ] * 3


def test_who_is_no_user_for_the_app_is_none_here(night: Night) -> None:
    night.droplets = ["alone"]
    execute(night.url, f"UPDATE public.users SET is_active = false WHERE id = '{EVERYBODY[0]}'")  # noqa: S608
    execute(night.url, f"UPDATE public.limitless_keys SET is_active = false WHERE user_id = '{EVERYBODY[1]}'")  # noqa: S608
    leases, lease, share = night.begin("alone")
    assert sorted(share.users) == EVERYBODY[2:]
    execute(night.url, f"UPDATE public.users SET is_active = true WHERE id = '{EVERYBODY[0]}'")  # noqa: S608
    leases.done(lease)
    # A key from after the beginning is for the next night.
    execute(night.url, f"UPDATE public.limitless_keys SET is_active = true, created_at = now() WHERE user_id = '{EVERYBODY[1]}'")  # noqa: S608
    assert list(leases.claim(lease, ["alone"]).users) == [EVERYBODY[0]]


def test_nobody_else_reaches_the_tables(night: Night) -> None:
    night.begin("night1")
    tables = ("nightly_rounds", "nightly_leases", "nightly_users")
    for role in ("anon", "authenticated", "service_role"):
        for table in tables:
            with psycopg.connect(night.url) as connection:
                connection.execute(f"SET LOCAL ROLE {role}")  # type: ignore[arg-type]
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM giggles_salt.{table}")  # type: ignore[arg-type]  # noqa: S608
    # Somebody lets the API in by mistake: there is still nothing to see, and the next night closes it again.
    execute(
        night.url, "GRANT USAGE ON SCHEMA giggles_salt TO authenticated; GRANT SELECT ON ALL TABLES IN SCHEMA giggles_salt TO authenticated"
    )
    with psycopg.connect(night.url) as connection:
        connection.execute("SET LOCAL ROLE authenticated")
        assert connection.execute("SELECT count(*) FROM giggles_salt.nightly_users").fetchone() == (0,)


def test_security_that_was_switched_off_is_on_again(night: Night) -> None:
    night.begin("night1")
    execute(night.url, "ALTER TABLE giggles_salt.nightly_users DISABLE ROW LEVEL SECURITY; GRANT ALL ON giggles_salt.nightly_users TO anon")
    night.begin("night2")
    assert rows(night.url, "SELECT relrowsecurity FROM pg_class WHERE relname = 'nightly_users'") == [(True,)]
    assert rows(night.url, "SELECT has_table_privilege('anon', 'giggles_salt.nightly_users', 'SELECT')") == [(False,)]


def test_old_nights_are_forgotten(night: Night) -> None:
    leases, lease, _ = night.begin("night1")
    leases.end(lease)
    night.later(9 * 86400)
    _, newer, _ = night.begin("night1")
    assert rows(night.url, "SELECT DISTINCT round FROM giggles_salt.nightly_users") == [(newer.round,)]


def test_a_droplet_that_falls_silent_in_the_middle_holds_nobody_up_for_long(night: Night) -> None:
    leases, lease, _ = night.begin("night1")
    with leases._transaction() as silent:
        ((patience,),) = silent.execute("SHOW idle_in_transaction_session_timeout").fetchall()
        ((waited,),) = silent.execute("SHOW lock_timeout").fetchall()
    assert (patience, waited) == ("10s", "20s"), "the one has to be shorter, and both far shorter than a lease"
    leases.renew(lease)


@pytest.mark.parametrize("what", ["away", "refused", "hidden", "other tables"])
def test_what_the_database_says_no_to_is_told_without_its_words(night: Night, what: str) -> None:
    url, wanted = night.url, LeaseError
    match what:
        case "away":
            url, wanted = night.url.replace("host=", "host=/nowhere"), UnreachableError
        case "refused":
            execute(night.url, "CREATE SCHEMA giggles_salt; CREATE TABLE giggles_salt.nightly_rounds (id text)")
        case "hidden":
            execute(night.url, "ALTER TABLE public.users FORCE ROW LEVEL SECURITY")
            execute(night.admin, f"ALTER ROLE {night.name} NOBYPASSRLS")
        case "other tables":
            execute(night.url, "ALTER TABLE public.users RENAME COLUMN is_active TO enabled")
    leases = Leases(url, Holder("night1", "m", "b"), 600)
    with pytest.raises(wanted) as caught:
        leases.claim(leases.take(), NAMES)
    told = str(caught.value)
    assert "giggles:secrets:app:DATABASE_URL" in told
    assert "://" not in told
    assert caught.value.__cause__ is None


def test_an_erasure_reaches_what_is_written_down_here(night: Night) -> None:
    leases, lease, share = night.begin("night1")
    user = share.users[0]
    database = rows_of_users.Database(night.url)
    assert database.count(user)["giggles_salt.nightly_users"] == 1
    assert database.delete(user)["giggles_salt.nightly_users"] == 1
    assert rows(night.url, f"SELECT count(*) FROM giggles_salt.nightly_users WHERE user_id = '{user}'") == [(0,)]  # noqa: S608
    assert leases.claim(lease, NAMES).users == ()


def test_the_verdict_is_checked_with_the_users_of_this_droplet_alone(night: Night) -> None:
    _, lease, share = night.begin("night1")
    _, other, theirs = night.begin("night2")
    night.logged(list(share.users[1:]))
    night.logged([share.users[0], *theirs.users], "failed")
    assert nightly_database.look(night.url, 600, lease.token) == Seen(len(share.users), len(share.users) - 1, 1, 0)
    assert nightly_database.look(night.url, 600, other.token) == Seen(len(theirs.users), 0, len(theirs.users), 0)
    assert nightly_database.look(night.url, 600).failed == 1 + len(theirs.users)
