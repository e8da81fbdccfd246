"""certbot in a virtual environment of its own, from a lock with hashes.

Every lock has a folder of its own, built beside the one in use; `current` leads to a folder only once it is complete, so
that a renewal never meets half a certbot.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from gigglekit.certificate.errors import CertificateError
from gigglekit.command import CommandTimeoutError, run
from gigglekit.files import links
from gigglekit.uv import SETTINGS

_COMPLETE = "complete"
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Environment:
    """Where certbot is to be.

    Attributes:
        root: folder that holds all builds and the link `current`.
        lock: requirements with hashes.
        python: the interpreter to build with.
        version: that interpreter's version, such as `3.11`; another one needs another build.
        uv: the uv executable.
    """

    root: Path
    lock: Path
    python: Path
    version: str
    uv: Path

    @property
    def folder(self) -> Path:
        """The build that belongs to lock and interpreter."""
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        return self.root / f"{digest[:16]}-python{self.version}"

    @property
    def current(self) -> Path:
        """The link that everybody else uses."""
        return self.root / "current"

    def is_complete(self) -> bool:
        """Return whether the build was finished and its programs are still there."""
        return all((self.folder / part).exists() for part in (_COMPLETE, "bin/python", "bin/certbot"))

    def is_current(self) -> bool:
        """Return whether `current` leads to the build."""
        return self.current.is_symlink() and self.current.readlink() == self.folder

    def older(self) -> list[Path]:
        """Return the builds of other locks and interpreters."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink() and path != self.folder)


def establish(environment: Environment) -> None:
    """Build what is missing, lead `current` to it and remove older builds.

    Raises:
        CertificateError: uv is missing, or refused, or the disk did.
    """
    try:
        if not environment.is_complete():
            _build(environment)
        if not environment.is_current():
            if environment.current.is_dir() and not environment.current.is_symlink():
                shutil.rmtree(environment.current)
            links.point(environment.current, str(environment.folder))
        for folder in environment.older():
            shutil.rmtree(folder)
    except OSError as error:
        raise CertificateError(
            f"certbot could not be installed below {environment.root}: {error.strerror} ({error.filename}). The "
            f"certificate in use is not affected. Free space or make the folder writable, and apply the state again."
        ) from error


def _build(environment: Environment) -> None:
    folder = environment.folder
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _run(environment, ["venv", "--quiet", "--python", str(environment.python), str(folder)])
    _run(
        environment,
        ["pip", "install", "--quiet", "--python", str(folder / "bin/python"), "--no-deps", "--require-hashes",
         "--requirements", str(environment.lock)],
    )  # fmt: skip
    (folder / _COMPLETE).touch()


def _run(environment: Environment, arguments: list[str]) -> None:
    settings = {**SETTINGS, "UV_NO_CACHE": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "copy"}
    remedy = "The certificate in use is not affected. Check the network and the clock, then apply the state again."
    try:
        done = run([str(environment.uv), *arguments], seconds=_TIMEOUT_SECONDS, environment=settings)
    except FileNotFoundError as error:
        raise CertificateError(
            f"certbot could not be installed: {environment.uv} does not exist. bootstrap.sh puts it there; run it again."
        ) from error
    except CommandTimeoutError as error:
        raise CertificateError(f"certbot could not be installed: uv gave no answer within {_TIMEOUT_SECONDS} s. {remedy}") from error
    if done.code != 0:
        raise CertificateError(f"certbot could not be installed, since uv {arguments[0]} failed: {done.last_words} {remedy}")
