"""Exactly the host keys that are wanted, strong enough, and readable by root alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from gigglekit.login import hostkeys

WANTED = {"ed25519": 256, "rsa": 2048}
pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hostkeys.bring(WANTED, tmp_path)
    return tmp_path


def test_missing_keys_are_made_and_then_all_is_right(folder: Path) -> None:
    assert hostkeys.differences(WANTED, folder) == {}
    assert sorted(path.name for path in folder.iterdir()) == [
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "ssh_host_rsa_key",
        "ssh_host_rsa_key.pub",
    ]


def test_a_key_that_is_too_small_is_replaced_and_the_other_kept(folder: Path) -> None:
    kept = (folder / "ssh_host_ed25519_key").read_bytes()
    assert hostkeys.differences({"ed25519": 256, "rsa": 2560}, folder) == {
        "ssh_host_rsa_key": "to be made: it has 2048 bits instead of 2560"
    }
    hostkeys.bring({"ed25519": 256, "rsa": 2560}, folder)
    assert hostkeys.differences({"ed25519": 256, "rsa": 2560}, folder) == {}
    assert (folder / "ssh_host_ed25519_key").read_bytes() == kept


def test_other_kinds_are_removed(folder: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(folder / "ssh_host_ecdsa_key")], check=True)
    assert set(hostkeys.differences(WANTED, folder)) == {"ssh_host_ecdsa_key", "ssh_host_ecdsa_key.pub"}
    hostkeys.bring(WANTED, folder)
    assert hostkeys.differences(WANTED, folder) == {}


def test_a_private_key_that_others_can_read_is_closed(folder: Path) -> None:
    (folder / "ssh_host_ed25519_key").chmod(0o644)
    assert hostkeys.differences(WANTED, folder) == {"ssh_host_ed25519_key": "mode to be 0600, owner root"}
    hostkeys.bring(WANTED, folder)
    assert (folder / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600


def test_a_lost_public_half_means_a_new_key(folder: Path) -> None:
    (folder / "ssh_host_rsa_key.pub").unlink()
    assert "public half" in hostkeys.differences(WANTED, folder)["ssh_host_rsa_key"]
    hostkeys.bring(WANTED, folder)
    assert hostkeys.differences(WANTED, folder) == {}


def test_small_primes_are_dropped_and_comments_kept(tmp_path: Path) -> None:
    moduli = tmp_path / "moduli"
    moduli.write_text("# Time Type Tests\n20200101 2 6 100 2047 2 AB\n20200101 2 6 100 3071 2 CD\n\n")
    assert hostkeys.weak_moduli(3072, moduli) == 1
    hostkeys.drop_weak_moduli(3072, moduli)
    assert moduli.read_text() == "# Time Type Tests\n20200101 2 6 100 3071 2 CD\n\n"
    assert hostkeys.weak_moduli(3072, moduli) == 0
