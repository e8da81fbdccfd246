"""The backup through a real salt-call: what an operator types, what comes back, and what stays behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit import postgres, saved_droplet
from tests.unit.b2 import Storage, b2, b2_server  # noqa: F401 (fixtures)
from tests.unit.saved_droplet import Saved

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or Path("/etc/giggles").exists(), reason="looks at this machine as a bare one, which a droplet is not"
)

FUNCTIONS = ("sync", "restore_database", "drill", "recovery_kit")


@pytest.fixture(autouse=True)
def answered(minion: Minion, right: dict[str, Any]) -> None:
    minion.answer(right)


@pytest.fixture
def droplet(b2: Storage, minion: Minion, tmp_path: Path) -> Iterator[Saved]:  # noqa: F811 (a fixture)
    """A droplet whose places are elsewhere, and a minion that knows where."""
    with saved_droplet.saved(b2) as made:
        modules = tmp_path / "modules"
        (modules / "_modules").mkdir(parents=True)
        for kind in ("_grains", "_states", "_renderers"):
            if (REPOSITORY / kind).is_dir():
                shutil.copytree(REPOSITORY / kind, modules / kind)
        text = (REPOSITORY / "_modules/giggles.py").read_text()
        places, operated = made.places, made.operated
        paths = {name: str(getattr(places, name)) for name in ("uploads", "keys", "ledger", "configuration", "lock", "memory")}
        others = {name: str(getattr(operated, name)) for name in ("settings_path", "folder", "records", "environment", "lock")}
        text += f"""

def _places():
    from pathlib import Path

    from gigglekit.vault.places import Places

    return Places(user="nobody", group="nogroup", **{{name: Path(path) for name, path in {paths!r}.items()}})


def _database():
    return None


def _droplet():
    from pathlib import Path

    from gigglekit.operations.droplet import Droplet

    return Droplet(_places(), **{{name: Path(path) for name, path in {others!r}.items()}})
"""
        (modules / "_modules/giggles.py").write_text(text)
        minion.configure(module_dirs=[str(modules)])
        yield made


def answer(done: Any) -> Any:
    return json.loads(done.stdout)["local"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_without_a_bucket_every_function_says_how_to_get_one_in_one_paragraph(minion: Minion, function: str) -> None:
    done = minion.call("--log-level=error", f"giggles.{function}")
    told = (done.stdout + done.stderr).strip()
    assert done.returncode == 1, told
    assert "No bucket is configured" in told
    assert "\n\n" not in told
    assert "Traceback" not in told
    assert "CLI Example" not in told


def test_a_day_with_the_backup(minion: Minion, droplet: Saved) -> None:
    """All of it, as it is typed."""
    done = minion.call("--out=json", "giggles.sync")
    assert (done.returncode, "salt-call giggles.recovery_kit" in done.stdout + done.stderr) == (1, True)
    kit = minion.call("giggles.recovery_kit")
    assert kit.returncode == 0, kit.stderr
    assert "giggles-salt recovery kit 1\n" in kit.stdout
    (line,) = [line.strip() for line in kit.stdout.splitlines() if line.strip().startswith("key: ")]
    (user,) = droplet.new_users()
    clips = droplet.clips(user)
    synced = minion.call("--out=json", "--log-level=debug", "giggles.sync")
    assert synced.returncode == 0, synced.stderr[-2000:]
    assert (answer(synced)["users"], answer(synced)["files"], answer(synced)["problems"]) == (1, 2, [])
    (snapshot,) = answer(minion.call("--out=json", "giggles.snapshots"))
    assert snapshot["files"] == 2
    verified = minion.call("--out=json", "giggles.verify", "read_data=100%")
    assert (verified.returncode, answer(verified)["read_packs"]) == (0, 1)
    assert answer(minion.call("--out=json", "giggles.verify"))["read_packs"] == 0

    shutil.rmtree(droplet.disk.place / "vaults" / droplet.vault_id(user) / "clips")
    restored = minion.call("--out=json", "giggles.restore", f"user_id={user}", f"snapshot={snapshot['time'][:10]}")
    assert restored.returncode == 0, restored.stdout
    assert answer(restored)["files"] == 2
    assert droplet.clips(user) == clips
    # With the kit, from a file.
    page = droplet.folder / "kit.txt"
    page.write_text(kit.stdout)
    looked = minion.call("--out=json", "giggles.restore", f"kit={page}", f"target={droplet.folder / 'look'}", "path=clips/2026_0")
    assert answer(looked)["files"] == 1

    told = json.loads(minion.call("--out=json", "giggles.drill").stdout)["local"]
    assert told["problems"] == []
    assert answer(minion.call("--out=json", "giggles.prune"))["kept"] == 1

    # Problems are the exit code, and what was asked for is told all the same.
    (pack,) = droplet.objects("data/")
    droplet.bucket().erase(pack)
    spoiled = minion.call("--out=json", "giggles.verify")
    assert (spoiled.returncode, pack in str(answer(spoiled)["problems"])) == (1, True)

    # Nothing of the kit, and no secret, stays anywhere.
    everything = minion.written() + synced.stdout + synced.stderr + "".join(p.read_text() for p in droplet.operated.records.iterdir())
    for secret in (line.removeprefix("key: "), *line.removeprefix("key: ").split("-")[:4], droplet.storage.application_key):
        assert secret not in everything
    assert user not in "".join(path.read_text() for path in droplet.operated.records.iterdir())
    assert "giggles.sync" in everything, "a look that finds nothing whatever there is proves nothing"


def test_an_erasure_with_the_bucket_down_is_pending_and_the_next_backup_completes_it(minion: Minion, droplet: Saved) -> None:
    droplet.kit()
    (user,) = droplet.new_users()
    droplet.sync()
    droplet.storage.revoke()
    done = minion.call("--out=json", "giggles.shred", f"user_id={user}")
    told = answer(done)
    assert told["erased"] is False
    assert "application key" in told["pending"]
    assert done.returncode == 1
    droplet.storage.proxy.set_keys({droplet.storage.key_id: {"secret": droplet.storage.application_key, "capabilities": "all"}})
    synced = answer(minion.call("--out=json", "giggles.sync"))
    assert (synced["erasures"], synced["problems"]) == (1, [])
    assert [receipt["number"] for receipt in answer(minion.call("--out=json", "giggles.receipts"))] == [1, 2]


@pytest.mark.parametrize("kit", ["/nonexistent/kit.txt", "/bin/true"])
def test_what_is_no_kit_is_refused_in_one_paragraph(minion: Minion, droplet: Saved, kit: str) -> None:
    done = minion.call("--log-level=error", "giggles.restore", f"kit={kit}")
    told = (done.stdout + done.stderr).strip()
    assert done.returncode == 1
    assert "kit" in told
    assert "\n\n" not in told
    assert "Traceback" not in told


def test_wrong_arguments_are_refused_in_one_paragraph(minion: Minion, droplet: Saved) -> None:
    droplet.kit()
    droplet.new_users()
    droplet.sync()
    for function, argument in (
        ("verify", "read_data=[1]"),
        ("restore", "user_id=17"),
        ("restore", "snapshot=17"),
        ("restore", "target=17"),
        ("restore", "target=relative/folder"),
        ("restore", "kit=17"),
        ("restore_database", "snapshot=17"),
    ):
        done = minion.call("--log-level=error", f"giggles.{function}", argument)
        told = (done.stdout + done.stderr).strip()
        assert done.returncode == 1, told
        assert "\n\n" not in told, told
        assert "Traceback" not in told, told
        assert "CLI Example" not in told
    assert answer(minion.call("--out=json", "giggles.restore", "path=17"))["files"] == 0


@pytest.mark.parametrize("said", ["n", "fasle", "", "[False]"])
def test_what_is_neither_true_nor_false_chooses_nothing(minion: Minion, droplet: Saved, said: str) -> None:
    """For Python all of them but the second last are true, and to empty tables or to end a kit is nothing to be misread."""
    droplet.kit()
    (user,) = droplet.new_users()
    snapshot = droplet.sync()["snapshot"]
    for function, *arguments in (
        ("recovery_kit", f"rotate={said}"),
        ("restore_database", f"clean={said}"),
        ("restore", f"replace={said}"),
        ("sync", f"anyway={said}"),
        ("shred", f"user_id={user}", f"dry_run={said}"),
    ):
        done = minion.call("--log-level=error", f"giggles.{function}", *arguments)
        told = (done.stdout + done.stderr).strip()
        assert done.returncode == 1, told
        assert f"{arguments[-1].split('=')[0]} is True or False" in told
        assert "\n\n" not in told, told
        assert "Traceback" not in told, told
    assert [one["snapshot"] for one in answer(minion.call("--out=json", "giggles.snapshots"))] == [snapshot]
    assert droplet.clips(user)
    assert answer(minion.call("--out=json", "giggles.shred", f"user_id={user}", "dry_run=True"))["dry_run"] is True


def test_the_database_is_restored_into_the_one_that_the_pillar_names(minion: Minion, droplet: Saved, tmp_path: Path) -> None:
    """A new project's address stands there first, and in the app's .env only when the app is started with it."""
    with postgres.cluster() as cluster:
        old, new = cluster.app(), cluster.app()
        postgres.fill(cluster.url(old), users=3)
        before = postgres.content(cluster.url(old))
        droplet.kit()
        droplet.use_database(cluster.url(old, old))
        assert droplet.sync()["problems"] == []
        module = tmp_path / "modules/_modules/giggles.py"
        pillar = f"from gigglekit.vault.rows import Database\n\n    return Database({cluster.url(new, new)!r})"
        module.write_text(module.read_text().replace("def _database():\n    return None", f"def _database():\n    {pillar}"))
        done = minion.call("--out=json", "giggles.restore_database")
        assert done.returncode == 0, done.stdout + done.stderr
        assert answer(done)["tables"]["public.users"] == 3
        assert postgres.rows(cluster.url(new), "SELECT count(*) FROM public.users") == [(3,)]
        assert postgres.content(cluster.url(old)) == before


def test_the_grains_tell_result_and_age(minion: Minion, droplet: Saved, tmp_path: Path) -> None:
    droplet.kit()
    droplet.new_users()
    droplet.sync()
    grain = tmp_path / "modules/_grains/giggles.py"
    grain.write_text(grain.read_text().replace("/var/lib/giggles/records", str(droplet.operated.records)))
    told = answer(minion.call("--out=json", "grains.get", "giggles"))
    assert (told["backup"]["ok"], told["backup"]["files"], told["drill"]["ok"]) == (True, 2, None)
    assert 0 <= told["backup"]["age_s"] < 3600
    assert yaml.safe_load((minion.folder / "minion").read_text())["grains"] == {"giggles_environment": "production"}
