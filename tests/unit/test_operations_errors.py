"""What goes wrong is said in one paragraph with what to do, and the repository is as consistent afterwards as before."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gigglekit.backup import names
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError, BusyError
from gigglekit.operations import __main__ as entry
from gigglekit.operations import checking, restoring, saving
from gigglekit.vault.errors import VaultError

from tests.unit import saved_droplet, vault_volume
from tests.unit.b2 import Storage
from tests.unit.saved_droplet import Saved

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def droplet(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        made.kit()
        yield made


def fill(path: Path) -> None:
    """Make a disk full."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while os.write(descriptor, bytes(4096)):
                pass
    finally:
        os.close(descriptor)


def paragraph(act: Callable[[], object], *words: str) -> str:
    """Return what an operator reads of an operation that fails."""
    with pytest.raises((BackupError, VaultError)) as caught:
        act()
    told = str(caught.value)
    assert "\n" not in told
    for word in words:
        assert word in told
    return told


def test_credentials_revoked_half_way_leave_what_the_next_run_goes_on_from(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    users = droplet.new_users(3, size=200_000)
    put, count = Bucket.put, 0

    def revoking(bucket: Bucket, name: str, *arguments: object, **options: object) -> None:
        nonlocal count
        count += name.startswith(names.DATA)
        if count == 2:
            droplet.storage.revoke()
        put(bucket, name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "put", revoking)
    paragraph(droplet.sync, "application key")
    monkeypatch.undo()
    assert droplet.records("backup")[-1]["ok"] is False
    assert droplet.storage.application_key not in str(droplet.records("backup"))
    droplet.storage.proxy.set_keys({droplet.storage.key_id: {"secret": droplet.storage.application_key, "capabilities": "all"}})
    done = droplet.sync()
    assert (done["problems"], done["files"]) == ([], 6)
    assert droplet.verify()["problems"] == []
    assert droplet.verify()["unused"] == 0
    assert len(users) == 3


def test_a_clock_that_is_an_hour_off_is_named(droplet: Saved) -> None:
    droplet.new_users()
    droplet.storage.proxy.set_clock(3600)
    for act in (droplet.sync, droplet.verify, droplet.restore):
        paragraph(act, "clock")
    droplet.storage.proxy.set_clock(0)
    assert droplet.sync()["problems"] == []


def test_a_volume_that_is_not_mounted_is_no_empty_backup(droplet: Saved) -> None:
    (user,) = droplet.new_users()
    droplet.sync()
    before = droplet.objects()
    droplet.disk.unmount()
    paragraph(droplet.sync, "not mounted")
    paragraph(lambda: droplet.restore(user=user), "not mounted")
    assert droplet.objects() == before
    droplet.disk.mount()
    # Mounted, and locked as after a restart.
    paragraph(droplet.sync, "locked", "giggles-vault-unlock")
    paragraph(lambda: droplet.restore(user=user), "locked")
    assert droplet.objects() == before


def test_one_locked_vault_stops_the_backup(droplet: Saved) -> None:
    from gigglekit.vault import fscrypt
    from gigglekit.vault.keyring import fscrypt_key

    users = droplet.new_users(2)
    droplet.sync()
    before = droplet.objects()
    root = droplet.keyring.root_key(droplet.vault_id(users[0]))
    assert root is not None
    with droplet.volume() as opened:
        fscrypt.forget(opened.root, fscrypt.identifier_for(fscrypt_key(root)), seconds=5)
    told = paragraph(droplet.sync, "locked", "Nothing was saved")
    assert users[0] not in told
    assert droplet.objects() == before


def test_a_locked_lobby_stops_the_backup_since_nobody_can_tell_whose_vault_is_whose(droplet: Saved) -> None:
    from gigglekit.vault import fscrypt

    droplet.new_users()
    with droplet.volume() as opened:
        for identifier in opened.lobby_identifiers():
            fscrypt.forget(opened.root, identifier, seconds=5)
    paragraph(droplet.sync, "locked")
    assert droplet.objects() == []


def test_a_vault_without_a_key_stops_the_backup(droplet: Saved) -> None:
    (user,) = droplet.new_users()
    droplet.sync()
    ring = (droplet.places.keys / "ring").resolve()
    (ring / "vaults" / f"{droplet.vault_id(user)}.key").unlink()
    paragraph(droplet.sync, "no key", "recovery kit")


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "version", "page"])
def test_a_damaged_manifest_is_read_from_the_bucket_again(droplet: Saved, damage: str) -> None:
    users = droplet.new_users(2)
    droplet.sync()
    path = droplet.operated.folder / "manifest.sqlite"
    content = path.read_bytes()
    if damage == "version":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        page = content[:4096] + b"\xa5" * (len(content) - 4096)
        path.write_bytes({"garbage": os.urandom(8192), "cut": content[:5000], "empty": b"", "page": page}[damage])
    data = droplet.objects(names.DATA)
    if damage == "page":
        # Found out in the middle of it.
        paragraph(droplet.sync, "damaged", "giggles.sync")
    done = droplet.sync()
    assert (done["new_files"], done["files"], done["problems"]) == (0, 4, [])
    assert droplet.objects(names.DATA) == data
    droplet.path("clips", users[0], "more.wav").write_bytes(b"more")
    assert droplet.sync()["new_files"] == 1
    assert droplet.verify()["problems"] == []


def test_a_manifest_that_cannot_be_opened_is_not_thrown_away(droplet: Saved) -> None:
    droplet.new_users()
    droplet.sync()
    path = droplet.operated.folder / "manifest.sqlite"
    aside = path.rename(path.with_name("aside"))
    path.mkdir()
    paragraph(droplet.sync, "cannot be written")
    assert path.is_dir()
    path.rmdir()
    aside.rename(path)
    assert droplet.sync()["new_files"] == 0


def test_a_full_disk_under_the_manifest_is_named_and_nothing_is_lost(droplet: Saved) -> None:
    with vault_volume.disk(droplet.folder, "small", size="2M", features="^has_journal") as small:
        from dataclasses import replace

        droplet.operated = replace(droplet.operated, folder=small.place / "backup")
        droplet.new_users(2)
        droplet.sync()
        users = droplet.new_users(1, clips=400, size=100)
        filler = small.place / "filler"
        fill(filler)
        paragraph(droplet.sync, "disk is full", "df -h")
        filler.unlink()
        done = droplet.sync()
        assert (done["problems"], done["files"]) == ([], 404)
        assert droplet.verify()["problems"] == []
        assert droplet.clips(users[0])


def test_a_full_disk_under_a_restore_leaves_nothing_half(droplet: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    (user,) = droplet.new_users(1, clips=30, size=100_000)
    droplet.sync()
    before = droplet.clips(user)
    with vault_volume.disk(droplet.folder, "small", size="2M", features="^has_journal") as small:
        with pytest.raises(OSError, match="No space"):
            droplet.restore(target=str(small.place / "back"))
        back = small.place / "back" / user / "clips"
        for path in back.iterdir() if back.is_dir() else ():
            assert path.name.startswith(names.UNFINISHED) or path.stat().st_size == len(droplet.path("clips", user, path.name).read_bytes())
    assert droplet.records("restore")[-1]["ok"] is False
    done = droplet.restore(target=str(droplet.folder / "back"))
    assert done["files"] == len(before)


def test_damage_in_one_users_part_costs_that_part_only(droplet: Saved) -> None:
    users = sorted(droplet.new_users(3), key=droplet.vault_id)
    droplet.sync()
    (name,) = droplet.objects(names.SNAPSHOTS)
    bucket = droplet.bucket()
    repository = droplet.operated.repository()
    opened = repository.open(repository.choose(None))
    part = opened.head.users[1]
    data = bytearray(bucket.get(name))
    data[opened.start + part.offset + 60] ^= 1
    bucket.put(name, bytes(data))
    done = droplet.restore(target=str(droplet.folder / "back"))
    assert (done["users"], done["files"]) == (2, 4)
    assert any(droplet.vault_id(users[1]) in problem for problem in done["problems"])
    assert sorted(path.name for path in (droplet.folder / "back").iterdir()) == sorted((users[0], users[2]))


def test_while_somebody_else_is_at_work_everything_says_so_and_changes_nothing(droplet: Saved) -> None:
    droplet.new_users()
    with droplet.operated.locked():
        for act in (droplet.sync, droplet.kit, lambda: saving.prune(droplet.operated)):
            with pytest.raises(BusyError, match="at work on the bucket already"):
                act()
    assert droplet.sync()["problems"] == []


def test_a_record_that_cannot_be_written_does_not_make_a_backup_fail(droplet: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    droplet.new_users()
    droplet.operated.records.write_bytes(b"in the way")
    assert droplet.sync()["problems"] == []
    assert "record" in capsys.readouterr().err


def test_what_is_no_kit_for_the_command_is_one_paragraph(
    droplet: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(entry, "Droplet", lambda: droplet.operated)
    droplet.new_users()

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["backup", *arguments])
        code = entry.main()
        told = capsys.readouterr()
        return code, told.out, told.err

    code, out, err = run("sync")
    assert (code, err) == (0, "")
    assert json.loads(out)["files"] == 2
    assert "pruned" in json.loads(out), "the first time it is due"
    assert "pruned" not in json.loads(run("sync")[1])
    for content in (b"\xff\xfe\x00", b"", b"nonsense"):
        (tmp_path / "kit").write_bytes(content)
        code, out, err = run("restore", "--kit", str(tmp_path / "kit"))
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "recovery kit" in err
    code, _, err = run("restore", "--kit", str(tmp_path / "none"))
    assert (code, err.count("\n")) == (1, 1)
    for command in ("verify", "drill", "prune"):
        assert run(command)[0] == 0
    (pack,) = droplet.objects(names.DATA)
    droplet.bucket().erase(pack)
    code, out, err = run("verify", "--read-data", "all")
    assert (code, pack in err) == (1, True)


def test_how_much_is_read_is_all_none_or_a_part() -> None:
    wanted = {"all": 1.0, "none": 0.0, None: 0.0, "1%": 0.01, "50": 0.5, 7: 0.07, True: 1.0, "0.5%": 0.005, "ALL": 1.0, 100: 1.0}
    assert {given: checking.fraction_of(given) for given in wanted} == wanted
    for given in ("many", "101", "-1%", "nan", "inf", "", [1], "1e999"):
        with pytest.raises(BackupError, match="Nothing was read"):
            checking.fraction_of(given)


def test_a_folder_to_restore_into_is_named_wholly(droplet: Saved) -> None:
    with pytest.raises(BackupError, match="absolute"):
        restoring.restore(droplet.operated, target="relative")


def test_a_damaged_kit_file_says_what_to_do(droplet: Saved) -> None:
    droplet.new_users()
    for content in (b"", b"[]", b"{}", b'{"public": "zz"}', b'{"public": "00"}', b'{"public": 7}', b"\xff"):
        (droplet.places.keys / "kit.json").write_bytes(content)
        paragraph(droplet.sync, "kit.json", "rotate=True")
    assert droplet.kit(rotate=True)
    assert droplet.sync()["problems"] == []
