"""`trial/droplet` as programs use it: what goes through it comes out as it went in, and what it says is true."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import DRIVER, EXEC_TIMEOUT, Droplet

PROMISED = {
    "name": str, "release": str, "state": str, "bootstrapped": bool, "ip": str, "domain": str, "acme_root": str, "uploads": str,
    "ssh": {"user": str, "port": int, "private_key": str},
    "s3": {
        "endpoint": str, "tls_endpoint": str, "control": str, "region": str, "bucket": str, "locked_bucket": str,
        "access_key": str, "secret_key": str,
    },
    "acme": {"directory": str, "ca_bundle": str},
    "smtp": {"host": str, "port": int},
    "database_url": str, "mail_dir": str, "app_repository": str, "app_repository_path": str, "app_ref": str,
}  # fmt: skip


def through(droplet: Droplet, command: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command by the program itself, which other tests spare themselves."""
    whole = [str(DRIVER), "exec", "--name", droplet.name, "--", *command]
    return subprocess.run(whole, input=stdin, capture_output=True, check=False, timeout=EXEC_TIMEOUT)


def test_what_goes_through_exec_comes_out_as_it_was(droplet: Droplet) -> None:
    sent = bytes(range(256)) * 16 + os.urandom(2 * 1024 * 1024) + b"\r\n\x00\x04\x1a"
    assert through(droplet, ["cat"], stdin=sent).stdout == sent
    counted = through(droplet, ["sha256sum"], stdin=sent).stdout.split()[0].decode()
    assert counted == hashlib.sha256(sent).hexdigest()


def test_output_and_errors_stay_apart(droplet: Droplet) -> None:
    done = through(droplet, ["bash", "-c", "printf 'out\\n'; printf 'err\\0' >&2; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\0", 3)


@pytest.mark.parametrize("code", [0, 1, 42, 124, 255])
def test_exit_codes_are_the_commands_own(droplet: Droplet, code: int) -> None:
    assert through(droplet, ["bash", "-c", f"exit {code}"]).returncode == code


def test_commands_that_cannot_be_run_have_codes_of_their_own(droplet: Droplet) -> None:
    assert through(droplet, ["/no/such/program"]).returncode == 127
    assert through(droplet, ["/etc/passwd"]).returncode == 126
    gone = subprocess.run(
        [str(DRIVER), "exec", "--name", "no-such-droplet", "--", "true"], capture_output=True, check=False, timeout=EXEC_TIMEOUT
    )
    assert gone.returncode == 125
    assert b"no-such-droplet" in gone.stderr
    nothing = subprocess.run([str(DRIVER), "exec", "--name", droplet.name, "--"], capture_output=True, check=False, timeout=EXEC_TIMEOUT)
    assert nothing.returncode == 125
    assert b"needs a command" in nothing.stderr


def test_a_command_that_was_killed_looks_killed(droplet: Droplet) -> None:
    assert through(droplet, ["bash", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
    # Nobody can end himself by the uncatchable one and still be read as an exit code: 128 + 9, as shells have it.
    assert through(droplet, ["bash", "-c", "kill -KILL $$"]).returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def test_words_are_passed_as_they_are(droplet: Droplet) -> None:
    words = ["", " ", "a b", "'", '"', "$HOME", "*", "--name", "-x", "line\nline", "ümlaut 🌙", "\\"]
    answered = through(droplet, ["python3", "-c", "import json, sys; json.dump(sys.argv[1:], sys.stdout)", *words]).stdout
    assert json.loads(answered) == words


def test_it_is_root_with_the_environment_of_a_login(droplet: Droplet) -> None:
    shown = through(droplet, ["bash", "-euc", "env -u _ -u SHLVL -u PWD -u OLDPWD"]).stdout.decode()
    environment = dict(line.split("=", 1) for line in shown.splitlines())
    assert droplet.shell("id -u; pwd").split() == ["0", "/root"]
    assert environment["HOME"] == "/root"
    assert "GIGGLES_TRIAL_NAME" not in environment, "something of this machine's environment came along"
    assert droplet.shell("hostname").strip() == droplet.name


def test_without_a_terminal_everything_works(droplet: Droplet) -> None:
    """As from cron: no terminal, no session, next to no environment, nothing to read from."""
    for arguments in (["info", "--name", droplet.name, "--json"], ["info", "--name", droplet.name], ["list", "--json"], ["list"],
                      ["exec", "--name", droplet.name, "--", "true"]):  # fmt: skip
        done = subprocess.run(
            [str(DRIVER), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=EXEC_TIMEOUT,
            start_new_session=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        assert b"\x1b" not in done.stdout + done.stderr, "colours are for terminals"
        if "--json" in arguments:
            json.loads(done.stdout)
            assert done.stderr == b""
    assert through(droplet, ["tty"]).stdout == b"not a tty\n"


def test_a_closed_standard_input_is_an_end_of_file(droplet: Droplet) -> None:
    done = subprocess.run(["bash", "-c", f"'{DRIVER}' exec --name {droplet.name} -- cat <&-"], capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_a_reader_who_leaves_early_ends_the_command(droplet: Droplet) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{DRIVER}' exec --name {droplet.name} -- yes | head -c 4"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == b"y\ny\n"
    assert b"Traceback" not in done.stderr
    assert droplet.shell("pgrep -xc yes || true").strip() == "0"


def test_whoever_ends_exec_ends_the_command(droplet: Droplet) -> None:
    mark = f"31{int(time.time()) % 100000}"
    for number, code in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        started = subprocess.Popen([str(DRIVER), "exec", "--name", droplet.name, "--", "sleep", mark], stdin=subprocess.DEVNULL)
        try:
            droplet.wait_for("the command to start", lambda: droplet.shell(f"pgrep -fxc 'sleep {mark}' || true").strip() == "1")
            started.send_signal(number)
            assert started.wait(20) == code
        finally:
            if started.poll() is None:
                started.kill()
        droplet.wait_for("it to end inside as well", lambda: droplet.shell(f"pgrep -fxc 'sleep {mark}' || true").strip() == "0")


def test_info_holds_what_it_promises(droplet: Droplet) -> None:
    def check(facts: dict[str, object], promised: dict[str, object], where: str) -> None:
        for key, kind in promised.items():
            assert key in facts, f"{where}{key} is missing"
            if isinstance(kind, dict):
                check(facts[key], kind, f"{where}{key}.")  # type: ignore[arg-type]
            else:
                assert isinstance(facts[key], kind), f"{where}{key} is {facts[key]!r}"  # type: ignore[arg-type]
                assert facts[key] not in ("", 0), f"{where}{key} is empty"

    facts = json.loads(droplet.driver("info", "--json").stdout)
    check(facts, PROMISED, "")
    assert facts["name"] == droplet.name
    assert facts["domain"] == f"{droplet.name}.giggles.test"
    assert (facts["state"], facts["bootstrapped"]) == ("running", True)


def test_info_is_true(droplet: Droplet) -> None:
    facts = json.loads(droplet.driver("info", "--json").stdout)
    # A file of this droplet's users is seen from here, where info says.
    name = f"seen-{uuid.uuid4().hex}"
    droplet.shell(f"echo seen > /var/lib/giggles/uploads/temp/{name}")
    try:
        assert Path(facts["uploads"], "temp", name).read_text() == "seen\n"
    finally:
        droplet.shell(f"rm /var/lib/giggles/uploads/temp/{name}")
    assert Path(facts["acme_root"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert droplet.healthy(), "the domain, address and certificate authority do not go together"
    assert Path(facts["ssh"]["private_key"]).stat().st_mode & 0o077 == 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{facts['s3']['endpoint']}/{facts['s3']['bucket']}/no-such-object", timeout=60)  # noqa: S310
    assert b"NoSuchKey" in refused.value.read() or refused.value.code == 403
    connected = droplet.exec(
        [
            "/opt/giggles/current/.venv/bin/python",
            "-c",
            "import psycopg, sys; print(psycopg.connect(sys.stdin.read()).execute('select count(*) from public.users').fetchone()[0])",
        ],
        stdin=facts["database_url"].encode(),
    )
    assert int(connected.stdout) >= 0
    known = subprocess.run(
        ["git", "-c", "safe.directory=*", f"--git-dir={facts['app_repository_path']}", "cat-file", "-t", facts["app_ref"]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert known.stdout == "commit\n"
    assert facts["app_ref"] in droplet.shell(f"git ls-remote {facts['app_repository']}")


def test_the_s3_server_is_as_strict_as_backblaze(droplet: Droplet) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    storage = droplet.info["s3"]
    client = boto3.client(
        "s3",
        endpoint_url=storage["tls_endpoint"],
        verify=droplet.info["acme"]["ca_bundle"],
        region_name=storage["region"],
        aws_access_key_id=storage["access_key"],
        aws_secret_access_key=storage["secret_key"],
        config=Config(
            request_checksum_calculation="when_required", response_checksum_validation="when_required", s3={"addressing_style": "path"}
        ),
    )
    assert client.get_bucket_versioning(Bucket=storage["bucket"])["Status"] == "Enabled"
    lock = client.get_object_lock_configuration(Bucket=storage["locked_bucket"])
    assert lock["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    name = uuid.uuid4().hex
    with pytest.raises(ClientError, match="Content-MD5"):
        client.put_object(Bucket=storage["locked_bucket"], Key=name, Body=b"1")
    version = client.put_object(Bucket=storage["bucket"], Key=name, Body=b"1")["VersionId"]
    client.delete_object(Bucket=storage["bucket"], Key=name, VersionId=version)
    with urllib.request.urlopen(f"{storage['control']}/keys", timeout=60) as answer:  # noqa: S310
        assert storage["access_key"] in json.load(answer)


def test_mail_is_kept_and_goes_nowhere(droplet: Droplet) -> None:
    facts, mark = droplet.info, uuid.uuid4().hex
    send = """
import smtplib, sys
host, port, subject = sys.argv[1:]
smtplib.SMTP(host, int(port), timeout=60).sendmail("a@giggles.test", ["b@example.com"], f"Subject: {subject}\\r\\n\\r\\ntext")
"""
    droplet.exec(["python3", "-c", send, facts["smtp"]["host"], str(facts["smtp"]["port"]), mark])
    droplet.wait_for("the mail", lambda: any(mark in mail.read_text() for mail in Path(facts["mail_dir"]).glob("*.eml")))
    with contextlib.suppress(FileNotFoundError):
        for mail in Path(facts["mail_dir"]).glob("*.eml"):
            if mark in mail.read_text():
                mail.unlink()


def test_the_domain_can_be_sent_elsewhere_and_back(droplet: Droplet) -> None:
    def resolved() -> str:
        return droplet.shell(f"getent ahostsv4 {droplet.info['domain']} | awk '{{print $1}}' | sort -u || true").strip()

    assert resolved() == droplet.info["ip"]
    try:
        droplet.driver("dns", "--answer", "203.0.113.9")
        droplet.wait_for("the other address", lambda: resolved() == "203.0.113.9")
        droplet.driver("dns", "--answer", "none")
        droplet.wait_for("no address", lambda: resolved() == "")
    finally:
        droplet.driver("dns", "--reset")
    droplet.wait_for("its own address", lambda: resolved() == droplet.info["ip"])


@pytest.mark.parametrize("name", ["", "-x", "a/b", "../up", "UPPER", "a" * 25, "trailing-", "sp ace", "1st"])
def test_a_name_that_cannot_be_a_host_is_refused(name: str) -> None:
    done = subprocess.run([str(DRIVER), "info", f"--name={name}", "--json"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert b"cannot be a droplet's name" in done.stderr
