"""One archive of a folder, the same bytes each time: names in order, no owner, one time for all."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import zipfile
from pathlib import Path


def pack(folder: Path, archive: Path, moment: int) -> str:
    """Write a folder into an archive (tar, gzip: what every system can open that this server runs on).

    Arguments:
        folder: whose content is packed.
        archive: the file to write; one that is there is replaced.
        moment: the time that all files get, in seconds since 1970.

    Returns:
        The SHA-256 of the archive, in hexadecimal digits.

    Raises:
        ValueError: a link leads out of the folder.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
            _add(tar, path, folder, moment)
    return digest(archive)


def sort(path: Path) -> None:
    """Put the files in a zip archive in order: PyInstaller writes them as it comes upon them.

    Arguments:
        path: the archive, which is replaced.
    """
    with zipfile.ZipFile(path) as old:
        content = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name in sorted(content):
            new.writestr(zipfile.ZipInfo(name), content[name])


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            made.update(piece)
    return made.hexdigest()


def _add(tar: tarfile.TarFile, path: Path, folder: Path, moment: int) -> None:
    status = path.lstat()
    entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
    entry.mtime = moment
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        if os.path.isabs(entry.linkname) or folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{path} leads out of the bundle, to {entry.linkname}")
        tar.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    else:
        entry.mode, entry.size = 0o755 if status.st_mode & 0o100 else 0o644, status.st_size
        with path.open("rb") as file:
            tar.addfile(entry, file)
