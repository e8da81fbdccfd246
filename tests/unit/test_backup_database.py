"""A dump holds the whole database, and a restore brings back all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from gigglekit.backup import loading, names, snapshot
from gigglekit.backup.conversation import Conversation, script_header
from gigglekit.backup.database import DatabaseError, Dump, dump, restore
from gigglekit.backup.errors import DamagedError
from gigglekit.backup.login import server
from gigglekit.backup.names import dump_context
from gigglekit.crypto import chunked

from tests.unit import postgres
from tests.unit.postgres import PASSWORD, Cluster

ID, OTHER_ID = "ab" * 16, "cd" * 16
KEY = b"k" * 32
SCHEMAS = ("public", "auth")
MEGABYTES = 1 << 20


class Store:
    """Takes what is sent, whole or not at all, as a bucket does."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.sent = 0

    def put(self, chunks: Iterable[bytes]) -> int:
        taken = []
        for chunk in chunks:
            self.sent += len(chunk)
            taken.append(chunk)
        self.objects.append(b"".join(taken))
        return len(self.objects[-1])


def dumped(url: str, schemas: Iterable[str] = SCHEMAS, dump_id: str = ID) -> tuple[Dump, bytes]:
    store = Store()
    made = dump(url, schemas=list(schemas), key=KEY, dump_id=dump_id, sink=store.put)
    (content,) = store.objects
    return made, content


def pieces(content: bytes, size: int = 5_000) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


def load(url: str, content: bytes, **options: object) -> loading.Restored:
    return restore(url, pieces(content), key=KEY, dump_id=ID, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> str:
    """The app's database with 50 users; its address as the app has it."""
    name = cluster.app()
    postgres.fill(cluster.url(name))
    return cluster.url(name, name)


@pytest.fixture(scope="module")
def good(app: str) -> bytes:
    """A dump of it."""
    return dumped(app)[1]


@pytest.fixture
def small_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the rows of a small dump come after its table of contents was read, as those of a large one do."""
    monkeypatch.setattr(loading, "_HEAD_BYTES", 1)


@pytest.fixture
def target(cluster: Cluster) -> Iterator[str]:
    """An empty database; its address."""
    name = cluster.empty()
    yield cluster.url(name)
    cluster.drop(name)


# --- all of it ----------------------------------------------------------------------------------------------------------


def test_a_round_trip_brings_back_rows_and_definitions(app: str, target: str) -> None:
    made, content = dumped(app)
    restored = load(target, content)
    assert postgres.content(target) == postgres.content(app)
    assert restored.tables == {
        "auth.users": 50,
        "public.users": 50,
        "public.limitless_keys": 50,
        "public.audio_segments": 50,
        "public.laughter_detections": 200,
        "public.processing_logs": 50,
    }
    assert made.id == ID
    assert made.size == len(content)
    assert made.server.split(".")[0].isdecimal()


def test_row_level_security_holds_after_a_restore(app: str, good: bytes, target: str) -> None:
    load(target, good)
    seen = {}
    for url in (app, target):
        with psycopg.connect(url) as connection:
            if url == target:
                connection.execute("GRANT USAGE ON SCHEMA public, auth TO authenticated")
                connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO authenticated")
            claims = f'{{"sub": "{postgres.user_id(7)}"}}'
            connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
            connection.execute("SET LOCAL ROLE authenticated")
            seen[url] = connection.execute("SELECT DISTINCT user_id::text FROM public.laughter_detections").fetchall()
    assert seen[app] == seen[target] == [(postgres.user_id(7),)]


def test_only_the_schemas_asked_for_are_dumped(cluster: Cluster, target: str) -> None:
    url = cluster.url(cluster.empty())
    postgres.execute(
        url, 'CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 1 AS a; CREATE SCHEMA "o_e"; CREATE TABLE o_e.t AS SELECT 2 AS a'
    )
    postgres.execute(url, 'CREATE SCHEMA "T w*"; CREATE TABLE "T w*".t AS SELECT 3 AS a')
    assert load(target, dumped(url, ["o_e"])[1]).tables == {"o_e.t": 1}
    assert postgres.rows(target, "SELECT nspname FROM pg_namespace WHERE nspname IN ('one', 'T w*')") == []


def test_sequences_go_on_where_they_were(cluster: Cluster, target: str) -> None:
    url = cluster.url(cluster.empty())
    postgres.execute(url, "CREATE TABLE public.t (id bigserial PRIMARY KEY); INSERT INTO public.t SELECT FROM generate_series(1, 7)")
    content = dumped(url, ["public"])[1]
    load(target, content)
    postgres.execute(target, "INSERT INTO public.t DEFAULT VALUES")
    load(target, content, clean=True)
    postgres.execute(target, "INSERT INTO public.t DEFAULT VALUES")
    assert postgres.rows(target, "SELECT max(id), count(*) FROM public.t") == [(8, 8)]


@pytest.mark.parametrize(
    ("owned", "number"), [(True, "bigserial"), (True, "bigint GENERATED BY DEFAULT AS IDENTITY"), (False, "bigserial")]
)
def test_a_restore_that_fails_leaves_sequences_where_they_were(cluster: Cluster, owned: bool, number: str) -> None:
    """PostgreSQL takes rows back and no setval: with the dump's numbers beside the rows of now, the next row has a number that is taken."""
    name = cluster.app()
    url, admin = cluster.url(name, name), cluster.url(name)
    postgres.execute(
        url, f"CREATE TABLE public.t (id {number} PRIMARY KEY, user_id text); INSERT INTO public.t SELECT FROM generate_series(1, 7)"
    )
    if not owned:  # as Supabase's schema auth is
        postgres.execute(
            admin,
            f"ALTER TABLE public.t OWNER TO postgres; GRANT ALL ON public.t TO {name}; GRANT ALL ON SEQUENCE public.t_id_seq TO {name};"
            f"GRANT SET ON PARAMETER session_replication_role TO {name}",
        )
    content = dumped(url, ["public"])[1]
    postgres.execute(url, "INSERT INTO public.t (user_id) SELECT 'somebody' FROM generate_series(1, 7)")
    before = postgres.content(url)

    def fails(_user: str) -> bool:
        raise ZeroDivisionError

    filled = dumped(url, ["public"])[1]
    postgres.execute(admin, "SELECT setval('public.t_id_seq', 20)")
    with pytest.raises(ZeroDivisionError):
        load(url, filled, clean=True, forget=fails)
    assert postgres.content(url) == before
    assert postgres.rows(admin, "SELECT last_value, is_called FROM public.t_id_seq") == [(20, True)]
    load(url, content, clean=True)
    postgres.execute(url, "INSERT INTO public.t DEFAULT VALUES")
    assert postgres.rows(url, "SELECT max(id), count(*) FROM public.t") == [(8, 8)], "the control: else it is the dump's"


# --- into what is there ---------------------------------------------------------------------------------------------------


def test_a_database_with_rows_is_refused_and_stays(cluster: Cluster, good: bytes) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.fill(url, users=1)
    before = postgres.content(url)
    with pytest.raises(DatabaseError, match=r"is not empty: auth\.users, .*clean=True"):
        load(url, good)
    assert postgres.content(url) == before


@pytest.mark.parametrize("filled", [False, True])
def test_the_apps_own_account_restores_into_the_apps_schema(cluster: Cluster, app: str, good: bytes, filled: bool) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    if filled:
        postgres.fill(url, users=3)
        postgres.execute(url, "UPDATE public.users SET timezone = 'Europe/Berlin'; CREATE TABLE public.others AS SELECT 1 AS a")
    grants = "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'public'"
    grants += " ORDER BY 1, 2, 3"
    granted = postgres.rows(url, grants)
    load(url, good, clean=filled)
    found = postgres.content(url)
    if filled:
        assert found.pop("public.others") == [("(1)",)], "a table that is not in the dump was touched"
        postgres.execute(url, "DROP TABLE public.others")
        found = postgres.content(url)
        granted = [row for row in granted if row[0] != "others"]
    assert found == postgres.content(app), "rows, or keys and triggers that were put to sleep, are not as they were"
    assert postgres.rows(url, grants) == granted
    postgres.execute(url, "INSERT INTO auth.users (email) VALUES ('new@example.test')")
    assert postgres.rows(url, "SELECT mfa_enabled FROM public.users WHERE email = 'new@example.test'") == [(True,)], "triggers stay asleep"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        postgres.execute(url, "INSERT INTO public.users (id, email) VALUES (gen_random_uuid(), 'nobody@example.test')")


def test_a_table_that_keeps_the_dumps_from_being_emptied_is_named_and_what_helps_does(cluster: Cluster, good: bytes) -> None:
    """As after a migration that made a table, whose database is put back to what it was before."""
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.execute(url, "CREATE TABLE public.newer (user_id uuid REFERENCES public.users)")
    before = postgres.content(url)
    with pytest.raises(DatabaseError, match=r'Table "newer" references "users".*DROP TABLE') as refused:
        load(url, good, clean=True)
    assert "rows first" not in str(refused.value), "it has none"
    assert postgres.content(url) == before
    postgres.execute(url, "DROP TABLE public.newer")
    load(url, good, clean=True)


@pytest.mark.parametrize(
    "thing",
    [
        "STATISTICS public.s ON a, b FROM public.t",
        "COLLATION public.c (locale = 'C')",
        "TEXT SEARCH CONFIGURATION public.f (COPY = pg_catalog.simple)",
        "TEXT SEARCH DICTIONARY public.d (TEMPLATE = pg_catalog.simple)",
    ],
)
def test_what_is_there_already_is_not_made_again(cluster: Cluster, target: str, thing: str) -> None:
    url = cluster.url(cluster.empty())
    postgres.execute(url, f"CREATE TABLE public.t AS SELECT 1 AS a, 2 AS b; CREATE {thing}")
    content = dumped(url, ["public"])[1]
    assert load(url, content, clean=True).tables == {"public.t": 1}
    load(target, content)
    things = """
        WITH p AS (SELECT 'public'::regnamespace AS oid)
        SELECT 1 FROM pg_statistic_ext JOIN p ON p.oid = stxnamespace UNION ALL SELECT 1 FROM pg_collation JOIN p ON p.oid = collnamespace
        UNION ALL SELECT 1 FROM pg_ts_config JOIN p ON p.oid = cfgnamespace
        UNION ALL SELECT 1 FROM pg_ts_dict JOIN p ON p.oid = dictnamespace
    """
    assert postgres.rows(target, things) == [(1,)], "the control: where it is not, it is made"


def test_triggers_keep_whether_they_fire(cluster: Cluster, good: bytes) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.execute(url, "ALTER TABLE auth.users DISABLE TRIGGER add_profile_of_new_account")
    load(url, good)
    assert postgres.rows(url, "SELECT tgenabled::text FROM pg_trigger WHERE NOT tgisinternal") == [("D",)]


class Project:
    """A new Supabase project as far as this needs it: auth is somebody else's, has its tables, and an account of the owner's."""

    def __init__(self, cluster: Cluster, silences: bool) -> None:
        self.name = cluster.app()
        self.url = cluster.url(self.name, self.name)
        self.admin = cluster.url(self.name)
        self.owner = f"auth_admin_{self.name}"
        postgres.execute(
            self.admin,
            f"CREATE ROLE {self.owner} NOLOGIN; ALTER SCHEMA auth OWNER TO {self.owner}; ALTER TABLE auth.users OWNER TO {self.owner};"
            f"CREATE TABLE auth.schema_migrations AS SELECT 'new' AS version; ALTER TABLE auth.schema_migrations OWNER TO {self.owner};"
            f"ALTER TABLE auth.users ADD COLUMN newer text DEFAULT 'x';"
            f"GRANT USAGE ON SCHEMA auth TO {self.name}; GRANT ALL ON ALL TABLES IN SCHEMA auth TO {self.name};"
            + (f"GRANT SET ON PARAMETER session_replication_role TO {self.name};" if silences else ""),
        )


@pytest.fixture
def from_supabase(cluster: Cluster) -> bytes:
    """A dump of an older project's database."""
    name = cluster.app()
    postgres.fill(cluster.url(name), users=5)
    postgres.execute(cluster.url(name), "CREATE TABLE auth.schema_migrations AS SELECT 'old' AS version")
    return dumped(cluster.url(name))[1]


def test_accounts_return_into_a_schema_auth_that_is_somebody_elses(cluster: Cluster, from_supabase: bytes) -> None:
    project = Project(cluster, silences=True)
    assert load(project.url, from_supabase).tables["auth.users"] == 5
    assert postgres.rows(project.admin, "SELECT count(*), min(newer) FROM auth.users JOIN public.users USING (id)") == [(5, "x")]
    assert postgres.rows(project.admin, "SELECT version FROM auth.schema_migrations") == [("new",)]
    postgres.execute(project.url, "INSERT INTO auth.users (email) VALUES ('new@example.test')")
    assert postgres.rows(project.admin, "SELECT count(*) FROM public.users") == [(6,)]


def test_without_the_right_to_silence_triggers_nothing_is_loaded(cluster: Cluster, from_supabase: bytes) -> None:
    project = Project(cluster, silences=False)
    before = postgres.content(project.admin)
    with pytest.raises(DatabaseError, match=r"session_replication_role.*42501"):
        load(project.url, from_supabase)
    assert postgres.content(project.admin) == before


def test_roles_of_policies_are_named_or_made(cluster: Cluster, target: str) -> None:
    url = cluster.url(cluster.empty())
    postgres.execute(cluster.admin, 'CREATE ROLE "of policy, one"; CREATE ROLE of_policy_two')
    postgres.execute(
        url,
        'CREATE TABLE public.t (a int); CREATE POLICY p ON public.t TO "of policy, one", of_policy_two USING (true);'
        "CREATE POLICY q ON public.t FOR SELECT USING (a > 0)",
    )
    content = dumped(url, ["public"])[1]
    postgres.execute(url, "DROP TABLE public.t")
    postgres.execute(cluster.admin, 'DROP ROLE "of policy, one"; DROP ROLE of_policy_two')
    with pytest.raises(DatabaseError, match=r"roles of policy, one, of_policy_two, which"):
        load(target, content)
    load(target, content, make_roles=target)
    assert postgres.rows(target, "SELECT count(*) FROM pg_policies") == [(2,)]


# --- or nothing -----------------------------------------------------------------------------------------------------------


def spoiled(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what a bucket might return instead of a dump."""
    whole = chunked.CHUNK_BYTES + chunked.TAG_BYTES
    edges = range(chunked.HEADER_BYTES, len(content), whole)
    # All edges of a small one, and of a long one the first, the last, and some between.
    some = {*edges[:3], *edges[:: max(1, len(edges) // 8)], *edges[-3:]}
    cuts = {0, 1, 55, *some, *(edge + 1 for edge in some), len(content) - 1, len(content) - 16, len(content) - 17}
    cuts |= set(range(0, len(content), max(1, len(content) // 20)))
    for cut in sorted(cut for cut in cuts if cut < len(content)):
        yield f"cut off at {cut}", content[:cut]
    for at in sorted({0, 24, 60, len(content) - 1, len(content) - 16, *range(5, len(content), max(1, len(content) // 20))}):
        yield f"flipped at {at}", content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    yield "longer", content + b"\0"
    yield "twice", content * 2
    if len(content) > chunked.HEADER_BYTES + 2 * whole:
        first, second = (content[edge : edge + whole] for edge in edges[:2])
        yield "swapped", content[: edges[0]] + second + first + content[edges[2] :]
    plain = chunked.decrypt(KEY, dump_context(ID), content)
    yield "another's", chunked.encrypt(KEY, dump_context(OTHER_ID), plain)
    yield "by another key", chunked.encrypt(b"x" * 32, dump_context(ID), plain)


def padded(content: bytes, size: int = 0) -> bytes:
    """Return a dump that has all its rows before its last chunk: pg_restore does not read what follows them."""
    plain = chunked.decrypt(KEY, dump_context(ID), content)
    size = size or -len(plain) % chunked.CHUNK_BYTES
    return chunked.encrypt(KEY, dump_context(ID), plain + bytes(size))


@pytest.mark.parametrize("kind", ["as it is", "with an empty last chunk", "with a megabyte after the rows"])
@pytest.mark.usefixtures("small_head")
def test_a_damaged_dump_changes_nothing(app: str, good: bytes, target: str, kind: str) -> None:
    content = {"as it is": good, "with an empty last chunk": padded(good), "with a megabyte after the rows": padded(good, MEGABYTES)}[kind]
    before = postgres.content(target)
    tried = 0
    for how, damaged in spoiled(content):
        with pytest.raises(DamagedError) as refused:
            load(target, damaged)
        assert refused.value.name == f"database/{ID}", how
        assert postgres.content(target) == before, how
        tried += 1
    assert tried > 30
    load(target, content)  # the control: it is the damage that kept it out
    assert postgres.content(target) == postgres.content(app)


@pytest.mark.usefixtures("small_head")
def test_a_damaged_dump_does_not_replace_what_is_there(cluster: Cluster, good: bytes) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.fill(url, users=2)
    before = postgres.content(url)
    late = padded(good)
    for damaged in (good[:-1], late[:-16], late[: len(late) // 2]):
        with pytest.raises(DamagedError):
            load(url, damaged, clean=True)
        assert postgres.content(url) == before
    load(url, late, clean=True)
    assert postgres.content(url) != before


@pytest.mark.usefixtures("small_head")
def test_a_source_that_breaks_off_changes_nothing(good: bytes, target: str) -> None:
    before = postgres.content(target)

    def broken() -> Iterator[bytes]:
        yield good[:-5]
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        restore(target, broken(), key=KEY, dump_id=ID)
    assert postgres.content(target) == before


@pytest.mark.usefixtures("small_head")
def test_a_restore_that_is_killed_changes_nothing(good: bytes, target: str) -> None:
    before = postgres.content(target)

    def deadly() -> Iterator[bytes]:
        yield from pieces(padded(good, MEGABYTES))
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            restore(target, deadly(), key=KEY, dump_id=ID)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    _wait_until_alone(target)
    assert postgres.content(target) == before
    load(target, good)


def _wait_until_alone(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        for _ in range(2000):
            if connection.execute(others).fetchone() == (0,):
                return
            connection.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("a server's process stays after psql went")


def test_rows_that_do_not_fit_change_nothing_and_are_not_told(cluster: Cluster, good: bytes) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    postgres.execute(url, "ALTER TABLE public.users ADD CHECK (email <> 'user42@example.test')")
    before = postgres.content(url)
    with pytest.raises(DatabaseError, match=r"SQLSTATE 23514, schema public, table users.*Nothing in it was changed\.$") as refused:
        load(url, good)
    assert "example.test" not in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert postgres.content(url) == before


def test_what_fails_while_rows_are_made_to_last_does_not_say_that_nothing_was_changed(cluster: Cluster, target: str) -> None:
    url = cluster.url(cluster.empty())
    postgres.execute(
        url,
        "CREATE TABLE public.t AS SELECT 'x'::text AS user_id;"
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''23514''; END';"
        "CREATE CONSTRAINT TRIGGER late AFTER DELETE ON public.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()",
    )
    with pytest.raises(DatabaseError, match="may be there or not") as refused:
        load(target, dumped(url, ["public"])[1], forget=lambda user: user == "x")
    assert "Nothing in it was changed" not in str(refused.value)


def test_no_command_of_a_dump_runs_here(cluster: Cluster, target: str, tmp_path: Path) -> None:
    url = cluster.url(cluster.empty())
    proof = tmp_path / "ran"
    postgres.execute(url, f'CREATE TABLE public."t\n\\! touch {proof}\n" (a int)')
    content = dumped(url, ["public"])[1]
    with contextlib.suppress(DatabaseError):
        load(target, content)
    assert not proof.exists()
    assert not script_refused(b"--\n\n\\restrict abc\n\nSET row_security = off;\n")
    assert script_refused(b"--\n\nSET row_security = off;\n")


def test_a_dump_cannot_say_in_the_place_of_pg_restore_that_commands_are_kept_from_running() -> None:
    """Of a pg_restore that is too old for it, all that follows its own first lines is for whoever rules the database to choose."""
    first = b"--\n-- PostgreSQL database dump\n--\n\n"
    version = b"-- Dumped from database version 15.8\n"
    rest = b"\nSET statement_timeout = 0;\nSET row_security = off;\n"
    body = b"\nCREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$SELECT '\n\\restrict abc\n'$$;\n"
    assert not script_refused(first + b"\\restrict abc\n\n" + version + rest + body), "the control"
    assert script_refused(first + version + rest + body)
    assert script_refused(first + version + b"\\restrict abc\n" + rest)


def script_refused(header: bytes) -> bool:
    try:
        script_header(header, 150000)
    except DatabaseError:
        return True
    return False


@pytest.mark.parametrize(("version", "stays"), [(150018, False), (170004, True)])
def test_a_setting_that_older_servers_do_not_know_is_left_out(version: int, stays: bool) -> None:
    header = b"\n\\restrict abc\n\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET row_security = off;\n"
    assert (b"transaction_timeout" in script_header(header, version)) is stays
    assert b"SET lock_timeout = 0;\n" in script_header(header, version)


def test_an_answer_whose_last_byte_comes_late_is_not_taken_for_a_part_of_the_next() -> None:
    psql = """
import sys, time
for line in sys.stdin.buffer:
    if line.startswith(b"SELECT 'giggles-"):
        sys.stdout.buffer.write(line.split(b"'")[1])
        sys.stdout.buffer.flush()
        time.sleep(0.3)
        sys.stdout.buffer.write(b"\\0")
    elif line.startswith(b"SELECT"):
        sys.stdout.buffer.write(b"7\\0")
    sys.stdout.buffer.flush()
"""
    with subprocess.Popen([sys.executable, "-c", psql], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            talk = Conversation(process, -1, server("postgresql://h/d"), time.monotonic() + 60)
            assert [talk.ask("SELECT 7", 1) for _ in range(2)] == [[("7",)]] * 2
        finally:
            process.kill()


def test_no_memory_that_holds_rows_stays_open(good: bytes, target: str) -> None:
    def held() -> int:
        return sum("memfd:giggles" in os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists())

    before = held()
    load(target, good)
    assert held() == before


@pytest.mark.parametrize(("said", "noted"), [("15.9 (Debian)", "15.9"), ("15.9\u00e9\n", "15.9"), ("17" * 200, None), ("", None)])
def test_a_server_cannot_make_a_snapshot_unreadable_by_what_it_calls_its_version(
    app: str, monkeypatch: pytest.MonkeyPatch, said: str, noted: str | None
) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "parameter_status", lambda self, name: said)
    made = dumped(app)[0]
    name = names.new_snapshot(1_800_000_000)
    text = snapshot.encode(name, snapshot.Head(name.written, 1, "", made, ()), b"", KEY)
    size = snapshot.head_size(text[: snapshot.FIRST_BYTES])
    read = snapshot.decode_head(name, text[snapshot.FIRST_BYTES :][:size], KEY)
    assert read.dump == made
    monkeypatch.undo()
    assert made.server == (noted or dumped(app)[0].server.split(".")[0])


# --- a dump that fails ----------------------------------------------------------------------------------------------------


def children(name: str) -> list[int]:
    """Return this process's children that run a program."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        # A thread that has just ended leaves its children to another one.
        pids: list[str] = []
        with contextlib.suppress(OSError):
            pids = (task / "children").read_text().split()
        for pid in pids:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> str:
    """A database whose dump does not fit into pipes and buffers: 100 MB of rows."""
    url = cluster.url(cluster.empty())
    postgres.execute(
        url,
        "CREATE TABLE public.t AS SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 32) j) AS text"
        " FROM generate_series(1, 100000) i",
    )
    return url


def _kill_pg_dump(_url: str) -> None:
    (pid,) = children("pg_dump")
    os.kill(pid, signal.SIGKILL)


def _end_its_connection(url: str) -> None:
    postgres.execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'giggles-backup'")


@pytest.mark.parametrize(("strike", "said"), [(_kill_pg_dump, "ended by signal 9"), (_end_its_connection, "ended the connection")])
def test_a_dump_that_breaks_off_leaves_no_object(large: str, strike: Callable[[str], None], said: str) -> None:
    store = Store()

    def put(chunks: Iterable[bytes]) -> int:
        def struck() -> Iterator[bytes]:
            for number, chunk in enumerate(chunks):
                yield chunk
                if number == 3:
                    strike(large)

        return store.put(struck())

    with pytest.raises(DatabaseError, match=said):
        dump(large, schemas=["public"], key=KEY, dump_id=ID, sink=put)
    assert store.sent > 0
    assert store.objects == []
    assert children("pg_dump") == []


def test_a_sink_that_fails_or_stops_early_leaves_no_pg_dump(large: str) -> None:
    def failing(chunks: Iterable[bytes]) -> int:
        next(iter(chunks))
        raise OSError("no bucket")

    with pytest.raises(OSError, match="no bucket"):
        dump(large, schemas=["public"], key=KEY, dump_id=ID, sink=failing)
    assert children("pg_dump") == []
    with pytest.raises(DatabaseError, match="not used"):
        dump(large, schemas=["public"], key=KEY, dump_id=ID, sink=lambda chunks: len(next(iter(chunks))))
    assert children("pg_dump") == []


def test_a_dump_that_gets_nothing_ends(app: str) -> None:
    store = Store()
    with psycopg.connect(app) as connection:
        connection.execute("LOCK TABLE public.users IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError, match="got nothing from the database"):
            dump(app, schemas=list(SCHEMAS), key=KEY, dump_id=ID, sink=store.put, stall_seconds=0.5)
    assert store.objects == []
    assert children("pg_dump") == []


def test_a_dump_has_an_end(large: str) -> None:
    store = Store()
    with pytest.raises(DatabaseError, match="took longer than it may"):
        dump(large, schemas=["public"], key=KEY, dump_id=ID, sink=store.put, seconds=0.0)
    assert store.objects == []


# --- memory ---------------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_database(large: str, target: str, tmp_path: Path) -> None:
    """Measured in a child, since the highest use of this process is that of all tests before."""
    path = tmp_path / "dump"

    def put(chunks: Iterable[bytes]) -> int:
        with path.open("wb") as file:
            return sum(file.write(chunk) for chunk in chunks)

    def stored() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(MEGABYTES):
                yield piece

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            Path("/proc/self/clear_refs").write_text("5")
            before = _peak()
            made = dump(large, schemas=["public"], key=KEY, dump_id=ID, sink=put)
            rows = restore(target, stored(), key=KEY, dump_id=ID).tables["public.t"]
            os.write(writer, f"{made.size} {rows} {_peak() - before}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        size, rows, grown = map(int, file.read().split())
    os.waitpid(child, 0)
    assert rows == 100_000
    assert size > 40 * MEGABYTES, "less was dumped than would show"
    assert grown < 24 * MEGABYTES


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# --- the password ---------------------------------------------------------------------------------------------------------


def visible(secret: str) -> list[str]:
    """Return which programs show a secret in their arguments or environment, this one aside."""
    forms = {secret.encode(), quote(secret, safe="").encode(), quote(secret).encode()}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                content = (process / kind).read_bytes()
                if process.name != str(os.getpid()) and any(form in content for form in forms):
                    found.append(f"{(process / 'comm').read_text().strip()} {kind}")
    return found


def test_nobody_sees_the_password(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cluster.app()
    # More than fits into a pipe, so that pg_dump is there while it is looked at.
    postgres.execute(
        cluster.url(name, name),
        "CREATE TABLE public.more AS SELECT md5(i::text) || md5((-i)::text) AS a FROM generate_series(1, 100000) i",
    )
    monkeypatch.setenv("PGPASSWORD", "of-somebody-else")
    looked: list[str] = []

    def look(names: tuple[str, ...]) -> None:
        assert all(children(name) for name in names), "nobody was there to be looked at"
        assert visible("giggles-backup"), "the look does not see what is there"
        assert visible(PASSWORD) == []
        looked.extend(names)

    def put(chunks: Iterable[bytes]) -> int:
        parts = []
        for chunk in chunks:
            if not parts:
                look(("pg_dump",))
            parts.append(chunk)
        content.append(b"".join(parts))
        return len(content[0])

    content: list[bytes] = []
    dump(cluster.url(name, name), schemas=list(SCHEMAS), key=KEY, dump_id=ID, sink=put)

    def source() -> Iterator[bytes]:
        yield from pieces(padded(content[0], 4 * MEGABYTES), MEGABYTES)
        look(("psql",))

    restore(cluster.url(name, name), source(), key=KEY, dump_id=ID, clean=True)
    assert looked == ["pg_dump", "psql"]


def test_nothing_of_a_dump_lies_on_a_disk(app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written to any file by the processes that have a part in it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[str] = []
    done = threading.Event()

    def put(chunks: Iterable[bytes]) -> int:
        size = 0
        for chunk in chunks:
            for pid in (os.getpid(), *children("pg_dump")):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        flags = next(line for line in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().splitlines() if "flags" in line)
                        if int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR):
                            opened.append(os.readlink(link))
            size += len(chunk)
            done.set()
        return size

    inherited = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    dump(app, schemas=list(SCHEMAS), key=KEY, dump_id=ID, sink=put)
    assert done.is_set()
    assert before == resource.getrlimit(resource.RLIMIT_NOFILE)
    files = {path for path in opened if path.startswith("/") and not path.startswith(("/dev/null", "/memfd:"))}
    assert files - inherited == set()
    assert any(path.startswith("/memfd:") for path in opened), "the look sees nothing"
    assert list(tmp_path.iterdir()) == []
