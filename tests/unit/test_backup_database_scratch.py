"""A scratch server is reached by nobody else, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from gigglekit.backup import scratch as module
from gigglekit.backup.conversation import conversation
from gigglekit.backup.database import DatabaseError, scratch
from gigglekit.backup.login import server
from gigglekit.backup.postgresql import program
from gigglekit.backup.scratch import superuser, sweep

from tests.unit import postgres, vault_volume
from tests.unit.postgres import Cluster
from tests.unit.test_backup_database import dumped, load

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a scratch server's account is another than root")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any account can reach, with a short path."""
    with vault_volume.base() as made:
        yield made


def servers(folder: Path) -> list[int]:
    """Return the processes of servers in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes() and (process / "comm").read_text().strip() == "postgres":
                found.append(int(process.name))
    return found


def wait_for_none(folder: Path) -> None:
    end = time.monotonic() + 30
    while servers(folder):
        assert time.monotonic() < end, "a server outlives the one who started it"
        time.sleep(0.02)


def test_it_works_and_nothing_stays(folder: Path) -> None:
    with scratch(folder) as url:
        assert postgres.rows(url, "SELECT extensions.uuid_generate_v4() IS NOT NULL, current_setting('listen_addresses')") == [(True, "")]
        assert servers(folder)
    assert list(folder.iterdir()) == []
    assert servers(folder) == []


def test_nothing_stays_after_an_error(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch(folder):
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []
    assert servers(folder) == []


def test_it_runs_as_somebody_else_and_lets_only_root_in(folder: Path) -> None:
    with scratch(folder) as url:
        (server, *_) = servers(folder)
        assert Path(f"/proc/{server}").stat().st_uid != 0
        (place,) = folder.glob("scratch-*")
        ask = ["/usr/bin/psql", "--no-psqlrc", "-At", f"--dbname={url}", "-c", "SELECT 1"]
        assert subprocess.run(ask, capture_output=True, check=False, timeout=30).stdout == b"1\n"
        other = pwd.getpwnam("daemon")
        for opened in (False, True):
            if opened:  # even if somebody got to the socket
                place.chmod(0o711)
                (place / ".s.PGSQL.5432").chmod(0o777)
            done = subprocess.run(
                ask, user=other.pw_uid, group=other.pw_gid, extra_groups=[], capture_output=True, check=False, timeout=30, cwd="/"
            )
            assert done.returncode == 2
            assert (b"Peer authentication failed" in done.stderr) is opened


RUNS = """
    CREATE FUNCTION public.run() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch {proof}');
        RETURN true;
    EXCEPTION WHEN OTHERS THEN
        -- As whoever rules this database would have it, so that nobody sees what it tries.
        RETURN true;
    END $$;
    CREATE FUNCTION public.step() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        {step};
        RETURN true;
    EXCEPTION WHEN OTHERS THEN
        RETURN true;
    END $$;
    CREATE TABLE public.t (a int CHECK (public.step() AND public.run()));
    INSERT INTO public.t VALUES (1);
"""


@pytest.mark.parametrize("step", ["RESET ROLE", "RESET SESSION AUTHORIZATION", "GRANT pg_execute_server_program TO CURRENT_USER"])
def test_a_dump_runs_no_program_here(cluster: Cluster, folder: Path, step: str) -> None:
    """What it defines is carried out when its rows are loaded, with the rights of who loads them."""
    proofs = folder / "proofs"
    proofs.mkdir()
    proofs.chmod(0o777)
    proof = proofs / "ran"
    url = cluster.url(cluster.empty())
    postgres.execute(url, RUNS.format(proof=proof, step=step))
    assert proof.exists(), "the control: it does where a superuser's rights are to be had"
    proof.unlink()
    content = dumped(url, ["public"])[1]
    with scratch(folder) as scratched:
        assert load(scratched, content, make_roles=superuser(scratched)).tables == {"public.t": 1}
    assert list(proofs.iterdir()) == []


def test_a_server_notices_within_minutes_that_a_restore_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a power cut: until then the app's tables are locked, by Linux's own choice for more than two hours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in (("listen_addresses", "127.0.0.1"), ("port", port)):
        monkeypatch.setitem(module._OPTIONS, name, value)
    monkeypatch.setenv("PGPORT", port)
    with scratch(folder) as url:
        (place,) = folder.glob("scratch-*")
        (place / "data/pg_hba.conf").write_text("local all all peer map=scratch\nhost all all 127.0.0.1/32 trust\n")
        postgres.execute(superuser(url), "SELECT pg_reload_conf()")
        where = server(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        with conversation(program("psql"), where, time.monotonic() + 60) as talk:
            named = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
            idle, interval, count = (int(talk.ask(f"SHOW {name}", 1)[0][0]) for name in named)
    assert idle + interval * count <= 180


def test_a_killed_run_leaves_no_server_and_the_next_one_cleans_up(folder: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), scratch(folder) as url:
            postgres.execute(url, "CREATE TABLE t AS SELECT 'planted' AS row")
            os.write(writer, b"up")
            signal.pause()
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read(2) == b"up"
    with scratch(folder):  # one that runs is left alone
        assert len(list(folder.glob("scratch-*"))) == 2
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for_none(folder)
    assert len(list(folder.glob("scratch-*"))) == 1
    with scratch(folder):
        assert len(list(folder.glob("scratch-*"))) == 1
    assert list(folder.iterdir()) == []


def test_a_server_whose_starter_is_gone_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "_as", lambda account: ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    )
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), scratch(folder):
            os.write(writer, b"up")
            signal.pause()
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read(2) == b"up"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert servers(folder), "the control: it ended by itself"
    assert sweep(folder) == 1
    wait_for_none(folder)
    assert list(folder.iterdir()) == []


def test_a_dump_of_a_newer_server_is_refused_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(DatabaseError, match=r"runs PostgreSQL 99, and postgres on this machine is of version \d+"), scratch(folder, "99.1"):
        raise AssertionError("it came up")
    assert list(folder.iterdir()) == []


def test_a_folder_that_it_makes_itself_lets_its_account_through_whatever_the_umask(folder: Path) -> None:
    """The handbook has one typed before the recovery kit is put into a file, in the shell where a drill is asked for afterwards."""
    before = os.umask(0o077)
    try:
        with scratch(folder / "new") as url:
            assert postgres.rows(url, "SELECT 1") == [(1,)]
    finally:
        os.umask(before)


def test_a_server_that_cannot_be_furnished_is_an_error_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROLES", ("pg_reserved",))
    with pytest.raises(DatabaseError, match=r"scratch server in .* could not be set up.*pg_reserved"), scratch(folder):
        raise AssertionError("it came up")
    assert list(folder.iterdir()) == []


def test_a_folder_that_its_account_cannot_get_to_is_named(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(DatabaseError, match=f"{closed} is closed to it"), scratch(closed):
        raise AssertionError("it came up")
    assert list(closed.iterdir()) == []


def test_a_server_that_does_not_come_up_is_an_error_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._OPTIONS, "max_connections", "none")
    with pytest.raises(DatabaseError, match=r"did not come up: .*max_connections"), scratch(folder):
        raise AssertionError("it came up")
    assert list(folder.iterdir()) == []


def test_a_connection_of_a_drill_that_was_left_open_does_not_keep_it(folder: Path) -> None:
    with scratch(folder) as url:
        connection = psycopg.connect(url)
    assert servers(folder) == []
    connection.close()
