"""What an explanation may take from what failed states said: names of states, packages, hosts, programs and paths.

Free text is never taken over, since nobody knows what it holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .failure import Failure
from .filesystem import FileSystem, holding

_MOST_NAMES = 5
_MOST_PATHS = 50
_PATH = re.compile(r"(?<![\w./:-])/[\w.+@%~-]+(?:/[\w.+@%~-]+)*")
_USUAL_PATHS = ("/", "/tmp", "/var/tmp", "/var/cache/apt/archives", "/var/lib/dpkg", "/var/cache/salt", "/usr", "/boot", "/run")  # noqa: S108
_FETCHED = re.compile(r"Failed to fetch (\S+)[^\n]*")
_ASKED = re.compile(r"resolv(?:e|ing) '([\w.-]+)'|connect(?:ion)? to ([\w.-]*\w):")
_UNKNOWN = re.compile(r"(?:locate package |Package '|found in the package db: )([a-z0-9][a-z0-9.+-]*)")
_HOLDER = re.compile(r"(?:held by process|with pid) (\d+)(?: \(([\w.+-]+)\))?")
_REFUSED = re.compile(r"[^\n]*Operation not permitted[^\n]*")


class Facts(dict[str, str]):
    """The facts of some failures by name, each looked up when a text asks for it.

    Names:
        `states`, `packages`: their names.
        `hosts`, `host`: the servers that apt asked, and the first of them.
        `holder`: the program that holds a lock.
        `room`: the file systems without enough of it, and what is free there.
        `fillers`: commands that show what fills them.
        `read_only`: the mount point that nothing can be written to.
        `disks`: the mount points of all that is concerned.
        `immovable`, `immovables`: a path that even root may not change; the folder that it lies in and the path, if it is there.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__()
        self._failures = failures

    def __missing__(self, name: str) -> str:
        return _FACTS[name](self._failures)


def _states(failures: Sequence[Failure]) -> str:
    return _listed(failure.identifier for failure in failures)


def _packages(failures: Sequence[Failure]) -> str:
    names = []
    for failure in failures:
        for match in _FETCHED.finditer(failure.said):
            file = unquote(match[1]).rpartition("/")[2]
            if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*_\S*\.deb", file):
                names.append(file.partition("_")[0])
        names += _UNKNOWN.findall(failure.said)
    return _listed(names) or "a package"


def _hosts(failures: Sequence[Failure]) -> str:
    return _listed(_asked(failures)) or "the package server"


def _host(failures: Sequence[Failure]) -> str:
    return next(_asked(failures), "SERVER")


def _asked(failures: Sequence[Failure]) -> Iterator[str]:
    for failure in failures:
        for fetched in _FETCHED.finditer(failure.said):
            asked = _ASKED.search(fetched[0])
            # Behind a proxy it is the proxy that does not answer. Of an address only the host: there may be a password in it.
            host = asked[asked.lastindex or 0] if asked else _host_of(fetched[1])
            if host and re.fullmatch(r"[\w.:-]+", host):
                yield host


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _holder(failures: Sequence[Failure]) -> str:
    for failure in failures:
        match = _HOLDER.search(failure.said)
        if match:
            return f"{match[2] or 'another program'} (process {match[1]})"
    return "another program"


def _room(failures: Sequence[Failure]) -> str:
    return _listed(system.room for system in _tight(failures)) or "/"


def _fillers(failures: Sequence[Failure]) -> str:
    systems = _tight(failures)
    bytes_of = [system.mount for system in systems if system.full or not system.out_of_files]
    files_of = [system.mount for system in systems if system.mount not in bytes_of]
    commands = []
    if bytes_of:
        commands.append(f"`sudo du -xh --max-depth=2 {shlex.join(bytes_of)} | sort -h | tail -20`")
    if files_of:
        commands.append(f"`sudo du -x --inodes --max-depth=2 {shlex.join(files_of)} | sort -n | tail -20`")
    return " and ".join(commands) or "`df -h`"


def _tight(failures: Sequence[Failure]) -> list[FileSystem]:
    """Return the file systems that are full; if none is, since what did not fit has been removed again, the fullest concerned."""
    for paths in (_named(failures), _USUAL_PATHS):
        full = [system for system in _systems(paths) if system.full or system.out_of_files]
        if full:
            return full
    concerned = [system for system in _systems(_named(failures) or _USUAL_PATHS) if system.size and not system.read_only]
    return sorted(concerned, key=lambda system: system.free)[:1]


def _read_only(failures: Sequence[Failure]) -> str:
    for paths in (_named(failures), _USUAL_PATHS):
        for system in _systems(paths):
            if system.read_only:
                return system.mount
    return "/"


def _disks(failures: Sequence[Failure]) -> str:
    return _listed(system.mount for system in _systems(_named(failures))) or "/"


def _immovable(failures: Sequence[Failure]) -> str:
    for failure in failures:
        if failure.name.startswith("/") and _PATH.fullmatch(failure.name):
            return failure.name
        paths = [path for line in _REFUSED.findall(failure.said) for path in _PATH.findall(line)]
        if paths:
            return str(paths[0])
    return "/"


def _immovables(failures: Sequence[Failure]) -> str:
    path = Path(_immovable(failures))
    return shlex.join(str(one) for one in (path.parent, path) if one.exists())


def _named(failures: Sequence[Failure]) -> list[str]:
    """Return the paths that failed states are about or spoke of; what is not there any more counts for where it was."""
    paths: list[str] = []
    for failure in failures:
        paths += [failure.name] if failure.name.startswith("/") else []
        paths += _PATH.findall(failure.said)
    return list(dict.fromkeys(paths))[:_MOST_PATHS]


def _systems(paths: Iterable[str]) -> list[FileSystem]:
    """Return the file systems of some paths, each once."""
    found = {system.mount: system for system in map(holding, paths) if system}
    return list(found.values())


def _listed(names: Iterable[str]) -> str:
    once = list(dict.fromkeys(names))
    if len(once) > _MOST_NAMES:
        once[_MOST_NAMES - 1 :] = [f"{len(once) - _MOST_NAMES + 1} more"]
    return " and ".join(part for part in (", ".join(once[:-1]), *once[-1:]) if part)


_FACTS: Mapping[str, Callable[[Sequence[Failure]], str]] = {
    "states": _states,
    "packages": _packages,
    "hosts": _hosts,
    "host": _host,
    "holder": _holder,
    "room": _room,
    "fillers": _fillers,
    "read_only": _read_only,
    "disks": _disks,
    "immovable": _immovable,
    "immovables": _immovables,
}
