"""Python's own library, which a bundle has as a whole.

A droplet fetches new commits without fetching a new bundle, and a module that only they import has to be there. So nothing is left out
for not being imported today.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

LEFT_OUT = frozenset({"antigravity", "ensurepip", "idlelib", "lib2to3", "this", "tkinter", "turtle", "turtledemo", "venv"})
"""Programs with windows, jokes, and what makes environments: nothing that a server's program imports."""
_NO_MODULES = frozenset({"__pycache__", "dist-packages", "idle_test", "lib-dynload", "site-packages", "test", "tests"})


def extensions() -> list[str]:
    """Return the names of the library's modules that are written in C and lie in files of their own."""
    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    names = {path.name.split(".")[0] for path in folder.glob("*.so")}
    return sorted(name for name in names if not name.startswith(("_test", "_ctypes_test", "_tkinter", "_xxtest", "xx")))


def copy(target: Path) -> None:
    """Lay the library's modules that are written in Python into a new folder.

    Arguments:
        target: the folder, which is made.
    """
    source = Path(sysconfig.get_path("stdlib"))

    def ignored(folder: str, names: list[str]) -> set[str]:
        out = {name for name in names if name in _NO_MODULES or name.startswith("config-")}
        if Path(folder) == source:
            out |= {name for name in names if name.removesuffix(".py") in LEFT_OUT or name == "sitecustomize.py"}
        return out

    shutil.copytree(source, target, ignore=ignored)
