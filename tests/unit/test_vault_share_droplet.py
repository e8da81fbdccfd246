"""A whole vault whose key has a share in the bucket: restarted, unlocked, adopting, shown and erased."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gigglekit.backup import shares as backup_shares
from gigglekit.vault import __main__ as entry
from gigglekit.vault import adopt, fscrypt, overview, places
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.places import KINDS
from gigglekit.vault.share import ShareMissingError

from tests.unit import vault_volume
from tests.unit.vault_shares import FolderShares
from tests.unit.vault_volume import Droplet


class Shared(Droplet):
    """A droplet with a bucket, and with a memory as a real one has it."""

    def __init__(self, plain: Droplet) -> None:
        super().__init__(plain.folder, plain.disk)
        self.bucket = FolderShares(plain.folder / "bucket")
        self.places = replace(self.places, memory=plain.folder / "memory")
        self.keyring = Keyring(self.places)
        self.keyring.enable(self.bucket)

    def restart(self) -> None:
        """Forget what a machine without power forgets: the kernel its keys, and the ramfs everything."""
        subprocess.run(["umount", self.places.memory], check=True)
        self.disk.unmount()
        self.disk.mount()

    def unlock(self) -> int:
        """Run what the unit runs."""
        return entry._unlock()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    with vault_volume.droplet() as plain:
        made = Shared(plain)
        monkeypatch.setattr(places, "Places", lambda: made.places)
        monkeypatch.setattr(backup_shares, "open_shares", lambda: made.bucket)
        try:
            yield made
        finally:
            while made.places.memory.is_mount():
                subprocess.run(["umount", made.places.memory], check=True)


def test_after_a_restart_clips_are_locked_until_the_bucket_answers_and_nothing_is_written_in_the_clear(
    shared: Shared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (user,) = shared.adopted()
    before = shared.contents(user)
    shared.restart()
    shared.bucket.is_reachable = False
    monkeypatch.setattr("sys.argv", ["vault", "unlock"])
    assert entry.main() == 1
    told = capsys.readouterr().err.strip()
    assert "no answer" in told
    assert "\n" not in told
    assert shared.contents(user) == {}
    with pytest.raises(OSError, match="Required key"):
        shared.path("clips", "", "clear").write_bytes(b"clear")
    shared.bucket.is_reachable = True
    assert entry.main() == 0
    assert shared.contents(user) == before
    # A second time it asks nobody.
    shared.bucket.is_reachable = False
    assert entry.main() == 0


def test_without_a_bucket_in_the_settings_the_unit_says_what_to_do(
    shared: Shared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.restart()
    monkeypatch.setattr(backup_shares, "open_shares", lambda: None)
    monkeypatch.setattr("sys.argv", ["vault", "unlock"])
    assert entry.main() == 1
    assert "/etc/giggles/backup.json" in capsys.readouterr().err


def test_the_unit_does_not_hold_the_lock_while_it_asks_the_bucket(shared: Shared) -> None:
    shared.restart()
    fetch = shared.bucket.fetch

    def asked(share_id: str) -> bytes:
        with shared.places.locked(seconds=0):
            return fetch(share_id)

    shared.bucket.fetch = asked  # type: ignore[method-assign]
    assert shared.unlock() == 0


def test_adoption_waits_for_the_share_and_leaves_everything_as_it_is(
    shared: Shared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has its keys, and somebody has taken the memory away."""
    (old,) = shared.adopted()
    before = shared.contents(old)
    subprocess.run(["umount", shared.places.memory], check=True)
    assert shared.adopt().problems == [], "nobody is to be adopted, so nothing is needed"
    new = shared.write_clips()
    wanted = shared.contents(new)
    with pytest.raises(ShareMissingError):
        shared.adopt()
    # What the unit runs ends with one paragraph, and the watch asks again later.
    monkeypatch.setattr("sys.argv", ["vault", "adopt"])
    assert entry.main() == 1
    assert "giggles-vault-unlock" in capsys.readouterr().err
    assert not any(shared.path(kind, new).is_symlink() for kind in KINDS)
    assert (shared.contents(new), shared.contents(old)) == (wanted, before)
    shared.keyring.fetch_share(shared.bucket)
    assert shared.adopt() == adopt.Adopted(folders=2, files=4)
    assert shared.contents(new) == wanted


def test_the_overview_shows_every_vault_without_the_share(shared: Shared) -> None:
    users = shared.adopted(2)
    subprocess.run(["umount", shared.places.memory], check=True)
    told = overview.vaults(shared.places, with_holders=False)["users"]
    assert {user: told[user]["state"] for user in users} == dict.fromkeys(users, "unlocked")
    identifier = (shared.keyring.lobby_identifiers())[0]
    shared.disk.unmount()
    shared.disk.mount()
    with shared.volume() as volume:
        assert fscrypt.status(volume.root, identifier) is fscrypt.Status.ABSENT
    told = overview.vaults(shared.places, with_holders=False)["users"]
    # Locked, names cannot be read, so nobody knows whose they are.
    assert [entry["state"] for entry in told.values()] == ["locked", "locked"]


def test_an_erasure_needs_no_bucket_and_afterwards_a_restart_opens_all_others(shared: Shared) -> None:
    erased, kept = shared.adopted(2)
    before = shared.contents(kept)
    shared.bucket.is_reachable = False
    shared.bucket.asked.clear()
    assert shared.shred(erased).receipt == 1
    assert shared.bucket.asked == []
    assert shared.keyring.root_key(shared.vault_id(erased)) is None
    shared.restart()
    shared.bucket.is_reachable = True
    assert shared.unlock() == 0
    assert shared.contents(kept) == before
    assert shared.contents(erased) == {}
    assert shared.renew().complete


def test_what_nobody_may_swap_is_on_no_disk_after_a_days_work(shared: Shared) -> None:
    shared.adopted(2)
    shared.renew()
    shared.keyring.rekey(shares=shared.bucket)
    (share,) = shared.bucket.folder.iterdir()
    secret = share.read_bytes()
    found = [
        path for path in Path(shared.folder).rglob("*") if path.is_file() and path != shared.disk.image and secret in path.read_bytes()
    ]
    assert sorted(found) == sorted([share, shared.places.memory / share.name])
    shared.keyring.tidy()
    assert secret not in shared.disk.raw()
