"""What lies in the vaults, user by user."""

from __future__ import annotations

import os
import stat
from typing import Any

from gigglekit.vault import fscrypt, holders
from gigglekit.vault.adopt import entries
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS, VAULTS, Places, is_user_id
from gigglekit.vault.share import ShareMissingError
from gigglekit.vault.volume import Volume, mounted


def vaults(places: Places, *, with_holders: bool) -> dict[str, Any]:
    """Return how clips are kept here and, for each user, what there is.

    Arguments:
        places: where everything lies.
        with_holders: whether to look for processes that have files open.

    Returns:
        `mode`, `reason` (why it is the weaker one), `being_erased` (number of erasures that are not finished), and `users`:
        by user id (or `?` and the vault id, where no link leads to a vault) `vault`, `state` (`unlocked`, `locked`, `no key`
        or `plain`), `files`, `bytes` and `holders`.

    Raises:
        VaultError: the volume is not mounted, or the keys are not there.
    """
    ledger, keyring = Ledger(places), Keyring(places)
    result: dict[str, Any] = {
        "mode": places.mode(), "reason": places.reason(), "being_erased": len(ledger.unfinished()),
        "erased": len(ledger.tombstones()), "users": {},
    }  # fmt: skip
    users = {keyring.vault_id(name): name for kind in KINDS for name in _names(places, kind) if is_user_id(name)}
    erased = set(ledger.tombstones())
    if not places.is_encrypted():
        for vault_id, user in sorted(users.items(), key=lambda item: item[1]):
            if vault_id not in erased:
                folders = [str(places.uploads / kind / user) for kind in KINDS]
                result["users"][user] = {"vault": vault_id, "state": "plain", **_measure(folders)}
        return result
    with mounted(places) as volume:
        for vault_id in volume.vault_ids():
            if vault_id in erased:
                continue
            told = {"vault": vault_id, "state": _state(volume, keyring, vault_id), **_measure([str(places.uploads / VAULTS / vault_id)])}
            if with_holders:
                told["holders"] = [str(holder) for holder in holders.of_path(f"/{VAULTS}/{vault_id}")]
            result["users"][users.get(vault_id, f"? {vault_id}")] = told
    return result


def _names(places: Places, kind: str) -> list[str]:
    try:
        folder = os.open(places.uploads / kind, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return [name for name, _ in entries(folder)]
    finally:
        os.close(folder)


def _state(volume: Volume, keyring: Keyring, vault_id: str) -> str:
    try:
        root = keyring.root_key(vault_id)
        if root is None:
            return "no key"
        identifier: bytes | None = fscrypt.identifier_for(fscrypt_key(root))
    except ShareMissingError:
        # What the kernel has can be told all the same.
        with volume.vault(vault_id) as folder:
            identifier = fscrypt.identifier_of(folder)
    status = fscrypt.status(volume.root, identifier) if identifier else None
    return "unlocked" if status is fscrypt.Status.PRESENT else "locked"


def _measure(folders: list[str]) -> dict[str, int]:
    files = size = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    status = os.lstat(os.path.join(place, name))
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    files, size = files + 1, size + status.st_size
    return {"files": files, "bytes": size}
