"""
What an operator can ask a Giggles server.
"""

import dataclasses
from contextlib import contextmanager

from gigglekit.release import manifest
from gigglekit.release.settings import COMMIT, Layout
from salt.exceptions import CommandExecutionError

__virtualname__ = "giggles"


def __virtual__():  # noqa: N807 - the name that Salt looks for
    return __virtualname__


def releases():
    """
    List the releases on this droplet, the newest first: which one is live, which one was live before, and whether each
    is still as it was built.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.releases
    """
    layout = Layout()
    live = layout.live()
    before = layout.before()
    found = []
    if layout.releases.is_dir():
        for folder in layout.releases.iterdir():
            if COMMIT.fullmatch(folder.name):
                facts = manifest.facts(folder) or {}
                found.append(
                    {
                        "commit": folder.name,
                        "live": folder.name == live,
                        "previous": folder.name == before,
                        "built": facts.get("built", "incomplete"),
                        "interpreter": facts.get("interpreter", ""),
                        "changed": manifest.drift(folder),
                    }
                )
    return sorted(found, key=lambda release: release["built"], reverse=True)


def live():
    """
    Return the commit that is live, or None.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.live
    """
    return Layout().live()


def previous():
    """
    Return the commit that was live before, or None.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.previous
    """
    return Layout().before()


# --- the vault: what it needs is imported only when it is asked for, since every salt-call loads this file ---------------


@contextmanager
def _errors():
    """Turn the library's errors into Salt's.

    Not SaltInvocationError for a wrong argument: salt-call would print the function's whole help before the one paragraph
    that somebody needs.
    """
    from gigglekit.vault.errors import VaultError

    try:
        yield
    except VaultError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:
        raise CommandExecutionError(
            f"{error.filename or 'The vault'}: {error.strerror}. What was done is written down; look at df and dmesg, then ask again."
        ) from None


def _places():
    from gigglekit.vault.places import Places

    return Places()


def _database():
    """Return the app's database, None if none is configured. The address holds a password and goes nowhere else."""
    from gigglekit.vault.rows import Database

    url = __pillar__.get("giggles", {}).get("secrets", {}).get("app", {}).get("DATABASE_URL")
    return Database(url) if url else None


def _restart_app():
    from gigglekit.release.service import SystemdService

    SystemdService().restart()


def shred(user_id=None, dry_run=False):
    """
    Erase a user: every clip and recording by destroying the key, the rows in the database, and whatever was left in the
    lobby. It ends with a signed receipt. Asked again, it goes on where an earlier run stopped, or confirms.

    user_id
        The user's id as the app's database has it: a UUID in lower case.
    dry_run
        Only tell what there is of the user, and who has it open.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.shred user_id=6f1c1b1e-1111-4222-8333-944445555666 dry_run=True
        salt-call giggles.shred user_id=6f1c1b1e-1111-4222-8333-944445555666
    """
    from gigglekit.vault import shred as vault_shred

    with _errors():
        if dry_run:
            found = dataclasses.asdict(vault_shred.examine(_places(), user_id, _database()))
            return {**found, "holders": list(found["holders"]), "erased": False, "dry_run": True}
        outcome = vault_shred.shred(_places(), user_id, _database(), _restart_app)
    return {
        "erased": True,
        "confirmed": outcome.confirmed,
        "receipt": outcome.receipt,
        "subject": outcome.vault_id,
        "copies": outcome.copies,
        "key_destroyed_after": None if outcome.key_destroyed_after is None else round(outcome.key_destroyed_after, 3),
    }


def receipts(number=None):
    """
    List the receipts of erasures, the newest last, or return one. They name nobody: a user is known by a keyed hash.

    number
        Which one; all, if it is left out.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.receipts
        salt-call giggles.receipts 3
    """
    from gigglekit.vault.receipt import Receipts

    with _errors():
        kept = Receipts(_places())
        if number is not None:
            return kept.read(_number(number))
        return [{name: kept.read(one)[name] for name in ("number", "subject", "finished", "mode")} for one in kept.numbers()]


def verify_receipt(number=None):
    """
    Check the receipts: that each is as it was signed, follows the one before it, and that none is missing. A receipt is
    only as good as the ones before it, so all are checked; the result is about the one asked for, or about all.

    number
        Which one; all, if it is left out.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.verify_receipt
        salt-call giggles.verify_receipt 3
    """
    from gigglekit.vault.receipt import Receipts

    with _errors():
        kept = Receipts(_places())
        content = kept.read(_number(number)) if number is not None else None
        verdict = kept.check()
        if verdict.problems:
            raise CommandExecutionError(
                "The receipts are not as they were signed. "
                + " ".join(verdict.problems)
                + " Compare them with a copy that was kept elsewhere."
            )
    result = {"valid": True, "checked": verdict.checked, "public_key": kept.public_key().decode()}
    return {**result, "receipt": content} if content is not None else result


def _number(value):
    try:
        return int(value)
    except (TypeError, ValueError):
        raise CommandExecutionError("Name a receipt by its number; salt-call giggles.receipts lists them.") from None


def vaults(holders=True):
    """
    List the users that have a vault: its state, how much lies in it, and who has it open.

    holders
        Whether to look for processes that have files open.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.vaults
    """
    from gigglekit.vault import overview

    with _errors():
        return overview.vaults(_places(), with_holders=bool(holders))


def rekey():
    """
    Replace the key-encryption key, wrap every user's key anew, and destroy the old wrappings. No clip is touched.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.rekey
    """
    from gigglekit.vault.keyring import Keyring

    with _errors():
        places = _places()
        keyring = Keyring(places)
        with places.locked():
            keyring.rekey()
            return {"rekeyed": True, "vaults": len(keyring.vaults())}


def renew_lobby():
    """
    Replace the key of the folders that the app makes files in, as happens after every nightly job.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.renew_lobby
    """
    from gigglekit.vault import lobby
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.ledger import Ledger
    from gigglekit.vault.volume import mounted

    with _errors():
        places = _places()
        if not places.is_encrypted():
            raise CommandExecutionError(f"Clips lie unencrypted on this droplet ({places.reason()}), so there is no key to replace.")
        with places.locked(), mounted(places) as volume:
            renewed = lobby.renew(volume, Keyring(places), Ledger(places), seconds=30)
        if not renewed.complete:
            raise CommandExecutionError(
                f"The lobby's old key is still needed for {renewed.waiting_for}. Nothing is lost; ask again when it is closed, or "
                "wait for the next night."
            )
    return {"renewed": True}


def sweep(dry_run=False, anyway=False, older_than_days=None):
    """
    Erase clips that lie on the disk, are in no row of the database, and are older than ``giggles:vault:sweep_after_days``.
    Nothing is erased when the database cannot be read or names implausibly few clips.

    dry_run
        Only count them.
    anyway
        Erase them although there are implausibly many.
    older_than_days
        Another age than the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.sweep dry_run=True
    """
    from gigglekit.vault import sweep as vault_sweep

    database = _database()
    if database is None:
        raise CommandExecutionError(
            "No database is configured (giggles:secrets:app:DATABASE_URL), so nobody knows which clips are left over."
        )
    chosen = __pillar__.get("giggles", {}).get("vault", {}).get("sweep_after_days", 30)
    days = chosen if older_than_days is None else older_than_days
    if not isinstance(days, int | float) or days < 0:
        raise CommandExecutionError("older_than_days is a number of days, 0 or more.")
    with _errors():
        swept = vault_sweep.sweep(_places(), database, older_than_days=days, dry_run=bool(dry_run), anyway=bool(anyway))
    return dataclasses.asdict(swept)
