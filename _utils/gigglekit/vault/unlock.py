"""Giving the kernel the keys that it needs, after a boot or a mount."""

from __future__ import annotations

from gigglekit.vault import fscrypt
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.volume import Volume


def locked(volume: Volume, keyring: Keyring) -> list[bytes]:
    """Return the identifiers of the lobby's keys that the kernel does not have: with one missing, the app cannot work.

    One that nothing is encrypted by any more, and that is only kept until the last file is closed, does not count.
    """
    used = volume.lobby_identifiers()
    return [
        identifier
        for identifier in keyring.lobby_identifiers()
        if identifier in used and fscrypt.status(volume.root, identifier) is not fscrypt.Status.PRESENT
    ]


def unlock(volume: Volume, keyring: Keyring, ledger: Ledger) -> int:
    """Give the kernel the keys of the lobby and of every vault; return how many.

    Not those of users who were asked to be erased: an erasure that was held up must not be undone by a reboot.

    Raises:
        VaultError: a key cannot be unwrapped, or the kernel does not take it.
    """
    roots = [*keyring.lobby_keys().values()]
    for vault_id in keyring.vaults():
        root = keyring.root_key(vault_id)
        if root is not None and ledger.tombstone(vault_id) is None:
            roots.append(root)
    for root in roots:
        fscrypt.add_key(volume.root, fscrypt_key(root))
    return len(roots)
