"""Makes a release live: looks, builds what is missing, tries it, switches, checks, and goes back if it must."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.links import exchange, point
from gigglekit.files.locking import only_one
from gigglekit.release import health, manifest, preflight
from gigglekit.release.build import MakeVenv, build, ingredients
from gigglekit.release.dotenv import read_back
from gigglekit.release.environment import NOT_SECRET
from gigglekit.release.errors import ReleaseError, UnhealthyError
from gigglekit.release.repository import Repository
from gigglekit.release.service import Service, State
from gigglekit.release.settings import COMMIT, Layout, Settings

_LOCK_SECONDS = 5.0
_SURROUNDINGS = (".env", "process.env")


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
    """

    commit: str
    live: str | None
    build: bool
    switch: bool
    restart: bool
    reasons: tuple[str, ...]
    drift: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the wanted release is live and as it was built, and the service runs it."""
        return not (self.build or self.switch or self.restart)


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
    """

    service: Service
    socket: Path
    unit: Path
    health_seconds: float
    make_venv: MakeVenv
    try_out: Callable[..., None] = preflight.preflight


def examine(settings: Settings, layout: Layout, surroundings: Surroundings) -> Plan:
    """Compare the droplet with what is wanted, and change nothing.

    Costs no network when `ref` is a commit.

    Raises:
        UnreachableError, UnknownRefError: `ref` is a branch or tag that could not be resolved.
    """
    commit = Repository(settings, layout).resolve()
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
    return Plan(commit, live, must_build, must_switch, bool(why_restart), tuple(reasons), tuple(changed[:20]))


def apply(plan: Plan, settings: Settings, layout: Layout, surroundings: Surroundings) -> None:
    """Carry out a plan.

    Raises:
        ReleaseError: the wanted release is not live. Unless the message says otherwise, the one before still is.
    """
    with _only_one(layout):
        staged = build(settings, layout, Repository(settings, layout), plan.commit, surroundings.make_venv) if plan.build else None
        try:
            surroundings.try_out(
                (staged or layout.release(plan.commit)) / settings.subdirectory,
                settings.module,
                surroundings.unit,
                secret_values(layout),
            )
        except BaseException:
            if staged:
                shutil.rmtree(staged, ignore_errors=True)
            raise
        _go_live(plan, staged, layout, surroundings)
        prune(layout, settings.keep)


def secret_values(layout: Layout) -> list[str]:
    """Return the values of the app's environment that no message may hold."""
    values: list[str] = []
    for name in _SURROUNDINGS:
        try:
            text = (layout.root / name).read_text(encoding="utf-8")
        except OSError:
            continue
        values += [value for key, value in read_back(text).items() if key not in NOT_SECRET]
    return values


def prune(layout: Layout, keep: int) -> list[str]:
    """Remove the oldest releases beyond `keep`, never the live or the previous one.

    Returns:
        The commits that were removed.
    """
    kept = {layout.live(), layout.before()}
    complete: list[tuple[float, str]] = []
    for folder in layout.releases.iterdir():
        if COMMIT.fullmatch(folder.name):
            complete.append((folder.lstat().st_mtime, folder.name))
        elif folder.name.endswith(".building"):
            shutil.rmtree(folder, ignore_errors=True)
    spare = [name for _, name in sorted(complete, reverse=True) if name not in kept]
    removed = spare[max(0, keep - len([name for _, name in complete if name in kept])) :]
    for name in removed:
        # Renamed first: a half removed release must not look like a complete one.
        doomed = layout.building(name)
        layout.release(name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return removed


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
    for file in (*(layout.root / name for name in _SURROUNDINGS), surroundings.unit):
        try:
            written = file.stat().st_mtime
        except OSError:
            continue
        # A time still to come is the clock's mistake, and would restart the service at every run until then.
        if state.started < written <= now:
            reasons.append(f"{file} is newer than the running process")
    return reasons


def _go_live(plan: Plan, staged: Path | None, layout: Layout, surroundings: Surroundings) -> None:
    target = layout.release(plan.commit)
    replaced = False
    if staged is not None:
        if target.is_dir() and not target.is_symlink():
            exchange(staged, target)
            replaced = True
        else:
            target.unlink(missing_ok=True)
            staged.rename(target)
    before = layout.before()
    if plan.switch:
        _clear(layout.current)
        point(layout.current, str(target))
        if plan.live:
            point(layout.previous, str(layout.release(plan.live)))
    reason = _start(surroundings)
    if not reason:
        if replaced:
            shutil.rmtree(layout.building(plan.commit), ignore_errors=True)
        return
    _take_back(plan, replaced, before, layout, surroundings, reason)


def _take_back(plan: Plan, replaced: bool, before: str | None, layout: Layout, surroundings: Surroundings, reason: str) -> None:
    target = layout.release(plan.commit)
    told = (
        f"The release {plan.commit[:12]} was started and is not well: {reason}. See /var/log/giggles/web.log and "
        "systemctl status giggles, correct the app or giggles:app:ref in the pillar, then apply again."
    )
    if replaced:
        # What was changed by hand ran, and what was built anew does not: a changed place is better than none.
        exchange(layout.building(plan.commit), target)
        shutil.rmtree(layout.building(plan.commit), ignore_errors=True)
    if plan.switch and plan.live is None:
        layout.current.unlink(missing_ok=True)
        surroundings.service.stop()
        _drop_failed(plan, layout)
        raise UnhealthyError(f"{told} There is no release before it, so the app is stopped.")
    if plan.switch and plan.live:
        point(layout.current, str(layout.release(plan.live)))
        if before:
            point(layout.previous, str(layout.release(before)))
        else:
            layout.previous.unlink(missing_ok=True)
    if not (plan.switch or replaced):
        raise UnhealthyError(told)
    if not replaced:
        _drop_failed(plan, layout)
    still = _start(surroundings)
    after = f"and is not well either: {still}" if still else "and answers"
    raise UnhealthyError(f"{told} The release {(plan.live or plan.commit)[:12]} is live again {after}.")


def _drop_failed(plan: Plan, layout: Layout) -> None:
    """Remove what was built in this run and failed: a release that is kept is one that somebody can go back to."""
    if plan.build:
        shutil.rmtree(layout.release(plan.commit), ignore_errors=True)


def _start(surroundings: Surroundings) -> str:
    service = surroundings.service
    try:
        if not surroundings.socket.exists():
            # systemd does not notice that its socket's name was removed, and makes it anew only after a stop.
            service.stop()
        service.restart()
    except ReleaseError as error:
        return str(error).rstrip(".")
    first = service.state()

    def given_up() -> str:
        state: State = service.state()
        if state.failed:
            return "systemd reports that its process failed"
        if state.restarts >= first.restarts + 3:
            return "its process keeps ending"
        return ""

    return health.wait(surroundings.socket, surroundings.health_seconds, given_up)


def _clear(link: Path) -> None:
    """Make room where a link belongs: a folder somebody put there is moved aside, never deleted."""
    if link.is_dir() and not link.is_symlink():
        link.rename(link.with_name(f"{link.name}.replaced-{int(time.time())}"))


@contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with only_one(
        layout.root / "release.lock",
        seconds=_LOCK_SECONDS,
        pause=0.2,
        busy=lambda: ReleaseError(
            "Another run is making a release live right now. Wait for it to end, then apply again; "
            f"fuser {layout.root}/release.lock names it."
        ),
    ):
        yield
