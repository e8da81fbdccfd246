"""What nobody keeps goes, what anybody keeps stays readable, and an erased user is gone from the bucket."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from gigglekit.backup import names, signed, waiting
from gigglekit.backup.clips import User
from gigglekit.backup.erase import ErasedUser, erase_user
from gigglekit.backup.errors import BackupError, RefusedError
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.prune import Prune, Pruned
from gigglekit.backup.retention import kept
from gigglekit.backup.settings import Keep
from gigglekit.backup.snapshot import Dump
from gigglekit.backup.verify import Verified, verify
from gigglekit.crypto import chunked

from tests.unit.b2 import Storage
from tests.unit.backup_folder import FolderDroplet
from tests.unit.backup_repository import Droplet, digests

DAY = 86400
NOW = 1_795_000_000
ONE = Keep(1, 0, 0)


@pytest.fixture
def droplet(b2: Storage, tmp_path: Path) -> Droplet:
    """A droplet with an empty bucket."""
    (tmp_path / "vaults").mkdir()
    return Droplet(tmp_path, b2)


def roots(droplet: Droplet) -> dict[str, bytes]:
    """Return the root keys of users that were not erased."""
    return {vault: user.root_key for vault, user in droplet.users.items() if vault not in droplet.erased}


def prune_once(droplet: Droplet, keep: Keep = ONE, now: float = NOW, grace: float = waiting.GRACE_SECONDS) -> Pruned:
    """Prune with the newest snapshot kept only."""
    with droplet.manifest() as manifest:
        run = Prune(droplet.repository(), manifest, roots(droplet), keep, 30, now, pack_bytes=droplet.pack_bytes, grace=grace)
        # A day is a day here, however long a prune takes.
        run.elapsed = lambda: 0.0
        return run.run()


def prune(droplet: Droplet, keep: Keep = ONE, now: float = NOW) -> Pruned:
    """Prune until what was given up is gone, and return what was done altogether."""
    first = prune_once(droplet, keep, now, grace=0)
    if not first.waiting:
        return first
    then = prune_once(droplet, keep, now, grace=0)
    return Pruned(
        then.kept,
        first.removed + then.removed,
        first.objects + then.objects,
        then.waiting,
        first.rewritten + then.rewritten,
        first.freed + then.freed,
        max(first.locked_until, then.locked_until),
    )


def check(droplet: Droplet, fraction: float = 1.0, expected: str | None = None) -> Verified:
    """Verify, reading everything."""
    return verify(droplet.repository(), roots(droplet), expected=expected, fraction=fraction, chance=random.Random(1))  # noqa: S311


def erase(droplet: Droplet, user: User) -> ErasedUser:
    """Do with a user what a shred does in the bucket."""
    droplet.erased.add(user.vault_id)
    with droplet.manifest() as manifest:
        return erase_user(droplet.bucket(), manifest, user.vault_id, "2026-11-24T00:00:00Z", droplet.signer)


def at(seconds: float) -> dict[str, object]:
    """Let a sync believe that it is this time."""
    return {"clock": lambda: seconds}


def test_a_verified_backup_has_no_problems_and_counts_everything(droplet: Droplet) -> None:
    droplet.add(300_000, 400_000), droplet.add(1000)
    droplet.sync()
    found = check(droplet)
    assert found.problems == []
    assert (found.snapshots, found.users, found.files, found.packs, found.read_packs) == (1, 2, 3, 2, 2)
    assert found.read_size == found.size


def test_only_part_is_read_when_only_part_is_asked_for(droplet: Droplet) -> None:
    for _ in range(10):
        droplet.add(1000)
    droplet.sync()
    assert check(droplet, 0.0).read_packs == 0
    assert check(droplet, 0.01).read_packs == 1
    assert check(droplet, 0.3).read_packs == 3


def test_pruning_removes_old_snapshots_and_what_only_they_needed(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(300_000)
    (old,) = (user.folder / "clips").iterdir()
    droplet.sync(**at(NOW - 2 * DAY))
    old.unlink()
    droplet.write(user, "new.wav", os.urandom(1000))
    droplet.sync(**at(NOW - DAY))
    assert len(droplet.objects(names.DATA)) == 2
    done = prune(droplet)
    assert (done.kept, done.removed, done.objects, done.rewritten) == (1, 1, 1, 0)
    assert len(droplet.objects(names.DATA)) == 1
    assert check(droplet).problems == []
    assert droplet.sync().new_files == 0
    droplet.restore(user, tmp_path / "back")
    assert digests(tmp_path / "back") == digests(user.folder)


def test_a_mostly_wasted_pack_is_written_anew_and_every_snapshot_follows(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(*[100_000] * 8)
    clips = sorted((user.folder / "clips").iterdir())
    droplet.sync(**at(NOW - 3 * DAY))
    for clip in clips[2:]:
        clip.unlink()
    second = droplet.sync(**at(NOW - 2 * DAY)).snapshot
    before = digests(user.folder)
    droplet.write(user, "new.wav", b"new")
    droplet.sync(**at(NOW - DAY))
    done = prune(droplet, Keep(2, 0, 0))
    assert (done.kept, done.removed, done.rewritten) == (2, 1, 1)
    assert done.freed > 500_000
    assert sum(entry.size for entry in droplet.bucket().list(names.DATA)) < 250_000
    assert check(droplet).problems == []
    droplet.restore(user, tmp_path / "past", second)
    droplet.restore(user, tmp_path / "now")
    assert digests(tmp_path / "past") == before
    assert digests(tmp_path / "now") == digests(user.folder)
    assert prune(droplet, Keep(2, 0, 0)).objects == 0
    assert droplet.sync().snapshot == "", "the manifest follows too, so that there is nothing new"
    droplet.write(user, "last.wav", b"last")
    droplet.sync()
    assert check(droplet).problems == []


def test_a_user_without_a_key_who_was_not_erased_stops_pruning(droplet: Droplet) -> None:
    user = droplet.add(1000)
    droplet.add(1000)
    droplet.sync()
    before = droplet.objects()
    del droplet.users[user.vault_id]
    with pytest.raises(RefusedError, match=user.vault_id):
        prune(droplet)
    assert droplet.objects() == before
    assert any(user.vault_id in problem for problem in check(droplet).problems)


def test_an_erased_users_key_and_packs_are_gone_in_every_version(droplet: Droplet, tmp_path: Path) -> None:
    user, other = droplet.add(300_000), droplet.add(1000)
    first = droplet.sync().snapshot
    done = erase(droplet, user)
    assert (done.key_versions, done.objects, done.locked_until) == (1, 1, None)
    assert not [version for version in droplet.bucket().versions() if version.name == names.USER_KEYS + user.vault_id]
    assert len(list(droplet.bucket().versions(names.DATA))) == 1
    assert list(droplet.repository().erased()) == [user.vault_id]
    assert check(droplet).problems == []
    assert check(droplet).erased == 1
    droplet.sync()
    droplet.restore(other, tmp_path / "back", first)
    assert digests(tmp_path / "back") == digests(other.folder)
    assert prune(droplet, Keep(5, 0, 0)).objects == 0
    again = erase(droplet, user)
    assert (again.key_versions, again.objects) == (0, 0)


def test_under_object_lock_the_key_goes_at_once_and_the_date_of_the_data_is_told(b2_locked: Storage, tmp_path: Path) -> None:
    (tmp_path / "vaults").mkdir()
    droplet = Droplet(tmp_path, b2_locked, other={"lock_days": 3})
    user = droplet.add(1000)
    droplet.sync()
    done = erase(droplet, user)
    assert (done.key_versions, done.objects) == (1, 1)
    assert done.locked_until is not None
    assert abs(done.locked_until.timestamp() - time.time() - 3 * DAY) < 3600
    assert len(droplet.objects(names.DATA)) == 1
    droplet.add(500)
    droplet.sync()
    pruned = prune(droplet, now=time.time())
    assert pruned.locked_until, "what is locked is told, and nothing fails"
    assert check(droplet).problems == []


def test_an_erasure_under_object_lock_names_what_was_given_up_and_is_still_there(b2_locked: Storage, tmp_path: Path) -> None:
    (tmp_path / "vaults").mkdir()
    droplet = Droplet(tmp_path, b2_locked, other={"lock_days": 3})
    user = droplet.add(1000)
    droplet.sync(**at(NOW - 2 * DAY))
    for path in (user.folder / "clips").iterdir():
        path.unlink()
    droplet.write(user, "new.wav", b"new")
    droplet.sync(**at(NOW - DAY))
    assert prune(droplet).locked_until
    assert len(droplet.objects(names.DATA)) == 2
    done = erase(droplet, user)
    assert (done.objects, done.locked_until is not None) == (2, True)


def snapshot(year: int, month: int, day: int, hour: int = 5) -> SnapshotName:
    return SnapshotName(f"{year}{month:02}{day:02}T{hour:02}0000Z", "0" * 32)


def test_days_weeks_and_months_are_kept_and_the_newest_always() -> None:
    every_day = [snapshot(2026, month, day) for month in range(1, 11) for day in range(1, 29)]
    left = kept(every_day, Keep(7, 4, 6))
    assert {name.time[:8] for name in left} >= {f"202610{day}" for day in range(22, 29)}
    assert {name.time[:6] for name in left} == {f"2026{month:02}" for month in range(5, 11)}
    assert len(left) == 7 + 2 + 5, "seven days; two Sundays or last days of weeks before them; five months before this one"
    assert kept(every_day, Keep(1, 0, 0)) == {every_day[-1]}
    assert kept([snapshot(2026, 1, 1, 3), snapshot(2026, 1, 1, 9)], Keep(5, 5, 5)) == {snapshot(2026, 1, 1, 9)}
    assert kept([], Keep(1, 1, 1)) == set()


# --- dumps ----------------------------------------------------------------------------------------------------------------------------


def plant_dump(droplet: Droplet, seconds: float) -> str:
    """Have a snapshot of that time that names a dump, whose content is of no matter here; return the dump."""
    dump, bucket = names.new_id(), droplet.bucket()
    bucket.put(names.DATABASE_KEYS + dump, b"key"), bucket.put(names.DATABASE + dump, b"rows")
    droplet.sync(**at(seconds), run={"dump": lambda: Dump(dump, 4, "0" * 64, "15.1")})
    return dump


def dumps_of(droplet: Droplet) -> set[str]:
    """Return the dumps that can be opened still."""
    return {name.removeprefix(names.DATABASE_KEYS) for name in droplet.objects(names.DATABASE_KEYS)}


def test_a_dump_ends_with_its_days_whatever_stops_the_rest_of_a_prune(a_folder: Path) -> None:
    def damaged_snapshot(droplet: FolderDroplet) -> None:
        path = droplet.place / droplet.repository().choose(None).object
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    def damaged_head(droplet: FolderDroplet) -> None:
        path = droplet.place / droplet.repository().choose(None).object
        path.write_bytes(path.read_bytes()[:30] + b"?" + path.read_bytes()[31:])

    def junk_in_the_ledger(droplet: FolderDroplet) -> None:
        droplet.bucket().put(names.ERASED + "junk", b"junk")

    def lost_key(droplet: FolderDroplet) -> None:
        droplet.users.pop(next(iter(droplet.users)))

    def newer_record(droplet: FolderDroplet) -> None:
        name = waiting.new_name(NOW)
        data = chunked.encrypt(droplet.snapshot_key, names.pruning_context(name), b'{"format":2}')
        droplet.bucket().put(names.PRUNING + name, data)

    for spoil in (damaged_snapshot, damaged_head, junk_in_the_ledger, lost_key, newer_record):
        droplet = FolderDroplet.make(a_folder / spoil.__name__)
        droplet.add(1000), droplet.add(1000)
        plant_dump(droplet, NOW - 31 * DAY)
        young = [plant_dump(droplet, NOW - days * DAY) for days in (29, 1)]
        spoil(droplet)
        with pytest.raises(BackupError):
            prune_once(droplet, Keep(9, 9, 9))
        assert dumps_of(droplet) == set(young), spoil.__name__


def test_a_dump_that_no_snapshot_is_known_to_name_ends_with_its_days_too(a_folder: Path) -> None:
    """Whose snapshot does not open is not taken for one of nobody's."""
    droplet = FolderDroplet.make(a_folder / "droplet")
    droplet.add(1000)
    dump = plant_dump(droplet, NOW - DAY)
    path = droplet.place / droplet.repository().choose(None).object
    path.write_bytes(path.read_bytes()[:30] + b"?" + path.read_bytes()[31:])
    for days, left in ((3, {dump}), (31, set())):
        with pytest.raises(BackupError):
            prune_once(droplet, now=time.time() + days * DAY)
        assert dumps_of(droplet) == left


@pytest.mark.parametrize(("erased", "stays"), [("2026-11-01T00:00:00Z", False), ("2020-01-01T00:00:00Z", True), (None, True)])
def test_the_newest_dump_stays_unless_somebody_was_erased_after_it(a_folder: Path, erased: str | None, stays: bool) -> None:
    droplet = FolderDroplet.make(a_folder / "droplet")
    droplet.add(1000)
    dump = plant_dump(droplet, NOW - 40 * DAY)
    droplet.write(droplet.add(), "new.wav", b"new")
    droplet.sync(**at(NOW - DAY))
    if erased is not None:
        name, data = signed.tombstone("0" * 32, erased, droplet.signer)
        droplet.bucket().put(name, data)
    # Its days are not over yet.
    assert (prune_once(droplet, Keep(9, 9, 9), NOW - 11 * DAY).notes, dumps_of(droplet)) == ([], {dump})
    done = prune_once(droplet, Keep(9, 9, 9))
    assert dumps_of(droplet) == ({dump} if stays else set())
    assert [note for note in done.notes if "giggles.sync" in note] == done.notes
    assert len(done.notes) == (0 if stays else 1)


# --- memory ---------------------------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_prune_does_not_grow_with_the_snapshots_it_keeps(a_folder: Path) -> None:
    """Also where all of them are written anew."""
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    users = [droplet.add(*[100] * 150) for _ in range(3)]
    peaks, made = [], 0
    for snapshots in (4, 12):
        while made < snapshots:
            made += 1
            droplet.write(users[0], "new.wav", os.urandom(100))
            droplet.sync(**at(NOW - (20 - made) * DAY))
        for user in users:
            # Of what was big in a pack nothing is needed.
            droplet.write(user, f"big-{made}.wav", os.urandom(70_000)), droplet.write(user, f"small-{made}.wav", os.urandom(100))
        droplet.sync(**at(NOW - (20 - made) * DAY + 60))
        for user in users:
            (user.folder / f"clips/big-{made}.wav").unlink()
        droplet.sync(**at(NOW - (20 - made) * DAY + 120))
        tracemalloc.start()
        done = prune_once(droplet, Keep(20, 0, 0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (done.kept, done.rewritten >= len(users)) == (made, True)
    assert check(droplet).problems == []
    print(f"peaks: {peaks}")
    assert peaks[1] < 1.3 * peaks[0]


# --- small packs ------------------------------------------------------------------------------------------------------------------------


def test_a_pack_that_is_broken_is_named_and_keeps_no_other_from_being_written_anew(a_folder: Path) -> None:
    droplet = FolderDroplet.make(a_folder / "droplet")
    users = [droplet.add(), droplet.add()]
    for night in range(10):
        for user in users:
            droplet.write(user, f"{night}.wav", os.urandom(1000))
        droplet.sync(**at(NOW - (10 - night) * DAY))
    with droplet.manifest() as manifest:
        broken = next(manifest.packs(users[0].vault_id))
    path = droplet.place / names.DATA / broken.id
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = prune_once(droplet, Keep(30, 0, 0))
    assert done.rewritten == 19
    assert [broken.id in problem for problem in done.problems] == [True]
    with droplet.manifest() as manifest:
        assert [len([*manifest.packs(user.vault_id)]) for user in users] == [2, 1]
    for user in users:
        restored = droplet.restore(user, a_folder / user.vault_id)
        assert [broken.id in problem for problem in restored.damaged] == [True] * (user is users[0])
        assert len(digests(a_folder / user.vault_id)) == 10 - len(restored.damaged)
    assert any(broken.id in problem for problem in check(droplet).problems)
    again = prune_once(droplet, Keep(30, 0, 0))
    assert (again.rewritten, len(again.problems)) == (0, 0), "alone it is not worth it"


@pytest.mark.parametrize(("nights", "left"), [(8, 8), (9, 1)])
def test_small_packs_of_many_nights_are_put_together_and_every_snapshot_follows(a_folder: Path, nights: int, left: int) -> None:
    droplet = FolderDroplet.make(a_folder / "droplet")
    user, other = droplet.add(), droplet.add(1000)
    wanted = {}
    for night in range(nights):
        droplet.write(user, f"{night}.wav", os.urandom(1000))
        snapshot = droplet.sync(**at(NOW - (nights - night) * DAY)).snapshot
        wanted[snapshot] = digests(user.folder)
    done = prune(droplet, Keep(30, 0, 0))
    assert (done.kept, done.rewritten) == (nights, 0 if left == nights else nights)
    assert len(droplet.objects(names.DATA)) == left + 1
    assert check(droplet).problems == []
    for number, (snapshot, files) in enumerate(wanted.items()):
        droplet.restore(user, a_folder / str(number), snapshot)
        assert digests(a_folder / str(number)) == files
    droplet.restore(other, a_folder / "other")
    assert digests(a_folder / "other") == digests(other.folder)
    assert droplet.sync().snapshot == ""
    assert prune(droplet, Keep(30, 0, 0)).rewritten == 0
