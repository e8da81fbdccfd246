"""Clips that were there before the vault move into it: nothing is lost, whenever it is killed, and nothing stays behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.vault import adopt, device, fscrypt, migrate, unlock, volume
from gigglekit.vault.errors import BusyError, VaultError
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import ENCRYPTED, KINDS, Places

from tests.unit.killing import calls_of, killed_before
from tests.unit.vault_volume import base

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

MARKER = b"people laughing, from before the vault "


class Server:
    """A server without a vault, an empty volume beside it, and what its states do with both."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(
            folder / "uploads", folder / "keys", folder / "ledger", folder / "vault.json", folder / "lock", "nobody", "nogroup"
        )
        self.image, self.nightly_lock = folder / "vault.img", folder / "nightly.lock"
        self.nightly_lock.touch()
        self.users = [str(uuid.uuid4()) for _ in range(2)]
        for kind in (*KINDS, "temp"):
            (self.places.uploads / kind).mkdir(parents=True)
        for user in self.users:
            for kind in KINDS:
                (self.places.uploads / kind / user).mkdir()
                (self.places.uploads / kind / user / "0.wav").write_bytes(MARKER + os.urandom(5000))
        (self.places.uploads / "clips" / "legacy.wav").write_bytes(MARKER + os.urandom(3000))
        (self.places.uploads / "temp" / "nested").mkdir()
        (self.places.uploads / "temp" / "nested" / "scratch").write_bytes(MARKER)
        device.establish(device.Wanted(self.image, 16))
        self.places.configure(ENCRYPTED)
        self.stopped = 0

    def mount(self) -> None:
        if os.path.ismount(self.places.uploads):
            return
        end = time.monotonic() + 60
        while (
            done := subprocess.run(["mount", "-o", "loop", self.image, self.places.uploads], capture_output=True, check=False)
        ).returncode:
            assert time.monotonic() < end, done.stderr
            time.sleep(0.2)

    def stop_app(self) -> None:
        self.stopped += 1

    def move(self) -> None:
        """Do what the states `vault.filled`, the mount and `vault.ready` do."""
        if migrate.find(self.places).files:
            migrate.copy(self.places, self.image)
            migrate.switch(self.places, self.image, self.nightly_lock, self.stop_app, self.mount)
        self.places.uploads.mkdir(exist_ok=True)
        self.mount()
        if self.places.before.exists():
            migrate.erase_before(self.places)
        keyring = Keyring(self.places)
        with volume.mounted(self.places) as opened:
            unlock.unlock(opened, keyring, Ledger(self.places))
            opened.prepare(keyring)

    def contents(self) -> dict[str, str]:
        """Return the hash of every file, by the path that the app knows it by."""
        return {
            f"{place.removeprefix(str(self.places.uploads))}/{name}": hashlib.sha256(Path(place, name).read_bytes()).hexdigest()
            for kind in (*KINDS, "temp")
            for place, _, names in os.walk(self.places.uploads / kind, followlinks=True)
            for name in names
        }

    def unmount(self) -> None:
        for place in (self.places.uploads, self.places.staging):
            if os.path.ismount(place):
                subprocess.run(["chattr", "-i", place], capture_output=True, check=False)
                subprocess.run(["umount", place], check=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with base() as folder:
        made = Server(folder)
        try:
            yield made
        finally:
            made.unmount()


def test_every_file_is_in_the_vault_afterwards_and_none_outside(server: Server) -> None:
    before = server.contents()
    assert len(before) == 6
    server.move()
    assert server.contents() == before
    assert server.stopped == 1
    assert not server.places.before.exists()
    assert not server.places.staging.exists()
    for user in server.users:
        for kind in KINDS:
            assert (server.places.uploads / kind / user).is_symlink()
    with volume.mounted(server.places) as opened:
        for kind in (*KINDS, "temp"):
            assert opened.identifier(kind) is not None
    server.unmount()
    assert MARKER not in server.image.read_bytes()
    assert server.users[0].encode() not in server.image.read_bytes()


def test_what_the_app_writes_and_deletes_meanwhile_is_as_it_left_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    user = server.users[0]
    late = str(uuid.uuid4())

    def last_minute() -> None:
        (server.places.uploads / "clips" / user / "0.wav").unlink()
        (server.places.uploads / "clips" / user / "1.wav").write_bytes(b"written between the two copies")
        (server.places.uploads / "clips" / late).mkdir()
        (server.places.uploads / "clips" / late / "0.wav").write_bytes(b"a user who came between them")
        (server.places.uploads / "clips" / "legacy.wav").unlink()

    monkeypatch.setattr(server, "stop_app", last_minute)
    server.move()
    contents = server.contents()
    assert f"/clips/{user}/0.wav" not in contents
    assert "/clips/legacy.wav" not in contents
    assert contents[f"/clips/{user}/1.wav"] == hashlib.sha256(b"written between the two copies").hexdigest()
    assert contents[f"/clips/{late}/0.wav"] == hashlib.sha256(b"a user who came between them").hexdigest()


def test_an_erased_user_does_not_come_back_with_the_old_clips(server: Server) -> None:
    keyring = Keyring(server.places)
    keyring.create()
    Ledger(server.places).bury(keyring.vault_id(server.users[0]), receipt=1)
    server.move()
    assert not any(server.users[0] in path for path in server.contents())
    assert any(server.users[1] in path for path in server.contents())


def test_nothing_moves_while_the_nightly_job_works(server: Server) -> None:
    before = server.contents()
    with server.nightly_lock.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=r"nightly job is running.*Apply again"):
            server.move()
        assert server.stopped == 0
        assert server.contents() == before
        assert not os.path.ismount(server.places.uploads)
    server.move()
    assert server.contents() == before


def test_a_file_that_was_not_copied_keeps_everything_where_it_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    carry = migrate._carry

    def forgetful(*arguments: object) -> int:
        done = carry(*arguments)  # type: ignore[arg-type]
        opened, keyring = arguments[1], arguments[2]
        with opened.vault(keyring.vault_id(server.users[0]), "audio") as folder:  # type: ignore[attr-defined]
            if "0.wav" in os.listdir(folder):
                os.unlink("0.wav", dir_fd=folder)
        return done

    monkeypatch.setattr(migrate, "_carry", forgetful)
    before = server.contents()
    with pytest.raises(VaultError, match="is not in the volume as it is here"):
        server.move()
    assert server.contents() == before
    assert not server.places.before.exists()


def test_a_file_with_a_second_name_is_not_overwritten(server: Server) -> None:
    elsewhere = server.image.with_name("elsewhere.wav")
    os.link(server.places.uploads / "clips" / "legacy.wav", elsewhere)
    content = elsewhere.read_bytes()
    with pytest.raises(VaultError, match=r"second name.*samefile"):
        server.move()
    assert elsewhere.read_bytes() == content
    elsewhere.unlink()
    server.move()
    assert not server.places.before.exists()


@pytest.mark.usefixtures("unflushed")
def test_killed_anywhere_every_file_stays_where_the_app_looks_or_comes_back_there() -> None:
    with base() as folder:
        (folder / "count").mkdir()
        counted = Server(folder / "count")
        calls = calls_of(counted.move)
        counted.unmount()
        for number, call in enumerate(sorted({1 + round(step * (calls - 1) / 59) for step in range(60)})):
            place = folder / str(number)
            place.mkdir()
            server = Server(place)
            before = server.contents()
            try:
                killed_before(call, server.move)
                server.move()
                where = f"killed before call {call} of {calls}"
                assert server.contents() == before, where
                assert not server.places.before.exists(), where
                assert not server.places.staging.exists(), where
                with volume.mounted(server.places) as opened:
                    assert adopt.adopt_all(opened, Keyring(server.places), Ledger(server.places)).problems == [], where
                    assert fscrypt.Status.PRESENT is fscrypt.status(opened.root, opened.lobby_identifier() or b""), where
            finally:
                server.unmount()
                server.image.unlink()
