"""Restoring: users' clips out of a snapshot, on the droplet they were saved on, on a new one, or into any folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigglekit import records
from gigglekit.backup import names, signed
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.kit import Kit
from gigglekit.backup.placing import Owner
from gigglekit.backup.restore import Task
from gigglekit.backup.restore import restore as write
from gigglekit.backup.section import FileEntry, NotReadableError, Section
from gigglekit.operations import erasing, kits
from gigglekit.operations.droplet import Droplet
from gigglekit.operations.progress import Progress
from gigglekit.vault.errors import VaultError
from gigglekit.vault.keyring import SNAPSHOTS
from gigglekit.vault.places import KINDS, VAULTS, user_id

if TYPE_CHECKING:
    from gigglekit.backup.repository import Opened, Repository
    from gigglekit.backup.settings import Settings
    from gigglekit.backup.snapshot import Part

_SIGNATURE_BYTES = 64
_KEYS_AT_ONCE = 8


@dataclass
class _Source:
    """What is restored from."""

    repository: Repository
    roots: dict[str, bytes]
    erased: dict[str, str]
    problems: list[str] = field(default_factory=list)
    signing: bytes = field(default=b"", repr=False)


def restore(
    droplet: Droplet,
    *,
    user: object = None,
    snapshot: str | None = None,
    target: str | None = None,
    kit_text: str | None = None,
    path: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Restore clips.

    Arguments:
        droplet: this one.
        user: only this user's, by the user's id.
        snapshot: `latest`, or as much of a name or time as is unique.
        target: a folder; None puts clips where the app looks for them.
        kit_text: the recovery kit, for a machine that knows nothing. With no `target` this droplet takes the place of the one that is gone.
        path: only files whose path begins so, `clips/…`.
        replace: whether clips that are there with another content give way.

    Returns:
        `snapshot`, `users`, `files`, `bytes`, `same`, `kept`, `erased` (users that were refused), and `problems`.

    Raises:
        RefusedError: what was asked for cannot be; nothing was changed.
        BackupError, VaultError, OSError: what was restored by then stays; asking again goes on.
    """
    wanted = user_id(user) if user is not None else None
    if target is not None and not os.path.isabs(target):
        raise RefusedError(
            "target is no absolute path, so nobody can be sure where clips would come to lie in the clear. Nothing was changed. Give one, "
            "in memory for example: target=/run/giggles-look"
        )
    with records.recorded(droplet.records, "restore") as record, Progress("restoring") as progress:
        with droplet.reading(), _source(droplet, kit_text, take_over=target is None) as source:
            name = source.repository.choose(snapshot)
            opened = source.repository.open(name)
            parts = _parts(droplet, source, opened, wanted, kit_text)
            counted = {"users": 0, "erased": 0}

            def tasks() -> Iterator[Task]:
                for part in parts:
                    if part.vault in source.erased:
                        counted["erased"] += 1
                        continue
                    root = source.roots.get(part.vault)
                    if root is None:
                        source.problems.append(f"There is no key for vault {part.vault}, so its {part.files} files cannot be restored.")
                        continue
                    try:
                        section = source.repository.section(opened, part, root)
                    except (DamagedError, MissingError) as error:
                        # Whatever of the others can be saved is saved.
                        source.problems.append(str(error))
                        continue
                    section = dataclasses.replace(section, files=tuple(file for file in section.files if file.path.startswith(path or "")))
                    for place, piece, owner in _places_for(droplet, part.vault, section, target, source.problems):
                        yield Task(piece, root, place, owner)
                    counted["users"] += 1

            total = write(source.repository, tasks(), replace=replace, progress=_sum(progress))
        problems = [*source.problems, *total.damaged]
        numbers = {"snapshot": name.base, **counted, "files": total.files, "bytes": total.size, "same": total.same, "kept": total.kept}
        record.update(numbers, problems=len(problems), ok=not problems)
    return {**numbers, "problems": problems}


def _sum(progress: Progress) -> Callable[[int], None]:
    """Return what shows the sum of the bytes that it is told by several threads."""
    lock, total = threading.Lock(), 0

    def more(size: int) -> None:
        nonlocal total
        with lock:
            total += size
            progress.bytes(total)

    return more


def _parts(droplet: Droplet, source: _Source, opened: Opened, wanted: str | None, kit_text: str | None) -> list[Part]:
    if wanted is None:
        return list(opened.head.users)
    from gigglekit.crypto import keys

    vault = keys.keyed_hash(source.repository.secrets.names, wanted) if kit_text else droplet.keyring().vault_id(wanted)
    if vault in source.erased:
        raise RefusedError(
            f"This user was erased ({source.erased[vault]}), so there is nothing to restore, here or with the recovery kit: the key is "
            "gone. Nothing was changed. salt-call giggles.receipts has the receipt."
        )
    found = [part for part in opened.head.users if part.vault == vault]
    if not found:
        raise RefusedError(
            f"This user is not in the snapshot {opened.name.base}. Nothing was changed. Choose another with snapshot=; salt-call "
            "giggles.snapshots lists them. Somebody who never had a clip is in none."
        )
    return found


@contextlib.contextmanager
def _source(droplet: Droplet, kit_text: str | None, *, take_over: bool) -> Iterator[_Source]:
    if kit_text is None:
        repository = droplet.repository()
        yield _Source(repository, droplet.roots(), _erased(droplet))
        return
    source = open_with_kit(droplet, read_kit(kit_text))
    if take_over:
        with droplet.locked(), droplet.places.locked():
            _take_over(droplet, source, read_kit(kit_text))
    yield source


def _erased(droplet: Droplet) -> dict[str, str]:
    """Return the users that were erased, as this droplet knows them: since when, by vault id."""
    ledger = droplet.ledger()
    return {vault: str((ledger.tombstone(vault) or {}).get("since", "")) for vault in ledger.tombstones()}


def read_kit(text: str) -> Kit:
    """Read a recovery kit.

    Raises:
        RefusedError: it is none; the message quotes nothing of it.
    """
    from gigglekit.backup import kit

    try:
        return kit.read(text)
    except NotReadableError as error:
        raise RefusedError(
            f"This is not a recovery kit that can be used: {error}. Nothing was changed. Give the file with the whole page that salt-call "
            "giggles.recovery_kit printed, lines that begin with # included or not."
        ) from None


def _settings_for(droplet: Droplet, kit: Kit) -> Settings:
    """Return settings for the bucket of a kit: this droplet's if they are for it, else with credentials of the environment."""
    from gigglekit.backup import settings
    from gigglekit.backup.settings import Keep, Settings

    chosen = settings.load(droplet.settings_path)
    if chosen is not None:
        if (chosen.bucket, chosen.prefix) != (kit.bucket, kit.prefix):
            raise RefusedError(
                f"The kit is for the bucket {kit.bucket} with the prefix '{kit.prefix}', and this droplet is set up for {chosen.bucket} "
                f"with '{chosen.prefix}'. Nothing was changed. Choose the kit's bucket in the pillar (giggles:backup), apply it (salt-call "
                "state.apply backup), then ask again."
            )
        return chosen
    key_id, key = os.environ.get("B2_APPLICATION_KEY_ID", ""), os.environ.get("B2_APPLICATION_KEY", "")
    if not key_id or not key:
        raise RefusedError(
            "There are no credentials for the bucket: this machine has no backup configured. Nothing was changed. Make an application key "
            "that may list and read the bucket, and give it in the environment variables B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY."
        )
    return Settings(
        kit.endpoint, kit.region, kit.bucket, kit.prefix, key_id, key, 0, 0, 4, Keep(1, 0, 0), 30, False, "", ("public",),
        os.environ.get("B2_CA_BUNDLE", ""),
    )  # fmt: skip


def open_with_kit(droplet: Droplet, kit: Kit) -> _Source:
    """Open a bucket with nothing but the kit and credentials.

    Raises:
        RefusedError: the kit does not open this bucket.
    """
    from gigglekit.backup.bucket import Bucket
    from gigglekit.backup.repository import Repository, Secrets

    chosen = _settings_for(droplet, kit)
    bucket = Bucket(chosen)

    def key(name: str) -> bytes:
        try:
            return signed.unseal_key(name, bucket.get(name, 4096), kit.key, kit.signer)
        except MissingError:
            raise RefusedError(
                f"{name} is not in the bucket {kit.bucket}, so there is no backup that this kit opens. Nothing was changed. Check the "
                "bucket and prefix on the kit, and whether somebody emptied it; versions that were only hidden can be brought back in the "
                "web UI of Backblaze."
            ) from None
        except NotReadableError as error:
            raise RefusedError(
                f"{name} does not open with this kit: {error}. Nothing was changed. If the kit was replaced since (giggles.recovery_kit "
                "rotate=True), the newest one is needed; a copy of the bucket needs the kit of its time."
            ) from None

    secrets = Secrets(key(names.SYSTEM_KEYS + "snapshots"), key(names.SYSTEM_KEYS + "names"), None, kit.signer, kit.public)
    repository = Repository(lambda: bucket, secrets)
    # What this droplet knows counts too: the bucket may not have heard of an erasure yet.
    source = _Source(repository, {}, {**_erased(droplet), **repository.erased()}, signing=key(names.SYSTEM_KEYS + "signing"))
    sealed = [entry.name for entry in bucket.list(names.USER_KEYS) if entry.name.removeprefix(names.USER_KEYS) not in source.erased]

    def unseal(name: str) -> bytes | str:
        try:
            return signed.unseal_key(name, bucket.get(name, 4096), kit.key, kit.signer)
        except (NotReadableError, DamagedError, MissingError) as error:
            return f"{name} does not open with this kit: {str(error).rstrip('.')}."

    with ThreadPoolExecutor(_KEYS_AT_ONCE, thread_name_prefix="keys") as pool:
        for name, found in zip(sealed, pool.map(unseal, sealed), strict=True):
            if isinstance(found, bytes):
                source.roots[name.removeprefix(names.USER_KEYS)] = found
            else:
                source.problems.append(found)
    return source


def _take_over(droplet: Droplet, source: _Source, kit: Kit) -> None:
    """Go on in place of the droplet that is gone: its keys, its tombstones, its receipts, its kit."""
    from gigglekit.vault.receipt import Receipts

    secrets = source.repository.secrets
    keyring, ledger, receipts = droplet.keyring(), droplet.ledger(), Receipts(droplet.places)
    if not keyring.exists():
        raise RefusedError(
            "This droplet has no vault yet, so there is nowhere to restore to. Nothing was changed. Apply it first (salt-call "
            "state.apply), or give a folder: target=/root/restored"
        )
    from gigglekit.crypto import keys
    from gigglekit.vault.keyring import DUMPS

    keyring.insist_on_share()
    keyring.insist_on_room(secrets.names, source.roots)
    receipts.insist_on_room(source.signing)
    # Tombstones first: from then on nobody who was erased is taken back, whatever happens.
    for vault, since in source.erased.items():
        if ledger.tombstone(vault) is None:
            ledger.bury(vault, since=since)
    held = {SNAPSHOTS: secrets.snapshots, **({} if keyring.secret(DUMPS) else {DUMPS: keys.new()})}
    keyring.take_over(secrets.names, source.roots, held)
    receipts.take_over(source.signing)
    _receipts(source, receipts, droplet)
    erasing.end_predecessor(droplet, source.repository, source.erased)
    droplet.keep_kit(kit.public, kit.created)


def _receipts(source: _Source, receipts: Any, droplet: Droplet) -> None:  # noqa: ANN401
    import json

    bucket, ledger = source.repository.bucket, droplet.ledger()
    for entry in list(bucket.list(names.RECEIPTS)):
        number = entry.name.removeprefix(names.RECEIPTS)
        try:
            content = signed.open_signed(
                signed.LEDGER, entry.name, bucket.get(entry.name, 1 << 20), source.repository.secrets.signer_public
            )
            subject = json.loads(content[_SIGNATURE_BYTES:])["subject"]
        except (NotReadableError, DamagedError, MissingError, ValueError, KeyError) as error:
            source.problems.append(f"{entry.name} is not as it was written: {str(error).rstrip('.')}.")
            continue
        if number.isascii() and number.isdigit() and len(content) > _SIGNATURE_BYTES:
            receipts.put_back(int(number), content[_SIGNATURE_BYTES:], content[:_SIGNATURE_BYTES])
            tombstone = ledger.tombstone(subject)
            if tombstone is not None and tombstone.get("receipt", 0) < int(number):
                ledger.bury(subject, receipt=int(number))


def _places_for(
    droplet: Droplet, vault: str, section: Section, target: str | None, problems: list[str]
) -> Iterator[tuple[Path, Section, Owner | None]]:
    """Yield where a user's files go, with the paths as they are there. A place is good until the next one is asked for."""
    if target is not None:
        place = Path(target) / (section.user or vault)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield place, section, None
        return
    found = droplet.places.owner()
    owner = Owner(found.uid, found.gid, found.file_mode, found.folder_mode)
    clips = [file for file in section.files if not file.path.startswith("legacy/")]
    legacy = [file for file in section.files if file.path.startswith("legacy/")]
    if droplet.ledger().tombstone(vault) is not None:
        problems.append(_erased_meanwhile(vault, section))
        return
    if clips and droplet.places.is_encrypted():
        if _make_vault(droplet, vault, section.user):
            yield droplet.places.uploads / VAULTS / vault, dataclasses.replace(section, files=tuple(clips)), owner
        else:
            problems.append(_erased_meanwhile(vault, section))
            return
    elif clips and not section.user:
        problems.append(f"Nobody knows whose vault {vault} is, so its {len(clips)} clips were not restored here. Give a folder: target=…")
    elif clips:
        with _app_folder(droplet, section.user, owner, problems) as folder:
            if folder is not None:
                yield folder, dataclasses.replace(section, files=_below("clips/", clips)), owner
    if legacy:
        with _app_folder(droplet, "", owner, problems) as folder:
            if folder is not None:
                yield folder, dataclasses.replace(section, files=_below("legacy/", legacy)), owner


def _erased_meanwhile(vault: str, section: Section) -> str:
    return f"The user of vault {vault} was erased meanwhile, so {len(section.files)} files were not restored."


@contextlib.contextmanager
def _app_folder(droplet: Droplet, user: str, owner: Owner, problems: list[str]) -> Iterator[Path | None]:
    """Have the folder of a user below the app's `clips/`, or that itself; None if something else lies there.

    The app may have put links there, and this runs as root: what was opened is what is written into.
    """
    from gigglekit.vault.volume import opened

    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(opened(str(droplet.places.uploads), None))
            for name in filter(None, ("clips", user)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=folder)
                    os.chown(name, owner.uid, owner.gid, dir_fd=folder, follow_symlinks=False)
                    os.chmod(name, owner.folder_mode, dir_fd=folder)
                folder = stack.enter_context(opened(name, folder))
            yield Path(f"/proc/self/fd/{folder}")
    except VaultError as error:
        problems.append(str(error).replace(user, "of a user") if user else str(error))
        yield None


def _below(prefix: str, files: list[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(file._replace(path=file.path.removeprefix(prefix)) for file in files if file.path.startswith(prefix))


def _make_vault(droplet: Droplet, vault: str, user: str) -> bool:
    """Have a user's vault, unlocked, and the links that lead the app to it; return False if the user was erased meanwhile."""
    from gigglekit.vault import adopt
    from gigglekit.vault.volume import mounted

    with droplet.places.locked(), mounted(droplet.places) as volume:
        volume.insist_on_keys()
        if droplet.ledger().tombstone(vault) is not None:
            return False
        # One that is there may be one that a killed run has begun.
        volume.make_vault(vault, droplet.keyring())
        for kind in KINDS if user else ():
            with volume.folder(kind) as lobby, contextlib.suppress(FileExistsError):
                # Where the app has made a folder meanwhile, adoption moves what is in it into this vault.
                os.symlink(adopt.link_target(vault, kind), user, dir_fd=lobby)
    return True


def restore_database(
    droplet: Droplet, *, snapshot: str | None = None, url: str | None = None, kit_text: str | None = None, clean: bool = False
) -> dict[str, Any]:
    """Load the database of a snapshot, without users who were erased since.

    Arguments:
        droplet: this one.
        snapshot: as in `restore`; None takes the newest that has a dump.
        url: of the database; None is the app's.
        kit_text: the recovery kit, needed for dumps from before the last erasure, and on a new droplet.
        clean: empty the tables that the dump has first.

    Raises:
        BackupError, VaultError: nothing in the database was changed, unless the message says otherwise.
    """
    from gigglekit.backup import database
    from gigglekit.crypto import keys

    with records.recorded(droplet.records, "restore") as record, Progress("loading"), droplet.reading():
        kit = read_kit(kit_text) if kit_text is not None else None
        source = open_with_kit(droplet, kit) if kit else None
        repository = source.repository if source else droplet.repository()
        erased = set(repository.erased()) | set(droplet.ledger().tombstones())
        opened = _with_dump(repository, snapshot)
        dump = opened.head.dump
        if dump is None:
            raise RefusedError(f"The snapshot {opened.name.base} has no dump of the database. Choose another: salt-call giggles.snapshots")
        key = _dump_key(droplet, repository, dump.id, dump.size, kit)
        where = url or _app_url(droplet)

        @functools.cache
        def gone() -> set[str]:
            # First asked when the rows are loaded: of who was erased while they came, they may have been deleted before. Of who is
            # erased later they are deleted after this, since the tables are closed to others until it is over.
            heard = {entry.name.removeprefix(names.ERASED) for entry in repository.bucket.list(names.ERASED)} - erased
            return {*erased, *droplet.ledger().tombstones(), *(repository.erased(among=heard) if heard else ())}

        done = database.restore(
            where,
            repository.bucket.stream(names.DATABASE + dump.id),
            key=key,
            dump_id=dump.id,
            program_restore=_pg_restore(droplet),
            clean=clean,
            forget=lambda user: keys.keyed_hash(repository.secrets.names, user) in gone(),
        )
        result = {"snapshot": opened.name.base, **dataclasses.asdict(done)}
        record.update({"snapshot": opened.name.base, "database": True})
    return result


def _pg_restore(droplet: Droplet) -> str:
    from gigglekit.backup import settings
    from gigglekit.backup.postgresql import pg_restore_beside

    chosen = settings.load(droplet.settings_path)
    return pg_restore_beside(chosen.pg_dump) if chosen else ""


def _app_url(droplet: Droplet) -> str:
    found = droplet.database()
    if found is None:
        raise RefusedError(
            "No database is configured (giggles:secrets:app:DATABASE_URL), and none was given, so there is nowhere to load the dump. "
            "Nothing was changed."
        )
    return found.url


def _with_dump(repository: Repository, snapshot: str | None) -> Opened:
    if snapshot not in (None, "", "latest"):
        return repository.open(repository.choose(snapshot))
    for name in reversed(repository.snapshots()):
        opened = repository.open(name)
        if opened.head.dump is not None:
            return opened
    raise RefusedError("No snapshot in this bucket has a dump of the database. Nothing was changed.")


def _dump_key(droplet: Droplet, repository: Repository, dump: str, size: int, kit: Kit | None) -> bytes:
    name = names.DATABASE_KEYS + dump
    if kit is not None:
        try:
            return signed.unseal_key(name, repository.bucket.get(name, 4096), kit.key, kit.signer)
        except MissingError:
            raise RefusedError(
                "This dump has come to its end: its key was deleted, as after giggles:backup:keep_dumps_days. Choose a later snapshot."
            ) from None
        except NotReadableError as error:
            raise RefusedError(f"The key of this dump does not open with this kit: {error}. Nothing was changed.") from None
    key = droplet.dump_key(dump)
    if key is None or not kits.opens(repository, dump, size, key):
        raise RefusedError(
            "This dump is from before the last erasure, and since then this droplet opens it no more. Nothing was changed. The recovery "
            "kit does: salt-call giggles.restore_database snapshot=… kit=/root/kit.txt"
        )
    return key
