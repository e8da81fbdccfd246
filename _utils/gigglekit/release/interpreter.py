"""The Python a release runs on: the system's where it fits, else one that uv manages."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from gigglekit.command import CommandTimeoutError, run
from gigglekit.release.errors import BuildError, ReleaseError
from gigglekit.release.settings import Layout

SYSTEM = "/usr/bin/python3"
_SECONDS = 300.0
_CLAUSE = re.compile(r"(>=|<=|==|<|>)?\s*(\d+)\.(\d+)(?:\.\d+)?(?:\.\*)?")


def fits(request: str, version: tuple[int, int]) -> bool:
    """Tell whether a Python version satisfies a request.

    Arguments:
        request: "system", a version ("3.11") or a range (">=3.9,<3.12").
        version: major and minor.

    Raises:
        ReleaseError: the request is none of these.
    """
    if request == "system":
        return True
    for clause in request.split(","):
        match = _CLAUSE.fullmatch(clause.strip())
        if match is None:
            raise ReleaseError(
                f"giggles:app:python is {request!r}, which names no Python. Set it to system, to a version such as "
                "3.11, or to a range such as >=3.9,<3.12."
            )
        bound = (int(match[2]), int(match[3]))
        holds = {
            ">=": version >= bound,
            "<=": version <= bound,
            "<": version < bound,
            ">": version > bound,
            "==": version == bound,
        }[match[1] or "=="]
        if not holds:
            return False
    return True


def choose(request: str, uv: Path, layout: Layout, environment: dict[str, str]) -> str:
    """Return the path of an interpreter for `request`, installing one with uv if the system's does not fit.

    Arguments:
        request: see `fits`.
        uv: the uv program.
        layout: says where uv keeps its interpreters.
        environment: for uv.

    Raises:
        BuildError: none can be had.
        ReleaseError: the request makes no sense, or the system has no Python.
    """
    version = _system_version()
    if fits(request, version):
        return SYSTEM
    managed = {**environment, "UV_PYTHON_INSTALL_DIR": str(layout.python), "UV_PYTHON_PREFERENCE": "only-managed"}
    try:
        found = run([str(uv), "python", "find", "--no-project", request], seconds=30, environment=managed)
        if found.code != 0:
            installed = run([str(uv), "python", "install", "--no-bin", request], seconds=_SECONDS, environment=managed)
            reason = installed.last_words
            found = run([str(uv), "python", "find", "--no-project", request], seconds=30, environment=managed)
        if found.code == 0 and found.output.strip():
            return found.output.strip()
    except CommandTimeoutError as error:
        reason = str(error)
    finally:
        # uv makes its lock so that everybody may write it, which nobody but root has to.
        with contextlib.suppress(FileNotFoundError):
            (layout.python / ".lock").chmod(0o644)
    raise BuildError(
        f"The app asks for Python {request}, this system has {version[0]}.{version[1]}, and uv could not install "
        f"another ({reason}). Let the droplet reach the place uv downloads interpreters from (github.com), or set "
        "giggles:app:python to a version this system has, if the app runs on it. The live release was left as it is."
    )


def _system_version() -> tuple[int, int]:
    try:
        told = run([SYSTEM, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"], seconds=20)
        major, minor = told.output.split()
        return int(major), int(minor)
    except (OSError, ValueError, CommandTimeoutError) as error:
        raise ReleaseError(f"{SYSTEM} does not answer ({error}). Install the package python3, then apply again.") from error
