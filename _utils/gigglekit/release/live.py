"""Makes a release live: builds what is missing, tries it, switches, checks, and goes back if it must."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.locking import only_one
from gigglekit.release import journal, manifest, migration, pin
from gigglekit.release.build import build
from gigglekit.release.dotenv import read_back
from gigglekit.release.environment import NOT_SECRET
from gigglekit.release.errors import ReleaseError, UnhealthyError
from gigglekit.release.journal import Entry
from gigglekit.release.plan import SURROUNDINGS, Plan, Surroundings, examine
from gigglekit.release.repository import Repository
from gigglekit.release.settings import BUILDING, COMMIT, Layout, Settings
from gigglekit.release.switching import Course, Switch, settle

__all__ = ["Plan", "Repin", "Surroundings", "apply", "examine", "only_one_run", "prune", "rollback", "secret_values"]

_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class Repin:
    """What is pinned once a change has gone well; None ends a pin."""

    pin: pin.Pin | None


def apply(
    settings: Settings,
    layout: Layout,
    surroundings: Surroundings,
    *,
    repin: Repin | None = None,
    commit: str | None = None,
    course: Course | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Plan:
    """Look, and do what is to be done.

    Arguments:
        settings: what shall be live; without `repin`, a pin that is in force counts instead.
        layout, surroundings: as for `examine`.
        repin: what becomes of the pin; None leaves it as it is.
        commit: what the ref stands for, if that is known.
        course: filled in on the way, also if this fails.
        ready: called before the trial and before the switch; waits until nothing runs that neither may meet, or fails.

    Returns:
        What was found, once nobody else was at work, and was done.

    Raises:
        ReleaseError: the wanted release is not live. Unless the message says otherwise, the one before still is.
    """
    course = course if course is not None else Course()
    with only_one_run(layout):
        try:
            settle(settings, layout, surroundings, course)
        except UnhealthyError as error:
            # What was live before is again; what is wanted now may well be something else.
            course.notes.append(str(error))
        if repin is None:
            # Only now: whoever was at work until now may have chosen another one.
            pin.forget_over(settings, layout)
            settings, _ = pin.wanted(settings, layout)
        plan = examine(settings, layout, surroundings, commit)
        if not plan.unchanged:
            _carry_out(plan, settings, layout, surroundings, repin, course, ready)
        elif repin is not None:
            pin.store(layout, repin.pin)
        prune(layout, settings.keep)
    return plan


def rollback(
    commit: str,
    settings: Settings,
    layout: Layout,
    surroundings: Surroundings,
    repin: Repin,
    course: Course,
    ready: Callable[[], None] = lambda: None,
) -> bool:
    """Switch to a release that is on this droplet, as it lies there: no network, no build, and no trial but one look.

    While what is live is well, the other one is started beside it, so that no request waits for its start. Otherwise it is switched to
    at once. One that is live already, and is not well, is started again and judged.

    Arguments:
        commit: of a finished release.
        settings, layout, surroundings, repin, course, ready: as for `apply`.

    Returns:
        Whether anything was to be done: False if it was live, and is well.

    Raises:
        ReleaseError: it was changed since it was built, or is not well any more; what was live before still is.
    """
    with only_one_run(layout):
        try:
            settle(settings, layout, surroundings, course)
        except UnhealthyError as error:
            course.notes.append(str(error))
        entry = _entry(Plan(commit, layout.live(), False, True, False, (), ()), None, layout, repin)
        switch = Switch(settings, layout, surroundings, entry, course)
        well = switch.is_live_well()
        if layout.live() == commit and well:
            pin.store(layout, repin.pin)
            return False
        changed = manifest.drift(layout.release(commit))
        if changed:
            raise ReleaseError(
                f"The release {commit[:12]} is not as it was built ({changed[0]}{', …' if len(changed) > 1 else ''}), so nothing was "
                f"changed. Have it built anew: salt-call giggles.deploy ref={commit}."
            )
        journal.write(layout, entry)
        try:
            beside = well and switch.try_beside(layout.release(commit), 0)
            ready()
        except BaseException:
            switch.give_up()
            journal.end(layout)
            raise
        switch.go(None, beside=beside)
    return True


def _carry_out(
    plan: Plan,
    settings: Settings,
    layout: Layout,
    surroundings: Surroundings,
    repin: Repin | None,
    course: Course,
    ready: Callable[[], None],
) -> None:
    began = time.monotonic()
    staged = build(settings, layout, Repository(settings, layout), plan.commit, surroundings.make_venv) if plan.build else None
    if staged:
        course.took("built", began)
    target = layout.release(plan.commit)
    entry = _entry(plan, staged, layout, repin)
    journal.write(layout, entry)
    switch = Switch(settings, layout, surroundings, entry, course)
    try:
        if staged and entry.replaced is None:
            # At its place at once, since what runs from it there may have to answer users.
            target.unlink(missing_ok=True)
            staged.rename(target)
            staged = None
        folder = staged or target
        began = time.monotonic()
        secrets = secret_values(layout)
        surroundings.try_out(folder / settings.subdirectory, settings.module, surroundings.unit, secrets)
        course.took("imported", began)
        if migration.is_due(settings, layout, plan.commit):
            began = time.monotonic()
            done = migration.migrate(settings, layout, folder, plan.commit, surroundings.unit, secrets, surroundings.dump)
            course.took("migrated", began)
            course.notes.append(f"The migration has run{_saved(done)}.{done['interrupted']}")
        ready()
        beside = switch.try_beside(folder, settings.gate_seconds)
        ready()
    except BaseException:
        switch.give_up()
        if entry.built:
            shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(layout.building(plan.commit), ignore_errors=True)
        journal.end(layout)
        raise
    switch.go(staged, beside=beside)


def _saved(done: dict[str, str]) -> str:
    return f"; before it, the database was saved as {done['dump']}" if done["dump"] else ", and nothing was saved before it"


def _entry(plan: Plan, staged: Path | None, layout: Layout, repin: Repin | None) -> Entry:
    target = layout.release(plan.commit)
    there = target.is_dir() and not target.is_symlink()
    return Entry(
        commit=plan.commit,
        live=layout.live(),
        before=layout.before(),
        step="trying",
        built=staged is not None and not there,
        replaced=target.lstat().st_ino if staged is not None and there else None,
        pin=repin.pin if repin else None,
        repin=repin is not None,
    )


def secret_values(layout: Layout) -> list[str]:
    """Return the values of the app's environment that no message may hold."""
    values: list[str] = []
    for name in SURROUNDINGS:
        try:
            text = (layout.root / name).read_text(encoding="utf-8")
        except OSError:
            continue
        values += [value for key, value in read_back(text).items() if key not in NOT_SECRET]
    return values


def prune(layout: Layout, keep: int) -> list[str]:
    """Remove the oldest releases beyond `keep`, never the live, the previous or a pinned one.

    Returns:
        The commits that were removed.
    """
    pinned = pin.load(layout.pin)
    kept = {layout.live(), layout.before(), pinned.commit if pinned else None}
    complete: list[tuple[float, str]] = []
    for folder in layout.releases.iterdir():
        if COMMIT.fullmatch(folder.name):
            complete.append((folder.lstat().st_mtime, folder.name))
        elif folder.name.endswith(BUILDING):
            shutil.rmtree(folder, ignore_errors=True)
    spare = [name for _, name in sorted(complete, reverse=True) if name not in kept]
    removed = spare[max(0, keep - len([name for _, name in complete if name in kept])) :]
    for name in removed:
        # Renamed first: a half removed release must not look like a complete one.
        doomed = layout.building(name)
        layout.release(name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return removed


@contextmanager
def only_one_run(layout: Layout) -> Iterator[None]:
    """Be the only run that changes what is live, for as long as the block lasts."""
    layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with only_one(
        layout.lock,
        seconds=_LOCK_SECONDS,
        pause=0.2,
        busy=lambda: ReleaseError(
            f"Another run is making a release live right now. Wait for it to end, then apply again; fuser {layout.lock} names it."
        ),
    ):
        try:
            yield
        except OSError as error:
            raise ReleaseError(
                f"{error.filename or layout.root} could not be written or read ({error.strerror}), so the release was not made live. What "
                "was live before still is, or the next run ends what this one has begun. Look at df and dmesg, then deploy again."
            ) from error
