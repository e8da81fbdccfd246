"""An erasure reaches the bucket: at once, later, killed anywhere; and whatever somebody stole, nothing of the user is readable."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names, signed, snapshot
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import UnreachableError
from gigglekit.backup.learning import WHOLE
from gigglekit.backup.repository import backup_key
from gigglekit.backup.section import NotReadableError
from gigglekit.backup.sync import Sync
from gigglekit.crypto import chunked, keys
from gigglekit.operations import erasing, restoring, saving
from gigglekit.vault.keyring import DUMPS, Keyring

from tests.unit import saved_droplet
from tests.unit.b2 import Storage
from tests.unit.backup_folder import samples
from tests.unit.saved_droplet import Saved, calls_of, killed_before
from tests.unit.test_vault_killed import spread

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the lock of the backup."""
    monkeypatch.setattr(erasing, "_LOCK_SECONDS", 0.2)


@pytest.fixture
def droplet(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        made.kit_text = made.kit()  # type: ignore[attr-defined]
        yield made


def insist_on_gone(droplet: Saved, user: str) -> None:
    """Nothing of a user is in the bucket but a tombstone, and the droplet knows no key."""
    vault = droplet.vault_id(user)
    assert droplet.sealed(user) not in droplet.versions()
    assert names.ERASED + vault in droplet.objects()
    found = droplet.verify(0.0)
    assert (found["problems"], found["unused"]) == ([], 0)
    assert droplet.keyring.root_key(vault) is None
    assert droplet.receipts.check().problems == ()
    assert droplet.ledger.unfinished() == []


def down(droplet: Saved) -> None:
    droplet.storage.revoke()


def up(droplet: Saved) -> None:
    droplet.storage.proxy.set_keys({droplet.storage.key_id: {"secret": droplet.storage.application_key, "capabilities": "all"}})


def copies_of(receipt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {copy["copy"]: copy for copy in receipt["copies"]}


# --- at once --------------------------------------------------------------------------------------------------------------


def test_key_and_packs_go_at_once_and_the_receipt_says_so(droplet: Saved) -> None:
    erased, kept = droplet.new_users(2)
    droplet.sync()
    clips = droplet.clips(kept)
    packs = droplet.objects(names.DATA)
    outcome = droplet.erase(erased)
    assert (outcome.pending, outcome.confirmed, outcome.receipt) == ("", False, 1)
    assert len(droplet.versions(names.DATA)) == len(packs) - 1
    insist_on_gone(droplet, erased)
    (receipt,) = droplet.subject_receipts(erased)
    copies = copies_of(receipt)
    assert copies["backup"]["method"].endswith("1 data objects were deleted")
    assert "database dumps" not in copies
    # Before any other backup: the droplet may be lost now.
    assert droplet.objects(names.RECEIPTS) == [f"{names.RECEIPTS}000001"]
    again = droplet.erase(erased)
    assert (again.confirmed, again.receipt) == (True, 1)
    assert droplet.sync()["problems"] == []
    assert droplet.clips(kept) == clips
    target = droplet.folder / "look"
    assert droplet.restore(target=str(target))["erased"] == 0
    assert sorted(path.name for path in target.iterdir()) == [kept]


def test_under_object_lock_the_key_goes_at_once_and_the_date_of_the_data_is_told(b2_locked: Storage) -> None:
    with saved_droplet.saved(b2_locked, lock_days=3) as droplet:
        droplet.kit()
        (user,) = droplet.new_users()
        droplet.sync()
        outcome = droplet.erase(user)
        assert outcome.pending == ""
        assert droplet.sealed(user) not in droplet.versions()
        (receipt,) = droplet.subject_receipts(user)
        assert "1 data objects are locked, unreadable, until 20" in copies_of(receipt)["backup"]["method"]


def test_without_a_backup_of_the_user_there_is_a_tombstone_all_the_same(droplet: Saved) -> None:
    droplet.new_users()
    droplet.sync()
    (user,) = droplet.new_users()
    assert droplet.erase(user).pending == ""
    insist_on_gone(droplet, user)


def test_a_manifest_that_was_lost_leaves_nothing_of_the_user_either(droplet: Saved) -> None:
    """What only earlier snapshots had is found too, and nobody else's."""
    erased, kept = droplet.new_users(2)
    droplet.sync()
    for user in (erased, kept):
        droplet.path("clips", user, "2026_0_laughter.wav").unlink()
        droplet.path("clips", user, "later.wav").write_bytes(os.urandom(2000))
    first, second = droplet.sync()["snapshot"], droplet.operated.folder
    shutil.rmtree(second)
    assert len(droplet.versions(names.DATA)) == 4
    outcome = droplet.erase(erased)
    assert "2 data objects were deleted" in copies_of(droplet.receipts.read(outcome.receipt))["backup"]["method"]
    assert len(droplet.versions(names.DATA)) == 2
    insist_on_gone(droplet, erased)
    assert droplet.restore(user=kept, snapshot=first)["problems"] == []
    # Learned again from the newest snapshot only.
    droplet.path("clips", kept, "more.wav").write_bytes(b"more")
    assert droplet.sync()["problems"] == []
    with droplet.operated.manifest() as manifest:
        assert manifest.get(WHOLE) == "no"
    assert droplet.erase(kept).pending == ""
    assert droplet.versions(names.DATA) == []


def test_what_a_killed_first_backup_has_stored_goes_with_its_user_though_the_manifest_was_lost(droplet: Saved) -> None:
    (user,) = droplet.new_users()
    root = droplet.keyring.root_key(droplet.vault_id(user))
    assert root is not None
    pack = names.new_id()
    droplet.bucket().put(names.DATA + pack, chunked.encrypt(backup_key(root), names.pack_context(pack), os.urandom(1000)))
    droplet.sync()
    with droplet.operated.manifest() as manifest:
        assert (manifest.get("number"), manifest.get(WHOLE)) == ("1", "no")
    droplet.erase(user)
    assert droplet.versions(names.DATA) == []


def test_a_manifest_that_was_lost_costs_nobody_else_what_no_snapshot_names_yet(droplet: Saved) -> None:
    """A second droplet with the same keys may just have stored it, or a prune given it up while somebody restores."""
    erased, kept = droplet.new_users(2)
    droplet.sync()
    theirs, mine = (droplet.keyring.root_key(droplet.vault_id(user)) for user in (erased, kept))
    assert theirs is not None
    assert mine is not None
    unnamed = {}
    for user, root in ((erased, theirs), (kept, mine)):
        pack = names.new_id()
        unnamed[user] = names.DATA + pack
        droplet.bucket().put(names.DATA + pack, chunked.encrypt(backup_key(root), names.pack_context(pack), os.urandom(1000)))
    shutil.rmtree(droplet.operated.folder)
    droplet.erase(erased)
    assert unnamed[erased] not in droplet.versions(names.DATA)
    assert unnamed[kept] in droplet.versions(names.DATA)
    assert len(droplet.versions(names.DATA)) == 2


def test_what_a_prune_that_did_not_end_has_written_anew_goes_with_its_user(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    erased, kept = droplet.new_users(2)
    droplet.sync()
    for user in (erased, kept):
        droplet.path("clips", user, "2026_0_laughter.wav").unlink()
        droplet.path("clips", user, "2026_1_laughter.wav").unlink()
        droplet.path("clips", user, "tiny.wav").write_bytes(b"tiny")
    for night in range(9):
        for user in (erased, kept):
            droplet.path("clips", user, f"{night}.wav").write_bytes(os.urandom(100))
        droplet.sync()
    before = droplet.objects(names.DATA)
    put = Bucket.put

    def ends(self: Bucket, name: str, *content: Any, **more: Any) -> None:
        if name.startswith(names.SNAPSHOTS):
            raise UnreachableError("The bucket went away.")
        put(self, name, *content, **more)

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "put", ends)
        with pytest.raises(UnreachableError):
            saving.prune(droplet.operated)
    assert len(set(droplet.objects(names.DATA)) - set(before)) == 2
    assert droplet.erase(erased).pending == ""
    mine = droplet.keyring.root_key(droplet.vault_id(kept))
    assert mine is not None
    bucket = droplet.bucket()
    for name in droplet.objects(names.DATA):
        assert chunked.decrypt(backup_key(mine), names.pack_context(name.removeprefix(names.DATA)), bucket.get(name))


def test_one_user_costs_no_more_requests_with_many_others(droplet: Saved) -> None:
    users = droplet.new_users(6)
    droplet.sync()

    def cost(user: str) -> int:
        droplet.storage.proxy.clear_requests()
        droplet.erase(user)
        return len(droplet.storage.proxy.requests())

    first = cost(users[0])
    droplet.new_users(6)
    droplet.sync()
    assert cost(users[1]) <= first


def test_dumps_of_before_open_no_more_on_this_droplet(droplet: Saved) -> None:
    erased, _ = droplet.new_users(2)
    dump = names.new_id()
    key = droplet.operated.dump_key(dump)
    assert key is not None
    assert droplet.operated.dump_key(dump) == key
    droplet.erase(erased)
    assert droplet.operated.dump_key(dump) not in (key, None)


# --- later ----------------------------------------------------------------------------------------------------------------


def test_with_the_bucket_down_the_receipt_is_pending_and_the_next_backup_completes_it(droplet: Saved) -> None:
    erased, kept = droplet.new_users(2)
    droplet.sync()
    down(droplet)
    outcome = droplet.erase(erased)
    assert "not erased yet" in outcome.pending
    assert "\n" not in outcome.pending
    assert outcome.receipt == 1
    assert "pending" in copies_of(droplet.receipts.read(1))["backup"]["method"]
    assert droplet.keyring.root_key(droplet.vault_id(erased)) is None
    assert not droplet.path("clips", erased).exists()
    again = droplet.erase(erased)
    assert (again.pending != "", again.receipt) == (True, 1)
    with pytest.raises(Exception, match="application key"):
        droplet.sync()
    up(droplet)
    done = droplet.sync()
    assert (done["erasures"], done["problems"]) == (1, [])
    first, second = droplet.subject_receipts(erased)
    assert (first["number"], second["number"], second["completes"]) == (1, 2, 1)
    assert set(copies_of(second)) == {"backup"}
    assert "deleted in all its versions" in copies_of(second)["backup"]["method"]
    insist_on_gone(droplet, erased)
    assert droplet.objects(names.RECEIPTS) == [f"{names.RECEIPTS}000001", f"{names.RECEIPTS}000002"]
    assert droplet.sync()["erasures"] == 0
    again = droplet.erase(erased)
    assert (again.confirmed, again.receipt) == (True, 2)
    assert droplet.clips(kept)


def test_asking_again_completes_it_too(droplet: Saved) -> None:
    (erased,) = droplet.new_users()
    droplet.sync()
    down(droplet)
    droplet.erase(erased)
    up(droplet)
    outcome = droplet.erase(erased)
    assert (outcome.pending, outcome.receipt) == ("", 2)
    assert droplet.receipts.read(2)["completes"] == 1
    insist_on_gone(droplet, erased)


def test_a_key_that_is_locked_in_the_bucket_is_pending_until_the_lock_ends(b2_locked: Storage) -> None:
    """This backup locks no keys; somebody has."""
    with saved_droplet.saved(b2_locked, lock_days=3) as droplet:
        droplet.kit()
        held, locked = droplet.new_users(2)
        droplet.sync()
        bucket = droplet.bucket()
        bucket.put(droplet.sealed(locked), bucket.get(droplet.sealed(locked)), locked=True)
        bucket.connection.ask("PutObjectLegalHold", droplet.sealed(held), LegalHold={"Status": "ON"})
        for user, word in ((held, "legal hold"), (locked, "default retention")):
            assert word in droplet.erase(user).pending
            assert any(word in problem for problem in droplet.sync()["problems"])
            assert len(droplet.subject_receipts(user)) == 1
        bucket.connection.ask("PutObjectLegalHold", droplet.sealed(held), LegalHold={"Status": "OFF"})
        assert droplet.sync()["erasures"] == 1
        assert [len(droplet.subject_receipts(user)) for user in (held, locked)] == [2, 1]
        assert droplet.sealed(held) not in droplet.versions()


def test_an_erasure_that_was_not_finished_here_is_told_by_every_backup(droplet: Saved) -> None:
    (user,) = droplet.new_users()
    droplet.sync()
    assert killed_before(20, lambda: droplet.erase(user))
    assert droplet.ledger.unfinished() == [droplet.vault_id(user)]
    done = droplet.sync()
    assert any("salt-call giggles.shred" in problem for problem in done["problems"])
    assert user not in str(done["problems"])
    assert droplet.erase(user).pending == ""
    assert droplet.sync()["problems"] == []


# --- killed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unflushed")
def test_killed_anywhere_the_next_run_erases_all_of_the_user_and_nobody_else(droplet: Saved) -> None:
    (kept,) = droplet.new_users()
    clips = droplet.clips(kept)

    def next_user() -> str:
        (user,) = droplet.new_users(clips=1)
        droplet.sync()
        return user

    user = next_user()
    calls = calls_of(lambda: droplet.erase(user))
    assert droplet.erase(user).confirmed
    for number, call in enumerate(spread(calls, samples(9))):
        user = next_user()
        where = f"killed before call {call} of {calls}"
        killed_before(call, lambda user=user: droplet.erase(user))  # type: ignore[misc]
        if number % 2:
            droplet.sync()
        outcome = droplet.erase(user)
        assert outcome.pending == "", where
        assert droplet.subject_receipts(user)[-1]["number"] == outcome.receipt, where
        assert len(droplet.subject_receipts(user)) == 1, where
        assert droplet.sync()["problems"] == [], where
        insist_on_gone(droplet, user)
    assert droplet.clips(kept) == clips
    assert droplet.restore(user=kept, target=str(droplet.folder / "look"))["files"] == 2


@pytest.mark.usefixtures("unflushed")
def test_killed_anywhere_while_a_backup_ends_an_erasure_the_next_one_ends_it(droplet: Saved) -> None:
    def next_user() -> str:
        (user,) = droplet.new_users(clips=1)
        droplet.sync()
        down(droplet)
        assert droplet.erase(user).pending
        up(droplet)
        return user

    next_user()
    calls = calls_of(droplet.sync)
    for call in spread(calls, samples(5)):
        user = next_user()
        where = f"killed before call {call} of {calls}"
        killed_before(call, droplet.sync)
        assert droplet.sync()["problems"] == [], where
        assert droplet.ledger.unfinished() == [], where
        first, second = droplet.subject_receipts(user)
        assert second["completes"] == first["number"], where
        insist_on_gone(droplet, user)


# --- at the same time -----------------------------------------------------------------------------------------------------


def held_up(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> tuple[threading.Event, threading.Event]:
    """Have a method wait in the middle of everything; return what is set when it is there, and what lets it go on."""
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(owner, name)

    def waiting(*arguments: Any, **options: Any) -> Any:
        reached.set()
        assert go_on.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, waiting)
    return reached, go_on


class Running(threading.Thread):
    """Something that goes on meanwhile; its result or error is there afterwards."""

    def __init__(self, act: Any) -> None:
        super().__init__(daemon=True)
        self._act, self.result, self.error = act, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._act()
        except Exception as error:  # noqa: BLE001 - looked at by whoever started it
            self.error = error

    def ended(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


@pytest.mark.parametrize("step", ["_store_keys", "_snapshot", "_dump"])
def test_during_a_first_backup_of_hours_an_erasure_is_pending_and_finished_at_its_end(
    droplet: Saved, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    erased, kept = droplet.new_users(2)
    if step == "_dump":
        step = "_user"
    reached, go_on = held_up(monkeypatch, Sync, step)
    backup = Running(droplet.sync)
    assert reached.wait(60)
    outcome = droplet.erase(erased)
    assert "at work" in outcome.pending
    assert droplet.keyring.root_key(droplet.vault_id(erased)) is None
    go_on.set()
    done = backup.ended()
    assert done["erasures"] == 1
    assert done["problems"] == []
    insist_on_gone(droplet, erased)
    assert [receipt.get("completes") for receipt in droplet.subject_receipts(erased)] == [None, 1]
    target = droplet.folder / "look"
    droplet.restore(target=str(target))
    assert [path.name for path in target.iterdir()] == [kept]


def test_a_backup_during_an_erasure_waits_for_the_keys_and_sees_a_whole_ring(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    erased, kept = droplet.new_users(2)
    droplet.sync()
    reached, go_on = held_up(monkeypatch, Keyring, "tidy")
    erasure = Running(lambda: droplet.erase(erased))
    assert reached.wait(60)
    backup = Running(droplet.sync)
    backup.join(0.3)
    assert backup.is_alive(), "the ring is being replaced"
    go_on.set()
    erasure.ended()
    assert backup.ended()["problems"] == []
    droplet.sync()
    insist_on_gone(droplet, erased)
    assert droplet.clips(kept)


def test_keys_are_read_while_nobody_replaces_them(droplet: Saved) -> None:
    for read in (droplet.operated.repository, droplet.operated.roots, lambda: droplet.operated.dump_key(names.new_id())):
        with droplet.places.locked():
            reading = Running(read)
            reading.join(0.2)
            assert reading.is_alive()
        assert reading.ended() is not None


@pytest.mark.parametrize("step", ["_places_for", "_make_vault"])
def test_a_restore_that_is_under_way_brings_nobody_back_who_is_erased_meanwhile(
    droplet: Saved, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    users = sorted(droplet.new_users(2), key=droplet.vault_id)
    droplet.sync()
    for user in users:
        for path in droplet.path("clips", user).iterdir():
            path.unlink()
    reached, go_on = held_up(monkeypatch, restoring, step)
    restore = Running(droplet.restore)
    assert reached.wait(60)
    droplet.erase(users[0])
    go_on.set()
    done = restore.ended()
    assert (done["users"], done["files"]) == (2, 2) or (done["users"], done["files"]) == (1, 2)
    assert any("erased meanwhile" in problem for problem in done["problems"])
    assert droplet.keyring.root_key(droplet.vault_id(users[0])) is None
    assert not droplet.path("clips", users[0]).exists()
    assert len(droplet.clips(users[1])) == 2


def test_two_backups_at_once_and_the_second_says_so(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    droplet.new_users()
    reached, go_on = held_up(monkeypatch, Sync, "_user")
    backup = Running(droplet.sync)
    assert reached.wait(60)
    with pytest.raises(Exception, match="at work on the bucket already"):
        droplet.sync()
    go_on.set()
    assert backup.ended()["problems"] == []
    assert droplet.verify()["problems"] == []


# --- what a thief has -----------------------------------------------------------------------------------------------------


def keys_on(folder: Path, memory: Path | None) -> list[bytes]:
    """Return every key that a disk gives away, with or without what was in memory: ring by ring, wrapped by whatever is there."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size == keys.KEY_BYTES]
    secrets = [path.read_bytes() for path in memory.iterdir()] if memory is not None and memory.is_dir() else []
    for ring in folder.glob("ring.*"):
        kept = (ring / "key-encryption-key").read_bytes()
        wrapping = [kept] + [keys.combine(kept, secret, "giggles-salt/v1/key-encryption") for secret in secrets]
        for path in ring.glob("*/*.key"):
            for key in wrapping:
                try:
                    found.append(keys.unwrap(path.read_bytes(), key))
                except keys.WrongKeyError:
                    continue
    return found


def opened_with(copy: dict[str, bytes], found: list[bytes], signer: bytes) -> set[str]:
    """Return the names of objects (and sections) of a copy of the bucket that any of these keys opens, however it is used."""
    forms = [form for key in found for form in (key, backup_key(key))]
    opened = set()
    for name, data in copy.items():
        if name.startswith(names.DATA):
            tries = [(data, names.pack_context(name.removeprefix(names.DATA)))]
        elif name.startswith(names.SNAPSHOTS):
            snap = names.snapshot_name(name.removeprefix(names.SNAPSHOTS))
            assert snap is not None
            for key in forms:
                try:
                    end = snapshot.FIRST_BYTES + snapshot.head_size(data)
                    head = snapshot.decode_head(snap, data[snapshot.FIRST_BYTES : end], key)
                except NotReadableError:
                    continue
                opened.add(name)
                for part in head.users:
                    section = data[end + part.offset : end + part.offset + part.length]
                    if any(opens(section, names.section_context(snap, part.vault), other) for other in forms):
                        opened.add(f"{name} {part.vault}")
            continue
        elif name.startswith(names.DATABASE):
            dump = name.removeprefix(names.DATABASE)
            if any(opens(data, names.dump_context(dump), keys.derive(key, names.dump_label(dump))) for key in found):
                opened.add(name)
            continue
        elif name.startswith(("keys/users/", "keys/system/", "keys/database/")):
            for key in forms:
                try:
                    signed.unseal_key(name, data, key, signer)
                except (NotReadableError, ValueError):
                    continue
                opened.add(name)
            continue
        else:
            continue
        if any(opens(content, context, key) for content, context in tries for key in forms):
            opened.add(name)
    return opened


def opens(data: bytes, context: bytes, key: bytes) -> bool:
    try:
        chunked.decrypt(key, context, data)
    except chunked.DamagedError:
        return False
    return True


def steal(droplet: Saved, name: str) -> Path:
    """Copy the disk as it is now."""
    target = droplet.folder / name
    shutil.copytree(droplet.places.keys, target, symlinks=True)
    return target


def memory_of(droplet: Saved, name: str) -> Path:
    target = droplet.folder / name
    shutil.copytree(droplet.places.memory, target)
    return target


def of_user(found: set[str], vault: str, packs: set[str]) -> set[str]:
    return {name for name in found if vault in name} | (found & packs)


def test_a_copy_of_the_bucket_from_before_and_the_droplet_after_open_nothing_of_the_user(droplet: Saved) -> None:
    droplet.share_key()
    erased, kept = droplet.new_users(2)
    droplet.sync()
    with droplet.operated.manifest() as manifest:
        packs = {user: {names.DATA + pack.id for pack in manifest.packs(droplet.vault_id(user))} for user in (erased, kept)}
    assert all(packs.values())
    clips = droplet.clips(kept)
    copy = droplet.copy_of_bucket()
    before, in_memory_before = steal(droplet, "before"), memory_of(droplet, "memory-before")
    droplet.erase(erased)
    after, in_memory_after = steal(droplet, "after"), memory_of(droplet, "memory-after")
    vaults = [droplet.vault_id(user) for user in (erased, kept)]
    kit = restoring.read_kit(droplet.kit_text)  # type: ignore[attr-defined]
    signer = kit.signer
    assert f"keys/users/{vaults[0]}" in opened_with(copy, [kit.key], signer), "sealed keys open with the kit, and with nothing else below"

    control = opened_with(copy, keys_on(before, in_memory_before), signer)
    assert packs[erased] <= control
    assert any(vaults[0] in name for name in control), "the control reads the section too"
    left = opened_with(copy, keys_on(after, in_memory_after), signer)
    assert of_user(left, vaults[0], packs[erased]) == set()
    assert packs[kept] <= left, "others are read as before"
    assert any(vaults[1] in name for name in left)
    assert droplet.clips(kept) == clips
    # The other way round: the bucket after it, and the disk of before without its share, which is gone from the bucket.
    stolen = droplet.copy_of_bucket()
    for name, data in stolen.items():
        if name.startswith(names.SHARES):
            (in_memory_before / "fetched").write_bytes(data)
    own = [path for path in in_memory_before.iterdir() if path.name != "fetched"]
    shares = {path.name: path.read_bytes() for path in own}
    for path in own:
        path.unlink()
    nothing = opened_with(copy | stolen, keys_on(before, in_memory_before), signer)
    assert nothing == set(), "not even of others: that disk has only half of a key"
    for name, data in shares.items():
        (in_memory_before / name).write_bytes(data)
    assert packs[erased] <= opened_with(copy, keys_on(before, in_memory_before), signer), "with its share it opens what there was"
    assert not packs[erased] & stolen.keys()


def test_the_disk_of_a_lost_droplet_opens_nobody_who_is_erased_on_the_next_one(droplet: Saved, b2: Storage) -> None:
    droplet.share_key()
    erased, kept = droplet.new_users(2)
    droplet.sync()
    old = droplet.keyring.share()
    assert old is not None
    with saved_droplet.saved(b2) as new:
        new.share_key()
        new.restore(kit_text=droplet.kit_text)  # type: ignore[attr-defined]
        assert names.SHARES + old.id in new.objects(names.SHARES), "until then the old one might still be needed"
        new.sync()
        down(new)
        assert new.erase(erased).pending
        up(new)
        assert new.sync()["problems"] == []
        share = new.keyring.share()
        assert share is not None
        assert new.versions(names.SHARES) == [names.SHARES + share.id]
        insist_on_gone(new, erased)
        assert new.clips(kept) == droplet.clips(kept)


def test_the_shares_in_the_bucket_follow_the_erasure(droplet: Saved) -> None:
    droplet.share_key()
    (user,) = droplet.new_users()
    droplet.sync()
    before = droplet.versions(names.SHARES)
    down(droplet)
    assert droplet.erase(user).pending
    up(droplet)
    assert droplet.versions(names.SHARES) == before
    assert droplet.sync()["problems"] == []
    after = droplet.versions(names.SHARES)
    assert len(after) == 1
    assert after != before


def test_a_receipt_says_which_snapshots_of_the_droplet_still_open_the_clips(droplet: Saved) -> None:
    """All of them with one share; with two, those of before until the bucket's share was replaced too, and then those of one share."""
    one, replaced, waiting = droplet.new_users(3)
    droplet.sync()

    def told(user: str) -> list[dict[str, Any]]:
        return [copies_of(receipt) for receipt in droplet.subject_receipts(user)]

    droplet.erase(one)
    (copies,) = told(one)
    assert copies["key ring"]["risk"].endswith("keys included: delete snapshots from before this receipt.")
    assert "bucket's share" not in copies

    droplet.share_key()
    before = droplet.versions(names.SHARES)
    assert droplet.erase(replaced).pending == ""
    assert droplet.versions(names.SHARES) != before
    (copies,) = told(replaced)
    assert "open no clip by themselves" in copies["key ring"]["risk"]
    assert copies["key ring"]["risk"].endswith("from before this droplet had its bucket needs no share: delete such a one.")
    assert copies["bucket's share"]["method"] == "replaced by a new one, and deleted in all its versions"
    assert "A copy of the bucket from before" in copies["bucket's share"]["risk"]

    before = droplet.versions(names.SHARES)
    down(droplet)
    assert droplet.erase(waiting).pending
    up(droplet)
    assert droplet.versions(names.SHARES) == before, "what a snapshot of before needs"
    (copies,) = told(waiting)
    assert "can still open the user's clips" in copies["key ring"]["risk"]
    assert "delete such snapshots" in copies["key ring"]["risk"]
    assert "bucket's share" not in copies
    droplet.sync()
    assert not set(droplet.versions(names.SHARES)) & set(before)
    completed = told(waiting)[1]
    assert set(completed) == {"backup", "bucket's share"}
    assert completed["bucket's share"]["method"] == "replaced by a new one, and deleted in all its versions"


# --- where the kernel cannot encrypt --------------------------------------------------------------------------------------


@pytest.fixture
def plain(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved_plain(b2) as made:
        made.kit()
        yield made


def plain_users(droplet: Saved, count: int) -> list[str]:
    return [droplet.write_clips() for _ in range(count)]


def test_where_nothing_is_encrypted_users_are_saved_restored_and_erased(plain: Saved, b2: Storage) -> None:
    erased, kept = plain_users(plain, 2)
    clips = {user: plain.clips(user) for user in (erased, kept)}
    done = plain.sync()
    assert (done["users"], done["files"], done["problems"]) == (2, 4, [])
    for path in plain.path("clips", kept).iterdir():
        path.unlink()
    shutil.rmtree(plain.path("clips", erased))
    assert plain.restore()["files"] == 4
    assert {user: plain.clips(user) for user in (erased, kept)} == clips
    owner = plain.places.owner()
    status = plain.path("clips", erased).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (owner.uid, owner.gid, owner.folder_mode)
    assert plain.sync()["new_files"] == 0
    secret = plain.keyring.secret(DUMPS)
    assert plain.erase(erased).pending == ""
    insist_on_gone(plain, erased)
    assert plain.keyring.secret(DUMPS) != secret
    assert plain.clips(kept) == clips[kept]


def test_where_nothing_is_encrypted_somebody_without_clips_takes_the_key_of_dumps_along(plain: Saved) -> None:
    (user,) = plain_users(plain, 1)
    secret = plain.keyring.secret(DUMPS)
    assert plain.keyring.root_key(plain.vault_id(user)) is None
    plain.erase(user)
    assert plain.keyring.secret(DUMPS) not in (None, secret)


def test_a_link_that_the_app_has_put_there_is_not_written_through(plain: Saved) -> None:
    wicked, kept = plain_users(plain, 2)
    plain.sync()
    for user in (wicked, kept):
        shutil.rmtree(plain.path("clips", user))
    elsewhere = plain.folder / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, plain.disk.place / "clips" / wicked)
    done = plain.restore()
    assert list(elsewhere.iterdir()) == []
    assert len(plain.clips(kept)) == 2
    (problem,) = done["problems"]
    assert wicked not in problem


def test_without_a_folder_of_clips_there_is_nobody_to_save(plain: Saved) -> None:
    shutil.rmtree(plain.disk.place / "clips")
    done = plain.sync()
    assert (done["users"], done["problems"]) == (0, [])


def test_a_backup_of_a_droplet_that_cannot_encrypt_is_restored_on_one_that_can(plain: Saved, b2: Storage) -> None:
    kit = plain.kit(rotate=True)
    (user,) = plain_users(plain, 1)
    plain.sync()
    with saved_droplet.saved(b2) as new:
        assert new.restore(kit_text=kit)["problems"] == []
        assert new.clips(user) == plain.clips(user)
        assert new.sync()["new_files"] == 0
