"""What the app makes for a user moves into that user's vault, under its hands, and nothing gets lost or out."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import time
import uuid
from pathlib import Path

import pytest
from gigglekit.files import draining
from gigglekit.files.links import exchange_in
from gigglekit.vault import adopt, fscrypt, lobby, unlock
from gigglekit.vault.keyring import fscrypt_key
from gigglekit.vault.places import KINDS

from tests.unit import vault_volume
from tests.unit.vault_volume import NOBODY, AsApp, Droplet, Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def users_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- one user -------------------------------------------------------------------------------------------------------------


def test_a_users_folders_become_links_and_their_files_are_where_they_were(droplet: Droplet) -> None:
    user = droplet.write_clips(count=3)
    before = droplet.contents(user)
    report = droplet.adopt()
    assert (report.folders, report.files, report.waiting, report.refused, report.problems) == (2, 6, 0, 0, [])
    assert droplet.contents(user) == before
    for kind in KINDS:
        assert os.readlink(droplet.disk.place / kind / user) == f"../vaults/{droplet.vault_id(user)}/{kind}"
        assert users_of(droplet.disk.place / kind) == [user]
        status = (droplet.path(kind, user) / "0.wav").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (NOBODY, NOBODY, 0o640)


def test_each_vault_is_encrypted_by_the_key_that_is_in_the_ring_for_it(droplet: Droplet) -> None:
    found = set()
    for user in droplet.adopted(2):
        root = droplet.keyring.root_key(droplet.vault_id(user))
        assert root is not None
        with droplet.volume() as volume, volume.vault(droplet.vault_id(user), "clips") as folder:
            assert fscrypt.identifier_of(folder) == fscrypt.identifier_for(fscrypt_key(root))
            found.add(fscrypt.identifier_of(folder))
    assert len(found) == 2


def test_adopting_again_does_nothing(droplet: Droplet) -> None:
    droplet.adopted()
    assert droplet.adopt() == adopt.Adopted()


def test_the_app_goes_on_through_its_own_paths(droplet: Droplet) -> None:
    (user,) = droplet.adopted()

    def app() -> None:
        os.umask(0o027)
        for kind in KINDS:
            os.makedirs(droplet.path(kind, user), exist_ok=True)
            with droplet.path(kind, user, "new.wav").open("xb") as file:
                file.write(b"new")
            assert droplet.path(kind, user, "new.wav").read_bytes() == b"new"
            droplet.path(kind, user, "0.wav").unlink()

    with AsApp(app):
        pass
    assert sorted(droplet.contents(user)) == ["audio/1.wav", "audio/new.wav", "clips/1.wav", "clips/new.wav"]


def test_the_app_cannot_put_anything_where_it_would_not_be_encrypted(droplet: Droplet) -> None:
    def app() -> None:
        for act in (
            (droplet.disk.place / "new").mkdir,
            lambda: (droplet.disk.place / "new").write_bytes(b"clear"),
            lambda: (droplet.disk.place / "clips").rename(droplet.disk.place / "other"),
            (droplet.disk.place / "vaults" / "new").mkdir,
            lambda: list((droplet.disk.place / ".lobby").iterdir()),
        ):
            with pytest.raises(PermissionError):
                act()

    with AsApp(app):
        pass


def test_a_file_that_is_being_written_is_waited_for_and_never_there_in_part(droplet: Droplet) -> None:
    user = droplet.write_clips()
    path = droplet.path("clips", user, "0.wav")
    with path.open("ab", buffering=0) as file:
        report = droplet.adopt(seconds=0)
        assert (report.waiting, report.problems) == (1, [])
        file.write(b"the end")
        assert path.read_bytes().endswith(b"the end")
        assert not droplet.path("clips", user).is_symlink()
        # Nobody waits for it in the other folder.
        assert droplet.path("audio", user).is_symlink()
    assert droplet.adopt().waiting == 0
    assert droplet.path("clips", user).is_symlink()
    assert path.read_bytes().endswith(b"the end")
    assert users_of(droplet.disk.place / "clips") == [user]


def test_what_is_written_between_copy_and_exchange_follows(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    user = droplet.write_clips()

    def write_then_exchange(*arguments: object) -> None:
        droplet.path("clips", user, "late.wav").write_bytes(b"late")
        with droplet.path("clips", user, "0.wav").open("ab") as file:
            file.write(b"more")
        exchange_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(adopt, "exchange_in", write_then_exchange)
    assert droplet.adopt().problems == []
    assert droplet.path("clips", user, "late.wav").read_bytes() == b"late"
    assert droplet.path("clips", user, "0.wav").read_bytes().endswith(b"more")


def test_what_the_app_deletes_between_copy_and_exchange_does_not_come_back(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    user = droplet.write_clips()
    nested = droplet.path("audio", user, "chunks")
    nested.mkdir()
    (nested / "0.ogg").write_bytes(b"audio")

    exchanged = 0

    def delete_then_exchange(*arguments: object) -> None:
        nonlocal exchanged
        exchanged += 1
        if exchanged == KINDS.index("audio") + 1:
            droplet.path("audio", user, "0.wav").unlink()
            (nested / "0.ogg").unlink()
        exchange_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(adopt, "exchange_in", delete_then_exchange)
    assert droplet.adopt().problems == []
    assert sorted(path.name for path in droplet.path("audio", user).rglob("*")) == ["1.wav", "chunks"]
    assert sorted(path.name for path in droplet.path("clips", user).rglob("*")) == ["0.wav", "1.wav"]


def test_a_folder_that_the_app_deletes_between_copy_and_exchange_does_not_come_back(
    droplet: Droplet, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = droplet.write_clips()

    exchanged = 0

    def delete_then_exchange(*arguments: object) -> None:
        nonlocal exchanged
        exchanged += 1
        if exchanged == KINDS.index("audio") + 1:
            shutil.rmtree(droplet.path("audio", user))
        exchange_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(adopt, "exchange_in", delete_then_exchange)
    assert len(droplet.adopt().problems) == 1
    monkeypatch.undo()
    droplet.write_clips(user, count=1)
    droplet.adopt()
    assert sorted(droplet.contents(user)) == ["audio/0.wav", "clips/0.wav", "clips/1.wav"]
    assert droplet.leftovers() == []


@pytest.mark.parametrize("in_the_old", [True, False])
def test_what_the_app_deletes_right_after_the_exchange_does_not_come_back(
    droplet: Droplet, monkeypatch: pytest.MonkeyPatch, in_the_old: bool
) -> None:
    """A program that was held up on its way deletes in the old folder, where the copy is not; any other one deletes the copy."""
    user = droplet.write_clips()
    nap = time.sleep

    def delete_then_sleep(seconds: float) -> None:
        aside = droplet.disk.place / "audio" / f".adopting-{user}"
        if aside.is_dir() and not aside.is_symlink():
            ((aside if in_the_old else droplet.path("audio", user)) / "0.wav").unlink(missing_ok=True)
        nap(seconds)

    monkeypatch.setattr(adopt.time, "sleep", delete_then_sleep)
    assert droplet.adopt().problems == []
    assert sorted(path.name for path in droplet.path("audio", user).iterdir()) == ["1.wav"]
    assert sorted(path.name for path in droplet.path("clips", user).iterdir()) == ["0.wav", "1.wav"]


def test_a_program_that_had_the_old_folder_open_loses_nothing(droplet: Droplet) -> None:
    user = droplet.write_clips()
    folder = os.open(droplet.path("clips", user), os.O_RDONLY)
    try:
        droplet.adopt(seconds=0)
        with pytest.raises(FileNotFoundError):
            os.open("late.wav", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    finally:
        os.close(folder)


def test_one_users_trouble_keeps_nobody_else_waiting_and_no_id_is_told(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    users = sorted(droplet.write_clips() for _ in range(3))
    open_file, bad = os.open, users[0]

    def fail_for_one(path: object, *arguments: object, **options: object) -> int:
        if path == bad:
            raise OSError(5, "Input/output error", path)
        return open_file(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail_for_one)
    report = droplet.adopt()
    monkeypatch.undo()
    assert (report.folders, len(report.problems)) == (4, 2)
    assert all("Input/output error" in problem and droplet.vault_id(bad) in problem for problem in report.problems)
    assert not any(user in problem for problem in report.problems for user in users)
    assert droplet.adopt().folders == 2


# --- fifty users ----------------------------------------------------------------------------------------------------------


_ROUNDS, _MOST_CLIPS = 4, 12
"""So many adoptions, each followed by a renewal, meet a busy app; clips of each user and kind at most."""
_GRACE_SECONDS, _STILL_SECONDS = adopt.GRACE_SECONDS, adopt._STILL_SECONDS


def write_as_the_app(droplet: Droplet, users: list[str], said: Path, enough: Path) -> None:
    """Write clips for all users, and more of them until `enough` is there; say what failed, what should be there, and how often a clip was
    not there yet."""
    os.umask(0o027)
    failed, written, waited = [], {}, 0
    order = [(user, kind, number) for user in users for kind in KINDS for number in range(3)]
    random.Random(1).shuffle(order)  # noqa: S311 - only an order
    # On a busy machine adoption takes so long that it would meet few clips.
    more = ((user, kind, number) for number in range(3, _MOST_CLIPS) for user in users for kind in KINDS)
    for user, kind, number in itertools.chain(order, itertools.takewhile(lambda _: not enough.exists(), more)):
        content = os.urandom(20_000)
        path = droplet.path(kind, user, f"{number}.wav")
        try:
            os.makedirs(path.parent, exist_ok=True)
            with path.open("xb") as file:
                file.write(content[:9_000])
                time.sleep(0.01)
                file.write(content[9_000:])
        except OSError as error:
            failed.append(f"{kind}: {error.strerror}")
            continue
        written[str(path)] = hashlib.sha256(content).hexdigest()
        end = time.monotonic() + 10
        while not path.exists() or path.read_bytes() != content:
            waited += 1
            if time.monotonic() > end:
                failed.append(f"{kind}: cannot be read back")
                break
            time.sleep(0.002)
    said.write_text(json.dumps({"failed": failed, "written": written, "waited": waited}))


def test_fifty_users_appear_while_adoption_and_renewal_run_and_no_clip_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fifth of the real one, so that there are many rounds.
    monkeypatch.setattr(adopt, "GRACE_SECONDS", _GRACE_SECONDS / 5)
    monkeypatch.setattr(adopt, "_STILL_SECONDS", _STILL_SECONDS)
    # For a moment there are two copies of everything.
    with vault_volume.droplet(size="64M") as droplet:
        fifty_users_appear(droplet)


def fifty_users_appear(droplet: Droplet) -> None:
    users = [str(uuid.uuid4()) for _ in range(50)]
    said, enough = droplet.folder / "said", droplet.folder / "enough"
    said.touch()
    os.chown(said, NOBODY, NOBODY)
    seen: set[bytes] = set()
    rounds = 0
    with AsApp(lambda: write_as_the_app(droplet, users, said, enough)) as app:
        while app.is_running():
            assert droplet.adopt().problems == []
            seen |= set(droplet.keyring.lobby_keys())
            droplet.renew()
            rounds += 1
            if rounds >= _ROUNDS:
                enough.touch()
    told = json.loads(said.read_text())
    assert told["failed"] == []
    assert rounds >= _ROUNDS
    droplet.adopt()
    assert droplet.renew() == lobby.Renewed(True)
    assert len(told["written"]) >= 300
    wrong = [path for path, digest in told["written"].items() if hashlib.sha256(Path(path).read_bytes()).hexdigest() != digest]
    assert wrong == []
    for kind in KINDS:
        assert users_of(droplet.disk.place / kind) == sorted(users)
        assert all(path.is_symlink() for path in (droplet.disk.place / kind).iterdir())
    assert droplet.leftovers() == []
    (current,) = droplet.keyring.lobby_keys()
    with droplet.volume() as volume:
        assert volume.lobby_identifier() == current
        old = {identifier: fscrypt.status(volume.root, identifier) for identifier in seen - {current}}
    assert len(old) > 2
    assert set(old.values()) == {fscrypt.Status.ABSENT}


# --- erased users ---------------------------------------------------------------------------------------------------------


def test_nothing_can_be_made_or_written_for_an_erased_user(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.shred(user)

    def app() -> None:
        for kind in KINDS:
            with pytest.raises(FileExistsError):
                os.makedirs(droplet.path(kind, user), exist_ok=True)
            with pytest.raises(FileNotFoundError):
                droplet.path(kind, user, "new.wav").open("xb")

    with AsApp(app):
        pass
    assert droplet.adopt() == adopt.Adopted()


def test_a_folder_made_by_force_for_an_erased_user_is_erased_at_the_next_adoption(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.shred(user)

    def app() -> None:
        for kind in KINDS:
            (droplet.disk.place / kind / user).unlink()
            droplet.path(kind, user).mkdir()
            droplet.path(kind, user, "0.wav").write_bytes(b"back")

    with AsApp(app):
        pass
    report = droplet.adopt()
    assert (report.refused, report.folders, report.problems) == (2, 0, [])
    for kind in KINDS:
        assert (droplet.disk.place / kind / user).is_symlink()
        assert not droplet.path(kind, user).exists()
    assert droplet.keyring.root_key(droplet.vault_id(user)) is None
    assert droplet.leftovers() == []


def test_a_folder_of_an_erased_user_beside_the_lobby_does_not_come_back_with_its_renewal(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.shred(user)
    left = left_beside(droplet, user)
    assert droplet.renew().complete
    assert not left.exists()
    assert not droplet.path("clips", user).exists()
    assert droplet.examine(user).state == "erased"
    assert droplet.leftovers() == []


# --- what a hostile app may leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["notes", "6F1C1B1E-1111-4222-8333-944445555666", "6f1c1b1e", ".adopting-", "..", "6f1c1b1e-1111-4222-8333-944445555666 "]
)
def test_a_folder_whose_name_is_no_users_id_is_left_alone(droplet: Droplet, name: str) -> None:
    if name != "..":
        (droplet.disk.place / "clips" / name).mkdir()
        (droplet.disk.place / "clips" / name / "a.wav").write_bytes(b"a")
    assert droplet.adopt() == adopt.Adopted()
    assert droplet.keyring.vaults() == []


def test_a_link_to_elsewhere_is_neither_followed_nor_adopted(droplet: Droplet) -> None:
    user = str(uuid.uuid4())
    (droplet.disk.place / "clips" / user).symlink_to("/etc")
    before = sorted(os.listdir("/etc"))
    assert droplet.adopt().folders == 0
    assert sorted(os.listdir("/etc")) == before
    assert not droplet.keyring.vaults()


def test_a_folder_exchanged_for_a_link_between_two_steps_leads_nowhere(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = droplet.folder / "victim"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret")
    user = droplet.write_clips()
    hidden = droplet.disk.place / "clips" / "hidden"

    def swap_then_exchange(*arguments: object) -> None:
        folder = droplet.disk.place / "clips" / user
        if not folder.is_symlink():
            folder.rename(hidden)
            folder.symlink_to(victim)
        exchange_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(adopt, "exchange_in", swap_then_exchange)
    droplet.adopt()
    assert (victim / "secret").read_bytes() == b"secret"
    assert os.listdir(victim) == ["secret"]
    assert os.readlink(droplet.disk.place / "clips" / user) == adopt.link_target(droplet.vault_id(user), "clips")
    assert "secret" not in os.listdir(droplet.path("clips", user))


def test_a_folder_exchanged_for_a_link_after_it_was_listed_leads_nowhere(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = droplet.folder / "victim"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret")
    user = droplet.write_clips()
    copy = draining.copy

    def swap_then_copy(*arguments: object) -> draining.Drained:
        done = copy(*arguments)  # type: ignore[arg-type]
        folder = droplet.disk.place / "audio" / user
        if not folder.is_symlink():
            folder.rename(droplet.disk.place / "audio" / "hidden")
            folder.symlink_to(victim)
        return done

    monkeypatch.setattr(draining, "copy", swap_then_copy)
    droplet.adopt()
    assert os.listdir(victim) == ["secret"]


def test_a_hard_link_between_two_users_makes_two_files(droplet: Droplet) -> None:
    user = droplet.write_clips()
    other = str(uuid.uuid4())
    droplet.path("clips", other).mkdir()
    os.link(droplet.path("clips", user, "0.wav"), droplet.path("clips", other, "0.wav"))
    before = droplet.contents(user)
    assert droplet.adopt().problems == []
    assert droplet.contents(user) == before
    assert droplet.contents(other)["clips/0.wav"] == before["clips/0.wav"]
    droplet.shred(user)
    assert droplet.contents(other)["clips/0.wav"] == before["clips/0.wav"]


def test_a_folder_aside_that_is_none_goes(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    (droplet.disk.place / "clips" / f".adopting-{user}").write_bytes(b"x")
    assert droplet.adopt().problems == []
    assert users_of(droplet.disk.place / "clips") == [user]


def test_a_folder_nested_without_end_troubles_only_its_own_user(droplet: Droplet) -> None:
    hostile, other = sorted(str(uuid.uuid4()) for _ in range(2))
    droplet.path("clips", hostile).mkdir()
    folder = os.open(droplet.path("clips", hostile), os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    droplet.write_clips(other)
    report = droplet.adopt()
    assert len(report.problems) == 1
    assert "nested more than 32 deep" in report.problems[0]
    assert droplet.path("clips", other).is_symlink()
    droplet.shred(hostile)
    assert droplet.examine(hostile).state == "erased"


# --- the lobby --------------------------------------------------------------------------------------------------------------


def left_beside(droplet: Droplet, user: str) -> Path:
    """Leave a user's folder in the old lobby beside the one in use, as a renewal that was killed does."""
    beside = droplet.disk.place / ".lobby" / "clips"
    with droplet.volume() as volume, volume.folder(".lobby") as folder:
        os.mkdir("clips", dir_fd=folder)
        identifier = droplet.keyring.make_lobby_key(volume.root)
        with volume.folder(".lobby") as again, lobby.opened("clips", again) as fresh:
            fscrypt.encrypt(fresh, identifier)
    (beside / user).mkdir()
    (beside / user / "left.wav").write_bytes(b"left")
    return beside / user


def test_renewing_replaces_the_key_and_keeps_every_path(droplet: Droplet) -> None:
    users = droplet.adopted(3)
    before = {user: droplet.contents(user) for user in users}
    (droplet.disk.place / "temp" / "scratch").write_bytes(b"scratch")
    (droplet.disk.place / "clips" / "legacy.wav").write_bytes(b"legacy")
    (old,) = droplet.keyring.lobby_keys()
    assert droplet.renew() == lobby.Renewed(True)
    (new,) = droplet.keyring.lobby_keys()
    with droplet.volume() as volume:
        assert {volume.identifier(kind) for kind in ("clips", "audio", "temp")} == {new}
        assert fscrypt.status(volume.root, old) is fscrypt.Status.ABSENT
        assert volume.is_closed()
        assert volume.prepare(droplet.keyring) == []
    assert new != old
    assert {user: droplet.contents(user) for user in users} == before
    assert (droplet.disk.place / "temp" / "scratch").read_bytes() == b"scratch"
    assert (droplet.disk.place / "clips" / "legacy.wav").read_bytes() == b"legacy"
    assert droplet.leftovers() == []


def test_what_the_app_deletes_while_the_lobby_is_renewed_does_not_come_back(droplet: Droplet, monkeypatch: pytest.MonkeyPatch) -> None:
    legacy = droplet.disk.place / "clips" / "legacy.wav"
    legacy.write_bytes(b"legacy")

    def delete_then_exchange(*arguments: object) -> None:
        legacy.unlink(missing_ok=True)
        exchange_in(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lobby, "exchange_in", delete_then_exchange)
    assert droplet.renew().complete
    assert not legacy.exists()


@pytest.mark.parametrize("in_the_old", [True, False])
def test_what_the_app_deletes_right_after_a_renewal_does_not_come_back(
    droplet: Droplet, monkeypatch: pytest.MonkeyPatch, in_the_old: bool
) -> None:
    clips = droplet.disk.place / "clips"
    for name in ("legacy.wav", "other.wav"):
        (clips / name).write_bytes(b"legacy")
    nap = time.sleep

    def delete_then_sleep(seconds: float) -> None:
        if seconds == adopt.GRACE_SECONDS:
            (old,) = droplet.disk.place.glob("*/clips/legacy.wav")
            (old if in_the_old else clips / "legacy.wav").unlink()
        nap(seconds)

    monkeypatch.setattr(lobby.time, "sleep", delete_then_sleep)
    assert droplet.renew().complete
    assert [path.name for path in clips.glob("*.wav")] == ["other.wav"]


def test_a_reader_of_the_old_lobby_keeps_it_from_being_complete_until_it_ends(droplet: Droplet) -> None:
    scratch = droplet.disk.place / "temp" / "scratch"
    scratch.write_bytes(b"scratch")
    (old,) = droplet.keyring.lobby_keys()
    with Holder(scratch):
        renewed = droplet.renew(seconds=0.2)
        assert (renewed.complete, renewed.waiting_for) == (False, "an open file of an earlier lobby")
        with droplet.volume() as volume:
            # Nobody has to unlock anything: the lobby in use can be.
            assert unlock.locked(volume, droplet.keyring) == []
        assert droplet.adopt().problems == []
        assert old in droplet.keyring.lobby_keys()
    assert droplet.renew().complete
    assert len(droplet.keyring.lobby_keys()) == 1


def test_a_writer_in_the_old_lobby_loses_nothing(droplet: Droplet) -> None:
    scratch = droplet.disk.place / "temp" / "scratch"
    with scratch.open("wb", buffering=0) as file:
        file.write(b"half")
        assert not droplet.renew(seconds=0.2).complete
        file.write(b" and whole")
    assert droplet.renew().complete
    assert scratch.read_bytes() == b"half and whole"


def test_a_new_user_whose_file_is_being_written_during_a_renewal_is_adopted_whole(droplet: Droplet) -> None:
    user = str(uuid.uuid4())
    folder = droplet.path("clips", user)
    folder.mkdir()
    with (folder / "0.wav").open("wb", buffering=0) as file:
        file.write(b"half")
        # The folder is in the old lobby, a copy in the new one; there it is adopted before the old one is empty.
        droplet.renew(seconds=0)
        droplet.adopt(seconds=0)
        droplet.renew(seconds=0)
        file.write(b" and whole")
    droplet.adopt()
    assert droplet.renew().complete
    droplet.adopt()
    assert droplet.path("clips", user).is_symlink()
    assert droplet.path("clips", user, "0.wav").read_bytes() == b"half and whole"
    assert droplet.leftovers() == []


def test_a_folder_left_beside_by_a_killed_renewal_moves_into_its_users_vault(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    left_beside(droplet, user)
    assert droplet.renew().complete
    assert droplet.path("clips", user, "left.wav").read_bytes() == b"left"
    assert droplet.leftovers() == []


def test_what_a_killed_renewal_left_half_copied_does_not_stop_the_next(droplet: Droplet) -> None:
    left = left_beside(droplet, str(uuid.uuid4()))
    (left.parent / ".copying-0123456789abcdef").write_bytes(b"half")
    assert droplet.renew(seconds=0.5).complete
    assert droplet.adopt().problems == []
    assert droplet.leftovers() == []
