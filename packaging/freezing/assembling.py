"""A bundle's folder, from what PyInstaller froze, Python's library and the packages of the lock."""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import json
import platform
import py_compile
import shutil
import sys
from pathlib import Path
from typing import Any

from . import archive, glibc, library, sbom

PROGRAMS = ("python", "python3", "salt-call")
"""What the one frozen program is called by."""


def assemble(target: Path, frozen: Path, environment: Path, uv: Path, locks: Path, moment: int) -> dict[str, Any]:
    """Make the folder.

    Arguments:
        target: the folder, which is made.
        frozen: what PyInstaller made.
        environment: a virtual environment with the packages of the lock, in which salt-call ran once.
        uv: the program uv, which the app's own environment is made with.
        locks: the folder with the lock files.
        moment: the time that is written down, in seconds since 1970.

    Returns:
        What bundle.json says.
    """
    shutil.copytree(frozen, target / "frozen", symlinks=True)
    archive.sort(target / "frozen" / "_internal" / "base_library.zip")
    (target / "bin").mkdir()
    for name in PROGRAMS:
        (target / "bin" / name).symlink_to("../frozen/python")
    shutil.copy2(uv, target / "bin" / "uv")
    shutil.copy(locks / "uv.txt", target / "uv.txt")
    packages = next(environment.glob("lib/python*/site-packages"))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library.copy(target / "lib" / version)
    shutil.copytree(packages, target / "lib" / "site-packages", ignore=shutil.ignore_patterns("__pycache__", "_virtualenv.*", "*.pth"))
    _compile(target / "lib" / version, target)
    _compile_packages(target / "lib" / "site-packages", packages, target)
    facts: dict[str, Any] = {
        "lock": hashlib.sha256((locks / "salt.txt").read_bytes()).hexdigest(),
        "salt": next(one.version for one in importlib.metadata.distributions(name="salt", path=[str(packages)])),
        "python": platform.python_version(),
        "uv": _locked_version(locks / "uv.txt", "uv"),
        "machine": platform.machine(),
        "glibc": glibc.newest(target),
    }
    (target / "bundle.json").write_text(json.dumps(facts, indent=2) + "\n")
    (target / "sbom.json").write_text(json.dumps(sbom.describe(target, facts, moment), indent=2) + "\n")
    return facts


def _locked_version(lock: Path, name: str) -> str:
    line = next(line for line in lock.read_text().splitlines() if line.startswith(f"{name}=="))
    return line.split("==")[1].split()[0]


def _compile(folder: Path, place: Path) -> None:
    # Never looked at again whether the source is newer: it is not, and an archive has one time for all.
    compileall.compile_dir(
        folder, maxlevels=20, quiet=2, stripdir=str(place), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _compile_packages(folder: Path, installed: Path, place: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "salt":
            _compile(path, place)
    # Of Salt only what a run has imported: it looks at each file in its folders of modules, and twice as many would take twice as long.
    for compiled in sorted((installed / "salt").rglob("*.pyc")):
        source = folder / compiled.relative_to(installed).parent.parent / (compiled.name.split(".")[0] + ".py")
        if source.exists():
            compileall.compile_file(source, quiet=2, stripdir=str(place), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
