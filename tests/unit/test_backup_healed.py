"""What the bucket has lost is stored again as long as the droplet has it, and what it was asked to lose comes back through nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names, signed, waiting
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.clips import User
from gigglekit.backup.erase import end_keys_of_erased
from gigglekit.backup.errors import BackupError, UnreachableError
from gigglekit.backup.names import new_id
from gigglekit.backup.prune import Prune
from gigglekit.backup.settings import Keep
from gigglekit.backup.verify import verify
from gigglekit.crypto import chunked

from tests.unit.b2 import Storage
from tests.unit.backup_folder import FolderBucket, FolderDroplet
from tests.unit.backup_repository import Droplet, digests
from tests.unit.test_backup_moving import copied_keys
from tests.unit.test_backup_prune import DAY, NOW, ONE, at, check, erase, prune, prune_once, roots


@pytest.fixture
def local(a_folder: Path) -> FolderDroplet:
    """A user with clips of several packs, another one with one, and a snapshot."""
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    droplet.add(90_000, 90_000, 1000)
    droplet.add(1000)
    droplet.sync(**at(NOW - DAY))
    return droplet


@pytest.fixture
def remote(b2: Storage, tmp_path: Path) -> Droplet:
    """Two users and a snapshot behind the strict proxy."""
    (tmp_path / "vaults").mkdir()
    droplet = Droplet(tmp_path, b2)
    droplet.add(1000)
    droplet.add(2000)
    droplet.sync()
    return droplet


def somebody(droplet: Droplet) -> User:
    return next(iter(droplet.users.values()))


def newest_is_whole(droplet: Droplet, target: Path) -> None:
    """The newest snapshot has what the droplet has, and everything that it refers to is in the bucket."""
    for user in droplet.users.values():
        if user.vault_id not in droplet.erased:
            assert droplet.restore(user, target / user.vault_id).damaged == []
            assert digests(target / user.vault_id) == digests(user.folder)


def newest_names(droplet: Droplet) -> set[str]:
    """Return the packs that the newest snapshot refers to."""
    repository = droplet.repository()
    name = repository.choose(None)
    vaults = {part.vault for part in repository.open(name).head.users}
    return {names.DATA + pack.id for vault in vaults for pack in droplet.section(repository, name, droplet.users[vault]).packs}


# --- packs that are missing, or not whole -----------------------------------------------------------------------------------------


def removed(path: Path) -> None:
    path.unlink()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def something_new(droplet: Droplet) -> None:
    droplet.write(somebody(droplet), "new.wav", b"new")


def a_clip_less(droplet: Droplet) -> None:
    next(path for path in sorted((somebody(droplet).folder / "clips").iterdir()) if path.stat().st_size == 1000).unlink()


def a_lost_manifest(droplet: Droplet) -> None:
    (droplet.folder / "manifest.sqlite").unlink()


@pytest.mark.parametrize("spoil", [removed, halved])
@pytest.mark.parametrize("happens", [something_new, a_clip_less, a_lost_manifest])
def test_a_pack_that_the_bucket_has_lost_is_stored_again_by_the_next_backup_and_named(
    local: FolderDroplet, a_folder: Path, spoil: Callable[[Path], None], happens: Callable[[Droplet], None]
) -> None:
    lost = max((local.place / names.DATA).iterdir(), key=lambda path: path.stat().st_size)
    spoil(lost)
    happens(local)
    done = local.sync(**at(NOW))
    assert [lost.name in problem for problem in done.problems] == [True]
    assert names.DATA + lost.name not in newest_names(local)
    newest_is_whole(local, a_folder)
    local.write(somebody(local), "later.wav", b"later")
    assert local.sync(**at(NOW + 1)).problems == [], "told once"
    # Once no snapshot names it any more, what is left of it goes, too.
    prune(local, ONE, NOW + DAY)
    assert (check(local).problems, check(local).unused, lost.exists()) == ([], 0, False)


def test_a_clip_that_is_lost_in_the_bucket_and_deleted_a_moment_later_costs_nothing_else(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen on the disk, and is gone when it is to be stored again."""
    other = [*local.users.values()][1]
    (pack,) = local.section(local.repository(), local.repository().choose(None), other).packs
    (local.place / names.DATA / pack.id).unlink()
    something_new(local)
    listed = FolderBucket.list

    def deleting(bucket: FolderBucket, prefix: str = "") -> Any:
        if prefix == names.DATA:
            for path in (other.folder / "clips").iterdir():
                path.unlink()
        return listed(bucket, prefix)

    monkeypatch.setattr(FolderBucket, "list", deleting)
    done = local.sync(**at(NOW))
    assert (done.users, done.files) == (2, 4)
    assert [pack.id in problem for problem in done.problems] == [True]
    newest_is_whole(local, a_folder)


def test_what_is_left_of_a_pack_that_was_cut_goes_with_its_user(local: FolderDroplet) -> None:
    user = somebody(local)
    lost = max((local.place / names.DATA).iterdir(), key=lambda path: path.stat().st_size)
    halved(lost)
    something_new(local)
    local.sync(**at(NOW))
    assert lost.exists(), "earlier snapshots may still get the beginning of it"
    erase(local, user)
    assert not lost.exists()


def test_a_pack_that_a_failed_backup_has_stored_by_half_is_in_no_snapshot(
    local: FolderDroplet, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was confirmed, and written down; then the run failed before it looked."""
    local.write(somebody(local), "first.wav", os.urandom(90_000))
    local.write(somebody(local), "second.wav", os.urandom(90_000))
    before = {path.name for path in (local.place / names.DATA).iterdir()}
    put = FolderBucket.put

    def failing(bucket: FolderBucket, name: str, data: Any, **options: Any) -> None:
        stored = {path.name for path in (local.place / names.DATA).iterdir()} - before
        if name.startswith(names.DATA) and stored:
            raise UnreachableError("the bucket does not answer")
        put(bucket, name, data[: len(data) // 2] if name.startswith(names.DATA) else data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FolderBucket, "put", failing)
        patch.setattr(local, "pack_bytes", 100_000)
        with pytest.raises(BackupError):
            local.sync(**at(NOW))
    (half,) = {path.name for path in (local.place / names.DATA).iterdir()} - before
    done = local.sync(**at(NOW))
    assert done.snapshot
    assert names.DATA + half not in newest_names(local)
    newest_is_whole(local, a_folder)
    assert check(local).problems == []


def test_a_bucket_that_keeps_nothing_whole_gets_no_snapshot(local: FolderDroplet, monkeypatch: pytest.MonkeyPatch) -> None:
    put = FolderBucket.put
    monkeypatch.setattr(
        FolderBucket, "put", lambda bucket, name, data, **options: put(bucket, name, data[:-1] if "data/" in name else data, **options)
    )
    before = local.objects(names.SNAPSHOTS)
    something_new(local)
    with pytest.raises(BackupError, match="does not have them as a whole"):
        local.sync(**at(NOW))
    assert local.objects(names.SNAPSHOTS) == before


def test_what_is_left_of_a_pack_that_was_cut_stops_no_prune(local: FolderDroplet, a_folder: Path) -> None:
    """It is mostly waste by now; but it cannot be written anew, and an earlier snapshot may still get its beginning."""
    lost = max((local.place / names.DATA).iterdir(), key=lambda path: path.stat().st_size)
    for path in sorted((somebody(local).folder / "clips").iterdir()):
        if path.stat().st_size == 90_000:
            path.unlink()
    local.sync(**at(NOW))
    halved(lost)
    # So that nothing of it can be stored again.
    a_clip_less(local)
    local.sync(**at(NOW + DAY))
    done = prune(local, Keep(2, 0, 0), NOW + 2 * DAY)
    assert (done.kept, done.removed, lost.exists()) == (2, 1, True)
    prune(local, ONE, NOW + 3 * DAY)
    assert (check(local).problems, lost.exists()) == ([], False)
    newest_is_whole(local, a_folder)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [removed, halved, flipped])
def test_what_verify_has_found_broken_is_stored_again_though_nothing_else_is_new(
    local: FolderDroplet, a_folder: Path, spoil: Callable[[Path], None]
) -> None:
    lost = max((local.place / names.DATA).iterdir(), key=lambda path: path.stat().st_size)
    spoil(lost)
    with local.manifest() as manifest:
        found = verify(local.repository(), roots(local), manifest=manifest, fraction=1.0)
    assert [lost.name in problem for problem in found.problems] == [True]
    done = local.sync(**at(NOW))
    assert done.new_files == 2, "those that lay in it"
    assert names.DATA + lost.name not in newest_names(local)
    newest_is_whole(local, a_folder)
    assert local.sync(**at(NOW + 1)).snapshot == "", "once"


@pytest.mark.parametrize("spoil", [removed, halved, flipped])
def test_what_was_stored_again_serves_earlier_snapshots_too_after_the_next_prune(
    local: FolderDroplet, a_folder: Path, spoil: Callable[[Path], None]
) -> None:
    user = somebody(local)
    before, first = digests(user.folder), local.repository().choose(None).base
    something_new(local)
    local.sync(**at(NOW))
    lost = max((local.place / names.DATA).iterdir(), key=lambda path: path.stat().st_size)
    spoil(lost)
    with local.manifest() as manifest:
        assert verify(local.repository(), roots(local), manifest=manifest, fraction=1.0).problems
    local.sync(**at(NOW + DAY))
    assert local.restore(user, a_folder / "lacking", first).damaged, "the control"
    done = prune_once(local, Keep(3, 0, 0), NOW + DAY)
    assert (done.kept, done.problems) == (3, [])
    assert check(local).problems == []
    assert local.restore(user, a_folder / "whole", first).damaged == []
    assert digests(a_folder / "whole") == before
    newest_is_whole(local, a_folder)
    # And what is left of the pack goes like everything that nobody needs.
    prune(local, Keep(3, 0, 0), NOW + 2 * DAY)
    assert (check(local).unused, lost.exists()) == (0, False)
    assert local.sync(**at(NOW + 2 * DAY)).snapshot == "", "nothing else has changed"


def test_a_verify_that_finds_nothing_leaves_nothing_to_do(local: FolderDroplet) -> None:
    with local.manifest() as manifest:
        assert verify(local.repository(), roots(local), manifest=manifest, fraction=1.0).problems == []
    repository = local.repository()
    assert (local.sync(repository, **at(NOW)).snapshot, repository.was_asked) == ("", False)


# --- users who were erased by another droplet -------------------------------------------------------------------------------------


@pytest.fixture
def clone(local: FolderDroplet, a_folder: Path) -> Iterator[FolderDroplet]:
    """A second droplet with the same keys, or an earlier disk of this one: it knows of no erasure."""
    (a_folder / "clone").mkdir()
    with copied_keys(local, a_folder / "clone") as made:
        yield made


@pytest.mark.parametrize("is_known", [True, False])
def test_nobody_who_was_erased_comes_back_through_another_droplet(
    local: FolderDroplet, clone: FolderDroplet, a_folder: Path, is_known: bool
) -> None:
    gone, other = local.users.values()
    erase(local, gone)
    local.sync(**at(NOW))
    if not is_known:
        a_lost_manifest(clone)
    clone.write(clone.users[gone.vault_id], "of-the-erased.wav", os.urandom(1000))
    clone.write(clone.users[other.vault_id], "of-the-other.wav", os.urandom(1000))
    before = set(local.objects(names.DATA))
    done = clone.sync(**at(NOW + 1))
    (told,) = [problem for problem in done.problems if gone.vault_id in problem]
    assert "giggles.shred" in told
    assert names.USER_KEYS + gone.vault_id not in local.objects()
    assert len(set(local.objects(names.DATA)) - before) == 1, "what is new of the other, and nothing else"
    repository = clone.repository()
    assert [part.vault for part in repository.open(repository.choose(None)).head.users] == [other.vault_id]
    # Nor does it by the next run, which has nothing new and asks nobody, or by one that has.
    assert [gone.vault_id in problem for problem in clone.sync(repository, **at(NOW + 2)).problems] == [True]
    for number in range(2):
        clone.write(clone.users[other.vault_id], f"{number}.wav", os.urandom(100))
        clone.sync(**at(NOW + 3 + number))
    assert names.USER_KEYS + gone.vault_id not in local.objects()
    assert check(local).problems == []
    assert check(clone).problems == []


def test_with_nothing_new_somebody_whom_the_bucket_knows_to_be_erased_costs_no_request(local: FolderDroplet, clone: FolderDroplet) -> None:
    gone, other = local.users.values()
    erase(local, gone)
    clone.write(clone.users[other.vault_id], "new.wav", b"new")
    clone.sync(**at(NOW))
    repository = clone.repository()
    assert [gone.vault_id in problem for problem in clone.sync(repository, **at(NOW + 1)).problems] == [True]
    assert not repository.was_asked


def test_a_tombstone_that_somebody_else_wrote_leaves_nobody_out(local: FolderDroplet, a_folder: Path) -> None:
    user = somebody(local)
    local.bucket().put(names.ERASED + user.vault_id, b"GIGGLED\x01" + os.urandom(200))
    something_new(local)
    done = local.sync(**at(NOW))
    assert [names.ERASED + user.vault_id in problem for problem in done.problems] == [True]
    assert done.users == 2
    newest_is_whole(local, a_folder)


def test_a_key_of_somebody_erased_that_came_back_is_told_by_verify_and_removed_by_a_prune(local: FolderDroplet) -> None:
    user = somebody(local)
    erase(local, user)
    local.repository().store_key(names.USER_KEYS + user.vault_id, user.root_key)
    local.sync(**at(NOW))
    assert [names.USER_KEYS + user.vault_id in problem for problem in check(local).problems] == [True]
    prune_once(local, ONE, NOW + 1)
    assert names.USER_KEYS + user.vault_id not in local.objects()
    assert check(local).problems == []


def test_a_prune_by_who_does_not_know_of_an_erasure_keeps_nothing_of_it(local: FolderDroplet, clone: FolderDroplet) -> None:
    gone = somebody(local)
    erase(local, gone)
    local.sync(**at(NOW))
    pack = new_id()
    content = chunked.encrypt(os.urandom(32), names.pack_context(pack), b"of the erased")
    clone.bucket().put(names.DATA + pack, content)
    prune_once(clone, Keep(9, 0, 0), NOW)
    assert names.DATA + pack not in local.objects()
    assert check(clone).problems == []


def test_the_keys_of_the_erased_are_ended_and_of_nobody_else(local: FolderDroplet) -> None:
    user, other = local.users.values()
    local.bucket().put(*signed.tombstone(user.vault_id, "2026-11-24T00:00:00Z", local.signer))
    assert end_keys_of_erased(local.repository()) == 1
    assert [name.removeprefix(names.USER_KEYS) for name in local.objects(names.USER_KEYS)] == [other.vault_id]


# --- two droplets, and runs that were cut short -----------------------------------------------------------------------------------


def test_a_prune_that_failed_is_not_taken_for_another_droplets(local: FolderDroplet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had read what is due, and could not write what is to come."""
    for number in range(2):
        local.write(somebody(local), f"{number}.wav", os.urandom(1000))
        local.sync(**at(NOW + number))
        prune_once(local, ONE, NOW + number)
    put = FolderBucket.put

    def failing(bucket: FolderBucket, name: str, data: Any, **options: Any) -> None:
        if name.startswith(names.PRUNING):
            raise UnreachableError("the bucket does not answer")
        put(bucket, name, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FolderBucket, "put", failing)
        with pytest.raises(BackupError):
            prune_once(local, ONE, NOW + 3 * DAY)
    something_new(local)
    done = local.sync(**at(NOW + 3 * DAY))
    assert (done.problems, done.new_files) == ([], 1)
    prune_once(local, ONE, NOW + 4 * DAY)
    with local.manifest() as manifest:
        assert waiting.known(manifest) == set(waiting.record_names(local.repository())), "and in the end no name too many"


def test_what_is_given_up_waits_from_when_that_was_written_down(local: FolderDroplet) -> None:
    """A prune may take hours before: another droplet has had its day from then on only."""
    something_new(local)
    local.sync(**at(NOW))
    time = iter((0.0, 7200.0))
    with local.manifest() as manifest:
        Prune(local.repository(), manifest, roots(local), ONE, 30, NOW, elapsed=lambda: next(time)).run()
    (record,) = waiting.read(local.repository(), waiting.record_names(local.repository()))
    assert record.seconds == NOW + 7200


def test_a_snapshot_for_somebody_who_is_here_no_more_is_made_after_a_look_only(local: FolderDroplet, clone: FolderDroplet) -> None:
    """Nothing is new but that a user without clips is gone."""
    clone.users = dict(local.users)
    empty = local.add()
    local.sync(**at(NOW))
    (clone.folder / "manifest.sqlite").write_bytes((local.folder / "manifest.sqlite").read_bytes())
    local.add(1000)
    made = local.sync(**at(NOW + 1)).snapshot
    assert empty.vault_id not in clone.users
    done = clone.sync(**at(NOW + 2))
    assert any(made in problem for problem in done.problems)


def test_one_client_serves_all_who_ask_at_the_same_time(local: FolderDroplet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, together = [], threading.Barrier(8)
    repository = local.repository()
    bucket = local.bucket()

    def slow() -> Bucket:
        opened.append(1)
        threading.Event().wait(0.05)
        return bucket

    repository._open = slow

    def ask() -> None:
        together.wait(30)
        assert repository.bucket is bucket

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert opened == [1]


def keys_stored(droplet: Droplet) -> list[str]:
    """Sync, and return the keys that were stored by it."""
    before = len(droplet.storage.proxy.requests())
    droplet.sync()
    asked = droplet.storage.proxy.requests()[before:]
    return sorted(request["key"] for request in asked if request["method"] == "PUT" and request["key"].startswith("keys/"))


def test_what_the_bucket_has_is_learned_anew_and_no_key_is_stored_twice(remote: Droplet) -> None:
    with remote.manifest() as manifest, manifest.change():
        manifest.put("learned", None)
    assert keys_stored(remote) == []
    user = somebody(remote)
    remote.bucket().erase(names.USER_KEYS + user.vault_id)
    with remote.manifest() as manifest, manifest.change():
        manifest.put("learned", None)
    assert keys_stored(remote) == [names.USER_KEYS + user.vault_id], "one that is not there any more"


def test_keys_that_somebody_else_has_written_since_are_stored_again(remote: Droplet) -> None:
    """They may be sealed for another kit; what is sealed can be told by nobody here."""
    user = somebody(remote)
    threading.Event().wait(1.1)  # the bucket's clock has seconds
    remote.bucket().put(names.USER_KEYS + user.vault_id, b"sealed for another kit")
    with remote.manifest() as manifest, manifest.change():
        manifest.put("learned", None)
    assert keys_stored(remote) == [names.USER_KEYS + user.vault_id]
