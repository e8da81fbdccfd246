"""Several at work on one bucket: a prune beside a restore, and beside a second droplet with the same keys that saves meanwhile.

The one acts before each single step of the other, or at one of its steps after the other in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from gigglekit.backup import names, ownership, waiting
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError, DamagedError
from gigglekit.backup.settings import Keep
from gigglekit.backup.storing import Synced
from gigglekit.crypto import chunked, keys

from tests.unit.backup_folder import FolderBucket, FolderDroplet
from tests.unit.backup_repository import digests
from tests.unit.test_backup_moving import copied_keys
from tests.unit.test_backup_prune import DAY, NOW, ONE, at, check, erase, prune_once, roots

LATER = NOW + 2 * DAY
Step = Callable[[], None]


class Stepping(FolderBucket):
    """A bucket in a folder, and somebody else who acts before anything is asked of it."""

    before: Step = staticmethod(lambda: None)


def _stepping(name: str) -> Callable[..., Any]:
    original = getattr(FolderBucket, name)

    def method(bucket: Stepping, *arguments: Any, **options: Any) -> Any:
        bucket.before()
        return original(bucket, *arguments, **options)

    return method


for _name in ("get", "read", "stream", "put", "list", "erase"):
    setattr(Stepping, _name, _stepping(_name))


@dataclasses.dataclass
class SteppedDroplet(FolderDroplet):
    """A droplet beside which somebody else acts.

    Attributes:
        before: told the number of the step that comes, from 1.
    """

    before: Callable[[int], None] = lambda _: None
    steps: int = 0

    @staticmethod
    def beside(other: FolderDroplet, before: Callable[[int], None]) -> SteppedDroplet:
        """Return that droplet, with somebody beside it."""
        return SteppedDroplet(**{field.name: getattr(other, field.name) for field in dataclasses.fields(FolderDroplet)}, before=before)

    def bucket(self) -> Bucket:
        bucket = Stepping(self.place)

        def before() -> None:
            self.steps += 1
            self.before(self.steps)

        bucket.before = before
        return cast("Bucket", bucket)


def only_at(step: int, act: Step) -> Callable[[int], None]:
    """Return what acts once."""
    return lambda number: act() if number == step else None


@pytest.fixture
def droplet(a_folder: Path) -> FolderDroplet:
    """A user with two packs: one that only an old snapshot needs, and one that is mostly waste."""
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    user = droplet.add(90_000, 90_000, 1000, 1000)
    clips = user.folder / "clips"
    droplet.sync(**at(NOW - 3 * DAY))
    (a_folder / "gone.wav").write_bytes((clips / "2026_laughter_0.wav").read_bytes())
    (clips / "2026_laughter_0.wav").unlink()
    (clips / "2026_laughter_1.wav").unlink()
    droplet.sync(**at(NOW - 2 * DAY))
    return droplet


@pytest.fixture
def clone(droplet: FolderDroplet, a_folder: Path) -> Iterator[FolderDroplet]:
    """Another one with the same keys, and nothing new."""
    (a_folder / "clone").mkdir()
    with copied_keys(droplet, a_folder / "clone") as made:
        yield made


def copies(droplet: FolderDroplet, clone: FolderDroplet, place: Path) -> tuple[FolderDroplet, FolderDroplet]:
    """Return both with a bucket of their own, so that something can be tried from the same beginning again."""
    shutil.copytree(droplet.place, place / "here/bucket")
    for name, one in (("here", droplet), ("there", clone)):
        shutil.copytree(one.folder / "vaults", place / name / "vaults")
        shutil.copy(one.folder / "manifest.sqlite", place / name)
    (place / "there/bucket").symlink_to(place / "here/bucket")
    made = []
    for name, one in (("here", droplet), ("there", clone)):
        users = {vault: dataclasses.replace(user, folder=place / name / "vaults" / vault) for vault, user in one.users.items()}
        made.append(dataclasses.replace(one, folder=place / name, users=users))
    return made[0], made[1]


def restored(droplet: FolderDroplet, target: Path) -> None:
    """What the newest snapshot holds of everybody is what there is."""
    for user in droplet.users.values():
        assert droplet.restore(user, target / user.vault_id).damaged == []
        assert digests(target / user.vault_id) == digests(user.folder)


@pytest.mark.parametrize("now", [NOW, LATER])
def test_another_droplet_may_save_between_any_two_steps_of_a_prune(
    droplet: FolderDroplet, clone: FolderDroplet, a_folder: Path, now: float
) -> None:
    (user,) = clone.users.values()
    content = (a_folder / "gone.wav").read_bytes()
    if now == LATER:
        prune_once(droplet, ONE, NOW)
    made = []

    def save(step: int) -> None:
        """Bring back what was deleted, under a name of its own, or delete it again; and something new."""
        path = user.folder / "clips" / f"again-{step - step % 2}.wav"
        path.unlink() if path.exists() else path.write_bytes(content)
        clone.write(user, f"new-{step}.wav", os.urandom(30_000))
        made.append(clone.sync(**at(now)).snapshot)
        assert check(clone).problems == [], f"before step {step}"

    stepped = SteppedDroplet.beside(droplet, save)
    (a_folder / "back").mkdir()
    prune_once(stepped, ONE, now)
    assert stepped.steps > 12
    assert check(clone).problems == []
    restored(clone, a_folder / "back")
    # And once everything that was given up by then is gone.
    prune_once(droplet, Keep(len(made), 9, 9), now + 2 * DAY)
    prune_once(clone, Keep(len(made), 9, 9), now + 4 * DAY)
    assert check(clone).problems == []
    clone.sync(**at(now + 5 * DAY))
    assert check(clone).problems == []
    restored(clone, a_folder / "back")


def saved_beside_prunes(clone: FolderDroplet, prune_other: Step, step: int, content: bytes, **options: Any) -> tuple[Synced, int]:
    """Save what is new on one droplet, and have the other prune before one of its steps; return what was done, and how many there were."""
    (user,) = clone.users.values()
    clone.write(user, "again.wav", content)
    clone.write(user, "new.wav", b"new")
    stepped = SteppedDroplet.beside(clone, only_at(step, prune_other))
    return stepped.sync(**at(NOW), **options), stepped.steps


@pytest.mark.parametrize(("grace", "is_safe"), [(waiting.GRACE_SECONDS, True), (0.0, False)])
def test_another_droplet_may_prune_between_any_two_steps_of_a_sync(
    droplet: FolderDroplet, clone: FolderDroplet, a_folder: Path, grace: float, is_safe: bool
) -> None:
    """Twice even, the second time removing what it may: without a day in between, that is what a snapshot is about to refer to."""
    content = (a_folder / "gone.wav").read_bytes()
    spoiled, step = 0, 0
    while True:
        step += 1
        (a_folder / str(step)).mkdir()
        here, there = copies(droplet, clone, a_folder / str(step))

        def prunes(here: FolderDroplet = here) -> None:
            prune_once(here, ONE, NOW, grace)
            prune_once(here, ONE, NOW, grace)

        try:
            _, steps = saved_beside_prunes(there, prunes, step, content)
        except DamagedError:
            # What this run had stored was gone before its snapshot.
            if is_safe:
                raise
            spoiled += 1
            continue
        found = check(there).problems
        assert not found or not is_safe, f"before step {step}"
        spoiled += bool(found)
        if step > steps:
            break
    assert step > 4
    assert bool(spoiled) is not is_safe


@pytest.mark.parametrize(("hours", "is_safe"), [(7, True), (0, False)])
def test_a_sync_that_took_long_looks_again_before_it_makes_its_snapshot(
    droplet: FolderDroplet, clone: FolderDroplet, a_folder: Path, hours: int, is_safe: bool
) -> None:
    """The other one prunes now and two days later, while this one takes its time; with a clock that stands still it would not look."""
    content = (a_folder / "gone.wav").read_bytes()
    clock = itertools.count(0, hours * 3600)
    spoiled = 0
    for step in (2, 3, 6):  # after the first look, before anything is stored; and after the packs were looked for, before the snapshot
        (a_folder / str(step)).mkdir()
        here, there = copies(droplet, clone, a_folder / str(step))

        def prunes(here: FolderDroplet = here) -> None:
            prune_once(here, ONE, NOW)
            prune_once(here, ONE, LATER)

        done, _ = saved_beside_prunes(there, prunes, step, content, elapsed=lambda: float(next(clock)))
        found = check(there).problems
        assert not found or not is_safe, f"before step {step}"
        assert done.snapshot
        assert any("pruned" in problem for problem in done.problems) is is_safe
        spoiled += bool(found)
    assert bool(spoiled) is not is_safe


@pytest.mark.parametrize(("grace", "is_safe"), [(waiting.GRACE_SECONDS, True), (0.0, False)])
def test_a_restore_gets_everything_while_its_snapshot_is_pruned(
    droplet: FolderDroplet, clone: FolderDroplet, a_folder: Path, grace: float, is_safe: bool
) -> None:
    """A snapshot that nobody keeps, and one whose packs are written anew, at any step of reading them."""
    (user,) = droplet.users.values()
    old, newest = (name.base for name in droplet.repository().snapshots())
    (a_folder / "wanted").mkdir()
    wanted = {}
    for base in (old, newest):
        droplet.restore(user, a_folder / "wanted" / base, base)
        wanted[base] = digests(a_folder / "wanted" / base)
    assert len(wanted[old]) == 4
    spoiled = set()
    for base in (old, newest):
        for step in itertools.count(1):
            place = a_folder / f"{base}-{step}"
            place.mkdir()
            here, _ = copies(droplet, clone, place)

            def prunes(here: FolderDroplet = here) -> None:
                assert prune_once(here, ONE, NOW, grace).rewritten
                prune_once(here, ONE, NOW, grace)

            stepped = SteppedDroplet.beside(here, only_at(step, prunes))
            try:
                done = stepped.restore(user, place / "back", base)
                is_whole = done.damaged == [] and digests(place / "back") == wanted[base]
            except BackupError:
                is_whole = False
            assert is_whole or not is_safe, f"before step {step}"
            spoiled |= set() if is_whole else {base}
            if step > stepped.steps:
                break
    assert spoiled == (set() if is_safe else {old, newest})


def test_what_is_given_up_goes_after_a_day_and_not_before(droplet: FolderDroplet) -> None:
    before = set(droplet.objects(names.DATA))
    first = prune_once(droplet, ONE, NOW)
    assert (first.kept, first.removed, first.objects, first.rewritten) == (1, 0, 0, 1)
    assert first.waiting == 2 + len(before), "a snapshot, the one whose packs were written anew, and the packs of both"
    assert before < set(droplet.objects(names.DATA))
    soon = prune_once(droplet, ONE, NOW + DAY - 1)
    assert (soon.removed, soon.objects, soon.waiting) == (0, 0, first.waiting)
    done = prune_once(droplet, ONE, NOW + DAY)
    assert (done.removed, done.objects, done.waiting) == (1, len(before), 0)
    assert not before & set(droplet.objects(names.DATA))
    assert (check(droplet).problems, check(droplet).unused) == ([], 0)
    assert droplet.sync().problems == []
    # Whoever has not seen the one that is gone sees that there was one.
    (record,) = droplet.objects(names.PRUNING)
    prune_once(droplet, ONE, NOW + 9 * DAY)
    assert droplet.objects(names.PRUNING) == [record]


def test_a_snapshot_that_is_kept_after_all_keeps_what_was_given_up_with_it(droplet: FolderDroplet) -> None:
    prune_once(droplet, ONE, NOW)
    done = prune_once(droplet, Keep(9, 0, 0), NOW + 2 * DAY)
    assert (done.kept, done.removed) == (2, 0)
    assert (check(droplet).problems, check(droplet).snapshots) == ([], 2)


def test_one_that_nobody_keeps_and_nobody_can_read_goes_and_takes_nothing_with_it_before(droplet: FolderDroplet) -> None:
    old, _ = droplet.repository().snapshots()
    packs = set(droplet.objects(names.DATA))
    (droplet.place / old.object).write_bytes(b"damaged")
    for days in (0, 2):
        assert packs <= set(droplet.objects(names.DATA))
        prune_once(droplet, ONE, NOW + days * DAY)
    assert old.object not in droplet.objects()
    prune_once(droplet, ONE, NOW + 4 * DAY)
    assert not packs & set(droplet.objects(names.DATA))
    assert (check(droplet).problems, check(droplet).unused) == ([], 0)


def orphan(droplet: FolderDroplet, root: bytes) -> str:
    """Store a pack that no snapshot refers to; return its name."""
    name = names.new_id()
    content = chunked.encrypt(ownership.backup_key(root), names.pack_context(name), os.urandom(1000))
    droplet.bucket().put(names.DATA + name, content)
    return names.DATA + name


def test_what_an_erased_user_has_left_waits_for_nothing_and_what_others_have_does(droplet: FolderDroplet) -> None:
    (user,) = droplet.users.values()
    gone = droplet.add(1000)
    droplet.sync(**at(NOW - DAY))
    erase(droplet, gone)
    theirs, mine = orphan(droplet, gone.root_key), orphan(droplet, user.root_key)
    prune_once(droplet, Keep(9, 0, 0), NOW)
    assert (theirs in droplet.objects(), mine in droplet.objects()) == (False, True)
    prune_once(droplet, Keep(9, 0, 0), LATER)
    assert mine not in droplet.objects()


def test_an_erasure_does_not_wait_for_what_was_given_up(droplet: FolderDroplet) -> None:
    (user,) = droplet.users.values()
    other = droplet.add(1000)
    droplet.sync(**at(NOW - DAY))
    theirs = {names.DATA + pack.id for pack in droplet.section(droplet.repository(), droplet.repository().choose(None), other).packs}
    assert prune_once(droplet, ONE, NOW).waiting > 2
    assert len(droplet.objects(names.DATA)) > 2
    erase(droplet, user)
    assert set(droplet.objects(names.DATA)) == theirs
    prune_once(droplet, ONE, LATER)
    assert (set(droplet.objects(names.DATA)), check(droplet).problems) == (theirs, [])


def test_what_may_be_of_a_user_whom_another_droplet_has_just_made_is_nobodys(droplet: FolderDroplet) -> None:
    (user,) = droplet.users.values()
    gone, stranger = droplet.add(1000), keys.keyed_hash(droplet.names_key, "a stranger")
    droplet.sync(**at(NOW - DAY))
    erase(droplet, gone)
    theirs, new, mine = (orphan(droplet, root) for root in (gone.root_key, keys.new(), user.root_key))
    packs = [name.removeprefix(names.DATA) for name in (theirs, new, mine)]
    repository = droplet.repository()
    assert ownership.of_the_erased(repository, packs, roots(droplet), droplet.erased) == set(packs[:2])
    repository.store_key(names.USER_KEYS + stranger, keys.new())
    assert ownership.of_the_erased(repository, packs, roots(droplet), droplet.erased) == set()


def test_a_record_that_was_damaged_or_put_under_another_name_removes_nothing(droplet: FolderDroplet) -> None:
    prune_once(droplet, ONE, NOW)
    before = set(droplet.objects(names.DATA)) | set(droplet.objects(names.SNAPSHOTS))
    (record,) = droplet.objects(names.PRUNING)
    content = (droplet.place / record).read_bytes()
    other = names.PRUNING + waiting.new_name(NOW - 9 * DAY)
    for spoiled in (content[:-1], b"", content[:80] + bytes([content[80] ^ 1]) + content[81:]):
        (droplet.place / record).write_bytes(spoiled)
        shutil.copy(droplet.place / record, droplet.place / other)
        assert not any(one.number for one in waiting.read(droplet.repository(), waiting.record_names(droplet.repository())))
        assert [any(name in problem for problem in check(droplet).problems) for name in (record, other)] == [True, True]
    (droplet.place / record).write_bytes(content)
    (droplet.place / record).rename(droplet.place / other)
    done = prune_once(droplet, ONE, LATER)
    assert (done.removed, done.objects) == (0, 0), "under a name that makes it older than it is"
    assert before <= {*droplet.objects(names.DATA), *droplet.objects(names.SNAPSHOTS)}
    assert check(droplet).problems == [], "it is gone, and what it named is written down anew"


def test_a_damaged_record_is_removed_though_there_is_nothing_else_to_do(droplet: FolderDroplet) -> None:
    for days in (0, 2):
        prune_once(droplet, ONE, NOW + days * DAY)
    (record,) = droplet.objects(names.PRUNING)
    (droplet.place / record).write_bytes(b"damaged")
    prune_once(droplet, ONE, NOW + 2 * DAY)
    (after,) = droplet.objects(names.PRUNING)
    assert (after != record, check(droplet).problems, droplet.sync().problems) == (True, [], [])


def test_a_record_of_a_newer_version_stops_who_does_not_understand_it(droplet: FolderDroplet, clone: FolderDroplet) -> None:
    """What is written there may be about to be removed by who wrote it."""
    name = waiting.new_name(NOW)
    content = chunked.encrypt(droplet.snapshot_key, names.pruning_context(name), b'{"format":2}')
    droplet.bucket().put(names.PRUNING + name, content)
    (user,) = clone.users.values()
    clone.write(user, "new.wav", b"new")
    before = clone.objects(names.SNAPSHOTS)
    for act in (lambda: clone.sync(**at(NOW)), lambda: prune_once(droplet, ONE, LATER)):
        with pytest.raises(BackupError, match="newer version"):
            act()
    assert clone.objects(names.SNAPSHOTS) == before
    (problem,) = check(clone).problems
    assert name in problem


def test_a_prune_that_another_droplet_did_is_told_and_what_it_gave_up_is_stored_again(
    droplet: FolderDroplet, clone: FolderDroplet, a_folder: Path
) -> None:
    prune_once(droplet, ONE, NOW)
    (user,) = clone.users.values()
    clone.write(user, "again.wav", (a_folder / "gone.wav").read_bytes())
    done = clone.sync(**at(NOW))
    assert (done.new_files, [("another droplet" in problem) for problem in done.problems]) == (1, [True])
    with clone.manifest() as manifest:
        given_up = {pack for one in waiting.read(clone.repository(), waiting.known(manifest)) for pack in one.packs}
        assert given_up
        assert not given_up & {pack.id for pack in manifest.packs()}
    clone.write(user, "more.wav", b"more")
    assert clone.sync(**at(NOW + DAY)).problems == [], "told once"
