"""How PostgreSQL's programs are told where the database is and what its password is, so that nobody else can read it.

libpq takes both from files that it is given the names of. These files are memory of this process and its child only: they have no
name in any folder, no disk ever holds them, and they are gone when the two are, killed or not.

Source: PostgreSQL's documentation, "The Connection Service File" and "The Password File".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from gigglekit.backup.postgresql import DatabaseError
from gigglekit.command import SYSTEM_PATH

_KEPT = ("HOME", "TMPDIR", "TZ")
_LONGEST = 900
"""libpq of PostgreSQL 14 reads lines of at most 1023 bytes from a service file."""

# A connection whose other end is gone is noticed within minutes, and not by the limit of hours that a whole dump has.
_PATIENCE = {"connect_timeout": "15", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "6"}


@dataclass(frozen=True)
class Server:
    """Where a database is, taken apart by libpq itself.

    Arguments:
        options: by libpq's names, without the password.
        password: "" if there is none.
    """

    options: dict[str, str]
    password: str = field(repr=False)

    @property
    def host(self) -> str:
        """Its name, to be told."""
        return self.options.get("host") or self.options.get("hostaddr") or "localhost"

    def is_told_by(self, text: str) -> bool:
        """Tell whether a text quotes the password, in any form in which it may stand in an address."""
        forms = {self.password, quote(self.password), quote(self.password, safe=""), *_secrets(self.options)}
        return "://" in text or any(form and form in text for form in forms)


def server(url: str) -> Server:
    """Take the address of a database apart.

    Arguments:
        url: `postgresql://…`, as the app gets it.

    Raises:
        DatabaseError: it is none, or names the pooler that a dump cannot be made over. It is not repeated.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        options = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        raise DatabaseError(
            "The address of the database is none that PostgreSQL understands. It has to be postgresql://user:password@host:5432/database, "
            "with %-codes for special characters in the password. Correct giggles:secrets:app:DATABASE_URL."
        ) from None
    password = options.pop("password", "")
    if "service" in options or any(
        not value.isprintable() or value != value.strip() or len(value.encode()) > _LONGEST for value in options.values()
    ):
        raise DatabaseError(
            "The address of the database names a service, or has blanks around a value, or characters that cannot be printed. Correct "
            "giggles:secrets:app:DATABASE_URL."
        )
    # To libpq the first @ ends the password, and what follows it would be told as the host's name.
    if "@" in options.get("host", "") + options.get("port", ""):
        raise DatabaseError(
            "The address of the database has more than one @: in user and password it has to be written %40. Correct "
            "giggles:secrets:app:DATABASE_URL."
        )
    if "\n" in password or "\r" in password or "\0" in password:
        raise DatabaseError(
            "The password of the database has a line's end in it. Set another, and correct giggles:secrets:app:DATABASE_URL."
        )
    if options.get("host", "").endswith(".pooler.supabase.com") and options.get("port") == "6543":
        raise DatabaseError(
            "The address of the database is Supabase's transaction pooler (port 6543), which no dump can be made or loaded over. Use its "
            "session pooler: the same address with port 5432, at giggles:secrets:app:DATABASE_URL."
        )
    return Server(options, password)


@contextmanager
def login(where: Server) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Have what a program of PostgreSQL needs to connect to `where` without further arguments.

    Yields:
        Its whole environment, which holds no secret, and the descriptors that it inherits.
    """
    service = "".join(f"{name}={value}\n" for name, value in {**_PATIENCE, **where.options}.items())
    # A password that begins or ends with blanks would not survive a service file.
    escaped = where.password.replace("\\", "\\\\").replace(":", "\\:")
    with memory_file(f"[giggles]\n{service}".encode()) as services, memory_file(f"*:*:*:*:{escaped}\n".encode()) as passwords:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "PGCLIENTENCODING": "UTF8",
            "PGAPPNAME": "giggles-backup",
            "PGSERVICE": "giggles",
            "PGSERVICEFILE": f"/proc/self/fd/{services}",
        }
        # Without a password libpq looks where it always does, and the address may name a file itself.
        inherited: tuple[int, ...] = (services,)
        if where.password:
            environment["PGPASSFILE"] = f"/proc/self/fd/{passwords}"
            inherited = (services, passwords)
        yield environment, inherited


@contextmanager
def memory_file(content: bytes = b"") -> Iterator[int]:
    """Have a file in memory, read from its start, that only this account can open; yields its descriptor."""
    descriptor = os.memfd_create("giggles", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)  # libpq takes no password from what others could read
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def words(descriptor: int, most: int = 64 * 1024) -> str:
    """Return what a program wrote to a file in memory, its last bytes if it is long."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, most, max(0, size - most)).decode("utf-8", "replace")


def _secrets(options: dict[str, str]) -> set[str]:
    return {
        value for name, value in options.items() if name in ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
    }
