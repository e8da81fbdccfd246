"""Kernel parameters (sysctl): the values wanted, compared with those in force by reading /proc/sys.

Reading files instead of asking `sysctl` once per key keeps fifty parameters below a millisecond or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC_SYS = Path("/proc/sys")


class ParameterError(Exception):
    """A parameter is misspelt or the kernel refused its value; one paragraph with the remedy."""


@dataclass(frozen=True)
class Difference:
    """One parameter whose value in force is not the wanted one.

    Arguments:
        key: the parameter, e.g. `net.ipv4.conf.eth0.rp_filter`.
        path: its file.
        old: the value in force.
        new: the value wanted.
    """

    key: str
    path: Path
    old: str
    new: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison of wanted parameters with the kernel's found.

    Arguments:
        repairable: differences this machine can change.
        deferred: differences that belong to a kernel shared with others, so that only a machine of its own can change
            them.
        unknown: wanted keys this kernel does not have (a module not loaded, a feature not built).
    """

    repairable: tuple[Difference, ...]
    deferred: tuple[Difference, ...]
    unknown: tuple[str, ...]


def compare(wanted: Mapping[str, str | int], *, own_kernel: bool, root: Path = PROC_SYS) -> Comparison:
    """Compare wanted values with those in force, without changing anything.

    Arguments:
        wanted: values by key; a `*` stands for every network interface, `all` and `default` among them, as in
            sysctl.d(5).
        own_kernel: whether the machine has a kernel to itself. In a container only `net.` values in a namespace of its
            own may be changed: everything else would be the host's.
        root: where the parameters are, /proc/sys.

    Returns:
        What differs, split by what can be done about it.

    Raises:
        ParameterError: a key is not a plain dotted name.
    """
    repairable: list[Difference] = []
    deferred: list[Difference] = []
    unknown: list[str] = []
    for key, value in wanted.items():
        new = _normal(str(value))
        found = False
        for name, path in _places(key, root):
            try:
                old = _normal(path.read_text())
            except FileNotFoundError:
                continue
            except OSError:
                # Present, but not readable from here (in a container): whether it differs cannot be known.
                old = "?"
            found = True
            if old == new:
                continue
            difference = Difference(name, path, old, new)
            within_reach = own_kernel or (key.startswith("net.") and _writable(path))
            (repairable if within_reach else deferred).append(difference)
        if not found:
            unknown.append(key)
    return Comparison(tuple(repairable), tuple(deferred), tuple(unknown))


def put_in_force(difference: Difference) -> None:
    """Give one parameter its wanted value.

    Arguments:
        difference: the parameter, from `compare`.

    Raises:
        ParameterError: the kernel refused.
    """
    try:
        difference.path.write_text(difference.new)
    except OSError as error:
        raise ParameterError(
            f"The kernel refused {difference.key} = {difference.new} (it stays {difference.old}): {error.strerror}. "
            "Either the value is not valid for this kernel, or the parameter can only be set once per boot: correct it "
            "under hardening.sysctl in salt/defaults.yaml, or reboot, since the value is already in /etc/sysctl.d."
        ) from error


def _places(key: str, root: Path) -> Iterator[tuple[str, Path]]:
    parts = key.split(".")
    if any(not part or "/" in part for part in parts) or parts.count("*") > 1:
        raise ParameterError(
            f"'{key}' is no kernel parameter: write dotted names such as net.ipv4.tcp_syncookies, with at most "
            f"one * in "
            "place of a network interface. Correct it under hardening.sysctl in salt/defaults.yaml."
        )
    if "*" not in parts:
        yield key, root.joinpath(*parts)
        return
    before, after = parts[: parts.index("*")], parts[parts.index("*") + 1 :]
    folder = root.joinpath(*before)
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return
    for name in names:
        yield ".".join([*before, name, *after]), folder.joinpath(name, *after)


def _normal(value: str) -> str:
    # The kernel separates the numbers of one value by tabs, people by blanks.
    return " ".join(value.split())


def _writable(path: Path) -> bool:
    # Root passes every permission check, but not a read-only mount: only opening tells.
    try:
        with path.open("r+"):
            return True
    except OSError:
        return False
