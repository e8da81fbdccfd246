"""A droplet is lost: what another one has of it, given the kit and the bucket and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gigglekit.backup import names, probe, signed
from gigglekit.backup.errors import BackupError, DamagedError, RefusedError
from gigglekit.backup.signed import Signer
from gigglekit.crypto import chunked, keys
from gigglekit.operations import kits, restoring, saving
from gigglekit.vault import fscrypt
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import DUMPS, SNAPSHOTS, fscrypt_key

from tests.unit import saved_droplet
from tests.unit.b2 import Storage
from tests.unit.backup_folder import samples
from tests.unit.saved_droplet import Saved, calls_of, killed_before
from tests.unit.test_vault_killed import spread

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def old(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        yield made


@pytest.fixture
def new(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        yield made


def keys_of(droplet: Saved) -> dict[str, Any]:
    """Return everything that a droplet goes on with in place of another."""
    ring = droplet.keyring
    return {
        "names": ring.names_key(),
        "roots": {vault: ring.root_key(vault) for vault in ring.vaults()},
        "snapshots": ring.secret(SNAPSHOTS),
        "signing": droplet.receipts.signing_key(),
        "receipts": {number: droplet.receipts.raw(number) for number in droplet.receipts.numbers()},
        "tombstones": {vault: droplet.ledger.tombstone(vault) for vault in droplet.ledger.tombstones()},
        "kit": droplet.operated.kit_public(),
    }


def state_of(droplet: Saved) -> dict[str, bytes]:
    """Return every file of a droplet's keys and ledger."""
    places = droplet.places
    return {str(path): path.read_bytes() for place in (places.keys, places.ledger) for path in place.rglob("*") if path.is_file()}


def test_another_droplet_goes_on_where_the_lost_one_was(old: Saved, new: Saved) -> None:
    kit = old.kit()
    users = old.new_users(3)
    erased = users.pop()
    old.sync()
    old.erase(erased)
    old.sync()
    wanted = {user: (old.clips(user), old.modes(user), old.links(user), old.vault_id(user)) for user in users}
    keys, secret = keys_of(old), old.keyring.secret(DUMPS)

    done = new.restore(kit_text=kit)
    assert (done["users"], done["files"], done["problems"]) == (2, 4, [])
    assert {user: (new.clips(user), new.modes(user), new.links(user), new.vault_id(user)) for user in users} == wanted
    assert keys_of(new) == keys
    assert new.keyring.secret(DUMPS) not in (None, secret), "what opened dumps on the old one lies in no bucket"
    assert new.receipts.check().problems == ()
    assert not new.path("clips", erased).exists()
    assert new.examine(erased).state == "erased"
    assert [file for file in new.disk.place.rglob("*") if file.name.startswith(names.UNFINISHED)] == []

    before = new.objects(names.DATA)
    synced = new.sync()
    assert (synced["new_files"], synced["problems"], synced["users"], synced["files"]) == (0, [], 2, 4)
    assert new.objects(names.DATA) == before
    assert new.verify()["problems"] == []
    (later,) = new.new_users()
    assert new.sync()["new_files"] == 2
    assert new.erase(users[0]).receipt == 2
    assert new.receipts.check().problems == ()
    assert new.clips(users[1]) == wanted[users[1]][0]
    assert new.clips(later)
    # Somebody who was erased and comes again is refused as before.
    new.path("clips", erased).mkdir()
    new.path("clips", erased, "again.wav").write_bytes(b"again")
    new.adopt_all()
    assert not new.path("clips", erased).exists()


def test_asked_again_it_changes_nothing(old: Saved, new: Saved) -> None:
    kit = old.kit()
    old.new_users(2)
    old.sync()
    new.restore(kit_text=kit)
    keys = keys_of(new)
    again = new.restore(kit_text=kit)
    assert (again["files"], again["same"], again["problems"]) == (0, 4, [])
    assert keys_of(new) == keys


def test_the_key_may_lie_in_two_shares(old: Saved, new: Saved) -> None:
    kit = old.kit()
    (user,) = old.new_users()
    clips = old.clips(user)
    old.share_key()
    old.sync()
    new.share_key()
    new.restore(kit_text=kit)
    assert new.clips(user) == clips
    assert new.keyring.share() is not None
    assert new.sync()["problems"] == []
    assert new.erase(user).pending == ""


def test_where_somebody_has_a_vault_already_nothing_is_taken_over(old: Saved, new: Saved) -> None:
    kit = old.kit()
    users = old.new_users(2)
    old.sync()
    old.erase(users[0])
    (there,) = new.new_users()
    clips, before = new.clips(there), state_of(new)
    with pytest.raises(VaultError, match="already have vaults"):
        new.restore(kit_text=kit)
    assert state_of(new) == before
    assert new.clips(there) == clips
    # To look at it is possible.
    done = new.restore(kit_text=kit, target=str(new.folder / "look"))
    assert (done["files"], done["problems"]) == (2, [])
    assert state_of(new) == before


def test_where_somebody_was_erased_already_nothing_is_taken_over_by_halves(old: Saved, new: Saved) -> None:
    kit = old.kit()
    old.new_users()
    old.sync()
    (there,) = new.new_users()
    new.shred(there)
    before = state_of(new)
    with pytest.raises(VaultError, match="signed by another key"):
        new.restore(kit_text=kit)
    assert state_of(new) == before


def test_a_folder_that_the_app_made_meanwhile_is_adopted_into_the_restored_vault(old: Saved, new: Saved) -> None:
    kit = old.kit()
    (user,) = old.new_users()
    clips = old.clips(user)
    old.sync()
    new.path("clips", user).mkdir()
    new.path("clips", user, "meanwhile.wav").write_bytes(b"meanwhile")
    assert new.restore(kit_text=kit)["problems"] == []
    new.adopt_all()
    assert clips.items() < new.clips(user).items()
    assert "meanwhile.wav" in new.clips(user)


@pytest.mark.usefixtures("unflushed")
def test_killed_anywhere_the_next_run_takes_over_all(old: Saved, b2: Storage) -> None:
    kit = old.kit()
    users = old.new_users(2)
    gone = users.pop()
    old.sync()
    old.erase(gone)
    old.sync()
    keys = keys_of(old)
    (user,) = users
    with saved_droplet.saved(b2) as new:
        calls = calls_of(lambda: new.restore(kit_text=kit))
    for call in spread(calls, samples(7)):
        with saved_droplet.saved(b2) as new:
            assert killed_before(call, lambda new=new: new.restore(kit_text=kit))  # type: ignore[misc]
            where = f"killed before call {call} of {calls}"
            there = {name: digest for name, digest in new.clips(user).items() if not name.startswith(names.UNFINISHED)}
            assert there.items() <= old.clips(user).items(), where
            assert new.restore(kit_text=kit)["problems"] == [], where
            assert keys_of(new) == keys, where
            assert (new.clips(user), new.modes(user)) == (old.clips(user), old.modes(user)), where
            assert new.sync()["new_files"] == 0, where


@pytest.mark.usefixtures("unflushed")
def test_killed_while_keys_are_taken_over_nobody_new_loses_a_key(old: Saved, b2: Storage) -> None:
    """Between two tries the app goes on, and users whose ids are in the backup come to it again."""
    kit = old.kit()
    (user,) = old.new_users()
    clips = old.clips(user)
    old.sync()

    def take_over(droplet: Saved) -> None:
        source = restoring.open_with_kit(droplet.operated, restoring.read_kit(kit))
        with droplet.places.locked():
            restoring._take_over(droplet.operated, source, restoring.read_kit(kit))

    with saved_droplet.saved(b2) as new:
        calls = calls_of(lambda: take_over(new))
    refused, tries = 0, list(spread(calls, samples(5)))
    for call in tries:
        with saved_droplet.saved(b2) as new:
            killed_before(call, lambda new=new: take_over(new))  # type: ignore[misc]
            new.path("clips", user).mkdir(exist_ok=True)
            new.path("clips", user, "meanwhile.wav").write_bytes(b"meanwhile")
            new.adopt_all()
            try:
                assert new.restore(kit_text=kit)["problems"] == []
                assert clips.items() < new.clips(user).items()
            except VaultError:
                refused += 1
            root = new.keyring.root_key(new.vault_id(user))
            assert root is not None
            with new.volume() as opened, opened.vault(new.vault_id(user)) as folder:
                assert fscrypt.identifier_of(folder) == fscrypt.identifier_for(fscrypt_key(root)), "the key on disk opens what is there"
            assert "meanwhile.wav" in new.clips(user)
    assert refused < len(tries)


def test_a_kit_with_a_typing_mistake_changes_nothing_and_is_quoted_nowhere(old: Saved, new: Saved) -> None:
    kit = old.kit()
    old.new_users()
    old.sync()
    before = state_of(new)
    (line,) = [line for line in kit.splitlines() if line.startswith("key: ")]
    wrong = "B" if line[8] != "B" else "C"
    for text in (kit.replace(line, line[:8] + wrong + line[9:]), kit.replace(line, ""), "", "nonsense", kit.replace("kit 1", "kit 2")):
        with pytest.raises(RefusedError, match="Nothing was changed") as caught:
            new.restore(kit_text=text)
        told = str(caught.value)
        assert "\n" not in told
        assert not any(group in told for group in line.removeprefix("key: ").split("-"))
    assert state_of(new) == before
    # As somebody types it.
    assert new.restore(kit_text="\n  " + kit.replace(line, line.lower().replace("-", " ")))["problems"] == []


def test_a_kit_for_another_bucket_is_refused(old: Saved, new: Saved, b2_locked: Storage) -> None:
    kit = old.kit()
    old.new_users()
    old.sync()
    before = state_of(new)
    new.storage = b2_locked
    new.configure()
    with pytest.raises(RefusedError, match="is for the bucket") as caught:
        new.restore(kit_text=kit)
    assert "giggles:backup" in str(caught.value)
    # And one whose bucket is empty.
    new.storage = old.storage
    new.configure(prefix="other/")
    with pytest.raises(RefusedError, match="Nothing was changed"):
        new.restore(kit_text=kit.replace("prefix:", "prefix: other/"))
    assert state_of(new) == before


def test_a_rotated_kit_opens_what_is_there_and_the_one_before_only_a_copy_from_before(old: Saved, new: Saved) -> None:
    first = old.kit()
    users = old.new_users(2)
    old.sync()
    copy = old.copy_of_bucket()
    second = old.kit(rotate=True)
    before = state_of(new)
    with pytest.raises(RefusedError, match="newest one is needed"):
        new.restore(kit_text=first)
    assert state_of(new) == before
    # Not even an earlier version is left.
    kit = restoring.read_kit(first)
    bare = old.storage.bare_client()
    keys = bare.list_object_versions(Bucket=old.storage.bucket, Prefix="keys/")["Versions"]
    assert len(keys) == 5
    for version in keys:
        data = bare.get_object(Bucket=old.storage.bucket, Key=version["Key"], VersionId=version["VersionId"])["Body"].read()
        with pytest.raises(signed.NotReadableError):
            signed.unseal_key(version["Key"], data, kit.key, kit.signer)
    target = new.folder / "look"
    assert new.restore(kit_text=second, target=str(target))["files"] == 4
    # A copy of the bucket from before, put somewhere.
    new.configure(prefix="copy/")
    bucket = new.bucket()
    for name, data in copy.items():
        bucket.put(name, data)
    as_copied = {text: text.replace("prefix:", "prefix: copy/") for text in (first, second)}
    with pytest.raises(RefusedError, match="kit of its time"):
        new.restore(kit_text=as_copied[second])
    done = new.restore(kit_text=as_copied[first])
    assert (done["files"], done["problems"]) == (4, [])
    assert {user: new.clips(user) for user in users} == {user: old.clips(user) for user in users}


def test_after_a_rotation_everything_goes_on(old: Saved, new: Saved) -> None:
    old.kit()
    users = old.new_users(2)
    old.sync()
    kit = old.kit(rotate=True)
    users += old.new_users()
    assert old.sync()["problems"] == []
    assert old.verify()["problems"] == []
    assert new.restore(kit_text=kit)["files"] == 6
    assert {user: new.clips(user) for user in users} == {user: old.clips(user) for user in users}


def plant_dump(droplet: Saved, *, known: bool = True) -> tuple[str, bytes]:
    """Have a dump in the bucket, made since the last erasure or not; return its name and the key that opens it."""
    repository, dump = droplet.operated.repository(), names.new_id()
    key = (droplet.operated.dump_key(dump) if known else None) or keys.new()
    repository.store_key(names.DATABASE_KEYS + dump, key)
    repository.bucket.put(names.DATABASE + dump, chunked.encrypt(key, names.dump_context(dump), b"rows"))
    return dump, key


def opened_by(kit_text: str, droplet: Saved) -> dict[str, bytes]:
    """Return the keys of dumps that a kit opens."""
    kit, bucket, found = restoring.read_kit(kit_text), droplet.bucket(), {}
    for name in droplet.objects(names.DATABASE_KEYS):
        with contextlib.suppress(signed.NotReadableError):
            found[name.removeprefix(names.DATABASE_KEYS)] = signed.unseal_key(name, bucket.get(name), kit.key, kit.signer)
    return found


def test_a_rotation_that_the_bucket_does_not_let_end_leaves_the_kit_of_before_in_force(old: Saved, new: Saved) -> None:
    kit = old.kit()
    users = old.new_users(3)
    old.sync()
    dumps = dict([plant_dump(old), plant_dump(old, known=False)])
    key = old.storage.key("listBuckets", "listFiles", "readFiles")
    old.configure(key_id=key[0], application_key=key[1])
    with pytest.raises(BackupError, match=r"not replaced.*still in force.*rotate=True"):
        old.kit(rotate=True)
    old.configure()
    old.sync()
    assert new.restore(kit_text=kit)["problems"] == []
    assert {user: new.clips(user) for user in users} == {user: old.clips(user) for user in users}
    assert opened_by(kit, old) == dumps


def test_a_dump_that_ended_after_a_rotation_that_did_not_gets_no_key_again(old: Saved) -> None:
    """Where dumps are locked they outlast their keys."""
    old.kit()
    old.new_users()
    old.sync()
    dump, _ = plant_dump(old)
    with old.operated.manifest() as manifest, manifest.change():
        manifest.put(f"{kits._SEALED}{dump}", "of no kit")
    old.bucket().erase(names.DATABASE_KEYS + dump)
    assert old.sync()["problems"] == []
    assert (old.versions(names.DATABASE_KEYS), old.objects(names.DATABASE)) == ([], [names.DATABASE + dump])
    with old.operated.manifest() as manifest:
        assert manifest.all(kits._SEALED) == {}


def test_dumps_that_only_the_kit_of_before_opens_end_when_the_new_one_is_in_force_and_the_next_backup_sees_to_it(
    old: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.kit()
    old.new_users()
    old.sync()
    dumps = [plant_dump(old), plant_dump(old, known=False)]
    steps = iter([kits.finish, _not_now])

    def finish(*given: Any) -> None:
        next(steps)(*given)

    with monkeypatch.context() as gone:
        gone.setattr(kits, "finish", finish)
        kit = old.kit(rotate=True)
    assert len(old.versions(names.DATABASE_KEYS)) == 3, "the control: all that the kit of before opens, and what the new one does"
    assert opened_by(kit, old) == dict(dumps[:1])
    assert old.sync()["problems"] == []
    assert old.versions(names.DATABASE_KEYS) == [names.DATABASE_KEYS + dumps[0][0]]
    assert opened_by(kit, old) == dict(dumps[:1])


@pytest.mark.parametrize("times", [1, 2])
def test_a_dump_opens_after_replacements_of_the_kit_that_did_not_end_and_an_erasure_before_the_next_backup(
    old: Saved, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    # What the erasure takes from the droplet, the kit in force has to open.
    kit = old.kit()
    erased, _ = old.new_users(2)
    old.sync()
    dumps = dict([plant_dump(old)])
    for _ in range(times):
        with monkeypatch.context() as gone:
            gone.setattr(type(old.operated), "keep_kit", _not_now)
            with pytest.raises(BackupError):
                old.kit(rotate=True)
    old.erase(erased)
    assert old.sync()["problems"] == []
    assert opened_by(kit, old) == dumps
    assert len(old.versions(names.DATABASE_KEYS)) == 1


def _not_now(*_: object) -> None:
    raise BackupError("The bucket does not answer.")


@pytest.mark.usefixtures("unflushed")
def test_killed_anywhere_while_the_kit_is_replaced_one_of_the_two_opens_everything(old: Saved, b2: Storage) -> None:
    """Dumps too: those that this droplet opens, and those that the kit alone does."""
    kit = old.kit()
    old.new_users()
    old.sync()
    known = dict([plant_dump(old)])
    plant_dump(old, known=False)
    calls, ends, others = calls_of(lambda: old.kit(rotate=True)), [], 0
    for call in spread(calls, samples(7)):
        kit = old.kit(rotate=True)
        before = old.operated.kit_public()
        other = dict([plant_dump(old, known=False)])
        assert killed_before(call, lambda: old.kit(rotate=True))
        where = f"killed before call {call} of {calls}"
        if old.operated.kit_public() != before:
            # Killed between the last step and the moment when somebody reads the new one.
            ends.append(call)
            continue
        assert not ends, where
        assert old.sync()["problems"] == []
        assert opened_by(kit, old) == {**known, **other}, where
        others += 1
        with saved_droplet.saved(b2) as new:
            assert new.restore(kit_text=kit, target=str(new.folder / "look"))["files"] == 2, where
    assert others
    kit = old.kit(rotate=True)
    assert opened_by(kit, old) == known
    assert len(old.versions(names.DATABASE_KEYS)) == 1
    with old.operated.manifest() as manifest:
        assert manifest.all("dump-") == {}


def test_on_the_same_droplet_the_kit_brings_back_nobody_whose_erasure_the_bucket_has_not_heard_of(old: Saved, new: Saved) -> None:
    kit = old.kit()
    erased, kept = old.new_users(2)
    old.sync()
    old.storage.revoke()
    assert old.erase(erased).pending
    old.storage.proxy.set_keys({old.storage.key_id: {"secret": old.storage.application_key, "capabilities": "all"}})
    done = old.restore(kit_text=kit)
    assert (done["users"], done["erased"], done["problems"]) == (1, 1, [])
    assert old.keyring.root_key(old.vault_id(erased)) is None
    assert not old.path("clips", erased).exists()
    with pytest.raises(RefusedError, match="was erased"):
        old.restore(kit_text=kit, user=erased, target=str(new.folder / "look"))
    assert old.restore(kit_text=kit, target=str(new.folder / "look"))["erased"] == 1
    assert old.clips(kept)


def test_an_erasure_that_was_half_done_in_the_bucket_is_ended_by_who_takes_over(old: Saved, new: Saved) -> None:
    kit = old.kit()
    erased, _ = old.new_users(2)
    old.sync()
    signer = old.operated.repository().secrets.signer
    assert signer is not None
    old.bucket().put(*signed.tombstone(old.vault_id(erased), "2026-11-24T00:00:00Z", signer))
    new.restore(kit_text=kit)
    assert new.sealed(erased) not in new.versions()
    assert new.keyring.root_key(old.vault_id(erased)) is None


@pytest.mark.parametrize("nonsense", [b"nonsense", bytes(2 << 20)], ids=["short", "longer than can be"])
def test_a_damaged_key_or_receipt_in_the_bucket_costs_only_itself(old: Saved, new: Saved, nonsense: bytes) -> None:
    kit = old.kit()
    broken, whole, erased = old.new_users(3)
    old.sync()
    old.erase(erased)
    old.sync()
    bucket = old.bucket()
    bucket.put(old.sealed(broken), nonsense)
    (receipt,) = old.objects(names.RECEIPTS)
    bucket.put(receipt, nonsense)
    done = new.restore(kit_text=kit)
    assert new.clips(whole) == old.clips(whole)
    assert any(old.sealed(broken) in problem for problem in done["problems"])
    assert any(receipt in problem for problem in done["problems"])
    assert new.clips(broken) == {}


@pytest.mark.parametrize("nonsense", [b"nonsense", bytes(2 << 20)], ids=["short", "longer than can be"])
def test_a_damaged_tombstone_is_made_up_for_by_the_receipt(old: Saved, new: Saved, nonsense: bytes) -> None:
    """Both are signed, and each says that the user was erased."""
    kit = old.kit()
    kept, erased = old.new_users(2)
    old.sync()
    before = old.copy_of_bucket()
    old.erase(erased)
    old.sync()
    vault, sealed = old.vault_id(erased), old.sealed(erased)
    old.bucket().put(names.ERASED + vault, nonsense)
    # As in a copy of the bucket from before, to which somebody has added what came later.
    old.bucket().put(sealed, before[sealed])
    assert any(names.ERASED + vault in problem for problem in old.verify()["problems"])
    done = new.restore(kit_text=kit)
    assert (done["users"], done["erased"], done["problems"]) == (1, 0, [])
    assert new.clips(kept) == old.clips(kept)
    assert (new.keyring.root_key(vault), new.examine(erased).state) == (None, "erased")
    new.sync()
    assert new.verify()["problems"] == [], "it is written anew"


@pytest.mark.parametrize("has_receipt", [True, False])
def test_a_tombstone_that_was_damaged_is_written_anew_by_who_knows_of_the_erasure(old: Saved, has_receipt: bool) -> None:
    old.kit()
    _, erased = old.new_users(2)
    old.sync()
    old.erase(erased)
    old.sync()
    stone = names.ERASED + old.vault_id(erased)
    old.bucket().put(stone, b"nonsense")
    if not has_receipt:
        old.bucket().erase(old.objects(names.RECEIPTS)[0])
    with contextlib.nullcontext() if has_receipt else pytest.raises(DamagedError, match=stone):
        saving.prune(old.operated)
    assert any(stone in problem for problem in old.verify()["problems"])
    old.sync()
    assert old.verify()["problems"] == []
    saving.prune(old.operated)


def test_what_is_no_tombstone_stops_a_restore_with_the_kit_and_says_what_to_do(old: Saved, new: Saved) -> None:
    kit = old.kit()
    (user,) = old.new_users()
    old.sync()
    before = state_of(new)
    planted = names.ERASED + old.vault_id(user)
    old.bucket().put(planted, b"nonsense")
    # A receipt that nobody of ours has signed says nothing.
    text = json.dumps({"subject": old.vault_id(user), "started": "2026-11-24T00:00:00Z"}).encode()
    receipt = names.RECEIPTS + "000001"
    old.bucket().put(receipt, signed.sign(signed.LEDGER, receipt, bytes(64) + text, Signer(Ed25519PrivateKey.generate())))
    with pytest.raises(DamagedError, match=rf"{planted}.*erased.*receipt.*versions.*delete.*giggles\.shred") as caught:
        new.restore(kit_text=kit)
    assert "snapshot" not in str(caught.value)
    assert state_of(new) == before
    # Nobody has asked to be erased, so somebody else has put it there.
    old.bucket().erase(planted)
    assert [receipt in problem for problem in new.restore(kit_text=kit)["problems"]] == [True]
    assert new.clips(user) == old.clips(user)


def test_what_other_programs_leave_in_the_bucket_is_in_nobodys_way(old: Saved, new: Saved) -> None:
    """The web UI of Backblaze and others mark folders by objects of names that this project never gives."""
    kit = old.kit()
    kept, erased = old.new_users(2)
    old.sync()
    old.erase(erased)
    client, known = old.storage.client(), old.objects()
    for folder in (*{name.rpartition("/")[0] + "/" for name in known}, names.DATABASE, names.DATABASE_KEYS, names.PRUNING, probe.FOLDER):
        for mark in ("", ".bzEmpty", "a name with spaces"):
            client.put_object(Bucket=old.storage.bucket, Key=folder + mark, Body=b"")
    assert old.objects() == known
    assert [finding.text for finding in probe.probe(old.bucket()) if finding.serious] == []
    assert old.verify()["problems"] == []
    assert saving.prune(old.operated)["problems"] == []
    again = old.new_users()[0]
    assert old.sync()["problems"] == []
    assert old.erase(again).pending == ""
    kit = old.kit(rotate=True)
    done = new.restore(kit_text=kit)
    assert (done["files"], done["problems"]) == (2, [])
    assert new.clips(kept) == old.clips(kept)


def test_a_rotation_seals_nobody_whom_another_droplet_has_erased(old: Saved) -> None:
    old.kit()
    erased, _ = old.new_users(2)
    old.sync()
    signer = old.operated.repository().secrets.signer
    assert signer is not None
    old.bucket().put(*signed.tombstone(old.vault_id(erased), "2026-11-24T00:00:00Z", signer))
    old.kit(rotate=True)
    assert old.sealed(erased) not in old.versions()


def test_a_rotation_does_not_destroy_a_key_that_only_the_bucket_has(old: Saved) -> None:
    kit = old.kit()
    lost, _ = old.new_users(2)
    clips = old.clips(lost)
    old.sync()
    ring = (old.places.keys / "ring").resolve()
    (ring / "vaults" / f"{old.vault_id(lost)}.key").unlink()
    with pytest.raises(BackupError, match=rf"(?s){old.sealed(lost)}.*nobody asked for it to be erased.*Nothing was changed"):
        old.kit(rotate=True)
    assert old.restore(kit_text=kit, user=lost, target=str(old.folder / "look"))["problems"] == []
    assert len(clips) == len([*(old.folder / "look" / lost).rglob("*.wav")])


def test_on_a_machine_without_a_vault_a_folder_can_be_restored_into_and_nothing_else(
    old: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gigglekit.operations.droplet import Droplet
    from gigglekit.vault.places import Places

    kit = old.kit()
    (user,) = old.new_users()
    old.sync()
    bare = Droplet(
        Places(tmp_path / "uploads", tmp_path / "keys", tmp_path / "ledger", tmp_path / "vault.json", tmp_path / "lock"),
        tmp_path / "backup.json", tmp_path / "backup", tmp_path / "records", tmp_path / ".env", tmp_path / "backup.lock",
    )  # fmt: skip
    for name in ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RefusedError, match="B2_APPLICATION_KEY_ID"):
        restoring.restore(bare, kit_text=kit, target=str(tmp_path / "look"))
    key = old.storage.key("listFiles", "readFiles")
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", key[0])
    monkeypatch.setenv("B2_APPLICATION_KEY", key[1])
    with pytest.raises((RefusedError, VaultError), match="no vault yet"):
        restoring.restore(bare, kit_text=kit)
    done = restoring.restore(bare, kit_text=kit, target=str(tmp_path / "look"))
    assert (done["files"], done["problems"]) == (2, [])
    assert {path.name for path in (tmp_path / "look" / user / "clips").iterdir()} == set(old.clips(user))
    assert not (tmp_path / "keys").exists()
    with pytest.raises(RefusedError, match="not in the snapshot"):
        restoring.restore(bare, kit_text=kit, target=str(tmp_path / "look"), user=str(uuid.uuid4()))
