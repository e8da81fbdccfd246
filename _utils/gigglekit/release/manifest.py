"""What a finished release consists of, so that a later change of any file shows without reading the files.

The list is compared by lstat(2) alone. It holds the change time (ctime) as well: whoever edits a file can set its
modification time back, but not that. Times of folders are left out, since a scratch file that came and went is no change.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

NAME = ".giggles-release.json"
_LIST = ".giggles-manifest.json"
_OWN = frozenset({NAME, _LIST})


def _entries(root: str, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    folders: list[str] = []
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if path in _OWN:
                continue
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
    for folder in folders:
        yield from _entries(root, folder)


def _seen(root: Path) -> dict[str, str]:
    top = os.lstat(root)
    seen = {".": f"{top.st_mode:o} {top.st_uid}:{top.st_gid}"}
    for path, status in _entries(str(root)):
        if stat.S_ISDIR(status.st_mode):
            seen[path] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
        else:
            seen[path] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return seen


def _digest(seen: dict[str, str]) -> str:
    text = "\n".join([f"{path}\0{seen[path]}" for path in sorted(seen)])
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32).hexdigest()


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: object) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):  # type: ignore[attr-defined]
        digest.update(block)
    return digest.hexdigest()


def write(root: Path, facts: dict[str, object]) -> None:
    """Record what the finished release at `root` consists of.

    Arguments:
        root: folder of the release; nothing in it may change afterwards.
        facts: JSON values that say what it was built from.

    Raises:
        OSError: the disk is full, or a file vanished.
    """
    seen = _seen(root)
    listed = {path: [what, _content(root / path)] for path, what in seen.items()}
    for name, content in ((_LIST, listed), (NAME, {**facts, "digest": _digest(seen), "entries": len(seen)})):
        file = root / name
        file.write_text(json.dumps(content, sort_keys=True), encoding="utf-8", errors="surrogateescape")
        file.chmod(0o644)


def facts(root: Path) -> dict[str, object] | None:
    """Return what the release at `root` was built from, or None if it is not complete."""
    try:
        found = json.loads((root / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def drift(root: Path) -> list[str]:
    """Return what differs from the finished release, one line each ("changed: src/main.py"), sorted; empty if nothing.

    Costs one lstat per entry while nothing differs; the list itself is only read when something does.
    """
    known = facts(root)
    if known is None:
        return [f"missing: {NAME}"]
    seen = _seen(root)
    if known.get("digest") == _digest(seen):
        return []
    try:
        listed = json.loads((root / _LIST).read_text(encoding="utf-8", errors="surrogateescape"))
        before = {path: what for path, (what, _) in listed.items()}
    except (OSError, ValueError, AttributeError):
        return [f"missing: {_LIST}"]
    lines = [f"deleted: {path}" for path in before.keys() - seen.keys()]
    lines += [f"added: {path}" for path in seen.keys() - before.keys()]
    lines += [f"changed: {path}" for path in before.keys() & seen.keys() if before[path] != seen[path]]
    # A digest that fits no list means the record itself was edited.
    return sorted(lines) or [f"changed: {NAME}"]
