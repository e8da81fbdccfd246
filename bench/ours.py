"""One run of the backup as a process of its own, for bench/sync: what the timer and the commands do, without Salt around it.

Usage: ours.py DROPLET sync | restore FOLDER | clip PATH FOLDER | erase VAULT | nothing
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "_utils"))


def main() -> None:
    """Do what the arguments say; DROPLET is a JSON file with the keys and settings that a droplet has."""
    described = json.loads(Path(sys.argv[1]).read_text())
    command, *arguments = sys.argv[2:]
    from gigglekit.backup.repository import Repository, Secrets
    from gigglekit.backup.signed import Signer

    def bucket() -> object:
        from gigglekit.backup.bucket import Bucket
        from gigglekit.backup.settings import Keep, Settings

        return Bucket(Settings(**{**described["settings"], "keep": Keep(7, 4, 12), "schemas": ("public",)}))

    def secrets() -> Secrets:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = {name: bytes.fromhex(value) for name, value in described["keys"].items()}
        signer = Signer(Ed25519PrivateKey.from_private_bytes(key["signer"]))
        return Secrets(key["snapshots"], key["names"], signer, signer.public, key["kit_public"])

    repository = Repository(bucket, secrets())  # type: ignore[arg-type]
    users = described["users"]
    if command == "sync":
        from gigglekit.backup.clips import User
        from gigglekit.backup.manifest import Manifest
        from gigglekit.backup.sync import Sync

        manifest = Manifest(Path(described["manifest"]))
        there = [User(each["vault"], each["id"], bytes.fromhex(each["root"]), Path(each["folder"])) for each in users]
        done = Sync(repository, manifest, described["settings"]["threads"]).run(there)
        manifest.close()
        print(json.dumps(vars(done)))
    elif command in ("restore", "clip"):
        from gigglekit.backup.restore import Task, restore

        opened = repository.open(repository.choose(None))
        parts = {part.vault: part for part in opened.head.users}
        path = arguments[0] if command == "clip" else ""

        def tasks() -> Iterator[Task]:
            for user in users:
                if path.startswith(user["vault"]) or not path:
                    target = Path(arguments[-1]) / user["vault"]
                    target.mkdir(parents=True)
                    root = bytes.fromhex(user["root"])
                    yield Task(repository.section(opened, parts[user["vault"]], root), root, target, None)

        back = restore(repository, tasks(), wanted=lambda name: not path or name == path.partition("/")[2])
        if back.damaged:
            sys.exit("; ".join(back.damaged))
    elif command == "erase":
        from gigglekit.backup.erase import erase_user
        from gigglekit.backup.manifest import Manifest

        (vault,) = arguments
        manifest = Manifest(Path(described["manifest"]))
        erase_user(repository.bucket, manifest, vault, "2026-11-24T05:45:00Z", repository.secrets.signer)  # type: ignore[arg-type]
        manifest.close()
    elif command != "nothing":
        sys.exit(f"what is {command}?")


if __name__ == "__main__":
    main()
