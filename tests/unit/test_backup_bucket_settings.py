"""The settings of the backup are taken only when they are whole, closed to others, and make sense; and they show no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup.errors import BackupError
from gigglekit.backup.settings import Keep, load

RIGHT: dict[str, Any] = {
    "endpoint": "https://s3.eu-central-003.backblazeb2.com",
    "region": "eu-central-003",
    "bucket": "giggles-backup",
    "prefix": "",
    "key_id": "003aaaaaaaaaaaaaaaaaaaaaa",
    "application_key": "K003secretsecretsecretsecret",
    "lock_days": 0,
    "upload_kib_per_second": 0,
    "threads": 4,
    "keep": {"daily": 7, "weekly": 4, "monthly": 6},
    "keep_dumps_days": 30,
    "database": True,
    "pg_dump": "",
    "schemas": ["public", "auth"],
}


def written(folder: Path, values: object, mode: int = 0o600) -> Path:
    file = folder / "backup.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    file.chmod(mode)
    return file


def test_right_settings_are_read(tmp_path: Path) -> None:
    found = load(written(tmp_path, RIGHT))
    assert found is not None
    assert (found.bucket, found.keep, found.schemas, found.ca_bundle) == ("giggles-backup", Keep(7, 4, 6), ("public", "auth"), "")
    assert load(written(tmp_path, {**RIGHT, "ca_bundle": "/etc/ca.pem"})) is not None


def test_no_file_is_no_backup(tmp_path: Path) -> None:
    assert load(tmp_path / "backup.json") is None


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    assert "secret" not in repr(load(written(tmp_path, RIGHT)))
    assert RIGHT["key_id"] not in repr(load(written(tmp_path, RIGHT)))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BackupError, match="may have read or changed"):
        load(written(tmp_path, RIGHT, mode))


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path, RIGHT))
    with pytest.raises(BackupError, match="cannot be read"):
        load(tmp_path / "link")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"endpoint": "http://s3.eu-central-003.backblazeb2.com"}, "private addresses"),
        ({"endpoint": "ftp://s3.example"}, "https://"),
        ({"endpoint": "https://user:secretsecret@s3.example"}, "scheme, host and port"),
        ({"endpoint": "https://s3.example/bucket"}, "scheme, host and port"),
        ({"endpoint": "https://s3.example:99999"}, "no URL"),
        ({"endpoint": ""}, "scheme, host and port"),
        ({"region": "EU West"}, "region"),
        ({"bucket": "a/b"}, "bucket"),
        ({"bucket": None}, "bucket is of the wrong type"),
        ({"prefix": "giggles"}, "prefix"),
        ({"prefix": "/giggles/"}, "prefix"),
        ({"prefix": "../"}, "prefix"),
        ({"key_id": ""}, "key_id"),
        ({"application_key": "secret secret"}, "application_key"),
        ({"application_key": 5}, "application_key is of the wrong type"),
        ({"lock_days": -1}, "lock_days"),
        ({"lock_days": True}, "lock_days is of the wrong type"),
        ({"lock_days": 3001}, "lock_days"),
        ({"threads": 0}, "threads"),
        ({"threads": 4.0}, "threads is of the wrong type"),
        ({"keep": {"daily": 0, "weekly": 0, "monthly": 0}}, "keep.daily"),
        ({"keep": {"daily": 1}}, "keep.monthly, keep.weekly is missing"),
        ({"keep": 7}, "keep is of the wrong type"),
        ({"keep_dumps_days": 0}, "keep_dumps_days"),
        ({"pg_dump": "pg_dump"}, "pg_dump"),
        ({"ca_bundle": "ca.pem"}, "ca_bundle"),
        ({"schemas": []}, "schemas"),
        ({"schemas": ["a b"]}, "schemas"),
        ({"schemas": "public"}, "schemas is of the wrong type"),
        ({"K003secretsecretsecretsecret": 1}, "mean nothing"),
    ],
)
def test_what_is_wrong_is_told_without_a_secret(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(BackupError) as caught:
        load(written(tmp_path, {**RIGHT, **changed}))
    assert told in str(caught.value)
    assert "secret" not in str(caught.value).replace("giggles:secrets", "")


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackupError, match=f"{name} is missing"):
        load(written(tmp_path, {key: value for key, value in RIGHT.items() if key != name}))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"secret"'])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BackupError, match="is wrong") as caught:
        load(written(tmp_path, content))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "http://10.0.3.2:9000", "http://localhost:9000", "https://minio.example:9443"]
)
def test_servers_of_ones_own_are_taken(tmp_path: Path, endpoint: str) -> None:
    assert load(written(tmp_path, {**RIGHT, "endpoint": endpoint})) is not None
