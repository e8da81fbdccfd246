"""Looking at the backup: which snapshots there are, whether the bucket is whole, and whether restoring really works."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.backup import names, waiting
from gigglekit.backup.errors import DamagedError, MissingError, RefusedError
from gigglekit.backup.repository import Opened, Repository
from gigglekit.backup.snapshot import Dump
from gigglekit.operations import kits, saving
from gigglekit.operations.droplet import Droplet
from gigglekit.operations.progress import Progress

_DRILL_FRACTION = 0.1
_WAIT_SECONDS = 600.0
"""How long a drill waits for others at work on the bucket."""
_SCRATCH = Path("/run/giggles/drill")
"""In memory: what is loaded there in the clear must not lie on a disk."""


def snapshots(droplet: Droplet) -> list[dict[str, Any]]:
    """Return what snapshots there are, the oldest first; `given_up` stands with those that a prune is going to remove.

    Raises:
        BackupError: the bucket does not answer.
    """
    repository = droplet.repository()
    found: list[dict[str, Any]] = []
    given_up = {name for record in waiting.read(repository, waiting.record_names(repository), []) for name in record.snapshots}
    for name in repository.snapshots():
        try:
            head = repository.open(name).head
        except (DamagedError, MissingError) as error:
            found.append({"snapshot": name.base, "time": name.written, "damaged": str(error)})
            continue
        found.append(
            {
                "snapshot": name.base,
                "time": head.time,
                "users": len(head.users),
                "files": sum(part.files for part in head.users),
                "bytes": sum(part.size for part in head.users),
                "database": head.dump is not None,
                **({"given_up": True} if name in given_up else {}),
            }
        )
    return found


def verify(droplet: Droplet, *, fraction: float = 0.0) -> dict[str, Any]:
    """Check the bucket; see `gigglekit.backup.verify.verify`.

    Arguments:
        droplet: this one.
        fraction: which part of all data is read and decrypted, 0 to 1.
    """
    from gigglekit.backup import verify as backup_verify

    with records.recorded(droplet.records, "verify") as record, Progress("reading") as progress:
        # A prune in between would look like damage.
        with droplet.locked(60), droplet.manifest() as manifest:
            found = backup_verify.verify(
                droplet.repository(),
                droplet.roots(),
                expected=manifest.get("snapshot"),
                manifest=manifest,
                fraction=fraction,
                progress=progress.bytes,
            )
        done = dataclasses.asdict(found)
        record.update({**done, "problems": len(found.problems), "ok": not found.problems})
    return done


def fraction_of(text: object) -> float:
    """Read how much is to be read: `all`, `none`, `1%` or a number of percent.

    Raises:
        RefusedError: it is none of these.
    """
    said = str(text if text is not None else "none").strip().lower().removesuffix("%")
    with contextlib.suppress(ValueError):
        percent = {"all": 100.0, "true": 100.0, "none": 0.0, "false": 0.0}.get(said)
        percent = float(said) if percent is None else percent
        if 0 <= percent <= 100:
            return percent / 100
    raise RefusedError("read_data is all, none, or a part such as 1%. Nothing was read.")


def drill(droplet: Droplet, *, scratch: Path = _SCRATCH) -> dict[str, Any]:
    """Rehearse a restore: read and decrypt, load the dump into a PostgreSQL of its own, and compare rows with files.

    Arguments:
        droplet: this one.
        scratch: a folder in memory, where that PostgreSQL lies for a moment.

    Returns:
        `snapshot`, `age` (seconds since it was made), `packs`, `bytes` (read and decrypted), `files`, `database` (what was loaded and
        how it agrees, None if there is none), and `problems`.

    Raises:
        BackupError, VaultError: it could not be tried at all.
    """
    from gigglekit.backup import verify as backup_verify

    with records.recorded(droplet.records, "drill") as record, Progress("rehearsing") as progress:
        repository = droplet.repository()
        _insist_on_a_dump(droplet, repository)
        with droplet.locked(_WAIT_SECONDS), droplet.manifest() as manifest:
            # Whoever signed up since is in no snapshot that is made meanwhile.
            found = backup_verify.verify(
                repository,
                droplet.roots(),
                expected=manifest.get("snapshot"),
                manifest=manifest,
                fraction=_DRILL_FRACTION,
                progress=progress.bytes,
            )
        # Somebody may have been erased during all that.
        _insist_on_a_dump(droplet, repository, again=True)
        problems = list(found.problems)
        with droplet.reading():
            opened = repository.open(repository.choose(None))
            loaded = _load_dump(droplet, repository, opened, droplet.roots(), scratch, problems)
        result = {
            "snapshot": opened.name.base,
            "age": max(0, round(time.time()) - opened.name.seconds),
            "packs": found.read_packs,
            "bytes": found.read_size,
            "files": found.files,
            "database": loaded,
        }
        record.update({**result, "problems": len(problems), "ok": not problems})
    return {**result, "problems": problems}


def _insist_on_a_dump(droplet: Droplet, repository: Repository, *, again: bool = False) -> None:
    """Have a dump in the newest snapshot that this droplet opens, if that can be had.

    An erasure has made an end of the one before, or the database was down, and the night that makes the next one is to come. Asked
    `again`, it saves after an erasure only.
    """
    dump = repository.open(repository.choose(None)).head.dump
    lacks = not again if dump is None else _dump_key(droplet, repository, dump) is None
    if _is_there_a_database(droplet) and lacks:
        saving.sync(droplet, seconds=_WAIT_SECONDS)


def _load_dump(
    droplet: Droplet, repository: Repository, opened: Opened, roots: Mapping[str, bytes], scratch: Path, problems: list[str]
) -> dict[str, Any] | None:
    from gigglekit.backup import database
    from gigglekit.backup.postgresql import pg_restore_beside
    from gigglekit.backup.scratch import superuser

    dump = opened.head.dump
    if dump is None:
        if _is_there_a_database(droplet):
            problems.append(f"The snapshot {opened.name.base} has no dump of the database, although there is one.")
        return None
    key = _dump_key(droplet, repository, dump)
    if key is None:
        problems.append(
            f"The dump in {opened.name.base} is from before the last erasure, so this droplet opens it no more; the next backup makes one "
            "that it does."
        )
        return None
    files: dict[str, set[str]] = {}
    for part in opened.head.users:
        if part.vault in roots:
            section = repository.section(opened, part, roots[part.vault])
            files.setdefault(section.user, set()).update(file.path for file in section.files)
    erased = set(droplet.ledger().tombstones())
    keyring = droplet.keyring()
    with database.scratch(scratch, dump.server) as url:
        done = database.restore(
            url,
            repository.bucket.stream(names.DATABASE + dump.id),
            key=key,
            dump_id=dump.id,
            program_restore=pg_restore_beside(droplet.settings().pg_dump),
            forget=lambda user: keyring.vault_id(user) in erased,
            make_roles=superuser(url),
        )
        agrees = database.cross_check(url, files, str(droplet.places.uploads))
    if agrees.rows_without_file:
        problems.append(
            f"{agrees.rows_without_file} of {agrees.rows} rows in the database name a clip that is not in the snapshot {opened.name.base}. "
            "Clips that the app deletes between the two are such; many of them mean that clips are missing."
        )
    tables = dataclasses.asdict(done).get("tables") or {}
    return {"tables": len(tables), "rows": agrees.rows, "files": agrees.files, **{
        key: value for key, value in dataclasses.asdict(agrees).items() if key.endswith(("_file", "_row"))
    }}  # fmt: skip


def _is_there_a_database(droplet: Droplet) -> bool:
    return droplet.settings().database and droplet.database() is not None


def _dump_key(droplet: Droplet, repository: Repository, dump: Dump) -> bytes | None:
    """Return the key of a dump, None if this droplet opens it no more."""
    key = droplet.dump_key(dump.id)
    return key if key is not None and kits.opens(repository, dump.id, dump.size, key) else None
