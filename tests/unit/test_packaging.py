"""What a bundle is made of: the same bytes each time, all that this server's programs import, and a list that says so."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from freezing import archive, assembling, glibc, library, sbom

ROOT = Path(__file__).resolve().parents[2]
LOADED = ("_grains", "_modules", "_output", "_pillar", "_renderers", "_returners", "_states", "_utils", "salt")


def locked(lock: str, *, everywhere: bool = False) -> set[str]:
    """Return the names in a lock file; with `everywhere` only those that are meant for every system and every Python."""
    end = r"==\S+ *\\?$" if everywhere else "=="
    return {name.lower() for name in re.findall(rf"(?m)^([\w.-]+){end}", (ROOT / "requirements" / lock).read_text())}


def imported() -> dict[str, str]:
    """Return the top names of all that the code imports that Salt and the timers load, each with a file that does."""
    found = {}
    for path in (path for folder in LOADED for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found.update({name.split(".")[0]: str(path) for name in names})
    return found


def test_whatever_the_server_imports_is_in_a_bundle() -> None:
    packages = importlib.metadata.packages_distributions()
    lock = locked("salt.txt")
    names = imported()
    assert {"json", "sqlite3", "psycopg", "cryptography", "botocore", "yaml"} <= set(names), "nothing was looked at"
    for name, where in names.items():
        if name == "gigglekit":
            continue
        brought = {distribution.lower().replace("_", "-") for distribution in packages.get(name, [])}
        there = (name in sys.stdlib_module_names and name not in library.LEFT_OUT) or brought & lock
        assert there, f"{where} imports {name}, which neither the lock nor Python's library brings"


def test_the_whole_of_pythons_library_is_in_a_bundle_however_little_of_it_is_imported_today(tmp_path: Path) -> None:
    library.copy(tmp_path / "lib")
    there = (
        {path.name.removesuffix(".py") for path in (tmp_path / "lib").iterdir()} | set(library.extensions()) | set(sys.builtin_module_names)
    )
    windows = {"_msi", "_overlapped", "_scproxy", "_winapi", "msilib", "msvcrt", "nt", "winreg", "winsound", "ntpath"}
    private = {name for name in sys.stdlib_module_names if name.startswith("_")}
    assert sys.stdlib_module_names - there - windows - private - library.LEFT_OUT <= {"distutils"}
    assert "_sqlite3" in library.extensions()
    assert not list((tmp_path / "lib").rglob("test/*"))
    assert not list((tmp_path / "lib").rglob("__pycache__"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "one"
    (place / "bin").mkdir(parents=True)
    (place / "bin/program").write_text("#!/bin/sh\n")
    (place / "bin/program").chmod(0o700)
    (place / "bin/link").symlink_to("../bin/program")
    (place / "a").write_text("1")
    return place


def test_the_same_content_gives_the_same_archive(folder: Path, tmp_path: Path) -> None:
    first = archive.pack(folder, tmp_path / "1.tar.gz", 1000)
    other = tmp_path / "two"
    for path in sorted(folder.rglob("*"), reverse=True):
        target = other / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(os.readlink(path))
        elif path.is_file():
            shutil.copy(path, target)
            os.utime(target, (time.time() - 5000, time.time() - 5000))
            os.chown(target, 1, 1)
    assert archive.pack(other, tmp_path / "2.tar.gz", 1000) == first
    (other / "a").write_text("2")
    assert archive.pack(other, tmp_path / "2.tar.gz", 1000) != first


def test_the_order_in_which_something_was_put_into_a_zip_archive_is_not_seen(tmp_path: Path) -> None:
    made = []
    for names in (["b/c", "a"], ["a", "b/c"]):
        with zipfile.ZipFile(tmp_path / "zip", "w") as file:
            for name in names:
                file.writestr(name, f"content of {name}")
        archive.sort(tmp_path / "zip")
        made.append((tmp_path / "zip").read_bytes())
    assert made[0] == made[1]
    with zipfile.ZipFile(tmp_path / "zip") as file:
        assert {name: file.read(name) for name in file.namelist()} == {"a": b"content of a", "b/c": b"content of b/c"}


def test_what_is_unpacked_is_what_was_packed(folder: Path, tmp_path: Path) -> None:
    assert archive.pack(folder, tmp_path / "1.tar.gz", 1000) == hashlib.sha256((tmp_path / "1.tar.gz").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "1.tar.gz") as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert {name: oct(member.mode) for name, member in members.items() if member.isfile()} == {"a": "0o644", "bin/program": "0o755"}
    assert members["bin/link"].linkname == "../bin/program"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 1000)}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
def test_a_link_that_leads_out_is_not_packed(folder: Path, tmp_path: Path, target: str) -> None:
    (folder / "bin/out").symlink_to(target)
    with pytest.raises(ValueError, match="leads out"):
        archive.pack(folder, tmp_path / "1.tar.gz", 1000)


def test_the_c_library_that_a_bundle_needs_is_the_newest_that_any_file_of_it_asks_for(tmp_path: Path) -> None:
    assert glibc.newest(tmp_path) == ""
    (tmp_path / "text").write_bytes(b"\0GLIBC_9.1\0")
    (tmp_path / "one").write_bytes(b"\x7fELF\0GLIBC_2.9\0GLIBC_2.17\0GLIBC_PRIVATE\0")
    (tmp_path / "two").write_bytes(b"\x7fELF\0GLIBC_2.2.5\0")
    assert glibc.newest(tmp_path) == "2.17"


def test_the_list_has_every_package_of_the_lock_and_its_version(tmp_path: Path) -> None:
    site = Path(importlib.metadata.distribution("salt").locate_file(""))  # type: ignore[arg-type]
    for folder in ("lib/site-packages", "frozen/_internal", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    names, everywhere = ({re.sub(r"[-_.]+", "-", name) for name in locked("salt.txt", everywhere=each)} for each in (False, True))
    for one in importlib.metadata.distributions(path=[str(site)]):
        if re.sub(r"[-_.]+", "-", one.metadata["Name"].lower()) in names:
            metadata = Path(one._path)  # type: ignore[attr-defined]
            shutil.copytree(metadata, tmp_path / "lib/site-packages" / metadata.name)
    (tmp_path / "bin/uv").write_text("uv")
    (tmp_path / "frozen/_internal/libz.so.1").write_text("z")
    facts = {"lock": "l", "machine": "x86_64", "glibc": "2.36", "salt": "1", "python": "3.11.2", "uv": "0.1"}
    told = sbom.describe(tmp_path, facts, 1000)
    listed = {component["name"]: component for component in told["components"]}
    assert len(everywhere) > 50
    assert everywhere <= set(listed)
    assert {"CPython", "uv", "libz.so.1"} <= set(listed)
    assert listed["salt"]["purl"] == f"pkg:pypi/salt@{importlib.metadata.version('salt')}"
    assert listed["libz.so.1"]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"z").hexdigest()}]
    assert len({component["bom-ref"] for component in told["components"]}) == len(told["components"])
    assert json.dumps(sbom.describe(tmp_path, facts, 1000)) == json.dumps(told)


def test_what_is_frozen_is_called_by_the_names_that_the_server_uses() -> None:
    used = set()
    for path in (path for folder in ("salt", "_utils") for path in (ROOT / folder).rglob("*") if path.is_file()):
        used |= set(re.findall(r"/opt/salt/current/bin/([\w-]+)", path.read_text(errors="replace")))
    assert used
    assert used <= set(assembling.PROGRAMS)


_AS_A_PYTHON = """
import sys
sys.path.insert(0, sys.argv[1])
import frozen_python
sys.path.pop(0)
frozen_python.interpret(sys.argv[2:])
"""
_SHOW = "import sys, os; print(sys.argv, __name__, sys.dont_write_bytecode, os.getcwd() in [os.path.abspath(one) for one in sys.path])"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-s", "-c", _SHOW, "one", "-x"],
        ["-sBc", _SHOW],
        ["-I", "-c", _SHOW],
        ["-P", "-c", _SHOW],
        ["script.py", "one"],
        ["-s", "-m", "module", "--flag"],
        ["-m", "package"],
        ["-c", "import sys; sys.exit(7)"],
        ["-c", "import sys; sys.exit('words')"],
        ["-W", "error", "-c", "import warnings; warnings.warn('x')"],
        ["-c", "import beside; print(beside.__file__)"],
        ["-u", "-X", "utf8", "-c", "print('ä')"],
        ["-"],
        [],
    ],
)
@pytest.mark.parametrize(
    "variables", [{}, {"PYTHONPATH": "path", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}], ids=["plain", "set"]
)
def test_the_frozen_program_does_what_a_python_does(tmp_path: Path, arguments: list[str], variables: dict[str, str]) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "package").mkdir()
    for name in ("script.py", "module.py", "package/__main__.py"):
        (tmp_path / name).write_text(_SHOW)
    (tmp_path / "path/beside.py").write_text("")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(command: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(
            command, input=_SHOW, cwd=tmp_path, env={**clean, **variables}, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]

    # Without its own variables, and with those that the starter of a frozen program leaves.
    starter = [sys.executable, "-I", "-c", _AS_A_PYTHON, str(ROOT / "packaging")]
    assert run([*starter, *arguments]) == run([sys.executable, *arguments])


def test_an_option_that_the_frozen_program_does_not_know_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _AS_A_PYTHON, str(ROOT / "packaging"), "-i"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "Unknown option: -i" in done.stderr


def test_programs_that_are_started_from_a_bundle_load_the_libraries_of_the_machine() -> None:
    import frozen_python

    inside = {"LD_LIBRARY_PATH": "/opt/salt/x/frozen/_internal", "_PYI_ARCHIVE_FILE": "x", "PATH": "/bin"}
    frozen_python.restore_environment(inside)
    assert inside == {"PATH": "/bin"}
    inside = {"LD_LIBRARY_PATH": "/opt/salt/x/frozen/_internal", "LD_LIBRARY_PATH_ORIG": "/own"}
    frozen_python.restore_environment(inside)
    assert inside == {"LD_LIBRARY_PATH": "/own"}
