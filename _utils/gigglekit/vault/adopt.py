"""Adopting: what the app has put into the lobby for a user moves into that user's vault.

The app makes folders for new users by itself, in the lobby. Here their content is copied into the vault, and the folder is
exchanged for a link to it in one step, so that a path of the app's always leads somewhere. What was written into the folder
in between, or still is by a program that had it open, follows.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gigglekit.files import draining
from gigglekit.files.emptying import empty
from gigglekit.files.links import exchange_in
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS, VAULTS, is_user_id
from gigglekit.vault.share import ShareMissingError
from gigglekit.vault.volume import Volume, opened

_ASIDE = ".adopting-"
"""Before a user's id: the link that is about to take the folder's place, then the folder that it has been exchanged for."""
_WRITER_SECONDS = 3.0
_PAUSE = 0.02
_STILL_SECONDS = 0.05
GRACE_SECONDS = 0.5
"""How long a folder that was exchanged stays: a program that was on its way into it by then may have been held up."""


@dataclass
class Adopted:
    """What a round of adoption did.

    Attributes:
        folders: user folders that are links now and were not before.
        files: files that were moved for them.
        waiting: folders whose files somebody still writes; another round will finish them.
        refused: folders of erased users, which were erased again.
        problems: one sentence each, about folders that could not be adopted.
    """

    folders: int = 0
    files: int = 0
    waiting: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    _copied: dict[tuple[str, str], draining.Drained] = field(default_factory=dict, compare=False, repr=False)


def link_target(vault_id: str, kind: str) -> str:
    """Return what a user's link in the lobby holds."""
    return f"../{VAULTS}/{vault_id}/{kind}"


def adopt_all(volume: Volume, keyring: Keyring, ledger: Ledger, *, seconds: float = _WRITER_SECONDS) -> Adopted:
    """Adopt every user folder in the lobby. The caller holds the lock.

    Arguments:
        volume: the volume.
        keyring: has, or gets, the users' keys.
        ledger: knows who was erased.
        seconds: how long to wait, for each user, for those who have files open for writing.

    Raises:
        VaultError: the volume is locked or not as it should be.
        ShareMissingError: there is somebody to adopt, and the bucket's share of the key is not in memory; everything stays as it is.
    """
    volume.insist_on_keys()
    keyring.tidy()
    report = Adopted()
    step = partial(_for_each_user, volume, keyring, report)
    step(lambda lobby, kind, user: _adopt(volume, keyring, ledger, lobby, kind, user, report, seconds))
    if report.folders:
        time.sleep(GRACE_SECONDS)
    step(lambda lobby, kind, user: _empty_aside(volume, keyring, lobby, kind, user, report, seconds))
    return report


def _for_each_user(volume: Volume, keyring: Keyring, report: Adopted, act: Callable[[int, str, str], None]) -> None:
    """Do something for every user who has a folder in the lobby, or one aside. One user's trouble keeps nobody else waiting."""
    for kind in KINDS:
        with volume.folder(kind) as lobby:
            found = entries(lobby)
            users = [name.removeprefix(_ASIDE) for name, is_folder in found if is_folder or name.startswith(_ASIDE)]
            for user in sorted({user for user in users if is_user_id(user)}):
                try:
                    act(lobby, kind, user)
                except ShareMissingError:
                    # The same for everybody: said once, and not as somebody's trouble.
                    raise
                except (OSError, VaultError) as error:
                    # The id stays out of the log.
                    vault_id = keyring.vault_id(user)
                    said = str(error).replace(user, vault_id)
                    report.problems.append(f"The {kind} of vault {vault_id} could not be adopted: {said}")


def entries(folder: int) -> list[tuple[str, bool]]:
    """Return the names in an open folder, and for each whether it is a folder."""
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)


def _adopt(volume: Volume, keyring: Keyring, ledger: Ledger, lobby: int, kind: str, user: str, report: Adopted, seconds: float) -> None:
    vault_id = keyring.vault_id(user)
    aside = f"{_ASIDE}{user}"
    if ledger.tombstone(vault_id) is not None:
        report.refused += block(lobby, kind, user, vault_id).folders
        return
    volume.make_vault(vault_id, keyring)
    with volume.vault(vault_id, kind) as vault:
        if _is_folder(lobby, user):
            # What a killed run has exchanged already moves first: it is older than what lies there now.
            _empty(lobby, aside, lambda folder: draining.drain(folder, vault, volume.owner, seconds=seconds))
            with opened(user, lobby) as folder:
                copied = _copy_when_quiet(folder, vault, volume.owner, seconds)
            if copied is None:
                # It is encrypted where it lies; the next round comes in a second.
                report.waiting += 1
                return
            try:
                _exchange_for_link(lobby, user, link_target(vault_id, kind))
            except FileNotFoundError:
                draining.take_back(None, vault, copied)
                raise
            if _is_folder(lobby, aside):
                with opened(aside, lobby) as folder:
                    copied.files -= draining.take_back(folder, vault, copied)
                    # What has come since; the folder itself stays for a while.
                    copied.add(draining.copy(folder, vault, volume.owner))
            report._copied[kind, user] = copied
            report.files += copied.files
            report.folders += 1


def _empty_aside(volume: Volume, keyring: Keyring, lobby: int, kind: str, user: str, report: Adopted, seconds: float) -> None:
    """Move what is left of a user's folder after the link that has taken its place."""
    aside = f"{_ASIDE}{user}"
    if _is_folder(lobby, user) or not _exists(lobby, aside):
        return
    with volume.vault(keyring.vault_id(user), kind) as vault:
        if (kind, user) in report._copied and _is_folder(lobby, aside):
            with opened(aside, lobby) as folder:
                report.files -= draining.settle(folder, vault, report._copied[kind, user])
        drained = _empty(lobby, aside, lambda folder: draining.drain(folder, vault, volume.owner, seconds=seconds))
    report.files += drained.files
    report.waiting += not drained.complete


def _copy_when_quiet(folder: int, vault: int, owner: draining.Owner, seconds: float) -> draining.Drained | None:
    """Copy a folder while nobody writes in it; None if somebody always did.

    A file that is exchanged for its copy while it is written would be there only in part until it is moved after it, and one
    that was made between copy and exchange not at all.
    """
    end = time.monotonic() + seconds
    while True:
        before = last_change(folder)
        if draining.is_quiet(folder) and is_still(folder):
            copied = draining.copy(folder, vault, owner)
            if draining.is_quiet(folder) and last_change(folder) == before:
                return copied
            draining.take_back(None, vault, copied)
        if time.monotonic() > end:
            return None
        time.sleep(_PAUSE)


def last_change(folder: int) -> int:
    """Return when an entry of an open folder was last made, removed or renamed, in nanoseconds since 1970."""
    return os.fstat(folder).st_mtime_ns


def is_still(folder: int) -> bool:
    """Tell whether no entry of an open folder has come or gone in the last moments, so that nobody is about to use a new one."""
    # A time in the future is a clock that was set back: it says nothing.
    return abs(time.time_ns() - last_change(folder)) > _STILL_SECONDS * 1e9


def take_in(volume: Volume, keyring: Keyring, ledger: Ledger, old: int, kind: str, seconds: float) -> bool:
    """Empty those user folders of an old lobby whose place in the one in use is taken by a link already. The caller holds the lock.

    Arguments:
        volume, keyring, ledger, seconds: as for `adopt_all`.
        old: descriptor of the folder of that kind in the old lobby.
        kind: of `KINDS`.

    Returns:
        Whether they are gone; False while somebody writes into them.
    """
    complete = True
    with volume.folder(kind) as lobby:
        for name, is_folder in entries(old):
            user = name.removeprefix(_ASIDE)
            if not (is_folder and is_user_id(user) and _exists(lobby, name)) or _is_folder(lobby, name):
                continue
            vault_id = keyring.vault_id(user)
            if ledger.tombstone(vault_id) is not None:
                complete &= _empty(old, name, erase).complete
                continue
            volume.make_vault(vault_id, keyring)
            with volume.vault(vault_id, kind) as vault:
                drain = partial(draining.drain, target=vault, owner=volume.owner, seconds=seconds)
                complete &= _empty(old, name, drain).complete
    return complete


@dataclass(frozen=True)
class Blocked:
    """What was taken out of an erased user's way.

    Arguments:
        folders: folders that were there.
        files: files in them.
        size: their bytes.
    """

    folders: int
    files: int
    size: int


def block(lobby: int, kind: str, user: str, vault_id: str, by: Callable[[int], draining.Drained] | None = None) -> Blocked:
    """Have a link that leads nowhere where an erased user's folder would be, and nothing of that user in the lobby.

    The app finds the name taken, so that it can neither make the folder nor write into it.

    Arguments:
        lobby: descriptor of the folder of that kind in the lobby.
        kind: of `KINDS`.
        user: the user's id.
        vault_id: the user's vault, which does not exist any more.
        by: how what lies in an open folder is erased; unlinking, if None, which is enough where a key will be destroyed.
    """
    by = by or erase
    target = link_target(vault_id, kind)
    aside = f"{_ASIDE}{user}"
    folders = files = size = 0
    for _ in range(10):
        # The app may make its folder again between any two steps here.
        if _is_folder(lobby, user):
            folders += 1
            _empty(lobby, aside, by)
            _exchange_for_link(lobby, user, target)
        elif _link_in(lobby, user) != target:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(user, dir_fd=lobby)
            with contextlib.suppress(FileExistsError):
                os.symlink(target, user, dir_fd=lobby)
        emptied = _empty(lobby, aside, by)
        files += emptied.files
        size += emptied.size
        if _link_in(lobby, user) == target and not _exists(lobby, aside):
            break
    os.fsync(lobby)
    return Blocked(folders, files, size)


def erase(folder: int) -> draining.Drained:
    """Unlink everything below an open folder, whether its key is there or not; return how much it was."""
    gone = draining.Drained()

    def unlink(place: int, name: str) -> None:
        status = os.stat(name, dir_fd=place, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            gone.files += 1
            gone.size += status.st_size
        os.unlink(name, dir_fd=place)

    empty(folder, unlink)
    return gone


def _exchange_for_link(lobby: int, user: str, target: str) -> None:
    """Put a link where the folder is; the folder lies aside after it."""
    aside = f"{_ASIDE}{user}"
    if _exists(lobby, aside):
        os.unlink(aside, dir_fd=lobby)
    os.symlink(target, aside, dir_fd=lobby)
    exchange_in(lobby, user, lobby, aside)
    os.fsync(lobby)


def _empty(lobby: int, aside: str, by: Callable[[int], draining.Drained]) -> draining.Drained:
    """Empty and remove what lies aside: the folder that a link was exchanged for, or a link that never came to that."""
    if not _exists(lobby, aside):
        return draining.Drained()
    if not _is_folder(lobby, aside):
        os.unlink(aside, dir_fd=lobby)
        return draining.Drained()
    total = draining.Drained()
    for _ in range(5):
        with opened(aside, lobby) as folder:
            once = by(folder)
        total.files += once.files
        total.size += once.size
        total.busy = once.busy
        if once.busy:
            break
        try:
            os.rmdir(aside, dir_fd=lobby)
            break
        except OSError:
            # Something was put there by a program that had found the way before the exchange.
            total.busy = 1
    return total


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_folder(folder: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _link_in(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None
