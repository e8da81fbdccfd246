"""What a converge ran with, and what the last whole one had: by this a change is told to be intended or drift."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit.command import CommandTimeoutError, run
from gigglekit.files.replacing import replace

PATH = Path("/var/lib/giggles/converge/last.json")


@dataclass(frozen=True)
class Basis:
    """What decides how a droplet is to be.

    Arguments:
        commit: of this repository; None if it has none.
        pillar: digest of what this deployment chose, and of what was confirmed on the droplet.
    """

    commit: str | None
    pillar: str


@dataclass(frozen=True)
class LastFull:
    """The newest run of all states that got as far as running them.

    Arguments:
        basis: what it ran with.
        unsettled: ids of the states that failed in it; what they change later was not changed by anybody else.
    """

    basis: Basis
    unsettled: frozenset[str] = frozenset()


def pillar_digest(pillar: Mapping[str, Any], confirmed: Iterable[Path] = ()) -> str:
    """Return a digest of the pillar's section `giggles`, and of what an operator has confirmed on the droplet itself.

    It is never shown: the pillar holds secrets, and a digest would tell whether somebody has guessed all of them.

    Arguments:
        pillar: all of it.
        confirmed: notes without which something that the pillar asks for waits; those that are there count. Likewise
            what was chosen there instead of what the pillar asks for.
    """
    digest = hashlib.sha256(json.dumps(pillar.get("giggles"), sort_keys=True, default=str).encode())
    for path in confirmed:
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def commit_of(tree: Path) -> str | None:
    """Return the commit that is checked out in `tree`, None if there is none or git does not say."""
    with contextlib.suppress(OSError, CommandTimeoutError):
        outcome = run(["git", "-C", str(tree), "rev-parse", "--verify", "--quiet", "HEAD"], seconds=10)
        if outcome.code == 0:
            return outcome.output.strip()
    return None


def load(path: Path = PATH) -> LastFull | None:
    """Return what the last whole run had; None if nobody knows."""
    try:
        kept = json.loads(path.read_bytes())
        return LastFull(Basis(kept["commit"], str(kept["pillar"])), frozenset(map(str, kept["unsettled"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(last: LastFull, path: Path = PATH) -> None:
    """Keep it for the next run, for root only. A run that had the same writes nothing."""
    if load(path) == last:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = {"commit": last.basis.commit, "pillar": last.basis.pillar, "unsettled": sorted(last.unsettled)}
    replace(path, (json.dumps(kept, sort_keys=True) + "\n").encode())
