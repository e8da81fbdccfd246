"""Making a runtime: from the lock file by uv, or from a bundle whose sum is known."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from gigglekit.command import SYSTEM_PATH, CommandTimeoutError, Outcome, run
from gigglekit.runtime.errors import CannotRunHere, RuntimeProblem, WrongBundle
from gigglekit.runtime.home import Home, Runtime
from gigglekit.uv import SETTINGS

UV = Path("/opt/giggles-tools/uv/bin/uv")
LOCK = "requirements/salt.txt"
_INSTALL_SECONDS, _FETCH_SECONDS, _ANSWER_SECONDS = 900.0, 900.0, 60.0


def lock_of(tree: Path) -> bytes:
    """Return the lock file of a tree.

    Raises:
        RuntimeProblem: it cannot be read.
    """
    try:
        return (tree / LOCK).read_bytes()
    except OSError as error:
        raise RuntimeProblem(f"The lock file {tree / LOCK} cannot be read ({error.strerror}), which says what Salt is made of.") from error


def system_python() -> tuple[str, str]:
    """Return the path of the system's python3 and what it says of its version.

    Raises:
        RuntimeProblem: there is none.
    """
    python = shutil.which("python3", path=SYSTEM_PATH)
    if python is None:
        raise RuntimeProblem("This machine has no python3, with which Salt is installed. Install it: apt-get install python3")
    return python, _must([python, "--version"], "The system's python3 does not start", 30).output.strip()


def environment(home: Home, name: str, lock: Path, python: str, uv: Path = UV) -> Runtime:
    """Install Salt from a lock file.

    Arguments:
        home: where to.
        name: what the runtime will be called.
        lock: the lock file.
        python: the Python that it is made with.
        uv: the program that installs.

    Raises:
        RuntimeProblem: it could not be installed; nothing is left of it.
    """
    if not uv.exists():
        raise RuntimeProblem(f"uv, which installs Salt, is not at {uv}. Run bootstrap.sh again, which puts it there.")
    home.discard(name)
    folder = home.folder / name
    why = "Salt could not be installed from the lock file. Mostly it is the network or a full disk; it is tried again by itself"
    try:
        _must([str(uv), "venv", "--quiet", "--python", python, str(folder)], why, 120, SETTINGS)
        install = ["pip", "install", "--quiet", "--python", str(folder), "--no-deps", "--require-hashes", "-r", str(lock)]
        _must([str(uv), *install], why, _INSTALL_SECONDS, SETTINGS)
    except RuntimeProblem:
        home.discard(name)
        raise
    made = Runtime(folder, "environment", hashlib.sha256(lock.read_bytes()).hexdigest())
    home.complete(made)
    return made


def bundle_name(digest: str) -> str:
    """Return what the runtime of a bundle is called.

    Arguments:
        digest: SHA-256 of its archive, in hexadecimal digits.
    """
    return f"bundle-{digest[:16]}"


def bundle(home: Home, source: str, digest: str, lock: bytes) -> Runtime:
    """Unpack a bundle, after its sum was compared.

    Arguments:
        home: where to.
        source: a file, or an address (https:// or http://; what comes is believed for its sum, not for where it comes from).
        digest: the SHA-256 that it has to have, in hexadecimal digits.
        lock: the lock file that it has to be made from.

    Raises:
        CannotRunHere: it was made from another lock file.
        WrongBundle: it is not what was asked for; nothing of it is left.
        RuntimeProblem: it cannot be had, or not be unpacked.
    """
    name = bundle_name(digest)
    with _archive(home, source) as file:
        made = hashlib.sha256()
        while piece := file.read(1 << 20):
            made.update(piece)
        if made.hexdigest() != digest:
            raise WrongBundle(
                f"The bundle {source} is not the one that was meant: its SHA-256 is {made.hexdigest()}, and {digest} was asked for. It was "
                "not unpacked. Fetch it again, or take the sum from where it was built."
            )
        home.discard(name)
        folder = home.folder / name
        folder.mkdir(mode=0o755)
        try:
            # The file that was read, not what may lie at its path by now.
            archive = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            opened = ["tar", "--extract", "--gzip", f"--file={archive}", f"--directory={folder}", "--no-same-owner"]
            _must(opened, f"The bundle {source} could not be unpacked into {folder}. Mostly the disk is full", _INSTALL_SECONDS)
            made_from = str(json.loads((folder / "bundle.json").read_bytes())["lock"])
            if made_from != hashlib.sha256(lock).hexdigest():
                raise other_lock(source)
        except (OSError, ValueError, KeyError, TypeError) as error:
            home.discard(name)
            raise WrongBundle(f"The archive {source} is no bundle ({error}). Build one with packaging/build.") from error
        except RuntimeProblem:
            home.discard(name)
            raise
    result = Runtime(folder, "bundle", made_from)
    home.complete(result)
    return result


def other_lock(source: str) -> CannotRunHere:
    """Return the error of a bundle that is not made for this tree."""
    return CannotRunHere(f"The bundle {source} was made from another {LOCK} than this repository has. Build one of this commit.")


@contextmanager
def _archive(home: Home, source: str) -> Iterator[IO[bytes]]:
    if not source.startswith(("https://", "http://")):
        with ExitStack() as stack:
            try:
                file = stack.enter_context(Path(source).open("rb"))
            except OSError as error:
                raise RuntimeProblem(f"The bundle {source} cannot be read ({error.strerror}). Check the path.") from error
            yield file
        return
    with tempfile.TemporaryFile(dir=home.folder) as kept:
        end = time.monotonic() + _FETCH_SECONDS
        try:
            with urllib.request.urlopen(source, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 -- only what begins as above
                while piece := answer.read(1 << 20):
                    kept.write(piece)
                    if time.monotonic() > end:
                        raise TimeoutError(f"it took more than {_FETCH_SECONDS:.0f} s")
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise RuntimeProblem(f"The bundle cannot be fetched from {source} ({error}). Check the address and the network.") from error
        kept.seek(0)
        yield kept


def _must(argv: list[str], why: str, seconds: float, settings: dict[str, str] | None = None) -> Outcome:
    try:
        done = run(argv, seconds=seconds, environment=settings)
    except CommandTimeoutError as error:
        raise RuntimeProblem(f"{why}. ({error})") from error
    except OSError as error:
        raise RuntimeProblem(f"{why}. ({argv[0]}: {error.strerror})") from error
    if done.code != 0:
        raise RuntimeProblem(f"{why}. {Path(argv[0]).name} says: {done.last_words}")
    return done
