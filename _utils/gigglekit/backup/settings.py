"""Where this droplet's backup lies, and how much it may cost; written by the concern `backup`."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gigglekit.backup.errors import BackupError
from gigglekit.files import private

PATH = Path("/etc/giggles/backup.json")

_REGION = re.compile(r"[a-z0-9-]{1,63}")
_BUCKET = re.compile(r"[a-zA-Z0-9.-]{3,63}")
_PREFIX = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]{0,62}/){0,4}")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_LONGEST_LOCK_DAYS = 3000
"""B2 takes no lock that is longer."""


@dataclass(frozen=True)
class Keep:
    """How many snapshots are kept: the newest of each of so many days, weeks and months."""

    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True)
class Settings:
    """All that the backup of one droplet needs to know.

    Arguments:
        endpoint: the S3 interface, as B2 shows it: `https://s3.<region>.backblazeb2.com`; `http://` only for private addresses.
        region: the one in the endpoint.
        bucket: its name.
        prefix: what every name in the bucket begins with; empty, or ends with `/`.
        key_id: of the application key.
        application_key: the secret half.
        lock_days: how long data cannot be deleted, by Object Lock; 0 = not locked.
        upload_kib_per_second: of all threads together; 0 = unlimited.
        threads: that send and fetch at the same time.
        keep: which snapshots are kept.
        keep_dumps_days: after so many days a database dump ends.
        database: whether the database is backed up.
        pg_dump: path of the program; "" = the one of the system.
        schemas: of the database.
        ca_bundle: path of the certificates that a private S3 server's is checked against; "" = the usual ones.
    """

    endpoint: str
    region: str
    bucket: str
    prefix: str
    key_id: str = field(repr=False)
    application_key: str = field(repr=False)
    lock_days: int
    upload_kib_per_second: int
    threads: int
    keep: Keep
    keep_dumps_days: int
    database: bool
    pg_dump: str
    schemas: tuple[str, ...]
    ca_bundle: str = ""


def load(path: Path | str = PATH) -> Settings | None:
    """Read the settings.

    Arguments:
        path: the file, which only root may read.

    Returns:
        Them, or None if this droplet has no backup: there is no file then.

    Raises:
        BackupError: the file cannot be read, others can read or write it, or something in it is wrong. No secret is repeated.
    """
    return private.load(
        Path(path), parse, error=BackupError, holds="the bucket's application key", renew="Make a new application key", concern="backup"
    )


def parse(content: bytes) -> Settings:
    """Return the settings that `content`, JSON, holds.

    Raises:
        ValueError: one line that says what is wrong. It repeats nothing that could be a secret.
    """
    try:
        values = json.loads(content)
    except ValueError:
        raise ValueError("it is no JSON") from None
    values = _of_type(Settings, values, "")
    values["keep"] = Keep(**_of_type(Keep, values["keep"], "keep."))
    values["schemas"] = tuple(values["schemas"])
    settings = Settings(**values)
    _check(settings)
    return settings


def _of_type(kind: type, values: object, where: str) -> dict[str, typing.Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.') or 'it'} is no mapping")
    types = typing.get_type_hints(kind)
    needed = {entry.name for entry in dataclasses.fields(kind) if entry.default is dataclasses.MISSING}
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{', '.join(where + name for name in missing)} is missing")
    # A name that is not known may be a secret in the wrong place, so only how many there are is told.
    if unknown := len(values.keys() - types.keys()):
        raise ValueError(f"{unknown} name(s) {'in ' + where.rstrip('.') + ' ' if where else ''}mean nothing to this version")
    for name, value in values.items():
        wanted = types[name]
        if name == "schemas":
            right = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        elif name == "keep":
            right = isinstance(value, dict)
        else:
            right = type(value) is wanted  # bool is an int to isinstance()
        if not right:
            raise ValueError(f"{where}{name} is of the wrong type")
    return values


def _check(settings: Settings) -> None:
    _check_endpoint(settings.endpoint)
    for name, pattern, form in (
        ("region", _REGION, "a region as it stands in the endpoint, such as eu-central-003"),
        ("bucket", _BUCKET, "3 to 63 letters, digits, hyphens and dots"),
        ("prefix", _PREFIX, "empty, or folders of letters, digits, dots, hyphens and underscores that end with a slash"),
    ):
        if not pattern.fullmatch(getattr(settings, name)):
            raise ValueError(f"{name} has to be {form}")
    for name in ("key_id", "application_key"):
        value = getattr(settings, name)
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"{name} is empty or has characters that no key of B2 has")
    for name, value, least, most in (
        ("lock_days", settings.lock_days, 0, _LONGEST_LOCK_DAYS),
        ("upload_kib_per_second", settings.upload_kib_per_second, 0, 2**30),
        ("threads", settings.threads, 1, 32),
        ("keep_dumps_days", settings.keep_dumps_days, 1, 36500),
        ("keep.daily", settings.keep.daily, 1, 36500),
        ("keep.weekly", settings.keep.weekly, 0, 36500),
        ("keep.monthly", settings.keep.monthly, 0, 36500),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} has to be from {least} to {most}")
    for name, value in (("pg_dump", settings.pg_dump), ("ca_bundle", settings.ca_bundle)):
        if value and not Path(value).is_absolute():
            raise ValueError(f"{name} has to be an absolute path")
    if settings.database and not settings.schemas:
        raise ValueError("schemas is empty, so that nothing of the database would be in the backup")
    if not all(_SCHEMA.fullmatch(schema) for schema in settings.schemas):
        raise ValueError("schemas has a name that PostgreSQL would not take without quotes")


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("endpoint is no URL") from None
    if (
        parts.username
        or parts.password
        or parts.query
        or parts.fragment
        or parts.path not in ("", "/")
        or not parts.hostname
        or not port_is_right
    ):
        raise ValueError("endpoint has to be a URL of scheme, host and port only, such as https://s3.eu-central-003.backblazeb2.com")
    if parts.scheme == "http":
        try:
            private = ipaddress.ip_address(parts.hostname).is_private
        except ValueError:
            private = parts.hostname == "localhost"
        if not private:
            raise ValueError(
                "endpoint is http://, which is taken only for private addresses: the credentials' use could be seen and changed"
            )
    elif parts.scheme != "https":
        raise ValueError("endpoint has to begin with https://")
