"""Further commits in the repository of a trial's sample app."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .conftest import Droplet

_AUTHOR = {
    name: "Droplet tests" if name.endswith("NAME") else "tests@giggles.test"
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
}


def commit(droplet: Droplet, changes: Mapping[str, Callable[[str], str | None]]) -> str:
    """Put a commit on top of the sample into the app's repository, as the tag of its own name.

    Args:
        changes: for each file below the app's folder, what makes its new text of its old one ("" for a new file); None removes it.

    Returns:
        The commit, not the head of any branch.
    """
    repository, base = droplet.info["app_repository_path"], droplet.info["app_ref"]
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(repository, "read-tree", base, **index)
        for name, change in changes.items():
            path = f"laughter-detector/{name}"
            shown = subprocess.run(
                ["git", "-c", "safe.directory=*", f"--git-dir={repository}", "show", f"{base}:{path}"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            text = change(shown.stdout)
            assert text != shown.stdout, f"the change to {name} changes nothing"
            if text is None:
                # Without a working tree there is no other way.
                _git(repository, "update-index", "--index-info", stdin=f"0 {'0' * 40}\t{path}\n", **index)
                continue
            blob = _git(repository, "hash-object", "-w", "--stdin", stdin=text)
            _git(repository, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
        tree = _git(repository, "write-tree", **index)
    made = _git(repository, "commit-tree", tree, "-p", base, "-m", f"Change {', '.join(changes)}", **_AUTHOR)
    _git(repository, "update-ref", f"refs/tags/test-{made[:12]}", made)
    return made


def _git(repository: str, *arguments: str, stdin: str = "", **environment: str) -> str:
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", f"--git-dir={repository}", *arguments],
        input=stdin, capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout.strip()
