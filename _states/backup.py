"""
The bucket of the backup: whether this droplet has the rights that it needs there, and the settings of the bucket itself.

Both look at the bucket once a day and whenever the settings of the backup have changed; in between, a run makes no request.

.. code-block:: yaml

    backup-usable:
      backup.usable: []

    backup-bucket-kept:
      backup.bucket_kept: []
"""

from pathlib import Path

from gigglekit.backup import checked
from gigglekit.backup import settings as backup_settings
from gigglekit.backup.errors import BackupError, UnreachableError

_NONE = (
    "No bucket is configured, so clips and database are in NO backup: what is lost with this droplet is lost for good. "
    "docs/BACKUP_AND_RESTORE.md says how to make one (giggles:backup:bucket)."
)


def __virtual__():
    return "backup"


def usable(name, settings="/etc/giggles/backup.json", notes="/var/lib/giggles/backup/checked.json"):
    """
    The bucket can be used as the backup needs it: listed, read, written and cleared, in all versions. A right that is
    missing is named. A bucket that worked with these settings and cannot be reached now is told, and is no failure: the
    backup itself tries again.

    name
        Not used; any text.
    settings
        The file with the settings of the backup.
    notes
        Where it is noted what was found, and when.

    .. code-block:: yaml

        backup-usable:
          backup.usable: []
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    path, notes = Path(settings), Path(notes)
    try:
        chosen = backup_settings.load(path)
        if chosen is None:
            return _without_settings(ret)
        last = checked.last(checked.RIGHTS, path, notes=notes)
        if not last.due:
            return {**ret, "comment": f"The bucket was found usable at {last.day}."}
        if __opts__["test"]:
            return _only_asked(ret, last, "The bucket would be tried, since it was not yet with these settings.", {"bucket": "tried"})
        from gigglekit.backup.probe import UNCOMPARED, probe

        try:
            findings = probe(_bucket(chosen))
            found = [finding.text for finding in findings if finding.serious]
        except UnreachableError as error:
            if last.time is None:
                raise
            return {**ret, "comment": f"{error} It was usable at {last.day}, and the next backup tries again."}
        if found:
            return {**ret, "result": False, "comment": " ".join(found)}
        told = [finding.text for finding in findings if finding.what == UNCOMPARED]
        if told:
            checked.note(checked.UNCOMPARED, path, notes=notes)
        checked.note(checked.RIGHTS, path, notes=notes)
    except BackupError as error:
        return {**ret, "result": False, "comment": str(error)}
    except OSError as error:
        return {**ret, "result": False, "comment": _of_the_disk(error)}
    if last.time is None:
        ret["changes"] = {"bucket": "found usable"}
    return {**ret, "comment": " ".join(["The bucket is usable.", *told])}


def bucket_kept(name, settings="/etc/giggles/backup.json", notes="/var/lib/giggles/backup/checked.json"):
    """
    The bucket's own settings are as the backup needs them: uploads that were never finished are cleared away, and nothing
    there deletes or locks by itself what it must not.

    name
        Not used; any text.
    settings
        The file with the settings of the backup.
    notes
        Where it is noted what was found, and when.

    .. code-block:: yaml

        backup-bucket-kept:
          backup.bucket_kept: []
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    path, notes = Path(settings), Path(notes)
    try:
        chosen = backup_settings.load(path)
        if chosen is None:
            return _without_settings(ret)
        last = checked.last(checked.OWN_SETTINGS, path, notes=notes)
        if not last.due:
            return {**ret, "comment": f"The bucket's settings were as they should be at {last.day}."}
        from gigglekit.backup import bucket_settings

        bucket = _bucket(chosen)
        try:
            missing = bucket_settings.settings_missing(bucket)
            if missing and __opts__["test"]:
                return {**ret, "result": None, "changes": {"bucket": missing}, "comment": "The bucket's settings would be put right."}
            if missing:
                bucket_settings.establish(bucket)
                ret["changes"] = {"bucket": missing}
        except UnreachableError as error:
            if last.time is None and not __opts__["test"]:
                raise
            return _only_asked(ret, last, f"{error} Nothing is known of the bucket's settings.", {"bucket": "looked at"})
        if not __opts__["test"]:
            checked.note(checked.OWN_SETTINGS, path, notes=notes)
    except BackupError as error:
        return {**ret, "result": False, "changes": {}, "comment": str(error)}
    except OSError as error:
        return {**ret, "result": False, "comment": _of_the_disk(error)}
    return {**ret, "comment": "The bucket's settings were put right." if ret["changes"] else "The bucket's settings are as they should be."}


def _bucket(chosen):
    from gigglekit.backup.bucket import Bucket
    from gigglekit.backup.sending import Patience

    # A backup waits for minutes. Nobody waits that long for a converge, and the next one asks again.
    return Bucket(chosen, patience=Patience(tries=3, seconds=20.0))


def _without_settings(ret):
    if __opts__["test"] and __pillar__.get("giggles", {}).get("backup", {}).get("bucket"):
        return {**ret, "result": None, "changes": {"bucket": "tried"}, "comment": "The bucket would be tried."}
    return {**ret, "comment": _NONE}


def _only_asked(ret, last, words, changes):
    # What worked a day ago is looked at again without being changed, so there is nothing to announce.
    if last.time is not None:
        return {**ret, "comment": f"The bucket would be looked at again; all was well at {last.day}."}
    return {**ret, "result": None, "changes": changes, "comment": words}


def _of_the_disk(error):
    return f"{error.filename or checked.NOTES}: {error.strerror}. Look at df and dmesg, then apply again."
