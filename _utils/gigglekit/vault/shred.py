"""Erasing one user, as one transaction that can be resumed after every step.

The journal says which steps are done; every step may be run again. A run that is killed, or that finds
something in its way, leaves the user's tombstone, so that nothing of the user can come back meanwhile, and the next run goes
on. Nothing is reported as erased before the last step, and no receipt is written before the kernel says that the key is gone.

Source: NIST SP 800-88 Rev. 1, section 2.6 and appendix D (cryptographic erase).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.files import overwriting
from gigglekit.vault import adopt, fscrypt, holders, lobby, plain
from gigglekit.vault.errors import BusyError, RefusedError, VaultError
from gigglekit.vault.keyring import Keyring, fscrypt_key
from gigglekit.vault.ledger import Ledger, now
from gigglekit.vault.places import ENCRYPTED, KINDS, PLAIN, VAULTS, Places, is_user_id, user_id
from gigglekit.vault.receipt import Receipts
from gigglekit.vault.remote import PendingError, Remote
from gigglekit.vault.rows import Database, DatabaseError
from gigglekit.vault.share import ShareUnreachableError
from gigglekit.vault.volume import BESIDE, Volume, mounted

APP_SERVICE = "giggles.service"
_FIRST_TRY_SECONDS = 1.0
_AFTER_RESTART_SECONDS = 15.0
_LOBBY_SECONDS = 10.0

CRYPTOGRAPHIC = "cryptographic erase: the only key was destroyed, and the kernel confirmed that it has it no more"
OVERWRITTEN = "overwritten in place with a keystream whose key nobody has, flushed and unlinked"
DELETED = "deleted in one transaction"
NOTHING = "nothing was there"

_RISKS = {
    "clips and audio": "File sizes, times and the shape of the folders may be left on the disk; names and contents cannot be read.",
    "key ring": (
        "The disk may keep old blocks of the key files, and a snapshot of this droplet keeps the whole disk, keys included: delete "
        "snapshots from before this receipt."
    ),
    "key ring, share replaced": (
        "Old blocks of the key files that the disk may keep, and a snapshot of this droplet from before, open no clip by themselves: the "
        "bucket's share of the key, which they need, was destroyed. They do together with a copy of the bucket from that time. A snapshot "
        "from before this droplet had its bucket needs no share: delete such a one."
    ),
    "key ring, share in force": (
        "The bucket's share of the key is still the one of before. So a snapshot of this droplet from before, and whoever has its disk, "
        "can still open the user's clips with it: delete such snapshots, or see that none is started until a receipt says that the share "
        "was replaced."
    ),
    "bucket's share": (
        "A copy of the bucket from before holds it, and opens the user's clips together with a disk or a snapshot of this droplet of the "
        "same time. Without such a copy neither does."
    ),
    "lobby": "None beyond those of the key ring.",
    "legacy clips": "None beyond those of the lobby.",
    "plain files": (
        "The name of the user's folder, which is the user's id, stays taken by a link. A disk that moves blocks, or a snapshot of this "
        "droplet, may hold earlier copies: delete snapshots from before."
    ),
    "database": "Its provider's own backups and logs keep the rows until they expire.",
    "backup": "No backup is made by this droplet. A copy made by other means is not reached.",
    "bucket": (
        "A copy of the bucket that somebody made before opens with the recovery kit that was in force then: salt-call "
        "giggles.recovery_kit rotate=True makes one that such a copy does not know, and the old one can be destroyed."
    ),
    "database dumps": (
        "Until then the recovery kit opens them. Restoring one deletes the user's rows again, by the ledger, before anybody can use it."
    ),
}


class HeldOpenError(BusyError):
    """Somebody has a file of the user open, so the kernel keeps the key; the user is not erased."""


@dataclass(frozen=True)
class Found:
    """What there is of a user.

    Arguments:
        vault_id: keyed hash of the user's id.
        mode: `encrypted` or `plain`.
        state: `present`, `being erased`, `erased` or `unknown`.
        files: how many files, in vault and lobby.
        size: their bytes.
        rows: how many rows each table has; None if no database is configured.
        legacy: clips of the user that lie directly below `clips/`.
        holders: who has files of the user open.
        receipt: number of the receipt of an erased user.
    """

    vault_id: str
    mode: str
    state: str
    files: int
    size: int
    rows: dict[str, int] | None
    legacy: int
    holders: tuple[str, ...]
    receipt: int | None


@dataclass(frozen=True)
class Outcome:
    """How an erasure ended.

    Arguments:
        vault_id: keyed hash of the user's id.
        receipt: number of the receipt.
        confirmed: the user had been erased before, and nothing has come back.
        pending: why the copies in the backup are not erased yet, "" if they are; another receipt follows then.
        copies: what the receipt says of each copy.
        key_destroyed_after: seconds from the call until the key was destroyed on every disk; None if an earlier run did that.
    """

    vault_id: str
    receipt: int
    confirmed: bool
    copies: list[dict[str, Any]]
    key_destroyed_after: float | None
    pending: str = ""


@dataclass
class _Run:
    """One call: what it works with, and how far the erasure has come."""

    places: Places
    user: str
    vault_id: str
    database: Database | None
    restart_app: Callable[[], None]
    mode: str
    remote: Remote | None = None
    began: float = field(default_factory=time.monotonic)
    key_destroyed_after: float | None = None
    journal: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keyring = Keyring(self.places)
        self.ledger = Ledger(self.places)
        self.receipts = Receipts(self.places)

    @property
    def done(self) -> dict[str, dict[str, Any]]:
        return self.journal["done"]  # type: ignore[no-any-return]

    def step(self, name: str, act: Callable[[], dict[str, Any]]) -> None:
        """Do a step unless it is done, and write down that it is."""
        if name not in self.done:
            facts = act()
            self.done[name] = {"time": now(), **facts}
            self.ledger.note(self.vault_id, self.journal)


def examine(places: Places, given: object, database: Database | None) -> Found:
    """Look at what there is of a user, and change nothing.

    Arguments:
        places: where everything lies.
        given: the user's id, as somebody typed it.
        database: the app's, None if none is configured.

    Raises:
        RefusedError: it is no user's id.
        VaultError: the vault or the database cannot be read.
    """
    user = user_id(given)
    run = _Run(places, user, Keyring(places).vault_id(user), database, lambda: None, ENCRYPTED if places.is_encrypted() else PLAIN)
    rows = database.count(user) if database else None
    paths = database.clip_paths(user) if database else []
    files = size = 0
    with _root(run) as volume:
        _refuse(run, volume)
        for folder in _folders(run, volume):
            more = _measure(folder)
            files, size = files + more[0], size + more[1]
        legacy = sum(1 for name in legacy_names(places, paths) if _is_file(places.uploads / "clips" / name))
        there = bool(files or legacy or any((rows or {}).values())) or _has_something(run, volume)
    tombstone = run.ledger.tombstone(run.vault_id)
    if run.ledger.journal(run.vault_id) is not None or (tombstone and (there or "receipt" not in tombstone)):
        state = "being erased"
    else:
        state = "erased" if tombstone else "present" if there else "unknown"
    held = tuple(str(holder) for holder in holders.of_path(_fragment(run)))
    return Found(run.vault_id, run.mode, state, files, size, rows, legacy, held, (tombstone or {}).get("receipt"))


def shred(
    places: Places, given: object, database: Database | None, restart_app: Callable[[], None], remote: Remote | None = None
) -> Outcome:
    """Erase a user everywhere this droplet reaches, go on with an erasure that was interrupted, or confirm one.

    Arguments:
        places: where everything lies.
        given: the user's id, as somebody typed it.
        database: the app's, None if none is configured.
        restart_app: restarts the web app behind its socket; asked for only if it has files of the user open.
        remote: the backup, None if there is none. If it cannot be reached, the outcome says that it is pending.

    Raises:
        RefusedError: it is no user's id, nobody knows the user, or erasing would harm somebody else; nothing was changed.
        HeldOpenError: somebody has a file of the user open; the user is not erased.
        VaultError: the vault or the database is in no state to do it; the message says how far it has come.
    """
    user = user_id(given)
    mode = ENCRYPTED if places.is_encrypted() else PLAIN
    run = _Run(places, user, Keyring(places).vault_id(user), database, restart_app, mode, remote)
    with places.locked(), _root(run) as volume:
        run.keyring.tidy() if mode == ENCRYPTED else None
        journal = run.ledger.journal(run.vault_id)
        if journal is None:
            confirmed = _confirm_or_refuse(run, volume)
            if confirmed is not None:
                return confirmed
            identifier = _identifier(run, volume) if volume is not None else None
            # Kept, since the ring will not know it any more when the kernel is asked. It tells nothing of the key.
            journal = {"started": now(), "identifier": (identifier or b"").hex(), "done": {}}
        else:
            _refuse(run, volume)
        run.journal = journal
        run.ledger.note(run.vault_id, journal)
        run.ledger.bury(run.vault_id)
        if mode == ENCRYPTED and volume is not None:
            _erase_encrypted(run, volume)
        else:
            _erase_plain(run)
        return _conclude(run)


def finish_remote(places: Places, vault_id: str, remote: Remote) -> Outcome | None:
    """Go on with an erasure of which only the copies in the backup are left.

    Arguments:
        places: where everything lies.
        vault_id: the user's; nobody needs to know the user's id any more.
        remote: the backup.

    Returns:
        How it ended; None if there is no such erasure, or if more than that is left of it.
    """
    mode = ENCRYPTED if places.is_encrypted() else PLAIN
    with places.locked():
        run = _Run(places, "", vault_id, None, lambda: None, mode, remote)
        journal = run.ledger.journal(vault_id)
        if journal is None or "pending" not in journal:
            return None
        run.journal = journal
        return _conclude(run)


def _conclude(run: _Run) -> Outcome:
    """Erase what lies in the backup, and write the receipt; what cannot be reached now is said to be pending in one."""
    pending = ""
    if run.remote is not None:
        try:
            run.step("bucket", lambda: _erase_remote(run, run.remote))  # type: ignore[arg-type]
        except PendingError as error:
            pending = str(error)
    before = run.journal.get("pending")
    if pending and before is not None:
        return Outcome(run.vault_id, int(before), False, list(run.receipts.read(int(before))["copies"]), None, pending)
    copies = _copies(run) if before is None else _copies_elsewhere(run)
    content = {
        "subject": run.vault_id, "mode": run.mode, "started": run.journal["started"], "finished": _last(run), "copies": copies,
        **({"completes": before} if before is not None else {}),
    }  # fmt: skip
    number = run.receipts.issue(content)
    run.ledger.bury(run.vault_id, receipt=number)
    if pending:
        run.journal["pending"] = number
        run.ledger.note(run.vault_id, run.journal)
    else:
        run.ledger.close(run.vault_id)
        if run.remote is not None:
            # The droplet may be lost before the next backup.
            run.remote.tell()
    return Outcome(run.vault_id, number, False, copies, run.key_destroyed_after, pending)


# --- before anything is changed ---------------------------------------------------------------------------------------


def _confirm_or_refuse(run: _Run, volume: Volume | None) -> Outcome | None:
    """Return the outcome of an erasure that is complete already; None if there is something to erase."""
    _refuse(run, volume)
    rows = sum(run.database.count(run.user).values()) if run.database and not _has_something(run, volume) else 0
    paths = legacy_names(run.places, run.database.clip_paths(run.user)) if run.database and rows else []
    if rows or paths or _has_something(run, volume):
        return None
    tombstone = run.ledger.tombstone(run.vault_id)
    if tombstone is None:
        raise RefusedError(
            "Nothing is known of this user: no vault, no folder in the lobby"
            + (", no row in the database" if run.database else "")
            + ", no receipt. Nothing was erased. Check the id; salt-call giggles.vaults lists the users that have a vault."
        )
    number = tombstone.get("receipt")
    if number is None:
        return None
    return Outcome(run.vault_id, int(number), True, list(run.receipts.read(int(number))["copies"]), None)


def _refuse(run: _Run, volume: Volume | None) -> None:
    """Refuse what would harm somebody else."""
    places = run.places
    if places.before.exists():
        raise VaultError(
            f"Clips from before the vault still lie in {places.before} and are not erased yet, this user's perhaps among them. Nothing was "
            "done. Finish moving them, then ask again: salt-call state.apply vault"
        )
    expected = {kind: adopt.link_target(run.vault_id, kind) for kind in KINDS}
    for kind in KINDS:
        with contextlib.suppress(OSError):
            target = os.readlink(places.uploads / kind / run.user)
            if target != expected[kind]:
                raise RefusedError(
                    f"The user's folder in {places.uploads / kind} is a link to {target}, which is not this user's. Nothing was erased. "
                    "Somebody put it there: look where it leads, remove the link (not what it leads to), then ask again."
                )
    inside = (f"{places.uploads}/{VAULTS}/{run.vault_id}", *(f"{places.uploads}/{kind}/{run.user}" for kind in KINDS))
    for mount in _mount_points():
        if any(mount == folder or mount.startswith(f"{folder}/") for folder in inside):
            raise RefusedError(
                f"Another file system is mounted at {mount}, inside what would be erased. Nothing was erased. Unmount it, then ask again: "
                f"umount {mount}"
            )
    if volume is None:
        shared = plain.shared_files(places, run.user)
        if shared:
            raise RefusedError(
                f"{len(shared)} files of this user have a second name elsewhere ({shared[0]}), and overwriting them would destroy that "
                "too. Nothing was erased. Find it with find / -xdev -samefile FILE, remove one of the names, then ask again."
            )
        return
    volume.insist_on_keys()
    identifier = _identifier(run, volume)
    for path in _names_outside(run, volume, identifier) if identifier is not None else ():
        raise RefusedError(
            f"{path} is a second name of a file in this user's vault (a hard link that leads out of it). Nothing was "
            "erased. Remove it (chattr -i the folder first), then ask again."
        )


def _names_outside(run: _Run, volume: Volume, identifier: bytes) -> Iterator[Path]:
    """Yield files that are, or may be, encrypted by this key and lie in a folder that is not: nowhere else can a link lead."""
    with volume.folder(VAULTS) as vaults, volume.folder(BESIDE) as beside:
        for folder, path in ((volume.root, "."), (vaults, VAULTS), (beside, BESIDE)):
            for name, is_folder in adopt.entries(folder):
                if not is_folder and _policy(folder, name) in (identifier, b"locked"):
                    yield run.places.uploads / path / name


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # proc(5): blanks and the like are written as octal numbers.
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def _policy(folder: int, name: str) -> bytes | None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b"locked"
    try:
        return fscrypt.identifier_of(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _root(run: _Run) -> Iterator[Volume | None]:
    if run.mode == PLAIN:
        yield None
        return
    with mounted(run.places) as volume:
        yield volume


def _identifier(run: _Run, volume: Volume) -> bytes | None:
    root = run.keyring.root_key(run.vault_id)
    if root is not None:
        return fscrypt.identifier_for(fscrypt_key(root))
    with contextlib.suppress(FileNotFoundError), volume.vault(run.vault_id) as folder:
        return fscrypt.identifier_of(folder)
    return None


def _has_something(run: _Run, volume: Volume | None) -> bool:
    if volume is None:
        return any(True for _ in plain.folders(run.places, run.user))
    if run.keyring.root_key(run.vault_id) is not None or run.vault_id in volume.vault_ids():
        return True
    return any(True for _ in _lobby_folders(run))


def _lobby_folders(run: _Run) -> Iterator[Path]:
    yield from plain.folders(run.places, run.user)
    for kind in KINDS:
        # Where a renewal of the lobby that was killed has left it.
        beside = run.places.uploads / BESIDE / kind / run.user
        if beside.is_dir() and not beside.is_symlink():
            yield beside


def _folders(run: _Run, volume: Volume | None) -> Iterator[Path]:
    if volume is None:
        yield from plain.folders(run.places, run.user)
    else:
        yield from _lobby_folders(run)
        vault = run.places.uploads / VAULTS / run.vault_id
        if vault.is_dir():
            yield vault


def _measure(folder: Path) -> tuple[int, int]:
    files = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(place, name))
                if stat.S_ISREG(status.st_mode):
                    files, size = files + 1, size + status.st_size
    return files, size


def _fragment(run: _Run) -> str:
    return f"/{VAULTS}/{run.vault_id}"


def legacy_names(places: Places, paths: list[str]) -> list[str]:
    """Return the names of clips that lie directly below `clips/`, out of the paths that the database has for a user.

    Whoever may write rows may write any path: what else lies there is another user's folder, or the link to it.
    """
    above = f"{places.uploads}/clips/"
    names = (path.removeprefix(above) for path in paths if path.startswith(above))
    return sorted({name for name in names if name and "/" not in name and not name.startswith(".") and not is_user_id(name)})


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


# --- the steps ----------------------------------------------------------------------------------------------------------


def _erase_encrypted(run: _Run, volume: Volume) -> None:
    run.step("links", lambda: _block(run, volume))
    # From here on nothing on any disk opens the user's clips, however long the kernel takes to clear what it has in memory.
    run.step("key ring", lambda: _destroy_wrapped(run))
    run.step("key", lambda: _forget_key(run, volume))
    run.step("ciphertext", lambda: _remove_ciphertext(run, volume))
    trouble: DatabaseError | None = None
    try:
        run.step("legacy", lambda: _remove_legacy(run, volume))
    except DatabaseError as error:
        trouble = error
    if trouble is not None:
        # What can be done now is done now.
        _renew_lobby(run, volume)
        raise _unfinished_rows(trouble)
    run.step("lobby", lambda: _renew_lobby(run, volume))
    run.step("database", lambda: _delete_rows(run))


def _unfinished_rows(error: DatabaseError) -> DatabaseError:
    return DatabaseError(
        f"The user's clips are erased, and the rows in the database are not yet, so the erasure is not complete and there is no receipt. "
        f"{error} Asking again goes on where this stopped."
    )


def _block(run: _Run, volume: Volume) -> dict[str, Any]:
    files = size = 0
    for kind in KINDS:
        with volume.folder(kind) as folder:
            gone = adopt.block(folder, kind, run.user, run.vault_id)
        files, size = files + gone.files, size + gone.size
    return {"files": files, "bytes": size}


def _forget_key(run: _Run, volume: Volume) -> dict[str, Any]:
    identifier = bytes.fromhex(run.journal["identifier"])
    if not identifier:
        return {"found": 0}
    found = fscrypt.forget(volume.root, identifier, seconds=_FIRST_TRY_SECONDS)
    if found is not fscrypt.Status.ABSENT and any(holder.service == APP_SERVICE for holder in holders.of_path(_fragment(run))):
        run.restart_app()
        found = fscrypt.forget(volume.root, identifier, seconds=_AFTER_RESTART_SECONDS)
    if found is not fscrypt.Status.ABSENT:
        held = holders.of_path(_fragment(run))
        raise HeldOpenError(
            "This user is not erased: the kernel still has the key, since files of the user are open in "
            + (", ".join(map(str, held)) or "a process that cannot be seen from here")
            + ". On the disk nothing opens them any more, and new files of the user are refused. End what holds them, then ask again, "
            "which goes on where this stopped."
        )
    return {"found": 1}


def _destroy_wrapped(run: _Run) -> dict[str, Any]:
    run.keyring.rekey(frozenset((run.vault_id,)))
    run.key_destroyed_after = time.monotonic() - run.began
    return {}


def _remove_ciphertext(run: _Run, volume: Volume) -> dict[str, Any]:
    files = size = 0
    with contextlib.suppress(FileNotFoundError):
        with volume.vault(run.vault_id) as folder:
            gone = adopt.erase(folder)
            files, size = gone.files, gone.size
        with volume.folder(VAULTS) as vaults:
            os.rmdir(run.vault_id, dir_fd=vaults)
            os.fsync(vaults)
    return {"files": files, "bytes": size}


def _remove_legacy(run: _Run, volume: Volume) -> dict[str, Any]:
    files = size = 0
    if run.database is not None:
        with volume.folder("clips") as clips:
            for name in legacy_names(run.places, run.database.clip_paths(run.user)):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=clips, follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    os.unlink(name, dir_fd=clips)
                    files, size = files + 1, size + status.st_size
    return {"files": files, "bytes": size}


def _renew_lobby(run: _Run, volume: Volume) -> dict[str, Any]:
    renewed = lobby.renew(volume, run.keyring, run.ledger, seconds=_LOBBY_SECONDS)
    if not renewed.complete:
        # Mostly the app, with a file of the old lobby open.
        run.restart_app()
        renewed = lobby.renew(volume, run.keyring, run.ledger, seconds=_LOBBY_SECONDS)
    if not renewed.complete:
        held = [holder for kind in ("clips", "audio", "temp", ".lobby") for holder in holders.of_path(f"{run.places.uploads}/{kind}")]
        raise HeldOpenError(
            f"The user's vault is erased, but copies in the lobby are not yet, since its key is still needed for {renewed.waiting_for}"
            + (f": {', '.join(sorted(set(map(str, held))))}" if held else "")
            + ". There is no receipt yet. Wait until it is closed, or end what holds it; then ask again, which goes on where this stopped."
        )
    # Old wrappings of the lobby's key were made by a key that would otherwise live on.
    run.keyring.rekey()
    return {}


def _delete_rows(run: _Run) -> dict[str, Any]:
    if run.database is None:
        return {}
    try:
        return {"rows": run.database.delete(run.user)}
    except DatabaseError as error:
        raise _unfinished_rows(error) from None


def _erase_remote(run: _Run, remote: Remote) -> dict[str, Any]:
    erased = remote.erase(run.vault_id, str((run.ledger.tombstone(run.vault_id) or {})["since"]))
    has_share = remote.shares is not None and run.keyring.share() is not None
    if has_share:
        # A share that was there while the user's key was opens, with an old disk, that key.
        try:
            run.keyring.rekey(shares=remote.shares)
        except ShareUnreachableError as error:
            raise PendingError(str(error)) from error
    return {"objects": erased.objects, "locked_until": erased.locked_until, "dumps_until": erased.dumps_until, "share": has_share}


def _erase_plain(run: _Run) -> None:
    run.step("links", lambda: plain.block(run.places, run.user, run.vault_id))
    if run.keyring.exists():
        # Clips are not encrypted by it here, but copies in the backup are; and dumps from before open no more.
        run.step("key ring", lambda: _destroy_wrapped(run))
    try:
        run.step("legacy", lambda: _overwrite_legacy(run))
    except DatabaseError as error:
        raise _unfinished_rows(error) from None
    run.step("database", lambda: _delete_rows(run))


def _overwrite_legacy(run: _Run) -> dict[str, Any]:
    files = size = 0
    for name in legacy_names(run.places, run.database.clip_paths(run.user)) if run.database else []:
        with contextlib.suppress(FileNotFoundError):
            if not _is_file(run.places.uploads / "clips" / name):
                continue
            try:
                size += overwriting.erase(run.places.uploads / "clips" / name)
            except overwriting.SharedFileError as error:
                raise VaultError(
                    f"{run.places.uploads / 'clips' / name}, a clip of this user, has a second name elsewhere, so it was left alone and "
                    "the erasure is not complete. Find it with find / -xdev -samefile FILE, remove one of the names, then ask again."
                ) from error
            files += 1
    return {"files": files, "bytes": size}


# --- the receipt --------------------------------------------------------------------------------------------------------


def _last(run: _Run) -> str:
    return str(max(facts["time"] for facts in run.done.values()))


def _copies(run: _Run) -> list[dict[str, Any]]:
    done = run.done

    def entry(copy: str, step: str, method: str, **facts: int | dict[str, int]) -> dict[str, Any]:
        return {"copy": copy, "method": method, "time": done[step]["time"], "risk": _RISKS[copy], **facts}

    def amount(*steps: str) -> dict[str, int]:
        return {unit: sum(int(done[step].get(unit, 0)) for step in steps) for unit in ("files", "bytes")}

    copies = []
    if run.mode == ENCRYPTED:
        had_key = bool(done["key"]["found"])
        copies.append(entry("clips and audio", "ciphertext", CRYPTOGRAPHIC if had_key else NOTHING, **amount("ciphertext")))
        copies.append(
            {
                **entry("key ring", "key ring", "every wrapping of the key was overwritten and removed; all other keys were wrapped anew"),
                "risk": _RISKS[_key_ring(run)],
            }
        )
        copies.append(entry("lobby", "lobby", "cryptographic erase: the lobby's key was replaced and destroyed", **amount("links")))
        copies.append(
            entry("legacy clips", "legacy", "removed from the lobby before its key was destroyed", **amount("legacy"))
            if done["legacy"]["files"]
            else entry("legacy clips", "legacy", NOTHING)
        )
    else:
        copies.append(entry("plain files", "legacy", OVERWRITTEN, **amount("links", "legacy")))
    if run.database is not None:
        copies.append(entry("database", "database", DELETED, rows=done["database"]["rows"]))
    else:
        copies.append(
            {**entry("database", "database", "no database is configured"), "risk": "Rows in a database elsewhere are not reached."}
        )
    return copies + _copies_elsewhere(run)


def _key_ring(run: _Run) -> str:
    """Return what the risk of the key ring depends on: whether a share of the key lies elsewhere, and whether it is another one by now."""
    if run.keyring.share() is None:
        return "key ring"
    return f"key ring, share {'replaced' if run.done.get('bucket', {}).get('share') else 'in force'}"


def _copies_elsewhere(run: _Run) -> list[dict[str, Any]]:
    if run.remote is None:
        return [{"copy": "backup", "method": "none is configured", "time": _last(run), "risk": _RISKS["backup"]}]
    if "bucket" not in run.done:
        method = "pending: the bucket could not be reached; it is tried again with every backup, and another receipt says when it is done"
        return [{"copy": "backup", "method": method, "time": _last(run), "risk": _RISKS["bucket"]}]
    done = run.done["bucket"]
    until = done["locked_until"]
    rest = (
        f"{done['objects']} data objects are locked, unreadable, until {until}" if until else f"{done['objects']} data objects were deleted"
    )
    method = f"cryptographic erase: the sealed key was deleted in all its versions; {rest}"
    copies = [{"copy": "backup", "method": method, "time": done["time"], "risk": _RISKS["bucket"]}]
    if done["dumps_until"]:
        method = f"the user's rows are in dumps from before; the key of the last one is deleted by {done['dumps_until']}"
        copies.append({"copy": "database dumps", "method": method, "time": done["time"], "risk": _RISKS["database dumps"]})
    if done.get("share"):
        method = "replaced by a new one, and deleted in all its versions"
        copies.append({"copy": "bucket's share", "method": method, "time": done["time"], "risk": _RISKS["bucket's share"]})
    return copies
