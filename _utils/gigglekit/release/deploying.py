"""What an operator asks of releases: put this one live, go back, and what is there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gigglekit.release import live, manifest, migration, pin
from gigglekit.release.errors import ReleaseError
from gigglekit.release.live import Repin
from gigglekit.release.plan import Surroundings
from gigglekit.release.repository import Repository
from gigglekit.release.settings import COMMIT, Layout, Settings
from gigglekit.release.switching import Course

_LOOK_SECONDS = 2.0
_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

Busy = Callable[[], list[str]]


@dataclass(frozen=True)
class Deployed:
    """What a deploy or a way back has done.

    Arguments:
        live: the commit that is live now.
        before: the one that was, or None.
        result: "deployed", "already live", "started again" (it was live, and not well) or "rolled back".
        pinned: the pin that is in force now, or None: then the pillar decides.
        course: what it took.
    """

    live: str | None
    before: str | None
    result: str
    pinned: pin.Pin | None
    course: Course = field(default_factory=Course)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        told: dict[str, Any] = {
            "result": self.result,
            "live": self.live,
            "before": self.before,
            "pinned": self.pinned is not None,
            "seconds": self.course.seconds,
            "longest_wait_ms": round(self.course.longest_wait * 1000),
            "failed_probes": self.course.failed,
        }
        if self.course.notes:
            told["notes"] = self.course.notes
        return told


def deploy(settings: Settings, layout: Layout, surroundings: Surroundings, *, ref: str | None, busy: Busy, wait: float) -> Deployed:
    """Put a release live.

    Arguments:
        settings: what the pillar says.
        layout, surroundings: of the droplet.
        ref: commit, tag or branch that is to be live until the pillar names another one; None for what the pillar names.
        busy: names what a deploy does not run beside, the nightly job.
        wait: seconds that it is waited for.

    Raises:
        ReleaseError: it is not live; the one before still is, unless the message says otherwise.
    """
    wanted = settings if ref is None else replace(settings, ref=_whole(ref, layout))
    _wait(busy, wait)
    before = layout.live()
    commit = Repository(wanted, layout).resolve()
    pinned = None if wanted.ref == settings.ref else _pin(commit, settings, "deploy")
    course = Course()
    plan = live.apply(wanted, layout, surroundings, repin=Repin(pinned), commit=commit, course=course, ready=lambda: _wait(busy, wait))
    return Deployed(layout.live(), before, "already live" if plan.unchanged else "deployed", pinned, course)


def rollback(settings: Settings, layout: Layout, surroundings: Surroundings, *, to: str | None, busy: Busy, wait: float) -> Deployed:
    """Go back to a release that is on this droplet.

    Arguments:
        to: beginning of its commit; None for the one that was live before.
        settings, layout, surroundings, busy, wait: as for `deploy`.

    Raises:
        ReleaseError: there is none, or it is not well any more; what was live still is.
    """
    commit = _to(to, layout)
    _wait(busy, wait)
    before = layout.live()
    pinned = None if settings.ref == commit else _pin(commit, settings, "rollback")
    course = Course()
    done = live.rollback(commit, settings, layout, surroundings, Repin(pinned), course, lambda: _wait(busy, wait))
    result = "already live" if not done else "started again" if before == commit else "rolled back"
    return Deployed(layout.live(), before, result, pinned, course)


def releases(layout: Layout) -> list[dict[str, Any]]:
    """Return the releases on this droplet, the newest first."""
    live_now, before, pinned = layout.live(), layout.before(), pin.load(layout.pin)
    found: list[dict[str, Any]] = []
    if not layout.releases.is_dir():
        return found
    for folder in layout.releases.iterdir():
        if COMMIT.fullmatch(folder.name):
            facts = manifest.facts(folder) or {}
            changed = manifest.drift(folder)
            found.append(
                {
                    "commit": folder.name,
                    "live": folder.name == live_now,
                    "previous": folder.name == before,
                    "pinned": vars(pinned) if pinned and pinned.commit == folder.name else None,
                    "built": facts.get("built", "incomplete"),
                    "interpreter": facts.get("interpreter", ""),
                    "migrated": migration.ran(layout, folder.name),
                    "changed": changed,
                    "can_be_gone_back_to": folder.name != live_now and not changed,
                }
            )
    return sorted(found, key=lambda release: str(release["built"]), reverse=True)


def _pin(commit: str, settings: Settings, how: str) -> pin.Pin:
    by = os.environ.get("SUDO_USER") or "root"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return pin.Pin(commit, settings.ref, settings.repository, since, by if _ACCOUNT.fullmatch(by) else "root", how)


def _here(layout: Layout) -> list[str]:
    return [name for name in os.listdir(layout.releases) if COMMIT.fullmatch(name)] if layout.releases.is_dir() else []


def _whole(ref: str, layout: Layout) -> str:
    """Return the whole commit that the beginning of one means, if exactly one release here has it; else what was given."""
    found = [name for name in _here(layout) if name.startswith(ref)] if _ABBREVIATED.fullmatch(ref) else []
    return found[0] if len(found) == 1 else ref


def _to(to: str | None, layout: Layout) -> str:
    if to is None:
        before = layout.before()
        if before is None:
            raise ReleaseError(
                "No release was live before this one, or it is gone, so there is nothing to go back to. salt-call giggles.releases shows "
                "what is here (to= names one of them), and giggles.deploy ref=COMMIT builds any other. What is live was left as it is."
            )
        return before
    found = [name for name in _here(layout) if name.startswith(to)] if COMMIT.fullmatch(to) or _ABBREVIATED.fullmatch(to) else []
    if len(found) != 1:
        why = f"{len(found)} releases here begin so" if found else "no release here has that commit"
        raise ReleaseError(
            f"to={to} cannot be gone back to: {why}. Give at least 7 digits of one that salt-call giggles.releases shows; "
            "giggles.deploy ref=COMMIT builds any other. What is live was left as it is."
        )
    return found[0]


def _wait(busy: Busy, seconds: float) -> None:
    end = time.monotonic() + seconds
    while names := busy():
        left = end - time.monotonic()
        if left <= 0:
            raise ReleaseError(
                f"{', '.join(names)} is at work, and runs from the release that is live now, so nothing was changed. Wait until it has "
                "ended (systemctl status says how far it is), or give wait= more seconds, then deploy again."
            )
        time.sleep(min(_LOOK_SECONDS, left))
