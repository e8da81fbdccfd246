"""What staging ran well is what production gets: whether this commit has, and the one command that gives it to production.

A droplet can only read the repository, so nothing is pushed from here. The command moves the branch that production follows on to the
commit that staging ran: the same tree, and the app's commit that stands in its pillar. It is a plain push, which the repository refuses
if production's branch has anything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.health import recent, status
from gigglekit.health.fetching import FetchError, Tree
from gigglekit.health.judge.condition import WRONG
from gigglekit.health.judge.runs import GOOD_NIGHTS
from gigglekit.health.judge.words import readable
from gigglekit.health.places import Places
from gigglekit.release.settings import COMMIT, Layout
from gigglekit.settings.overlays import PRODUCTION, STAGING, committed, differences
from gigglekit.settings.places import REPOSITORY

HOURS = 24
_HOUR_S = 3600.0


class PromotionError(Exception):
    """Nothing is promoted, for the reasons in the text: a paragraph for each."""


@dataclass(frozen=True)
class Droplet:
    """The droplet that is asked; another one in tests.

    Arguments:
        environment: its own.
        tree: the repository that it converges from.
        places: where its records lie.
        layout: where its releases lie.
        look: tells whether everything is all right.
    """

    environment: str | None
    tree: Path = REPOSITORY
    places: Places = field(default_factory=Places)
    layout: Layout = field(default_factory=Layout)
    look: Callable[[Places], status.Status] = status.collect


def promotion(droplet: Droplet, *, hours: float = HOURS, now: float | None = None) -> dict[str, Any]:
    """Return what production would get, and the command that gives it.

    Arguments:
        droplet: the one that is asked.
        hours: for how long it must have run here.
        now: seconds since 1970.

    Returns:
        `commit` of this repository and `app`, the app's; `since` when and for how many `hours` they have run here, with how many good
        `nights`; `production`, the commit that production's branch has, None if there is no such branch yet, and the `new` commits it
        gets; `differs`, the settings that Git has otherwise for production; `run`, the command for your own computer.

    Raises:
        PromotionError: it is not to be promoted.
    """
    now = time.time() if now is None else now
    if droplet.environment != STAGING:
        raise PromotionError(
            f"This droplet is {droplet.environment or 'of no environment'}, and only what ran on staging is promoted. Ask the staging "
            "droplet: sudo salt-call giggles.promote. docs/STAGING.md says how to set one up."
        )
    tree = Tree(droplet.tree, pause=0)
    try:
        head = tree.head()
        reasons = [*_of_tree(tree), *_of_converges(droplet, head, hours, now), *_of_app(droplet), *_of_status(droplet)]
        branch = _branch(droplet)
        tip, new, more = (None, None, []) if branch is None else _of_branch(tree, branch, head)
    except FetchError as error:
        raise PromotionError(str(error)) from None
    if branch is None:
        more = [
            "Production follows whatever branch was cloned there, main as a rule, so it takes every commit by itself and nothing is left "
            "to promote. Set giggles:converge:branch to production in pillar/production.sls; docs/STAGING.md says in which order."
        ]
    if reasons or more:
        raise PromotionError("\n\n".join([*reasons, *more]))
    since = _applied_since(droplet, head, now)
    assert since is not None  # noqa: S101 (no reason was found; this is for mypy)
    here, there = (committed(name, droplet.tree / "pillar") for name in (STAGING, PRODUCTION))
    return {
        "commit": head,
        "app": droplet.layout.live(),
        "since": recent.written(since),
        "hours": round((now - since) / _HOUR_S, 1),
        "nights": _nights(droplet, since, now),
        "production": tip,
        "new": new,
        "differs": [":".join(key[1:]) for key in differences(here, there)],
        "run": f"git fetch origin && git push origin {head}:refs/heads/{branch}",
    }


def _of_tree(tree: Tree) -> Iterator[str]:
    edits = tree.edits()
    if edits:
        yield (
            f"The tree here has edits that are in no commit ({', '.join(edits[:5])}), so what ran here is not what production would get. "
            "Commit and push them, or let sudo systemctl start giggles-converge put them away."
        )


def _of_converges(droplet: Droplet, head: str, hours: float, now: float) -> Iterator[str]:
    newest = next(recent.newest_first(droplet.places.records, "converge", now=now), None)
    if newest is not None and newest.record.get("ok") is not True:
        when = readable(recent.written(newest.moment) or "")
        yield (
            f"The newest run of states here failed, at {when}. sudo salt-call giggles.history 1 says what failed; correct it, and ask "
            "again when it has run well for as long as is asked for."
        )
        return
    since = _applied_since(droplet, head, now)
    if since is None:
        yield (
            f"The commit {head[:12]} has not been applied here as a whole yet. sudo systemctl start giggles-converge does it now; then "
            f"let it run for {hours:g} hours."
        )
    elif now - since < hours * _HOUR_S:
        ready = readable(recent.written(since + hours * _HOUR_S) or "")
        yield (
            f"The commit {head[:12]} has run well here for {(now - since) / _HOUR_S:.1f} hours only, and {hours:g} are asked for, so that "
            f"it has seen a night. Ask again at {ready}, or say how many are enough: salt-call giggles.promote hours=1."
        )


def _applied_since(droplet: Droplet, head: str, now: float) -> float | None:
    """Return since when each run of states has gone well at this commit; None if no whole one has."""
    since = None
    for entry in recent.newest_first(droplet.places.records, "converge", now=now):
        if entry.record.get("ok") is not True or entry.record.get("commit") != head:
            break
        # One concern alone proves nothing about the others.
        if entry.record.get("full", True) is True:
            since = entry.moment
    return since


def _of_app(droplet: Droplet) -> Iterator[str]:
    app = committed(PRODUCTION, droplet.tree / "pillar").get("app")
    ref = str((app.get("ref") if isinstance(app, dict) else None) or "")
    live = droplet.layout.live()
    if not COMMIT.fullmatch(ref):
        names = f"names {ref!r}, which can be something else tomorrow" if ref else "names none"
        yield (
            f"Production would not get the app that ran here: Git {names} for it (giggles:app:ref). Put the full commit into "
            f"pillar/giggles.sls, which both share{f' ({live} is live here)' if live else ''}, push, and let that run here."
        )
    elif live != ref:
        yield (
            f"What runs here is not the app that production would get: {live[:12] if live else 'no release'} is live here, and Git has "
            f"{ref[:12]} for production. Take giggles:app:ref out of pillar/staging.sls and of /etc/giggles/pillar/droplet.sls, so that "
            "pillar/giggles.sls counts for both; if a release was chosen by hand or taken back, giggles.status says so. Then let it run "
            "here."
        )


def _of_status(droplet: Droplet) -> Iterator[str]:
    found = droplet.look(droplet.places)
    wrong = [fact for fact in found.facts if fact.level in WRONG]
    if wrong:
        named = "; ".join(f"{fact.title}: {fact.text}" for fact in wrong)
        yield f"Not everything is all right here ({named}). sudo salt-call giggles.status says what to do."


def _branch(droplet: Droplet) -> str | None:
    converge = committed(PRODUCTION, droplet.tree / "pillar").get("converge")
    branch = converge.get("branch") if isinstance(converge, dict) else None
    return str(branch) if branch else None


def _of_branch(tree: Tree, branch: str, head: str) -> tuple[str | None, int | None, list[str]]:
    """Return the commit that production's branch has, how many new ones it would get, and why it cannot be moved on."""
    tip = tree.tip_of(branch)
    if tip is None:
        return None, None, []
    if tip == head:
        return tip, 0, [f"Production's branch {branch} has {head[:12]} already; nothing is left to promote."]
    if not tree.has(tip) or not tree.is_ancestor(tip, head):
        return tip, None, [
            f"Production's branch {branch} is at {tip[:12]}, which {head[:12]} does not build on: something was pushed to it that never "
            f"was on staging. Merge it into the branch that staging follows (git merge origin/{branch}), push that, and let it run here."
        ]  # fmt: skip
    return tip, tree.count_between(tip, head), []


def _nights(droplet: Droplet, since: float, now: float) -> int:
    nights = recent.newest_first(droplet.places.records, "nightly", now=now, since=since)
    return sum(entry.text("verdict", 40) in GOOD_NIGHTS for entry in nights)
