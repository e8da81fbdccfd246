"""Sealed keys on their way into the bucket: nothing that was encrypted by a key is stored before the key is there for the kit to open."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from gigglekit.backup import kit, names
from gigglekit.backup.clips import User
from gigglekit.backup.manifest import Manifest
from gigglekit.backup.repository import Repository, Secrets


def lacking(secrets: Secrets, manifest: Manifest, users: Iterable[User], erased: Collection[str]) -> dict[str, bytes]:
    """Return the keys that are not known to lie in the bucket, sealed for the kit in force, by name.

    Arguments:
        secrets: the droplet's keys.
        manifest: what is known to be there.
        users: theirs, too.
        erased: whose keys do not count, by vault id.
    """
    wanted = _kit_in_force(secrets)
    sealed = manifest.all("sealed:")
    everything: dict[str, bytes] = {
        names.SYSTEM_KEYS + "names": secrets.names,
        names.SYSTEM_KEYS + "snapshots": secrets.snapshots,
        **({names.SYSTEM_KEYS + "signing": secrets.signer.private} if secrets.signer else {}),
        **{names.USER_KEYS + user.vault_id: user.root_key for user in users if user.vault_id not in erased},
    }
    return {name: key for name, key in everything.items() if not wanted or sealed.get(name) != wanted}


def store(repository: Repository, manifest: Manifest, keys: dict[str, bytes], pool: ThreadPoolExecutor) -> Keys:
    """Begin to store keys, sealed for the kit in force."""
    storing = {name: pool.submit(repository.store_key, name, key) for name, key in keys.items()}
    return Keys(manifest, _kit_in_force(repository.secrets), storing)


def _kit_in_force(secrets: Secrets) -> str:
    return kit.fingerprint(secrets.kit_public) if secrets.kit_public is not None else ""


@dataclass
class Keys:
    """Keys on their way into the bucket.

    Arguments:
        manifest: what is known to be there.
        kit: fingerprint of the kit that they are sealed for.
        storing: by name.
    """

    manifest: Manifest
    kit: str
    storing: dict[str, Future[None]]
    is_settled: bool = False

    def insist(self, vault: str) -> None:
        """Wait until what a user's clips are encrypted by is there, and the keys of the droplet; several threads may.

        Raises:
            BackupError: one of them could not be stored.
        """
        for name, future in self.storing.items():
            if name == names.USER_KEYS + vault or not name.startswith(names.USER_KEYS):
                future.result()

    def settle(self) -> None:
        """Wait until all are there, and write down which are; the second time there is nothing to do.

        Raises:
            BackupError: one could not be stored.
        """
        if self.is_settled or not self.storing:
            return
        wait(self.storing.values())
        self.is_settled = True
        with self.manifest.change():
            for name, future in self.storing.items():
                if future.exception() is None:
                    self.manifest.put(f"sealed:{name}", self.kit)
        for future in self.storing.values():
            future.result()
