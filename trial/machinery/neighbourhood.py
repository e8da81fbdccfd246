"""The neighbours of a droplet: name server, ACME CA, database, S3 storage, mail sink and the app's Git repository.

They share one machine per trial. What is the same for all trials lies in `trial/neighbours/files` and goes into the
image; what differs (names, addresses, keys) is written here.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import app_repository as repository
from . import host
from .errors import TrialError
from .image import write_file
from .machine import Machine
from .record import Record
from .settings import NETWORK_PREFIX, PROJECT, ZONE
from .steps import run

ACME_DIRECTORY = f"https://acme.{ZONE}:14000/dir"
_ACME_MANAGEMENT_PORT = 15000
_PORTS = {
    "ACME": 14000,
    "PostgreSQL": 5432,
    "S3": 9000,
    "S3 over TLS": 9443,
    "S3 control": 9002,
    "mail": 25,
    "mail with a login": 587,
    "Git": 9418,
}
S3_REGION = "us-west-004"
_MAIL = "var/mail/sink"
_MAIL_LOGIN = {"user": "giggles", "password": "sink's \"pass#word \\"}
"""With what programs that read settings stumble over."""
_REPOSITORY = "srv/git/giggles-app.git"
_DATABASE = "giggles"
_SCHEMAS = ("trial/sample-app/laughter-detector/setup_database.sql", "trial/sample-app/schema.sql")


def mail_server() -> dict[str, Any]:
    """Return where a droplet sends its mail to, as the pillar names it."""
    return {"host": f"mail.{ZONE}", "port": _PORTS["mail"]}


def describe(trial: Record, machine: Machine) -> dict[str, Any]:
    """Return the neighbours' addresses, credentials and folders, as `info` shows them."""
    address = trial.neighbours_port.address
    return {
        "neighbours": {
            "ip": address,
            "leader_pid": machine.leader(),
            "netns": trial.neighbours_port.namespace,
            "rootfs": str(machine.root),
        },
        "acme": {"directory": ACME_DIRECTORY, "ca_bundle": str(trial.home_place.acme_ca)},
        "s3": {
            "endpoint": f"http://{address}:{_PORTS['S3']}",
            "tls_endpoint": bucket(trial).endpoint,
            "control": _s3_control(trial),
            "region": S3_REGION,
            "bucket": bucket(trial).name,
            "locked_bucket": _buckets(trial)[1],
            "access_key": trial.s3_access_key,
            "secret_key": trial.s3_secret_key,
        },
        "database_url": database_url(trial),
        "smtp": {"host": address, "port": _PORTS["mail"]},
        "smtp_login": {"host": f"mail.{ZONE}", "port": _PORTS["mail with a login"], **_MAIL_LOGIN},
        "mail_dir": str(machine.root / _MAIL),
        "app_repository": app_repository(trial),
        "app_repository_path": str(machine.root / _REPOSITORY),
        "app_ref": app_ref(trial),
    }


@dataclass(frozen=True)
class Bucket:
    """Where a droplet's backup may lie.

    Arguments:
        endpoint: of its S3 interface, over TLS.
        region: of it.
        name: of the bucket.
    """

    endpoint: str
    region: str
    name: str


def bucket(trial: Record) -> Bucket:
    """Return the bucket for the droplet's backup."""
    return Bucket(f"https://{trial.neighbours_port.address}:{_PORTS['S3 over TLS']}", S3_REGION, _buckets(trial)[0])


def _s3_control(trial: Record) -> str:
    return f"http://{trial.neighbours_port.address}:{_PORTS['S3 control']}"


def _buckets(trial: Record) -> tuple[str, str]:
    """Return the names of the bucket without Object Lock and of the one with it."""
    return f"giggles-{trial.home}", f"giggles-{trial.home}-locked"


def database_url(trial: Record) -> str:
    """Return where the app finds its database, password included."""
    server = f"{trial.neighbours_port.address}:{_PORTS['PostgreSQL']}"
    return f"postgresql://{_DATABASE}:{trial.database_password}@{server}/{_DATABASE}"


def app_repository(trial: Record) -> str:
    """Return the Git address of the sample app."""
    return f"git://{trial.neighbours_port.address}/giggles-app.git"


def app_ref(trial: Record) -> str | None:
    """Return the commit of the sample app that a droplet is made to run, None before there is one."""
    return repository.sample_commit(_repository_path(trial))


def _repository_path(trial: Record) -> Path:
    return trial.home_place.folder / "neighbours" / _REPOSITORY


def furnish(trial: Record, root: Path) -> None:
    """Write what makes this trial's neighbours its own, into their machine's tree before it boots."""
    authority = trial.home_place.acme_ca
    write_file(root, "/etc/neighbours/acme.pem", (authority.with_name("acme-server.pem")).read_text())
    write_file(root, "/etc/neighbours/acme.key", (authority.with_name("acme-server.key")).read_text(), 0o600)
    key = {trial.s3_access_key: {"secret": trial.s3_secret_key, "capabilities": "all"}}
    write_file(root, "/etc/neighbours/b2-keys.json", json.dumps(key), 0o600)
    write_file(root, "/etc/neighbours/mail.json", json.dumps(_MAIL_LOGIN), 0o600)
    write_file(root, "/etc/hostname", "neighbours\n")
    write_file(root, "/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 neighbours\n::1 localhost\n")
    write_file(root, "/etc/resolv.conf", "nameserver 127.0.0.1\n")
    (root / _REPOSITORY).parent.mkdir(parents=True)
    address = trial.neighbours_port.address
    names = "".join(f"address=/{role}.{ZONE}/{address}\n" for role in ("acme", "s3", "mail", "db", "git"))
    upstream = "".join(f"server={server}\n" for server in host.resolvers())
    write_file(
        root,
        "/etc/dnsmasq.d/neighbours.conf",
        # No cache: a changed answer must be the next answer.
        f"no-resolv\nno-hosts\ncache-size=0\nbind-dynamic\nlocal=/{ZONE}/\n{names}{upstream}",
    )
    write_file(root, _dns_answer(trial), _answer(trial, trial.droplet_port.address))
    access = root / "etc/postgresql/15/main/pg_hba.conf"
    with access.open("a") as file:
        file.write(f"host all all {NETWORK_PREFIX}.0/24 scram-sha-256\n")


def make_authority(trial: Record) -> None:
    """Make a CA and a server certificate for the ACME directory, the S3 server and the mail server, once for a trial.

    Raises:
        TrialError: openssl fails.
    """
    authority = trial.home_place.acme_ca
    server = authority.with_name("acme-server.pem")
    if server.exists():
        return
    key, server_key, request = (authority.with_name(name) for name in ("acme-ca.key", "acme-server.key", "acme.csr"))
    extensions = authority.with_name("acme.ext")
    extensions.write_text(f"subjectAltName=DNS:acme.{ZONE},DNS:s3.{ZONE},DNS:mail.{ZONE},IP:{trial.neighbours_port.address}\n")
    curve: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
    fresh = authority.with_name("acme-server.pem.new")
    commands: tuple[list[str | Path], ...] = (
        ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", authority, "-days", "365", "-subj",
         f"/CN=Trial {trial.name} ACME directory", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["openssl", "req", "-new", *curve, "-keyout", server_key, "-out", request, "-subj", f"/CN=acme.{ZONE}"],
        ["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", key, "-CAcreateserial", "-days", "365",
         "-extfile", extensions, "-out", fresh],
    )  # fmt: skip
    for command in commands:
        run(command, why="The ACME directory's certificate could not be made", remedy="Check that openssl works here.")
    fresh.rename(server)


def welcome(trial: Record, machine: Machine) -> None:
    """Tell the neighbours of a droplet that comes to stand beside another one: its name resolves."""
    _answer_with(trial, machine, _answer(trial, trial.droplet_port.address))


def forget(trial: Record, machine: Machine) -> None:
    """Take what `welcome` told back; neighbours that are not running are fine."""
    if machine.leader() is not None:
        _answer_with(trial, machine, None)


def prepare(trial: Record, machine: Machine) -> None:
    """Wait for the neighbours and give them what this trial needs; safe to run again.

    Raises:
        TrialError: one of them does not come up, or refuses.
    """
    address = trial.neighbours_port.address
    for name, port in _PORTS.items():
        _wait_for(name, address, port, machine)
    _prepare_database(trial, machine)
    _prepare_buckets(trial)
    repository.publish(PROJECT / "trial/sample-app", _repository_path(trial))


def _wait_for(name: str, address: str, port: int, machine: Machine, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=2).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TrialError(
                    f"The trial's {name} neighbour does not answer on {address}:{port} ({error}). Look with "
                    f"`trial/droplet exec --name {machine.trial} --role neighbours -- systemctl --failed`, or begin "
                    "again with --fresh."
                ) from error
            time.sleep(0.1)


def _prepare_database(trial: Record, machine: Machine) -> None:
    psql = ("runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--quiet", "--tuples-only")
    variables = f"\\set name '{_DATABASE}'\n\\set password '{trial.database_password}'\n"
    script = f"{variables}\\i /opt/neighbours/database.sql\n"
    machine.tell(*psql, stdin=script)
    in_database = (*psql, "--dbname", _DATABASE)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('auth', 'public')"
    schema = next((PROJECT / name for name in _SCHEMAS if (PROJECT / name).exists()), None)
    if schema is not None and machine.tell(*in_database, stdin=tables).strip() == "0":
        text = f"\\set ON_ERROR_STOP on\nBEGIN;\nSET ROLE {_DATABASE};\n{schema.read_text()}\nCOMMIT;\n"
        machine.tell(*in_database, stdin=text)


def _prepare_buckets(trial: Record, seconds: float = 120) -> None:
    """Make the buckets as Backblaze has them, by the control port, which takes no signatures."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    for name in _buckets(trial):
        target = f"{_s3_control(trial)}/buckets/{name}"
        body = json.dumps({"object_lock": name.endswith("-locked")}).encode()
        request = urllib.request.Request(target, data=body, method="PUT")  # noqa: S310 (its own http)
        while True:
            try:
                opener.open(request, timeout=30).close()
                break
            except urllib.error.HTTPError as error:
                # 502: the storage behind it is still starting.
                if error.code != 502 or time.monotonic() > deadline:
                    raise TrialError(f"The S3 neighbour refused {target} ({error}). Begin again with --fresh.") from error
                time.sleep(0.1)
            except OSError as error:
                raise TrialError(f"The S3 neighbour cannot be reached ({error}). Begin again with --fresh.") from error


def fetch_issuing_root(trial: Record, machine: Machine) -> Path:
    """Return the file with the root of the certificates issued now; the CA makes a new one at each of its starts.

    With the neighbours stopped it is the last one known.
    """
    target = trial.home_place.acme_root
    if machine.leader() is None or not trial.home_place.acme_ca.exists():
        return target
    context = ssl.create_default_context(cafile=str(trial.home_place.acme_ca))
    address = f"https://{trial.neighbours_port.address}:{_ACME_MANAGEMENT_PORT}/roots/0"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(address, timeout=60) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise TrialError(
            f"The ACME neighbour does not hand out its root certificate ({error}). See its journal: `trial/droplet "
            f"exec --name {trial.home} --role neighbours -- journalctl -u neighbour-acme`."
        ) from error
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.rename(target)
    return target


def _dns_answer(trial: Record) -> str:
    """Return the name server's file about the droplet's domain: each droplet has one."""
    return f"/etc/dnsmasq.d/answer-{trial.name}.conf"


def _answer(trial: Record, address: str | None) -> str:
    """Return the name server's settings: the droplet's domain and all below it are at `address`, or do not exist."""
    return f"local=/{trial.domain}/\n" + (f"address=/{trial.domain}/{address}\n" if address else "")


def answer_dns(trial: Record, machine: Machine, address: str | None) -> None:
    """Change what the droplet's domain resolves to.

    Arguments:
        trial: the trial.
        machine: its neighbours.
        address: an IPv4 address, `none` for no such name, None for the droplet's own address.

    Raises:
        TrialError: the address is none, or the neighbours are not running.
    """
    if address not in (None, "none"):
        try:
            socket.inet_aton(str(address))
        except OSError as error:
            raise TrialError(f"{address!r} is not an IPv4 address; give one, or `none` for no such name.") from error
    wanted = trial.droplet_port.address if address is None else (None if address == "none" else address)
    _answer_with(trial, machine, _answer(trial, wanted))


def _answer_with(trial: Record, machine: Machine, answer: str | None) -> None:
    if answer is None:
        (machine.root / _dns_answer(trial).lstrip("/")).unlink(missing_ok=True)
    else:
        write_file(machine.root, _dns_answer(trial), answer)
    # Six changes in ten seconds are no sign that something is wrong with it.
    machine.tell("systemctl", "reset-failed", "dnsmasq.service")
    machine.tell("systemctl", "restart", "dnsmasq.service")
