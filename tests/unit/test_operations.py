"""The backup as an operator knows it, on a droplet with a real encrypted volume and a bucket."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gigglekit.backup import names, signed
from gigglekit.backup.errors import BackupError, BusyError, RefusedError
from gigglekit.backup.rewriting import Rewriting
from gigglekit.backup.snapshot import Dump
from gigglekit.operations import __main__ as backup_command
from gigglekit.operations import checking, restoring, saving
from gigglekit.operations import droplet as operations_droplet

from tests.unit import saved_droplet
from tests.unit.b2 import Storage
from tests.unit.saved_droplet import Saved

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def droplet(b2: Storage) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        yield made


def test_without_a_kit_nothing_is_saved_and_that_is_said(droplet: Saved) -> None:
    droplet.new_users()
    for act in (droplet.sync, droplet.verify, droplet.restore, lambda: checking.drill(droplet.operated)):
        with pytest.raises(RefusedError, match=r"salt-call giggles\.recovery_kit"):
            act()
    assert droplet.objects() == []
    assert [(record["ok"], "recovery kit" in record["reason"]) for record in droplet.records("backup")] == [(False, True)]


def test_without_a_bucket_every_operation_says_how_to_get_one(droplet: Saved) -> None:
    droplet.operated.settings_path.unlink()
    for act in (droplet.kit, droplet.sync, droplet.verify, droplet.restore, lambda: saving.prune(droplet.operated)):
        with pytest.raises(RefusedError, match="No bucket is configured"):
            act()


def test_a_second_kit_is_refused_and_changes_nothing(droplet: Saved) -> None:
    droplet.kit()
    before = {path: path.read_bytes() for path in droplet.places.keys.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError, match="already"):
        droplet.kit()
    assert {path: path.read_bytes() for path in droplet.places.keys.rglob("*") if path.is_file()} == before


def test_a_kit_is_kept_nowhere(droplet: Saved) -> None:
    (key,) = [line.removeprefix("key: ") for line in droplet.kit().splitlines() if line.startswith("key: ")]
    droplet.new_users()
    droplet.sync()
    from gigglekit.backup import kit

    secret = kit._bare("key", key)
    everything = b"".join(path.read_bytes() for path in droplet.folder.rglob("*") if path.is_file() and path != droplet.disk.image)
    everything += b"".join(droplet.copy_of_bucket().values())
    for form in (secret, secret.hex().encode(), key.encode(), key.replace("-", "").encode()):
        assert form not in everything
    assert droplet.operated.kit_public().hex().encode() in everything, "a look that finds nothing whatever there is proves nothing"


def test_the_straight_way(droplet: Saved) -> None:
    """Users come, are saved, lose clips, and have them again."""
    droplet.kit()
    users = droplet.new_users(3)
    before = {user: droplet.clips(user) for user in users}
    modes = {user: droplet.modes(user) for user in users}
    done = droplet.sync()
    assert (done["users"], done["files"], done["new_files"], done["problems"], done["erasures"]) == (3, 6, 6, [], 0)
    assert (droplet.sync()["snapshot"], droplet.sync()["new_files"]) == ("", 0)
    (told,) = checking.snapshots(droplet.operated)
    assert (told["snapshot"], told["users"], told["files"], told["database"]) == (done["snapshot"], 3, 6, False)
    found = droplet.verify()
    assert (found["problems"], found["read_packs"]) == ([], 3)

    for user in users[:2]:
        for path in droplet.path("clips", user).iterdir():
            path.unlink()
    gone = {user: droplet.clips(user) for user in users}
    assert gone != before
    assert droplet.sync()["gone"] == 4
    # The newest snapshot does not have them any more.
    assert droplet.restore()["files"] == 0
    assert {user: droplet.clips(user) for user in users} == gone
    one = droplet.restore(user=users[0], snapshot=done["snapshot"])
    assert (one["users"], one["files"], one["problems"]) == (1, 2, [])
    assert droplet.clips(users[0]) == before[users[0]]
    assert droplet.clips(users[1]) == {}
    assert droplet.restore(snapshot=done["snapshot"])["files"] == 2
    assert {user: droplet.clips(user) for user in users} == before
    assert {user: droplet.modes(user) for user in users} == modes
    assert droplet.sync()["new_files"] == 0
    assert droplet.verify()["problems"] == []


def test_a_snapshot_is_found_by_the_ways_that_people_name_it(droplet: Saved) -> None:
    droplet.kit()
    (user,) = droplet.new_users()
    name = droplet.sync()["snapshot"]
    (told,) = checking.snapshots(droplet.operated)
    for wanted in (None, "latest", name, name[:20], told["time"], told["time"][:10]):
        assert droplet.restore(user=user, snapshot=wanted)["snapshot"] == name
    with pytest.raises(RefusedError, match="No snapshot"):
        droplet.restore(snapshot="1999")


def test_a_restore_into_a_folder_touches_nothing_else(droplet: Saved, tmp_path: Path) -> None:
    droplet.kit()
    users = droplet.new_users(2)
    before = {user: droplet.clips(user) for user in users}
    droplet.sync()
    for user in users:
        for path in droplet.path("clips", user).iterdir():
            path.unlink()
    target = tmp_path / "restored"
    done = droplet.restore(target=str(target))
    assert (done["users"], done["files"], done["problems"]) == (2, 4, [])
    assert {user: droplet.clips(user) for user in users} == {user: {} for user in users}
    for user in users:
        assert (target / user).stat().st_mode & 0o077 == 0, "clips in the clear are for nobody else"
        found = {path.name: path.read_bytes() for path in (target / user / "clips").iterdir()}
        assert sorted(found) == sorted(before[user])
    again = droplet.restore(target=str(target), user=users[0])
    assert (again["files"], again["same"]) == (0, 2)


def test_one_path_of_one_user(droplet: Saved, tmp_path: Path) -> None:
    droplet.kit()
    (user,) = droplet.new_users()
    droplet.sync()
    done = droplet.restore(user=user, target=str(tmp_path), path="clips/2026_1")
    assert done["files"] == 1
    assert [path.name for path in (tmp_path / user / "clips").iterdir()] == ["2026_1_laughter.wav"]


def test_what_is_there_gives_way_only_if_asked(droplet: Saved) -> None:
    droplet.kit()
    (user,) = droplet.new_users()
    before = droplet.clips(user)
    droplet.sync()
    changed = droplet.path("clips", user, "2026_0_laughter.wav")
    changed.write_bytes(b"another")
    done = droplet.restore(user=user)
    assert (done["files"], done["same"], done["kept"]) == (0, 1, 1)
    assert changed.read_bytes() == b"another"
    done = droplet.restore(user=user, replace=True)
    assert (done["files"], done["same"], done["kept"]) == (1, 1, 0)
    assert droplet.clips(user) == before


def test_a_user_who_is_not_in_the_backup_is_told_apart_from_one_who_was_erased(droplet: Saved) -> None:
    droplet.kit()
    erased, _ = droplet.new_users(2)
    first = droplet.sync()["snapshot"]
    with pytest.raises(RefusedError, match="not in the snapshot"):
        droplet.restore(user=str(uuid.uuid4()))
    droplet.erase(erased)
    for wanted in (None, first):
        with pytest.raises(RefusedError, match="was erased"):
            droplet.restore(user=erased, snapshot=wanted)
    done = droplet.restore(snapshot=first)
    assert (done["users"], done["erased"], done["problems"]) == (1, 1, [])
    assert not droplet.path("clips", erased).exists()


def test_pruning_is_due_once_a_week_and_keeps_what_is_kept(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    droplet.configure(keep={"daily": 1, "weekly": 0, "monthly": 0})
    droplet.kit()
    (user,) = droplet.new_users()
    droplet.sync()
    droplet.path("clips", user, "2026_0_laughter.wav").unlink()
    droplet.path("clips", user, "new.wav").write_bytes(b"new")
    droplet.sync()
    assert saving.is_prune_due(droplet.operated)
    done = saving.prune(droplet.operated)
    assert (done["kept"], done["removed"], done["waiting"]) == (1, 0, 1)
    with monkeypatch.context() as later:
        later.setattr(saving, "time", SimpleNamespace(time=lambda: time.time() + 86400))
        done = saving.prune(droplet.operated)
    assert (done["kept"], done["removed"], done["objects"], done["waiting"]) == (1, 1, 0, 0)
    assert not saving.is_prune_due(droplet.operated)
    for days, due, due_with_problems in ((6.9, False, False), (7.1, True, False), (14.1, True, True)):
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * 86400))
        (droplet.operated.records / "prune.jsonl").write_text(json.dumps({"ok": True, "time": then}) + "\n")
        assert (saving.is_prune_due(droplet.operated), saving.is_prune_due(droplet.operated, postponed=True)) == (due, due_with_problems)
    assert droplet.verify()["problems"] == []
    for spoiled in ('{"ok": true, "time": "2099-01-01T00:00:00Z"}', '{"ok": true}', '{"ok": true, "time": 7}', '"text"', "\x00", "{"):
        (droplet.operated.records / "prune.jsonl").write_text(spoiled + "\n")
        assert saving.is_prune_due(droplet.operated), spoiled


def test_no_prune_removes_what_somebody_is_restoring_and_no_restore_waits_for_one_in_vain(
    droplet: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that was given up long ago can be chosen still, at the very moment at which it is due."""
    droplet.configure(keep={"daily": 1, "weekly": 0, "monthly": 0})
    droplet.kit()
    (user,) = droplet.new_users()
    old = droplet.sync()["snapshot"]
    clips = droplet.clips(user)
    for path in droplet.path("clips", user).iterdir():
        path.write_bytes(os.urandom(2000))
    droplet.sync()
    assert saving.prune(droplet.operated)["waiting"] == 2
    assert [found.get("given_up", False) for found in checking.snapshots(droplet.operated)] == [True, False]
    monkeypatch.setattr(saving, "time", SimpleNamespace(time=lambda: time.time() + 86400))
    write, pruned = restoring.write, []

    def slowly(*arguments: Any, **options: Any) -> Any:
        pruned.append(saving.prune(droplet.operated))
        return write(*arguments, **options)

    with monkeypatch.context() as slow:
        slow.setattr(restoring, "write", slowly)
        done = droplet.restore(user=user, snapshot=old, replace=True)
    assert (done["files"], done["problems"], droplet.clips(user)) == (2, [], clips)
    assert (pruned[0]["removed"], pruned[0]["objects"], pruned[0]["waiting"]) == (0, 0, 2)
    with droplet.operated.alone() as is_alone:
        assert is_alone
        monkeypatch.setattr(operations_droplet, "_PRUNE_SECONDS", 0.2)
        with pytest.raises(BusyError, match="removing snapshots"):
            droplet.restore(user=user)
    done = saving.prune(droplet.operated)
    assert (done["removed"], done["objects"], done["waiting"]) == (1, 1, 0)
    with pytest.raises(RefusedError, match="No snapshot"):
        droplet.restore(user=user, snapshot=old)


@pytest.mark.parametrize(("days", "left"), [(29, 1), (31, 0)])
def test_a_backup_that_fails_ends_dumps_all_the_same(droplet: Saved, monkeypatch: pytest.MonkeyPatch, days: int, left: int) -> None:
    droplet.kit()
    droplet.new_users()
    saved = droplet.sync()["snapshot"]
    repository, dump = droplet.operated.repository(), names.new_id()
    repository.store_key(names.DATABASE_KEYS + dump, os.urandom(32))
    name = repository.choose(saved)
    head = dataclasses.replace(repository.open(name).head, dump=Dump(dump, 4, "0" * 64, "15.1"), users=())
    later = dataclasses.replace(name, generation=1)
    repository.bucket.put(later.object, repository.write(later, head, []))

    def failing(*_: Any, **__: Any) -> None:
        raise BackupError("Somebody's vault is locked.")

    monkeypatch.setattr(saving, "sync", failing)
    monkeypatch.setattr(saving, "time", SimpleNamespace(time=lambda: time.time() + days * 86400, strptime=time.strptime))
    signer = repository.secrets.signer
    assert signer is not None
    repository.bucket.put(*signed.tombstone("0" * 32, "2099-01-01T00:00:00Z", signer))
    with pytest.raises(BackupError, match="locked"):
        backup_command._sync(droplet.operated, argparse.Namespace(anyway=False))
    assert len(droplet.versions(names.DATABASE_KEYS)) == left
    assert len(droplet.objects(names.SNAPSHOTS)) == 2, "no snapshot goes while backups fail"


def test_a_restore_goes_on_while_a_prune_writes_packs_anew(droplet: Saved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    droplet.kit()
    (user,) = droplet.new_users()
    droplet.sync()
    rewrite, done = Rewriting.rewrite, []

    def rewriting(*arguments: Any) -> None:
        done.append(droplet.restore(user=user, target=str(tmp_path)))
        rewrite(*arguments)

    monkeypatch.setattr(operations_droplet, "_PRUNE_SECONDS", 0.2)
    monkeypatch.setattr(Rewriting, "rewrite", rewriting)
    saving.prune(droplet.operated)
    assert [told["files"] for told in done] == [2]


def test_records_are_of_use_and_name_nobody(droplet: Saved) -> None:
    droplet.kit()
    users = droplet.new_users(2)
    droplet.sync()
    droplet.verify()
    droplet.restore(user=users[0])
    droplet.restore(user=users[0], path="clips/2026_0_laughter.wav", replace=True)
    checking.drill(droplet.operated)
    saving.prune(droplet.operated)
    droplet.erase(users[1])
    with pytest.raises(RefusedError):
        droplet.restore(user=users[1])
    droplet.sync()
    everything = "".join(path.read_text() for path in droplet.operated.records.iterdir())
    for needle in (*users, "2026_0", "laughter.wav", droplet.storage.application_key):
        assert needle not in everything
    for kind in ("backup", "verify", "restore", "drill", "prune"):
        records = droplet.records(kind)
        assert records, kind
        assert all(isinstance(record["ok"], bool) and record["time"].endswith("Z") and "seconds" in record for record in records), kind
    assert [record["ok"] for record in droplet.records("restore")] == [True, True, False]
    assert all(record["ok"] for record in droplet.records("backup"))
    last = droplet.records("backup")[-1]
    assert (last["users"], last["files"], last["problems"]) == (1, 2, 0)
    mode = (droplet.operated.records / "backup.jsonl").stat().st_mode & 0o777
    assert mode == 0o640


def test_records_that_have_grown_long_lose_their_beginning(droplet: Saved) -> None:
    from gigglekit import records

    folder = droplet.operated.records
    folder.mkdir()
    (folder / "backup.jsonl").write_text("".join(json.dumps({"number": number}) + "\n" for number in range(2000)))
    records.append(folder, "backup", {"number": 2000})
    lines = droplet.records("backup")
    assert (len(lines), lines[-1]["number"], lines[0]["number"]) == (1000, 2000, 1001)


def test_a_long_record_is_not_read_again_for_each_line_of_it(droplet: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    from gigglekit import records

    folder = droplet.operated.records
    folder.mkdir()
    path, read = folder / "converge.jsonl", []
    path.write_text("".join(json.dumps({"number": number, "diff": "x" * 1000}) + "\n" for number in range(1500)))
    path.chmod(0o640)
    whole = type(path).read_bytes
    monkeypatch.setattr(type(path), "read_bytes", lambda self: read.append(self) or whole(self))
    for number in range(1500, 2300):
        records.append(folder, "converge", {"number": number, "diff": "x" * 1000})
    monkeypatch.undo()
    assert 1 <= len(read) <= 5
    numbers = [line["number"] for line in droplet.records("converge")]
    assert numbers == list(range(numbers[0], 2300))
    assert 1000 <= len(numbers) <= 1300
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_drill_without_a_database_reads_and_decrypts(droplet: Saved) -> None:
    droplet.kit()
    droplet.new_users(2)
    droplet.sync()
    done = checking.drill(droplet.operated)
    assert (done["problems"], done["database"], done["files"]) == ([], None, 4)
    assert done["packs"] >= 1
    (pack, *_) = droplet.objects(names.DATA)
    bucket = droplet.bucket()
    bucket.erase(pack)
    done = checking.drill(droplet.operated)
    assert any(pack in problem for problem in done["problems"])
    assert droplet.records("drill")[-1]["ok"] is False
