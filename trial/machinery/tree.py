"""Putting this working tree on a droplet, as the clone an operator would have there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .image import remove_tree
from .settings import PROJECT, TREE, Place
from .steps import run

_REMEDY = "Check that git works in this working tree."


def copy_project(place: Place, root: Path) -> None:
    """Make the droplet's copy of the project the same as this working tree, uncommitted files included.

    Ignored files stay behind. The copy is a real clone; its remote is this tree's own `origin`, if it has one.

    Arguments:
        place: the trial's folders.
        root: the droplet's directory tree on this host.

    Raises:
        TrialError: git fails, or the disk is full.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    settings = place.folder / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n[advice]\n\tdetachedHead = false\n")
    # The tree may belong to whoever called sudo, and git as root would refuse it.
    extra = {"GIT_CONFIG_GLOBAL": str(settings)}
    target = root / TREE.lstrip("/")
    incoming = target.with_name(f".{target.name}.incoming")
    outgoing = target.with_name(f".{target.name}.outgoing")
    for leftover in (incoming, outgoing):
        remove_tree(leftover)
    incoming.parent.mkdir(parents=True, exist_ok=True)
    why = "The project could not be copied to the droplet"

    def git(*arguments: str | Path, at: Path = PROJECT) -> str:
        return run(["git", "-C", at, *arguments], why=why, remedy=_REMEDY, extra_environment=extra)

    git("clone", "--quiet", "--no-checkout", "--no-local", PROJECT, incoming)
    listing = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(filter(None, listing.split("\0")))):
        source = PROJECT / name
        if not os.path.lexists(source) or (source.is_dir() and not source.is_symlink()):
            continue
        (incoming / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, incoming / name, follow_symlinks=False)
    if git("rev-list", "--all", "--max-count=1").strip():
        git("reset", "--quiet", at=incoming)
    remotes = git("remote").split()
    if "origin" in remotes:
        git("remote", "set-url", "origin", git("remote", "get-url", "origin").strip(), at=incoming)
    else:
        git("remote", "remove", "origin", at=incoming)
    run(["chown", "--recursive", "--no-dereference", "0:0", incoming], why=why, remedy="Check the disk.")
    incoming.chmod(0o755)
    if target.exists():
        target.rename(outgoing)
    incoming.rename(target)
    remove_tree(outgoing)
