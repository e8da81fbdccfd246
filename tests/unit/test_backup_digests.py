"""Digests of contents: what they depend on, and that a backup which an earlier program began goes on as one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from gigglekit.backup.clips import User
from gigglekit.backup.digests import PREFIX, Digests, is_earlier
from gigglekit.backup.section import Section
from gigglekit.backup.settings import Keep
from gigglekit.backup.verify import verify
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.backup_folder import FolderDroplet
from tests.unit.backup_repository import digests
from tests.unit.test_backup_prune import DAY, NOW, at, check, erase, prune_once, roots

KEY = bytes(range(32))
EARLIER = Digests(KEY).begin("0" * 32).finish()


def digest(content: bytes, *cuts: int, key: bytes = KEY, like: str = "") -> str:
    """Return a content's digest, worked out in pieces."""
    digester = Digests(key).begin(like)
    start = 0
    for end in (*sorted(cuts), len(content)):
        digester.update(content[start:end])
        start = max(start, end)
    return digester.finish()


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4), like=st.sampled_from(["", EARLIER]))
def test_how_a_content_is_read_makes_no_difference(content: bytes, cuts: list[int], like: str) -> None:
    assert digest(content, *cuts, like=like) == digest(content, like=like) == Digests(KEY).of(memoryview(content), like)


@given(one=st.binary(max_size=70), other=st.binary(max_size=70), like=st.sampled_from(["", EARLIER]))
def test_other_contents_and_other_keys_have_other_digests(one: bytes, other: bytes, like: str) -> None:
    assert (digest(one, like=like) == digest(other, like=like)) is (one == other)
    assert digest(one, like=like) != digest(one, key=bytes(32), like=like)
    # What GMAC fills up with zeros, and whose length it holds.
    assert digest(one, like=like) != digest(one + b"\0", like=like)


def test_the_kinds_are_told_apart() -> None:
    assert not is_earlier("")
    assert not is_earlier(digest(b"a"))
    assert is_earlier(EARLIER)


# --- backups that an earlier program began -----------------------------------------------------------------------------------------


def sync_by_an_earlier_program(droplet: FolderDroplet, now: float) -> None:
    """Sync as programs did that knew digests over SHA-256 only."""
    begin, of = Digests.begin, Digests.of
    with (
        patch.object(Digests, "begin", lambda self, _like="": begin(self, EARLIER)),
        patch.object(Digests, "of", lambda self, content, _like="": of(self, content, EARLIER)),
    ):
        droplet.sync(**at(now))


@pytest.fixture
def begun(a_folder: Path) -> FolderDroplet:
    """A user with three clips, saved by an earlier program."""
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    droplet.add(20_000, 30_000, 150_000)
    sync_by_an_earlier_program(droplet, NOW - DAY)
    assert kinds(droplet, somebody(droplet)) == {"earlier"}
    return droplet


def somebody(droplet: FolderDroplet) -> User:
    return next(iter(droplet.users.values()))


def newest(droplet: FolderDroplet, user: User) -> Section:
    repository = droplet.repository()
    return droplet.section(repository, repository.choose(None), user)


def kinds(droplet: FolderDroplet, user: User) -> set[str]:
    """Return which kinds of digests the newest snapshot has of a user."""
    return {"new" if file.digest.startswith(PREFIX) else "earlier" for file in newest(droplet, user).files}


def is_whole(droplet: FolderDroplet, target: Path, snapshot: str | None = None, wanted: dict[str, str] | None = None) -> bool:
    user = somebody(droplet)
    return droplet.restore(user, target, snapshot).damaged == [] and digests(target) == (wanted or digests(user.folder))


def test_new_users_have_new_digests_from_the_start(begun: FolderDroplet, a_folder: Path) -> None:
    other = begun.add(1000)
    begun.sync(**at(NOW))
    assert (kinds(begun, somebody(begun)), kinds(begun, other)) == ({"earlier"}, {"new"})
    assert check(begun).problems == []
    assert begun.restore(other, a_folder / "other").damaged == []
    assert is_whole(begun, a_folder / "back")


def test_what_an_earlier_program_has_saved_is_known_again_and_stored_once(begun: FolderDroplet, a_folder: Path) -> None:
    user = somebody(begun)
    small, _, large = sorted((user.folder / "clips").iterdir())
    for clip in (small, large):
        # Read anew: written again with the same content, and under another name.
        content = clip.read_bytes()
        clip.unlink()
        clip.with_name(f"again_{clip.name}").write_bytes(content)
    begun.write(user, "new.wav", os.urandom(5000))
    done = begun.sync(**at(NOW))
    assert (done.new_files, done.new_bytes) == (1, 5000)
    assert kinds(begun, user) == {"earlier"}, "so that every snapshot of a user can be mended"
    assert check(begun).problems == []
    assert is_whole(begun, a_folder / "back")


def test_without_its_manifest_too(begun: FolderDroplet) -> None:
    (begun.folder / "manifest.sqlite").unlink()
    begun.write(somebody(begun), "new.wav", os.urandom(5000))
    clip = min((somebody(begun).folder / "clips").iterdir())
    os.utime(clip, (1, 1))
    assert begun.sync(**at(NOW)).new_bytes == 5000


def test_a_restore_leaves_what_is_there_already_and_refuses_another_content(begun: FolderDroplet, a_folder: Path) -> None:
    user, target = somebody(begun), a_folder / "back"
    assert is_whole(begun, target)
    assert begun.restore(user, target).same == 3
    section = newest(begun, user)
    wrong = begun.folder / "wrong"
    shutil.copytree(target, wrong)
    for file in section.files:
        path = wrong / file.path
        path.write_bytes(bytes(path.stat().st_size))
    assert begun.restore(user, wrong).kept == 3


def test_all_of_a_user_that_the_bucket_loses_serves_earlier_snapshots_again(begun: FolderDroplet, a_folder: Path) -> None:
    first, before = begun.repository().choose(None).base, digests(somebody(begun).folder)
    for pack in (begun.place / "data").iterdir():
        pack.unlink()
    with begun.manifest() as manifest:
        assert verify(begun.repository(), roots(begun), manifest=manifest, fraction=1.0).problems
    begun.sync(**at(NOW))
    assert kinds(begun, somebody(begun)) == {"earlier"}, "the manifest remembers it, although it knows no content any more"
    assert not is_whole(begun, a_folder / "lacking", first, before), "the control"
    assert prune_once(begun, Keep(3, 0, 0), NOW).problems == []
    assert is_whole(begun, a_folder / "whole", first, before)
    assert check(begun).problems == []


def test_also_if_the_earlier_program_has_noticed_that_they_are_lost(begun: FolderDroplet, a_folder: Path) -> None:
    first, before = begun.repository().choose(None).base, digests(somebody(begun).folder)
    for pack in (begun.place / "data").iterdir():
        pack.unlink()
    with begun.manifest() as manifest:
        assert verify(begun.repository(), roots(begun), manifest=manifest, fraction=1.0).problems
        # It did not remember of which kind they were.
        manifest._connection.execute("DELETE FROM meta WHERE key LIKE '%digests%'")
    begun.sync(**at(NOW))
    assert kinds(begun, somebody(begun)) == {"earlier"}
    assert prune_once(begun, Keep(3, 0, 0), NOW).problems == []
    assert is_whole(begun, a_folder / "whole", first, before)


def test_of_a_new_user_too_though_packs_were_given_up_before(a_folder: Path) -> None:
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    user = droplet.add(20_000, 30_000)
    droplet.sync(**at(NOW - DAY))
    first, before = droplet.repository().choose(None).base, digests(user.folder)
    with droplet.manifest() as manifest, manifest.change():
        manifest.lose({pack.id for pack in manifest.packs()})
    for pack in (droplet.place / "data").iterdir():
        pack.unlink()
    droplet.sync(**at(NOW))
    assert kinds(droplet, user) == {"new"}
    assert prune_once(droplet, Keep(3, 0, 0), NOW).problems == []
    assert is_whole(droplet, a_folder / "whole", first, before)


def test_a_new_user_whose_small_packs_were_put_together_goes_on_as_before(a_folder: Path) -> None:
    droplet = FolderDroplet.make(a_folder / "droplet", pack_bytes=100_000)
    user = droplet.add()
    for night in range(9):
        droplet.write(user, f"{night}.wav", os.urandom(100))
        droplet.sync(**at(NOW + night * DAY))
    assert prune_once(droplet, Keep(1, 0, 0), NOW + 9 * DAY).rewritten == 9
    with droplet.manifest() as manifest:
        assert len(manifest.given_up(user.vault_id)) == 9, "the control"
    droplet.write(user, "new.wav", b"new")
    droplet.sync(**at(NOW + 10 * DAY))
    assert kinds(droplet, user) == {"new"}


def test_nothing_of_it_is_remembered_of_a_user_who_was_erased(begun: FolderDroplet) -> None:
    user = somebody(begun)
    with begun.manifest() as manifest:
        with manifest.change():
            manifest.lose({pack.id for pack in manifest.packs()})
        assert any(user.vault_id in key for key in manifest.all("")), "the control"
    erase(begun, user)
    with begun.manifest() as manifest:
        assert not any(user.vault_id in key for key in manifest.all(""))
        assert manifest.digest_like(user.vault_id) == ""


def test_verify_compares_a_content_with_both_kinds_that_are_said_of_it(begun: FolderDroplet) -> None:
    # As two programs with the same keys may have it: the same places, each with its own digest.
    user = somebody(begun)
    with begun.manifest() as manifest:
        section = newest(begun, user)
        for file in section.files:
            path = user.folder / file.path
            manifest._connection.execute(
                "UPDATE contents SET digest = ? WHERE digest = ?", (_new_digest(user, path.read_bytes()), file.digest)
            )
    begun.write(user, "new.wav", b"new")
    begun.sync(**at(NOW))
    assert kinds(begun, user) == {"new"}
    found = check(begun)
    assert (found.problems, found.compared) == ([], 4)
    with begun.manifest() as manifest:
        manifest._connection.execute("UPDATE contents SET digest = ? WHERE size = 20000", (PREFIX + "0" * 32,))
    begun.write(user, "newer.wav", b"newer")
    begun.sync(**at(NOW + DAY))
    (problem,) = check(begun).problems
    assert "is not what was saved: its digest is that of another content" in problem


def _new_digest(user: User, content: bytes) -> str:
    from gigglekit.backup.repository import manifest_key

    return digest(content, key=manifest_key(user.root_key))
