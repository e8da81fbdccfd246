"""What is synced comes back byte for byte, what is known costs nothing, and what was killed goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names, pack, signed, sync
from gigglekit.backup.bucket import Bucket, Object
from gigglekit.backup.errors import BackupError, RefusedError
from gigglekit.backup.learning import Knowledge
from gigglekit.backup.section import Encoded
from gigglekit.backup.sending import Patience

from tests.unit.b2 import Storage
from tests.unit.backup_repository import PACK_BYTES, Droplet, digests, settings


@pytest.fixture
def droplet(b2: Storage, tmp_path: Path) -> Droplet:
    """A droplet with an empty bucket."""
    (tmp_path / "vaults").mkdir()
    return Droplet(tmp_path, b2)


SIZES = (0, 1, 16383, 16384, 16385, 128_000, 300_000, 700_000, PACK_BYTES - 1, PACK_BYTES, PACK_BYTES + 1, 5 << 20)


def test_every_size_comes_back_with_its_time(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(*SIZES)
    droplet.write(user, "deep/er/2026.wav", b"below")
    os.utime(droplet.write(user, "old.wav", b"old"), ns=(1, 1_234_567_890_123_456_789))
    done = droplet.sync()
    assert (done.files, done.new_files, done.problems) == (len(SIZES) + 2, len(SIZES) + 2, [])
    restored = droplet.restore(user, tmp_path / "back")
    assert restored.damaged == []
    assert digests(tmp_path / "back") == digests(user.folder)
    assert (tmp_path / "back/clips/old.wav").stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_with_nothing_new_nobody_is_asked_and_no_snapshot_is_made(droplet: Droplet) -> None:
    droplet.add(1000, 2000)
    first = droplet.sync()
    repository = droplet.repository()
    second = droplet.sync(repository)
    assert not repository.was_asked
    assert second.snapshot == ""
    assert (second.users, second.files, second.size) == (first.users, first.files, first.size) == (1, 2, 3000)


def test_only_what_is_new_is_stored(droplet: Droplet) -> None:
    user, other = droplet.add(300_000, 400_000), droplet.add(300_000)
    droplet.sync()
    before = droplet.objects(names.DATA)
    droplet.write(user, "new.wav", os.urandom(1000))
    done = droplet.sync()
    assert (done.new_files, done.new_bytes, done.packs) == (1, 1000, 1)
    assert (done.users, done.files) == (2, 4)
    assert len(droplet.objects(names.DATA)) == len(before) + 1
    assert other.vault_id in droplet.users


class AtOnce(ThreadPoolExecutor):
    """Everything is done, or has failed, before anything else begins: a bucket that is faster than the droplet."""

    def submit(self, *arguments: Any, **named: Any) -> Future[Any]:
        future = super().submit(*arguments, **named)
        wait([future])
        return future


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[memoryview]:
    """Memory of packs that was asked for."""
    made = []

    def memory(capacity: int, make: Any = pack.memory) -> memoryview:
        made.append(make(capacity))
        return made[-1]

    monkeypatch.setattr(pack, "memory", memory)
    return made


def test_the_memory_of_a_pack_that_is_stored_is_used_for_the_next_one(
    droplet: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[memoryview]
) -> None:
    """With a fast bucket one is enough, however many may be under way."""
    monkeypatch.setattr(sync, "ThreadPoolExecutor", AtOnce)
    user = droplet.add(*[PACK_BYTES] * 8)
    assert droplet.sync().packs == 8
    assert len(made) == 1
    droplet.restore(user, tmp_path / "back")
    assert digests(tmp_path / "back") == digests(user.folder)


def test_as_many_packs_are_under_way_as_may_and_no_more_are_in_memory(
    droplet: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[memoryview]
) -> None:
    """With a slow bucket: nobody goes on before three packs wait for it."""
    together = threading.Barrier(3)
    put = Bucket.put

    def waiting(bucket: Bucket, name: str, data: memoryview, **named: Any) -> None:
        if name.startswith(names.DATA):
            together.wait(30)
        put(bucket, name, data, **named)

    monkeypatch.setattr(Bucket, "put", waiting)
    users = [droplet.add(*[PACK_BYTES] * 4), droplet.add(*[PACK_BYTES] * 2)]
    assert droplet.sync().packs == 6
    assert len(made) == 3
    for number, user in enumerate(users):
        droplet.restore(user, tmp_path / str(number))
        assert digests(tmp_path / str(number)) == digests(user.folder)


def test_a_pack_is_written_down_before_it_is_stored_and_nothing_is_when_all_is(
    droplet: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that is killed leaves nothing in the bucket that the next one does not know."""
    put, early = Bucket.put, []

    def seen(bucket: Bucket, name: str, data: memoryview, **named: Any) -> None:
        if name.startswith(names.DATA):
            copy = tmp_path / name.replace("/", "-")
            copy.mkdir()
            for file in droplet.folder.glob("manifest.sqlite*"):
                shutil.copy(file, copy)
            # What a power cut leaves, now that the bucket has it.
            with contextlib.closing(sqlite3.connect(copy / "manifest.sqlite")) as found:
                if not found.execute("SELECT 1 FROM underway WHERE object = ?", (name,)).fetchone():
                    early.append(name)
        put(bucket, name, data, **named)

    monkeypatch.setattr(Bucket, "put", seen)
    # Packs that end where a clip does, in the middle of one, and early; and of a user after whose full pack nothing comes.
    for sizes in ([PACK_BYTES] * 2, [3 * PACK_BYTES // 2], [1000], [PACK_BYTES, 1000], [PACK_BYTES]):
        droplet.add(*sizes)
    assert droplet.sync().packs == 8
    assert early == []
    with droplet.manifest() as manifest:
        assert manifest.underway() == []


@pytest.mark.parametrize("is_lying", [False, True])
def test_clips_that_the_bucket_keeps_only_half_of_are_told_and_stored_again(
    droplet: Droplet, b2: Storage, tmp_path: Path, is_lying: bool
) -> None:
    whole, halved = droplet.add(5000), droplet.add(300_000)
    droplet.sync()
    droplet.write(halved, "new.wav", os.urandom(400_000))
    droplet.write(whole, "new.wav", os.urandom(4000))
    lost = {"kind": "lose-half", "key": f"^{b2.bucket}/{names.DATA}", "next": 1, "lying": is_lying}
    b2.proxy.set_faults([lost])
    done = droplet.sync()
    b2.proxy.clear_faults()
    assert done.new_files == 3, "one of the two once more"
    (told,) = done.problems
    assert not any(entry.name in told for entry in droplet.bucket().list(names.DATA))
    repository = droplet.repository()
    assert not droplet.sync(repository).snapshot
    assert not repository.was_asked
    for user in (whole, halved):
        assert droplet.restore(user, tmp_path / user.vault_id).damaged == []
        assert digests(tmp_path / user.vault_id) == digests(user.folder)


def test_what_was_to_be_said_of_a_user_is_said_anew_after_a_pack_was_lost(
    droplet: Droplet, b2: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready long before the bucket is asked what it has, since the users after this one take their time."""
    monkeypatch.setattr(sync, "ThreadPoolExecutor", AtOnce)
    ready: list[set[str]] = []
    see = Knowledge.see

    def seen(known: Knowledge, *arguments: Any, **named: Any) -> set[str]:
        ready.append({*made})
        return see(known, *arguments, **named)

    made: list[str] = []
    of = Encoded.of
    monkeypatch.setattr(Encoded, "of", lambda section: made.append(section.user) or of(section))
    monkeypatch.setattr(Knowledge, "see", seen)
    users = [droplet.add(300_000, 5000), droplet.add(300_000), droplet.add(1000)]
    b2.proxy.set_faults([{"kind": "lose-half", "key": f"^{b2.bucket}/{names.DATA}", "next": 1}])
    done = droplet.sync()
    b2.proxy.clear_faults()
    assert done.new_files == 6, "the first user's once more"
    assert users[0].user_id in ready[0]
    assert made.count(users[0].user_id) == 2
    assert made.count(users[1].user_id) == 1
    for user in users:
        assert droplet.restore(user, tmp_path / user.vault_id).damaged == []
        assert digests(tmp_path / user.vault_id) == digests(user.folder)


def test_nothing_of_a_user_is_stored_before_that_users_key_is(droplet: Droplet, b2: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pack whose key is nowhere but on the droplet is lost with it.
    droplet.add(1000)
    b2.proxy.set_faults([{"kind": "slow-down", "key": f"^{b2.bucket}/{names.USER_KEYS}"}])
    impatient = Bucket(settings(b2), patience=Patience(tries=2, first=0.0))
    monkeypatch.setattr(droplet, "bucket", lambda: impatient)
    with pytest.raises(BackupError, match="could not be asked"):
        droplet.sync()
    b2.proxy.clear_faults()
    assert [*droplet.bucket().list(names.DATA)] == []
    assert droplet.repository().snapshots() == []
    droplet.sync()
    order = [request["key"] for request in b2.proxy.requests() if request["method"] == "PUT" and request["status"] == 200]
    kinds = ["key" if key.startswith(names.USER_KEYS) else "data" for key in order if key.startswith((names.USER_KEYS, names.DATA))]
    assert kinds == ["key", "data"]


@pytest.mark.parametrize(("known", "questions"), [(False, 5), (True, 3)])
def test_what_has_to_be_asked_before_anything_is_stored_is_asked_at_once(
    droplet: Droplet, monkeypatch: pytest.MonkeyPatch, known: bool, questions: int
) -> None:
    # One round trip to a bucket that is far away, and not one after the other.
    user = droplet.add(1000)
    if known:
        droplet.sync()
        droplet.write(user, "new.wav", b"new")
    together, asked, real = threading.Barrier(questions), itertools.count(), Bucket.list

    def meeting(bucket: Bucket, prefix: str = "") -> Iterator[Object]:
        if next(asked) < questions:
            together.wait(30)
        return real(bucket, prefix)

    monkeypatch.setattr(Bucket, "list", meeting)
    assert droplet.sync().problems == []
    assert not together.broken


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, AtOnce])
@pytest.mark.parametrize(("missing", "stored"), [("user", 1), ("system", 0)])
def test_a_key_that_cannot_be_stored_keeps_back_what_it_opens_and_nothing_else(
    droplet: Droplet, b2: Storage, monkeypatch: pytest.MonkeyPatch, missing: str, stored: int, pool: type[ThreadPoolExecutor]
) -> None:
    monkeypatch.setattr(sync, "ThreadPoolExecutor", pool)
    first, second = droplet.add(1000), droplet.add(2000)
    name = names.USER_KEYS + first.vault_id if missing == "user" else names.SYSTEM_KEYS + "names"
    b2.proxy.set_faults([{"kind": "slow-down", "key": f"^{b2.bucket}/{name}$"}])
    impatient = Bucket(settings(b2), patience=Patience(tries=2, first=0.0))
    monkeypatch.setattr(droplet, "bucket", lambda: impatient)
    with pytest.raises(BackupError, match="could not be asked"):
        droplet.sync()
    b2.proxy.clear_faults()
    with droplet.manifest() as manifest:
        assert [pack.vault for pack in manifest.packs()] == [second.vault_id] * stored
    assert len([*droplet.bucket().list(names.DATA)]) == stored
    assert droplet.repository().snapshots() == []
    assert (droplet.sync().packs, len(droplet.repository().snapshots())) == (2 - stored, 1)


def test_a_copy_and_a_touched_file_are_not_stored_again(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(300_000)
    droplet.sync()
    (original,) = (user.folder / "clips").iterdir()
    droplet.write(user, "copy.wav", original.read_bytes())
    twins = os.urandom(5000)
    droplet.write(user, "one.wav", twins)
    droplet.write(user, "two.wav", twins)
    os.utime(original)
    done = droplet.sync()
    assert done.new_bytes == 5000
    droplet.restore(user, tmp_path / "back")
    assert digests(tmp_path / "back") == digests(user.folder)


def test_a_snapshot_of_the_past_has_what_there_was(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(1000, 2000)
    before = digests(user.folder)
    first = droplet.sync().snapshot
    for path in sorted((user.folder / "clips").iterdir()):
        path.unlink()
    droplet.write(user, "later.wav", b"later")
    assert droplet.sync().gone == 2
    droplet.restore(user, tmp_path / "past", first)
    droplet.restore(user, tmp_path / "now")
    assert digests(tmp_path / "past") == before
    assert digests(tmp_path / "now") == digests(user.folder)


def test_a_lost_manifest_is_read_from_the_bucket_and_nothing_is_stored_twice(droplet: Droplet) -> None:
    user = droplet.add(300_000, 400_000, 5 << 20)
    droplet.sync()
    before = droplet.objects(names.DATA)
    (droplet.folder / "manifest.sqlite").unlink()
    done = droplet.sync()
    assert (done.new_files, done.files) == (0, 3)
    assert droplet.objects(names.DATA) == before
    droplet.write(user, "more.wav", b"more")
    done = droplet.sync()
    assert (done.new_files, done.files) == (1, 4)


def test_names_and_contents_stand_nowhere_in_the_manifest_or_the_bucket(droplet: Droplet) -> None:
    user = droplet.add(1000)
    content = b"a marker in the clip" * 100
    droplet.write(user, "marker_in_a_name.wav", content)
    droplet.sync()
    raw = (droplet.folder / "manifest.sqlite").read_bytes()
    bucket = droplet.bucket()
    everything = b"".join(bucket.get(name) + name.encode() for name in droplet.objects())
    for needle in (b"marker_in_a_name", b"a marker in the clip", user.user_id.encode(), user.root_key):
        assert needle not in raw
        assert needle not in everything
    assert user.vault_id.encode() in raw, "a look that finds nothing whatever there is proves nothing"
    assert sqlite3.connect(droplet.folder / "manifest.sqlite").execute("SELECT count(*) FROM files").fetchone() == (2,)


def test_the_kit_alone_opens_every_key(droplet: Droplet) -> None:
    user = droplet.add(1000)
    droplet.sync()
    bucket = droplet.bucket()
    for name, key in (
        (names.USER_KEYS + user.vault_id, user.root_key),
        (names.SYSTEM_KEYS + "names", droplet.names_key),
        (names.SYSTEM_KEYS + "snapshots", droplet.snapshot_key),
        (names.SYSTEM_KEYS + "signing", droplet.signer.private),
    ):
        assert signed.unseal_key(name, bucket.get(name), droplet.kit_key, droplet.signer.public) == key


def test_another_servers_bucket_is_left_alone(droplet: Droplet, tmp_path: Path) -> None:
    droplet.add(1000)
    droplet.sync()
    before = droplet.objects()
    (tmp_path / "other" / "vaults").mkdir(parents=True)
    stranger = Droplet(tmp_path / "other", droplet.storage)
    stranger.add(1000)
    with pytest.raises(RefusedError, match="another server"):
        stranger.sync()
    assert droplet.objects() == before


def test_an_erased_user_is_in_no_snapshot_from_then_on(droplet: Droplet) -> None:
    user, other = droplet.add(1000), droplet.add(1000)
    droplet.sync()
    droplet.erased.add(user.vault_id)
    done = droplet.sync()
    assert done.users == 1
    repository = droplet.repository()
    assert [part.vault for part in repository.open(repository.choose(None)).head.users] == [other.vault_id]
