"""The second factor in a real PostgreSQL with the app's schema: who sees what, and that nobody else's policies are touched."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import psycopg
import pytest
from gigglekit.database_policies.errors import DatabaseError, UnreachableError
from gigglekit.database_policies.keeping import Policies
from gigglekit.database_policies.second_factor import FUNCTION, POLICY, TABLES, Choice, choice

from tests.unit.postgres import PASSWORD, Cluster, cluster, content, execute, fill, rows, user_id

# As in Supabase: closed by row level security without a policy, and not granted to users.
FACTORS = """
CREATE TYPE auth.factor_status AS ENUM ('unverified', 'verified');
CREATE TABLE auth.mfa_factors (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES auth.users (id)
    ON DELETE CASCADE, status auth.factor_status NOT NULL);
ALTER TABLE auth.mfa_factors ENABLE ROW LEVEL SECURITY;
"""
ENROLLED, STARTED, WITHOUT = user_id(0), user_id(1), user_id(2)
EVERYTHING = {**{f"policy on public.{table}": "made" for table in TABLES}, f"function public.{FUNCTION}": "made"}


class App:
    """The app's database, and what its users see in it."""

    def __init__(self, server: Cluster) -> None:
        self.server, self.name = server, server.app()
        self.admin = server.url(self.name)
        self.url = server.url(self.name, self.name)
        execute(self.url, FACTORS)
        fill(self.url, users=3, clips=2)
        execute(self.url, f"INSERT INTO auth.mfa_factors (user_id, status) VALUES ('{ENROLLED}', 'verified'), ('{STARTED}', 'unverified')")  # noqa: S608
        self.policies = Policies(self.url)

    @functools.cached_property
    def connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """Return one for what is taken back again."""
        return psycopg.connect(self.url)

    def as_user(self, user: str, aal: str | None, statement: str) -> list[tuple[object, ...]]:
        """Do something as a logged-in user, as PostgREST does."""
        claims = {"sub": user, "role": "authenticated"} | ({"aal": aal} if aal else {})
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
            connection.execute("SET LOCAL ROLE authenticated")
            done = connection.execute(statement)  # type: ignore[arg-type]
            return done.fetchall() if done.description else []

    def seen(self, user: str, aal: str | None) -> list[int]:
        """Return how many rows of each table a user sees."""
        return [len(self.as_user(user, aal, f"SELECT 1 FROM public.{table}")) for table in TABLES]  # noqa: S608

    def may(self, role: str, claims: dict[str, str], table: str, row: str, whose: str) -> list[str]:
        """Return what somebody may do with one row: each is tried, and taken back."""
        statements = {
            "select": f"SELECT 1 FROM public.{table} WHERE {whose}",  # noqa: S608
            "update": f"UPDATE public.{table} SET created_at = created_at WHERE {whose}",  # noqa: S608
            "delete": f"DELETE FROM public.{table} WHERE {whose}",  # noqa: S608
            # Who may insert is told only that the row is there already.
            "insert": f"INSERT INTO public.{table} SELECT (jsonb_populate_record(NULL::public.{table}, %(row)s::jsonb)).*",
        }
        done = []
        for name, statement in statements.items():
            self.connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
            self.connection.execute(f"SET LOCAL ROLE {role}")  # type: ignore[arg-type]
            try:
                allowed = self.connection.execute(statement, {"row": row}).rowcount > 0  # type: ignore[arg-type]
            except psycopg.errors.UniqueViolation:
                allowed = True
            except psycopg.errors.InsufficientPrivilege:
                allowed = False
            self.connection.rollback()
            if allowed:
                done.append(name)
        return done


ALL, NONE = [1, 1, 1, 2, 1], [0, 0, 0, 0, 0]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def app(server: Cluster) -> Iterator[App]:
    made = App(server)
    yield made
    server.drop(made.name)


@pytest.mark.parametrize(
    ("enforced", "user", "aal", "sees"),
    [
        ("off", ENROLLED, "aal1", ALL),
        ("enrolled", ENROLLED, "aal2", ALL),
        ("enrolled", ENROLLED, "aal1", NONE),
        ("enrolled", ENROLLED, None, NONE),
        ("enrolled", ENROLLED, "AAL2", NONE),
        ("enrolled", STARTED, "aal1", ALL),
        ("enrolled", WITHOUT, "aal1", ALL),
        ("enrolled", WITHOUT, None, ALL),
        ("all", ENROLLED, "aal2", ALL),
        ("all", ENROLLED, "aal1", NONE),
        ("all", WITHOUT, "aal1", NONE),
        ("all", WITHOUT, None, NONE),
        ("all", STARTED, "aal2", ALL),
    ],
)
def test_who_sees_their_rows(app: App, enforced: Choice, user: str, aal: str | None, sees: list[int]) -> None:
    app.policies.bring(enforced)
    assert app.seen(user, aal) == sees


@pytest.mark.parametrize("enforced", ["enrolled", "all"])
def test_nothing_is_changed_either_without_it_and_the_service_role_is_not_bound(app: App, enforced: Choice) -> None:
    app.policies.bring(enforced)
    app.as_user(ENROLLED, "aal1", "UPDATE public.laughter_detections SET notes = 'x'")
    app.as_user(ENROLLED, "aal1", "DELETE FROM public.users")
    insert = f"INSERT INTO public.limitless_keys (user_id, encrypted_api_key) VALUES ('{ENROLLED}', 'k')"  # noqa: S608
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.as_user(ENROLLED, "aal1", insert)
    assert app.seen(ENROLLED, "aal2") == ALL
    app.as_user(ENROLLED, "aal2", insert)
    with psycopg.connect(app.url) as connection:
        connection.execute("SET LOCAL ROLE service_role")
        assert connection.execute("SELECT count(*) FROM public.users").fetchone() == (3,)


@pytest.mark.parametrize("enforced", ["off", "enrolled", "all"])
def test_what_everybody_may_do_in_every_table(app: App, enforced: Choice) -> None:
    app.policies.bring(enforced)
    everything = ["select", "update", "delete", "insert"]
    wrong = []
    for table in TABLES:
        own = "id" if table == "users" else "user_id"
        for user in (ENROLLED, STARTED, WITHOUT):
            whose = f"{own} = '{user}'"
            ((row,),) = rows(app.admin, f"SELECT to_jsonb(t)::text FROM public.{table} AS t WHERE {whose} LIMIT 1")  # noqa: S608
            logged_in = {"sub": user, "role": "authenticated"}
            stranger = {"sub": STARTED if user == ENROLLED else ENROLLED, "role": "authenticated", "aal": "aal2"}
            with_one_factor = enforced == "off" or (enforced == "enrolled" and user != ENROLLED)
            for role, claims, expected in (
                ("authenticated", {**logged_in, "aal": "aal2"}, everything),
                ("authenticated", {**logged_in, "aal": "aal1"}, everything if with_one_factor else []),
                ("authenticated", logged_in, everything if with_one_factor else []),
                ("authenticated", stranger, []),
                ("anon", {}, []),
                ("anon", {**logged_in, "aal": "aal2"}, []),
                ("service_role", {}, everything),
            ):
                found = app.may(role, claims, table, str(row), whose)
                if found != expected:
                    wrong.append(f"{table} of {user}: {role} with {claims} may {found} and not {expected}")
    assert wrong == []


@pytest.mark.parametrize("enforced", ["enrolled", "all"])
def test_it_never_opens_anything(app: App, enforced: Choice) -> None:
    app.policies.bring(enforced)
    assert app.seen("00000000-0000-4000-8000-00000000ffff", "aal2") == NONE
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.as_user(ENROLLED, "aal2", "SELECT * FROM auth.mfa_factors")
    with psycopg.connect(app.url) as connection:
        connection.execute("SET LOCAL ROLE anon")
        assert connection.execute("SELECT count(*) FROM public.users").fetchone() == (0,)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in ("off", "enrolled", "all") for b in ("off", "enrolled", "all")])
def test_from_each_setting_to_each_and_a_second_time_nothing_changes(app: App, before: Choice, after: Choice) -> None:
    bare = content(app.admin)
    app.policies.bring(before)
    announced = app.policies.look(after).changes
    assert app.policies.bring(after).changes == announced
    assert (announced == {}) is (before == after)
    assert app.policies.look(after).changes == {}
    assert app.policies.bring(after).changes == {}
    if after == "off":
        assert content(app.admin) == bare
    assert len(rows(app.admin, f"SELECT 1 FROM pg_policies WHERE policyname = '{POLICY}'")) == (0 if after == "off" else len(TABLES))  # noqa: S608


def test_a_look_changes_nothing(app: App) -> None:
    bare = content(app.admin)
    assert app.policies.look("enrolled").changes == EVERYTHING
    assert content(app.admin) == bare


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (f"DROP POLICY {POLICY} ON public.users", "policy on public.users"),
        (f"ALTER POLICY {POLICY} ON public.users USING (true)", "policy on public.users"),
        (f"ALTER POLICY {POLICY} ON public.users WITH CHECK (true)", "policy on public.users"),
        (f"ALTER POLICY {POLICY} ON public.users TO service_role", "policy on public.users"),
        (
            f"DROP POLICY {POLICY} ON public.users; CREATE POLICY {POLICY} ON public.users AS PERMISSIVE TO authenticated USING (true)",
            "policy on public.users",
        ),
        (f"GRANT EXECUTE ON FUNCTION public.{FUNCTION}() TO anon", f"function public.{FUNCTION}"),
        (f"GRANT EXECUTE ON FUNCTION public.{FUNCTION}() TO PUBLIC", f"function public.{FUNCTION}"),
        (f"REVOKE EXECUTE ON FUNCTION public.{FUNCTION}() FROM authenticated", f"function public.{FUNCTION}"),
        (f"ALTER FUNCTION public.{FUNCTION}() SECURITY INVOKER", f"function public.{FUNCTION}"),
        (f"ALTER FUNCTION public.{FUNCTION}() RESET search_path", f"function public.{FUNCTION}"),
        (
            f"CREATE OR REPLACE FUNCTION public.{FUNCTION}() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''"
            " AS 'SELECT false'",
            f"function public.{FUNCTION}",
        ),
    ],
)
def test_what_somebody_changed_is_named_and_put_back(app: App, spoil: str, named: str) -> None:
    app.policies.bring("enrolled")
    right = content(app.admin)
    execute(app.url, spoil)
    assert list(app.policies.bring("enrolled").changes) == [named]
    assert content(app.admin) == right
    assert app.policies.look("enrolled").changes == {}
    assert app.seen(ENROLLED, "aal1") == NONE


def test_nobody_elses_policies_are_touched(app: App) -> None:
    execute(
        app.url,
        f"CREATE TABLE public.theirs (id integer); ALTER TABLE public.theirs ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY {POLICY} ON public.theirs USING (true);"
        f"CREATE POLICY {POLICY}_too ON public.users AS RESTRICTIVE USING (true)",
    )
    theirs = "SELECT * FROM pg_policies WHERE policyname <> 'giggles_second_factor' OR tablename = 'theirs' ORDER BY 1, 2, 3"
    before = rows(app.admin, theirs)
    for enforced in ("enrolled", "all", "off"):
        app.policies.bring(choice(enforced))
        assert rows(app.admin, theirs) == before


def test_where_policies_would_have_no_effect_it_is_refused_and_nothing_is_changed(app: App) -> None:
    execute(app.url, "ALTER TABLE public.audio_segments DISABLE ROW LEVEL SECURITY")
    bare = content(app.admin)
    for enforced in ("enrolled", "all"):
        with pytest.raises(DatabaseError, match=r"off for public\.audio_segments"):
            app.policies.bring(choice(enforced))
    assert content(app.admin) == bare
    assert app.policies.look("off").changes == {}


def test_a_database_that_is_no_project_is_refused(server: Cluster, app: App) -> None:
    execute(app.url, "DROP TABLE auth.mfa_factors")
    with pytest.raises(DatabaseError, match="mfa_factors"):
        app.policies.bring("enrolled")
    empty = server.empty()
    with pytest.raises(DatabaseError, match="none of the app's tables"):
        Policies(server.url(empty)).look("all")
    assert Policies(server.url(empty)).look("off").changes == {}


def test_a_table_that_is_not_there_is_told_and_comes_later(app: App) -> None:
    execute(app.url, "DROP TABLE public.processing_logs")
    assert app.policies.bring("all").absent == ("processing_logs",)
    assert app.policies.look("all").changes == {}


def test_an_account_that_does_not_see_who_has_a_second_factor_is_refused(app: App) -> None:
    execute(app.admin, f"ALTER TABLE auth.mfa_factors OWNER TO postgres; GRANT SELECT ON auth.mfa_factors TO {app.name}")
    assert app.policies.look("enrolled").changes == EVERYTHING
    execute(app.admin, f"ALTER ROLE {app.name} NOBYPASSRLS")
    with pytest.raises(DatabaseError, match=r"does not see all of auth\.mfa_factors"):
        app.policies.bring("enrolled")
    execute(app.admin, f"ALTER ROLE {app.name} BYPASSRLS; REVOKE SELECT ON auth.mfa_factors FROM {app.name}")  # noqa: S608
    with pytest.raises(DatabaseError, match=r"does not see all of auth\.mfa_factors"):
        app.policies.bring("enrolled")


def test_an_account_without_the_rights_changes_nothing_and_is_told_which_it_needs(server: Cluster, app: App) -> None:
    execute(app.admin, f"CREATE ROLE stranger_{app.name} LOGIN PASSWORD 'planted-pw'")
    bare = content(app.admin)
    with pytest.raises(DatabaseError, match="to own the app's tables") as refused:
        Policies(server.url(app.name, f"stranger_{app.name}", "planted-pw")).bring("enrolled")
    assert "planted" not in str(refused.value)
    assert content(app.admin) == bare


def test_a_table_in_use_is_not_waited_for_for_long_and_all_or_none_is_done(app: App) -> None:
    bare = content(app.admin)
    with psycopg.connect(app.url) as busy:
        busy.execute("SELECT 1 FROM public.processing_logs")
        with pytest.raises(DatabaseError, match="55P03"):
            app.policies.bring("all")
    assert content(app.admin) == bare


@pytest.mark.parametrize("url", ["not planted-pw", "postgresql://u:planted-pw@[::1:5432/x", "postgresql://u:planted-pw@127.0.0.1:1/x"])
def test_no_message_has_the_password(server: Cluster, app: App, url: str) -> None:
    for wrong in (url, server.url(app.name, app.name, "planted-pw")):
        with pytest.raises(UnreachableError) as refused:
            Policies(wrong).look("all")
        assert "planted" not in f"{refused.value!r} {Policies(wrong)!r}"
        assert refused.value.__cause__ is None
    assert PASSWORD not in repr(app.policies)


def test_a_choice_is_one_of_three() -> None:
    for value in (False, "on", None, "ALL"):
        with pytest.raises(ValueError, match="enrolled"):
            choice(value)
