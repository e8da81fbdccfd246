"""`salt-call giggles.shred`: one command erases one user everywhere, proves it, and touches nobody else."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from . import clips, leaking
from .clips import KEYS, LEDGER, UPLOADS, Written, ask, library, new_users, rows, sql, wrong
from .conftest import DRIVER, Droplet
from .load import under_load
from .test_app import chosen
from .test_bad_input import paragraph

BOUND_SECONDS = 20.0
ERASED = "cryptographic erase"

_SECRETS = """
import json, sys
from pathlib import Path
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.places import Places
keyring, found = Keyring(Places()), {}
for user in sys.argv[1:]:
    vault = keyring.vault_id(user)
    root = keyring.root_key(vault)
    wrapped = Path(f"/etc/giggles/keys/ring/vaults/{vault}.key").read_bytes()
    found[user] = [root.hex(), fscrypt_key(root).hex(), wrapped.hex()]
found["key-encryption key"] = [Path("/etc/giggles/keys/ring/key-encryption-key").read_bytes().hex()]
print(json.dumps(found))
"""
_KEY_OF = """
import json, sys
from gigglekit.vault import fscrypt
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.places import Places
from gigglekit.vault.volume import mounted
if sys.argv[1] == "identifier":
    root = Keyring(Places()).root_key(Keyring(Places()).vault_id(sys.argv[2]))
    print(json.dumps(fscrypt.identifier_for(fscrypt_key(root)).hex()))
else:
    with mounted(Places()) as volume:
        print(json.dumps(fscrypt.status(volume.root, bytes.fromhex(sys.argv[2])).name))
"""


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """At the end of all that is erased, a highstate has nothing to repair and the receipts hold."""
    droplet.converge()
    yield
    assert droplet.converge().changed == {}
    assert ask(droplet, "verify_receipt").code == 0
    assert droplet.shell(f"ls {LEDGER}/journal 2>/dev/null || true") == ""
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*' '*uploads*'") == ""


@pytest.fixture(scope="module")
def others(droplet: Droplet) -> Iterator[Written]:
    """Users whom nobody may touch."""
    done = clips.store(droplet, new_users(5), clips=2, size=32_000)
    assert done.failed == []
    yield done
    clips.forgotten(droplet, done.users)


_THEIRS = """
SELECT count(d.id), count(DISTINCT d.user_id), count(DISTINCT u.id) FROM public.laughter_detections d
JOIN public.users u ON u.id = d.user_id WHERE u.id = ANY (string_to_array(:'users', ',')::uuid[])
"""


@pytest.fixture(autouse=True)
def untouched(droplet: Droplet, others: Written) -> Iterator[None]:
    """Whatever a test does, everybody else keeps clips and rows."""
    yield
    assert wrong(droplet, others) == []
    assert sql(droplet, _THEIRS, users=",".join(others.users)) == "10|5|5"


@contextmanager
def somebody(droplet: Droplet, number: int = 2, size: int = 32_000) -> Iterator[Written]:
    """Have one user with clips, a recording, and rows in every table; take what is left out of the database afterwards."""
    done = clips.store(droplet, new_users(1), clips=number, size=size)
    assert done.failed == []
    user = done.users[0]
    clips.add_log(droplet, user)
    try:
        yield done
    finally:
        clips.forgotten(droplet, [user])


def receipts(droplet: Droplet) -> list[int]:
    return [one["number"] for one in ask(droplet, "receipts").returned]


def refused(droplet: Droplet, what: clips.Asked, *words: str) -> None:
    """Insist on one paragraph for an operator."""
    assert what.code != 0
    assert "Usage" not in what.text
    paragraph(what.text, *words)


# --- from end to end --------------------------------------------------------------------------------------------------


def test_a_user_is_erased_everywhere_with_a_receipt_that_openssl_checks(droplet: Droplet) -> None:
    since = leaking.now(droplet)
    marker = f"laugh-{uuid.uuid4()}".encode()
    done = clips.store(droplet, new_users(1), clips=3, size=32_000, marker=marker)
    user, vault = done.users[0], clips.vault_ids(droplet, *done.users)[done.users[0]]
    legacy, stranger = f"{UPLOADS}/clips/legacy-{vault[:8]}.wav", f"{UPLOADS}/clips/stranger-{vault[:8]}.wav"
    # By no program that the journal would note with its arguments.
    droplet.shell(
        f"for path in {legacy} {stranger}; do echo old > $path; done; mkdir {UPLOADS}/audio/{user}; "
        f"echo sound > {UPLOADS}/audio/{user}/a.ogg; chown -R giggles: {legacy} {stranger} {UPLOADS}/audio/{user}/"
    )
    clips.add_detection(droplet, user, legacy)
    clips.add_log(droplet, user)
    droplet.wait_for("adoption", lambda: droplet.shell(f"test -L {UPLOADS}/audio/{user} && echo yes || true") != "", seconds=BOUND_SECONDS)
    assert rows(droplet, user) == {
        "auth.users": 1,
        "public.users": 1,
        "public.limitless_keys": 1,
        "public.audio_segments": 3,
        "public.laughter_detections": 4,
        "public.processing_logs": 1,
    }
    secret = library(droplet, _SECRETS, user)
    identifier = library(droplet, _KEY_OF, "identifier", user)

    looked = ask(droplet, "shred", f"user_id={user}", "dry_run=True")
    assert looked.code == 0, looked.text
    assert looked.returned["erased"] is False
    assert (looked.returned["state"], looked.returned["files"], looked.returned["legacy"]) == ("present", 4, 1)
    assert looked.returned["rows"] == rows(droplet, user)
    assert wrong(droplet, done) == [], "only looking erased something"

    with under_load(droplet, clients=2) as load:
        asked = ask(droplet, "shred", f"user_id={user}")
    assert asked.code == 0, asked.text
    print(f"erased in {asked.seconds:.1f} s, the key after {asked.returned['key_destroyed_after']} s, {load.answers.total()} requests")
    assert load.lost == {}
    assert asked.returned["erased"] is True
    assert asked.returned["confirmed"] is False
    assert asked.returned["subject"] == vault
    by_copy = {copy["copy"]: copy for copy in asked.returned["copies"]}
    assert ERASED in by_copy["clips and audio"]["method"]
    assert by_copy["clips and audio"]["files"] == 4
    assert by_copy["legacy clips"]["files"] == 1
    assert by_copy["database"]["rows"]["public.laughter_detections"] == 4

    assert set(rows(droplet, user).values()) == {0}
    assert library(droplet, _KEY_OF, "status", identifier) == "ABSENT"
    assert droplet.shell(f"ls -d {legacy} {UPLOADS}/vaults/{vault} {KEYS}/ring/vaults/{vault}.key 2>/dev/null || true") == ""
    assert droplet.shell(f"cat {stranger}; rm {stranger}") == "old\n", "a clip that no row names is nobody's"
    again = ask(droplet, "shred", f"user_id={user}")
    assert again.code == 0, again.text
    assert again.returned["confirmed"] is True
    assert again.returned["receipt"] == asked.returned["receipt"]

    number = asked.returned["receipt"]
    checked = ask(droplet, "verify_receipt", str(number))
    assert checked.code == 0, checked.text
    assert checked.returned["valid"] is True
    assert checked.returned["receipt"]["subject"] == vault
    folder = f"{LEDGER}/receipts/{number:06d}"
    check = "openssl pkeyutl -verify -pubin -inkey ../receipts.pub -rawin -sigfile receipt.sig -in"
    changed = f"sed 's/{number}/{number + 1}/' receipt.json > /run/changed; if {check} /run/changed; then exit 9; fi; rm /run/changed"
    assert "Signature Verified Successfully" in droplet.shell(f"cd {folder}; {check} receipt.json; {changed}")
    kept = json.loads(droplet.exec(["cat", f"{folder}/receipt.json"]).stdout)
    assert kept["copies"] == asked.returned["copies"]
    if number > 1:
        before = droplet.shell(f"sha256sum {LEDGER}/receipts/{number - 1:06d}/receipt.json").split()[0]
        assert kept["previous"] == before

    # Nothing of it was said anywhere; the id only by the operator, in Salt's own words about the command.
    said = looked.text + asked.text + again.text + checked.text
    keys = {f"key {n}": bytes.fromhex(key) for n, key in enumerate([*secret[user], *secret["key-encryption key"]])}
    wanted = forms({**keys, "marker": marker, "e-mail": f"{user}@example.com".encode()})
    assert leaking.leaks(droplet, wanted, said, since=since) == []
    assert user not in asked.text + again.text + checked.text
    places = leaking.leaks(droplet, forms({"user id": user.encode()}), since=since)
    assert places == [], "the user's id is kept"
    assert droplet.shell(f"grep -rlF {user} {LEDGER} {KEYS} /var/log/giggles /var/log/salt /var/cache/salt 2>/dev/null || true") == ""


def forms(values: dict[str, bytes]) -> leaking.Secrets:
    """Return what to look for: each value as it is, in hex and in Base64, wherever that can be told from chance."""
    found: dict[bytes, str] = {}
    for name, value in values.items():
        for form in (value, value.hex().encode(), value.hex().upper().encode(), base64.b64encode(value).rstrip(b"=")[:-1]):
            # The list goes to grep by lines.
            if b"\n" not in form and b"\0" not in form:
                found[form] = name
    return leaking.Secrets(found)


# --- afterwards -------------------------------------------------------------------------------------------------------


def everywhere(droplet: Droplet, user: str, vault: str) -> str:
    """Return whatever lies on the volume by the name of a user, but for the links that keep the name taken."""
    by_name = f"find {UPLOADS} '(' -name '*{user}*' -o -name '{vault}' ')' ! -type l"
    return droplet.shell(f"{by_name}; find -L {UPLOADS}/*/{user} -type f 2>/dev/null || true")


def test_nothing_of_an_erased_user_comes_back(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        (user,) = done.users
        vault = clips.vault_ids(droplet, user)[user]
        assert ask(droplet, "shred", f"user_id={user}").code == 0

        # The app signs the user up again and stores, as its code does.
        again = clips.store(droplet, [user], clips=2, adopted=False)
        assert [failure[1:3] for failure in again.failed] == [["POST", 500]] * 2
        for kind in ("clips", "audio"):
            for command in ("mkdir", "mkdir -p", "touch"):
                path = f"{UPLOADS}/{kind}/{user}{'/x' if command == 'touch' else ''}"
                assert droplet.exec(["runuser", "-u", "giggles", "--", *command.split(), path], check=False).returncode != 0, command
        assert everywhere(droplet, user, vault) == ""

        # What is put there by force is erased again.
        force = f"rm {UPLOADS}/clips/{user}; mkdir {UPLOADS}/clips/{user}; echo forced > {UPLOADS}/clips/{user}/forced.wav"
        began = time.monotonic()
        droplet.shell(f"runuser -u giggles -- bash -c {shlex.quote(force)}")
        seen = set()

        def erased() -> bool:
            seen.update(droplet.shell(f"ls -d {UPLOADS}/vaults/{vault} {KEYS}/ring/vaults/{vault}.key 2>/dev/null || true").split())
            return everywhere(droplet, user, vault) == ""

        droplet.wait_for("what was forced to be erased", erased, seconds=BOUND_SECONDS)
        print(f"erased again {time.monotonic() - began:.1f} s after it was put there")
        assert seen == set()
        assert droplet.shell(f"readlink {UPLOADS}/clips/{user}").strip() == f"../vaults/{vault}/clips"

        # Neither a restart of the adopter, nor a new lobby, nor an apply brings anything back.
        assert ask(droplet, "renew_lobby").code == 0
        assert droplet.converge().changed == {}
        droplet.shell("systemctl restart giggles-vault-adopt")
        assert everywhere(droplet, user, vault) == ""

        # The rows that signing up again has made can be erased as well, with a receipt of their own.
        assert rows(droplet, user)["auth.users"] == 1
        second = ask(droplet, "shred", f"user_id={user}")
        assert second.code == 0, second.text
        assert second.returned["confirmed"] is False
        assert set(rows(droplet, user).values()) == {0}


# --- open files -------------------------------------------------------------------------------------------------------


def test_a_foreign_program_with_an_open_file_is_named_and_nothing_is_reported_as_erased(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        (user,) = done.users
        before = receipts(droplet)
        holder = droplet.shell(f"tail -f {done.written[0][2]} > /dev/null 2>&1 & echo $!").strip()
        try:
            looked = ask(droplet, "shred", f"user_id={user}", "dry_run=True")
            assert any(holder in one and "tail" in one for one in looked.returned["holders"]), looked.text
            asked = ask(droplet, "shred", f"user_id={user}")
            refused(droplet, asked, "not erased", "tail", holder, "ask again")
            assert user not in asked.text
            assert receipts(droplet) == before
            assert ask(droplet, "vaults").returned["being_erased"] == 1
            more = clips.store(droplet, [user], clips=1, adopted=False)
            assert [failure[1:3] for failure in more.failed] == [["POST", 500]], "new files are refused meanwhile"
            still = ask(droplet, "shred", f"user_id={user}", "dry_run=True")
            assert still.returned["state"] == "being erased"
        finally:
            droplet.shell(f"kill {holder}")
        asked = ask(droplet, "shred", f"user_id={user}")
        assert asked.code == 0, asked.text
        assert receipts(droplet) == [*before, asked.returned["receipt"]]
        assert set(rows(droplet, user).values()) == {0}


# Asks the app for a clip over its socket and reads nothing of it, until standard input ends.
_SLOW = """
import http.client, socket, sys
order = sys.stdin.readline().split()
connection = socket.socket(socket.AF_UNIX)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
connection.connect("/run/giggles.sock")
lines = ["GET /api/audio-clips/" + order[0] + " HTTP/1.1", "Host: localhost", "Authorization: Bearer " + order[1], "", ""]
connection.sendall("\\r\\n".join(lines).encode())
print("asked", flush=True)
sys.stdin.readline()
"""


def test_the_app_with_an_open_file_is_restarted_and_no_request_is_lost(droplet: Droplet) -> None:
    with somebody(droplet, number=1, size=8_000_000) as done:
        (user,) = done.users
        vault = clips.vault_ids(droplet, user)[user]
        process = "systemctl show -p MainPID --value giggles.service"
        before = droplet.shell(process).strip()
        with droplet_program(droplet, _SLOW, f"{done.written[0][1]} {done.tokens[user]}\n"):
            held = f"ls -l /proc/{before}/fd | grep -F {vault} || true"
            droplet.wait_for("the app to hold the clip", lambda: droplet.shell(held) != "", seconds=BOUND_SECONDS)
            with under_load(droplet) as load:
                asked = ask(droplet, "shred", f"user_id={user}")
            assert asked.code == 0, asked.text
        print(f"{asked.seconds:.1f} s, {load.answers.total()} requests, the slowest {load.slowest:.1f} s")
        assert load.lost == {}
        assert droplet.shell(process).strip() != before, "the app was not restarted, so it held nothing"
        assert ERASED in asked.returned["copies"][0]["method"]
        assert set(rows(droplet, user).values()) == {0}


@contextmanager
def droplet_program(droplet: Droplet, script: str, said: str) -> Iterator[None]:
    """Have a Python program run inside during the block, from its first line of output on."""
    program = subprocess.Popen(
        [str(DRIVER), "exec", "--name", droplet.name, "--", "/usr/bin/python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdin
    assert program.stdout
    try:
        program.stdin.write(said.encode())
        program.stdin.flush()
        program.stdout.readline()
        yield
    finally:
        program.stdin.close()
        try:
            program.wait(20)
        finally:
            program.kill()


# --- the database -----------------------------------------------------------------------------------------------------


def test_without_the_database_clips_are_erased_and_rows_follow(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        (user,) = done.users
        vault = clips.vault_ids(droplet, user)[user]
        identifier = library(droplet, _KEY_OF, "identifier", user)
        before = receipts(droplet)
        clips.neighbour(droplet, "systemctl stop postgresql")
        try:
            asked = ask(droplet, "shred", f"user_id={user}")
            again = ask(droplet, "shred", f"user_id={user}")
        finally:
            clips.neighbour(droplet, "systemctl start postgresql")
        for one in (asked, again):
            refused(droplet, one, "clips are erased", "rows in the database are not", "no receipt", "does not answer", "DATABASE_URL")
            assert user not in one.text
            assert password(droplet) not in one.text
        assert library(droplet, _KEY_OF, "status", identifier) == "ABSENT"
        assert everywhere(droplet, user, vault) == ""
        droplet.wait_for("the database", lambda: rows(droplet, user)["auth.users"] == 1, seconds=BOUND_SECONDS)
        assert receipts(droplet) == before
        asked = ask(droplet, "shred", f"user_id={user}")
        assert asked.code == 0, asked.text
        assert ERASED in asked.returned["copies"][0]["method"]
        assert set(rows(droplet, user).values()) == {0}
        assert ask(droplet, "vaults").returned["being_erased"] == 0


def password(droplet: Droplet) -> str:
    return str(urllib.parse.urlsplit(droplet.info["database_url"]).password)


def test_an_account_that_does_not_see_every_row_is_refused(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        (user,) = done.users
        limited = "limited"
        sql(
            droplet,
            f"CREATE ROLE {limited} LOGIN PASSWORD 'limited-one'; GRANT USAGE ON SCHEMA public, auth TO {limited}; "
            f"GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA public, auth TO {limited}",
        )
        try:
            url = urllib.parse.urlsplit(droplet.info["database_url"])
            other = url._replace(netloc=f"{limited}:limited-one@{url.hostname}:{url.port}").geturl()
            with chosen(droplet, lambda top: top["secrets"]["app"].update(DATABASE_URL=other)):
                asked = ask(droplet, "shred", f"user_id={user}")
                swept = ask(droplet, "sweep", "older_than_days=0")
            for one in (asked, swept):
                refused(droplet, one, "Row level security", "owns the tables")
                assert "limited-one" not in one.text
            assert rows(droplet, user)["public.users"] == 1
            assert wrong(droplet, done) == [] or "being erased" in ask(droplet, "shred", f"user_id={user}", "dry_run=True").text
        finally:
            sql(droplet, f"DROP OWNED BY {limited}; DROP ROLE {limited}")
        asked = ask(droplet, "shred", f"user_id={user}")
        assert asked.code == 0, asked.text
        assert set(rows(droplet, user).values()) == {0}


# --- what somebody may type -------------------------------------------------------------------------------------------


def test_bad_input_is_one_paragraph_and_erases_nothing(droplet: Droplet, others: Written) -> None:
    user, victim = others.users[:2]
    theirs = clips.vault_ids(droplet, victim)[victim]
    stranger = str(uuid.uuid4())
    tries: dict[str, tuple[list[str], str]] = {
        "no id": ([], "none was given"),
        "empty": (["user_id="], "empty"),
        "no UUID": (["user_id=everybody"], "no UUID"),
        "a number": (["user_id=42"], "number"),
        "a path": (["user_id=../../clips"], "no UUID"),
        "a path after an id": ([f"user_id={user}/../{victim}"], "no UUID"),
        "a pattern": (["user_id=*"], "no UUID"),
        "upper case": ([f"user_id={user.upper()}"], "upper-case"),
        "without hyphens": ([f"user_id={user.replace('-', '')}"], "no UUID"),
        "two lines": ([f"user_id={user}\n{victim}"], "no UUID"),
        "a list": ([f"user_id=[{user}, {victim}]"], "list"),
        "a mapping": ([f"user_id={{id: {user}}}"], "one text"),
        "true": (["user_id=True"], "one text"),
        "nobody": ([f"user_id={stranger}"], "Nothing is known of this user"),
        "nobody, only looking": (["user_id=x", "dry_run=True"], "no UUID"),
        "a vault id": ([f"user_id={theirs}"], "no UUID"),
        "no receipt": (["--receipt", "77777"], "no receipt 77777"),
    }
    before = receipts(droplet)
    started: dict[str, Any] = {}
    for names in [list(tries)[at : at + 6] for at in range(0, len(tries), 6)]:
        for name in names:
            arguments = tries[name][0]
            if arguments[:1] == ["--receipt"]:
                started[name] = clips.start(droplet, "verify_receipt", *arguments[1:])
            else:
                started[name] = clips.start(droplet, "shred", *arguments)
        for name in names:
            asked = clips.answer(started[name])
            print(f"--- {name}")
            refused(droplet, asked, tries[name][1])
            assert victim not in asked.text
    assert receipts(droplet) == before
    assert droplet.shell(f"ls {LEDGER}/journal 2>/dev/null || true") == ""


def test_somebody_elses_folder_by_a_link_is_refused(droplet: Droplet, others: Written) -> None:
    victim = others.users[0]
    theirs = clips.vault_ids(droplet, victim)[victim]
    with somebody(droplet) as done:
        (user,) = done.users
        ours = clips.vault_ids(droplet, user)[user]
        link = f"{UPLOADS}/clips/{user}"
        droplet.shell(f"ln -sfn ../vaults/{theirs}/clips {link}")
        asked = ask(droplet, "shred", f"user_id={user}")
        refused(droplet, asked, "is a link to", "not this user's", "remove the link")
        droplet.shell(f"ln -sfn ../vaults/{ours}/clips {link}")
        assert wrong(droplet, done) == []

        droplet.shell(f"mkdir {UPLOADS}/vaults/{ours}/clips/in; mount -t tmpfs none {UPLOADS}/vaults/{ours}/clips/in")
        asked = ask(droplet, "shred", f"user_id={user}")
        droplet.shell(f"umount {UPLOADS}/vaults/{ours}/clips/in; rmdir {UPLOADS}/vaults/{ours}/clips/in")
        refused(droplet, asked, "file system is mounted", "umount")
        assert wrong(droplet, done) == []

        asked = ask(droplet, "shred", f"user_id={user}")
        assert asked.code == 0, asked.text


def test_two_at_once_of_one_user_and_of_several_all_end_well(droplet: Droplet) -> None:
    done = clips.store(droplet, new_users(3), clips=2, size=32_000)
    assert done.failed == []
    before = receipts(droplet)
    one = done.users[0]
    with clips.storing(droplet, new_users(2)) as load:
        running = [clips.start(droplet, "shred", f"user_id={user}") for user in (one, one, *done.users[1:])]
        answers = [clips.answer(each) for each in running]
    clips.forgotten(droplet, load.users)
    for asked in answers:
        assert asked.code == 0, asked.text
    print(f"4 at once: {', '.join(f'{asked.seconds:.1f}' for asked in answers)} s, {len(load.written)} clips of others stored meanwhile")
    assert answers[0].returned["receipt"] == answers[1].returned["receipt"]
    assert sorted(asked.returned["confirmed"] for asked in answers) == [False, False, False, True]
    assert receipts(droplet) == [*before, *range(len(before) + 1, len(before) + 4)]
    for user in done.users:
        assert set(rows(droplet, user).values()) == {0}
    assert (load.failed, load.unanswered) == ([], 0)
    assert wrong(droplet, load) == []


# --- sweeping ---------------------------------------------------------------------------------------------------------


def test_a_sweep_erases_old_clips_that_no_row_names_and_only_those(droplet: Droplet, others: Written) -> None:
    user = others.users[0]
    old, young, named = (f"{UPLOADS}/clips/{user}/sweep-{which}.wav" for which in ("old", "young", "named"))
    droplet.shell(
        f"for path in {old} {young} {named}; do echo sound > $path; chown giggles: $path; done; touch -d '-40 days' {old} {named}; "
        f"touch -d '-20 days' {young}"
    )
    clips.add_detection(droplet, user, named)
    there = f"ls {UPLOADS}/clips/{user}/ | grep sweep- || true"
    try:
        looked = ask(droplet, "sweep", "dry_run=True")
        assert looked.code == 0, looked.text
        assert (looked.returned["orphans"], looked.returned["erased"]) == (1, 0)
        clips.neighbour(droplet, "systemctl stop postgresql")
        try:
            refused(droplet, ask(droplet, "sweep"), "does not answer")
        finally:
            clips.neighbour(droplet, "systemctl start postgresql")
        droplet.wait_for("the database", lambda: sql(droplet, "SELECT 1") == "1", seconds=BOUND_SECONDS)

        # Just restored, and empty: the rows are there for nobody.
        sql(droplet, "ALTER TABLE public.laughter_detections RENAME TO kept; CREATE TABLE public.laughter_detections (LIKE kept)")
        sql(droplet, "ALTER TABLE public.laughter_detections OWNER TO giggles")
        try:
            refused(droplet, ask(droplet, "sweep"), "Nothing was erased", "just restored", "anyway=True")
        finally:
            sql(droplet, "DROP TABLE public.laughter_detections; ALTER TABLE kept RENAME TO laughter_detections")
        assert droplet.shell(there).split() == ["sweep-named.wav", "sweep-old.wav", "sweep-young.wav"]

        # As the timer does it.
        droplet.shell("systemctl start giggles-vault-sweep.service")
        assert droplet.shell(there).split() == ["sweep-named.wav", "sweep-young.wav"]
        refused(droplet, ask(droplet, "sweep", "older_than_days=-1"), "0 or more")
        refused(droplet, ask(droplet, "sweep", "older_than_days=soon"), "number of days")
    finally:
        droplet.shell(f"rm -f {UPLOADS}/clips/{user}/sweep-*")
        sql(droplet, "DELETE FROM public.laughter_detections WHERE clip_path = :'path'", path=named)


# --- what is shown meanwhile ------------------------------------------------------------------------------------------


def test_no_process_shows_a_key_or_an_address_while_a_user_is_erased(droplet: Droplet) -> None:
    with somebody(droplet) as done:
        (user,) = done.users
        secret = library(droplet, _SECRETS, user)
        keys = {f"key {n}": bytes.fromhex(key) for n, key in enumerate([*secret[user], *secret["key-encryption key"]])}
        wanted = forms({**keys, "e-mail": f"{user}@example.com".encode(), "password": password(droplet).encode()})
        with leaking.watched(droplet, wanted) as witness:
            asked = ask(droplet, "shred", f"user_id={user}")
            shown = ask(droplet, "vaults")
        assert asked.code == 0, asked.text
        assert witness.looks > 10
        assert any("giggles.shred" in words for words in witness.seen)
        assert witness.leaks == set()
        assert wanted.found_in((asked.text + shown.text).encode()) == set()
