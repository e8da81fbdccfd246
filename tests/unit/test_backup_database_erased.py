"""Who was erased does not come back with a dump from before; and rows and files are compared without naming anybody."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from typing import Any

import psycopg
import pytest
from gigglekit.backup.database import CrossCheck, DatabaseError, cross_check, replay, restore
from gigglekit.backup.replay import users
from gigglekit.vault.rows import Database
from gigglekit.vault.rows import DatabaseError as RowsError

from tests.unit import postgres
from tests.unit.postgres import UPLOADS, Cluster, user_id
from tests.unit.test_backup_database import ID, KEY, dumped, pieces

ERASED = {user_id(number) for number in (3, 17, 49)}


def vault_id_of(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()[:32]


LEDGER = {vault_id_of(user) for user in ERASED} | {vault_id_of("6f1c1b1e-1111-4222-8333-944445555666")}


@pytest.fixture
def app(cluster: Cluster) -> str:
    """The app's database with 50 users, as its own account reaches it."""
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.fill(url)
    return url


def of_user(url: str) -> dict[str, dict[str, int]]:
    """Return how many rows each user has in each table."""
    return {user_id(number): Database(url).count(user_id(number)) for number in range(50)}


def insist_on_rest(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> None:
    for user, counts in before.items():
        assert all(counts.values())
        assert after[user] == (dict.fromkeys(counts, 0) if user in ERASED else counts)


def test_erased_users_never_come_back_from_a_dump_of_before(cluster: Cluster, app: str) -> None:
    before, content = of_user(app), dumped(app)[1]
    target = cluster.url(cluster.empty())
    restored = restore(target, pieces(content), key=KEY, dump_id=ID, forget=lambda user: vault_id_of(user) in LEDGER)
    assert restored.forgotten == 3
    assert restored.tables["public.laughter_detections"] == 4 * 47
    insist_on_rest(before, of_user(target))
    again = restore(app, pieces(content), key=KEY, dump_id=ID, clean=True, forget=lambda user: vault_id_of(user) in LEDGER)
    assert again == restored
    insist_on_rest(before, of_user(app))


LOG = """
    CREATE TABLE auth.audit_log_entries (
        instance_id uuid, id uuid NOT NULL PRIMARY KEY, payload json, created_at timestamptz, ip_address varchar(64) NOT NULL DEFAULT '')
"""


def log(url: str, number: int) -> list[dict[str, Any]]:
    """Note of a user what Supabase's accounts service notes: by the user, of the user, and by the address alone."""
    ident, mail = user_id(number), f"user{number}@example.test"
    nobody, before = str(uuid.UUID(int=0)), str(uuid.uuid4())
    by_user = {"actor_id": ident, "actor_username": mail, "actor_via_sso": False, "log_type": "account"}
    by_team = {"actor_id": nobody, "actor_username": "service_role", "actor_via_sso": False, "log_type": "team"}
    noted: list[dict[str, Any]] = [
        {"action": "login", **by_user, "traits": {"provider": "email"}},
        {"action": "logout", **by_user},
        {"action": "login", **by_user, "actor_username": f"earlier-address-{number}@example.test"},
        {"action": "user_signedup", **by_team, "traits": {"user_email": mail.upper(), "user_id": ident, "user_phone": ""}},
        # An earlier account of the same address.
        {"action": "login", **by_user, "actor_id": before},
        {"action": "user_deleted", **by_team, "traits": {"user_email": mail, "user_id": before, "user_phone": ""}},
    ]
    with psycopg.connect(url) as connection:
        for entry in noted:
            connection.execute("INSERT INTO auth.audit_log_entries VALUES (%s, %s, %s)", (nobody, uuid.uuid4(), json.dumps(entry)))
    return noted


@pytest.fixture
def logged(app: str) -> tuple[str, list[dict[str, Any]]]:
    """The app's database with the log of Supabase's accounts, and what it holds of users who are not erased."""
    postgres.execute(app, LOG)
    theirs = log(app, 4) + log(app, 5)
    for number in (3, 17, 49):
        log(app, number)
    with psycopg.connect(app) as connection:
        # What names nobody, and what is no object.
        for payload in (None, "null", "[]", "7", '"text"', '{"actor_id": null, "traits": []}'):
            connection.execute("INSERT INTO auth.audit_log_entries VALUES (NULL, %s, %s)", (uuid.uuid4(), payload))
    return app, theirs


def left_in_log(url: str) -> list[dict[str, Any]]:
    """Return what is noted of anybody, and insist that the rows that name nobody are there."""
    with psycopg.connect(url) as connection:
        rows = [row[0] for row in connection.execute("SELECT payload FROM auth.audit_log_entries")]
    assert sum(not isinstance(row, dict) or row["actor_id"] is None for row in rows) == 6
    return [row for row in rows if isinstance(row, dict) and row["actor_id"] is not None]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return sorted(map(str, one)) == sorted(map(str, other))


def test_what_the_log_of_accounts_holds_of_the_erased_does_not_come_back_either(
    cluster: Cluster, logged: tuple[str, list[dict[str, Any]]]
) -> None:
    """Named by id, as the actor or below traits; by the address of now; or by an earlier account of the same address."""
    url, theirs = logged
    assert len(left_in_log(url)) == len(theirs) + 18, "control: it is in the dump"
    content = dumped(url)[1]
    target = cluster.url(cluster.empty())
    assert restore(target, pieces(content), key=KEY, dump_id=ID, forget=lambda user: vault_id_of(user) in LEDGER).forgotten == 3
    assert same(left_in_log(target), theirs)
    restore(url, pieces(content), key=KEY, dump_id=ID, clean=True, forget=lambda user: vault_id_of(user) in LEDGER)
    assert same(left_in_log(url), theirs)
    assert not [user for user in users(url) if vault_id_of(user) in LEDGER]


def test_somebody_of_whom_only_the_log_of_accounts_is_left_is_found(cluster: Cluster, logged: tuple[str, list[dict[str, Any]]]) -> None:
    """The account was deleted before the dump, in Supabase's own web UI say."""
    url, theirs = logged
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM auth.users WHERE id = ANY(%s::uuid[])", (sorted(ERASED),))
    content = dumped(url)[1]
    target = cluster.url(cluster.empty())
    assert restore(target, pieces(content), key=KEY, dump_id=ID, forget=lambda user: vault_id_of(user) in LEDGER).forgotten == 3
    # Whose address it is that rows have besides, nobody knows then.
    rest = [row for row in left_in_log(target) if row not in theirs]
    assert not any(user in str(rest) for user in ERASED)
    assert replay(url, LEDGER, vault_id_of, delete=Database(url).delete) == 3
    assert same(left_in_log(url), left_in_log(target))


def test_replaying_the_ledger_clears_the_log_of_accounts(logged: tuple[str, list[dict[str, Any]]]) -> None:
    url, theirs = logged
    assert replay(url, LEDGER, vault_id_of, delete=Database(url).delete) == 3
    assert same(left_in_log(url), theirs)
    assert replay(url, LEDGER, vault_id_of, delete=Database(url).delete) == 0


def test_an_erasure_counts_and_deletes_what_the_log_of_accounts_holds(logged: tuple[str, list[dict[str, Any]]]) -> None:
    url, theirs = logged
    database = Database(url)
    for user in sorted(ERASED):
        assert database.count(user)["auth.audit_log_entries"] == 6
        assert database.delete(user)["auth.audit_log_entries"] == 6
        assert set(database.count(user).values()) == {0}
    assert same(left_in_log(url), theirs)


def test_a_log_that_keeps_rows_of_the_erased_keeps_the_whole_dump_out(cluster: Cluster, logged: tuple[str, list[dict[str, Any]]]) -> None:
    url, _ = logged
    postgres.execute(
        url,
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON auth.audit_log_entries FOR EACH ROW EXECUTE FUNCTION public.keep()",
    )
    target = cluster.url(cluster.empty())
    before = postgres.content(target)
    with pytest.raises(DatabaseError, match=r"erased users stay in auth\.audit_log_entries"):
        restore(target, pieces(dumped(url)[1]), key=KEY, dump_id=ID, forget=ERASED.__contains__)
    assert postgres.content(target) == before
    with pytest.raises(RowsError, match=r"rows of this user in auth\.audit_log_entries"):
        Database(url).delete(user_id(3))
    assert Database(url).count(user_id(3))["auth.users"] == 1


def test_rows_that_nothing_ties_to_an_account_are_forgotten_too(cluster: Cluster, app: str) -> None:
    postgres.execute(app, "CREATE TABLE public.extra AS SELECT id AS user_id FROM public.users")
    with psycopg.connect(app) as connection:
        connection.execute("INSERT INTO public.extra VALUES (%s)", (user_id(99),))
    target = cluster.url(cluster.empty())
    gone = ERASED | {user_id(99)}
    assert restore(target, pieces(dumped(app)[1]), key=KEY, dump_id=ID, forget=gone.__contains__).forgotten == 4
    assert postgres.rows(target, "SELECT count(*) FROM public.extra") == [(47,)]


def test_a_trigger_that_keeps_rows_of_the_erased_keeps_the_whole_dump_out(cluster: Cluster, app: str) -> None:
    postgres.execute(
        app,
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TABLE public.extra AS SELECT id AS user_id FROM public.users;"
        "CREATE TRIGGER keep BEFORE DELETE ON public.extra FOR EACH ROW EXECUTE FUNCTION public.keep()",
    )
    target = cluster.url(cluster.empty())
    before = postgres.content(target)
    with pytest.raises(DatabaseError, match=r"erased users stay in public\.extra"):
        restore(target, pieces(dumped(app)[1]), key=KEY, dump_id=ID, forget=ERASED.__contains__)
    assert postgres.content(target) == before


def test_replaying_the_ledger_removes_exactly_the_erased(app: str) -> None:
    before = of_user(app)
    assert replay(app, LEDGER, vault_id_of, delete=Database(app).delete) == 3
    insist_on_rest(before, of_user(app))
    assert replay(app, LEDGER, vault_id_of, delete=Database(app).delete) == 0


def test_a_replay_that_leaves_somebody_is_an_error(app: str) -> None:
    postgres.execute(app, "CREATE TABLE public.extra AS SELECT id AS user_id FROM public.users")
    with pytest.raises(DatabaseError, match=r"3 erased user\(s\) still have rows"):
        replay(app, LEDGER, vault_id_of, delete=Database(app).delete)


def test_a_replay_is_not_content_with_what_it_cannot_see(cluster: Cluster, app: str) -> None:
    name = cluster.app()
    with pytest.raises(DatabaseError, match="no tables of users"):
        replay(cluster.url(cluster.empty()), LEDGER, vault_id_of, delete=Database(app).delete)
    postgres.execute(cluster.admin, f"ALTER ROLE {name} NOBYPASSRLS")
    postgres.execute(cluster.url(name), "ALTER TABLE public.users FORCE ROW LEVEL SECURITY")
    with pytest.raises(DatabaseError, match=r"hides rows of public\.users"):
        replay(cluster.url(name, name), LEDGER, vault_id_of, delete=Database(app).delete)


def clips(users: range) -> dict[str, set[str]]:
    return {user_id(number): {f"clips/c{clip}.wav" for clip in range(4)} for number in users}


def test_rows_and_files_of_one_moment_agree(app: str) -> None:
    assert cross_check(app, clips(range(50)), UPLOADS) == CrossCheck(200, 200, 0, 0)


def test_what_has_no_counterpart_is_counted(app: str) -> None:
    files = clips(range(49))
    files[user_id(0)] = {"clips/c0.wav", "clips/new.wav", "audio/a.ogg"}
    files[user_id(1)] |= {"legacy/old.wav", "legacy/orphan.wav"}
    with psycopg.connect(app) as connection:
        connection.execute(
            "UPDATE public.laughter_detections SET clip_path = %s WHERE user_id = %s AND clip_path LIKE '%%c1.wav'",
            (f"{UPLOADS}/clips/old.wav", user_id(2)),
        )
        # Another's folder, another's name, a path that only looks right: no clip of this user's
        for number, path in ((4, f"{UPLOADS}/clips/{user_id(5)}/c1.wav"), (6, f"/elsewhere/clips/{user_id(6)}/c1.wav")):
            connection.execute(
                "UPDATE public.laughter_detections SET clip_path = %s WHERE user_id = %s AND clip_path LIKE '%%c1.wav'",
                (path, user_id(number)),
            )
    found = cross_check(app, files, f"{UPLOADS}/")
    # Rows: 4 of user 49, 3 of user 0, users 4 and 6. Files: new.wav, orphan.wav, c1.wav of users 2, 4 and 6.
    assert found == CrossCheck(rows=200, files=4 * 48 + 2 + 2, rows_without_file=4 + 3 + 2, files_without_row=1 + 1 + 3)


def test_what_is_recorded_of_it_names_nobody(app: str) -> None:
    found = dataclasses.asdict(cross_check(app, clips(range(10)), UPLOADS))
    assert all(isinstance(value, int) for value in found.values())


def test_a_database_without_the_table_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(DatabaseError, match=r"laughter_detections.*42P01"):
        cross_check(cluster.url(cluster.empty()), {}, UPLOADS)
