"""Builds a release completely, in a folder that nothing runs from yet."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from gigglekit.files.replacing import replace
from gigglekit.release import manifest, single_run, venv
from gigglekit.release.dotenv import systemd_file
from gigglekit.release.errors import BuildError
from gigglekit.release.repository import Repository
from gigglekit.release.settings import Layout, Settings

# Raised when a release is built differently, so that the live one is built anew as well.
_RECIPE = 2
_LEAST_FREE = 500 * 1024**2

MakeVenv = Callable[[Settings, Layout, Path], str]


def ingredients(settings: Settings) -> dict[str, object]:
    """Return what a built release depends on besides its commit; a change of these means a new build."""
    guard = hashlib.sha256(Path(single_run.__file__).read_bytes()).hexdigest()
    return {**settings.ingredients, "recipe": _RECIPE, "guard": guard[:16]}


def build(settings: Settings, layout: Layout, repository: Repository, commit: str, make_venv: MakeVenv = venv.create) -> Path:
    """Build `commit` beside whatever is live.

    Arguments:
        settings: what to build it from.
        layout: where.
        repository: the mirror that can export it.
        commit: 40 hexadecimal digits.
        make_venv: creates the virtual environment and returns its interpreter.

    Returns:
        The folder `<commit>.building`: finished, root's own, with its manifest, not yet at its place.

    Raises:
        ReleaseError: it could not be built; nothing is left of the attempt.
    """
    folder = layout.building(commit)
    layout.releases.mkdir(mode=0o755, parents=True, exist_ok=True)
    _sweep(folder)
    _need_space(layout)
    try:
        folder.mkdir(mode=0o755)
        repository.fetch(commit)
        repository.export(commit, folder)
        removed = _contain(folder)
        app = folder / settings.subdirectory
        if not app.is_dir():
            raise BuildError(
                f"The commit {commit[:12]} has no folder {settings.subdirectory!r}. Correct giggles:app:subdirectory "
                "in the pillar. The live release was left as it is."
            )
        # Whatever umask this run has: packages are installed by an account that is neither root nor the app.
        _settle(folder)
        python = make_venv(settings, layout, folder)
        _contain(folder, python)
        # What the units need to know of a release lies in it, so that units never run ahead of the release.
        (folder / ".app").symlink_to(settings.subdirectory or ".")
        replace(folder / ".giggles-start.env", systemd_file({"GIGGLES_MODULE": settings.module}).encode(), 0o644)
        # The app looks for .env in its working directory only.
        (app / ".env").unlink(missing_ok=True)
        (app / ".env").symlink_to(layout.environment)
        venv.compile_all(python, folder, layout.release(commit))
        _settle(folder)
        os.sync()
        manifest.write(
            folder,
            {
                "commit": commit,
                "ingredients": ingredients(settings),
                "interpreter": python,
                "removed": removed,
                "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        )
    except OSError as error:
        _sweep(folder)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(layout) from error
        raise BuildError(
            f"The release {commit[:12]} could not be written below {layout.releases} ({error.strerror}: "
            f"{error.filename}). Check the disk, then apply again. The live release was left as it is."
        ) from error
    except BaseException:
        _sweep(folder)
        raise
    return folder


def _sweep(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _need_space(layout: Layout) -> None:
    disk = os.statvfs(layout.releases)
    if disk.f_bavail * disk.f_frsize < _LEAST_FREE:
        raise _disk_full(layout)


def _disk_full(layout: Layout) -> BuildError:
    return BuildError(
        f"The disk is too full to build a release below {layout.releases}: at least {_LEAST_FREE // 1024**2} MB must "
        "be free, and a release with TensorFlow takes about 2 GB. Free some space (journalctl --vacuum-size=100M, "
        "apt-get clean, uv cache clean) or take a bigger disk, then apply again. The live release was left as it is."
    )


def _contain(folder: Path, python: str = "") -> list[str]:
    """Remove every `uploads` (the app erases what it finds there) and refuse links that lead out of the release.

    Once packages are installed, `python` is their environment's interpreter: links in its `bin` may name that, and a
    package may have an `uploads` of its own.
    """
    removed: list[str] = []
    top = os.path.realpath(folder)
    packages = folder / venv.FOLDER
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(where, name)
            inside = str(path.relative_to(folder))
            # Before that, a folder of this name is the repository's.
            packaged = bool(python) and packages in path.parents
            if name == "uploads" and not packaged:
                _sweep(path)
                removed.append(inside)
                if name in folders:
                    folders.remove(name)
            elif path.is_symlink() and (name != ".env" or packaged):
                goal = os.path.realpath(path)
                if goal == top or goal.startswith(top + os.sep):
                    continue
                if packaged and path.parent == packages / "bin" and name.startswith("python") and goal == os.path.realpath(python):
                    continue
                whose = "A package of the release" if packaged else "The repository"
                raise BuildError(
                    f"{whose} holds a link, {inside}, that leads out of the release to {str(path.readlink())!r}. Whatever "
                    "lies there could be served or erased. Remove the link, or the package that brings it. The live "
                    "release was left as it is."
                )
    return removed


def _settle(folder: Path) -> None:
    """Make everything root's, readable by the app and writable by nobody else."""
    folder.chmod(0o755)
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(where, name)
            status = os.lstat(path)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.lchown(path, os.geteuid(), os.getegid())
            if stat.S_ISLNK(status.st_mode):
                continue
            wanted = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111 else 0o644
            if stat.S_IMODE(status.st_mode) != wanted:
                os.chmod(path, wanted)
