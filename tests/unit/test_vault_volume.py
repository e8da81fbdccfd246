"""The volume is prepared once, put right when it is not, unlocked after a mount, and never used when it is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from gigglekit.vault import fscrypt, holders, unlock
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import fscrypt_key
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import LOBBY, Places, is_user_id
from gigglekit.vault.shred import HeldOpenError

from tests.unit import vault_volume
from tests.unit.vault_volume import NOBODY, AsApp, Droplet, Elsewhere, Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


# --- prepared ---------------------------------------------------------------------------------------------------------------


def test_preparing_makes_what_the_app_expects_encrypted_and_closed(droplet: Droplet) -> None:
    with droplet.volume() as volume:
        assert volume.prepare(droplet.keyring) == []
        (identifier,) = droplet.keyring.lobby_keys()
        assert {volume.identifier(kind) for kind in LOBBY} == {identifier}
        assert volume.is_closed()
    looks = {path.name: path.stat() for path in droplet.disk.place.iterdir()}
    assert {(looks[name].st_uid, looks[name].st_gid, looks[name].st_mode & 0o7777) for name in LOBBY} == {(NOBODY, NOBODY, 0o750)}
    assert (looks["vaults"].st_uid, looks["vaults"].st_mode & 0o7777) == (0, 0o750)
    assert (looks[".lobby"].st_uid, looks[".lobby"].st_mode & 0o7777) == (0, 0o700)


def test_a_look_says_what_would_be_done_and_does_nothing() -> None:
    with vault_volume.base() as folder, vault_volume.disk(folder, "uploads") as disk:
        droplet = Droplet(folder, disk)
        droplet.keyring.create()
        with droplet.volume() as volume:
            said = volume.prepare(droplet.keyring, dry_run=True)
            assert said == [f"{name} made" for name in ("vaults", ".lobby", *LOBBY)] + [
                "owner and mode of the root put right",
                "root closed (chattr +i)",
            ]
            assert sorted(os.listdir(disk.place)) == ["lost+found"]
            assert droplet.keyring.lobby_keys() == {}


def test_owners_modes_and_an_open_root_are_put_right_and_told(droplet: Droplet) -> None:
    os.chown(droplet.disk.place / "vaults", 7, 7)
    (droplet.disk.place / ".lobby").chmod(0o755)
    subprocess.run(["chattr", "-i", droplet.disk.place], check=True)
    with droplet.volume() as volume:
        told = volume.prepare(droplet.keyring)
        assert told == ["owner and mode of vaults put right", "owner and mode of .lobby put right", "root closed (chattr +i)"]
        assert volume.prepare(droplet.keyring) == []


def test_a_folder_with_content_in_the_clear_is_told_and_a_renewal_takes_it_in(droplet: Droplet) -> None:
    subprocess.run(["chattr", "-i", droplet.disk.place], check=True)
    clips = droplet.disk.place / "clips"
    clips.rmdir()
    clips.mkdir()
    (clips / "legacy.wav").write_bytes(b"clear")
    with droplet.volume() as volume:
        with pytest.raises(VaultError, match="Nothing was changed"):
            volume.prepare(droplet.keyring)
        assert volume.is_closed() or volume.identifier("clips") is None
    assert droplet.renew().complete
    with droplet.volume() as volume:
        volume.prepare(droplet.keyring)
        assert volume.identifier("clips") in droplet.keyring.lobby_keys()
    assert (clips / "legacy.wav").read_bytes() == b"clear"


def test_a_link_where_a_folder_belongs_is_an_error_and_not_followed(droplet: Droplet) -> None:
    subprocess.run(["chattr", "-i", droplet.disk.place], check=True)
    (droplet.disk.place / "temp").rmdir()
    (droplet.disk.place / "temp").symlink_to("/tmp")
    before = os.stat("/tmp").st_mode
    with droplet.volume() as volume, pytest.raises(VaultError, match="something else lies"):
        volume.prepare(droplet.keyring)
    assert os.stat("/tmp").st_mode == before


def test_a_folder_that_is_no_mount_is_not_used(tmp_path: Path) -> None:
    places = Places(uploads=tmp_path / "uploads", user="nobody", group="nogroup")
    with pytest.raises(VaultError, match="cannot be opened"), vault_volume.volume.mounted(places):
        pytest.fail("it was opened")
    places.uploads.mkdir()
    with pytest.raises(VaultError, match="not mounted"), vault_volume.volume.mounted(places):
        pytest.fail("it was opened")


def test_a_vault_encrypted_by_another_key_is_left_alone(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    vault_id = droplet.vault_id(user)
    droplet.keyring.rekey(frozenset({vault_id}))
    with droplet.volume() as volume, pytest.raises(VaultError, match="another key"):
        volume.make_vault(vault_id, droplet.keyring)


# --- unlocked -----------------------------------------------------------------------------------------------------------------


def test_after_a_mount_everything_is_locked_until_it_is_unlocked(droplet: Droplet) -> None:
    users = droplet.adopted(2)
    before = {user: droplet.contents(user) for user in users}
    droplet.disk.unmount()
    droplet.disk.mount()
    subprocess.run(["chattr", "+i", droplet.disk.place], check=True)
    assert not droplet.path("clips", users[0]).exists()
    with droplet.volume() as volume:
        assert unlock.locked(volume, droplet.keyring) == list(droplet.keyring.lobby_keys())
        assert unlock.unlock(volume, droplet.keyring, droplet.ledger) == 3
        assert unlock.locked(volume, droplet.keyring) == []
        assert unlock.unlock(volume, droplet.keyring, droplet.ledger) == 3
    assert {user: droplet.contents(user) for user in users} == before


def test_while_it_is_locked_the_app_can_write_nothing_in_the_clear(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.disk.unmount()
    droplet.disk.mount()
    subprocess.run(["chattr", "+i", droplet.disk.place], check=True)

    def app() -> None:
        for act in (
            lambda: os.makedirs(droplet.path("clips", user), exist_ok=True),
            lambda: (droplet.disk.place / "temp" / "scratch").open("xb"),
            (droplet.disk.place / "clips" / str(uuid.uuid4())).mkdir,
        ):
            with pytest.raises(OSError, match=r"[Kk]ey"):
                act()

    with AsApp(app):
        pass


def test_on_a_locked_volume_nothing_is_adopted_renewed_or_erased(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    before = droplet.contents(user)
    droplet.disk.unmount()
    droplet.disk.mount()
    for act in (droplet.adopt, droplet.renew, lambda: droplet.shred(user), lambda: droplet.examine(user)):
        with pytest.raises(VaultError, match="is locked"):
            act()
    with droplet.volume() as volume:
        unlock.unlock(volume, droplet.keyring, droplet.ledger)
    assert droplet.contents(user) == before
    assert droplet.adopt().problems == []
    assert droplet.renew().complete
    assert droplet.contents(user) == before


def test_a_key_that_cannot_be_unwrapped_is_an_error_and_no_key_is_told(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    next(droplet.places.keys.rglob(f"{droplet.vault_id(user)}.key")).write_bytes(bytes(40))
    with droplet.volume() as volume, pytest.raises(VaultError, match="cannot be unwrapped"):
        unlock.unlock(volume, droplet.keyring, droplet.ledger)


def test_an_erased_user_is_not_unlocked_again(droplet: Droplet) -> None:
    user, other = droplet.adopted(2)
    root = droplet.keyring.root_key(droplet.vault_id(user))
    assert root is not None
    droplet.shred(user)
    with droplet.volume() as volume:
        assert unlock.unlock(volume, droplet.keyring, droplet.ledger) == 2
        assert fscrypt.status(volume.root, fscrypt.identifier_for(fscrypt_key(root))) is fscrypt.Status.ABSENT
    assert droplet.contents(other)


# --- holders --------------------------------------------------------------------------------------------------------------------


def test_a_holder_is_found_by_its_descriptor_also_of_a_deleted_file(tmp_path: Path) -> None:
    clip = tmp_path / "vaults" / "abc" / "clip"
    clip.parent.mkdir(parents=True)
    clip.touch()
    with Holder(clip) as process:
        assert [(holder.pid, holder.command) for holder in holders.of_path("/vaults/abc")] == [(process.pid, "sleep")]
        clip.unlink()
        assert [holder.pid for holder in holders.of_path("/vaults/abc")] == [process.pid]
        assert holders.of_path("/vaults/abd") == []
    assert holders.of_path("/vaults/abc") == []


def test_a_holder_is_found_by_its_working_folder_and_by_what_it_maps(tmp_path: Path) -> None:
    folder = tmp_path / "vaults" / "abc"
    folder.mkdir(parents=True)
    program = shutil.copy("/bin/sleep", folder / "mapped")
    process = subprocess.Popen([program, "60"])
    other = subprocess.Popen(["sleep", "60"], cwd=folder)
    try:
        assert [holder.pid for holder in holders.of_path("/vaults/abc")] == sorted([process.pid, other.pid])
    finally:
        for child in (process, other):
            child.kill()
            child.wait()


def test_the_service_of_a_holder_and_a_strange_name_are_told_safely(tmp_path: Path) -> None:
    process = tmp_path / "4242"
    (process / "fd").mkdir(parents=True)
    (process / "fd" / "3").symlink_to("/srv/vaults/abc/clip")
    (process / "comm").write_bytes(b"ev\x1b[31mil\n")
    (process / "cgroup").write_text("0::/system.slice/giggles.service\n")
    (tmp_path / "self").mkdir()
    (holder,) = holders.of_path("/vaults/abc", tmp_path)
    assert (holder.pid, holder.command, holder.service) == (4242, "ev?[31mil", "giggles.service")
    assert str(holder) == "ev?[31mil (process 4242, giggles.service)"


# --- the ledger and the places ------------------------------------------------------------------------------------------------------


def test_a_tombstone_keeps_its_date_and_takes_further_facts(tmp_path: Path) -> None:
    ledger = Ledger(Places(ledger=tmp_path / "ledger"))
    assert (ledger.tombstone("a"), ledger.tombstones(), ledger.unfinished()) == (None, [], [])
    ledger.bury("a", since="2026-01-01T00:00:00Z")
    ledger.bury("a", receipt=7)
    assert ledger.tombstone("a") == {"since": "2026-01-01T00:00:00Z", "receipt": 7}
    assert ledger.tombstones() == ["a"]
    assert {path.stat().st_mode & 0o7777 for path in (tmp_path / "ledger").rglob("*")} == {0o700, 0o600}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_tombstone_is_an_error_and_never_nobody(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(Places(ledger=tmp_path / "ledger"))
    ledger.bury("a")
    (tmp_path / "ledger" / "tombstones" / "a.json").write_bytes(content)
    with pytest.raises(VaultError, match="is damaged"):
        ledger.tombstone("a")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mode": 7'])
def test_a_damaged_configuration_is_an_error_and_never_plain(tmp_path: Path, content: str) -> None:
    places = Places(configuration=tmp_path / "vault.json")
    with pytest.raises(VaultError, match="no vault yet"):
        places.is_encrypted()
    places.configuration.write_text(content)
    with pytest.raises(VaultError, match="is damaged"):
        places.is_encrypted()
    places.configure("plain", "no kernel for it")
    assert (places.is_encrypted(), places.reason()) == (False, "no kernel for it")


@pytest.mark.parametrize(
    "text",
    ["6F1C1B1E-1111-4222-8333-944445555666", "6f1c1b1e-1111-4222-8333-944445555666\n", "６f1c1b1e-1111-4222-8333-944445555666", "", "../x"],
)
def test_an_id_is_a_uuid_in_lower_case_and_nothing_else(text: str) -> None:
    assert is_user_id("6f1c1b1e-1111-4222-8333-944445555666")
    assert not is_user_id(text)


@pytest.mark.parametrize("elsewhere", [contextlib.nullcontext, Elsewhere, lambda: Elsewhere(root=Path("/srv"))])
def test_unlocking_does_not_undo_an_erasure_that_is_held_up(droplet: Droplet, elsewhere: Callable[[], AbstractContextManager[Any]]) -> None:
    """Nor does it where somebody has copied all mounts meanwhile: what is unmounted in one place is unmounted in all."""
    user, other = droplet.adopted(2)
    with elsewhere():
        with Holder(droplet.path("clips", user, "0.wav")), pytest.raises(HeldOpenError):
            droplet.shred(user)
        droplet.disk.unmount()
        droplet.disk.mount()
        with droplet.volume() as volume:
            unlock.unlock(volume, droplet.keyring, droplet.ledger)
        assert not droplet.path("clips", user, "0.wav").exists()
        assert droplet.path("clips", other, "0.wav").exists()
        assert droplet.shred(user).receipt == 1
