"""The backup at work on a booted droplet: nothing that opens it is told, and an erasure reaches it when the bucket is back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gigglekit.backup import kit as recovery_kit

from . import clips, leaking
from .clips import UPLOADS, Written, ask, library, new_users, rows, wrong
from .conftest import Droplet
from .test_backup_units import bucket_away, control
from .test_bad_input import paragraph
from .test_shred import _KEY_OF, ERASED, forms

KIT = "/root/kit.txt"

# Prints JSON: every key that opens a clip, a snapshot or a dump, in hex, by its name.
_KEYS = """
import json, sys
from gigglekit.crypto import keys
from gigglekit.vault.keyring import DUMPS, SNAPSHOTS, Keyring
from gigglekit.vault.places import Places
from gigglekit.vault.receipt import Receipts
places = Places()
keyring = Keyring(places)
found = {f"root key {number}": keyring.root_key(keyring.vault_id(user)) for number, user in enumerate(sys.argv[1:])}
found |= {"snapshot key": keyring.secret(SNAPSHOTS), "secret of dumps": keyring.secret(DUMPS)}
found |= {name.replace("root", "backup"): keys.derive(key, "giggles-salt/v1/backup") for name, key in found.items() if "root" in name}
found["the bucket's share"] = (places.memory / keyring.share().id).read_bytes()
print(json.dumps({name: key.hex() for name, key in found.items()}))
"""
_VERSIONS = """
import json, sys
from gigglekit.backup import settings
from gigglekit.backup.bucket import Bucket
bucket = Bucket(settings.load())
print(json.dumps([version.name for prefix in sys.argv[1:] for version in bucket.versions(prefix)]))
"""


@pytest.fixture(scope="module", autouse=True)
def mended(droplet: Droplet) -> Iterator[None]:
    """A droplet with a recovery kit; at the end a highstate has nothing to repair, and the receipts hold."""
    droplet.converge()
    assert ask(droplet, "recovery_kit", "rotate=True").code == 0
    yield
    control(droplet, "DELETE", "/faults")
    assert droplet.converge().changed == {}
    assert ask(droplet, "verify_receipt").code == 0
    assert droplet.shell("systemctl list-units --failed --plain --no-legend 'giggles*' '*uploads*'") == ""


@contextmanager
def somebody(droplet: Droplet, users: int = 1) -> Iterator[Written]:
    """Have users with two clips each; take what is left of them out of the database afterwards."""
    done = clips.store(droplet, new_users(users), clips=2, size=32_000)
    assert done.failed == []
    try:
        yield done
    finally:
        clips.forgotten(droplet, done.users)


@contextmanager
def kit_in_a_file(droplet: Droplet, text: str) -> Iterator[str]:
    """Have the kit where the handbook has an operator put it."""
    droplet.write(KIT, text, "0600")
    try:
        yield KIT
    finally:
        droplet.shell(f"shred -u {KIT}")


def versions(droplet: Droplet, *prefixes: str) -> list[str]:
    """Return the names of all objects below these prefixes, once for each version."""
    return list(library(droplet, _VERSIONS, *prefixes))


# --- what is shown ------------------------------------------------------------------------------------------------------


def test_nothing_that_opens_the_backup_is_shown_or_kept_whatever_is_asked(droplet: Droplet) -> None:
    since = leaking.now(droplet)
    with somebody(droplet, 2) as done:
        keys = {name: bytes.fromhex(key) for name, key in library(droplet, _KEYS, *done.users).items()}
        application = leaking.secrets_of(droplet)
        wanted = forms(keys) | application
        assert "application_key" in application.forms.values()
        with leaking.watched(droplet, wanted) as witness:
            asked = ask(droplet, "recovery_kit", "rotate=True")
            assert asked.code == 0, asked.text
            page = recovery_kit.read(asked.returned)
            armour = next(line for line in asked.returned.splitlines() if line.startswith("key:")).split()[1]
            kit = forms({"the kit's key": page.key, "the kit's key as it is printed": armour.encode()})
            kit |= leaking.Secrets({armour.replace("-", "").encode(): "the kit's key without hyphens"})
            assert kit.found_in(asked.text.encode()), "the search does not find the kit where it is"
            said = [ask(droplet, "sync"), ask(droplet, "snapshots"), ask(droplet, "verify", "read_data=all"), ask(droplet, "prune")]
            with kit_in_a_file(droplet, asked.returned) as path:
                said += [
                    ask(droplet, "restore", f"kit={path}", "target=/run/giggles-look", f"user_id={done.users[0]}"),
                    # Refused, and a refusal quotes nothing either.
                    ask(droplet, "restore_database", f"kit={path}"),
                ]
                droplet.shell("rm -r /run/giggles-look")
                droplet.shell(f"sed -i 's/^key: ../key: 22/' {path}")
                said.append(ask(droplet, "restore", f"kit={path}", "target=/run/giggles-look"))
            droplet.shell("systemctl start giggles-backup.service giggles-drill.service")
            said.append(ask(droplet, "shred", f"user_id={done.users[0]}"))
        assert [one.code == 0 for one in said] == [True] * 5 + [False] * 2 + [True], [one.text for one in said if one.code]
        paragraph(said[5].text, "clean=True")
        paragraph(said[6].text, "typing mistake")
        texts = [one.text for one in said]
        assert witness.looks > 50
        assert any("giggles.recovery_kit" in words for words in witness.seen)
        assert any("gigglekit.operations drill" in words for words in witness.seen)
        assert witness.leaks == set()
        # The application key has its places, and no other program prints it; of the rest nothing lies anywhere at all.
        assert leaking.leaks(droplet, wanted | kit, *texts, since=since) == []
        assert kit.found_in(asked.text.replace(armour, "").encode()) == set(), "the kit says its key once"
        assert wanted.found_in(asked.text.encode()) == set()


# --- an erasure ---------------------------------------------------------------------------------------------------------


def test_an_erasure_without_the_bucket_is_pending_until_the_backup_completes_it(droplet: Droplet) -> None:
    with somebody(droplet, 2) as done:
        user, other = done.users
        vault = clips.vault_ids(droplet, user)[user]
        assert ask(droplet, "sync").code == 0
        sealed = f"keys/users/{vault}"
        assert versions(droplet, sealed) == [sealed]
        packs, shares = versions(droplet, "data/"), versions(droplet, "keys/shares/")
        identifier = library(droplet, _KEY_OF, "identifier", user)
        with bucket_away(droplet):
            asked = ask(droplet, "shred", f"user_id={user}")
        # Salt's exit code says that it is not done.
        assert asked.code == 1, asked.text
        waiting = json.loads(asked.text)["local"]
        assert waiting["erased"] is False
        assert "not erased yet" in waiting["pending"]
        copies = {copy["copy"]: copy["method"] for copy in waiting["copies"]}
        assert ERASED in copies["clips and audio"]
        assert "pending" in copies["backup"]
        # Here it is done: only the copies elsewhere wait.
        assert library(droplet, _KEY_OF, "status", identifier) == "ABSENT"
        assert set(rows(droplet, user).values()) == {0}
        assert versions(droplet, sealed) == [sealed]
        assert ask(droplet, "verify_receipt", str(waiting["receipt"])).code == 0
        paragraph(ask(droplet, "restore", f"user_id={user}").text, "was erased")

        droplet.shell("systemctl start giggles-backup.service")
        assert versions(droplet, sealed) == []
        assert len(set(packs) - set(versions(droplet, "data/"))) == 1, "the user had one pack"
        assert set(versions(droplet, f"ledger/erased/{vault}")) == {f"ledger/erased/{vault}"}
        assert not set(shares) & set(versions(droplet, "keys/shares/")), "the share that was in force with the user's key is left"
        checked = ask(droplet, "verify_receipt")
        assert checked.code == 0, checked.text
        again = ask(droplet, "shred", f"user_id={user}")
        assert again.code == 0, again.text
        assert (again.returned["erased"], again.returned["confirmed"], again.returned["pending"]) == (True, True, "")
        completing = ask(droplet, "receipts", str(again.returned["receipt"])).returned
        assert completing["completes"] == waiting["receipt"]
        assert user not in asked.text + again.text + checked.text
        assert wrong(droplet, done.without(user)) == []
        assert ask(droplet, "verify", "read_data=all").code == 0
        droplet.shell(f"rm {UPLOADS}/clips/{other}/*")
        assert ask(droplet, "restore", f"user_id={other}").returned["files"] == 2
        assert wrong(droplet, done.without(user)) == []
