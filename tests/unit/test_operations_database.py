"""The app's database in the backup: clips that only its rows tell whose they are, drills, and dumps from before an erasure."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from gigglekit.backup import database as backup_database
from gigglekit.backup import names, postgresql, signed
from gigglekit.backup import verify as backup_verify
from gigglekit.backup.errors import RefusedError
from gigglekit.operations import checking, erasing, restoring, saving
from gigglekit.vault.errors import BusyError, VaultError
from gigglekit.vault.rows import Database

from tests.unit import postgres, saved_droplet
from tests.unit.b2 import Storage
from tests.unit.postgres import Cluster
from tests.unit.saved_droplet import Saved

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def url(cluster: Cluster) -> str:
    name = cluster.app()
    return cluster.url(name, name)


@pytest.fixture
def droplet(b2: Storage, url: str) -> Iterator[Saved]:
    with saved_droplet.saved(b2) as made:
        made.use_database(url)
        yield made


def register(droplet: Saved, url: str, user: str, *paths: str) -> None:
    """Have the rows of a user that the app would have, one for each clip."""
    clips = paths or tuple(str(path) for path in droplet.path("clips", user).iterdir())
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", (user, f"{user}@example.test"))
        (segment,) = connection.execute(
            "INSERT INTO public.audio_segments (user_id, date, start_time, end_time, file_path) VALUES (%s, '2026-11-01',"
            " '2026-11-01 00:00Z', '2026-11-01 02:00Z', 'gone') RETURNING id",
            (user,),
        ).fetchone() or (None,)
        for path in clips:
            connection.execute(
                "INSERT INTO public.laughter_detections (user_id, audio_segment_id, timestamp, probability, clip_path)"
                " VALUES (%s, %s, '2026-11-01 01:00Z', 0.9, %s)",
                (user, segment, path),
            )


def counts(url: str, user: str) -> int:
    return sum(Database(url).count(user).values())


def test_a_drill_loads_the_dump_and_compares_rows_with_files(droplet: Saved, url: str, a_folder: Path) -> None:
    droplet.kit()
    users = droplet.new_users(2)
    for user in users:
        register(droplet, url, user)
    done = droplet.sync()
    assert done["problems"] == []
    told = checking.drill(droplet.operated, scratch=a_folder)
    assert told["problems"] == []
    assert (told["database"]["rows"], told["database"]["files"]) == (4, 4)
    assert (told["database"]["rows_without_file"], told["database"]["files_without_row"]) == (0, 0)
    assert told["database"]["tables"] >= 5
    assert list(a_folder.iterdir()) == []
    # A clip is lost, and its row is not.
    droplet.path("clips", users[0], "2026_0_laughter.wav").unlink()
    droplet.sync()
    told = checking.drill(droplet.operated, scratch=a_folder)
    assert told["database"]["rows_without_file"] == 1
    assert any("1 of 4 rows" in problem for problem in told["problems"])
    assert [record["ok"] for record in droplet.records("drill")] == [True, False]
    assert not any(user in str(droplet.records("drill")) for user in users)


def test_dumps_of_before_an_erasure_open_with_the_kit_alone_and_without_the_users_rows(
    droplet: Saved, url: str, cluster: Cluster, a_folder: Path
) -> None:
    kit = droplet.kit()
    erased, kept = droplet.new_users(2)
    for user in (erased, kept):
        register(droplet, url, user)
    before = counts(url, kept)
    first = droplet.sync()["snapshot"]
    target = cluster.url(cluster.empty())
    done = restoring.restore_database(droplet.operated, url=target)
    assert (done["snapshot"], done["forgotten"], counts(target, erased) > 0) == (first, 0, True), "the control: it opens until then"
    outcome = droplet.erase(erased, Database(url))
    assert outcome.pending == ""
    copies = {copy["copy"]: copy for copy in outcome.copies}
    assert "rows are in dumps from before" in copies["database dumps"]["method"]
    assert counts(url, erased) == 0
    empty = cluster.url(cluster.empty())
    with pytest.raises(RefusedError, match=r"kit=/root/kit\.txt"):
        restoring.restore_database(droplet.operated, url=empty)
    done = restoring.restore_database(droplet.operated, url=empty, kit_text=kit)
    assert done["forgotten"] == 1
    assert (counts(empty, erased), counts(empty, kept)) == (0, before)
    # A drill makes one that opens here, as the next backup would, and tells if it cannot.
    droplet.use_database("postgresql://app:wrong@127.0.0.1:1/app")
    told = checking.drill(droplet.operated, scratch=a_folder)
    assert any("has no dump of the database" in problem for problem in told["problems"])
    droplet.use_database(url)
    told = checking.drill(droplet.operated, scratch=a_folder)
    assert (told["problems"], told["snapshot"] > first) == ([], True)
    assert counts(empty, kept) == before
    again = cluster.url(cluster.empty())
    assert restoring.restore_database(droplet.operated, url=again)["forgotten"] == 0
    assert counts(again, kept) == before
    # The app's own is not emptied by mistake.
    with pytest.raises(Exception, match="clean=True"):
        restoring.restore_database(droplet.operated)
    assert restoring.restore_database(droplet.operated, clean=True)["snapshot"]
    assert counts(url, kept) == before


def test_with_an_erasure_pending_the_kit_leaves_the_users_rows_out_here(droplet: Saved, url: str, cluster: Cluster) -> None:
    kit = droplet.kit()
    (erased,) = droplet.new_users()
    register(droplet, url, erased)
    droplet.sync()
    droplet.storage.revoke()
    assert droplet.erase(erased, Database(url)).pending
    droplet.storage.proxy.set_keys({droplet.storage.key_id: {"secret": droplet.storage.application_key, "capabilities": "all"}})
    empty = cluster.url(cluster.empty())
    assert restoring.restore_database(droplet.operated, url=empty, kit_text=kit)["forgotten"] == 1
    assert counts(empty, erased) == 0


@pytest.mark.parametrize("by", ["this droplet", "another one"])
def test_who_is_erased_while_a_dump_is_on_its_way_does_not_come_back_with_it(
    droplet: Saved, url: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The rows are deleted before the dump's tables are closed to others, and it has them all."""
    droplet.kit()
    erased, kept = droplet.new_users(2)
    for user in (erased, kept):
        register(droplet, url, user)
    droplet.sync()
    before, load = counts(url, kept), backup_database.restore

    def loading(*arguments: Any, **options: Any) -> Any:
        if by == "this droplet":
            assert droplet.erase(erased, Database(url)).pending == ""
        else:
            signer = droplet.operated.repository().secrets.signer
            assert signer is not None
            droplet.bucket().put(*signed.tombstone(droplet.vault_id(erased), "2026-11-30T00:00:00Z", signer))
            Database(url).delete(erased)
        assert counts(url, erased) == 0
        return load(*arguments, **options)

    monkeypatch.setattr(backup_database, "restore", loading)
    done = restoring.restore_database(droplet.operated, clean=True)
    assert (counts(url, erased), counts(url, kept), done["forgotten"]) == (0, before, 1)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A newer PostgreSQL's programs, elsewhere than where the system keeps its own; what is called is noted beside them."""
    folder = tmp_path / "newer"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        path = folder / name
        path.write_text(
            f'#!/bin/sh\necho {name} >> "{folder}/called"\n[ "$1" != --version ] || {{ echo "{name} (PostgreSQL) 99.1"; exit; }}\n'
            f'exec {postgresql.program(name)} "$@"\n'
        )
        path.chmod(0o755)
    return folder


def test_a_dump_of_a_pg_dump_that_was_chosen_is_loaded_by_the_programs_beside_it(
    droplet: Saved, url: str, a_folder: Path, programs: Path
) -> None:
    """The system's own may be too old for what it has written."""
    droplet.kit()
    register(droplet, url, *droplet.new_users())
    droplet.configure(database=True, schemas=["public", "auth"], pg_dump=str(programs / "pg_dump"))
    droplet.sync()

    def called() -> set[str]:
        path = programs / "called"
        found = set(path.read_text().split())
        path.write_text("")
        return found

    assert called() == {"pg_dump"}
    restoring.restore_database(droplet.operated, clean=True)
    assert called() == {"pg_restore", "psql"}
    assert checking.drill(droplet.operated, scratch=a_folder)["problems"] == []
    assert called() == {"pg_restore", "psql"}
    # The system's own are new enough for everything.
    for name in ("pg_dump", "pg_restore"):
        text = (programs / name).read_text()
        (programs / name).write_text(text.replace("99.1", f"{postgresql.version(postgresql.program(name))}.1"))
    called()
    restoring.restore_database(droplet.operated, clean=True)
    assert "psql" not in called()


@pytest.mark.parametrize("page", ["", " \n"])
def test_an_empty_file_is_no_recovery_kit(droplet: Saved, url: str, page: str) -> None:
    droplet.kit()
    droplet.sync()
    with pytest.raises(RefusedError, match="not a recovery kit that can be used"):
        restoring.restore_database(droplet.operated, clean=True, kit_text=page)


def test_a_rotation_keeps_dumps_that_this_droplet_opens_and_ends_the_others(droplet: Saved, url: str, cluster: Cluster) -> None:
    droplet.kit()
    erased, kept = droplet.new_users(2)
    register(droplet, url, kept)
    first = droplet.sync()["snapshot"]
    droplet.erase(erased, Database(url))
    second = droplet.sync()["snapshot"]
    assert len(droplet.objects(names.DATABASE_KEYS)) == 2
    kit = droplet.kit(rotate=True)
    assert len(droplet.versions(names.DATABASE_KEYS)) == 1
    with pytest.raises(RefusedError, match="come to its end"):
        restoring.restore_database(droplet.operated, snapshot=first, url=cluster.url(cluster.empty()), kit_text=kit)
    target = cluster.url(cluster.empty())
    assert restoring.restore_database(droplet.operated, snapshot=second, url=target, kit_text=kit)["snapshot"] == second
    assert counts(target, kept) > 0
    parsed = restoring.read_kit(kit)
    (name,) = droplet.objects(names.DATABASE_KEYS)
    assert signed.unseal_key(name, droplet.bucket().get(name), parsed.key, parsed.signer)


def test_legacy_clips_are_saved_under_whoever_their_row_names_restored_and_erased(droplet: Saved, url: str, b2: Storage) -> None:
    kit = droplet.kit()
    (user,) = droplet.new_users()
    clips = droplet.disk.place / "clips"
    only = "6f1c1b1e-1111-4222-8333-944445555666"
    contents = {name: os.urandom(2000) for name in ("old_one.wav", "old_two.wav", "nobody.wav")}
    for name, content in contents.items():
        (clips / name).write_bytes(content)
    register(droplet, url, user, f"{clips}/old_one.wav")
    register(droplet, url, only, f"{clips}/old_two.wav")
    done = droplet.sync()
    assert (done["users"], done["files"]) == (2, 4)
    assert done["problems"] == []
    (note,) = done["notes"]
    assert "1 clips" in note
    assert "nobody.wav" not in note + str(droplet.records("backup"))
    assert droplet.records("backup")[-1]["ok"] is True
    (clips / "nobody.wav").unlink()
    (clips / "old_two.wav").unlink()
    assert droplet.restore(snapshot=done["snapshot"])["files"] == 1
    assert (clips / "old_two.wav").read_bytes() == contents["old_two.wav"]
    owner = droplet.places.owner()
    assert (clips / "old_two.wav").stat().st_uid == owner.uid
    assert droplet.sync()["problems"] == []
    with saved_droplet.saved(b2) as new:
        assert new.restore(kit_text=kit)["problems"] == []
        there = {path.name: path.read_bytes() for path in (new.disk.place / "clips").iterdir() if path.is_file()}
        assert there == {name: contents[name] for name in ("old_one.wav", "old_two.wav")}
    packs = len(droplet.versions(names.DATA))
    assert droplet.erase(only, Database(url)).pending == ""
    assert not (clips / "old_two.wav").exists()
    assert (clips / "old_one.wav").exists()
    assert len(droplet.versions(names.DATA)) == packs - 1
    assert droplet.sealed(only) not in droplet.versions()


def test_with_the_database_down_clips_are_saved_and_that_is_told(droplet: Saved, url: str) -> None:
    droplet.kit()
    droplet.new_users()
    (droplet.disk.place / "clips" / "legacy.wav").write_bytes(b"legacy")
    secret = "s3cret-of-the-database"
    droplet.use_database(f"postgresql://app:{secret}@127.0.0.1:1/app")
    done = droplet.sync()
    assert done["files"] == 2
    assert len(done["problems"]) == 2
    assert any("the database was not" in problem for problem in done["problems"])
    assert secret not in str(done) + str(droplet.records("backup"))
    assert droplet.records("backup")[-1]["ok"] is False
    told = checking.drill(droplet.operated)
    assert any("no dump of the database" in problem for problem in told["problems"])
    with pytest.raises(RefusedError, match="dump"):
        restoring.restore_database(droplet.operated, url=url)


@pytest.mark.parametrize("error", [BusyError("Something else is at work."), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_whatever_keeps_the_database_from_being_dumped_keeps_no_clip_out_of_the_backup(
    droplet: Saved, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A converge or an erasure may hold the vault for long, and a new process may find no memory."""
    droplet.kit()
    (user,) = droplet.new_users()

    def fails(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        if isinstance(error, BusyError):
            patched.setattr(type(droplet.operated), "dump_key", fails)
        else:
            patched.setattr(backup_database, "dump", fails)
        done = droplet.sync()
    assert done["snapshot"]
    (problem,) = done["problems"]
    assert problem.startswith("The clips were saved, and the database was not: ")
    assert str(error.args[-1]) in problem
    assert droplet.restore(user=user)["same"] == 2


@pytest.mark.parametrize("damage", ["a folder", "no text"])
def test_an_address_that_cannot_be_read_is_not_taken_for_no_database(droplet: Saved, damage: str) -> None:
    droplet.kit()
    droplet.new_users()
    path = droplet.operated.environment
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b'DATABASE_URL="\xff"\n')
    done = droplet.sync()
    assert done["snapshot"]
    (problem,) = done["problems"]
    assert problem.startswith("The clips were saved, and the database was not: ")
    assert f"{path} cannot be read" in problem
    with pytest.raises(VaultError, match="cannot be read"):
        checking.drill(droplet.operated)


def test_who_comes_and_who_is_erased_during_a_drill_make_no_problem_of_it(
    droplet: Saved, url: str, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody signs up just before it saves, and somebody is erased when it has verified; nobody prunes what it loads."""
    droplet.kit()
    erased, kept = droplet.new_users(2)
    for user in (erased, kept):
        register(droplet, url, user)
    droplet.sync()
    # So that it saves first.
    droplet.erase(droplet.new_users()[0], Database(url))
    sync, verify, load = saving.sync, backup_verify.verify, backup_database.restore
    done = []

    def syncing(*arguments: Any, **options: Any) -> Any:
        done.append("sync")
        if len(done) == 1:
            register(droplet, url, *droplet.new_users())
        return sync(*arguments, **options)

    def verifying(*arguments: Any, **options: Any) -> Any:
        found = verify(*arguments, **options)
        done.append("verify")
        # It holds the lock of the backup, so the bucket hears of it later.
        monkeypatch.setattr(erasing, "_LOCK_SECONDS", 0.0)
        assert droplet.erase(erased, Database(url)).pending
        return found

    def loading(*arguments: Any, **options: Any) -> Any:
        with droplet.operated.alone() as is_alone:
            done.append(f"load, pruned: {is_alone}")
        return load(*arguments, **options)

    monkeypatch.setattr(saving, "sync", syncing)
    monkeypatch.setattr(backup_verify, "verify", verifying)
    monkeypatch.setattr(backup_database, "restore", loading)
    told = checking.drill(droplet.operated, scratch=a_folder)
    assert told["problems"] == []
    assert told["database"]["rows_without_file"] == 0
    assert done == ["sync", "verify", "sync", "load, pruned: False"]
    restoring.restore_database(droplet.operated, clean=True)
    assert done[-2:] == ["load, pruned: False"] * 2


def test_dumps_end_and_the_newest_stays(droplet: Saved, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    droplet.kit()
    droplet.new_users()
    droplet.sync()
    droplet.sync()
    assert len(droplet.objects(names.DATABASE_KEYS)) == 2
    monkeypatch.setattr(saving, "time", SimpleNamespace(time=lambda: time.time() + 31 * 86400))
    saving.prune(droplet.operated)
    assert len(droplet.versions(names.DATABASE_KEYS)) == 1
    assert droplet.verify()["problems"] == []
    assert postgres.rows(url, "SELECT 1") == [(1,)]
