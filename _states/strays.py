"""Managed folders hold what packages brought and what this repository put there, and nothing else."""

from gigglekit.dpkg import ownership, strays


def __virtual__():
    return "strays"


def absent(name, folders):
    """Remove from folders whatever neither a package brought nor this repository knows, naming each in the changes.

    name
        What the folders are, in words.
    folders
        For each folder the names that belong there beside packages' files; shell patterns.

    .. code-block:: yaml

        cron-folders-hold-no-strays:
          strays.absent:
            - folders:
                /etc/cron.d: [giggles-nightly]
                /var/spool/cron/crontabs: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "Nothing is there that does not belong."}
    try:
        found = strays.find(folders)
    except ownership.OwnershipError as error:
        ret.update(result=False, comment=str(error))
        return ret
    if not found:
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes={"removed": found}, comment="What does not belong would be removed.")
        return ret
    removed = []
    failed = []
    for path in found:
        try:
            strays.remove(path)
        except OSError as error:
            failed.append(f"{path} ({error.strerror})")
            continue
        removed.append(path)
    if removed:
        ret["changes"] = {"removed": removed}
    ret["comment"] = "What did not belong was removed."
    if failed:
        ret.update(
            result=False,
            comment=f"These files belong to nobody but could not be removed: {', '.join(failed)}. Look for an "
            f"immutable "
            "flag (lsattr) or a read-only mount, then apply again.",
        )
    return ret
