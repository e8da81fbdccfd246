"""Owners and modes of packages' files that outlast the package's next version."""

from gigglekit.dpkg import overrides as dpkg_overrides


def __virtual__():
    return "dpkg"


def statoverrides(name, paths, user="root", group="root", mode="0755"):
    """Register owner, group and mode of packages' files with dpkg, and apply them where the files exist.

    name
        What they are for, in words.
    paths
        The files; those not there yet get theirs when a package brings them.
    user, group, mode
        What each of them should have.

    .. code-block:: yaml

        compilers-are-roots:
          dpkg.statoverrides:
            - paths: [/usr/bin/x86_64-linux-gnu-gcc-12]
            - mode: '0750'
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "Every override is in place."}
    override = dpkg_overrides.Override(user, group, str(mode).zfill(4))
    wanted = dict.fromkeys(paths, override)
    changes = dpkg_overrides.differences(wanted)
    if not changes:
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes=changes, comment="Overrides would be put right.")
        return ret
    try:
        for path in changes:
            dpkg_overrides.establish(path, override)
            ret["changes"][path] = changes[path]
    except dpkg_overrides.OverrideError as error:
        ret.update(result=False, comment=str(error))
        return ret
    ret["comment"] = "Overrides were put right."
    return ret
