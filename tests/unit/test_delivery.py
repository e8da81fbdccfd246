"""Clips on their way from the nightly droplet to the one that serves them: none is lost, none comes twice, nobody else makes one."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError
from gigglekit.delivery import __main__ as program
from gigglekit.delivery import sending
from gigglekit.delivery.parcel import MOST_CLIP_BYTES, PARCELS, RECEIPTS, STORED, Clip, Keys, ParcelError, is_clip
from gigglekit.delivery.receiving import Received, receive, refuse
from gigglekit.delivery.sending import SETTLED_SECONDS, Sent, send

from .b2 import Storage
from .buckets import bucket, settings
from .killing import killed_before
from .postgres import user_id

SECRET = bytes(range(32))
KEYS = Keys(SECRET)
USER, OTHER = user_id(1), user_id(2)


@dataclass
class Fleet:
    """A droplet that makes clips, one that serves them, and the bucket between them."""

    night: Path
    web: Path
    stored: Path
    bucket: Bucket

    def made(self, user: str, name: str, content: bytes = b"laughter") -> Path:
        """Have the nightly job make a clip."""
        path = self.night / user / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(1_700_000_000_123_456_789,) * 2)
        return path

    def send(self) -> Sent:
        return send(self.bucket, KEYS, self.night)

    def receive(self) -> Received:
        return receive(self.bucket, KEYS, self.web, self.stored)

    def left(self, prefix: str = "") -> list[str]:
        """Return what lies in the bucket, past versions included."""
        return [version.name for version in self.bucket.versions(prefix)]


@pytest.fixture
def fleet(tmp_path: Path, b2: Storage) -> Fleet:
    for name in ("night", "web", "stored"):
        (tmp_path / name).mkdir()
    return Fleet(tmp_path / "night", tmp_path / "web", tmp_path / "stored", bucket(b2))


def test_a_clip_arrives_as_it_was_and_is_removed_only_then(fleet: Fleet) -> None:
    paths = [fleet.made(USER, "a.wav", b"one"), fleet.made(USER, "b.wav", b"two"), fleet.made(OTHER, "a.wav", os.urandom(300_000))]
    before = {path.relative_to(fleet.night): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert fleet.send().sent == 3
    again = fleet.send()
    assert (again.sent, again.waiting, again.delivered) == (0, 3, 0)
    assert all(path.exists() for path in paths)
    assert fleet.receive() == Received(stored=3)
    after = {path.relative_to(fleet.web): (path.read_bytes(), path.stat().st_mtime_ns) for path in fleet.web.rglob("*") if path.is_file()}
    assert after == before
    assert {path.stat().st_mode & 0o777 for path in fleet.web.rglob("*.wav")} == {0o640}
    assert fleet.left(PARCELS) == []
    done = fleet.send()
    assert (done.sent, done.waiting, done.delivered, done.problems) == (0, 0, 3, [])
    assert not any(path.exists() for path in paths)
    assert fleet.left() == []


def test_the_bucket_says_nothing_of_whose_and_what(fleet: Fleet) -> None:
    marker = b"people laughing" * 100
    fleet.made(USER, "a.wav", marker)
    fleet.send()
    (name,) = fleet.left()
    content = fleet.bucket.get(name)
    for secret in (USER.encode(), USER.replace("-", "").encode(), b"a.wav", marker[:15]):
        assert secret not in content
        assert secret not in name.encode()


def test_how_long_a_clip_waits_counts_from_when_it_was_sent(fleet: Fleet) -> None:
    fleet.made(USER, "a.wav")
    assert fleet.send().oldest == 0, "a clip that is years old has not waited yet"
    assert fleet.send().oldest < 3600
    assert 86400 < send(fleet.bucket, KEYS, fleet.night, time.time() + 90000).oldest < 93600


def test_a_clip_that_somebody_still_writes_is_not_sent(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav")
    os.utime(path, (time.time() - SETTLED_SECONDS / 2,) * 2)
    assert fleet.send().sent == 0


def test_an_erased_user_is_refused_and_nothing_of_him_stays(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav")
    fleet.send()
    # What an erasure leaves where the app would make the folder.
    (fleet.web / USER).symlink_to("../vaults/gone/clips")
    assert fleet.receive() == Received(refused=1)
    assert fleet.left(PARCELS) == []
    assert fleet.send().delivered == 1
    assert not path.exists()


def test_a_user_whose_vault_is_locked_is_none_who_was_erased(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav")
    fleet.made(OTHER, "b.wav")
    fleet.send()
    # Without its key no name in a vault is found, though the vault is there.
    vault = fleet.web.parent / "vaults/locked"
    vault.mkdir(parents=True)
    (fleet.web / USER).symlink_to("../vaults/locked/clips")
    done = fleet.receive()
    assert (done.stored, done.refused, len(done.problems)) == (1, 0, 1)
    assert "locked" in done.problems[0]
    assert fleet.send().delivered == 1
    assert path.exists()
    (vault / "clips").mkdir()
    assert fleet.receive() == Received(stored=1)
    assert (vault / "clips/a.wav").exists()


def test_a_clip_that_cannot_be_stored_keeps_no_other_waiting(fleet: Fleet) -> None:
    users = sorted((USER, OTHER), key=lambda user: KEYS.id_of(Clip(user, "a.wav", 0, b"laughter")))
    for user in users:
        fleet.made(user, "a.wav")
    fleet.send()
    (fleet.web / users[0]).write_bytes(b"")
    done = fleet.receive()
    assert (done.stored, done.refused, len(done.problems)) == (1, 0, 1)
    assert len(fleet.left(PARCELS)) == 1


def test_a_clip_is_written_into_the_vault_where_the_folder_is_a_link(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    (fleet.web / USER).symlink_to(tmp_path / "vault")
    fleet.made(USER, "a.wav", b"sound")
    fleet.send()
    assert fleet.receive().stored == 1
    assert (tmp_path / "vault/a.wav").read_bytes() == b"sound"


def test_another_clip_of_the_same_name_is_never_overwritten(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav", b"new")
    (fleet.web / USER).mkdir()
    (fleet.web / USER / "a.wav").write_bytes(b"old")
    fleet.send()
    done = fleet.receive()
    assert (done.stored, len(done.problems)) == (0, 1)
    assert (fleet.web / USER / "a.wav").read_bytes() == b"old"
    fleet.send()
    assert path.exists()


def test_a_name_that_is_taken_is_named_and_the_others_arrive_and_what_is_told_to_do_ends_it(fleet: Fleet) -> None:
    (fleet.web / USER).mkdir()
    for name in ("a.wav", "b.wav"):
        fleet.made(USER, name, b"new")
        (fleet.web / USER / name).write_bytes(b"old")
    fleet.made(USER, "c.wav")
    fleet.send()
    done = fleet.receive()
    assert (done.stored, len(done.problems)) == (1, 2)
    idents = {}
    for name in ("a.wav", "b.wav"):
        (sentence,) = (problem for problem in done.problems if f"clip {name} " in problem)
        assert USER not in sentence
        idents[name] = sentence.partition("refuse ")[2][:32]
    # The new one shall take its place.
    (fleet.web / USER / "a.wav").unlink()
    # The old one shall stay.
    refuse(fleet.bucket, KEYS, idents["b.wav"])
    assert fleet.receive() == Received(stored=1)
    assert [(fleet.web / USER / name).read_bytes() for name in ("a.wav", "b.wav")] == [b"new", b"old"]
    assert fleet.send().delivered == 3
    assert not list(fleet.night.rglob("*.wav"))
    assert fleet.left() == []
    with pytest.raises(ParcelError):
        refuse(fleet.bucket, KEYS, idents["b.wav"])


def _broken_at(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, question: str, what: str) -> None:
    """Receive until the bucket is asked this of such an object."""

    class Stopped(BaseException): ...

    asked = getattr(Bucket, question)

    def stop(self: Bucket, name: str, *arguments: Any) -> Any:
        if name.startswith(what):
            raise Stopped
        return asked(self, name, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, question, stop)
        with pytest.raises(Stopped):
            fleet.receive()


@pytest.mark.parametrize(("question", "what"), [("put", RECEIPTS), ("erase", PARCELS)])
@pytest.mark.parametrize("sent_first", [True, False])
def test_a_clip_that_its_user_has_deleted_does_not_come_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, question: str, what: str, *, sent_first: bool
) -> None:
    fleet.made(USER, "a.wav")
    fleet.send()
    _broken_at(fleet, monkeypatch, question, what)
    (fleet.web / USER / "a.wav").unlink()
    if sent_first:
        fleet.send()
    fleet.receive()
    assert not (fleet.web / USER / "a.wav").exists()
    fleet.send()
    fleet.receive()
    assert not list(fleet.web.rglob("*.wav"))
    assert not list(fleet.night.rglob("*.wav"))
    assert fleet.left() == []
    assert list(fleet.stored.iterdir()) == []


def test_a_clip_of_65_megabytes_arrives_and_one_that_is_too_large_is_told_where_it_lies(fleet: Fleet) -> None:
    path = fleet.made(USER, "large.wav", bytes(65 << 20))
    with fleet.made(OTHER, "huge.wav").open("r+b") as file:
        file.truncate(MOST_CLIP_BYTES + 1)
    os.utime(fleet.night / OTHER / "huge.wav", (1, 1))
    for sent in (1, 0):
        done = fleet.send()
        assert (done.sent, len(done.problems)) == (sent, 1)
        assert "huge.wav" in done.problems[0]
        assert OTHER not in done.problems[0]
    assert fleet.receive() == Received(stored=1)
    assert (fleet.web / USER / "large.wav").stat().st_size == 65 << 20
    assert fleet.send().delivered == 1
    assert not path.exists()


def test_who_can_only_write_into_the_bucket_can_neither_make_clips_nor_have_them_removed(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav")
    strange = Keys(bytes(32))
    forged, content = strange.pack(Clip(USER, "b.wav", 1, b"forged"))
    fleet.bucket.put(PARCELS + forged, content)
    own = KEYS.id_of(Clip(USER, "a.wav", path.stat().st_mtime_ns, path.read_bytes()))
    fleet.bucket.put(RECEIPTS + own, strange.receipt(own, STORED))
    other, receipt = "0" * 32, KEYS.receipt("0" * 32, STORED)
    fleet.bucket.put(RECEIPTS + other, receipt)
    done = fleet.send()
    assert path.exists()
    assert len(done.problems) == 1
    # A true receipt of another parcel.
    fleet.bucket.put(RECEIPTS + own, receipt)
    assert len(fleet.send().problems) == 1
    assert path.exists()
    assert len(fleet.receive().problems) == 1
    assert not list(fleet.web.rglob("*.wav"))


@pytest.mark.parametrize(
    ("user", "name"),
    [("../../etc", "a.wav"), (USER, "../a.wav"), (USER, "a/b.wav"), (USER, ".a.wav"), (USER, "a.sh"), ("x", "a.wav"), (USER, "")],
)
def test_nothing_but_a_users_clip_is_taken_even_from_a_droplet_of_the_fleet(fleet: Fleet, user: str, name: str) -> None:
    ident, content = KEYS.pack(Clip(user, name, 1, b"x"))
    with pytest.raises(ParcelError):
        KEYS.unpack(ident, content)
    fleet.bucket.put(PARCELS + ident, content)
    assert len(fleet.receive().problems) == 1
    assert list(fleet.web.iterdir()) == []


def test_damage_is_noticed_and_costs_no_other_clip(fleet: Fleet) -> None:
    fleet.made(USER, "a.wav")
    fleet.made(USER, "b.wav", b"other")
    fleet.send()
    name = fleet.left()[0]
    fleet.bucket.put(name, fleet.bucket.get(name)[:-1])
    done = fleet.receive()
    assert (done.stored, len(done.problems)) == (1, 1)
    assert USER not in done.problems[0]


def test_a_clip_that_is_written_anew_meanwhile_is_not_removed_for_the_old_one(fleet: Fleet) -> None:
    path = fleet.made(USER, "a.wav", b"first")
    fleet.send()
    fleet.receive()
    path.write_bytes(b"second, and longer")
    os.utime(path, ns=(1_700_000_001_000_000_000,) * 2)
    fleet.send()
    assert path.read_bytes() == b"second, and longer"


def test_killed_anywhere_it_goes_on_and_ends_whole(fleet: Fleet) -> None:
    fleet.made(USER, "a.wav", b"one")
    fleet.made(OTHER, "b.wav", b"two")
    fleet.send()
    call = 1
    while killed_before(call, fleet.receive):
        call += 1
    assert call > 5, "it was hardly ever killed"
    fleet.receive()
    found = {path.relative_to(fleet.web): path.read_bytes() for path in fleet.web.rglob("*") if path.is_file()}
    assert found == {Path(USER, "a.wav"): b"one", Path(OTHER, "b.wav"): b"two"}
    for call in range(1, 4):
        killed_before(call, fleet.send)
    fleet.send()
    assert not list(fleet.night.rglob("*.wav"))
    assert fleet.left(PARCELS) == []


def test_two_droplets_send_to_one(fleet: Fleet, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    fleet.made(USER, "a.wav")
    (second / OTHER).mkdir()
    (second / OTHER / "c.wav").write_bytes(b"x")
    os.utime(second / OTHER / "c.wav", (1, 1))
    fleet.send()
    assert send(fleet.bucket, KEYS, second).sent == 1
    assert fleet.receive().stored == 2
    assert fleet.send().delivered == 1
    assert send(fleet.bucket, KEYS, second).delivered == 1


def test_only_names_that_the_app_gives_are_clips() -> None:
    assert is_clip("20261124_013000-20261124_020000_laughter_2708-64_13.wav")
    assert not any(map(is_clip, ("a.wav.part", ".x.wav", "a.ogg", "a wav", "ä.wav", "")))


def test_the_program_tells_numbers_and_what_is_wrong(fleet: Fleet, b2: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    chosen = settings(b2)
    known = {**vars(chosen), "keep": vars(chosen.keep), "schemas": []}
    (tmp_path / "delivery.json").write_text(json.dumps({"bucket": known, "key": SECRET.hex()}))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(program, "CLIPS", fleet.night)
    fleet.made(USER, "a.wav")
    assert program.main(["send"]) == 0, "a clip that is years old has not waited yet"
    assert json.loads(capsys.readouterr().out)["sent"] == 1
    with monkeypatch.context() as later:
        later.setattr(sending, "time", SimpleNamespace(time=lambda: time.time() + 30 * 3600))
        assert program.main(["send"]) == 1, "it has waited for more than a day"
    assert "1 clips have no receipt, the oldest for 30 hours" in capsys.readouterr().err
    monkeypatch.setattr(program, "CLIPS", fleet.web)
    monkeypatch.setattr(program, "STORED", fleet.stored)
    assert program.main(["receive"]) == 0
    (tmp_path / "delivery.json").write_text(json.dumps({"key": SECRET.hex()}))
    assert program.main(["receive"]) == 1
    told = capsys.readouterr().err
    assert "state.apply" in told
    assert SECRET.hex() not in told


def test_a_bucket_that_is_away_removes_nothing(fleet: Fleet, b2: Storage) -> None:
    path = fleet.made(USER, "a.wav")
    away = bucket(b2, endpoint="http://127.0.0.1:1")
    with pytest.raises(BackupError):
        send(away, KEYS, fleet.night)
    assert path.exists()
