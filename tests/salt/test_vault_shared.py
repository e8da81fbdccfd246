"""The states of the vault where its key has a share in a bucket: what they change, what they announce, and whom they ask."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gigglekit.backup import shares as backup_shares
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.places import ENCRYPTED

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit import vault_volume
from tests.unit.vault_shares import FolderShares
from tests.unit.vault_volume import Droplet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Converged:
    """A droplet with a mounted volume, and the states of the vault as Salt loads them."""

    def __init__(self, plain: Droplet, states: ModuleType) -> None:
        self.plain, self.states = plain, states
        self.places = replace(plain.places, memory=plain.folder / "memory")
        self.bucket = FolderShares(plain.folder / "bucket")
        self.keyring = Keyring(self.places)
        self.settings: FolderShares | None = self.bucket

    def apply(self, function: str, *, test: bool = False, **arguments: Any) -> dict[str, Any]:
        self.states.__opts__ = {"test": test}
        result = getattr(self.states, function)("name", **arguments)
        assert set(result) == {"name", "changes", "result", "comment"}
        assert "\n" not in result["comment"]
        return dict(result)

    def forget(self) -> None:
        """As after a boot."""
        subprocess.run(["umount", self.places.memory], check=True)
        self.plain.disk.unmount()
        self.plain.disk.mount()

    def ring(self) -> str:
        return os.readlink(self.places.keys / "ring")


@pytest.fixture
def droplet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Converged]:
    spec = importlib.util.spec_from_file_location("vault_states", REPOSITORY / "_states" / "vault.py")
    assert spec is not None
    assert spec.loader is not None
    states = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(states)
    with vault_volume.base() as folder, vault_volume.disk(folder, "uploads") as disk:
        made = Converged(Droplet(folder, disk), states)
        made.places.configure(ENCRYPTED)
        monkeypatch.setattr(states, "Places", lambda: made.places)
        monkeypatch.setattr(backup_shares, "open_shares", lambda: made.settings)
        try:
            yield made
        finally:
            while made.places.memory.is_mount():
                subprocess.run(["umount", made.places.memory], check=True)


@pytest.fixture
def two(droplet: Converged) -> Converged:
    """With folders, keys, and a share in the bucket from the first moment on."""
    assert droplet.apply("ready", shared=True)["result"] is True
    droplet.bucket.asked.clear()
    return droplet


def test_new_keys_have_two_shares_from_their_first_moment_on(droplet: Converged) -> None:
    done = droplet.apply("ready", shared=True)
    assert done["result"] is True
    assert "keys made" in done["changes"]["put right"]
    # The ring was not built twice: nothing was ever wrapped by a key that lay on the disk as a whole.
    assert droplet.ring() == "ring.000001"
    assert droplet.keyring.share() is not None
    assert droplet.apply("shared", shared=True) == {
        "name": "name", "changes": {}, "result": True,
        "comment": f"The key-encryption key: a share in {droplet.bucket.place}, as it should be.",
    }  # fmt: skip


@pytest.mark.parametrize("test", [True, False])
def test_when_nothing_changes_the_bucket_is_not_asked_and_need_not_answer(two: Converged, test: bool) -> None:
    two.bucket.is_reachable = False
    for function in ("ready", "shared"):
        again = two.apply(function, test=test, shared=True)
        assert (again["result"], again["changes"]) == (True, {}), again["comment"]
    assert two.bucket.asked == []


def test_a_bucket_that_does_not_answer_keeps_no_new_droplet_from_working_and_is_told_by_one_state(droplet: Converged) -> None:
    droplet.bucket.is_reachable = False
    assert droplet.apply("ready", shared=True)["result"] is True
    told = droplet.apply("shared", shared=True)
    assert (told["result"], told["changes"]) == (False, {})
    assert "no answer" in told["comment"]
    assert droplet.apply("ready", shared=True)["changes"] == {}
    droplet.bucket.is_reachable = True
    assert droplet.apply("shared", shared=True)["result"] is True
    assert droplet.keyring.share() is not None


def test_a_bucket_in_the_pillar_is_announced_then_used_then_nothing_changes(droplet: Converged) -> None:
    droplet.apply("ready")
    ring, key = droplet.ring(), droplet.keyring.make_root_key("a")
    announced = droplet.apply("shared", test=True, shared=True)
    assert (announced["result"], droplet.ring(), droplet.bucket.asked) == (None, ring, [])
    done = droplet.apply("shared", shared=True)
    assert done["result"] is True
    assert done["changes"] == announced["changes"]
    assert done["changes"] == {"key-encryption key": {"old": "the whole key on this droplet", "new": f"a share in {droplet.bucket.place}"}}
    assert (droplet.ring() != ring, droplet.keyring.root_key("a") == key) == (True, True)
    assert droplet.apply("shared", shared=True)["changes"] == {}


def test_a_bucket_taken_out_of_the_pillar_is_announced_then_not_needed_any_more(two: Converged) -> None:
    key = two.keyring.make_root_key("a")
    two.settings, two.bucket.is_reachable = None, False
    announced = two.apply("shared", test=True, shared=False)
    assert announced["result"] is None
    assert two.keyring.share() is not None
    done = two.apply("shared", shared=False)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert f"delete keys/shares/{next(two.bucket.folder.iterdir()).name}" in done["comment"]
    assert (two.keyring.share(), two.keyring.root_key("a")) == (None, key)
    assert two.apply("shared", shared=False)["changes"] == {}
    assert two.apply("ready", shared=False)["changes"] == {}


def test_another_bucket_in_the_pillar_gets_the_share_while_the_droplet_runs(two: Converged, tmp_path: Path) -> None:
    two.settings = FolderShares(tmp_path / "another")
    announced = two.apply("shared", test=True, shared=True)
    assert announced["result"] is None
    done = two.apply("shared", shared=True)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert two.bucket.place in done["comment"]
    share = two.keyring.share()
    assert share is not None
    assert [path.name for path in two.settings.folder.iterdir()] == [share.id]


def test_after_a_boot_the_share_is_fetched_or_the_state_says_why_not(two: Converged) -> None:
    two.forget()
    announced = two.apply("ready", test=True, shared=True)
    assert announced["result"] is None
    assert two.bucket.asked == []
    assert "the bucket's share of the key fetched" in announced["changes"]["put right"]
    two.bucket.is_reachable = False
    told = two.apply("ready", shared=True)
    assert told["result"] is False
    assert "no answer" in told["comment"]
    two.settings = None
    told = two.apply("ready", shared=True)
    assert told["result"] is False
    assert "/etc/giggles/backup.json" in told["comment"]
    two.settings, two.bucket.is_reachable = two.bucket, True
    done = two.apply("ready", shared=True)
    assert done["result"] is True
    assert done["changes"] == announced["changes"]
    assert not two.keyring.lacks_share()
    assert two.apply("ready", shared=True)["changes"] == {}


def test_a_bucket_without_its_settings_is_told_and_nothing_changes(droplet: Converged) -> None:
    droplet.apply("ready")
    ring, droplet.settings = droplet.ring(), None
    assert droplet.apply("shared", test=True, shared=True)["result"] is None, "they will have been written by then"
    told = droplet.apply("shared", shared=True)
    assert (told["result"], told["changes"], droplet.ring()) == (False, {}, ring)
    assert "/etc/giggles/backup.json" in told["comment"]


def test_an_older_copy_of_the_droplet_is_told_so(two: Converged) -> None:
    for share in two.bucket.folder.iterdir():
        share.unlink()
    two.forget()
    told = two.apply("ready", shared=True)
    assert told["result"] is False
    assert "older copy of the droplet" in told["comment"]
    assert "docs/BACKUP_AND_RESTORE.md" in told["comment"]


@pytest.mark.skipif(Path("/etc/giggles").exists(), reason="looks at this machine as a bare one, which a droplet is not")
@pytest.mark.parametrize("shared", [True, False])
def test_on_a_bare_machine_salt_announces_what_it_would_do(minion: Minion, right: dict[str, Any], shared: bool) -> None:
    minion.answer(right)
    done = minion.call("--out=json", "state.single", "vault.shared", "name=key", f"shared={shared}", "test=True")
    (told,) = json.loads(done.stdout)["local"].values()
    assert done.returncode == 0, told
    assert told["result"] is (None if shared else True), told
    assert not Path("/etc/giggles").exists()
