"""What is said of encrypted folders is what the kernel does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.crypto import keys
from gigglekit.vault import fscrypt
from gigglekit.vault.fscrypt import Status

from tests.unit import vault_volume
from tests.unit.vault_volume import Disk, Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Encrypted:
    """A disk with one encrypted folder that has one clip in it."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.key = os.urandom(fscrypt.KEY_BYTES)
        self.folder = disk.place / "vault"
        self.clip = self.folder / "clip.wav"
        self.root = os.open(disk.place, os.O_RDONLY)
        self.folder.mkdir()
        self.identifier = fscrypt.add_key(self.root, self.key)
        self.encrypt(self.folder)
        self.clip.write_bytes(b"laughter")

    def encrypt(self, folder: Path, identifier: bytes | None = None) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fscrypt.encrypt(descriptor, identifier or self.identifier)
        finally:
            os.close(descriptor)

    def status(self) -> Status:
        return fscrypt.status(self.root, self.identifier)


@pytest.fixture
def encrypted() -> Iterator[Encrypted]:
    with vault_volume.base() as folder, vault_volume.disk(folder) as disk:
        made = Encrypted(disk)
        yield made
        os.close(made.root)


def policy_of(path: Path) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fscrypt.identifier_of(descriptor)
    finally:
        os.close(descriptor)


def test_the_identifier_that_is_worked_out_is_the_kernels(encrypted: Encrypted) -> None:
    for _ in range(5):
        key = os.urandom(fscrypt.KEY_BYTES)
        assert fscrypt.identifier_for(key) == fscrypt.add_key(encrypted.root, key)
    assert fscrypt.identifier_for(encrypted.key) == encrypted.identifier == policy_of(encrypted.folder) == policy_of(encrypted.clip)


def test_a_key_is_absent_then_present_then_absent(encrypted: Encrypted) -> None:
    key = keys.new() + keys.new()
    identifier = fscrypt.identifier_for(key)
    assert fscrypt.status(encrypted.root, identifier) is Status.ABSENT
    fscrypt.add_key(encrypted.root, key)
    fscrypt.add_key(encrypted.root, key)
    assert fscrypt.status(encrypted.root, identifier) is Status.PRESENT
    assert fscrypt.remove_key(encrypted.root, identifier) is Status.ABSENT
    assert fscrypt.remove_key(encrypted.root, identifier) is Status.ABSENT
    assert fscrypt.forget(encrypted.root, identifier, seconds=0) is Status.ABSENT


def test_an_open_file_keeps_the_key_and_can_still_be_read(encrypted: Encrypted) -> None:
    with encrypted.clip.open("rb") as file:
        assert fscrypt.remove_key(encrypted.root, encrypted.identifier) is Status.INCOMPLETELY_REMOVED
        assert fscrypt.forget(encrypted.root, encrypted.identifier, seconds=0.1) is Status.INCOMPLETELY_REMOVED
        assert encrypted.status() is Status.INCOMPLETELY_REMOVED
        assert file.read() == b"laughter"
    assert fscrypt.forget(encrypted.root, encrypted.identifier, seconds=0) is Status.ABSENT


def test_forgetting_waits_for_a_holder_that_ends_in_time(encrypted: Encrypted) -> None:
    with Holder(encrypted.clip) as holder:
        assert fscrypt.forget(encrypted.root, encrypted.identifier, seconds=0) is Status.INCOMPLETELY_REMOVED
        holder.kill()
        assert fscrypt.forget(encrypted.root, encrypted.identifier, seconds=30) is Status.ABSENT


def test_after_it_nothing_can_be_read_and_everything_can_be_unlinked(encrypted: Encrypted) -> None:
    fscrypt.forget(encrypted.root, encrypted.identifier, seconds=5)
    (name,) = os.listdir(encrypted.folder)
    assert name != "clip.wav"
    with pytest.raises(OSError, match="key") as refused:
        (encrypted.folder / name).read_bytes()
    assert refused.value.errno == errno.ENOKEY
    assert not encrypted.clip.exists()
    with pytest.raises(OSError, match="key"):
        encrypted.clip.write_bytes(b"new")
    # The policy can be asked for without the key.
    assert policy_of(encrypted.folder) == encrypted.identifier
    (encrypted.folder / name).unlink()
    encrypted.folder.rmdir()


def test_given_again_the_key_opens_everything_again(encrypted: Encrypted) -> None:
    fscrypt.forget(encrypted.root, encrypted.identifier, seconds=5)
    assert fscrypt.add_key(encrypted.root, encrypted.key) == encrypted.identifier
    assert encrypted.clip.read_bytes() == b"laughter"


def test_a_folder_with_content_is_refused(encrypted: Encrypted) -> None:
    full = encrypted.disk.place / "full"
    full.mkdir()
    (full / "clip.wav").write_bytes(b"clear")
    with pytest.raises(fscrypt.FscryptError, match="did not encrypt a folder"):
        encrypted.encrypt(full)
    assert policy_of(full) is None
    assert (full / "clip.wav").read_bytes() == b"clear"


def test_encrypting_again_by_the_same_key_changes_nothing_and_by_another_is_refused(encrypted: Encrypted) -> None:
    encrypted.encrypt(encrypted.folder)
    other = fscrypt.add_key(encrypted.root, os.urandom(fscrypt.KEY_BYTES))
    with pytest.raises(fscrypt.FscryptError):
        encrypted.encrypt(encrypted.folder, other)
    assert policy_of(encrypted.folder) == encrypted.identifier
    assert encrypted.clip.read_bytes() == b"laughter"


def test_a_folder_encrypted_by_a_key_that_the_kernel_does_not_have_takes_nothing(encrypted: Encrypted) -> None:
    (encrypted.disk.place / "new").mkdir()
    encrypted.encrypt(encrypted.disk.place / "new", bytes(16))
    with pytest.raises(OSError, match="key"):
        (encrypted.disk.place / "new" / "clip.wav").write_bytes(b"clear")


def test_a_folder_that_is_not_encrypted_says_so(encrypted: Encrypted) -> None:
    (encrypted.disk.place / "clear").mkdir()
    assert policy_of(encrypted.disk.place / "clear") is None


def test_names_and_contents_are_not_on_the_disk(encrypted: Encrypted) -> None:
    for number in range(100):
        (encrypted.folder / f"name-of-somebody-{number}").write_bytes(b"what somebody said" * 500)
    os.close(encrypted.root)
    raw = encrypted.disk.raw()
    encrypted.disk.mount()
    encrypted.root = os.open(encrypted.disk.place, os.O_RDONLY)
    assert (raw.count(b"name-of-somebody"), raw.count(b"what somebody said")) == (0, 0)
    assert encrypted.key not in raw


def test_a_file_system_without_the_feature_is_told_from_a_failure(a_disk: Disk) -> None:
    (a_disk.place / "folder").mkdir()
    root, folder = os.open(a_disk.place, os.O_RDONLY), os.open(a_disk.place / "folder", os.O_RDONLY)
    try:
        with pytest.raises(fscrypt.UnsupportedError, match="cannot encrypt folders"):
            fscrypt.add_key(root, os.urandom(fscrypt.KEY_BYTES))
        with pytest.raises(fscrypt.UnsupportedError):
            fscrypt.status(root, bytes(16))
        with pytest.raises(fscrypt.UnsupportedError):
            fscrypt.encrypt(folder, bytes(16))
        assert fscrypt.identifier_of(folder) is None
    finally:
        os.close(folder)
        os.close(root)


def test_a_refusal_of_the_kernel_says_what_to_look_at_and_no_key(encrypted: Encrypted) -> None:
    with pytest.raises(fscrypt.FscryptError, match="dmesg") as refused:
        fscrypt.add_key(encrypted.root, b"too short")
    assert "too short" not in str(refused.value)
