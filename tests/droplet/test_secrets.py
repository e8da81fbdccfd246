"""No secret is found where it may not be: in a log, the journal, a cache, an argument, or a file of anybody else."""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.parse
from collections.abc import Iterator

import pytest
import yaml

from . import harm
from .conftest import Droplet
from .leaking import ALLOWED, Secrets, leaks, secrets, secrets_of, watched

DROPLET_PILLAR = "/etc/giggles/pillar/droplet.sls"


@pytest.fixture(scope="module")
def planted(droplet: Droplet) -> Secrets:
    """Return the secrets of the converged droplet."""
    droplet.converge()
    return secrets_of(droplet)


# --- the search itself ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key(droplet: Droplet) -> str:
    """Return one of the secrets."""
    return yaml.safe_load(droplet.exec(["cat", DROPLET_PILLAR]).stdout)["giggles"]["secrets"]["app"]["SECRET_KEY"]


def test_a_planted_file_is_found_in_every_form(droplet: Droplet, planted: Secrets, key: str) -> None:
    begin = time.time() - 0.1
    forms = {
        "/var/log/planted-plain": f"a line with {key} in it\n",
        "/tmp/planted-hex": key.encode().hex(),
        "/run/planted-url": urllib.parse.quote(f"postgresql://x:{key}@y", safe=""),
        "/var/cache/salt/minion/planted-base64": base64.b64encode(f"xy{key}, and more".encode()).decode(),
        "/usr/share/planted-base64url": base64.urlsafe_b64encode(f"z{key}".encode()).decode(),
    }
    try:
        for path, content in forms.items():
            droplet.write(path, content)
        assert leaks(droplet, planted, since=begin) == sorted(f"SECRET_KEY in {path}" for path in forms)
    finally:
        droplet.exec(["rm", "-f", *forms])
    assert leaks(droplet, planted, since=begin) == []


def test_an_allowed_file_that_others_may_read_is_found(droplet: Droplet, planted: Secrets) -> None:
    begin = time.time() - 0.1
    try:
        droplet.shell("chmod 0640 /opt/giggles/.env")
        assert leaks(droplet, planted, since=begin) == ["others may read /opt/giggles/.env, which holds secrets"]
    finally:
        droplet.shell("chmod 0600 /opt/giggles/.env")


def test_a_planted_line_in_the_journal_is_found(droplet: Droplet, key: str) -> None:
    """With a secret made up for this, since a line cannot be taken out of a journal again."""
    made_up = secrets({"ONE": key[::-1], "TWO": f"two{key[::-1]}", "THREE": f"three{key[::-1]}", "FOUR": f"4{key[::-1]}"})
    begin = time.time() - 0.1
    droplet.exec(["systemd-cat", "cat"], stdin=f"somebody logged {key[::-1]} here\n".encode())
    droplet.shell("journalctl --sync")
    assert "ONE in the journal" in leaks(droplet, made_up, since=begin)


def test_a_planted_argument_and_environment_are_found(droplet: Droplet, planted: Secrets, key: str) -> None:
    with watched(droplet, planted) as witness:
        droplet.exec(["bash", "-c", "exec sleep 0.5", key])
        droplet.exec(["runuser", "-u", "nobody", "--", "bash", "-c", "read -r KEY; export KEY; exec sleep 0.7"], stdin=f"{key}\n".encode())
    assert witness.looks > 5
    assert "SECRET_KEY in the arguments of 'bash'" not in witness.leaks, "sleep takes its place"
    assert any("in the environment of 'sleep 0.7" in leak for leak in witness.leaks), witness


# --- what a server does --------------------------------------------------------------------------------------------------


def test_a_converged_droplet_holds_its_secrets_in_their_places_only(droplet: Droplet, planted: Secrets) -> None:
    assert leaks(droplet, planted) == []
    modes = droplet.shell(f"stat -c '%n %a' {' '.join(sorted(ALLOWED))}").splitlines()
    assert {line.split()[1] for line in modes} == {"600"}


def test_looking_and_applying_show_no_secret(droplet: Droplet, planted: Secrets) -> None:
    begin = time.time() - 0.1
    # With work to do in both: the files that hold secrets are gone or differ, and would be shown as differences.
    damage = "rm /opt/giggles/process.env; sed -i 's/^SECRET_KEY=.*/SECRET_KEY=was-something-else-before/' /opt/giggles/.env"
    with watched(droplet, planted) as witness:
        droplet.shell(damage)
        looked = droplet.apply("test=True")
        done = droplet.exec(["salt-call", "--local", "--retcode-passthrough", "--state-verbose=True", "--state-output=full", "state.apply"])
    shown = done.stdout.decode() + done.stderr.decode()
    assert {"app-environment", "process-environment"} <= set(looked.changed)
    assert "process-environment" in shown
    assert any("salt-call" in words for words in witness.seen)
    assert witness.leaks == set()
    assert leaks(droplet, planted, looked.text, shown, since=begin) == []


@pytest.fixture
def rotated(droplet: Droplet, planted: Secrets) -> Iterator[Secrets]:
    """Put other secrets into droplet.sls, of awkward characters; the earlier ones are back at the end."""
    # Kept here and not on the droplet, where it would be found.
    kept = droplet.exec(["cat", DROPLET_PILLAR]).stdout
    pillar = yaml.safe_load(kept)
    app = pillar["giggles"]["secrets"]["app"]
    app["SECRET_KEY"] = "Rotated-%s-{{ 7*7 }}-$HOME-`id`-" + app["SECRET_KEY"][::-1]
    app["SUPABASE_SERVICE_ROLE_KEY"] = "rotated-" + app["SUPABASE_SERVICE_ROLE_KEY"][::-1]
    text = "#!quiet_yaml\n" + json.dumps(pillar)
    put = ["bash", "-euc", f"cat > {DROPLET_PILLAR}"]
    droplet.exec(put, stdin=text.encode())
    try:
        yield secrets_of(droplet) | planted
    finally:
        droplet.exec(put, stdin=kept)
        droplet.converge()


def test_a_rotation_shows_neither_the_old_nor_the_new_secret(droplet: Droplet, rotated: Secrets) -> None:
    begin = time.time() - 0.1
    with harm.serving(droplet), watched(droplet, rotated) as witness:
        looked = droplet.apply("test=True")
        done = droplet.apply()
    assert done.code == 0, done.failed
    assert "app-environment" in looked.changed
    assert "app-environment" in done.changed
    environment = droplet.shell("cat /opt/giggles/.env")
    assert rotated.found_in(environment.encode()) >= {"SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"}
    assert "Rotated-" in environment
    assert witness.leaks == set()
    assert leaks(droplet, rotated, looked.text, done.text, since=begin) == []


def test_a_failing_template_shows_no_secret(droplet: Droplet, planted: Secrets) -> None:
    """The renderer of .env fails half-way; Salt likes to quote what it was rendering."""
    begin = time.time() - 0.1
    template = "/srv/giggles-salt/salt/app/files/opt/giggles/env.py"
    droplet.shell(f"cp -a {template} /root/kept-env.py; echo '    raise ValueError(__pillar__)' >> {template}")
    droplet.shell(f'sed -i \'s/^    giggles = .*/&\\n    giggles["secrets"]["app"]["NONSENSE"] = "x"/\' {template}')
    try:
        outcome = droplet.apply("app.environment")
    finally:
        droplet.shell(f"mv /root/kept-env.py {template}")
    assert outcome.code == 2
    assert "NONSENSE" in outcome.failed["app-environment"]
    assert leaks(droplet, planted, outcome.text, since=begin) == []


def test_debugging_leaves_no_secret_behind(droplet: Droplet, planted: Secrets) -> None:
    """`-l debug` may show an operator much, but writes no secret to the log, the journal or a cache."""
    begin = time.time() - 0.1
    droplet.shell("rm /opt/giggles/process.env")
    with watched(droplet, planted) as witness:
        done = droplet.exec(["salt-call", "--local", "--retcode-passthrough", "-l", "debug", "state.apply"])
    shown = done.stdout + done.stderr
    assert b"[DEBUG" in shown
    assert droplet.shell("test -e /opt/giggles/process.env && echo made") == "made\n"
    assert witness.leaks == set()
    assert leaks(droplet, planted, since=begin) == []
    assert planted.found_in(shown) == set(), f"on the terminal: {sorted(planted.found_in(shown))}"


def test_salt_logs_errors_only(droplet: Droplet) -> None:
    """What is never written cannot leak: the log file of Salt takes warnings and worse, whatever `-l` says."""
    level = droplet.exec(["salt-call", "--local", "--out=txt", "config.get", "log_level_logfile"]).stdout.decode()
    assert re.search(r"local: (warning|error|critical)?$", level.strip()), level
