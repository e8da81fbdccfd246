"""What the frozen program of a bundle does: it is salt-call, or a Python, by the name that it is called by.

PyInstaller starts it. The rest of the server runs `/opt/salt/current/bin/python -s -m …`, whatever lies there, so this program takes a
Python's arguments and heeds the variables of its environment that a unit may set. It imports next to nothing until it knows which of the
two it is: each timer of the server pays for that.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

_REFUSED = 2
"""How a Python ends that does not know an option."""


class UnknownOption(Exception):
    """An option that a Python may know, and this one does not."""


def restore_environment(environment: MutableMapping[str, str]) -> None:
    """Take out what the starter put in: with it, programs that are started from here would load the libraries of the bundle.

    Arguments:
        environment: the variables of this process, changed in place.
    """
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]
    # The starter keeps here what was set before; without it nothing was.
    before = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if before is None:
        environment.pop("LD_LIBRARY_PATH", None)
    else:
        environment["LD_LIBRARY_PATH"] = before


def become_python(called: str, place: str) -> None:
    """Have `sys` look as in a Python with the library and the packages of the bundle, so that no program needs to know where it runs.

    Arguments:
        called: what this program was called by.
        place: the folder of the bundle.
    """
    python = f"{place}/bin/python"
    # By the way it was called, as in a virtual environment: what starts children from here for long takes the next version along.
    sys.executable = called if os.path.isabs(called) and os.path.realpath(called) == os.path.realpath(python) else python
    # Salt and multiprocessing ask for it, and would do other things than elsewhere.
    if hasattr(sys, "frozen"):
        del sys.frozen
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = place
    frozen: str = sys._MEIPASS  # type: ignore[attr-defined]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = f"{place}/lib/{version}"
    # What the starter looks into is an archive that Salt would have read again many times in a run, and a finder written in Python.
    sys.path[:] = [library, f"{frozen}/{version}/lib-dynload", f"{place}/lib/site-packages"]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if "PyiFrozenFinder" not in repr(hook)]
    sys.path_importer_cache.clear()
    for name, module in list(sys.modules.items()):
        searched = getattr(module, "__path__", None)
        if isinstance(searched, list) and any(folder.startswith(frozen) for folder in searched):
            searched[:] = [f"{library}/{name.replace('.', '/')}"]


def parsed(arguments: list[str]) -> tuple[set[str], list[str], list[str]]:
    """Read the arguments of a Python.

    Arguments:
        arguments: those after the program's name.

    Returns:
        The letters of the flags; what -W said; and the rest, which begins with -c, -m, a file, or nothing for standard input.

    Raises:
        UnknownOption: there is a flag that is not known here.
    """
    flags: set[str] = set()
    warned: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest[0]
        if word in ("--version", "-V"):
            return {"V"}, [], []
        letters = word[1:]
        for number, letter in enumerate(letters):
            value = letters[number + 1 :]
            if letter in "cm":
                if not value and len(rest) < 2:
                    raise UnknownOption(f"Argument expected for the -{letter} option")
                return flags, warned, [f"-{letter}", *([value, *rest[1:]] if value else rest[1:])]
            if letter in "WX":
                if not value and len(rest) < 2:
                    raise UnknownOption(f"Argument expected for the -{letter} option")
                if not value:
                    value = rest.pop(1)
                if letter == "W":
                    warned.append(value)
                break
            if letter not in "BEIsuP":
                raise UnknownOption(f"Unknown option: -{letter} (this Python is part of a bundle and knows -B -E -I -P -s -u -W -X -c -m)")
            flags.add(letter)
        rest.pop(0)
    return flags, warned, rest


def heed(flags: set[str], warned: list[str], environment: MutableMapping[str, str]) -> None:
    """Do what flags and variables ask of a Python before it runs anything.

    Arguments:
        flags: letters of the flags.
        warned: what -W said.
        environment: the variables of this process.
    """
    ignored = flags & {"E", "I"}
    told = {} if ignored else environment
    # Frozen programs write none unless they are told to, and what lies in the repository would be compiled at every start.
    sys.dont_write_bytecode = "B" in flags or bool(told.get("PYTHONDONTWRITEBYTECODE"))
    filters = [part for part in told.get("PYTHONWARNINGS", "").split(",") if part] + warned
    if filters:
        import warnings

        sys.warnoptions.extend(filters)
        warnings._processoptions(filters)  # type: ignore[attr-defined]
    if "u" in flags or told.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    folders = [folder for folder in told.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [os.path.abspath(folder) for folder in folders]


def run(rest: list[str], safe: bool) -> None:
    """Run a command, a module, a file or standard input as `__main__`.

    Arguments:
        rest: as `parsed` returns it.
        safe: whether neither the working folder nor the file's is looked into for modules.
    """
    import runpy

    if rest[:1] == ["-m"]:
        sys.argv = ["-m", *rest[2:]]
        if not safe:
            sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
        return
    if rest[:1] == ["-c"]:
        text, name, sys.argv = rest[1], "<string>", ["-c", *rest[2:]]
    elif not rest or rest[0] == "-":
        text, name, sys.argv = sys.stdin.read(), "<stdin>", [*(rest or [""])]
    else:
        sys.argv = list(rest)
        if not safe:
            sys.path.insert(0, os.path.dirname(os.path.realpath(rest[0])))
        runpy.run_path(rest[0], run_name="__main__")
        return
    if not safe:
        sys.path.insert(0, "")
    main = type(sys)("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    exec(compile(text, name, "exec"), main.__dict__)  # noqa: S102 -- this is what -c is


def interpret(arguments: list[str]) -> None:
    """Be a Python.

    Arguments:
        arguments: those after the program's name.
    """
    try:
        flags, warned, rest = parsed(arguments)
    except UnknownOption as error:
        print(f"{error}\nTry a Python of this machine for anything else.", file=sys.stderr)
        sys.exit(_REFUSED)
    if "V" in flags:
        print(f"Python {sys.version.split()[0]}")
        return
    heed(flags, warned, os.environ)
    run(rest, bool(flags & {"I", "P"}))


def salt_call() -> None:
    """Be salt-call."""
    heed(set(), [], os.environ)
    from salt.scripts import salt_call as run_salt  # type: ignore[import-untyped]

    # salt-call always ends by raising SystemExit, and by returning only if it was asked nothing.
    sys.exit(run_salt())


def main() -> None:
    """Be what the name says that this program was called by; an exception is told as Python tells it, and no more."""
    called = sys.argv[0]
    restore_environment(os.environ)
    become_python(called, os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))
    try:
        if os.path.basename(called) == "salt-call":
            salt_call()
        else:
            interpret(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # noqa: BLE001 -- the starter would add lines of its own
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


if __name__ == "__main__":
    main()
