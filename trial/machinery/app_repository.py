"""The sample app as a Git repository of its own, with the same commits on every machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .settings import PROJECT
from .steps import run

_IDENTITY = {
    "GIT_AUTHOR_NAME": "Sample app",
    "GIT_AUTHOR_EMAIL": "sample-app@giggles.test",
    "GIT_COMMITTER_NAME": "Sample app",
    "GIT_COMMITTER_EMAIL": "sample-app@giggles.test",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
_SAMPLE = "refs/tags/sample"
_WHY = "The sample app's repository could not be made"
_REMEDY = "Check that git works and that the disk has room."


def publish(source: Path, repository: Path) -> None:
    """Put the sample app into a bare repository: branch `main` with two commits, the first one tagged `sample`.

    The second commit only adds a file, so that there is a newer release to move to. A repository that holds this very
    sample is left alone, with whatever was pushed to it since.

    Arguments:
        source: the sample app's folder; without it the repository holds a README only.
        repository: the bare repository's path.

    Raises:
        TrialError: git fails.
    """
    if not (repository / "HEAD").exists():
        run(["git", "init", "--quiet", "--bare", "--initial-branch=main", repository], why=_WHY, remedy=_REMEDY)
    files = _files(source)
    with tempfile.TemporaryDirectory() as folder:
        first = _commit(repository, Path(folder) / "1", files=files, message="Sample app", day=1)
        if first == sample_commit(repository):
            return
        newer: dict[str, bytes | Path] = {**files, "RELEASE": b"2\n"}
        message = "Sample app, next release"
        second = _commit(repository, Path(folder) / "2", files=newer, message=message, day=2, parent=first)
    _git(repository, "update-ref", "refs/heads/main", second)
    _git(repository, "update-ref", _SAMPLE, first)


def sample_commit(repository: Path) -> str | None:
    """Return the commit tagged `sample`, None when there is none."""
    tag = repository / _SAMPLE
    return tag.read_text().strip() if tag.exists() else None


def _files(source: Path) -> dict[str, bytes | Path]:
    if not source.is_dir():
        return {"README": b"This working tree has no sample app.\n"}
    listing = run(
        ["git", "-c", "safe.directory=*", "-C", PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard",
         "--", source],
        why=_WHY,
        remedy=_REMEDY,
    )  # fmt: skip
    paths = [PROJECT / name for name in listing.split("\0") if name]
    return {str(path.relative_to(source)): path for path in sorted(set(paths)) if path.is_file()}


def _commit(
    repository: Path,
    index: Path,
    *,
    files: dict[str, bytes | Path],
    message: str,
    day: int,
    parent: str | None = None,
) -> str:
    entries: list[str] = []
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        executable = isinstance(content, Path) and os.access(content, os.X_OK) and content.stat().st_mode & 0o100
        scratch = index.with_suffix(".blob")
        scratch.write_bytes(data)
        blob = _git(repository, "hash-object", "-w", "--no-filters", str(scratch))
        entries.append(f"{'100755' if executable else '100644'} {blob}\t{name}")
    extra = {"GIT_INDEX_FILE": str(index)}
    _git(
        repository,
        "update-index",
        "-z",
        "--add",
        "--index-info",
        stdin="".join(f"{entry}\0" for entry in entries),
        **extra,
    )
    tree = _git(repository, "write-tree", **extra)
    date = f"2026-01-{day:02d}T00:00:00+0000"
    parents = ["-p", parent] if parent else []
    return _git(repository, "commit-tree", tree, *parents, "-m", message, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)


def _git(repository: Path, *arguments: str, stdin: str | None = None, **extra: str) -> str:
    return run(
        ["git", f"--git-dir={repository}", *arguments],
        why=_WHY,
        remedy=_REMEDY,
        stdin=stdin,
        extra_environment={**_IDENTITY, **extra},
    ).strip()
