"""What is between a droplet and its wanted release: looked at, with nothing changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.locking import is_locked
from gigglekit.release import journal, manifest, migration, preflight
from gigglekit.release.build import MakeVenv, ingredients
from gigglekit.release.candidate import Candidate
from gigglekit.release.front import Front
from gigglekit.release.repository import Repository
from gigglekit.release.service import Service
from gigglekit.release.settings import BUILDING, Layout, Settings

SURROUNDINGS = (".env", "process.env")
"""Files of the layout's root that a process reads as it starts."""


@dataclass(frozen=True)
class Plan:
    """What is between the droplet and its wanted release.

    Arguments:
        commit: what shall be live.
        live: what is, or None.
        build: the release must be built (it is missing, incomplete, or was changed).
        switch: `current` must be pointed to it.
        restart: the service must be restarted although nothing else changes.
        reasons: why, one line each; empty means that nothing is to be done.
        drift: what was found changed inside the release, at most 20 lines.
        unsettled: a run before this one was killed, and has left something half done.
    """

    commit: str
    live: str | None
    build: bool
    switch: bool
    restart: bool
    reasons: tuple[str, ...]
    drift: tuple[str, ...]
    unsettled: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether the wanted release is live and as it was built, and the service runs it."""
        return not (self.build or self.switch or self.restart or self.unsettled)


@dataclass(frozen=True)
class Surroundings:
    """What a release runs in.

    Arguments:
        service: the app's service.
        socket: where it answers.
        unit: its unit file, which also holds the sandbox for the pre-flight.
        health_seconds: how long a start may take; loading the model takes a minute or two on a small droplet.
        make_venv: see `build.build`.
        try_out: see `preflight.preflight`.
        candidate: runs a release beside the live one; None where none can.
        front: nginx before the app; None where there is none.
        dump: see `migration.migrate`.
    """

    service: Service
    socket: Path
    unit: Path
    health_seconds: float
    make_venv: MakeVenv
    try_out: Callable[..., None] = preflight.preflight
    candidate: Candidate | None = None
    front: Front | None = None
    dump: migration.Dump | None = None


def examine(settings: Settings, layout: Layout, surroundings: Surroundings, commit: str | None = None) -> Plan:
    """Compare the droplet with what is wanted, and change nothing.

    Costs no network when `ref` is a commit, or `commit` says what it stands for.

    Raises:
        UnreachableError, UnknownRefError: `ref` is a branch or tag that could not be resolved.
    """
    commit = commit or Repository(settings, layout).resolve()
    live = layout.live()
    target = layout.release(commit)
    reasons: list[str] = []
    changed: list[str] = []
    known = manifest.facts(target)
    if known is None:
        reasons.append(f"release {commit[:12]} is not built" if not target.exists() else f"release {commit[:12]} is incomplete")
    elif known.get("ingredients") != ingredients(settings):
        reasons.append(f"release {commit[:12]} was built in another way")
    else:
        changed = manifest.drift(target)
        if changed:
            reasons.append(f"release {commit[:12]} was changed in {len(changed)} places since it was built")
    must_build = bool(reasons)
    must_switch = live != commit
    if must_switch:
        reasons.append(f"current {_describe(layout, live)}")
    why_restart = _why_restart(layout, surroundings, target)
    reasons += why_restart
    left = "" if is_locked(layout.lock) else _left_behind(layout)
    if left:
        reasons.append(left)
    return Plan(commit, live, must_build, must_switch, bool(why_restart), tuple(reasons), tuple(changed[:20]), bool(left))


def _left_behind(layout: Layout) -> str:
    """Return what a run has left that was killed, unless one is at work now."""
    if journal.load(layout) is not None:
        return "a run before this one was ended before it had judged what it switched to"
    try:
        begun = [name for name in os.listdir(layout.releases) if name.endswith(BUILDING)]
    except OSError:
        return ""
    return f"a run before this one was ended while it built {begun[0][:12]}" if begun else ""


def _describe(layout: Layout, live: str | None) -> str:
    if live is not None:
        return f"names {live[:12]}"
    if layout.current.is_symlink():
        return f"names {layout.current.readlink()}, which is no release"
    return "does not exist" if not layout.current.exists() else "is not a link"


def _why_restart(layout: Layout, surroundings: Surroundings, target: Path) -> list[str]:
    state = surroundings.service.state()
    if not state.active:
        return ["giggles.service is not running"]
    reasons: list[str] = []
    if not surroundings.socket.exists():
        reasons.append(f"{surroundings.socket} is gone")
    if state.outdated:
        reasons.append("giggles.service's unit has changed since systemd read it")
    if not (state.folder + "/").startswith(f"{target}/"):
        reasons.append("giggles.service runs from another folder")
    now = time.time()
    for file in (*(layout.root / name for name in SURROUNDINGS), surroundings.unit):
        try:
            written = file.stat().st_mtime
        except OSError:
            continue
        # A time still to come is the clock's mistake, and would restart the service at every run until then.
        if state.started < written <= now:
            reasons.append(f"{file} is newer than the running process")
    return reasons
