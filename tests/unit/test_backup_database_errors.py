"""What is said when the database cannot be dumped: what is wrong and what helps, and never a password or a row."""

from __future__ import annotations

from pathlib import Path

import pytest
from gigglekit.backup import postgresql
from gigglekit.backup.complaints import explained
from gigglekit.backup.database import DatabaseError, dump
from gigglekit.backup.login import login, server

from tests.unit import postgres
from tests.unit.postgres import PASSWORD, Cluster
from tests.unit.test_backup_database import ID, KEY, SCHEMAS, Store

WRONG = "s3cr@t: \\wrong%"


def refused(url: str, schemas: tuple[str, ...] = SCHEMAS, program: str = "") -> str:
    store = Store()
    with pytest.raises(DatabaseError) as caught:
        dump(url, program=program, schemas=list(schemas), key=KEY, dump_id=ID, sink=store.put)
    assert store.objects == []
    text = str(caught.value)
    assert not any(secret in text for secret in (PASSWORD, WRONG, "s3cr", "pl4nted"))
    assert caught.value.__cause__ is None
    return text


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> str:
    """The app's database; its name."""
    return cluster.app()


def test_a_wrong_password(cluster: Cluster, app: str) -> None:
    assert "refuses the user or the password" in refused(cluster.url(app, app, WRONG))


def test_a_password_with_every_odd_character_works(cluster: Cluster, app: str) -> None:
    store = Store()
    dump(cluster.url(app, app), schemas=list(SCHEMAS), key=KEY, dump_id=ID, sink=store.put)
    assert len(store.objects) == 1


def test_a_schema_that_is_not_there(cluster: Cluster, app: str) -> None:
    assert "has no schema nowhere, " in refused(cluster.url(app, app), ("public", "nowhere"))


def test_tables_that_may_not_be_read(cluster: Cluster, app: str) -> None:
    postgres.execute(cluster.url(app), "CREATE SCHEMA closed; CREATE SCHEMA ajar; CREATE TABLE ajar.shut AS SELECT 1 AS a")
    postgres.execute(cluster.url(app), f"GRANT USAGE ON SCHEMA ajar TO {app}")
    assert "may not read closed, ajar.shut" in refused(cluster.url(app, app), ("closed", "ajar"))


def test_names_in_the_database_are_told_without_what_a_terminal_obeys(cluster: Cluster, app: str) -> None:
    postgres.execute(cluster.url(app), 'CREATE SCHEMA odd; CREATE TABLE odd."\n\x1b]0;owned\x07\u202e" AS SELECT 1 AS a')
    postgres.execute(cluster.url(app), f"GRANT USAGE ON SCHEMA odd TO {app}")
    said = refused(cluster.url(app, app), ("odd",))
    assert "may not read odd.??]0;owned??, so" in said
    assert said.isprintable()
    assert str(explained("ERROR:  42501: permission denied for \x1b[2J", server(SUPABASE), "It could not be dumped")).isprintable()


def test_rows_that_are_hidden(cluster: Cluster) -> None:
    name = cluster.app()
    postgres.execute(cluster.admin, f"ALTER ROLE {name} NOBYPASSRLS")
    postgres.execute(cluster.url(name), "ALTER TABLE public.users FORCE ROW LEVEL SECURITY")
    assert "hides rows of public.users from the account" in refused(cluster.url(name, name))


def test_a_database_that_does_not_answer() -> None:
    assert "nothing answers there" in refused("postgresql://owner:s3cr%40t@127.0.0.1:1/postgres")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("not an address s3cr", "none that PostgreSQL understands"),
        ("postgresql://owner:s3cr%4@host/x", "none that PostgreSQL understands"),
        ("postgresql://owner:s3cr@host/x?nonsense=1", "none that PostgreSQL understands"),
        ("postgresql:///x?service=s3cr", "names a service"),
        ("postgresql://owner:aa@s3cr@127.0.0.1:1/x", "written %40"),
        ("postgresql://owner@h:s3cr@127.0.0.1:1/x", "written %40"),
        ("postgresql://owner:s3cr@host/x?application_name=a%0Apassword", "characters that cannot be printed"),
        ("postgresql://owner:s3cr%0A@host/x", "has a line's end"),
        ("postgresql://postgres.p:s3cr@aws-0-eu-central-1.pooler.supabase.com:6543/postgres", "session pooler"),
    ],
)
def test_an_address_that_cannot_be_right(url: str, said: str) -> None:
    assert said in refused(url)


def fake(folder: Path, version: str) -> str:
    path = folder / "pg_dump"
    path.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    path.chmod(0o755)
    return str(path)


def test_a_pg_dump_older_than_the_server(cluster: Cluster, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(cluster.url(app, app), program=fake(tmp_path, "9.6"))
    assert "pg_dump on this machine is of version 9," in said
    assert "Install postgresql-client-" in said
    assert "giggles:backup:database:pg_dump" in said
    older = tmp_path / "lib/9/bin"
    older.mkdir(parents=True)
    fake(older, "9.6")
    monkeypatch.setattr(postgresql, "FOLDERS", tmp_path / "lib")
    assert "pg_dump on this machine is of version 9," in refused(cluster.url(app, app))
    monkeypatch.setattr(postgresql, "FOLDERS", tmp_path / "nothing")
    assert "Install it: apt-get install --no-install-recommends postgresql-client" in refused(cluster.url(app, app))
    assert "no program that can be run" in refused(cluster.url(app, app), program=str(tmp_path / "none"))


SUPABASE = "postgresql://postgres:s3cr@db.abcdefgh.supabase.co:5432/postgres"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('could not translate host name "db.abcdefgh.supabase.co" to address: No address associated with hostname', "IPv6 only"),
        ("connection to server at ... failed: Network is unreachable\n\tIs the server running", "session pooler's address"),
        ("FATAL:  Tenant or user not found", "knows no such project"),
        ("FATAL: MaxClientsInSessionMode: max clients reached", "no connection left"),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "app", database "app", SSL encryption\n'
            'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "app", database "app", no encryption',
            "Correct its pg_hba.conf",
        ),
        (
            "pg_dump: detail: Error message from server: FATAL:  terminating connection due to administrator command\n"
            "SSL connection has been closed unexpectedly",
            "it ended the connection",
        ),
        ("pg_dump: detail: Error message from server: SSL SYSCALL error: EOF detected", "it ended the connection"),
        ("failed: SSL error: certificate verify failed", "Check sslmode and sslrootcert"),
        ("failed: server does not support SSL, but SSL was required", "Check sslmode and sslrootcert"),
        ("pg_dump: error: query failed: ERROR:  permission denied for table secret_things", "permission denied for table secret_things"),
        ("pg_dump: error: aborting\npg_dump: detail: server version: 17.4; pg_dump version: 15.18", "postgresql-client-17"),
        ("pg_restore: error: unsupported version (1.16) in file header", "newer pg_dump"),
        (
            "psql:<stdin>:9: ERROR:  23505: duplicate key\nDETAIL:  Key (email)=(a@example.test)\nTABLE NAME:  users",
            "SQLSTATE 23505, table users",
        ),
        ('ERROR:  22P02: invalid input syntax for type uuid: "a@example.test"', "SQLSTATE 22P02"),
        ('ERROR:  42601: syntax error at or near "a@example.test"', "SQLSTATE 42601"),
        ("something with a@example.test and postgresql://postgres:s3cr@x", "no reason that can be repeated"),
    ],
)
def test_what_programs_say_is_explained_without_what_they_quote(words: str, said: str) -> None:
    text = str(explained(words, server(SUPABASE), "It could not be dumped"))
    assert said in text
    assert not any(secret in text for secret in ("s3cr", "@example.test", "://"))


def test_options_of_the_address_are_kept_and_the_password_is_apart() -> None:
    where = server("postgresql://us%40er:s3%3Acr@h1:6000/d%20b?sslmode=verify-full&sslrootcert=/x&connect_timeout=3")
    assert "s3" not in repr(where)
    with login(where) as (environment, (services, passwords)):
        said = Path(f"/proc/self/fd/{services}").read_text()
        assert {"host=h1", "port=6000", "user=us@er", "dbname=d b", "sslmode=verify-full", "sslrootcert=/x", "connect_timeout=3"} <= set(
            said.splitlines()
        )
        assert "s3" not in said
        assert Path(f"/proc/self/fd/{passwords}").read_text() == "*:*:*:*:s3\\:cr\n"
        assert not any("s3" in value for value in environment.values())
