"""
What an operator can ask a Giggles server.
"""

import dataclasses
from contextlib import contextmanager

from gigglekit.release.settings import Layout
from salt.exceptions import CommandExecutionError

__virtualname__ = "giggles"


def __virtual__():  # noqa: N807 - the name that Salt looks for
    return __virtualname__


def releases():
    """
    List the releases on this droplet, the newest first: which one is live, which one was live before, which one was pinned by
    giggles.deploy or giggles.rollback, and whether each is still as it was built and can be gone back to.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.releases
    """
    from gigglekit.release import deploying

    return deploying.releases(Layout())


def deploy(ref=None, wait=600):
    """
    Put a release of the app live: built, tried beside the running one, switched to without a request being lost, judged, and taken back
    if it is not well. The exit code is 0 if it is live.

    ref
        Commit, tag or branch. It stays live until ``giggles:app:ref`` in the pillar names another one, or until this is called without
        it. Without it, what the pillar names goes live.
    wait
        Seconds that a running nightly job is waited for.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.deploy
        salt-call giggles.deploy ref=22319c4d0c1f0d6c7ef3b0d1d0f4c4b54f0b7a55
    """
    from gigglekit.release import deploying

    seconds = _seconds(wait)
    return _released(
        lambda settings, surroundings: deploying.deploy(
            settings, Layout(), surroundings, ref=_text(ref), busy=_nightly_at_work, wait=seconds
        )
    )


def rollback(to=None, wait=600):
    """
    Go back to a release that is still on this droplet: no build, no network, live within the time that the app takes to start. It stays
    so until ``giggles:app:ref`` in the pillar names another one than now, or until ``giggles.deploy``.

    to
        Beginning of a commit that giggles.releases shows, at least 7 digits; without it, the one that was live before.
    wait
        Seconds that a running nightly job is waited for.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.rollback
        salt-call giggles.rollback to=22319c4d0c1f
    """
    from gigglekit.release import deploying

    seconds = _seconds(wait)
    return _released(
        lambda settings, surroundings: deploying.rollback(
            settings, Layout(), surroundings, to=_text(to), busy=_nightly_at_work, wait=seconds
        )
    )


def _released(act):
    """Carry out a deploy or a way back, and record it."""
    from gigglekit import records
    from gigglekit.release import choices, droplet
    from gigglekit.release.errors import ReleaseError
    from gigglekit.settings.check import merged
    from gigglekit.settings.schema import defaults

    chosen = merged(defaults(), __pillar__.get("giggles", {}))
    backup = "backup" in chosen["roles"] and chosen["backup"]["bucket"]
    try:
        settings = choices.of_pillar(chosen["app"])
        surroundings = droplet.surroundings(
            domain=chosen["domain"] if "web" in chosen["roles"] else None,
            gate_seconds=settings.gate_seconds,
            health_seconds=float(chosen["app"]["start_seconds"]),
            dump=_dump_for_migration if backup else None,
        )
        with records.recorded(records.FOLDER, "release") as record:
            done = act(settings, surroundings).as_dict()
            record.update({key: value for key, value in done.items() if key != "seconds"}, steps=done["seconds"])
    except ReleaseError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:
        raise CommandExecutionError(
            f"{error.filename or Layout().root}: {error.strerror}. What was live before is untouched, or the next deploy or state.apply "
            "app ends what this one has begun; look at df and dmesg, then ask again."
        ) from None
    return done


def _dump_for_migration():
    from gigglekit.operations import migrating

    return migrating.save()


def _nightly_at_work():
    from gigglekit.health.at_work import at_work

    return at_work(("giggles-nightly.service",), {})


def _seconds(value):
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        raise CommandExecutionError(f"wait={value} is no number of seconds.") from None


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
    from gigglekit.backup.errors import BackupError
    from gigglekit.release.errors import ReleaseError
    from gigglekit.vault.errors import VaultError

    try:
        yield
    except (VaultError, BackupError, ReleaseError) as error:
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
    from gigglekit.release import turns
    from gigglekit.release.service import SystemdService

    turns.restart(SystemdService(), Layout())


def _copies_elsewhere():
    """Return the backup, as far as an erasure needs it; None if there is none."""
    from gigglekit.operations import erasing

    return erasing.remote(_droplet())


def shred(user_id=None, dry_run=False):
    """
    Erase a user: every clip and recording by destroying the key, here and in the backup, the rows in the database, and
    whatever was left in the lobby. It ends with a signed receipt. Asked again, it goes on where an earlier run stopped, or
    confirms. If the bucket does not answer, the receipt says so, and every backup tries again until another one completes it.

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

    only_look = _flag("dry_run", dry_run)
    with _errors():
        if only_look:
            found = dataclasses.asdict(vault_shred.examine(_places(), user_id, _database()))
            return {**found, "holders": list(found["holders"]), "erased": False, "dry_run": True}
        outcome = vault_shred.shred(_places(), user_id, _database(), _restart_app, _copies_elsewhere())
    if outcome.pending:
        __context__["retcode"] = 1
    return {
        "erased": not outcome.pending,
        "pending": outcome.pending,
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


def _flag(name, value):
    """Return a choice. To Python whatever is not empty is true, ``clean=n`` as well, and much of it cannot be taken back."""
    if isinstance(value, bool):
        return value
    raise CommandExecutionError(
        f"{name} is True or False, and {name}={value!r} is neither, so nothing was done. Ask again with {name}=True or without it."
    )


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
        from gigglekit.backup.shares import open_shares

        places = _places()
        keyring = Keyring(places)
        with places.locked():
            keyring.rekey(shares=open_shares() if keyring.share() is not None else None)
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
    chosen = {"dry_run": _flag("dry_run", dry_run), "anyway": _flag("anyway", anyway)}
    with _errors():
        swept = vault_sweep.sweep(_places(), database, older_than_days=days, **chosen)
    return dataclasses.asdict(swept)


# --- the backup ------------------------------------------------------------------------------------------------------------


def _droplet():
    from gigglekit.operations.droplet import Droplet

    return Droplet()


def _kit_text(kit):
    """Read the file that holds a recovery kit: its text has no place among the arguments of a process."""
    if kit is None:
        return None
    try:
        with open(str(kit), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandExecutionError(
            f"The recovery kit cannot be read from the file that kit= names ({getattr(error, 'strerror', None) or 'no text'}). Put the "
            "page into a file that only root can read, /root/kit.txt for example, and give its path."
        ) from None


def _with_exit_code(result):
    """Return a result; if it has problems, Salt's exit code says so."""
    if result.get("problems"):
        __context__["retcode"] = 1
    return result


def sync(anyway=False):
    """
    Save what is new, clips and database, into the bucket. The timer giggles-backup does the same every night.

    anyway
        Go on although the bucket has snapshots that another droplet made.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.sync
    """
    from gigglekit.operations import saving

    with _errors():
        return _with_exit_code(saving.sync(_droplet(), anyway=_flag("anyway", anyway)))


def snapshots():
    """
    List the snapshots in the bucket, the oldest first.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.snapshots
    """
    from gigglekit.operations import checking

    with _errors():
        return checking.snapshots(_droplet())


def restore(user_id=None, snapshot=None, target=None, kit=None, path=None, replace=False):
    """
    Restore clips out of a snapshot. Without ``target`` they go where the app looks for them; what is there already stays.
    Users who were erased are refused.

    user_id
        Only this user's.
    snapshot
        ``latest``, or the beginning of a name or time that giggles.snapshots shows.
    target
        A folder to restore into instead.
    kit
        Path of a file with the recovery kit, on a new droplet.
    path
        Only files whose path begins so, for example ``clips/2026``.
    replace
        Whether clips that are there with another content give way.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.restore kit=/root/kit.txt
        salt-call giggles.restore user_id=6f1c1b1e-1111-4222-8333-944445555666 snapshot=2026-11-24 target=/root/restored
    """
    from gigglekit.operations import restoring

    text = _kit_text(kit)
    with _errors():
        return _with_exit_code(
            restoring.restore(
                _droplet(),
                user=user_id,
                snapshot=_text(snapshot),
                target=_text(target),
                kit_text=text,
                path=_text(path),
                replace=_flag("replace", replace),
            )
        )


def _text(value):
    # The command line makes a date or a number of what looks like one.
    return None if value is None else str(value)


def restore_database(snapshot=None, kit=None, clean=False):
    """
    Load the database of a snapshot into the database that the pillar names (``giggles:secrets:app:DATABASE_URL``), in one transaction,
    without users who were erased since.

    snapshot
        As for giggles.restore; without it the newest that has a dump.
    kit
        Path of a file with the recovery kit, on a new droplet and for dumps from before the last erasure.
    clean
        Empty the tables that the dump has first. Without it, a database that is not empty is refused.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.restore_database kit=/root/kit.txt
    """
    from gigglekit.operations import restoring

    text = _kit_text(kit)
    with _errors():
        # Not what the app has now: a new project stands in the pillar first, and the app is started with it when its rows are there.
        database = _database()
        return restoring.restore_database(
            _droplet(), snapshot=_text(snapshot), url=database.url if database else None, kit_text=text, clean=_flag("clean", clean)
        )


def verify(read_data=None):
    """
    Check that everything that snapshots refer to is in the bucket, with the right size and keys.

    read_data
        ``all`` or a part such as ``1%``: that much is also read and decrypted, and every clip in it compared with its digest.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.verify
        salt-call giggles.verify read_data=all
    """
    from gigglekit.operations import checking

    with _errors():
        return _with_exit_code(checking.verify(_droplet(), fraction=checking.fraction_of(read_data)))


def prune():
    """
    Give up the snapshots that ``giggles:backup:keep`` does not keep, and what only they needed, and remove what was given up a day ago or
    longer: until then a restore may be reading it. ``waiting`` says how many objects that is. The backup does it once a week.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.prune
    """
    from gigglekit.operations import saving

    with _errors():
        return _with_exit_code(saving.prune(_droplet()))


def drill():
    """
    Rehearse a restore of the newest snapshot: decrypt, load the database into a PostgreSQL of its own, compare rows and files.
    The timer giggles-drill does it every week.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.drill
    """
    from gigglekit.operations import checking

    with _errors():
        return _with_exit_code(checking.drill(_droplet()))


def recovery_kit(rotate=False):
    """
    Make the recovery kit and show it, once: nothing on this droplet knows it afterwards. Keep it in a password manager.

    rotate
        Replace the kit there is: its key opens nothing that is in the bucket then.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.recovery_kit
        salt-call giggles.recovery_kit rotate=True > /dev/shm/kit.txt
    """
    from gigglekit.operations import kits

    with _errors():
        return kits.recovery_kit(_droplet(), rotate=_flag("rotate", rotate))


# --- the self-converge -----------------------------------------------------------------------------------------------------


def drift():
    """
    Tell what an apply would correct or change now, by name. Nothing is changed, and nothing is recorded.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.drift
    """
    from gigglekit.health import converge
    from gigglekit.health.cleaning import Cleaner

    clean = Cleaner(__pillar__)
    returned = __salt__["state.apply"](test=True)
    if converge.is_conflict(returned):
        raise CommandExecutionError("A run of states is at work, and what it leaves is not known yet. Ask again when it has ended.")
    if not converge.is_rendered(returned):
        lines = returned if isinstance(returned, list) else ["Salt returned nothing that could be read."]
        raise CommandExecutionError(clean("\n".join(str(line) for line in lines), 1500))
    return [vars(change) for change in converge.changes(returned, clean)]


def history(count=10, full=False):
    """
    Tell what the newest runs of states did, by hand or by the self-converge, the newest first: what was drift, what was intended,
    what failed.

    count
        How many.
    full
        Whole records, with the differences of files that everybody on the droplet may read.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.history
        salt-call giggles.history 1 full=True
    """
    from gigglekit.health import history as converges

    return converges.history(count=_count(count), full=bool(full))


def _count(value):
    try:
        return int(value)
    except (TypeError, ValueError):
        raise CommandExecutionError("Give a number of runs; salt-call giggles.history 20 tells the newest twenty.") from None


def nightly(count=7):
    """
    Tell what became of the last nights, the newest first: the verdict (ok, partial, failed, killed, silent-failure or
    nothing-to-do) and why, users, clips, memory and duration. What nobody could say is null.

    count
        How many nights at most.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.nightly
        salt-call giggles.nightly count=30 --out=json
    """
    from gigglekit import records

    try:
        return records.newest(records.FOLDER, "nightly", int(count))
    except (TypeError, ValueError):
        raise CommandExecutionError(f"count={count} is no number. Ask for a number of nights, such as count=30.") from None


def promote(hours=24):
    """
    On staging: tell whether what runs here may go to production, and the one command that gives it, for your own computer. Nothing is
    changed or pushed from here. docs/STAGING.md explains it.

    hours
        For how long it must have run here without a failure.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.promote
        salt-call giggles.promote hours=2
    """
    from gigglekit.operations import promoting

    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 <= hours < 10_000:
        raise CommandExecutionError(f"hours={hours} is no number of hours. Ask for one from 0 to 9999, such as hours=2.")
    try:
        return promoting.promotion(promoting.Droplet(__grains__.get("giggles_environment")), hours=hours)
    except promoting.PromotionError as error:
        raise CommandExecutionError(str(error)) from None


# --- logins ----------------------------------------------------------------------------------------------------------------


def second_factor(new=False, confirm=False):
    """
    Make a second factor for the administrator's logins by ssh and show it, once; then confirm it with a code that the phone shows.
    It is asked for only once it is confirmed, ``giggles:hardening:ssh_second_factor`` is true, and that was applied.

    new
        Make another one although one is in force, which stays so until the new one is confirmed.
    confirm
        Read one code from the terminal, or from standard input, and put what was made last in force.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.second_factor
        salt-call giggles.second_factor confirm=True
        salt-call giggles.second_factor new=True
    """
    import sys

    from gigglekit.login.errors import LoginError
    from gigglekit.login.second_factor import SecondFactor
    from gigglekit.settings.check import merged
    from gigglekit.settings.schema import defaults

    chosen = merged(defaults(), __pillar__.get("giggles", {}))
    factor = SecondFactor(chosen["admin"]["name"])
    try:
        if not confirm:
            return factor.begin(chosen["domain"] or __grains__["id"], new=bool(new)).page()
        # Not an argument: those are for everybody to read, and sudo writes them down.
        if sys.stdin.isatty():
            print("Code that the phone shows now: ", end="", file=sys.stderr, flush=True)
        factor.confirm(sys.stdin.readline(100))
    except LoginError as error:
        raise CommandExecutionError(str(error)) from None
    except OSError as error:
        raise CommandExecutionError(
            f"{error.filename or factor.path}: {error.strerror}. Logins are as before; look at df and dmesg, then ask again."
        ) from None
    if chosen["hardening"]["ssh_second_factor"]:
        return "Confirmed. Unless ssh asks for one already, salt-call state.apply hardening has it ask."
    return (
        "Confirmed. ssh does not ask for it yet: set giggles:hardening:ssh_second_factor to true in the pillar, then salt-call state.apply "
        "hardening."
    )


# --- alerts ----------------------------------------------------------------------------------------------------------------


def alerts(test=False):
    """
    Show what is open and since when, and whether anybody is written to. giggles-watch looks every five minutes.

    test
        Send a test mail as well, and tell whether the mail server took it.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.alerts
        salt-call giggles.alerts test=True
    """
    import time

    from gigglekit.health import watching

    places = _status_places()
    result = watching.told(places, time.time())
    if test:
        try:
            watching.send_test(places)
        except watching.WatchError as error:
            raise CommandExecutionError(str(error)) from None
        result["test_mail"] = "the mail server took it"
    return result


def status():
    """
    Tell whether everything is all right, and since when: one screen for a person, everything with ``--out=json``. The exit code is
    0 if it is and 1 if something is a problem or not known.

    CLI Example:

    .. code-block:: bash

        salt-call giggles.status
        salt-call giggles.status --out=json
    """
    from gigglekit.health import status as health_status

    found = health_status.collect(_status_places())
    if not found.all_right:
        __context__["retcode"] = 1
    return found.as_dict()


# How it is shown unless --out says otherwise.
status.__outputter__ = "giggles_status"


def _status_places():
    from gigglekit.health.places import Places

    return Places()
