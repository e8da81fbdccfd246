"""A swap file of an exact size."""

from gigglekit.kernel import swap as kernel_swap


def __virtual__():
    return "swap"


def file(name, size_mb, own_kernel=True):
    """Keep a swap file of `size_mb` MiB, mode 0600, enabled.

    name
        Where the file lies.
    size_mb
        Its size in MiB; a file of another size is replaced.
    own_kernel
        False in a container, whose swap would be the host's: nothing is done, and the comment says so.

    .. code-block:: yaml

        swap-enabled:
          swap.file:
            - name: /swapfile
            - size_mb: 3072
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if not own_kernel:
        ret["comment"] = f"In this container swap would be the host's, so {name} ({size_mb} MB) is made on a real droplet only."
        return ret
    size_bytes = int(size_mb) * 1024**2
    try:
        path = kernel_swap.Path(name)
        current = kernel_swap.inspect(path)
        changes = kernel_swap.differences(current, size_bytes)
        if not changes:
            ret["comment"] = f"{name} is in use, {size_mb} MB."
            return ret
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"{name} would be put right.")
            return ret
        kernel_swap.establish(current, size_bytes)
        left = kernel_swap.differences(kernel_swap.inspect(path), size_bytes)
    except kernel_swap.SwapError as error:
        ret.update(result=False, comment=str(error))
        return ret
    ret["changes"] = changes
    if left:
        ret.update(
            result=False,
            comment=f"{name} is still not as it should be ({', '.join(left)}) although every step succeeded. "
            "Look at /proc/swaps and dmesg, then apply again.",
        )
    else:
        ret["comment"] = f"{name} is in use, {size_mb} MB."
    return ret


def absent(name, own_kernel=True):
    """Have no swap file.

    name
        Where the file would lie.
    own_kernel
        False in a container: nothing is done.

    .. code-block:: yaml

        swap-not-in-use:
          swap.absent:
            - name: /swapfile
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"There is no {name}."}
    path = kernel_swap.Path(name)
    try:
        current = kernel_swap.inspect(path)
        if not own_kernel or not current.size_bytes:
            return ret
        ret["changes"] = {"size_mb": {"old": current.size_bytes // 1024**2, "new": None}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{name} would be removed.")
            return ret
        kernel_swap.remove(current)
    except kernel_swap.SwapError as error:
        ret.update(result=False, changes={}, comment=str(error))
        return ret
    ret["comment"] = f"{name} was removed."
    return ret
