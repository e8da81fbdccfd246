"""One user is erased and nobody else; and nobody is called erased who is not."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from gigglekit.vault import fscrypt, holders, shred, unlock
from gigglekit.vault.errors import BusyError, RefusedError, VaultError
from gigglekit.vault.keyring import fscrypt_key
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS
from gigglekit.vault.rows import DatabaseError

from tests.unit import vault_volume
from tests.unit.vault_volume import AsApp, Disk, Droplet, Elsewhere, Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

MARKER = b"the sound of people laughing "


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shred, "_FIRST_TRY_SECONDS", 0.1)
    monkeypatch.setattr(shred, "_LOBBY_SECONDS", 0.2)


class Rows:
    """The app's database, as far as an erasure asks it."""

    def __init__(self, *paths: str, failure: str = "") -> None:
        self.paths, self.failure, self.gone = list(paths), failure, False

    def count(self, user: str) -> dict[str, int]:
        return {"public.users": 0 if self.gone else 1}

    def clip_paths(self, user: str | None = None) -> list[str]:
        if self.failure:
            raise DatabaseError(self.failure)
        return [] if self.gone else self.paths

    def delete(self, user: str) -> dict[str, int]:
        if self.failure:
            raise DatabaseError(self.failure)
        self.gone = True
        return {"public.users": 1}


def state_of(droplet: Droplet) -> dict[str, str]:
    """Return a hash of everything that an erasure may touch."""
    found: dict[str, str] = {}
    for place in (droplet.disk.place, droplet.places.keys, droplet.places.ledger):
        for folder, folders, files in os.walk(place):
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink():
                    found[str(path)] = os.readlink(path)
                elif path.is_file():
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    found[str(path)] = "folder"
    return found


def root_key_of(droplet: Droplet, user: str) -> bytes:
    root = droplet.keyring.root_key(droplet.vault_id(user))
    assert root is not None
    return root


def key_status(droplet: Droplet, root: bytes) -> fscrypt.Status:
    with droplet.volume() as volume:
        return fscrypt.status(volume.root, fscrypt.identifier_for(fscrypt_key(root)))


# --- what it does ---------------------------------------------------------------------------------------------------------


def test_an_erased_user_is_gone_everywhere_and_others_are_as_they_were(droplet: Droplet) -> None:
    user, *others = droplet.adopted(3)
    before = {other: droplet.contents(other) for other in others}
    root = root_key_of(droplet, user)
    outcome = droplet.shred(user, pytest.fail)
    assert (outcome.confirmed, outcome.receipt, outcome.key_destroyed_after is not None) == (False, 1, True)
    assert key_status(droplet, root) is fscrypt.Status.ABSENT
    assert droplet.keyring.root_key(outcome.vault_id) is None
    with droplet.volume() as volume:
        assert outcome.vault_id not in volume.vault_ids()
    assert {other: droplet.contents(other) for other in others} == before
    assert droplet.leftovers() == []
    (clips,) = [copy for copy in outcome.copies if copy["copy"] == "clips and audio"]
    assert (clips["method"], clips["files"], clips["bytes"]) == (shred.CRYPTOGRAPHIC, 4, 20_000)


def test_looking_changes_nothing_and_says_what_there_is(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    (droplet.path("clips", user) / "more.wav").write_bytes(b"12345")
    before = state_of(droplet)
    found = droplet.examine(user)
    assert (found.state, found.files, found.size, found.mode, found.holders) == ("present", 5, 20_005, "encrypted", ())
    assert droplet.examine(str(uuid.uuid4())).state == "unknown"
    assert state_of(droplet) == before


def test_asking_again_confirms_and_writes_no_second_receipt(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    first = droplet.shred(user)
    before = state_of(droplet)
    again = droplet.shred(user)
    assert (again.confirmed, again.receipt, again.copies) == (True, first.receipt, first.copies)
    assert state_of(droplet) == before


def test_a_user_who_is_only_in_the_lobby_is_erased_too(droplet: Droplet) -> None:
    user = droplet.write_clips(count=3)
    outcome = droplet.shred(user)
    (copy,) = [copy for copy in outcome.copies if copy["copy"] == "lobby"]
    assert copy["files"] == 6
    assert not droplet.path("clips", user).exists()
    assert droplet.examine(user).state == "erased"


def test_a_user_who_reappears_after_the_erasure_is_erased_again_with_a_receipt_of_its_own(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.shred(user)
    for kind in KINDS:
        (droplet.disk.place / kind / user).unlink()
    droplet.write_clips(user)
    assert droplet.examine(user).state == "being erased"
    outcome = droplet.shred(user)
    assert (outcome.confirmed, outcome.receipt) == (False, 2)
    assert not droplet.path("clips", user).exists()
    assert droplet.examine(user).state == "erased"
    assert droplet.receipts.check().problems == ()


def test_one_erasure_has_one_receipt_even_if_others_were_erased_before_it_was_noted(
    droplet: Droplet, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, other = droplet.adopted(2)
    bury = Ledger.bury

    def killed(self: Ledger, vault_id: str, **facts: Any) -> None:
        if facts:
            raise KeyboardInterrupt
        bury(self, vault_id, **facts)

    monkeypatch.setattr(Ledger, "bury", killed)
    with pytest.raises(KeyboardInterrupt):
        droplet.shred(user)
    monkeypatch.setattr(Ledger, "bury", bury)
    assert droplet.examine(user).state == "being erased"
    assert droplet.shred(other).receipt == 2
    assert droplet.shred(user).receipt == 1
    assert droplet.receipts.numbers() == [1, 2]


def test_a_clip_below_clips_itself_goes_with_the_user_whose_row_names_it(droplet: Droplet) -> None:
    user, other = droplet.adopted(2)
    clips = droplet.disk.place / "clips"
    for name in ("mine.wav", "theirs.wav"):
        (clips / name).write_bytes(b"legacy")
    before = droplet.contents(other)
    # Whoever may write a row of its own may write any path into it.
    rows = Rows(f"{clips}/mine.wav", f"{clips}/{user}/0.wav", "/etc/passwd", f"{clips}/../temp", f"{clips}/{other}", f"{clips}/")
    outcome = droplet.shred(user, database=rows)  # type: ignore[arg-type]
    assert not (clips / "mine.wav").exists()
    assert (clips / "theirs.wav").read_bytes() == b"legacy"
    assert droplet.contents(other) == before
    (copy,) = [copy for copy in outcome.copies if copy["copy"] == "legacy clips"]
    assert copy["files"] == 1


def test_without_an_answer_of_the_database_there_is_no_receipt_and_the_clips_are_erased(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    root = root_key_of(droplet, user)
    rows = Rows(failure="The database at db does not answer.")
    with pytest.raises(DatabaseError, match="clips are erased, and the rows in the database are not yet"):
        droplet.shred(user, database=rows)  # type: ignore[arg-type]
    assert key_status(droplet, root) is fscrypt.Status.ABSENT
    assert droplet.receipts.numbers() == []
    rows.failure = ""
    assert droplet.examine(user, rows).state == "being erased"  # type: ignore[arg-type]
    assert droplet.shred(user, database=rows).receipt == 1  # type: ignore[arg-type]
    assert rows.gone


# --- what it refuses --------------------------------------------------------------------------------------------------------

BAD = ["", "../x", "6F1C1B1E-1111-4222-8333-944445555666", "7a2b3c4d", "6f1c1b1e-1111-4222-8333-944445555666\n", "*", ".", "a" * 36]


@pytest.mark.parametrize("given", [*BAD, ["6f1c1b1e-1111-4222-8333-944445555666"], 7, None, {}, b"6f1c1b1e-1111-4222-8333-944445555666"])
def test_what_is_no_users_id_is_refused_and_not_repeated(droplet: Droplet, given: object) -> None:
    droplet.adopted()
    before = state_of(droplet)
    for act in (droplet.shred, droplet.examine):
        with pytest.raises(RefusedError, match="Nothing was erased") as refused:
            act(given)
        assert not (isinstance(given, str) and len(given) > 1 and given in str(refused.value))
    assert state_of(droplet) == before


def test_an_unknown_user_is_refused(droplet: Droplet) -> None:
    droplet.adopted()
    before = state_of(droplet)
    with pytest.raises(RefusedError, match="Nothing is known of this user"):
        droplet.shred(str(uuid.uuid4()))
    assert state_of(droplet) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_a_link_to_another_users_vault_is_refused(droplet: Droplet, kind: str) -> None:
    user, other = droplet.adopted(2)
    link = droplet.disk.place / kind / user
    link.unlink()
    link.symlink_to(f"../vaults/{droplet.vault_id(other)}/{kind}")
    before = state_of(droplet)
    with pytest.raises(RefusedError, match=r"which is not this user.s\. Nothing was erased"):
        droplet.shred(user)
    assert state_of(droplet) == before


def test_a_link_to_anywhere_is_refused(droplet: Droplet) -> None:
    user = str(uuid.uuid4())
    (droplet.disk.place / "clips" / user).symlink_to("/etc")
    with pytest.raises(RefusedError, match="Nothing was erased"):
        droplet.shred(user)
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("folder", ["", "vaults", ".lobby"])
def test_a_hard_link_that_leads_out_of_the_vault_is_refused(droplet: Droplet, folder: str) -> None:
    (user,) = droplet.adopted()
    subprocess.run(["chattr", "-i", droplet.disk.place], check=True)
    os.link(droplet.path("clips", user, "0.wav"), droplet.disk.place / folder / "kept.wav")
    before = state_of(droplet)
    with pytest.raises(RefusedError, match=r"kept\.wav is a second name"):
        droplet.shred(user)
    assert state_of(droplet) == before
    (droplet.disk.place / folder / "kept.wav").unlink()
    assert not droplet.shred(user).confirmed


def test_another_file_system_mounted_inside_is_refused(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    inside, outside = droplet.path("clips", user, "in side"), droplet.folder / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    subprocess.run(["mount", "--bind", outside, inside], check=True)
    try:
        with pytest.raises(RefusedError, match="Another file system is mounted"):
            droplet.shred(user)
        assert (outside / "kept").read_bytes() == b"kept"
    finally:
        subprocess.run(["umount", inside], check=True)
    droplet.shred(user)
    assert (outside / "kept").read_bytes() == b"kept"


def test_before_the_vault_was_ever_applied_nothing_is_done(droplet: Droplet) -> None:
    droplet.places.configuration.unlink()
    with pytest.raises(VaultError, match="no vault yet"):
        droplet.shred(str(uuid.uuid4()))


def test_on_a_volume_that_is_not_mounted_nothing_is_done(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.disk.unmount()
    with pytest.raises(VaultError, match="not mounted"):
        droplet.shred(user)
    assert droplet.ledger.tombstones() == []
    droplet.disk.mount()


# --- who is in the way --------------------------------------------------------------------------------------------------------


def test_a_foreign_process_with_a_file_open_is_named_and_the_user_is_not_called_erased(droplet: Droplet) -> None:
    user, other = droplet.adopted(2)
    before = droplet.contents(other)
    root = root_key_of(droplet, user)
    with Holder(droplet.path("clips", user, "0.wav")) as process:
        assert droplet.examine(user).holders == (f"sleep (process {process.pid})",)
        with pytest.raises(shred.HeldOpenError, match=rf"sleep \(process {process.pid}\)"):
            droplet.shred(user, pytest.fail)
        assert key_status(droplet, root) is fscrypt.Status.INCOMPLETELY_REMOVED
        assert droplet.receipts.numbers() == []
        assert droplet.examine(user).state == "being erased"
        # Nothing new of the user meanwhile, and nothing else of the user's can be opened.
        for act in (lambda: droplet.path("clips", user, "new.wav").open("xb"), lambda: droplet.path("audio", user, "1.wav").open("rb")):
            with pytest.raises(OSError, match=r"key|No such file"):
                act()
        assert droplet.adopt().problems == []
    outcome = droplet.shred(user)
    assert (outcome.receipt, outcome.confirmed) == (1, False)
    assert key_status(droplet, root) is fscrypt.Status.ABSENT
    assert droplet.contents(other) == before


def test_a_process_in_a_sandbox_of_its_own_is_named_and_reads_nothing_more_once_there_is_a_receipt(droplet: Droplet) -> None:
    """The kernel has one file system and one set of keys, however many copies of its mounts there are, and is asked for that."""
    user, other = droplet.adopted(2)
    mine, theirs = droplet.path("clips", user, "0.wav"), droplet.path("clips", other, "0.wav")
    content = theirs.read_bytes()
    with Elsewhere() as idle:
        assert idle.read(mine)
        with Elsewhere(mine) as holding:
            with pytest.raises(shred.HeldOpenError, match=rf"sleep \(process {holding.process.pid}\)"):
                droplet.shred(user, pytest.fail)
            assert idle.read(mine), "control: what one has open, the kernel gives to all"
            assert droplet.receipts.numbers() == []
            # The volume is unmounted here and mounted again, and is the same all the same.
            subprocess.run(["umount", droplet.disk.place], check=True)
            droplet.disk.mount()
            with droplet.volume() as volume:
                unlock.unlock(volume, droplet.keyring, droplet.ledger)
            with pytest.raises(shred.HeldOpenError):
                droplet.shred(user, pytest.fail)
        assert droplet.shred(user).receipt == 1
        assert idle.read(mine) is None
        assert idle.read(theirs) == content


def test_the_web_app_is_restarted_once_when_it_has_a_file_open(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    (user,) = droplet.adopted()
    restarts: list[int] = []
    with Holder(droplet.path("audio", user, "0.wav")) as process:
        of_path = holders.of_path

        def of_the_app(fragment: str) -> list[holders.Holder]:
            return [holders.Holder(holder.pid, holder.command, shred.APP_SERVICE) for holder in of_path(fragment)]

        def restart() -> None:
            restarts.append(process.pid)
            process.kill()
            process.wait()

        monkeypatch.setattr(holders, "of_path", of_the_app)
        outcome = droplet.shred(user, restart)
    assert (restarts, outcome.receipt) == ([process.pid], 1)


def test_a_copy_in_the_lobby_that_is_held_keeps_the_receipt_back(droplet: Droplet) -> None:
    user = droplet.write_clips()
    restarts: list[int] = []
    with Holder(droplet.path("clips", user, "0.wav")) as process:
        with pytest.raises(shred.HeldOpenError, match=rf"sleep \(process {process.pid}\)"):
            droplet.shred(user, lambda: restarts.append(1))
        assert restarts == [1]
        assert droplet.receipts.numbers() == []
        assert droplet.examine(user).state == "being erased"
    assert droplet.shred(user).receipt == 1


def test_whoever_else_works_on_the_vault_is_waited_for_and_not_for_ever(droplet: Droplet) -> None:
    with droplet.places.locked(), pytest.raises(BusyError, match="working on the vault"), droplet.places.locked(seconds=0.1):
        pytest.fail("two at once")


def both_at_once(droplet: Droplet, *users: str) -> list[dict[str, Any]]:
    """Erase in two processes at once, and return what each was told."""
    said = [droplet.folder / f"said-{number}" for number in range(len(users))]

    def erase(user: str, path: Path) -> None:
        outcome = droplet.shred(user)
        path.write_text(json.dumps({"receipt": outcome.receipt, "confirmed": outcome.confirmed}))

    with AsApp(lambda: erase(users[0], said[0]), uid=0), AsApp(lambda: erase(users[1], said[1]), uid=0):
        pass
    return [json.loads(path.read_text()) for path in said]


def test_two_erasures_of_one_user_at_once_are_one(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    told = both_at_once(droplet, user, user)
    assert sorted(outcome["confirmed"] for outcome in told) == [False, True]
    assert {outcome["receipt"] for outcome in told} == {1}
    assert droplet.receipts.numbers() == [1]


def test_two_erasures_of_two_users_at_once_are_two(droplet: Droplet) -> None:
    one, other, third = droplet.adopted(3)
    before = droplet.contents(third)
    told = both_at_once(droplet, one, other)
    assert sorted(outcome["receipt"] for outcome in told) == [1, 2]
    assert {droplet.examine(user).state for user in (one, other)} == {"erased"}
    assert droplet.receipts.check().problems == ()
    assert droplet.contents(third) == before


# --- where nothing can be encrypted -----------------------------------------------------------------------------------------------


def test_where_nothing_is_encrypted_files_are_overwritten_and_unlinking_would_leave_them(plain_droplet: Droplet) -> None:
    def content(name: bytes) -> bytes:
        return (MARKER + name + b" ") * 3000

    user, other = (plain_droplet.write_clips(content=content(name)) for name in (b"erased", b"kept"))
    unlinked = plain_droplet.write_clips(content=content(b"unlinked"))
    legacy = plain_droplet.disk.place / "clips" / "legacy.wav"
    legacy.write_bytes(content(b"erased"))
    plain_droplet.disk.sync()
    before = plain_droplet.contents(other)
    outcome = plain_droplet.shred(user, database=Rows(str(legacy), str(legacy.with_name(other))))  # type: ignore[arg-type]
    assert outcome.copies[0]["method"] == shred.OVERWRITTEN
    assert outcome.copies[0]["files"] == 5
    assert plain_droplet.contents(other) == before
    assert plain_droplet.examine(user).state == "erased"
    with pytest.raises(FileExistsError):
        os.makedirs(plain_droplet.path("clips", user), exist_ok=True)
    for kind in KINDS:
        for path in plain_droplet.path(kind, unlinked).iterdir():
            path.unlink()
    raw = plain_droplet.disk.raw()
    assert raw.count(MARKER + b"erased") == 0
    assert raw.count(MARKER + b"unlinked") > 1000
    assert raw.count(MARKER + b"kept") > 1000


def test_where_nothing_is_encrypted_a_file_with_a_second_name_is_refused(plain_droplet: Droplet) -> None:
    user = plain_droplet.write_clips()
    os.link(plain_droplet.path("clips", user, "0.wav"), plain_droplet.disk.place / "temp" / "kept.wav")
    before = state_of(plain_droplet)
    with pytest.raises(RefusedError, match="second name elsewhere"):
        plain_droplet.shred(user)
    assert state_of(plain_droplet) == before


# --- what is left on the disks ------------------------------------------------------------------------------------------------------


def test_contents_and_names_never_lie_on_the_disk_and_without_encryption_they_do() -> None:
    """The same writes to the same kind of image, with and without: the scan is no use if it finds nothing in the second."""
    users = [str(uuid.uuid4()) for _ in range(5)]
    clip = MARKER * 4000
    with vault_volume.droplet() as encrypted:
        for user in users:
            encrypted.write_clips(user, content=clip)
        encrypted.disk.sync()
        assert encrypted.adopt().folders == 10
        for user in users:
            encrypted.write_clips(user, content=clip, count=3)
        assert encrypted.renew().complete
        (encrypted.disk.place / "temp" / users[0]).write_bytes(clip)
        raw = encrypted.disk.raw()
        assert raw.count(MARKER) == 0
        assert [user for user in users if user.encode() in raw or user.replace("-", "").encode() in raw] == []
    with vault_volume.droplet(features="^encrypt") as plain:
        for kind in ("clips", "audio"):
            (plain.disk.place / kind).mkdir()
        for user in users:
            plain.write_clips(user, content=clip, count=3)
        raw = plain.disk.raw()
        assert raw.count(MARKER) > 10_000
        assert all(user.encode() in raw for user in users)


def test_after_an_erasure_no_key_of_the_user_and_no_name_is_on_either_disk(a_disk: Disk) -> None:
    with vault_volume.base() as folder, vault_volume.disk(folder, "uploads") as uploads:
        droplet = Droplet(a_disk.place, uploads)
        droplet.prepare()
        user, other = droplet.adopted(2)
        droplet.renew()
        root = root_key_of(droplet, user)
        wrapped = {path.read_bytes() for path in droplet.places.keys.rglob(f"{droplet.vault_id(user)}.key")}
        ring = droplet.places.keys / "ring"
        kek = (ring / "key-encryption-key").read_bytes()
        a_disk.sync()
        assert kek in a_disk.image.read_bytes()
        droplet.shred(user)
        kept = (ring / "vaults" / f"{droplet.vault_id(other)}.key").read_bytes()
        images = uploads.raw(), a_disk.raw()
    secret = {"root key": root, "fscrypt key": fscrypt_key(root), "key-encryption key": kek, "name": user.encode()}
    secret |= {f"wrapped key {number}": content for number, content in enumerate(wrapped)}
    assert [name for name, content in secret.items() for image in images if content in image] == []
    assert kept in images[1]
