"""What is said of the database never says its password, nor what is in its rows."""

from __future__ import annotations

import psycopg
import pytest
from gigglekit.vault.rows import Database, DatabaseError, _reason

URL = "postgresql://owner:s3cr%40t-password@db.example.test:5432/postgres"


def test_the_address_of_the_database_is_not_shown() -> None:
    database = Database(URL)
    assert "s3cr" not in f"{database!r} {database} {[database]}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "owner"\n'), "connection failed"),
        (psycopg.OperationalError("bad s3cr%40t-password"), "OperationalError"),
        (psycopg.OperationalError("bad s3cr@t-password"), "OperationalError"),
        (psycopg.OperationalError(f"cannot parse {URL}"), "OperationalError"),
        (psycopg.OperationalError(""), "OperationalError"),
        (psycopg.errors.UniqueViolation("Key (email)=(somebody@example.test) exists"), "SQLSTATE 23505"),
        (psycopg.ProgrammingError("somebody@example.test"), "ProgrammingError"),
        (psycopg.DataError("invalid input: somebody@example.test"), "DataError"),
    ],
)
def test_a_reason_quotes_neither_a_password_nor_a_value(error: Exception, said: str) -> None:
    reason = _reason(error, URL)
    assert said in reason
    assert not any(secret in reason for secret in ("s3cr", "somebody@example.test", "://"))
    assert len(reason) <= 160


def test_a_database_that_does_not_answer_is_an_error_without_its_password() -> None:
    database = Database("postgresql://owner:s3cr%40t-password@127.0.0.1:1/postgres?connect_timeout=2")
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1 does not answer") as refused:
        database.count("6f1c1b1e-1111-4222-8333-944445555666")
    assert "s3cr" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("url", ["not a url s3cr", "postgresql://owner:s3cr@[::1:5432/x", "postgresql://owner:s3cr@host:port/x"])
def test_an_address_that_is_none_is_an_error_without_it(url: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        Database(url).count("6f1c1b1e-1111-4222-8333-944445555666")
    assert "s3cr" not in str(refused.value)
