"""Killed before any state-changing call of theirs, the vault's operations lose nothing, and the next run completes them."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from gigglekit.vault import fscrypt, volume
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import fscrypt_key
from gigglekit.vault.places import KINDS

from tests.unit import vault_volume
from tests.unit.killing import calls_of, killed_before
from tests.unit.vault_volume import Droplet

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.usefixtures("own_processes", "unflushed"),
]


def spread(calls: int, most: int) -> Iterator[int]:
    """Yield at most so many of the calls, evenly, the first and the last among them."""
    yield from sorted({1 + round(number * (calls - 1) / (most - 1)) for number in range(most)})


def contents_of(droplet: Droplet, users: list[str]) -> dict[str, dict[str, str]]:
    return {user: droplet.contents(user) for user in users}


# --- erasing ----------------------------------------------------------------------------------------------------------------


def forget_links(droplet: Droplet, user: str) -> None:
    """Remove what keeps an erased user's names taken, so that every round has as many calls as the one before."""
    for kind in KINDS:
        (droplet.disk.place / kind / user).unlink()


def receipts_of(droplet: Droplet, user: str) -> list[int]:
    subject = droplet.vault_id(user)
    return [number for number in droplet.receipts.numbers() if droplet.receipts.read(number)["subject"] == subject]


def check_erased(droplet: Droplet, user: str, identifier: bytes) -> None:
    vault_id = droplet.vault_id(user)
    with droplet.volume() as opened:
        assert fscrypt.status(opened.root, identifier) is fscrypt.Status.ABSENT
        assert opened.is_closed()
        assert vault_id not in opened.vault_ids()
    assert list(droplet.places.keys.rglob(f"{vault_id}*")) == []
    assert not droplet.path("clips", user).exists()
    assert not droplet.path("audio", user).exists()


def identifier_of(droplet: Droplet, user: str) -> bytes:
    root = droplet.keyring.root_key(droplet.vault_id(user))
    assert root is not None
    return fscrypt.identifier_for(fscrypt_key(root))


def test_killed_anywhere_while_a_user_is_erased_nothing_is_half_done_and_called_done(droplet: Droplet) -> None:
    others = droplet.adopted(2)
    before = contents_of(droplet, others)

    def next_user() -> tuple[str, bytes]:
        user = droplet.write_clips(count=1)
        droplet.adopt()
        (droplet.disk.place / "temp" / "scratch").write_bytes(b"scratch")
        return user, identifier_of(droplet, user)

    user, identifier = next_user()
    calls = calls_of(lambda: droplet.shred(user))
    check_erased(droplet, user, identifier)
    for call in spread(calls, 100):
        user, identifier = next_user()
        killed = killed_before(call, lambda user=user: droplet.shred(user))  # type: ignore[misc]
        where = f"killed before call {call} of {calls}"
        found = droplet.examine(user)
        if found.state == "erased" or not killed:
            assert receipts_of(droplet, user) == [found.receipt], where
            check_erased(droplet, user, identifier)
        assert contents_of(droplet, others) == before, where
        outcome = droplet.shred(user)
        assert receipts_of(droplet, user) == [outcome.receipt], where
        check_erased(droplet, user, identifier)
        assert contents_of(droplet, others) == before, where
        assert (droplet.examine(user).state, droplet.examine(user).receipt) == ("erased", outcome.receipt), where
        assert droplet.ledger.unfinished() == [], where
        assert droplet.leftovers() == [], where
        forget_links(droplet, user)
    assert droplet.receipts.check().problems == ()
    assert (droplet.disk.place / "temp" / "scratch").read_bytes() == b"scratch"


def test_killed_anywhere_while_a_user_without_a_vault_is_erased_the_next_run_completes(droplet: Droplet) -> None:
    calls = calls_of(lambda: droplet.shred(droplet.write_clips(count=1)))
    for call in spread(calls, 30):
        user = droplet.write_clips(count=1)
        killed_before(call, lambda user=user: droplet.shred(user))  # type: ignore[misc]
        outcome = droplet.shred(user)
        assert receipts_of(droplet, user) == [outcome.receipt], f"killed before call {call} of {calls}"
        assert not droplet.path("clips", user).exists()
        assert droplet.leftovers() == []
        forget_links(droplet, user)
    assert droplet.receipts.check().problems == ()


def test_killed_anywhere_where_nothing_is_encrypted_the_next_run_completes(plain_droplet: Droplet) -> None:
    other = plain_droplet.write_clips()
    before = plain_droplet.contents(other)
    calls = calls_of(lambda: plain_droplet.shred(plain_droplet.write_clips()))
    for call in spread(calls, 30):
        user = plain_droplet.write_clips()
        killed_before(call, lambda user=user: plain_droplet.shred(user))  # type: ignore[misc]
        found = plain_droplet.examine(user)
        assert found.state != "erased" or receipts_of(plain_droplet, user) == [found.receipt]
        outcome = plain_droplet.shred(user)
        assert receipts_of(plain_droplet, user) == [outcome.receipt], f"killed before call {call} of {calls}"
        assert not plain_droplet.path("clips", user).exists()
        assert plain_droplet.contents(other) == before
    assert plain_droplet.receipts.check().problems == ()


# --- adopting -----------------------------------------------------------------------------------------------------------------


def test_killed_anywhere_while_a_user_is_adopted_every_clip_stays_where_the_app_looks(droplet: Droplet) -> None:
    def next_user() -> str:
        user = droplet.write_clips()
        nested = droplet.path("audio", user, "nested")
        nested.mkdir()
        (nested / "0.ogg").write_bytes(user.encode())
        return user

    def there(user: str) -> dict[str, Any]:
        nested = droplet.path("audio", user, "nested") / "0.ogg"
        clips = {path: content for path, content in flat(droplet, user).items() if "nested" not in path}
        return {**clips, "nested": nested.read_bytes()}

    first = next_user()
    calls = calls_of(droplet.adopt)
    assert droplet.path("clips", first).is_symlink()
    for call in spread(calls, 60):
        user = next_user()
        before = there(user)
        assert killed_before(call, droplet.adopt)
        where = f"killed before call {call} of {calls}"
        assert there(user) == before, where
        assert droplet.adopt().problems == [], where
        assert there(user) == before, where
        assert all(droplet.path(kind, user).is_symlink() for kind in ("clips", "audio")), where
        assert droplet.leftovers() == [], where
        droplet.shred(user)
        forget_links(droplet, user)


def flat(droplet: Droplet, user: str) -> dict[str, bytes]:
    """Return the contents of a user's files that lie directly in a user's folders."""
    return {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in ("clips", "audio")
        for path in droplet.path(kind, user).iterdir()
        if path.is_file()
    }


# --- the lobby ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adopted_first", [False, True], ids=["renewed next", "adopted next"])
def test_killed_anywhere_while_the_lobby_is_renewed_every_file_stays_where_the_app_looks(droplet: Droplet, adopted_first: bool) -> None:
    users = droplet.adopted(2)
    (droplet.disk.place / "temp" / "scratch").write_bytes(b"scratch")
    (droplet.disk.place / "clips" / "legacy.wav").write_bytes(b"legacy")
    before = contents_of(droplet, users)

    def check(where: str) -> None:
        assert contents_of(droplet, list(before)) == before, where
        assert (droplet.disk.place / "temp" / "scratch").read_bytes() == b"scratch", where
        assert (droplet.disk.place / "clips" / "legacy.wav").read_bytes() == b"legacy", where

    first = droplet.write_clips(count=1)
    calls = calls_of(droplet.renew)
    droplet.shred(first)
    forget_links(droplet, first)
    for call in spread(calls, 60):
        new = droplet.write_clips(count=1)
        before[new] = droplet.contents(new)
        killed_before(call, droplet.renew)
        where = f"killed before call {call} of {calls}"
        check(where)
        if adopted_first:
            assert droplet.adopt().problems == [], where
            check(where)
        assert droplet.renew().complete, where
        droplet.adopt()
        check(where)
        assert droplet.leftovers() == [], where
        (current,) = droplet.keyring.lobby_keys()
        with droplet.volume() as opened:
            assert {opened.identifier(kind) for kind in ("clips", "audio", "temp")} == {current}, where
            assert opened.is_closed(), where
            assert opened.prepare(droplet.keyring) == [], where
        # The lobby stays small, so that every round has the same calls.
        droplet.shred(new)
        forget_links(droplet, new)
        del before[new]


def test_a_user_who_lies_only_in_a_killed_renewals_old_lobby_is_known_and_erased(droplet: Droplet) -> None:
    user = str(uuid.uuid4())

    def renew_while_the_app_writes() -> None:
        from gigglekit.files.links import exchange_in
        from gigglekit.vault import lobby

        def write_then_exchange(*arguments: Any) -> None:
            droplet.write_clips(user)
            exchange_in(*arguments)
            os.kill(os.getpid(), 9)

        lobby.exchange_in = write_then_exchange
        droplet.renew()

    assert killed_before(1 << 30, renew_while_the_app_writes)
    assert not droplet.path("clips", user).exists()
    assert droplet.examine(user).state == "present"
    droplet.shred(user)
    assert droplet.examine(user).state == "erased"
    assert droplet.leftovers() == []


# --- a new volume -------------------------------------------------------------------------------------------------------------


def test_killed_anywhere_while_a_volume_is_prepared_the_next_run_completes() -> None:
    with vault_volume.base() as folder, vault_volume.disk(folder, "uploads", features="encrypt") as disk:
        droplet = Droplet(folder, disk)
        calls = 0
        for call in range(1, 200):
            for name in (".lobby", "vaults", "clips", "audio", "temp"):
                with contextlib.suppress(FileNotFoundError):
                    (disk.place / name).rmdir()
            calls = call
            if not killed_before(call, droplet.prepare):
                break
            droplet.prepare()
            with droplet.volume() as opened:
                assert opened.prepare(droplet.keyring) == [], f"killed before call {call}"
                assert opened.lobby_identifier() in droplet.keyring.lobby_keys()
                with contextlib.suppress(VaultError):
                    opened._close(False)
        assert calls > 20
        assert volume.BESIDE in os.listdir(disk.place)
