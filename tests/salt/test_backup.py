"""The backup's states through a real salt-call, against a bucket that is as strict as B2: what is asked, when, and what is said."""

from __future__ import annotations

import json
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.backup import settings as backup_settings
from gigglekit.backup.choices import settings_file
from gigglekit.operations.droplet import Droplet
from gigglekit.settings.check import check, merged
from gigglekit.settings.machine import Machine
from gigglekit.settings.schema import defaults

from tests.salt.conftest import REPOSITORY, Minion
from tests.unit.b2 import REGION, Storage, b2, b2_server  # noqa: F401 (fixtures)

PLANTED = {"key_id": "0031a2b3c4d5e6f0000000001", "application_key": "K003planted0application0key0abc"}
BUCKET = {"bucket": "giggles-backup", "endpoint": "https://s3.eu-central-003.backblazeb2.com", "region": "eu-central-003"}
NOTHING_THERE = pytest.mark.skipif(Path("/etc/giggles").exists(), reason="looks at this machine as a bare one, which a droplet is not")


class Backup:
    """A minion with settings of a backup, and what its states return."""

    def __init__(self, minion: Minion, folder: Path, storage: Storage) -> None:
        self.minion, self.storage = minion, storage
        self.settings, self.notes = folder / "backup.json", folder / "notes" / "checked.json"
        self.use((storage.key_id, storage.application_key))

    def use(self, key: tuple[str, str], **changes: Any) -> None:
        """Write the settings with another key, or otherwise changed."""
        chosen = defaults()["backup"] | {"bucket": self.storage.bucket, "endpoint": self.storage.endpoint, "region": REGION} | changes
        self.settings.touch(mode=0o600)
        self.settings.write_text(settings_file(chosen, {"key_id": key[0], "application_key": key[1]}))

    def state(self, function: str, *arguments: str) -> dict[str, Any]:
        """Run one state and return what it returned; no secret is in what anybody could read."""
        done = self.minion.call(
            "--out=json", "--log-level=error", "state.single", f"backup.{function}", "name=bucket", f"settings={self.settings}",
            f"notes={self.notes}", *arguments,
        )  # fmt: skip
        returned = json.loads(done.stdout)["local"]
        assert isinstance(returned, dict), done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        for secret in (self.storage.application_key, json.loads(self.settings.read_text())["application_key"]):
            assert secret not in done.stdout + done.stderr + self.minion.written()
        (one,) = returned.values()
        return dict(one)

    def requests(self) -> int:
        """How often the bucket was asked since the last look."""
        count = len(self.storage.proxy.requests())
        self.storage.proxy.clear_requests()
        return count

    def age(self, seconds: float) -> None:
        """Let what was noted be so old."""
        notes = json.loads(self.notes.read_text())
        for entry in notes.values():
            entry["time"] = time.time() - seconds
        self.notes.write_text(json.dumps(notes))


@pytest.fixture
def backup(minion: Minion, right: dict[str, Any], tmp_path: Path, b2: Storage) -> Backup:  # noqa: F811 (pytest's way)
    minion.answer(right)
    return Backup(minion, tmp_path, b2)


@pytest.mark.parametrize("function", ["usable", "bucket_kept"])
def test_the_bucket_is_asked_once_a_day_and_not_by_a_run_with_nothing_to_do(backup: Backup, function: str) -> None:
    first = backup.state(function)
    assert first["result"] is True, first["comment"]
    assert first["changes"]
    assert backup.requests() > 0
    again = backup.state(function)
    assert (again["result"], again["changes"]) == (True, {})
    announced = backup.state(function, "test=True")
    assert (announced["result"], announced["changes"]) == (True, {})
    assert backup.requests() == 0
    backup.age(25 * 3600)
    later = backup.state(function)
    assert (later["result"], later["changes"]) == (True, {})
    assert backup.requests() > 0
    assert stat.S_IMODE(backup.notes.stat().st_mode) == 0o600


def test_a_probe_leaves_nothing_in_the_bucket(backup: Backup) -> None:
    assert backup.state("usable")["result"] is True
    found = backup.storage.bare_client().list_object_versions(Bucket=backup.storage.bucket)
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")


def test_that_a_bucket_does_not_compare_is_told_and_known_to_the_backup(backup: Backup) -> None:
    droplet = Droplet(settings_path=backup.settings, folder=backup.notes.parent)
    assert droplet.bucket().compares
    backup.storage.proxy.set_faults([{"kind": "unchecked", "method": "PUT"}])
    told = backup.state("usable")
    assert told["result"] is True
    assert "MD5" in told["comment"]
    assert not droplet.bucket().compares
    # Once is enough: what was seen then may be seen again.
    backup.storage.proxy.clear_faults()
    backup.age(25 * 3600)
    assert "MD5" not in backup.state("usable")["comment"]
    assert not droplet.bucket().compares


@pytest.mark.parametrize("right", ["listFiles", "readFiles", "writeFiles", "deleteFiles", "readBucketLifecycleRules"])
def test_a_right_that_is_missing_is_named_and_asked_for_again(backup: Backup, right: str) -> None:
    least = {"listBuckets", "listFiles", "readFiles", "writeFiles", "deleteFiles", "readBucketRetentions", "readBucketLifecycleRules"}
    backup.use(backup.storage.key(*least - {right}))
    told = backup.state("usable")
    assert told["result"] is False
    assert told["changes"] == {}
    assert right in told["comment"]
    assert "docs/BACKUP_AND_RESTORE.md" in told["comment"]
    backup.use(backup.storage.key(*least))
    assert backup.state("usable")["result"] is True


def test_the_rights_that_the_docs_list_are_enough_and_each_is_needed_by_somebody(backup: Backup) -> None:
    text = (REPOSITORY / "docs" / "BACKUP_AND_RESTORE.md").read_text(encoding="utf-8")
    listed = re.search(r"b2 key create [^\n]*\\\n\s+(\S+)\n", text)
    assert listed is not None
    backup.use(backup.storage.key(*listed[1].split(","), bucket=backup.storage.bucket))
    for function in ("usable", "bucket_kept"):
        told = backup.state(function)
        assert told["result"] is True, told["comment"]


def test_other_settings_are_tried_at_once_and_refused_ones_fail(backup: Backup) -> None:
    assert backup.state("usable")["result"] is True
    backup.use((backup.storage.key_id, "K003planted0application0key0abc"))
    told = backup.state("usable")
    assert told["result"] is False
    backup.requests()
    assert backup.state("usable")["result"] is False
    assert backup.requests() > 0, "a refusal counts for nothing, so the next run asks again"


def test_a_bucket_that_never_answered_fails_and_one_that_did_yesterday_is_told(backup: Backup) -> None:
    answering = backup.storage.endpoint
    key = (backup.storage.key_id, backup.storage.application_key)
    backup.use(key, endpoint="http://127.0.0.1:9")
    assert backup.state("usable")["result"] is False
    assert backup.state("bucket_kept")["result"] is False
    # What was noted by a look at this very file, when it still answered.
    backup.use(key, endpoint=answering)
    assert backup.state("usable")["result"] is True
    assert backup.state("bucket_kept")["result"] is True
    backup.age(25 * 3600)
    noted = json.loads(backup.notes.read_text())
    backup.use(key, endpoint="http://127.0.0.1:9")
    from gigglekit.backup import checked

    for entry in noted.values():
        entry["settings"] = checked._mark(backup.settings)
    backup.notes.write_text(json.dumps(noted))
    for function in ("usable", "bucket_kept"):
        told = backup.state(function)
        assert (told["result"], told["changes"]) == (True, {})
        assert "UTC" in told["comment"]
    # It is no success either: the next run asks again.
    assert json.loads(backup.notes.read_text()) == noted


def test_without_having_tried_test_mode_announces_and_writes_nothing(backup: Backup) -> None:
    told = backup.state("usable", "test=True")
    assert told["result"] is None
    assert backup.requests() == 0
    kept = backup.state("bucket_kept", "test=True")
    assert kept["result"] is None
    assert kept["changes"]
    assert all(entry["method"] == "GET" for entry in backup.storage.proxy.requests())
    assert not backup.notes.exists()


def test_a_bucket_whose_settings_somebody_changed_is_put_right_and_that_is_named(backup: Backup) -> None:
    assert backup.state("bucket_kept")["changes"]
    backup.storage.client().delete_bucket_lifecycle(Bucket=backup.storage.bucket)
    backup.age(25 * 3600)
    announced = backup.state("bucket_kept", "test=True")
    assert announced["result"] is None
    done = backup.state("bucket_kept")
    assert done["result"] is True
    assert done["changes"] == announced["changes"] != {}
    rules = backup.storage.client().get_bucket_lifecycle_configuration(Bucket=backup.storage.bucket)["Rules"]
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


@pytest.mark.parametrize("function", ["usable", "bucket_kept"])
def test_without_a_bucket_it_is_said_plainly_and_nothing_fails(backup: Backup, function: str) -> None:
    backup.settings.unlink()
    done = backup.minion.call("--out=json", "state.single", f"backup.{function}", "name=bucket", f"settings={backup.settings}")
    (told,) = json.loads(done.stdout)["local"].values()
    assert done.returncode == 0
    assert (told["result"], told["changes"]) == (True, {})
    assert "NO backup" in told["comment"]


def test_settings_that_others_could_read_are_not_used(backup: Backup) -> None:
    backup.settings.chmod(0o644)
    told = backup.state("usable")
    assert told["result"] is False
    assert "salt-call state.apply backup" in told["comment"]
    assert backup.requests() == 0


# --- the file with the settings ---------------------------------------------------------------------------------------------


def render(minion: Minion, settings: dict[str, Any], where: Path) -> Any:
    """Have the real sls write its file to another place."""
    states = minion.folder / "states" / "backup"
    if not states.exists():
        (minion.folder / "states").joinpath("backup").symlink_to(REPOSITORY / "salt" / "backup")
    minion.answer(settings)
    text = (REPOSITORY / "salt" / "backup" / "settings.sls").read_text().replace("/etc/giggles/backup.json", str(where))
    (minion.folder / "states" / "written.sls").write_text(text)
    return minion.call("--out=json", "--log-level=debug", "state.apply", "written")


def test_the_file_is_roots_holds_what_was_chosen_and_no_secret_shows(minion: Minion, right: dict[str, Any], tmp_path: Path) -> None:
    where = tmp_path / "etc" / "backup.json"
    right |= {"backup": BUCKET | {"prefix": "production/", "lock_days": 7, "keep": {"daily": 20}, "database": {"schemas": ["public"]}}}
    right["secrets"]["backup"] = PLANTED
    done = render(minion, right, where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    found = backup_settings.load(where)
    assert found is not None
    assert (found.bucket, found.prefix, found.lock_days, found.keep.daily, found.keep.weekly) == ("giggles-backup", "production/", 7, 20, 5)
    assert (found.key_id, found.application_key) == (PLANTED["key_id"], PLANTED["application_key"])
    assert (found.database, found.schemas, found.pg_dump, found.ca_bundle) == (True, ("public",), "", "")
    right["secrets"]["backup"] = PLANTED | {"application_key": "K003planted0rotated0key0abcdefg"}
    rotated = render(minion, right, where)
    assert "K003planted0rotated0key0abcdefg" in where.read_text()
    for said in (done, rotated):
        returned = json.loads(said.stdout)["local"]
        assert all(state["changes"] for state in returned.values())
        assert "planted" not in said.stdout + said.stderr
    assert "planted" not in minion.written()
    assert not json.loads(render(minion, right, where).stdout)["local"].popitem()[1]["changes"]


def test_with_the_bucket_the_file_goes(minion: Minion, right: dict[str, Any], tmp_path: Path) -> None:
    where = tmp_path / "backup.json"
    where.write_text("{}")
    assert render(minion, right, where).returncode == 0
    assert not where.exists()


@pytest.mark.parametrize("key", ["/+=_-Aa0" * 4, "K003" + "a" * 27])
def test_a_key_comes_back_exactly(key: str) -> None:
    parsed = backup_settings.parse(settings_file(defaults()["backup"] | BUCKET, PLANTED | {"application_key": key}).encode())
    assert parsed.application_key == key


CHOICES = [
    {},
    {"prefix": "a/b.c/d_e/f-/", "lock_days": 14, "threads": 16},
    {"endpoint": "https://10.0.0.1:9443", "region": "here", "ca_bundle": "/etc/ssl/own.pem"},
    {"endpoint": "http://10.0.0.1:9000/", "region": "here"},
    {"endpoint": "http://localhost:9000", "region": "here"},
    {"upload_kib_per_second": 10485760, "keep": {"daily": 365, "weekly": 260, "monthly": 120}, "keep_dumps_days": 365, "lock_days": 365},
    {"keep": {"daily": 1, "weekly": 0, "monthly": 0}, "keep_dumps_days": 1},
    {"database": {"enabled": False}},
    {"database": {"pg_dump": "/usr/lib/postgresql/17/bin/pg_dump", "schemas": ["_own$1"]}},
]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_whatever_the_pillar_takes_the_backup_takes(choices: dict[str, Any], right: dict[str, Any]) -> None:
    right |= {"backup": BUCKET | choices}
    right["secrets"]["backup"] = PLANTED
    assert check({"giggles": right}, Machine("production", 4000)) == []
    backup_settings.parse(settings_file(merged(defaults(), right)["backup"], PLANTED).encode())


def test_what_the_backup_does_not_take_is_never_written() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        settings_file(defaults()["backup"] | BUCKET | {"endpoint": "http://198.51.100.300"}, PLANTED)


# --- units --------------------------------------------------------------------------------------------------------------------


@NOTHING_THERE
def test_without_a_bucket_no_unit_is_there_and_no_package_is_asked_for(minion: Minion, right: dict[str, Any]) -> None:
    minion.answer(right)
    minion.configure(
        file_roots={"base": [str(REPOSITORY / "salt")]},
        grains={"giggles_environment": "production", "os_family": "Debian", "virtual": "kvm", "os": "Debian", "osmajorrelease": 12},
    )
    low = json.loads(minion.call("--out=json", "--log-level=error", "state.show_lowstate").stdout)["local"]
    states = {chunk["__id__"]: f"{chunk['state']}.{chunk['fun']}" for chunk in low if chunk["__sls__"].startswith("backup")}
    assert states == {
        "backup-settings": "file.absent",
        "backup-units-absent": "units.absent",
        "backup-usable": "backup.usable",
        "backup-bucket-kept": "backup.bucket_kept",
    }


def test_the_hour_of_the_drill_is_one_that_systemd_knows() -> None:
    chosen = yaml.safe_load((REPOSITORY / "salt" / "defaults.yaml").read_text())["backup"]
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d\d:\d\d", chosen["drill_at"])
