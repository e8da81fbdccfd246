"""The lobby: the encrypted folders in which the app makes what it makes. Its key is replaced every night.

A new lobby with the same links, under a new key, is built beside the old one and exchanged for it; what came into the old
one in between is moved over. When the old key is gone, so is every copy that ever lay there, deleted ones too.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from gigglekit.files import draining
from gigglekit.files.links import exchange_in
from gigglekit.vault import adopt, fscrypt
from gigglekit.vault.adopt import adopt_all, take_in
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS, LOBBY
from gigglekit.vault.volume import BESIDE, Volume, opened

_PAUSE = 0.02
_SOMEBODY_WRITES = "a file in the lobby that somebody is writing"


@dataclass(frozen=True)
class Renewed:
    """How replacing the lobby ended.

    Arguments:
        complete: nothing can be read by an earlier key any more.
        waiting_for: what keeps it from being complete, in words; "" if nothing does.
    """

    complete: bool
    waiting_for: str = ""


def renew(volume: Volume, keyring: Keyring, ledger: Ledger, *, seconds: float) -> Renewed:
    """Replace the lobby and its key. The caller holds the lock. Killed at any point, the next call goes on.

    Arguments:
        volume: the volume.
        keyring: has the lobby's key.
        ledger: knows who was erased.
        seconds: how long to wait for those who have files of the lobby open.

    Raises:
        VaultError: the volume is locked or not as it should be.
        OSError: the disk is full; the old lobby stays.
    """
    volume.insist_on_keys()
    if not _empty_old(volume, keyring, ledger, seconds):
        return Renewed(False, _SOMEBODY_WRITES)
    if adopt_all(volume, keyring, ledger, seconds=seconds).waiting:
        return Renewed(False, _SOMEBODY_WRITES)
    identifier = keyring.make_lobby_key(volume.root)
    copied: dict[str, draining.Drained] = {}
    with volume.folder(BESIDE) as beside:
        for kind in LOBBY:
            os.mkdir(kind, 0o700, dir_fd=beside)
            with opened(kind, beside) as fresh, volume.folder(kind) as current:
                fscrypt.encrypt(fresh, identifier)
                os.fchown(fresh, volume.owner.uid, volume.owner.gid)
                os.fchmod(fresh, volume.owner.folder_mode)
                copied[kind] = draining.copy(current, fresh, volume.owner)
        _follow_until_still(volume, beside, copied, seconds)
        with volume.open_root():
            for kind in LOBBY:
                exchange_in(volume.root, kind, beside, kind)
            os.fsync(volume.root)
        for kind in LOBBY:
            with opened(kind, beside) as old, volume.folder(kind) as current:
                draining.take_back(old, current, copied[kind])
                # What has come since. The old folders stay for a while, for those who were on their way into them.
                copied[kind].add(draining.copy(old, current, volume.owner))
    time.sleep(adopt.GRACE_SECONDS)
    with volume.folder(BESIDE) as beside:
        for kind in LOBBY:
            with opened(kind, beside) as old, volume.folder(kind) as current:
                draining.settle(old, current, copied[kind])
    if not _empty_old(volume, keyring, ledger, seconds):
        return Renewed(False, _SOMEBODY_WRITES)
    return retire(volume, keyring, seconds=seconds)


def _follow_until_still(volume: Volume, beside: int, copied: dict[str, draining.Drained], seconds: float) -> None:
    """Copy what comes into the lobby, until for a moment nothing does: who has just made a folder is about to write into it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        still = True
        for kind in LOBBY:
            with opened(kind, beside) as fresh, volume.folder(kind) as current:
                before = adopt.last_change(current)
                copied[kind].add(draining.copy(current, fresh, volume.owner))
                still = still and adopt.is_still(current) and adopt.last_change(current) == before
        if still:
            return
        time.sleep(_PAUSE)


def _empty_old(volume: Volume, keyring: Keyring, ledger: Ledger, seconds: float) -> bool:
    """Move what lies in the lobby beside, new or old, into the one in use, and remove it; return whether it is gone."""
    with volume.folder(BESIDE) as beside:
        for kind in LOBBY:
            with contextlib.suppress(FileNotFoundError), opened(kind, beside) as old, volume.folder(kind) as current:
                for _ in range(5):
                    if kind in KINDS and not take_in(volume, keyring, ledger, old, kind, seconds):
                        return False
                    if not draining.drain(old, current, volume.owner, seconds=seconds).complete:
                        return False
                    with contextlib.suppress(OSError):
                        os.rmdir(kind, dir_fd=beside)
                        break
                else:
                    return False
        os.fsync(beside)
    return True


def retire(volume: Volume, keyring: Keyring, *, seconds: float) -> Renewed:
    """Have kernel and ring forget every key of the lobby by which no folder is encrypted any more."""
    used = volume.lobby_identifiers()
    for identifier in keyring.lobby_identifiers():
        if identifier in used:
            continue
        # The ring forgets last: without its identifier nobody could ask the kernel again.
        if fscrypt.forget(volume.root, identifier, seconds=seconds) is not fscrypt.Status.ABSENT:
            return Renewed(False, "an open file of an earlier lobby")
        keyring.drop_lobby_key(identifier)
    return Renewed(True)
