"""Saving the database before a release changes it: where releases and the backup meet."""

from __future__ import annotations

from gigglekit.backup.errors import BackupError
from gigglekit.operations import saving
from gigglekit.operations.droplet import Droplet
from gigglekit.release.errors import MigrationError
from gigglekit.vault.errors import VaultError

_WAIT_SECONDS = 600


def save(droplet: Droplet | None = None) -> str:
    """Save what is new, with a dump of the database, and return the snapshot that has it.

    Arguments:
        droplet: this one, if no other is given.

    Raises:
        MigrationError: there is no dump.
    """
    from gigglekit.backup.sync import NO_DUMP

    try:
        droplet = droplet or Droplet()
        if not droplet.settings().database:
            raise _not_saved("the backup leaves the database out (giggles:backup:database:enabled is false)")
        if droplet.database() is None:
            raise _not_saved("no database is configured (giggles:secrets:app:DATABASE_URL), so there is none to be saved")
        done = saving.sync(droplet, seconds=_WAIT_SECONDS)
    except (BackupError, VaultError) as error:
        raise _not_saved(str(error).rstrip(".")) from error
    missing = [problem for problem in done["problems"] if problem.startswith(NO_DUMP)]
    if missing or not done["snapshot"]:
        raise _not_saved((missing or ["the backup has stored nothing"])[0].rstrip("."))
    return str(done["snapshot"])


def _not_saved(reason: str) -> MigrationError:
    return MigrationError(
        f"The release names a migration (giggles:app:migration), and the database could not be saved before it: {reason}. Put that right, "
        "then deploy again; or, if you have saved it in another way, set giggles:app:migration_dump to false. The live release was left as "
        "it is, and so was the database."
    )
