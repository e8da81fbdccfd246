"""What whoever tells a fleet what to be adds to each droplet's pillar, and what has to be so for that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gigglekit.command import CommandTimeoutError, run
from gigglekit.health.basis import commit_of

PUSHED = "giggles_pushed"
"""Key of the pillar with what this module tells; masterless there is no such key."""
_UNTOUCHED = "Nothing on any droplet was changed."


def problem(tree: Path, pillar: Mapping[str, Any]) -> str | None:
    """Return why nothing may be applied from this tree, in one paragraph; None if it may.

    Arguments:
        tree: absolute path of the working tree that the states come from.
        pillar: of the droplet that they are for.
    """
    try:
        edits = run(["git", "-C", str(tree), "status", "--porcelain", "--untracked-files=normal"], seconds=20)
    except (OSError, CommandTimeoutError):
        edits = None
    if edits is None or edits.code != 0 or commit_of(tree) is None:
        return (
            f"The tree at {tree} cannot be asked for its commit, which every droplet that is told what to be from here has to "
            "have as well. It has to be a Git clone that belongs to who runs this: look with git status there. " + _UNTOUCHED
        )
    if edits.output:
        return (
            f"The tree at {tree} has edits that are in no commit, so no droplet can have the same. Commit them (git status "
            "shows them), then bring the droplets the commit and apply again (docs/FLEET.md). " + _UNTOUCHED
        )
    chosen = pillar.get("giggles")
    converge = chosen.get("converge") if isinstance(chosen, Mapping) else None
    # What is not said is as in salt/defaults.yaml, where a droplet fetches.
    fetches = converge.get("pull", True) if isinstance(converge, Mapping) else True
    if fetches:
        return (
            "The pillar is refused because of giggles:converge:pull: a droplet that is told what to be from here would also fetch commits "
            "by itself, and keep applying them with the answers of the last time it was told. Allowed: false. Set giggles: {converge: "
            "{pull: false}} in fleet.sls, which all droplets of the fleet read (docs/FLEET.md). " + _UNTOUCHED
        )
    return None


def told(tree: Path) -> dict[str, Any]:
    """Return what is added to the pillar: the commit that the states come from."""
    return {PUSHED: {"commit": commit_of(tree)}}
