"""What is in force in the running kernel: repairs what somebody changed with `sysctl -w` or `mount -o remount`.

The files in /etc/sysctl.d and /etc/fstab bring the same at boot.
"""

from gigglekit.kernel import mounts
from gigglekit.kernel import parameters as kernel_parameters


def __virtual__():
    return "kernel"


def parameters(name, values, own_kernel=True):
    """Hold kernel parameters at given values.

    name
        What they are for, in words.
    values
        Values by key; a ``*`` stands for every network interface.
    own_kernel
        False in a container: what belongs to the host's kernel is left alone, and the comment says so.

    .. code-block:: yaml

        kernel-hardened:
          kernel.parameters:
            - values:
                net.ipv4.tcp_syncookies: 1
                net.ipv4.conf.*.rp_filter: 1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        found = kernel_parameters.compare(values, own_kernel=own_kernel)
    except kernel_parameters.ParameterError as error:
        ret.update(result=False, comment=str(error))
        return ret
    changes = {difference.key: {"old": difference.old, "new": difference.new} for difference in found.repairable}
    notes = []
    if found.deferred:
        notes.append(
            f"{len(found.deferred)} of {len(values)} parameters are the host's in this container; their "
            f"configuration is "
            "written and takes effect on a real droplet."
        )
    if found.unknown:
        notes.append(f"This kernel does not have {', '.join(found.unknown)}.")
    if not changes:
        ret["comment"] = " ".join(["Every parameter this machine can set has its value.", *notes])
        return ret
    if __opts__["test"]:
        ret.update(result=None, changes=changes, comment=" ".join(["Parameters would be put right.", *notes]))
        return ret
    refused = []
    # A change of forwarding resets other parameters, also of interfaces that were right before: look again after it.
    for _ in range(2):
        for difference in found.repairable:
            try:
                kernel_parameters.put_in_force(difference)
            except kernel_parameters.ParameterError as error:
                refused.append(str(error))
                continue
            old = ret["changes"].get(difference.key, {}).get("old", difference.old)
            ret["changes"][difference.key] = {"old": old, "new": difference.new}
        if refused:
            break
        found = kernel_parameters.compare(values, own_kernel=own_kernel)
    ret["result"] = not refused
    ret["comment"] = " ".join([*(refused or ["Parameters were put right."]), *notes])
    return ret


def mounted_with(name, options):
    """Have a mounted file system carry options, remounting it if it does not.

    name
        Where it is mounted.
    options
        The options, such as ``noexec``.

    .. code-block:: yaml

        shared-memory-never-executed:
          kernel.mounted_with:
            - name: /dev/shm
            - options: [nosuid, nodev, noexec]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is mounted {', '.join(options)}."}
    try:
        lacking = mounts.missing(name, options)
        if not lacking:
            return ret
        ret["changes"] = {name: {"old": f"without {', '.join(lacking)}", "new": ", ".join(options)}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be remounted.")
            return ret
        mounts.remount(name, options)
    except mounts.MountError as error:
        ret.update(result=False, changes={}, comment=str(error))
    return ret
