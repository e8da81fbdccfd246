"""With a bucket, what lies on the droplet's disk opens nothing by itself, and at every moment one pair of shares opens everything."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gigglekit.crypto import keys
from gigglekit.vault import memory
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.memory import Memory
from gigglekit.vault.places import Places
from gigglekit.vault.share import LABEL, ShareGoneError, ShareMissingError, ShareUnreachableError, droplet_of

from tests.unit.killing import killed_before
from tests.unit.vault_shares import FolderShares, Machine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def one(a_folder: Path) -> Machine:
    """A machine whose whole key is its own."""
    return Machine(a_folder).fill("a", "b", "c")


@pytest.fixture
def two(one: Machine) -> Machine:
    """A machine whose key has a share in the bucket."""
    assert one.keyring.enable(one.shares)
    one.bucket.asked.clear()
    return one


def objects(machine: Machine) -> list[str]:
    return sorted(path.name for path in machine.bucket.folder.iterdir())


def in_memory(machine: Machine) -> list[str]:
    return sorted(path.name for path in machine.memory_folder.iterdir()) if machine.memory_folder.exists() else []


def wrappings(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.key")) if path.parent.name in ("vaults", "lobby")]


def opened_by(kek: bytes, wrapped: list[bytes]) -> list[bytes]:
    found = []
    for one in wrapped:
        with contextlib.suppress(keys.WrongKeyError):
            found.append(keys.unwrap(one, kek))
    return found


# --- two shares -----------------------------------------------------------------------------------------------------------


def test_a_second_share_changes_every_wrapping_and_no_key(one: Machine) -> None:
    before, names = wrappings(one.in_force), one.keyring.vault_id("user")
    assert one.keyring.enable(one.shares)
    assert one.opens() == one.expected
    assert not set(before) & set(wrappings(one.in_force))
    assert objects(one) == in_memory(one) == [one.share_id()]
    assert len((one.bucket.folder / one.share_id()).read_bytes()) == keys.KEY_BYTES
    assert one.keyring.vault_id("user") == names
    assert sorted(path.name for path in one.places.keys.iterdir()) == ["droplet", "names.key", "ring", "ring.000002"]


def test_enabling_again_asks_nobody(two: Machine) -> None:
    share = two.share_id()
    assert not two.keyring.enable(two.shares)
    assert (two.share_id(), two.bucket.asked) == (share, [])


def test_a_new_ring_can_have_two_shares_from_its_first_moment_on(a_folder: Path) -> None:
    machine = Machine(a_folder)
    assert machine.keyring.create(machine.shares)
    machine.fill("a")
    assert objects(machine) == [machine.share_id()]
    assert machine.opens() == machine.expected
    machine.bucket.is_reachable = False
    other = Machine(a_folder / "other", machine.bucket)
    with pytest.raises(ShareUnreachableError, match="no answer"):
        other.keyring.create(other.shares)
    assert not other.keyring.exists()


def test_the_key_is_derived_from_both_shares_as_the_format_says(two: Machine) -> None:
    """Worked out here by hand: HKDF-SHA512 (RFC 5869) of the droplet's share and then the bucket's."""
    import hmac

    droplets = (two.in_force / "key-encryption-key").read_bytes()
    buckets = (two.bucket.folder / two.share_id()).read_bytes()
    extracted = hmac.digest(bytes(64), droplets + buckets, "sha512")
    kek = hmac.digest(extracted, LABEL.encode() + b"\x01", "sha512")[:32]
    assert sorted(opened_by(kek, wrappings(two.in_force))) == sorted(two.expected.values())
    for wrong in (droplets + buckets[:-1], droplets[:-1], b""):
        with pytest.raises(ValueError, match="32 bytes"):
            keys.combine(wrong, buckets, LABEL)


def test_one_share_again_needs_no_bucket(two: Machine) -> None:
    two.bucket.is_reachable = False
    assert two.keyring.disable()
    assert not two.keyring.disable()
    assert (two.opens(), two.keyring.share(), in_memory(two), two.bucket.asked) == (two.expected, None, [], [])
    two.restart()
    assert two.opens() == two.expected
    # Its old share is found when there is a bucket again.
    two.bucket.is_reachable = True
    assert two.keyring.enable(two.shares)
    assert objects(two) == [two.share_id()]


def test_rekeying_with_the_bucket_replaces_both_shares_and_without_it_only_the_droplets(two: Machine) -> None:
    before = two.share_id(), (two.in_force / "key-encryption-key").read_bytes()
    two.bucket.is_reachable = False
    two.keyring.rekey(frozenset({"b"}))
    del two.expected["b"]
    middle = two.share_id(), (two.in_force / "key-encryption-key").read_bytes()
    assert (middle[0] == before[0], middle[1] != before[1], two.bucket.asked) == (True, True, [])
    assert two.opens() == two.expected
    two.bucket.is_reachable = True
    two.keyring.rekey(shares=two.shares)
    after = two.share_id(), (two.in_force / "key-encryption-key").read_bytes()
    assert (after[0] != middle[0], after[1] != middle[1]) == (True, True)
    assert two.opens() == two.expected
    assert objects(two) == in_memory(two) == [after[0]]


def test_another_bucket_gets_a_share_of_its_own(two: Machine, a_folder: Path) -> None:
    old = two.share_id()
    other = FolderShares(a_folder / "other-bucket")
    assert two.keyring.enable(other)
    share = two.keyring.share()
    assert share is not None
    assert (share.place, [path.name for path in other.folder.iterdir()]) == (other.place, [share.id])
    assert two.opens() == two.expected
    # The one before is not asked: its credentials may be gone.
    assert objects(two) == [old]


# --- after a boot -----------------------------------------------------------------------------------------------------------


def test_after_a_boot_no_key_can_be_used_until_the_share_was_fetched_and_the_error_says_how(two: Machine) -> None:
    two.keyring._store("lobby", bytes(16).hex(), keys.new())
    two.restart()
    assert two.keyring.lacks_share()
    ring = two.in_force
    for act in (
        two.opens,
        two.keyring.rekey,
        two.keyring.disable,
        two.keyring.lobby_keys,
        two.keyring.insist_on_share,
        lambda: two.keyring.make_root_key("new"),
    ):
        with pytest.raises(ShareMissingError) as told:
            act()
        text = str(told.value)
        assert "systemctl status giggles-vault-unlock" in text
        assert "Nothing was changed" in text
        assert two.bucket.place in text
        assert "\n" not in text
    # What needs no key goes on.
    assert two.keyring.vaults() == sorted(two.expected)
    assert two.keyring.lobby_identifiers() == [bytes(16)]
    two.keyring.tidy()
    assert two.in_force == ring
    assert two.keyring.fetch_share(two.shares)
    assert not two.keyring.lacks_share()
    assert two.opens() == two.expected
    assert two.bucket.asked == ["fetch"]
    assert not two.keyring.fetch_share(two.shares)
    assert two.bucket.asked == ["fetch"]


def test_a_ring_with_one_share_asks_for_none(one: Machine) -> None:
    assert not one.keyring.lacks_share()
    assert not one.keyring.fetch_share(one.shares)
    assert one.bucket.asked == []
    one.keyring.insist_on_share()


def test_a_bucket_that_does_not_answer_is_asked_again_later(two: Machine) -> None:
    two.restart()
    two.bucket.is_reachable = False
    with pytest.raises(ShareUnreachableError, match="comes up by itself"):
        two.keyring.fetch_share(two.shares)
    two.bucket.is_reachable = True
    assert two.keyring.fetch_share(two.shares)
    assert two.opens() == two.expected


def test_an_older_copy_of_the_droplet_is_told_that_it_is_one(two: Machine, a_folder: Path) -> None:
    copy = a_folder / "copy"
    shutil.copytree(two.places.keys, copy / "keys", symlinks=True)
    old = Machine(copy, two.bucket)
    assert old.keyring.fetch_share(two.shares), "control: a copy of now opens"
    old.restart()
    two.keyring.rekey(shares=two.shares)
    with pytest.raises(ShareGoneError, match=r"older copy of the droplet.*recovery kit, docs/BACKUP_AND_RESTORE\.md"):
        old.keyring.fetch_share(two.shares)
    for act in (lambda: old.keyring.rekey(shares=two.shares), old.keyring.rekey):
        with pytest.raises(VaultError):
            act()
    assert objects(two) == [two.share_id()], "an older copy destroyed the share in force"


def test_another_bucket_is_told_apart_from_an_older_copy(two: Machine, a_folder: Path) -> None:
    two.restart()
    other = FolderShares(a_folder / "other-bucket")
    with pytest.raises(ShareGoneError, match=f"into another one, {two.bucket.place}"):
        two.keyring.fetch_share(other)
    with pytest.raises(ShareGoneError):
        two.keyring.enable(other)
    assert list(other.folder.iterdir()) == []


@pytest.mark.parametrize("content", [bytes(32), b"", b"short", bytes(64)], ids=["another", "empty", "short", "long"])
def test_a_share_that_opens_nothing_is_not_kept(two: Machine, content: bytes) -> None:
    two.restart()
    (two.bucket.folder / two.share_id()).write_bytes(content)
    with pytest.raises(ShareGoneError):
        two.keyring.fetch_share(two.shares)
    assert in_memory(two) == []


def test_one_damaged_key_does_not_keep_the_share_away(two: Machine) -> None:
    two.restart()
    (two.in_force / "vaults" / "a.key").write_bytes(bytes(40))
    assert two.keyring.fetch_share(two.shares)
    assert two.keyring.root_key("b") == two.expected["b"]


def test_a_ring_that_does_not_know_its_share_is_not_taken_for_one_without(two: Machine) -> None:
    (two.in_force / "share").write_text("nonsense")
    for act in (two.keyring.rekey, two.keyring.tidy, lambda: two.keyring.make_root_key("new")):
        with pytest.raises(VaultError, match="no whole ring"):
            act()


def test_a_bucket_that_gives_back_something_else_is_not_trusted(one: Machine) -> None:
    ring, wrapped = one.in_force, wrappings(one.in_force)
    one.bucket.fetch = lambda share_id: bytes(32)  # type: ignore[method-assign]
    with pytest.raises(VaultError, match="gave back something else"):
        one.keyring.enable(one.shares)
    assert (one.in_force, wrappings(one.in_force), one.opens()) == (ring, wrapped, one.expected)


def test_a_damaged_key_stops_before_the_bucket_gets_anything(one: Machine) -> None:
    (one.in_force / "vaults" / "b.key").write_bytes(bytes(40))
    for act in (lambda: one.keyring.enable(one.shares), lambda: one.keyring.rekey(shares=one.shares)):
        with pytest.raises(VaultError, match=r"b\.key cannot be unwrapped"):
            act()
    assert (objects(one), one.bucket.asked) == ([], [])


# --- shares of others -------------------------------------------------------------------------------------------------------


def test_a_droplet_never_destroys_the_share_of_another_in_the_same_bucket(two: Machine, a_folder: Path) -> None:
    other = Machine(a_folder / "other", two.bucket).fill("x")
    other.keyring.enable(two.shares)
    two.keyring.rekey(shares=two.shares)
    foreign = [f"{'0' * 32}-{'1' * 32}", "something-else", two.share_id()[:-1]]
    for name in foreign:
        (two.bucket.folder / name).write_bytes(bytes(32))
    leftover = f"{droplet_of(two.share_id())}-{'2' * 32}"
    (two.bucket.folder / leftover).write_bytes(bytes(32))
    assert two.keyring.tidy_shares(two.shares) == 1
    assert objects(two) == sorted([two.share_id(), other.share_id(), *foreign])
    other.restart()
    assert other.keyring.fetch_share(two.shares)
    assert other.opens() == other.expected


def test_a_droplet_that_lost_its_name_reads_it_from_its_ring(two: Machine) -> None:
    before = two.share_id()
    (two.places.keys / "droplet").write_text("damaged")
    two.keyring.rekey(shares=two.shares)
    assert droplet_of(two.share_id()) == droplet_of(before)
    assert objects(two) == [two.share_id()]


# --- killed -----------------------------------------------------------------------------------------------------------------


def kills(act: Callable[[], object], least: int) -> Iterator[int]:
    """Kill an operation before its first, second, … state-changing call, until it comes to its end."""
    call = 1
    while killed_before(call, act):
        yield call
        call += 1
    print(f"killed at {call - 1} moments")
    assert call > least


def whole(machine: Machine, expected: dict[str, bytes], where: str) -> None:
    """After a power cut: one whole ring is in force, and the bucket has its share."""
    machine.restart()
    machine.keyring.fetch_share(machine.shares)
    assert machine.opens() == expected, where
    machine.keyring.tidy()
    assert machine.opens() == expected, f"{where}, then tidied"


def tidied(machine: Machine, where: str) -> None:
    machine.keyring.tidy()
    machine.keyring.tidy_shares(machine.shares)
    there = [name for name in objects(machine) if not name.startswith(".")]
    share = machine.keyring.share()
    assert there == ([share.id] if share else []), where
    assert in_memory(machine) == there, where
    rings = [path for path in machine.places.keys.iterdir() if path.name.startswith("ring.")]
    assert rings == [machine.in_force], where
    assert [path for path in machine.places.keys.rglob(".*") if path.is_file()] == [], where


def test_killed_anywhere_while_a_share_is_added_everything_opens_and_nothing_is_left(one: Machine) -> None:
    call, killed = 0, True
    while killed:
        call += 1
        killed = killed_before(call, lambda: one.keyring.enable(one.shares))
        whole(one, one.expected, f"killed before call {call}")
        if not killed:
            break
        tidied(one, f"killed before call {call}")
        one.keyring.disable()
    assert one.keyring.share() is not None
    print(f"killed at {call - 1} moments")
    assert call > 50


def test_killed_anywhere_while_both_shares_are_replaced_everything_opens_and_nothing_is_left(two: Machine) -> None:
    for call in kills(lambda: two.keyring.rekey(shares=two.shares), 50):
        whole(two, two.expected, f"killed before call {call}")
        assert two.keyring.share() is not None
        two.keyring.rekey(shares=two.shares)
        tidied(two, f"killed before call {call}, then rekeyed")
    whole(two, two.expected, "at the end")


def test_killed_anywhere_while_a_key_is_taken_out_with_the_bucket_the_next_run_takes_it_out(two: Machine) -> None:
    call, killed = 0, True
    rest = dict(two.expected)
    while killed:
        call += 1
        gone = two.keyring.make_root_key("gone")
        killed = killed_before(call, lambda: two.keyring.rekey(frozenset({"gone"}), two.shares))
        two.restart()
        two.keyring.fetch_share(two.shares)
        assert two.opens() in (rest, rest | {"gone": gone}), f"killed before call {call}"
        two.keyring.rekey(frozenset({"gone"}), two.shares)
        assert two.opens() == rest
        assert list(two.places.keys.rglob("gone.key")) == []
        tidied(two, f"killed before call {call}, then asked again")
    assert call > 50


def test_killed_anywhere_while_a_share_is_taken_away_everything_opens(two: Machine) -> None:
    call, killed = 0, True
    while killed:
        call += 1
        killed = killed_before(call, two.keyring.disable)
        whole(two, two.expected, f"killed before call {call}")
        if killed:
            two.keyring.enable(two.shares)
            tidied(two, f"killed before call {call}, then enabled")
    assert two.keyring.share() is None
    tidied(two, "at the end")
    assert call > 30


def test_killed_anywhere_while_a_ring_is_created_with_two_shares_the_next_run_makes_a_whole_one(a_folder: Path) -> None:
    bucket, call = FolderShares(a_folder / "bucket"), 0
    while True:
        call += 1
        machine = Machine(a_folder / str(call), bucket)
        killed = killed_before(call, lambda machine=machine: machine.keyring.create(machine.shares))  # type: ignore[misc]
        machine.keyring.create(machine.shares)
        machine.fill("a")
        whole(machine, machine.expected, f"killed before call {call}")
        machine.keyring.tidy_shares(machine.shares)
        mine = [name for name in objects(machine) if droplet_of(name) == droplet_of(machine.share_id())]
        assert mine == [machine.share_id()], f"killed before call {call}"
        if not killed:
            break
    assert call > 25


def test_a_bucket_that_goes_away_at_any_question_leaves_everything_open(two: Machine) -> None:
    answers, asked = 0, True
    while asked:
        original, left = two.bucket._ask, [answers]

        def ask(what: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise ShareUnreachableError(two.bucket.place, "gone")
            left[0] -= 1

        two.bucket._ask = ask  # type: ignore[method-assign]
        try:
            two.keyring.rekey(shares=two.shares)
            asked = False
        except ShareUnreachableError:
            answers += 1
        finally:
            two.bucket._ask = original  # type: ignore[method-assign]
        whole(two, two.expected, f"gone after {answers} answers")
    # Stored, read again, listed, destroyed; and the shares that the attempts before have left.
    assert answers >= 4
    tidied(two, "at the end")


# --- what a thief has ---------------------------------------------------------------------------------------------------------


def test_a_stolen_disk_opens_nothing_without_the_buckets_share(two: Machine) -> None:
    disk = two.stolen()
    bucket = (two.bucket.folder / two.share_id()).read_bytes()
    assert bucket not in disk
    wrapped = wrappings(two.places.keys)
    assert len(wrapped) == len(two.expected)
    droplets = (two.in_force / "key-encryption-key").read_bytes()
    # Everything on it that is as long as a key, and what could be made of it.
    guesses = [disk[start : start + 32] for start in range(len(disk) - 31)]
    guesses += [keys.derive(droplets, LABEL), keys.combine(droplets, droplets, LABEL), keys.combine(droplets, bytes(32), LABEL)]
    assert [kek for kek in guesses if opened_by(kek, wrapped)] == []
    # Control: with both shares everything opens, and by the same way of guessing a ring with one share does.
    both = keys.combine(droplets, bucket, LABEL)
    assert sorted(opened_by(both, wrapped)) == sorted(two.expected.values())
    assert opened_by(keys.combine(bucket, droplets, LABEL), wrapped) == []
    two.keyring.disable()
    disk = two.stolen()
    wrapped = wrappings(two.places.keys)
    assert any(opened_by(disk[start : start + 32], wrapped) for start in range(len(disk) - 31))


def test_a_disk_from_before_and_a_bucket_from_after_open_nothing(two: Machine) -> None:
    """The whole disk as it was, erased user and all, with everything that the bucket has after the shares were replaced."""
    wrapped = wrappings(two.places.keys)
    droplets = (two.in_force / "key-encryption-key").read_bytes()
    old = (two.bucket.folder / two.share_id()).read_bytes()
    two.keyring.rekey(frozenset({"b"}))
    # Control: as long as the bucket's share stays, it still opens the copy.
    (kept,) = (path.read_bytes() for path in two.bucket.folder.iterdir())
    assert two.expected["b"] in opened_by(keys.combine(droplets, kept, LABEL), wrapped)
    two.keyring.rekey(shares=two.shares)
    after = [path.read_bytes() for path in two.bucket.folder.iterdir()]
    assert old not in after
    assert [secret for secret in after if opened_by(keys.combine(droplets, secret, LABEL), wrapped)] == []
    # Nor does the bucket's old share open what is in force now.
    now = (two.in_force / "key-encryption-key").read_bytes()
    assert opened_by(keys.combine(now, old, LABEL), wrappings(two.places.keys)) == []
    assert sorted(opened_by(keys.combine(now, after[0], LABEL), wrappings(two.places.keys))) == [
        *sorted(key for name, key in two.expected.items() if name != "b")
    ]


# --- memory -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(a_folder: Path) -> Iterator[Path]:
    """Where a memory is mounted, and unmounted in the end."""
    folder = a_folder / "memory"
    yield folder
    while os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


def _kind(folder: Path) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()


@as_root
def test_the_share_lies_in_a_ramfs_of_its_own_and_nowhere_else(a_folder: Path, mounted: Path) -> None:
    machine = Machine(a_folder, memory=Memory(mounted)).fill("a")
    machine.keyring.enable(machine.shares)
    machine.keyring.rekey(shares=machine.shares)
    secret = (machine.bucket.folder / machine.share_id()).read_bytes()
    kept = mounted / machine.share_id()
    assert _kind(mounted) == "ramfs"
    assert (mounted.stat().st_mode & 0o7777, kept.stat().st_mode & 0o7777, kept.read_bytes()) == (0o700, 0o600, secret)
    options = subprocess.run(["findmnt", "-no", "OPTIONS", mounted], capture_output=True, text=True, check=True).stdout
    assert {"nosuid", "nodev", "noexec"} <= set(options.strip().split(","))
    elsewhere = [path for path in a_folder.rglob("*") if path.is_file() and path.read_bytes() == secret]
    assert sorted(elsewhere) == sorted([kept, machine.bucket.folder / machine.share_id()])
    # Another process of the same machine finds it, and it is not mounted a second time.
    again = Keyring(machine.places)
    again.rekey(shares=machine.shares)
    assert again.root_key("a") == machine.expected["a"]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == str(mounted)]
    assert len(mounts) == 1
    subprocess.run(["umount", mounted], check=True)
    assert os.listdir(mounted) == []
    assert machine.keyring.lacks_share()


@as_root
@pytest.mark.parametrize("there", ["a folder", "a tmpfs"])
def test_where_no_ramfs_is_no_secret_is_written(a_folder: Path, mounted: Path, there: str) -> None:
    mounted.mkdir()
    if there == "a tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mounted], check=True)
    machine = Machine(a_folder, memory=Memory(mounted, mount=lambda folder: None)).fill("a")
    ring = machine.in_force
    with pytest.raises(VaultError, match="not on a ramfs, so the key was not put there"):
        machine.keyring.enable(machine.shares)
    assert os.listdir(mounted) == []
    assert (machine.in_force, machine.opens(), objects(machine)) == (ring, machine.expected, [])
    # Control: with the real mount it works, over whatever is there.
    machine = Machine(a_folder, memory=Memory(mounted))
    assert machine.keyring.enable(machine.shares)
    assert _kind(mounted) == "ramfs"


def test_a_mount_that_is_refused_is_told_in_one_paragraph(a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ask", lambda command: (32, "mount: permission denied\n"))
    with pytest.raises(VaultError, match="permission denied") as told:
        Memory(a_folder / "memory").put("name", bytes(32))
    assert "\n" not in str(told.value)


def test_only_the_share_in_force_stays_in_memory(two: Machine) -> None:
    two.memory.put("another", bytes(32))
    (two.memory_folder / ".unfinished").write_bytes(b"half")
    two.keyring.tidy()
    assert in_memory(two) == [two.share_id()]
    two.memory.put("torn", bytes(31))
    assert two.memory.get("torn") is None


def test_the_places_of_a_droplet_keep_it_in_run() -> None:
    assert Places().memory == Path("/run/giggles/keys")
