"""Whose a pack is. Its name does not tell; its commitment does: it fits to its user's key and to no other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from gigglekit.backup import names
from gigglekit.backup.errors import DamagedError, MissingError
from gigglekit.backup.repository import Repository, backup_key
from gigglekit.crypto import chunked

_AT_ONCE = 8


def of_the_erased(repository: Repository, packs: Iterable[str], roots: Mapping[str, bytes], erased: Collection[str]) -> set[str]:
    """Return those packs that no living user's key opens. It takes a small request for each.

    None is returned if there is a user in the bucket who is neither known here nor erased, as another droplet with the same keys may
    just have made one.

    Arguments:
        repository: it.
        packs: ids; listed before this was called, so that the key of whoever they belong to is in the bucket by now.
        roots: root keys of the living by vault id.
        erased: vault ids.
    """
    sealed = {entry.name.removeprefix(names.USER_KEYS) for entry in repository.bucket.list(names.USER_KEYS)}
    if not set(filter(names.is_id, sealed)) <= {*roots, *erased}:
        return set()
    keys = [backup_key(root) for root in roots.values()]
    asked = sorted(packs)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="owners") as pool:
        return {pack for pack, opens in zip(asked, pool.map(lambda pack: _opens(repository, pack, keys), asked), strict=True) if not opens}


def _opens(repository: Repository, pack: str, keys: Iterable[bytes]) -> bool:
    try:
        header = repository.bucket.read(names.DATA + pack, 0, chunked.HEADER_BYTES)
    except MissingError:
        return True  # nothing is left to be removed
    except DamagedError:
        return False
    for key in keys:
        try:
            chunked.Reader(key, names.pack_context(pack), header, chunked.ciphertext_size(0))
        except chunked.DamagedError:
            continue
        return True
    return False
