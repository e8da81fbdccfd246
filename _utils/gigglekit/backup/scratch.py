"""A PostgreSQL server to be thrown away: for the restore drill, which loads a real dump to see that it can be.

It has the rows of every user in it for some minutes, so it lies where the caller says that nothing lasts (in memory, or in an
encrypted folder), is reached only over a socket that only root and its own account can open, and ends with this process.

What a dump defines (checks, defaults, triggers) is carried out while it is loaded, with the rights of who loads it. A superuser of
PostgreSQL runs programs, and who rules the database that was dumped must not rule this machine; so the one who loads is none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from gigglekit.backup.complaints import explained
from gigglekit.backup.login import server as database_server
from gigglekit.backup.postgresql import DatabaseError, program
from gigglekit.command import SYSTEM_PATH, CommandTimeoutError, run

START_SECONDS = 60.0
"""How long the server may take to come up."""

_PREFIX = "scratch-"
_ACCOUNTS = ("postgres", "nobody")
_LONGEST_SOCKET = 100
"""unix(7): the path of a socket has at most 107 bytes."""

# Nothing has to survive it, nor does anything but the drill use it.
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "shared_buffers": "32MB",
    "max_connections": "10",
    "autovacuum": "off",
    # It would make memory executable, which the drill's unit forbids.
    "jit": "off",
    "dynamic_shared_memory_type": "mmap",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "unix_socket_permissions": "0700",
}
# What a dump of a Supabase project may refer to and does not hold.
_ROLES = ("anon", "authenticated", "service_role")
_EXTENSIONS = ("pgcrypto", "uuid-ossp", "citext")


@contextmanager
def scratch(folder: Path | str, server: str = "") -> Iterator[str]:
    """Have a server with one empty database, with the roles and extensions that a Supabase project's dump refers to.

    Arguments:
        folder: where it may lie: in memory or encrypted, with room for the whole database. What killed runs left there is removed.
        server: the version of the server that the dump is from, as a snapshot names it ("15.9"); "" if nobody knows.

    Yields:
        Its address, for the owner of that database, who is no superuser; `superuser` has the other one.

    Raises:
        DatabaseError: this machine has no PostgreSQL, or an older one than the dump's; or it does not come up.
    """
    least = int(server.split(".", maxsplit=1)[0]) if server.split(".", maxsplit=1)[0].isdecimal() else 0
    postgres = program("postgres", least=least)
    initdb = postgres.with_name("initdb")
    folder = Path(folder)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o711)  # whatever the umask: its account has to get through
    sweep(folder)
    account = _account()
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, place)
        stack.enter_context(_held(place))
        if account.pw_uid != os.geteuid():
            _insist_on_way(folder, account)
            os.chown(place, account.pw_uid, account.pw_gid)
        if len(f"{place}/.s.PGSQL.5432") > _LONGEST_SOCKET:
            raise DatabaseError(f"The path of {folder} is too long for the socket of a scratch server. Choose a shorter one.")
        _make(initdb, place, account)
        stack.enter_context(_running(postgres, place, account))
        url = f"postgresql://{_OWNER}@/postgres?host={quote(str(place), safe='')}"
        _set_up(superuser(url), place)
        yield url


_SUPERUSER, _OWNER = "postgres", "giggles_scratch"


def superuser(url: str) -> str:
    """Return the address of a scratch server for its superuser, by that for its owner."""
    return url.replace(f"//{_OWNER}@", f"//{_SUPERUSER}@", 1)


def sweep(folder: Path) -> int:
    """Remove what killed runs left below a folder, the servers too; return how many there were."""
    removed = 0
    for place in sorted(folder.glob(f"{_PREFIX}*")):
        if place.is_symlink() or not place.is_dir():
            continue
        with contextlib.suppress(BlockingIOError), _held(place):
            _stop(place)
            _remove(place)
            removed += 1
    return removed


def _account() -> pwd.struct_passwd:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DatabaseError("This machine has no account postgres, which a scratch server runs as. Install it: apt-get install postgresql.")


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """Say that a server's folder is in use, for as long as this process lives.

    Raises:
        BlockingIOError: another process does.
    """
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _insist_on_way(folder: Path, account: pwd.struct_passwd) -> None:
    for step in (folder, *folder.resolve().parents):
        if not step.stat().st_mode & 0o001:
            raise DatabaseError(
                f"The account {account.pw_name}, which a scratch server runs as, cannot get to {folder}: {step} is closed to it. Choose "
                f"another folder, or let it through: chmod o+x {step}."
            )


def _as(account: pwd.struct_passwd) -> list[str]:
    """Return what starts a program as an account; it is told to end when this process does."""
    start = ["setpriv", "--pdeathsig", "QUIT"]
    if account.pw_uid != os.geteuid():
        start += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups", "--no-new-privs"]
    return [*start, "--"]


def _make(initdb: Path, place: Path, account: pwd.struct_passwd) -> None:
    data = place / "data"
    argv = [*_as(account), str(initdb), "-D", str(data), "--no-sync", "--auth=peer", f"--username={_SUPERUSER}"]
    argv += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    try:
        outcome = run(argv, seconds=START_SECONDS, environment={"PATH": SYSTEM_PATH}, folder=str(place))
    except (OSError, CommandTimeoutError) as error:
        raise DatabaseError(
            f"A scratch server could not be made in {place.parent} ({type(error).__name__}). Ask again when the machine is idle."
        ) from error
    if outcome.code:
        raise DatabaseError(
            f"A scratch server could not be made in {place.parent}: {outcome.last_words}. See that it has room and can be written."
        )
    (data / "pg_hba.conf").write_text("local all all peer map=scratch\n")
    names = {account.pw_name, pwd.getpwuid(os.geteuid()).pw_name}
    roles = (_SUPERUSER, _OWNER)
    (data / "pg_ident.conf").write_text("".join(f"scratch {name} {role}\n" for name in sorted(names) for role in roles))


@contextmanager
def _running(postgres: Path, place: Path, account: pwd.struct_passwd) -> Iterator[None]:
    argv = [*_as(account), str(postgres), "-D", str(place / "data"), "-k", str(place)]
    argv += [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
            cwd=place,
            start_new_session=True,
        )
    try:
        _wait(process, place)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], place: Path) -> None:
    end = time.monotonic() + START_SECONDS
    ready = place / "data/postmaster.pid"
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError):
            if ready.read_text().splitlines()[7].strip() == "ready":
                return
        if process.poll() is not None or time.monotonic() > end:
            last = (place / "log").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise DatabaseError(
                f"A scratch server in {place.parent} did not come up: {last[0][-200:]}. See that there is room and memory for it."
            )
        time.sleep(0.02)


def _set_up(url: str, place: Path) -> None:
    import psycopg

    try:
        _furnish(url)
    except psycopg.Error as error:
        what = f"A scratch server in {place.parent} could not be set up"
        said = f"ERROR: {error.sqlstate}: {error}" if error.sqlstate else str(error)
        raise explained(said, database_server(url), what) from None


def _furnish(url: str) -> None:
    import psycopg
    from psycopg import sql

    owner = sql.Identifier(_OWNER)
    with psycopg.connect(url, autocommit=True, connect_timeout=15) as connection:
        for role in _ROLES:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        # Sees all rows, as who makes a dump has to. Not CREATEROLE: up to PostgreSQL 15 it can make itself nearly everything.
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS").format(owner))
        connection.execute(sql.SQL("ALTER DATABASE postgres OWNER TO {}").format(owner))
        connection.execute("CREATE SCHEMA extensions")
        connection.execute("GRANT USAGE ON SCHEMA extensions TO PUBLIC")
        for extension in _EXTENSIONS:
            # Where Debian's package lacks one, only a dump that uses it misses it, and says so.
            with contextlib.suppress(psycopg.Error):
                connection.execute(sql.SQL("CREATE EXTENSION {} SCHEMA extensions").format(sql.Identifier(extension)))


def _stop(place: Path) -> None:
    """End a server whose starter is gone; by the folder in its command line, since numbers of processes come again."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((place / "data/postmaster.pid").read_text().splitlines()[0])
        if str(place / "data").encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGQUIT)
                # Readable once it ended.
                import select

                select.select([descriptor], [], [], 20)
            finally:
                os.close(descriptor)


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        raise DatabaseError(f"A scratch server's folder could not be removed: {place}. It holds rows of users; remove it by hand.")
