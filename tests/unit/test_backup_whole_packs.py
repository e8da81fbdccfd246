"""A pack that is restored as a whole is written while it arrives: whatever the sizes, whatever is stored once for several files."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.backup import bucket, names
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.pack import PACK_BYTES
from gigglekit.backup.restore import Task, restore, restore_user
from gigglekit.crypto import chunked
from gigglekit.files import draining

from tests.unit.b2 import Storage
from tests.unit.backup_repository import Droplet, digests

CHUNK = chunked.CHUNK_BYTES


@pytest.fixture
def droplet(b2: Storage, tmp_path: Path) -> Droplet:
    """A droplet with packs as large as on a real one."""
    (tmp_path / "vaults").mkdir()
    return Droplet(tmp_path, b2, pack_bytes=PACK_BYTES)


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the names of what is read as a stream; nothing else may be read of packs."""
    seen: list[str] = []
    stream = Bucket.stream

    def noted(self: Bucket, name: str, start: int = 0) -> object:
        seen.append(name)
        return stream(self, name, start)

    monkeypatch.setattr(Bucket, "stream", noted)
    return seen


@pytest.mark.parametrize("piece", [1 << 20, 100_000, CHUNK, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_every_file_comes_back_from_one_stream(
    droplet: Droplet, streamed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, piece: int
) -> None:
    monkeypatch.setattr(bucket, "READ_BYTES", piece)
    chance = random.Random(seed)  # noqa: S311
    user = droplet.add()
    for number in range(40):
        size = chance.choice([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, chance.randrange(300_000)])
        content = os.urandom(size)
        for twin in range(chance.choice([1, 1, 3])):
            droplet.write(user, f"{chance.randrange(10**9)}_{number}_{twin}.wav", content)
    # The pack may end where a chunk does.
    if seed % 2:
        size = sum(path.stat().st_size for path in {path.read_bytes(): path for path in (user.folder / "clips").iterdir()}.values())
        droplet.write(user, "last.wav", os.urandom(CHUNK - size % CHUNK))
    assert droplet.sync().packs == 1
    done = droplet.restore(user, tmp_path / "back")
    assert done.damaged == []
    assert digests(tmp_path / "back") == digests(user.folder)
    assert streamed == droplet.objects(names.DATA)


@pytest.mark.parametrize("clip", [100_000, PACK_BYTES // 4, PACK_BYTES])
def test_a_pack_that_is_full_comes_back_from_one_stream_if_it_holds_several(
    droplet: Droplet, streamed: list[str], tmp_path: Path, clip: int
) -> None:
    user = droplet.add(*[clip] * (PACK_BYTES // clip))
    assert droplet.sync().packs == 1
    done = droplet.restore(user, tmp_path / "back")
    assert (done.files, done.damaged) == (PACK_BYTES // clip, [])
    assert digests(tmp_path / "back") == digests(user.folder)
    assert streamed == (droplet.objects(names.DATA) if done.files > 1 else [])


def test_part_of_a_pack_is_not_read_as_a_whole(droplet: Droplet, streamed: list[str], tmp_path: Path) -> None:
    user = droplet.add(200_000, 200_000, 200_000)
    droplet.sync()
    for gone in ("0", "2"):
        droplet.restore(user, tmp_path / gone, wanted=lambda path, gone=gone: f"_{gone}." not in path)
        assert len(digests(tmp_path / gone)) == 2
    assert streamed == []


def test_several_users_files_go_into_one_folder_at_the_same_time(droplet: Droplet, tmp_path: Path) -> None:
    # As clips from before users had folders do.
    users = [droplet.add() for _ in range(4)]
    for number, user in enumerate(users):
        for clip in range(20):
            droplet.write(user, f"{number}_{clip}.wav", os.urandom(3000))
    droplet.sync()
    repository = droplet.repository()
    name = repository.choose(None)
    target = tmp_path / "back"
    target.mkdir()
    tasks = [Task(droplet.section(repository, name, user), user.root_key, target, None) for user in users]
    done = restore(repository, tasks)
    assert (done.files, done.damaged) == (80, [])
    assert digests(target) == {path: digest for user in users for path, digest in digests(user.folder).items()}


def test_a_pack_shorter_than_its_section_says_is_named(droplet: Droplet, tmp_path: Path) -> None:
    user = droplet.add(CHUNK, 2 * CHUNK)
    droplet.sync()
    repository = droplet.repository()
    section = droplet.section(repository, repository.choose(None), user)
    # Only who has the user's key could write this; it must be no crash all the same.
    files = list(section.files)
    position = max(range(2), key=lambda number: files[number].extents[0].offset)
    last = files[position]
    longer = last.extents[0]._replace(length=last.extents[0].length + CHUNK)
    files[position] = last._replace(size=last.size + CHUNK, extents=(longer,))
    (pack,) = section.packs
    packs = (dataclasses.replace(pack, size=pack.size + CHUNK + chunked.TAG_BYTES),)
    target = tmp_path / "back"
    target.mkdir()
    done = restore_user(repository, dataclasses.replace(section, packs=packs, files=tuple(files)), user.root_key, target, None)
    assert len(done.damaged) == 1
    assert f"data/{pack.id}" in done.damaged[0]
    assert len(digests(target)) == 1


def test_a_pack_whose_end_is_cut_off_costs_its_last_file_alone(droplet: Droplet, b2: Storage, tmp_path: Path) -> None:
    # The last chunk is empty then: nothing but the proof that the pack ends here.
    user = droplet.add(CHUNK, 3 * CHUNK, 2 * CHUNK)
    droplet.sync()
    (name,) = droplet.objects(names.DATA)
    there = droplet.bucket()
    content = there.get(name)
    there.erase(name)
    there.put(name, content[: -chunked.TAG_BYTES])
    done = droplet.restore(user, tmp_path / "back")
    assert len(done.damaged) == 1
    assert name in done.damaged[0]
    assert len(digests(tmp_path / "back")) == 2
    there.erase(name)
    there.put(name, content)
    assert droplet.restore(user, tmp_path / "again").damaged == []


def test_many_users_come_back_with_few_folders_open_and_the_disk_is_asked_a_few_times(
    droplet: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(70):
        droplet.add(1000, 2000)
    droplet.sync()
    repository = droplet.repository()
    opened = repository.open(repository.choose(None))
    most, asked = 0, 0
    sync = draining.sync

    def held() -> int:
        links = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
        return sum(link.startswith(str(tmp_path / "back")) for link in links)

    def counted(folder: int) -> None:
        nonlocal most, asked
        most, asked = max(most, held()), asked + 1
        sync(folder)

    monkeypatch.setattr(draining, "sync", counted)

    def tasks() -> Iterator[Task]:
        for part in opened.head.users:
            user = droplet.users[part.vault]
            target = tmp_path / "back" / part.vault
            target.mkdir(parents=True)
            yield Task(repository.section(opened, part, user.root_key), user.root_key, target, None)

    back = restore(repository, tasks())
    assert (back.files, back.damaged) == (140, [])
    for user in droplet.users.values():
        assert digests(tmp_path / "back" / user.vault_id) == digests(user.folder)
    # When enough users wait, for the rest, and for the names; once more if two threads saw at the same time that it is enough.
    assert asked in (3, 4)
    assert 100 < most < 200
    assert held() == 0
