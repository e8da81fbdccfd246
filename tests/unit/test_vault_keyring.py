"""At every moment one whole ring of keys is in force, and a key that was taken out of it is nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gigglekit.crypto import keys
from gigglekit.files.replacing import replace
from gigglekit.vault.errors import RefusedError, VaultError
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.places import Places

from tests.unit.killing import killed_before
from tests.unit.vault_volume import Disk, Droplet


class Ring:
    """A ring in a folder, and what should be in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.keyring = Keyring(Places(keys=self.folder))
        self.expected: dict[str, bytes] = {}

    def fill(self, *vault_ids: str) -> Ring:
        self.keyring.create()
        for vault_id in vault_ids:
            self.expected[vault_id] = self.keyring.make_root_key(vault_id)
        return self

    @property
    def in_force(self) -> Path:
        return self.folder / os.readlink(self.folder / "ring")

    def kek(self) -> bytes:
        return (self.in_force / "key-encryption-key").read_bytes()

    def wrapped(self, vault_id: str) -> bytes:
        return (self.in_force / "vaults" / f"{vault_id}.key").read_bytes()

    def has(self, expected: dict[str, bytes]) -> bool:
        return {vault_id: self.keyring.root_key(vault_id) for vault_id in self.keyring.vaults()} == expected

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def ring(a_folder: Path) -> Ring:
    return Ring(a_folder).fill("a", "b", "c")


# --- what it does -------------------------------------------------------------------------------------------------------


def test_a_new_ring_is_empty_and_closed_to_others(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    assert not ring.keyring.exists()
    assert ring.keyring.create()
    assert (ring.keyring.exists(), ring.keyring.vaults(), ring.keyring.lobby_keys()) == (True, [], {})
    modes = {path.stat().st_mode & 0o7777 for path in [ring.folder, *ring.folder.rglob("*")] if path.is_dir()}
    assert modes == {0o700}
    assert {path.stat().st_mode & 0o7777 for path in ring.folder.rglob("*") if path.is_file()} == {0o600}


def test_creating_again_changes_nothing(ring: Ring) -> None:
    before = ring.kek(), ring.entries(), ring.keyring.vault_id("user")
    assert not ring.keyring.create()
    assert (ring.kek(), ring.entries(), ring.keyring.vault_id("user")) == before
    assert ring.has(ring.expected)


def test_creating_again_does_not_disturb_whoever_builds_a_new_ring(ring: Ring) -> None:
    # An apply asks for a ring without the lock, while a shred may be rekeying.
    (ring.folder / "ring.000002").mkdir()
    ring.keyring.create()
    assert (ring.folder / "ring.000002").is_dir()
    ring.keyring.tidy()
    assert not (ring.folder / "ring.000002").exists()


def test_a_key_is_made_once_and_never_written_as_it_is(ring: Ring) -> None:
    assert ring.keyring.make_root_key("a") == ring.expected["a"]
    assert ring.keyring.root_key("nobody") is None
    content = b"".join(path.read_bytes() for path in ring.folder.rglob("*") if path.is_file())
    assert not any(key in content for key in ring.expected.values())
    assert keys.unwrap(ring.wrapped("a"), ring.kek()) == ring.expected["a"]


def test_rekeying_changes_every_wrapping_and_no_key(ring: Ring) -> None:
    before = ring.kek(), ring.wrapped("a"), ring.in_force
    names = ring.keyring.vault_id("user")
    ring.keyring.rekey()
    assert ring.has(ring.expected)
    assert (ring.kek() != before[0], ring.wrapped("a") != before[1]) == (True, True)
    assert not before[2].exists()
    assert ring.keyring.vault_id("user") == names
    assert ring.entries() == ["names.key", "ring", "ring.000002"]


def test_rekeying_without_a_key_leaves_it_in_no_ring(ring: Ring) -> None:
    ring.keyring.rekey(without=frozenset({"b"}))
    del ring.expected["b"]
    assert ring.has(ring.expected)
    assert ring.keyring.root_key("b") is None
    assert list(ring.folder.rglob("b.key")) == []


def test_rekeying_without_a_key_that_is_not_there_is_no_error(ring: Ring) -> None:
    ring.keyring.rekey(without=frozenset({"nobody"}))
    assert ring.has(ring.expected)


def test_a_damaged_key_stops_rekeying_before_anything_changed(ring: Ring) -> None:
    path = ring.in_force / "vaults" / "b.key"
    path.write_bytes(bytes(40))
    before = ring.kek(), ring.entries()
    with pytest.raises(VaultError, match=r"b\.key cannot be unwrapped.*Put it back"):
        ring.keyring.rekey()
    assert (ring.kek(), ring.entries()) == before
    assert ring.keyring.root_key("a") == ring.expected["a"]


def test_a_ring_that_lost_its_link_is_not_replaced_by_an_empty_one(ring: Ring) -> None:
    (ring.folder / "ring").unlink()
    with pytest.raises(VaultError, match="Nothing was changed"):
        ring.keyring.create()
    (ring.folder / "ring").symlink_to("ring.000001")
    assert ring.has(ring.expected)


def test_a_link_to_no_whole_ring_is_an_error_that_says_so(ring: Ring) -> None:
    (ring.in_force / "key-encryption-key").unlink()
    for act in (ring.keyring.vaults, ring.keyring.rekey, ring.keyring.tidy):
        with pytest.raises(VaultError, match="no whole ring"):
            act()
    assert (ring.in_force / "vaults" / "a.key").exists()


def test_a_link_that_leads_out_of_the_folder_is_no_ring(ring: Ring, tmp_path: Path) -> None:
    (ring.folder / "ring").unlink()
    (ring.folder / "ring").symlink_to(tmp_path)
    with pytest.raises(VaultError, match="no whole ring"):
        ring.keyring.tidy()


def test_without_keys_every_question_says_what_to_do(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    with pytest.raises(VaultError, match=r"state\.apply vault"):
        ring.keyring.vaults()
    with pytest.raises(VaultError, match=r"names\.key is missing"):
        ring.keyring.vault_id("user")


def test_a_vaults_name_depends_on_the_user_and_on_this_droplets_key(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = Ring(tmp_path).fill().keyring, Ring(tmp_path / "other").fill().keyring
    assert one.vault_id("user") == one.vault_id("user")
    assert len({one.vault_id("user"), one.vault_id("user2"), other.vault_id("user")}) == 3


# --- killed ---------------------------------------------------------------------------------------------------------------


def kills(act: Callable[[], object]) -> Iterator[int]:
    """Kill an operation before its first, second, … state-changing call, until it comes to its end."""
    call = 1
    while killed_before(call, act):
        yield call
        call += 1
    assert call > 5


def test_killed_anywhere_while_it_is_created_the_next_run_makes_a_whole_ring(a_folder: Path) -> None:
    number = 0

    def fresh() -> Ring:
        (a_folder / str(number)).mkdir(exist_ok=True)
        return Ring(a_folder / str(number))

    for number in range(1, 200):
        if not killed_before(number, fresh().keyring.create):
            break
        ring = fresh()
        ring.keyring.create()
        assert ring.entries() == ["names.key", "ring", "ring.000001"], f"killed before call {number}"
        assert ring.fill("a").has(ring.expected)
    assert number > 10


def test_killed_anywhere_while_it_is_rekeyed_one_whole_ring_is_in_force(ring: Ring) -> None:
    for call in kills(ring.keyring.rekey):
        assert ring.has(ring.expected), f"killed before call {call}"
        ring.keyring.tidy()
        assert ring.has(ring.expected), f"killed before call {call}, then tidied"
        assert ring.entries() == ["names.key", "ring", ring.in_force.name], f"killed before call {call}"
    assert ring.has(ring.expected)


def test_killed_anywhere_while_a_key_is_taken_out_the_next_run_takes_it_out(ring: Ring) -> None:
    call = 0
    while True:
        call += 1
        ring.expected["gone"] = ring.keyring.make_root_key("gone")
        killed = killed_before(call, lambda: ring.keyring.rekey(frozenset({"gone"})))
        rest = {name: key for name, key in ring.expected.items() if name != "gone"}
        assert ring.has(ring.expected) or ring.has(rest), f"killed before call {call}"
        if not killed:
            assert ring.has(rest)
            break
        ring.keyring.rekey(frozenset({"gone"}))
        assert ring.has(rest)
        assert list(ring.folder.rglob("gone.key")) == []
        assert ring.entries() == ["names.key", "ring", ring.in_force.name]
    assert call > 20


def test_killed_anywhere_while_a_key_is_made_it_is_there_or_not(ring: Ring) -> None:
    for call in kills(lambda: ring.keyring.make_root_key("new")):
        found = {name: ring.keyring.root_key(name) for name in ring.keyring.vaults()}
        new = found.pop("new", None)
        assert found == ring.expected, f"killed before call {call}"
        assert new is None or len(new) == keys.KEY_BYTES
        ring.keyring.tidy()
        assert list(ring.folder.rglob(".*")) == []
        ring.keyring.rekey(frozenset({"new"}))


def test_killed_anywhere_while_a_key_of_the_lobby_is_dropped_no_key_is_damaged(ring: Ring) -> None:
    doomed, kept = bytes(16), bytes([1]) * 16
    ring.keyring._store("lobby", kept.hex(), keys.new())
    call, killed = 0, True
    while killed:
        call += 1
        ring.keyring._store("lobby", doomed.hex(), keys.new())
        killed = killed_before(call, lambda: ring.keyring.drop_lobby_key(doomed))
        assert kept in ring.keyring.lobby_keys(), f"killed before call {call}"
        if doomed in ring.keyring.lobby_keys():
            ring.keyring.drop_lobby_key(doomed)
        ring.keyring.tidy()
        assert list(ring.keyring.lobby_keys()) == [kept]
        assert list(ring.folder.rglob("*00000000*")) == []
    assert call > 5


# --- on the disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_after_rekeying_no_byte_of_a_removed_key_is_on_the_disk(a_disk: Disk) -> None:
    ring = Ring(a_disk.place).fill("kept", "removed")
    a_disk.sync()
    gone = {"key-encryption key": ring.kek(), "wrapped key": ring.wrapped("removed"), "root key": ring.expected["removed"]}
    assert ring.kek() in Path(a_disk.image).read_bytes()
    ring.keyring.rekey(frozenset({"removed"}))
    kept = ring.kek(), ring.wrapped("kept")
    raw = a_disk.raw()
    assert [name for name, content in gone.items() if content in raw] == []
    assert all(content in raw for content in kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_writing_a_new_file_over_the_old_one_would_leave_it_there(a_disk: Disk) -> None:
    """The control: the same scan finds what the usual way of replacing a file leaves."""
    old = keys.wrap(keys.new(), keys.new())
    replace(a_disk.place / "user.key", old)
    a_disk.sync()
    replace(a_disk.place / "user.key", keys.wrap(keys.new(), keys.new()))
    (a_disk.place / "user.key").unlink()
    assert old in a_disk.raw()


def test_a_damaged_key_is_replaced_by_the_one_of_the_backup(droplet: Droplet) -> None:
    root = droplet.keyring.make_root_key("a" * 32)
    path = droplet.places.keys / "ring" / "vaults" / f"{'a' * 32}.key"
    path.write_bytes(bytes(40))
    with pytest.raises(VaultError):
        droplet.keyring.root_key("a" * 32)
    droplet.keyring.take_over(droplet.keyring.names_key(), {"a" * 32: root}, {})
    assert droplet.keyring.root_key("a" * 32) == root


def test_keys_of_another_droplet_are_not_taken_over_where_users_have_vaults(droplet: Droplet) -> None:
    droplet.keyring.make_root_key("a" * 32)
    with pytest.raises(RefusedError, match="1 users"):
        droplet.keyring.take_over(bytes(32), {}, {})
    assert droplet.keyring.names_key() != bytes(32)
