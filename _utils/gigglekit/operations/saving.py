"""Saving: sync, and prune after it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gigglekit import records
from gigglekit.backup import names
from gigglekit.backup.errors import BackupError
from gigglekit.backup.settings import Settings
from gigglekit.operations import erasing, kits
from gigglekit.operations.droplet import Droplet
from gigglekit.operations.progress import Progress
from gigglekit.vault.errors import VaultError

if TYPE_CHECKING:
    from gigglekit.backup.prune import Prune
    from gigglekit.backup.repository import Repository
    from gigglekit.backup.snapshot import Dump

_SECONDS_BETWEEN_PRUNES = 7 * 86400


def sync(droplet: Droplet, *, anyway: bool = False, seconds: float = 0) -> dict[str, Any]:
    """Save what is new, and finish erasures that the bucket has not heard of yet.

    Arguments:
        droplet: this one.
        anyway: go on although the bucket holds snapshots that this droplet did not make.
        seconds: how long to wait for somebody else who is at work on the bucket.

    Returns:
        What `gigglekit.backup.storing.Synced` says, `erasures` that were finished, and `notes`: what was left out rightly.

    Raises:
        BackupError, VaultError: what was stored is known to the next run.
    """
    with records.recorded(droplet.records, "backup") as record:
        chosen = droplet.settings()
        with droplet.locked(seconds):
            done = _sync(droplet, chosen, anyway)
        record.update({key: value for key, value in done.items() if key not in ("problems", "notes")}, problems=len(done["problems"]))
        if done["problems"]:
            record.update(ok=False, reason=" ".join(done["problems"]))
    return done


def _sync(droplet: Droplet, chosen: Settings, anyway: bool) -> dict[str, Any]:
    from gigglekit.backup.erase import end_keys_of_erased
    from gigglekit.backup.learning import BEGUN_EMPTY, WHOLE
    from gigglekit.backup.sync import Sync

    repository = droplet.repository()
    problems: list[str] = []
    notes: list[str] = []
    with droplet.manifest() as manifest, Progress("saving") as progress:
        kits.finish(droplet, repository, manifest)
        finished = erasing.finish_pending(droplet, repository, manifest, problems)
        users = droplet.users(problems, notes)
        ledger = droplet.ledger()
        run = Sync(repository, manifest, chosen.threads, erased=ledger.tombstones, progress=progress.bytes_and_files)
        done = run.run(users, _dumping(droplet, repository) if chosen.database else None, anyway=anyway)
        if manifest.get(WHOLE) is None and manifest.get("number") != "0":
            # Begun in this run, or in one that did not come to its end. If the bucket was empty then it knows everything, else only what
            # the newest snapshot had.
            with manifest.change():
                manifest.put(WHOLE, "yes" if manifest.get(BEGUN_EMPTY) == "yes" else "no")
        # Who was to be erased while this run was at work.
        finished += erasing.finish_pending(droplet, repository, manifest, problems)
        if finished:
            # While they waited, a droplet that knew nothing of them may have stored their keys again.
            end_keys_of_erased(repository)
        erasing.store_ledger(droplet, repository, manifest)
    result = dataclasses.asdict(done)
    result["problems"] = [*problems, *done.problems]
    result["erasures"] = finished
    result["notes"] = notes
    return result


def _dumping(droplet: Droplet, repository: Repository) -> Callable[[], Dump] | None:
    """Return what dumps the database, None if there is none."""
    with contextlib.suppress(VaultError):
        if droplet.database() is None:
            return None
    return lambda: _dumped(droplet, repository)


def _dumped(droplet: Droplet, repository: Repository) -> Dump:
    """Dump the database; whatever goes wrong is an error of the backup, which saves the clips all the same."""
    try:
        database = droplet.database()
        if database is None:
            raise BackupError(f"{droplet.environment}, which says where it is, has just gone. Ask again: salt-call giggles.sync")
        return _dump(droplet, repository, database.url)
    except VaultError as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(
            f"it could not be tried ({error.strerror or type(error).__name__}). Look at free, df and dmesg, then ask again: salt-call "
            "giggles.sync"
        ) from error


def _dump(droplet: Droplet, repository: Repository, url: str) -> Dump:
    from gigglekit.backup import database
    from gigglekit.backup.errors import RefusedError

    chosen = droplet.settings()
    dump_id = names.new_id()
    key = droplet.dump_key(dump_id)
    if key is None:
        raise RefusedError("There is no recovery kit yet; make it first: salt-call giggles.recovery_kit")
    # The key first: a dump that nobody can open would be worth nothing.
    repository.store_key(names.DATABASE_KEYS + dump_id, key)
    return database.dump(
        url,
        program=chosen.pg_dump,
        schemas=chosen.schemas,
        key=key,
        dump_id=dump_id,
        sink=lambda pieces: repository.bucket.put_stream(names.DATABASE + dump_id, pieces, locked=True),
    )


def prune(droplet: Droplet) -> dict[str, Any]:
    """Give up snapshots that nobody keeps, and what only they needed, and remove what has waited; not that while somebody restores.

    Raises:
        BackupError, VaultError: the next run goes on.
    """
    with records.recorded(droplet.records, "prune") as record, _pruning(droplet) as run:
        done = dataclasses.asdict(run.run())
        record.update({key: value for key, value in done.items() if key not in ("problems", "notes")}, problems=len(done["problems"]))
        if done["problems"]:
            record.update(ok=False, reason=" ".join(done["problems"]))
    return done


def end_dumps(droplet: Droplet) -> None:
    """Make an end of dumps that are at their end, and of nothing else: where backups fail, no prune is going to.

    Raises:
        BackupError, VaultError: the next run goes on.
    """
    with _pruning(droplet) as run:
        run.end_dumps()


@contextlib.contextmanager
def _pruning(droplet: Droplet) -> Iterator[Prune]:
    from gigglekit.backup.prune import Prune

    chosen = droplet.settings()
    with droplet.locked(), droplet.manifest() as manifest, Progress("pruning") as progress:
        yield Prune(
            droplet.repository(),
            manifest,
            droplet.roots(),
            chosen.keep,
            chosen.keep_dumps_days,
            time.time(),
            progress=progress.words,
            alone=droplet.alone,
        )


def is_prune_due(droplet: Droplet, *, postponed: bool = False) -> bool:
    """Tell whether the last prune that ended well is a week ago, so that the nightly run does one.

    Arguments:
        droplet: this one.
        postponed: the run had problems that somebody should look at first. After a second week it is due all the same: snapshots and
            dumps have to end some day, those with rows of erased users among them.
    """
    import calendar

    found = records.last(droplet.records, "prune", ok=True)
    try:
        then = calendar.timegm(time.strptime(str((found or {})["time"]), "%Y-%m-%dT%H:%M:%SZ"))
    except (KeyError, ValueError):
        return True
    return not 0 <= time.time() - then < _SECONDS_BETWEEN_PRUNES * (2 if postponed else 1)
