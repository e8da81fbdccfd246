"""Killed anywhere, or with a bucket that fails anywhere, the next run completes, and nothing that was saved before is less safe.

A round is: something changes on the droplet, a run is killed (or the bucket fails it), and then it is asked: does every snapshot
still verify, all data read? Does the next run do what the killed one was to do? Is nothing left in the bucket that no snapshot
refers to, once the bucket is pruned? Was nothing stored twice but what was on its way?

Most rounds have a bucket in a folder, since that takes milliseconds. There are fewer behind the strict proxy, where the child is killed
in the middle of what it sends, too.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.clips import User
from gigglekit.backup.connection import Connection
from gigglekit.backup.errors import BackupError, MissingError
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.sending import Patience
from gigglekit.backup.settings import Keep
from gigglekit.crypto import chunked

from tests.unit.b2 import Storage
from tests.unit.backup_folder import FolderBucket, FolderDroplet, samples
from tests.unit.backup_repository import Droplet, digests, settings
from tests.unit.killing import Countdown, calls_of, killed_before
from tests.unit.test_backup_prune import DAY, NOW, at, check, erase, prune, prune_once

PACK, CLIP, LARGE = 100_000, 45_000, 145_000
IN_FLIGHT = 3 * chunked.ciphertext_size(PACK)
SEVERAL = Keep(3, 0, 0)


def spread(calls: int, most: int) -> Iterator[int]:
    """Yield at most so many of the calls, evenly, the first and the last among them."""
    yield from sorted({1 + round(number * (calls - 1) / max(1, most - 1)) for number in range(most)})


def more_calls(countdown: Countdown) -> None:
    """Count what changes the bucket and the manifest, too, and whatever is sent over a network."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            countdown.tick()
            result = function(*arguments, **options)
            countdown.tick()
            return result

        return wrapped

    for owner in (FolderBucket, Bucket):
        for name in ("put", "put_stream", "erase", "erase_many"):
            setattr(owner, name, around(getattr(owner, name)))
    change = Manifest.change

    @contextlib.contextmanager
    def counted(manifest: Manifest) -> Iterator[None]:
        countdown.tick()
        with change(manifest):
            yield
            countdown.tick()
        countdown.tick()

    Manifest.change = counted  # type: ignore[assignment]
    send = http.client.HTTPConnection.send

    def torn(connection: http.client.HTTPConnection, data: Any) -> None:
        if isinstance(data, (bytes, bytearray, memoryview)) and len(data) > 1:
            half = len(data) // 2
            send(connection, data[:half])
            countdown.tick()
            data = data[half:]
        send(connection, data)

    http.client.HTTPConnection.send = torn  # type: ignore[method-assign]


@dataclass
class Rounds:
    """A droplet, and what is asked of it after each round.

    Arguments:
        droplet: with two users and a snapshot.
        folder: to restore into.
    """

    droplet: Droplet
    folder: Path
    number: int = 0
    days: int = 0
    killed: int = 0
    failed: int = 0

    @staticmethod
    def begin(droplet: Droplet, folder: Path) -> Rounds:
        droplet.pack_bytes = PACK
        droplet.add(CLIP, CLIP, 1000)
        droplet.add(CLIP, 0)
        rounds = Rounds(droplet, folder)
        rounds.sync()
        return rounds

    @property
    def user(self) -> User:
        return next(iter(self.droplet.users.values()))

    @property
    def now(self) -> float:
        return NOW + self.days * DAY

    def sync(self) -> Any:
        self.days += 1
        return self.droplet.sync(**at(self.now))

    def prune(self, keep: Keep = SEVERAL) -> Any:
        return prune(self.droplet, keep, self.now)

    def change(self) -> int:
        """Write some clips and a copy, and remove what an earlier round wrote; return the bytes that are new."""
        self.number += 1
        clips = self.user.folder / "clips"
        for path in clips.glob(f"round-{self.number - 2}-*"):
            path.unlink()
        # More than what may be on its way: stored twice, it would be seen.
        sizes = (CLIP, 0, CLIP, 3, LARGE, *[CLIP] * 9)
        for part, size in enumerate(sizes):
            self.droplet.write(self.user, f"round-{self.number}-{part}.wav", os.urandom(size))
        shutil.copy(clips / f"round-{self.number}-0.wav", clips / f"round-{self.number}-copy.wav")
        return sum(sizes)

    def verified(self, where: str) -> None:
        """Every snapshot there is has everything it refers to, and all of that opens."""
        assert check(self.droplet).problems == [], where

    def settled(self, where: str) -> None:
        """What there is comes back; and once the bucket was pruned, nothing lies in it that no snapshot refers to."""
        self.verified(where)
        self.prune()
        found = check(self.droplet)
        assert (found.problems, found.unused) == ([], 0), where
        with self.droplet.manifest() as manifest:
            assert manifest.underway() == [], where
        for user in self.droplet.users.values():
            if user.vault_id not in self.droplet.erased:
                target = self.folder / user.vault_id
                assert self.droplet.restore(user, target).damaged == [], where
                assert digests(target) == digests(user.folder), where
                shutil.rmtree(target)

    def data(self) -> dict[str, int]:
        return {entry.name: entry.size for entry in self.droplet.bucket().list(names.DATA)}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Spare thousands of requests what botocore has to say about each."""
    logger = logging.getLogger("botocore")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture
def local(a_folder: Path) -> Rounds:
    """Rounds with a bucket in a folder."""
    (a_folder / "back").mkdir()
    return Rounds.begin(FolderDroplet.make(a_folder / "droplet"), a_folder / "back")


@pytest.fixture
def remote(b2: Storage, a_folder: Path) -> Rounds:
    """Rounds with a bucket behind the strict proxy."""
    (a_folder / "vaults").mkdir()
    (a_folder / "back").mkdir()
    return Rounds.begin(Impatient(a_folder, b2), a_folder / "back")


class Impatient(Droplet):
    """A droplet that gives up soon, waits for nothing, and keeps its connections; not across a fork."""

    def bucket(self) -> Bucket:
        opened: dict[int, Bucket] = self.__dict__.setdefault("opened", {})
        if os.getpid() not in opened:
            opened[os.getpid()] = Bucket(settings(self.storage), patience=Patience(tries=2, sleep=lambda _: None))
        return opened[os.getpid()]


# --- killed -------------------------------------------------------------------------------------------------------------------------


def kill_syncs(rounds: Rounds, most: int) -> None:
    rounds.change()
    calls = calls_of(rounds.sync, more_calls)
    rounds.settled("control")
    for call in spread(calls, most):
        where = f"killed before call {call} of {calls}"
        before, new = rounds.data(), rounds.change()
        rounds.killed += killed_before(call, rounds.sync, more_calls)
        rounds.verified(where)
        stored = sum(size for name, size in rounds.data().items() if name not in before)
        if call % 2:
            prune_once(rounds.droplet, SEVERAL, rounds.now)
        there = set(rounds.data())
        done = rounds.sync()
        stored += sum(size for name, size in rounds.data().items() if name not in there)
        # Besides what is new, headers and tags, and what was on its way when it was killed. A file that lies in several packs begins anew.
        allowed = chunked.ciphertext_size(new) + 20 * 100 + IN_FLIGHT + LARGE
        assert stored <= allowed < 2 * new, where
        assert done.problems == [], where
        # Saved by the killed run or by this one.
        newest = rounds.droplet.repository().choose(None)
        paths = {file.path for file in rounds.droplet.section(rounds.droplet.repository(), newest, rounds.user).files}
        assert {f"clips/{path.name}" for path in (rounds.user.folder / "clips").iterdir()} == paths, where
        rounds.settled(where)
    print(f"killed: {rounds.killed} syncs, of {calls} calls")
    assert rounds.killed >= min(most, calls) - 4


def kill_healing(rounds: Rounds, most: int) -> None:
    only_newest = Keep(1, 0, 0)

    def lose(number: int) -> None:
        """Have something new, and a pack that the bucket has lost, or has by half."""
        rounds.change()
        packs = sorted(rounds.data())
        bucket, name = rounds.droplet.bucket(), packs[number % len(packs)]
        content = bucket.get(name)
        bucket.erase(name)
        if number % 2:
            bucket.put(name, content[: len(content) // 2])

    lose(0)
    calls = calls_of(rounds.sync, more_calls)
    rounds.prune(only_newest)
    rounds.settled("control")
    for call in spread(calls, most):
        where = f"killed before call {call} of {calls}"
        lose(call)
        rounds.killed += killed_before(call, rounds.sync, more_calls)
        rounds.sync()
        # What is left of the earlier snapshots lacks it.
        rounds.prune(only_newest)
        rounds.settled(where)
    print(f"killed: {rounds.killed} syncs that stored again what was lost, of {calls} calls")
    assert rounds.killed >= min(most, calls) - 4


def kill_prunes(rounds: Rounds, most: int) -> None:
    def waste() -> None:
        """Have packs that are mostly waste, snapshots that refer to them, and some that nobody keeps."""
        rounds.number += 1
        clips = rounds.user.folder / "clips"
        for part in range(5):
            rounds.droplet.write(rounds.user, f"waste-{rounds.number}-{part}.wav", os.urandom(CLIP // 2))
        rounds.sync()
        for path in clips.glob("waste-*"):
            # One of four in its pack.
            if path.name != f"waste-{rounds.number}-0.wav":
                path.unlink()
        rounds.sync()
        (clips / "always-new.wav").write_bytes(os.urandom(100))
        rounds.sync()

    def pruning() -> None:
        rounds.prune(Keep(2, 0, 0))

    waste()
    calls = calls_of(pruning, more_calls)
    rounds.settled("control")
    rewritten = 0
    for call in spread(calls, most):
        where = f"killed before call {call} of {calls}"
        waste()
        rounds.killed += killed_before(call, pruning, more_calls)
        rounds.verified(where)
        if call % 3 == 0:
            # What is new meets what the killed prune has left.
            rounds.droplet.write(rounds.user, "between.wav", os.urandom(50))
            between = rounds.sync()
            assert (between.new_files, between.problems) == (1, []), where
            rounds.verified(where)
        rewritten += rounds.prune(Keep(2, 0, 0)).rewritten
        rounds.verified(where)
        rounds.settled(where)
        again = rounds.sync()
        assert (again.new_files, again.packs, again.problems) == (0, 0, []), where
        assert rounds.droplet.sync().snapshot == "", where
        rounds.droplet.write(rounds.user, "after.wav", os.urandom(50))
        assert rounds.sync().new_files == 1, where
        rounds.settled(where)
    print(f"killed: {rounds.killed} prunes, of {calls} calls")
    assert rounds.killed >= min(most, calls) - 4
    assert rewritten > 0, "this asks nothing of what is written anew"


def kill_erasures(rounds: Rounds, most: int) -> None:
    def somebody() -> User:
        user = rounds.droplet.add(CLIP, CLIP, CLIP)
        rounds.sync()
        return user

    user = somebody()
    calls = calls_of(lambda: erase(rounds.droplet, user), more_calls)
    for call in spread(calls, most):
        where = f"killed before call {call} of {calls}"
        erase(rounds.droplet, user)
        user = somebody()
        before = set(rounds.data())
        if call % 2:
            # A sync was killed before it: what it was storing is this user's, too.
            rounds.droplet.write(user, "more.wav", os.urandom(CLIP * 3))
            killed_before(5 + call % 12, rounds.sync, more_calls)
        mine = {names.DATA + pack.id for pack in rounds.droplet.section(*_newest(rounds), user).packs}
        rounds.killed += killed_before(call, lambda user=user: erase(rounds.droplet, user), more_calls)  # type: ignore[misc]
        # Whatever is left of it, everybody else is as before; and a key that is gone has a tombstone.
        gone = names.USER_KEYS + user.vault_id not in rounds.droplet.objects()
        if gone:
            assert user.vault_id in rounds.droplet.repository().erased(), where
        again = erase(rounds.droplet, user)
        assert again.locked_until is None
        with pytest.raises(MissingError):
            rounds.droplet.bucket().get(names.USER_KEYS + user.vault_id)
        assert user.vault_id in rounds.droplet.repository().erased(), where
        assert not mine & set(rounds.data()), where
        assert set(rounds.data()) <= before, f"what a killed sync had stored of the user, {where}"
        rounds.sync()
        rounds.settled(where)
        assert all(user.vault_id != part.vault for part in rounds.droplet.repository().open(_newest(rounds)[1]).head.users), where
        with rounds.droplet.manifest() as manifest:
            assert user.vault_id not in manifest.vaults(), where
    print(f"killed: {rounds.killed} erasures, of {calls} calls")


def _newest(rounds: Rounds) -> tuple[Any, Any]:
    repository = rounds.droplet.repository()
    return repository, repository.choose(None)


def kill_restores(rounds: Rounds, most: int) -> None:
    rounds.change()
    rounds.droplet.write(rounds.user, "deep/er/a.wav", os.urandom(CLIP))
    rounds.sync()
    wanted = digests(rounds.user.folder)

    def restoring(target: Path, *, replace: bool = False) -> None:
        rounds.droplet.restore(rounds.user, target, replace=replace)

    calls = calls_of(lambda: restoring(rounds.folder / "control"), more_calls)
    for call in spread(calls, most):
        where = f"killed before call {call} of {calls}"
        target, replace = rounds.folder / str(call), call % 2 == 1
        (target / "clips").mkdir(parents=True)
        old = target / "clips/2026_laughter_0.wav"
        old.write_bytes(b"what was there before")
        rounds.killed += killed_before(call, lambda target=target, replace=replace: restoring(target, replace=replace), more_calls)  # type: ignore[misc]
        found = {path: digest for path, digest in digests(target).items() if not Path(path).name.startswith(names.UNFINISHED)}
        there = found.pop("clips/2026_laughter_0.wav")
        assert old.read_bytes() == b"what was there before" or (replace and there == wanted["clips/2026_laughter_0.wav"]), where
        assert found.items() <= wanted.items(), f"half a file, {where}"
        done = rounds.droplet.restore(rounds.user, target, replace=True)
        assert done.damaged == [], where
        assert digests(target) == wanted, where
        shutil.rmtree(target)
    print(f"killed: {rounds.killed} restores, of {calls} calls")
    assert rounds.killed >= min(most, calls) - 6


def test_killed_anywhere_a_sync_goes_on_and_stores_nothing_twice(local: Rounds) -> None:
    kill_syncs(local, samples(60))


def test_killed_anywhere_what_the_bucket_had_lost_is_stored_again(local: Rounds) -> None:
    kill_healing(local, samples(20))


def test_killed_anywhere_a_prune_goes_on_and_every_snapshot_stays_whole(local: Rounds) -> None:
    kill_prunes(local, samples(45))


def test_killed_anywhere_an_erasure_goes_on_and_nobody_else_loses_anything(local: Rounds) -> None:
    kill_erasures(local, samples(25))


def test_killed_anywhere_a_restore_leaves_whole_clips_only_and_goes_on(local: Rounds) -> None:
    kill_restores(local, samples(60))


@pytest.mark.parametrize(("kill", "most"), [(kill_syncs, 5), (kill_prunes, 4), (kill_erasures, 4), (kill_restores, 6)])
def test_killed_while_it_talks_to_the_bucket_it_goes_on(remote: Rounds, kill: Callable[[Rounds, int], None], most: int) -> None:
    kill(remote, samples(most))


# --- a bucket that fails ------------------------------------------------------------------------------------------------------------

WAYS: list[list[dict[str, Any]]] = [
    [{"kind": "slow-down", "probability": 0.5}],
    [{"kind": "slow-down", "probability": 0.5, "method": "PUT"}, {"kind": "truncate", "probability": 0.5, "method": "GET"}],
    [{"kind": "reset-before", "probability": 0.5}],
    [{"kind": "reset-after", "probability": 0.5}],
    [{"kind": "lose-half", "probability": 0.5, "method": "PUT"}, {"kind": "reset-after", "probability": 0.4, "method": "DELETE"}],
    [{"kind": "truncate", "probability": 0.5}],
    [{"kind": "slow-down", "probability": 0.2}, {"kind": "reset-before", "probability": 0.2}, {"kind": "reset-after", "probability": 0.2}],
]


@contextlib.contextmanager
def failing(storage: Storage, number: int) -> Iterator[None]:
    """Have a bucket that fails, in a way that depends on the number only; one in eight times it is gone after some requests."""
    chance = random.Random(f"way {number}")  # noqa: S311
    call, left = Connection.call, itertools.count(chance.randrange(12), -1)

    def counted(connection: Connection, *arguments: Any, **options: Any) -> Any:
        if next(left) == 0:
            storage.proxy.set_faults([{"kind": "down"}])
        return call(connection, *arguments, **options)

    # By chance and not in turn: acts come in turn, too, and each of them is to meet each way some day.
    way = chance.choice(WAYS)
    if chance.randrange(8) == 0:
        Connection.call = counted  # type: ignore[method-assign]
    else:
        storage.proxy.set_faults([{**fault, "seed": number, "key": f"^{storage.bucket}/"} for fault in way])
    try:
        yield
    finally:
        Connection.call = call  # type: ignore[method-assign]
        storage.proxy.clear_faults()


def test_a_bucket_that_fails_anywhere_makes_clear_errors_and_the_next_run_goes_on(remote: Rounds) -> None:
    storage, droplet = remote.droplet.storage, remote.droplet
    number = 0
    for _ in range(samples(6)):
        remote.change()
        user = droplet.add(CLIP)
        remote.sync()
        remote.change()
        target = remote.folder / "target"
        target.mkdir()
        acts: dict[str, Callable[[], object]] = {
            "sync": remote.sync,
            "prune": remote.prune,
            "restore": functools.partial(droplet.restore, remote.user, target),
            "erase": functools.partial(erase, droplet, user),
        }
        for what, act in acts.items():
            number += 1
            where = f"{what}, way {number}"
            said = ""
            with failing(storage, number):
                try:
                    act()
                except BackupError as error:
                    said = str(error)
                    remote.failed += 1
            assert not said or len(said) > 80, "an error for an operator is more than a word"
            if what == "sync":
                remote.verified(where)
                remote.sync()
            found = digests(target)
            assert all(found[path] == digest for path, digest in digests(remote.user.folder).items() if path in found), where
            assert not [path for path in found if names.UNFINISHED in path], where
        erase(droplet, user)
        remote.sync()
        remote.settled(f"way {number}")
        shutil.rmtree(target)
    print(f"failed: {remote.failed} of {number}")
    assert remote.failed > number // 5
