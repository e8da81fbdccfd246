"""Moving the clips of a server that had no vault yet into its volume, while the app goes on.

First everything is copied, with the app at work. Then the app is stopped behind its socket, what has changed meanwhile is
copied, the folders change places, and the app starts again: requests wait, none fails. At last the old files are
overwritten. Killed at any point, the next call goes on; until the folders have changed places, the old ones count.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from gigglekit.command import CommandTimeoutError, run
from gigglekit.files import draining, overwriting
from gigglekit.vault import plain
from gigglekit.vault.adopt import entries, link_target
from gigglekit.vault.device import MOUNT_OPTIONS
from gigglekit.vault.errors import BusyError, VaultError
from gigglekit.vault.keyring import Keyring
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import KINDS, LOBBY, Places, is_user_id
from gigglekit.vault.unlock import unlock
from gigglekit.vault.volume import Volume, mounted, opened

_MOUNT_SECONDS = 60.0
_SWITCH, _SWITCH_SECONDS = "giggles-vault-switch.service", 3700.0


@dataclass(frozen=True)
class Old:
    """What has to be moved.

    Arguments:
        files: how many files lie in the upload folder outside of any volume.
        leftover: the files of before are moved and not overwritten yet.
    """

    files: int
    leftover: bool


def find(places: Places) -> Old:
    """Look for clips that do not lie in the volume yet."""
    files = 0
    if places.uploads.is_dir() and not os.path.ismount(places.uploads):
        files = sum(len(names) for _, _, names in os.walk(places.uploads))
    return Old(files, places.before.exists())


def copy(places: Places, device: Path, *, at_rest: bool = False) -> int:
    """Copy everything into the volume, which nobody else uses yet; return how many files were copied.

    Arguments:
        places: where everything lies.
        device: the formatted image or block device.
        at_rest: nobody writes meanwhile, so that nothing may be missing at the end.

    Raises:
        VaultError: it cannot be mounted, or is too small.
    """
    keyring, ledger = Keyring(places), Ledger(places)
    keyring.create()
    with _staged(places, device), mounted(places, places.staging) as volume:
        volume.prepare(keyring)
        unlock(volume, keyring, ledger)
        copied = sum(_carry(places, volume, keyring, ledger, kind) for kind in LOBBY)
        if at_rest:
            _insist_on_all(places, volume, keyring, ledger)
    return copied


@contextlib.contextmanager
def _staged(places: Places, device: Path) -> Iterator[None]:
    places.staging.mkdir(mode=0o700, exist_ok=True)
    if not os.path.ismount(places.staging):
        options = ",".join(MOUNT_OPTIONS) if device.is_block_device() else f"loop,{','.join(MOUNT_OPTIONS)}"
        _mount(["mount", "-t", "ext4", "-o", options, str(device), str(places.staging)])
    try:
        yield
    finally:
        _mount(["umount", str(places.staging)])
        places.staging.rmdir()


def _mount(argv: list[str]) -> None:
    try:
        done = run(argv, seconds=_MOUNT_SECONDS, environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    except (OSError, CommandTimeoutError) as error:
        raise VaultError(f"{argv[0]} did not run ({error}), so the clips stay where they are. Look at dmesg, then apply again.") from error
    if done.code != 0:
        raise VaultError(f"{argv[0]} failed: {done.last_words}. The clips stay where they are. Look at dmesg, then apply again.")


def _carry(places: Places, volume: Volume, keyring: Keyring, ledger: Ledger, kind: str) -> int:
    """Have in the volume what the old folder of this kind has, no more and no less; return how many files were copied."""
    if not (places.uploads / kind).exists():
        return 0
    with opened(str(places.uploads / kind), None) as source, volume.folder(kind) as lobby:
        users = _users(source, kind, keyring, ledger)
        copied = draining.copy(source, lobby, volume.owner, only=lambda name: name not in users).files
        _drop_what_is_gone(source, lobby)
        for user, vault_id in users.items():
            if vault_id is None:
                continue
            volume.make_vault(vault_id, keyring)
            with contextlib.suppress(FileExistsError):
                os.symlink(link_target(vault_id, kind), user, dir_fd=lobby)
            with volume.vault(vault_id, kind) as new, _there(user, source) as old:
                if old is not None:
                    copied += draining.copy(old, new, volume.owner).files
                    _drop_what_is_gone(old, new)
    return copied


def _users(source: int, kind: str, keyring: Keyring, ledger: Ledger) -> dict[str, str | None]:
    """Return the users that have a folder here, and the vault that each gets; none for a user who was erased."""
    if kind not in KINDS:
        return {}
    names = [name for name, is_folder in entries(source) if is_folder and is_user_id(name)]
    vaults = {name: keyring.vault_id(name) for name in names}
    return {name: None if ledger.tombstone(vault_id) is not None else vault_id for name, vault_id in vaults.items()}


@contextlib.contextmanager
def _there(name: str, above: int) -> Iterator[int | None]:
    """Open a folder that the app may have removed meanwhile; None then."""
    try:
        descriptor = os.open(name, draining.FOLDER, dir_fd=above)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _drop_what_is_gone(old: int, new: int) -> None:
    """Remove from the copy the files that the app has deleted since they were copied."""
    there = {name for name, _ in entries(old)}
    for name, is_folder in entries(new):
        if name not in there and not is_folder:
            os.unlink(name, dir_fd=new)


def _insist_on_all(places: Places, volume: Volume, keyring: Keyring, ledger: Ledger) -> None:
    """Compare what is about to be left behind with what was copied, file by file. Nobody may write meanwhile.

    Raises:
        VaultError: something is missing or differs.
    """
    for kind in LOBBY:
        if not (places.uploads / kind).exists():
            continue
        with opened(str(places.uploads / kind), None) as source, volume.folder(kind) as lobby:
            users = _users(source, kind, keyring, ledger)
            _compare(source, lobby, f"{places.uploads}/{kind}", skip=users)
            for user, vault_id in users.items():
                if vault_id is not None:
                    with opened(user, source) as old, volume.vault(vault_id, kind) as new:
                        _compare(old, new, f"{places.uploads}/{kind}/{user}")


def _compare(old: int, new: int, path: str, skip: Collection[str] = ()) -> None:
    for name, is_folder in entries(old):
        if name in skip:
            continue
        if is_folder:
            with opened(name, old) as inner, opened(name, new) as other:
                _compare(inner, other, f"{path}/{name}")
            continue
        status = os.stat(name, dir_fd=old, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            continue
        try:
            copy_of = os.stat(name, dir_fd=new, follow_symlinks=False)
        except FileNotFoundError:
            copy_of = None
        if copy_of is None or (copy_of.st_size, copy_of.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise VaultError(
                f"{path}/{name} is not in the volume as it is here, although it was copied: something else than the app writes to it. The "
                "clips stay where they are. Find out who (fuser -v, lsof), then apply again."
            )


def switch(places: Places, device: Path, nightly_lock: Path, stop_app: Callable[[], None], mount: Callable[[], None]) -> None:
    """Let the volume take the place of the old folder. The caller makes sure that the app starts only after this.

    Arguments:
        places: where everything lies.
        device: what was copied to.
        nightly_lock: the nightly job holds it; it must not be running.
        stop_app: stops the web app behind its socket.
        mount: mounts the volume at its place.

    Raises:
        BusyError: the nightly job is running; nothing was changed.
        VaultError: it could not be done; the old folder is in its place, unless the message says otherwise.
    """
    with _nightly_kept_out(nightly_lock):
        if not os.path.ismount(places.uploads) and places.uploads.exists() and not places.before.exists():
            stop_app()
            copy(places, device, at_rest=True)
            places.uploads.rename(places.before)
        # Nobody but root can put anything here while nothing is mounted.
        places.uploads.mkdir(mode=0o700, exist_ok=True)
        mount()


def start_switch() -> None:
    """Have systemd run `switch`, in a unit that the app's start is ordered after.

    Raises:
        VaultError: it failed; the message is its own.
    """
    try:
        done = run(["systemctl", "start", _SWITCH], seconds=_SWITCH_SECONDS)
        said = run(["journalctl", "--unit", _SWITCH, "--identifier", "vault", "--output", "cat", "--lines", "1", "--quiet"], seconds=20)
    except (OSError, CommandTimeoutError) as error:
        raise VaultError(f"The clips could not be moved ({error}). Look at journalctl -u {_SWITCH}, then apply again.") from error
    if done.code != 0:
        raise VaultError(said.output.strip() or f"The clips could not be moved: {done.last_words}. Look at journalctl -u {_SWITCH}.")


@contextlib.contextmanager
def _nightly_kept_out(lock: Path) -> Iterator[None]:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(
            "The nightly job is running and works on the clips, so they stay where they are for now. Apply again when it is over: "
            "systemctl status giggles-nightly"
        ) from error
    finally:
        os.close(descriptor)


def erase_before(places: Places) -> int:
    """Overwrite the files of before, now that they are in the volume; return how many.

    Raises:
        VaultError: a file has a second name elsewhere.
    """
    try:
        with opened(str(places.before), None) as folder:
            gone = plain.overwrite(folder)
        places.before.rmdir()
    except overwriting.SharedFileError as error:
        raise VaultError(
            f"A file in {places.before} ({error}) has a second name elsewhere, and overwriting it would destroy that too. It was left "
            f"alone. Find it with find / -xdev -links +1 -samefile FILE, remove one of the names, then apply again."
        ) from error
    return gone.files
