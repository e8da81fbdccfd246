"""apt's configuration files that others write set only what is harmless: an option of apt can be a command run as root."""

from gigglekit.apt import settings
from gigglekit.dpkg import strays


def __virtual__():
    return "apt_settings"


def limited(name, files):
    """Remove files that set anything else than they may, naming each with the reason in the changes.

    name
        What the files are, in words.
    files
        For each path (a pattern in its last part) the regular expressions of the options that it may set.

    .. code-block:: yaml

        apt-proxies-are-only-proxies:
          apt_settings.limited:
            - files:
                /etc/apt/apt.conf.d/*proxy*: ['Acquire::https?::Proxy']
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "They set only what they may."}
    found = settings.find(files)
    if not found:
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes={"removed": found}, comment="Files that set more than they may would be removed.")
        return ret
    failed = []
    for path, reason in found.items():
        try:
            strays.remove(path)
        except OSError as error:
            failed.append(f"{path} ({error.strerror})")
            continue
        ret["changes"].setdefault("removed", {})[path] = reason
    ret["comment"] = "Files that set more than they may were removed."
    if failed:
        ret.update(
            result=False,
            comment=f"These files set more than they may but could not be removed: {', '.join(failed)}. Look for an immutable "
            "flag (lsattr) or a read-only mount, then apply again.",
        )
    return ret
