"""Whatever is done to the bucket by somebody without keys is noticed and named, and what he did not touch is restored.

The bucket is a folder here (`backup_folder`), so that whoever changes it gives the right length and MD5 for what he put there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gigglekit.backup import names, section, signed, snapshot
from gigglekit.backup.clips import User
from gigglekit.backup.errors import BackupError, DamagedError, MissingError, RefusedError
from gigglekit.backup.prune import Prune, Pruned
from gigglekit.backup.repository import backup_key
from gigglekit.backup.restore import restore_user
from gigglekit.backup.section import Encoded, FileEntry, NotReadableError
from gigglekit.backup.settings import Keep
from gigglekit.backup.signed import Signer
from gigglekit.crypto import chunked, keys, sealing

from tests.unit.backup_folder import FolderDroplet, samples
from tests.unit.backup_repository import digests
from tests.unit.test_backup_prune import DAY, NOW, at, check, erase, prune, roots

SEALED_CHUNK = chunked.CHUNK_BYTES + chunked.TAG_BYTES


@pytest.fixture
def droplet(a_folder: Path) -> FolderDroplet:
    """Two users with a few packs each, one that was erased, and three snapshots."""
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=200_000)
    first, _, erased = droplet.add(50_000, 60_000, 70_000, 150_000, 450_000), droplet.add(1000, 100_000), droplet.add(1000)
    droplet.sync(**at(NOW - 3 * DAY))
    erase(droplet, erased)
    droplet.sync(**at(NOW - 2 * DAY))
    droplet.write(first, "newest.wav", os.urandom(30_000))
    droplet.sync(**at(NOW - DAY))
    assert check(droplet).problems == []
    return droplet


def living(droplet: FolderDroplet) -> list[User]:
    return [user for user in droplet.users.values() if user.vault_id not in droplet.erased]


class Looked:
    """What restoring everything from the newest snapshot, and verifying, make of a bucket."""

    def __init__(self, droplet: FolderDroplet, target: Path, snapshot: str | None = None) -> None:
        self.said: list[str] = []
        self.right: set[str] = set()
        self.lost: set[str] = set()
        for user in living(droplet):
            folder = target / user.vault_id
            folder.mkdir(parents=True)
            wanted = digests(user.folder)
            try:
                self.said += droplet.restore(user, folder, snapshot).damaged
            except (DamagedError, MissingError) as error:
                self.said.append(str(error))
            found = digests(folder)
            # Nothing is ever under a final name that is not exactly what was saved, and nothing is left beside it.
            assert found.items() <= wanted.items()
            self.right |= {f"{user.vault_id}/{path}" for path in found}
            self.lost |= {f"{user.vault_id}/{path}" for path in wanted.keys() - found.keys()}
        shutil.rmtree(target)
        self.problems = check(droplet).problems

    def named(self, name: str) -> tuple[bool, bool]:
        """Tell whether restore and verify name an object."""
        return any(name in line for line in self.said), any(name in line for line in self.problems)


def said(droplet: FolderDroplet, name: str) -> bool:
    """Tell whether verify names this object, and nobody else's."""
    problems = check(droplet).problems
    vault = Path(name).name
    return any(name in problem for problem in problems) and all(vault in problem for problem in problems)


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def newest(droplet: FolderDroplet) -> Path:
    return max((droplet.place / names.SNAPSHOTS).iterdir())


def packs_of(droplet: FolderDroplet, user: User) -> list[Path]:
    repository = droplet.repository()
    return [droplet.place / names.DATA / pack.id for pack in droplet.section(repository, repository.choose(None), user).packs]


def lying_in(droplet: FolderDroplet, user: User, pack: Path, start: int = 0, end: int = 1 << 62) -> set[str]:
    """Return the files of a user whose content lies in the chunks of this part of a pack (bytes of the object)."""
    repository = droplet.repository()
    content = droplet.section(repository, repository.choose(None), user)
    first, last = max(0, start - 56) // SEALED_CHUNK, (min(end, pack.stat().st_size) - 57) // SEALED_CHUNK
    found = set()
    for file in content.files:
        for part in file.extents:
            begin, stop = part.offset // chunked.CHUNK_BYTES, (part.offset + part.length) // chunked.CHUNK_BYTES
            if content.packs[part.pack].id == pack.name and begin <= last and stop >= first:
                found.add(f"{user.vault_id}/{file.path}")
    return found


@pytest.fixture
def put_back(droplet: FolderDroplet, a_folder: Path) -> Callable[[], None]:
    """Undo whatever was done to the bucket."""
    kept = droplet.copy_of_bucket(a_folder / "kept")

    def undo() -> None:
        shutil.rmtree(droplet.place)
        shutil.copytree(kept, droplet.place)

    return undo


@pytest.fixture
def rounds(a_folder: Path) -> Iterator[Path]:
    """Folders to restore into, a new one each time."""
    return (a_folder / f"back-{number}" for number in range(1 << 30))


def test_a_bucket_that_nobody_touched_is_restored_altogether(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    looked = Looked(droplet, next(rounds))
    assert (looked.said, looked.problems, looked.lost) == ([], [], set())
    assert len(looked.right) == 8


# --- one bit ------------------------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_a_pack_costs_only_the_clips_in_its_chunk(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    user = living(droplet)[0]
    chance = random.Random(1)  # noqa: S311
    tried = 0
    for pack in packs_of(droplet, user):
        size = pack.stat().st_size
        last = 56 + (size - 56) // SEALED_CHUNK * SEALED_CHUNK
        places = {56, 56 + chunked.CHUNK_BYTES, 55 + SEALED_CHUNK, 56 + SEALED_CHUNK, last - 1, last, size - 17, size - 16, size - 1}
        places |= {chance.randrange(56, size) for _ in range(samples(6))}
        for place in sorted(place for place in places if 56 <= place < size):
            flip(pack, place, chance.randrange(8))
            looked = Looked(droplet, next(rounds))
            touched = lying_in(droplet, user, pack, place, place + 1)
            assert looked.lost <= touched, f"{pack.name} at {place} of {size}"
            # A clip that ends where the chunk begins, and has no byte in it, may be restored or not.
            assert looked.named(f"data/{pack.name}") == (bool(looked.lost), True), f"{pack.name} at {place} of {size}"
            assert looked.lost or place >= last or not touched
            tried += 1
            put_back()
    assert tried > 30
    print(f"flipped bits in packs: {tried}")


def test_a_flipped_bit_in_a_packs_header_is_seen_by_verify_and_disturbs_no_restore(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    # A restore reads the header out of the section, where it lies encrypted.
    for place in (0, 23, 24, 40, 55):
        for pack in packs_of(droplet, living(droplet)[0])[:2]:
            flip(pack, place)
            looked = Looked(droplet, next(rounds))
            assert (looked.said, looked.lost) == ([], set())
            assert looked.named(f"data/{pack.name}") == (False, True)
            put_back()


def test_a_flipped_bit_anywhere_in_a_snapshot_is_named_and_costs_one_user_or_that_snapshot(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    repository = droplet.repository()
    name = repository.choose(None)
    opened = repository.open(name)
    older = repository.snapshots()[0].base
    whole = (droplet.place / name.object).stat().st_size
    chance = random.Random(2)  # noqa: S311
    ends = [opened.start + part.offset + part.length for part in opened.head.users]
    assert ends[-1] == whole
    places = {*range(12), 12, 35, 36, 67, 68, opened.start - 17, opened.start - 1, opened.start, whole - 1, *ends[:-1]}
    places |= {chance.randrange(whole) for _ in range(samples(30))}
    for place in sorted(places):
        flip(droplet.place / name.object, place, chance.randrange(8))
        looked = Looked(droplet, next(rounds))
        assert looked.named(name.object) == (True, True), place
        if place < opened.start:
            assert looked.right == set(), "whose head is damaged, nothing is believed of it"
        else:
            (hit,) = [part.vault for part, end in zip(opened.head.users, ends, strict=True) if end - part.length <= place < end]
            assert {path.partition("/")[0] for path in looked.lost} == {hit}
            assert looked.right, "the other user is restored"
        assert Looked(droplet, next(rounds), older).right, "and so are earlier snapshots"
        put_back()
    print(f"flipped bits in snapshots: {len(places)}")


def test_a_flipped_bit_anywhere_in_a_key_or_a_tombstone_is_named(droplet: FolderDroplet, put_back: Callable[[], None]) -> None:
    (stone,) = droplet.objects(names.ERASED)
    sealed = [*droplet.objects(names.USER_KEYS), *droplet.objects(names.SYSTEM_KEYS)]
    assert len(sealed) == 5
    chance = random.Random(3)  # noqa: S311
    for name in (*sealed, stone):
        size = (droplet.place / name).stat().st_size
        for place in sorted({0, 6, 7, 8, 71, 72, 103, 104, size - 1, *(chance.randrange(size) for _ in range(samples(6)))}):
            flip(droplet.place / name, place, chance.randrange(8))
            assert said(droplet, name), (name, place)
            content = droplet.bucket().get(name)
            if name == stone:
                with pytest.raises(DamagedError, match=name):
                    droplet.repository().erased()
                with pytest.raises(DamagedError, match=name):
                    prune(droplet)
            else:
                with pytest.raises(NotReadableError):
                    signed.unseal_key(name, content, droplet.kit_key, droplet.signer.public)
            put_back()
    assert check(droplet).problems == []


def test_a_section_that_somebody_made_with_a_users_key_does_not_fit_to_the_head(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    repository = droplet.repository()
    opened = repository.open(repository.choose(None))
    part = opened.head.users[0]
    user = droplet.users[part.vault]
    context = names.section_context(opened.name, part.vault)
    content = repository.section(opened, part, user.root_key)
    forged = chunked.encrypt(backup_key(user.root_key), context, section.encode(content))
    assert len(forged) == part.length
    whole = (droplet.place / opened.name.object).read_bytes()
    (droplet.place / opened.name.object).write_bytes(whole[: opened.start] + forged + whole[opened.start + part.length :])
    looked = Looked(droplet, next(rounds))
    assert {path.partition("/")[0] for path in looked.lost} == {part.vault}
    assert looked.named(opened.name.object) == (True, True)


def test_a_pack_that_was_encrypted_again_with_the_users_key_is_not_the_one_that_was_stored(
    droplet: FolderDroplet, rounds: Iterator[Path]
) -> None:
    user = living(droplet)[0]
    pack = packs_of(droplet, user)[0]
    key, context = backup_key(user.root_key), names.pack_context(pack.name)
    lost = lying_in(droplet, user, pack)
    pack.write_bytes(chunked.encrypt(key, context, chunked.decrypt(key, context, pack.read_bytes())))
    looked = Looked(droplet, next(rounds))
    assert looked.lost == lost
    assert looked.named(f"data/{pack.name}") == (True, True)


def test_a_clip_whose_place_is_another_ones_is_not_taken_for_it(droplet: FolderDroplet, a_folder: Path) -> None:
    user = living(droplet)[0]
    repository = droplet.repository()
    content = droplet.section(repository, repository.choose(None), user)
    one, other = (next(file for file in content.files if file.path.endswith(f"_{number}.wav")) for number in (0, 1))
    part = other.extents[0]
    moved = one._replace(extents=(part._replace(length=one.size),))
    files = tuple(moved if file is one else file for file in content.files)
    (a_folder / "back").mkdir()
    done = restore_user(repository, dataclasses.replace(content, files=files), user.root_key, a_folder / "back", None)
    assert [one.path in line for line in done.damaged] == [True]
    assert digests(user.folder).keys() - digests(a_folder / "back").keys() == {one.path}


def rewritten(droplet: FolderDroplet, user: User, change: Callable[[FileEntry], FileEntry]) -> str:
    """Write the newest snapshot again with other entries of a user, everything else being right; return its object's name."""
    repository = droplet.repository()
    opened = repository.open(repository.choose(None))
    everything = []
    for part in opened.head.users:
        root = droplet.users[part.vault].root_key
        content = repository.section(opened, part, root)
        if part.vault == user.vault_id:
            content = dataclasses.replace(content, files=tuple(map(change, content.files)))
        everything.append((part.vault, root, Encoded.of(content)))
    name = dataclasses.replace(opened.name, generation=opened.name.generation + 1)
    data = repository.write(name, dataclasses.replace(opened.head, users=()), everything)
    repository.bucket.put(name.object, data)
    return name.object


@pytest.mark.parametrize("path", ["clips/2026_laughter_1.wav", "clips/2026_laughter_4.wav", "clips/empty.wav"])
def test_a_digest_that_is_wrong_in_a_section_that_is_right_is_named_by_verify_and_by_restore(
    droplet: FolderDroplet, a_folder: Path, path: str
) -> None:
    """One in a pack, one in several, one in none; and the clip is said to be right by every other snapshot."""
    user = living(droplet)[0]
    droplet.write(user, "empty.wav", b"")
    droplet.sync(**at(NOW))
    files = droplet.section(droplet.repository(), droplet.repository().choose(None), user).files
    (entry,) = [file for file in files if file.path == path]
    assert len(entry.extents) == {"1": 1, "4": 3, "y": 0}[Path(path).stem[-1]]
    before = check(droplet)
    assert (before.problems, before.compared) == ([], 9)
    wrong = "0" * 32
    name = rewritten(droplet, user, lambda file: file._replace(digest=wrong) if file.path == path else file)
    assert check(droplet, 0.0).problems == [], "nobody looked"
    (problem,) = check(droplet).problems
    assert problem.startswith(f"{path} of vault {user.vault_id} in {name} ")
    (a_folder / "back").mkdir()
    done = droplet.restore(user, a_folder / "back")
    assert [path in line for line in done.damaged] == [True]


def test_a_place_that_is_wrong_in_a_section_that_is_right_is_named_by_verify(droplet: FolderDroplet) -> None:
    user = living(droplet)[0]
    files = droplet.section(droplet.repository(), droplet.repository().choose(None), user).files
    part = next(file for file in files if len(file.extents) == 1)

    def moved(file: FileEntry) -> FileEntry:
        extent = file.extents[0]
        return file._replace(extents=(extent._replace(offset=extent.offset + 1),)) if file == part else file

    name = rewritten(droplet, user, moved)
    assert [part.path in problem and name in problem for problem in check(droplet).problems] == [True]


# --- lengths ------------------------------------------------------------------------------------------------------------------------


def lengths(size: int) -> list[int]:
    """Return lengths that a pack or snapshot of this size could be cut or extended to."""
    boundaries = [56 + number * SEALED_CHUNK for number in range((size - 56) // SEALED_CHUNK + 1)]
    found = {
        0,
        1,
        8,
        11,
        12,
        13,
        55,
        56,
        57,
        72,
        size // 2,
        size - 17,
        size - 16,
        size - 15,
        size - 1,
        size + 1,
        size + 16,
        size + SEALED_CHUNK,
    }
    found |= {boundary + more for boundary in boundaries[:2] + boundaries[-2:] for more in (-1, 0, 1, 15, 16, 17)}
    return sorted(length for length in found if length >= 0 and length != size)


def test_a_pack_that_was_cut_or_extended_is_named_and_what_is_still_there_is_restored(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    user = living(droplet)[0]
    tried = 0
    for pack in packs_of(droplet, user)[: samples(2)]:
        size = pack.stat().st_size
        for length in lengths(size):
            content = pack.read_bytes()
            behind = lying_in(droplet, user, pack, length)
            pack.write_bytes((content + os.urandom(SEALED_CHUNK))[:length])
            looked = Looked(droplet, next(rounds))
            assert looked.lost <= behind, length
            # What follows the end is read by no restore.
            assert looked.named(f"data/{pack.name}") == (length < size, True), length
            assert bool(looked.lost) == (length < size), length
            tried += 1
            put_back()
    print(f"lengths of packs: {tried}")


def test_a_snapshot_that_was_cut_is_named_and_what_is_still_there_is_restored(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    path = newest(droplet)
    content = path.read_bytes()
    opened = droplet.repository().open(droplet.repository().choose(None))
    first = opened.start + opened.head.users[0].length
    cuts = {length for length in lengths(len(content)) if length < len(content)} | {opened.start, opened.start + 1, first - 1, first}
    for length in sorted(cuts):
        path.write_bytes(content[:length])
        looked = Looked(droplet, next(rounds))
        assert looked.named(f"snapshots/{path.name}") == (True, True), length
        assert bool(looked.right) == (length >= first), length
        put_back()


def test_keys_and_tombstones_of_another_length_are_named(droplet: FolderDroplet, put_back: Callable[[], None]) -> None:
    (stone,) = droplet.objects(names.ERASED)
    for name in (*droplet.objects(names.USER_KEYS), names.SYSTEM_KEYS + "snapshots", stone):
        content = (droplet.place / name).read_bytes()
        for length in (0, 7, 8, 71, 72, 73, 103, 104, len(content) - 1, len(content) + 1, 4096, 4097, 10_000_000):
            (droplet.place / name).write_bytes((content + bytes(max(0, length - len(content))))[:length])
            assert said(droplet, name), (name, length)
            put_back()


# --- missing, renamed, swapped, replayed --------------------------------------------------------------------------------------------


def test_a_missing_object_of_any_kind_is_named(droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]) -> None:
    user = living(droplet)[0]
    for pack in packs_of(droplet, user):
        lost = lying_in(droplet, user, pack)
        pack.unlink()
        looked = Looked(droplet, next(rounds))
        assert looked.lost == lost
        assert looked.named(f"data/{pack.name}") == (True, True)
        put_back()
    for name in (*droplet.objects(names.USER_KEYS), *droplet.objects(names.SYSTEM_KEYS)):
        (droplet.place / name).unlink()
        assert said(droplet, name)
        put_back()
    (stone,) = droplet.objects(names.ERASED)
    (droplet.place / stone).unlink()
    assert any(Path(stone).name in problem for problem in check(droplet).problems)


def test_the_newest_snapshot_cannot_be_taken_away_unnoticed(droplet: FolderDroplet) -> None:
    base = droplet.repository().choose(None).base
    newest(droplet).unlink()
    assert check(droplet, expected=base).problems != []
    assert any(base in problem for problem in check(droplet, expected=base).problems)


def test_two_packs_that_were_swapped_are_both_named(droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]) -> None:
    first, second = living(droplet)
    mine, others = packs_of(droplet, first), packs_of(droplet, second)
    for one, other in ((mine[0], mine[1]), (mine[1], mine[2]), (mine[0], others[0])):
        lost = {path for user in (first, second) for pack in (one, other) for path in lying_in(droplet, user, pack)}
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        looked = Looked(droplet, next(rounds))
        assert looked.lost == lost
        # A file that lies in both is lost by the first of them.
        assert {True} == {any(f"{pack.name}" in line for pack in (one, other)) for line in looked.said}
        assert all(looked.named(f"data/{pack.name}")[1] for pack in (one, other))
        put_back()


def test_a_pack_of_the_same_user_and_length_is_not_taken_for_another(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    user = living(droplet)[0]
    packs = packs_of(droplet, user)
    sizes = [pack.stat().st_size for pack in packs]
    one, other = next((a, b) for a in packs for b in packs if a != b and sizes[packs.index(a)] == sizes[packs.index(b)])
    lost = lying_in(droplet, user, one)
    one.write_bytes(other.read_bytes())
    looked = Looked(droplet, next(rounds))
    assert looked.lost == lost
    assert looked.named(f"data/{one.name}") == (True, True)


def test_a_snapshot_under_another_ones_name_or_a_new_one_is_named(
    droplet: FolderDroplet, rounds: Iterator[Path], put_back: Callable[[], None]
) -> None:
    paths = sorted((droplet.place / names.SNAPSHOTS).iterdir())
    old, new = paths[0], paths[-1]
    later = new.with_name(new.name.replace(new.name[:8], "20991231"))
    exchanged = [
        (old, new),
        (old, later),
        (new, later),
        (new, new.with_name(new.name[:-1] + "1")),
        (old, new.with_name(f"{new.name[:17]}{old.name[17:]}")),
        (new, old.with_name(f"{old.name[:17]}{new.name[17:]}")),
    ]
    for source, target in exchanged:
        target.write_bytes(source.read_bytes())
        looked = Looked(droplet, next(rounds))
        restores = target.name >= new.name
        assert looked.named(f"snapshots/{target.name}") == (restores, True)
        assert bool(looked.right) != restores
        put_back()


def test_sections_swapped_within_a_snapshot_do_not_open(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    path = newest(droplet)
    repository = droplet.repository()
    opened = repository.open(repository.choose(None))
    content = path.read_bytes()
    first, second = (content[opened.start + part.offset :][: part.length] for part in opened.head.users)
    path.write_bytes(content[: opened.start] + second + first)
    looked = Looked(droplet, next(rounds))
    assert looked.right == set()
    assert looked.named(f"snapshots/{path.name}") == (True, True)


def test_an_earlier_generation_that_was_put_back_does_not_count(droplet: FolderDroplet, a_folder: Path, rounds: Iterator[Path]) -> None:
    user = living(droplet)[0]
    before = droplet.copy_of_bucket(a_folder / "before")
    for clip in sorted((user.folder / "clips").iterdir())[1:]:
        clip.unlink()
    droplet.sync(**at(NOW))
    assert prune(droplet).rewritten
    assert newest(droplet).name.endswith(".1")
    wasted = {path.name for path in (before / names.DATA).iterdir()}
    after = droplet.copy_of_bucket(a_folder / "after")
    # The operator puts back everything that was ever there, beside what is there now.
    shutil.copytree(before, droplet.place, dirs_exist_ok=True)
    looked = Looked(droplet, next(rounds))
    assert (looked.said, looked.problems, looked.lost) == ([], [], set())
    prune(droplet)
    assert check(droplet).unused == 0
    assert {path.name for path in (droplet.place / names.DATA).iterdir()} <= wasted | {path.name for path in (after / names.DATA).iterdir()}
    # He takes away what is there now, and puts back the bucket as it was: the droplet knows what it made last.
    base = droplet.repository().choose(None).base
    shutil.rmtree(droplet.place)
    shutil.copytree(before, droplet.place)
    assert any(base in problem for problem in check(droplet, expected=base).problems)
    # The generation before, under the name of the one that counts.
    shutil.rmtree(droplet.place)
    shutil.copytree(after, droplet.place)
    target = newest(droplet)
    target.write_bytes(max((before / names.SNAPSHOTS).iterdir()).read_bytes())
    looked = Looked(droplet, next(rounds))
    assert looked.named(f"snapshots/{target.name}") == (True, True)


def test_keys_and_tombstones_under_another_name_are_named(droplet: FolderDroplet, put_back: Callable[[], None]) -> None:
    first, second = (names.USER_KEYS + user.vault_id for user in living(droplet))
    (stone,) = droplet.objects(names.ERASED)
    for source, target in (
        (first, second),
        (first, names.SYSTEM_KEYS + "names"),
        (names.SYSTEM_KEYS + "names", names.SYSTEM_KEYS + "snapshots"),
        (stone, names.ERASED + Path(first).name),
        (stone, first),
        (first, stone),
    ):
        (droplet.place / target).write_bytes((droplet.place / source).read_bytes())
        assert said(droplet, target)
        put_back()


def test_a_replayed_key_of_an_erased_user_opens_nothing_that_is_left(
    droplet: FolderDroplet, a_folder: Path, rounds: Iterator[Path]
) -> None:
    user = living(droplet)[1]
    before = droplet.copy_of_bucket(a_folder / "before")
    erase(droplet, user)
    droplet.sync(**at(NOW))
    shutil.copytree(before / names.USER_KEYS, droplet.place / names.USER_KEYS, dirs_exist_ok=True)
    assert droplet.repository().erased().keys() >= {user.vault_id}
    assert all(part.vault != user.vault_id for part in droplet.repository().open(droplet.repository().choose(None)).head.users)
    looked = Looked(droplet, next(rounds))
    assert (looked.said, looked.lost) == ([], set())


def test_objects_that_are_nobodys_are_in_nobodys_way(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    for name in ("data/x", "data/" + "0" * 32, "snapshots/x", "snapshots/20261124T054500Z-x.0", "keys/x", "keys/users/x", "y", "ledger/z"):
        (droplet.place / name).write_bytes(b"what somebody left")
    looked = Looked(droplet, next(rounds))
    assert (looked.said, looked.problems, looked.lost) == ([], [], set())
    assert check(droplet).unused == 2
    prune(droplet, Keep(9, 0, 0))
    assert check(droplet).unused == 0


def test_a_name_at_the_end_of_all_times_does_not_make_a_snapshot_that_nobody_finds(droplet: FolderDroplet) -> None:
    planted = f"{names.SNAPSHOTS}99991231T235959Z-{'0' * 32}.0"
    (droplet.place / planted).write_bytes(b"what somebody left")
    droplet.write(living(droplet)[0], "new.wav", b"new")
    with pytest.raises(BackupError, match=planted):
        droplet.sync()
    (droplet.place / planted).unlink()
    assert droplet.sync().snapshot == droplet.repository().choose(None).base


def prune_today(droplet: FolderDroplet) -> Pruned:
    with droplet.manifest() as manifest:
        return Prune(droplet.repository(), manifest, roots(droplet), Keep(9, 9, 9), 30, time.time()).run()


def test_a_snapshot_that_is_dated_ahead_is_told_with_what_to_do(droplet: FolderDroplet, rounds: Iterator[Path]) -> None:
    """It counts as the newest of all, so that no prune knows what the newest needs, and later snapshots are dated after it."""
    whole = newest(droplet).name.removesuffix(".0")
    planted = f"{names.SNAPSHOTS}20991231T000000Z-{'0' * 32}.0"
    (droplet.place / planted).write_bytes(b"what somebody left")
    told = rf"{planted}.*ahead of .* clock.*Delete it .*application key.*giggles\.sync.*snapshot={whole}$"
    before = set(droplet.objects())
    with pytest.raises(DamagedError, match=told):
        prune(droplet)
    assert set(droplet.objects()) == before
    assert any(re.search(told, problem) for problem in check(droplet).problems)
    assert Looked(droplet, next(rounds), whole).lost == set()
    # The next backup comes first.
    droplet.write(living(droplet)[0], "new.wav", b"new")
    assert any(re.search(told, problem) for problem in droplet.sync().problems)
    told = rf"^Snapshots from {planted} on \(2\).*timedatectl.*delete .*giggles\.prune.*giggles\.sync"
    assert [bool(re.search(told, problem)) for problem in prune_today(droplet).problems] == [True]
    # Somebody does what he was told.
    for name in droplet.objects(f"{names.SNAPSHOTS}2099"):
        (droplet.place / name).unlink()
    assert prune_today(droplet).problems == []
    made = droplet.sync().snapshot
    assert (made, made < "2099") == (droplet.repository().choose(None).base, True)
    assert prune_today(droplet).problems == []
    looked = Looked(droplet, next(rounds))
    assert (looked.said, looked.problems, looked.lost) == ([], [], set())


# --- somebody who knows the format, and no key --------------------------------------------------------------------------------------


def test_keys_that_somebody_else_sealed_or_signed_are_not_taken(droplet: FolderDroplet) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    public, private = sealing.public_of(droplet.kit_key), keys.new()
    name = names.SYSTEM_KEYS + "snapshots"
    genuine = (droplet.place / name).read_bytes()
    sealed = sealing.seal(public, names.key_info(name), private)
    for content in (
        signed.seal_key(name, private, public, stranger),
        genuine[:72] + sealed,
        signed.KEY + bytes(64) + sealed,
        signed.sign(signed.LEDGER, name, sealed, droplet.signer),
        b"GIGGKEY\x02" + genuine[8:],
    ):
        (droplet.place / name).write_bytes(content)
        assert any(name in problem for problem in check(droplet).problems)
        with pytest.raises(NotReadableError):
            signed.unseal_key(name, content, droplet.kit_key, droplet.signer.public)
    assert signed.unseal_key(name, genuine, droplet.kit_key, droplet.signer.public) == droplet.snapshot_key
    # What the droplet's own signer signed, and what is no key of 32 bytes.
    for wrong in (b"", bytes(31), bytes(33)):
        content = signed.sign(signed.KEY, name, sealing.seal(public, names.key_info(name), wrong), droplet.signer)
        with pytest.raises(NotReadableError, match="no key"):
            signed.unseal_key(name, content, droplet.kit_key, droplet.signer.public)


def test_tombstones_that_somebody_else_made_erase_nobody(droplet: FolderDroplet, put_back: Callable[[], None]) -> None:
    victim = living(droplet)[0].vault_id
    name, content = signed.tombstone(victim, "2026-11-24T00:00:00Z", Signer(Ed25519PrivateKey.generate()))
    other, genuine = signed.tombstone("f" * 32, "2026-11-24T00:00:00Z", droplet.signer)
    before = droplet.objects()
    for forged in (content, genuine, genuine.replace(b"f" * 32, victim.encode()), signed.LEDGER + bytes(64) + content[72:], b""):
        (droplet.place / name).write_bytes(forged)
        assert any(name in problem for problem in check(droplet).problems)
        with pytest.raises(DamagedError, match=name):
            droplet.repository().erased()
        with pytest.raises(BackupError):
            prune(droplet)
        assert set(droplet.objects()) >= set(before)
        put_back()
    (droplet.place / other).write_bytes(genuine)
    assert "f" * 32 in droplet.repository().erased(), "control"


@pytest.mark.parametrize(
    "content",
    [
        {"format": 2, "since": "2026-11-24T00:00:00Z", "subject": "f" * 32},
        {"format": 1, "since": "tomorrow", "subject": "f" * 32},
        {"format": 1, "since": "2026-11-24T00:00:00Z", "subject": "e" * 32},
        {"format": 1, "since": "2026-11-24T00:00:00Z", "subject": ["f" * 32]},
        {"format": 1, "since": 5, "subject": "f" * 32},
        {"format": 1, "since": "2026-11-24T00:00:00Z", "subject": "f" * 32, "more": 1},
        {"format": 1, "since": "2026-11-24T00:00:00Z"},
        [],
    ],
)
def test_what_is_signed_and_is_no_tombstone_is_refused(content: Any) -> None:
    signer = Signer(Ed25519PrivateKey.generate())
    name = names.ERASED + "f" * 32
    data = signed.sign(signed.LEDGER, name, json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), signer)
    with pytest.raises(NotReadableError):
        signed.read_tombstone(name, data, signer.public)


# --- somebody with a key: what the parsers believe ----------------------------------------------------------------------------------

ID, DIGEST = "0123456789abcdef" * 2, "0" * 32
PACK = [ID, 100_000, "A" * 74 + "A="]


def text_of(**changes: Any) -> bytes:
    return json.dumps({"user": "", "packs": [PACK], "files": [["clips/a", 5, 0, DIGEST, [[0, 0, 5]]]], **changes}).encode()


def test_the_section_that_is_changed_below_is_right() -> None:
    assert section.decode(zlib.compress(text_of())).files[0].path == "clips/a"


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/", "/etc/passwd", "clips", "clips/", "clips//a", "clips/../a", "clips/..", "clips/a/../../b", "clips/./a",
        "../clips/a", "clips/a/", "etc/passwd", "Clips/a", "clips/a\0b", "clips/\0", "legacy/a/b", "legacy/../a", "legacy/",
        "clips/" + "a" * 4000, "clips/" + "é" * 1999, "clips/\ud800", "legacy", "audio/../clips/a", "clips\\a", "~/clips/a", "temp/a",
    ],
)  # fmt: skip
def test_a_path_that_leads_out_or_is_none_is_refused(path: str) -> None:
    with pytest.raises(NotReadableError):
        section.decode(zlib.compress(text_of(files=[[path, 5, 0, DIGEST, [[0, 0, 5]]]])))


@pytest.mark.parametrize(
    "path", ["clips/...", "clips/..a", "clips/a\\..\\b", "clips/é", "legacy/a.wav", "clips/-rf", "clips/ ", "clips/a\nb"]
)
def test_an_odd_path_that_stays_inside_is_taken(path: str) -> None:
    assert section.decode(zlib.compress(text_of(files=[[path, 5, 0, DIGEST, [[0, 0, 5]]]]))).files[0].path == path


FILE = ["clips/a", 5, 0, DIGEST, [[0, 0, 5]]]
HUGE = 10**400


@pytest.mark.parametrize(
    "changes",
    [
        {"user": 5},
        {"user": "../../etc"},
        {"user": "6F1C1B1E-0000-4000-8000-000000000001"},
        {"packs": {}},
        {"packs": [[ID, 100_000]]},
        {"packs": [[ID, 55, PACK[2]]]},
        {"packs": [[ID, -1, PACK[2]]]},
        {"packs": [[ID, 1.0, PACK[2]]]},
        {"packs": [[ID, True, PACK[2]]]},
        {"packs": [[ID, HUGE, PACK[2]]]},
        {"packs": [["../keys/users/" + ID, 100_000, PACK[2]]]},
        {"packs": [[ID, 100_000, "é" * 76]]},
        {"packs": [[ID, 100_000, PACK[2] + "AAAA"]]},
        {"packs": [[ID, 100_000, None]]},
        {"files": [[*FILE[:4], [[1, 0, 5]]]]},
        {"files": [[*FILE[:4], [[-1, 0, 5]]]]},
        {"files": [[*FILE[:4], [[0, -1, 5]]]]},
        {"files": [[*FILE[:4], [[0, 0, 6]]]]},
        {"files": [[*FILE[:4], [[0, 0, 0], [0, 0, 5]]]]},
        {"files": [[*FILE[:4], [[0, 99_999, 5]]]]},
        {"files": [[*FILE[:4], [[0, 0, 5, 5]]]]},
        {"files": [["clips/a", HUGE, 0, DIGEST, [[0, 0, HUGE]]]]},
        {"files": [["clips/a", 5, HUGE, DIGEST, [[0, 0, 5]]]]},
        {"files": [["clips/a", 5, -(1 << 63), DIGEST, [[0, 0, 5]]]]},
        {"files": [["clips/a", 5, 0, "no digest", [[0, 0, 5]]]]},
        {"files": [["clips/a", 5, 0, None, [[0, 0, 5]]]]},
        {"files": [["clips/b", *FILE[1:]], FILE]},
        {"files": [FILE, FILE]},
        {"files": None},
        {"files": [None]},
        {"more": 1},
    ],
)
def test_a_section_that_says_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotReadableError):
        section.decode(zlib.compress(text_of(**changes)))


BOMBS = {
    "deep lists": b'{"user":"","packs":' + b"[" * 200_000 + b"]" * 200_000 + b',"files":[]}',
    "deep objects": b'{"user":' * 200_000,
    "a key twice": b'{"user":"","user":"","packs":[],"files":[]}',
    "a key twice deep inside": b'{"user":"","packs":[{"a":1,"a":2}],"files":[]}',
    "a number without end": b'{"user":"","packs":[],"files":[' + b"9" * 1_000_000 + b"]}",
    "not a number": b'{"user":"","packs":[],"files":[NaN]}',
    "infinite": b'{"user":"","packs":[],"files":[-Infinity]}',
    "an exponent": b'{"user":"","packs":[],"files":[1e999999999]}',
    "no utf-8": b'{"user":"\xff","packs":[],"files":[]}',
    "something behind it": text_of() + b" x",
    "two of them": text_of() * 2,
    "a byte order mark": b"\xef\xbb\xbf" + text_of(),
    "utf-16": text_of().decode().encode("utf-16"),
    "nothing": b"",
    "null": b"null",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_json_that_is_made_to_hurt_is_refused(text: bytes) -> None:
    with pytest.raises(NotReadableError):
        section.decode(zlib.compress(text))
    name = names.SnapshotName("20261124T054500Z", ID)
    with pytest.raises(NotReadableError):
        snapshot.decode_head(name, chunked.encrypt(bytes(32), names.head_context(name), text), bytes(32))
    signer = Signer(Ed25519PrivateKey.generate())
    with pytest.raises(NotReadableError):
        signed.read_tombstone(names.ERASED + ID, signed.sign(signed.LEDGER, names.ERASED + ID, text, signer), signer.public)


def test_a_zip_bomb_is_refused_before_it_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "_MOST_BYTES", 4 << 20)
    bomb = zlib.compress(bytes(64 << 20), 1)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(NotReadableError, match="too long"):
            section.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"", b"x", zlib.compress(text_of())[:-1], zlib.compress(text_of()) + b"x", zlib.compress(text_of())[2:], zlib.compress(b"")]
)
def test_what_is_not_compressed_as_it_should_be_is_refused(data: bytes) -> None:
    with pytest.raises(NotReadableError):
        section.decode(data)


# --- on the wire --------------------------------------------------------------------------------------------------------------------


def test_no_snapshot_of_the_name_is_no_snapshot_at_all(droplet: FolderDroplet) -> None:
    for wanted in ("2027", "../x", "20261124T054500Z-zz", "\0", "é", "*"):
        with pytest.raises(RefusedError):
            droplet.repository().choose(wanted)
