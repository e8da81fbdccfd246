"""What the droplet knows of one bucket is nothing that it knows of another."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from gigglekit.operations.droplet import Droplet
from gigglekit.vault.places import Places

from tests.unit.b2 import Storage
from tests.unit.backup_repository import settings


def droplet(folder: Path, storage: Storage, prefix: str = "") -> Droplet:
    path = folder / "backup.json"
    path.write_text(json.dumps(asdict(settings(storage, prefix=prefix))))
    path.chmod(0o600)
    return Droplet(Places(), path, folder / "backup", folder / "records", folder / ".env", folder / "backup.lock")


def test_a_manifest_is_of_one_bucket_and_prefix(b2: Storage, tmp_path: Path) -> None:
    with droplet(tmp_path, b2).manifest() as manifest, manifest.change():
        manifest.put("learned", "yes")
        manifest.add_pack("0" * 32, "vault", 1, b"")
    with droplet(tmp_path, b2).manifest() as manifest:
        assert manifest.get("learned") == "yes"
    with droplet(tmp_path, b2, "other/").manifest() as manifest:
        assert manifest.get("learned") is None
        assert list(manifest.packs()) == []
        with manifest.change():
            manifest.forget_everything()
            manifest.put("learned", "yes")
    with droplet(tmp_path, b2, "other/").manifest() as manifest:
        assert manifest.get("learned") == "yes", "what a sync learns anew must not be forgotten by the next"


def test_a_damaged_manifest_is_begun_anew(b2: Storage, tmp_path: Path) -> None:
    operated = droplet(tmp_path, b2)
    with operated.manifest() as manifest, manifest.change():
        manifest.put("learned", "yes")
    (tmp_path / "backup" / "manifest.sqlite").write_bytes(b"no database" * 1000)
    with operated.manifest() as manifest:
        assert manifest.get("learned") is None
