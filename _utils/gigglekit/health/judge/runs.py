"""Runs that come again and again: nightly job, backup, restore drill, converge. How the newest went, and whether one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gigglekit.health import recent
from gigglekit.health.expected import Expected
from gigglekit.health.facts import UNIT_OF, Facts
from gigglekit.health.judge.condition import LEVELS, NO_RECORD, PROBLEM, UNKNOWN, WARNING, Condition, Memory, Subject
from gigglekit.health.judge.words import DAY, HOUR, ago, at, names, short
from gigglekit.health.recent import Entry

GOOD_NIGHTS = frozenset({"ok", "nothing-to-do"})
AFTER_BOOT_S = 3600.0
"""How long after a start nothing becomes overdue: timers make up for what was missed while the machine was off."""
SETTLING_S = 1200.0
"""How long a converge may take until what it puts there is there."""
_USERS_WITHIN = 14
_MOST_REASONS = 5


@dataclass(frozen=True)
class Kind:
    """What is to be known of one kind of run.

    Arguments:
        name: of its records, and `title` for people.
        limit_s: how old the newest good one may be; None if nobody waits for one.
        good: tells whether a run went as it should.
        told: says how it went, in a few words.
        todo: what to do when one failed.
        by_hand: what starts one.
        variant: what tells one failure from another.
    """

    name: str
    title: str
    limit_s: float | None
    good: Callable[[Entry], bool]
    told: Callable[[Entry], str]
    todo: str
    by_hand: str
    variant: Callable[[Entry], str] = lambda _: ""


def judged(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    """Yield the kinds of runs that there are on this droplet."""
    limits = wanted.thresholds
    if "nightly" in wanted.roles:
        kind = Kind(
            "nightly", "Nightly job", limits.nightly_hours * HOUR, _good_night, _told_night,
            "salt-call giggles.nightly shows the reasons, and /var/log/giggles/nightly.log on the droplet all of it; systemctl start "
            "giggles-nightly runs it again.",
            "systemctl start giggles-nightly", lambda entry: entry.text("verdict", 40),
        )  # fmt: skip
        nights = facts.runs.get(kind.name, ())
        found = list(_conditions(facts, kind, nights, memory))
        yield _subject(facts, kind, nights, found if any(one.key == kind.name for one in found) else [*found, *_nobody(facts)])
    if "backup" in wanted.roles and not wanted.bucket:
        none = Condition(
            "backup", WARNING, "no backup", "none: clips exist only on this droplet",
            "Name a bucket in giggles:backup, as docs/BACKUP_AND_RESTORE.md shows.", mailed=False,
        )  # fmt: skip
        yield Subject("backup", "Backup", "", (none,))
    elif "backup" in wanted.roles:
        for name, title, limit, by_hand, more in (
            ("backup", "Backup", limits.backup_hours * HOUR, "salt-call giggles.sync", "What was stored before is untouched."),
            ("drill", "Restore drill", limits.drill_days * DAY, "salt-call giggles.drill", "Treat it as no backup until you know why."),
        ):
            todo = f"{more} journalctl -u giggles-{name} says more; {by_hand} tries again."
            kind = Kind(name, title, limit, _went_well, _told_run, todo, by_hand)
            entries = facts.runs.get(name, ())
            yield _subject(facts, kind, entries, list(_conditions(facts, kind, entries, memory)))
    yield from _converge(facts, wanted, memory)


def kinds(wanted: Expected) -> frozenset[str]:
    """Return the kinds that are judged here, whose units need not be told by themselves."""
    found = {"converge", *(["nightly"] if "nightly" in wanted.roles else [])}
    return frozenset(found | ({"backup", "drill"} if "backup" in wanted.roles and wanted.bucket else set()))


def _subject(facts: Facts, kind: Kind, entries: Sequence[Entry], found: Sequence[Condition], events: str = "") -> Subject:
    last_good = _last_good(entries, kind)
    values: dict[str, Any] = {
        "last": recent.written(entries[0].moment) if entries else None,
        "last_good": recent.written(last_good),
        "age_hours": None if last_good is None else round((facts.now - last_good) / HOUR, 1),
    }
    text, since = "", None
    if entries:
        text, since = f"{kind.told(entries[0])}, {ago(facts.now - entries[0].moment)} ago", _unbroken(entries, kind)
    else:
        since = facts.set_up.get(kind.name)
        due = "" if since is None or kind.limit_s is None else f"; due by {at(max(since, facts.now - facts.uptime) + kind.limit_s)}"
        text = f"has not run yet{due}"
    return Subject(kind.name, kind.title, text, tuple(sorted(found, key=lambda one: LEVELS.index(one.level))), since, values, events)


def _conditions(facts: Facts, kind: Kind, entries: Sequence[Entry], memory: Memory) -> Iterator[Condition]:
    failed = bool(entries) and not kind.good(entries[0])
    title = kind.title.lower()
    if kind.name in facts.ahead:
        yield Condition(
            f"{kind.name}-ahead", UNKNOWN, f"{title}: a run of a time to come",
            f"the newest run was recorded at {at(facts.ahead[kind.name])}, which is a time to come, so nobody knows how it went",
            f"The clock is wrong now, or was wrong then: timedatectl. When it is right, {kind.by_hand} leaves a newer record.",
            patience=SETTLING_S, looks_quiet=1,
        )  # fmt: skip
    if failed:
        newest = entries[0]
        variant = kind.variant(newest)
        yield Condition(
            kind.name, PROBLEM, f"{title}: {short(variant, 40)}" if variant else f"{title} failed",
            f"{kind.told(newest)} ({at(newest.moment)})", kind.todo, _unbroken(entries, kind), variant, looks_quiet=1,
        )  # fmt: skip
    else:
        yield from _without_a_record(facts, kind, entries, memory)
    if kind.limit_s is not None:
        yield from _overdue(facts, kind, kind.limit_s, entries, memory)


def _without_a_record(facts: Facts, kind: Kind, entries: Sequence[Entry], memory: Memory) -> Iterator[Condition]:
    """Yield that its unit failed, until a good run came after that. When there is a record of it, that says more under the same key.

    A restart of the machine and `systemctl reset-failed` make systemd forget it, and systemd may not answer: none of these is a good run.
    """
    name = UNIT_OF[kind.name]
    unit = facts.units.known.get(name) if facts.units else None
    failed = facts.units is not None and (name in facts.units.failed or (unit is not None and unit.state == "failed"))
    since = (unit.since if unit else None) if failed else memory.unrecorded.get(kind.name)
    if not failed and since is None:
        return
    if since is not None and entries and entries[0].moment > since:
        return
    yield Condition(
        kind.name, PROBLEM, f"{kind.title.lower()} failed", f"{name} failed and left no record",
        f"journalctl -u {name} -n 50 says why; {kind.by_hand} tries again.", since, NO_RECORD, looks_quiet=1,
    )  # fmt: skip


def _overdue(facts: Facts, kind: Kind, limit_s: float, entries: Sequence[Entry], memory: Memory) -> Iterator[Condition]:
    # A night that failed was one; its verdict is told.
    last = (entries[0].moment if entries else None) if kind.name == "nightly" else _last_good(entries, kind)
    began = max((when for when in (last, facts.set_up.get(kind.name)) if when is not None), default=None)
    key, title = f"{kind.name}-overdue", f"{kind.title.lower()} overdue"
    todo = f"See why it did not start: systemctl list-timers, systemctl status cron {UNIT_OF[kind.name]}. Then: {kind.by_hand}."
    if began is None:
        if not entries:
            yield Condition(
                key, UNKNOWN, title, "no run is recorded", f"Start it by hand and look at its record: {kind.by_hand}.",
                variant="unknown", patience=SETTLING_S, looks_quiet=1,
            )  # fmt: skip
            return
        began = entries[-1].moment
    # A run at work ends at its unit's own limit. Neither that nor a restart is a run: what was overdue before still is.
    unit = facts.units.known.get(UNIT_OF[kind.name]) if facts.units else None
    excused = facts.uptime < AFTER_BOOT_S or (unit is not None and unit.state == "activating")
    if facts.now - began <= limit_s or (excused and key not in memory.open):
        return
    ended = "none has gone well yet" if last is None else f"the last good run ended {ago(facts.now - last)} ago, {at(last)}"
    yield Condition(key, PROBLEM, title, f"overdue: {ended}", todo, began + limit_s, looks_quiet=1)


def _unbroken(entries: Sequence[Entry], kind: Kind) -> float:
    """Return when the newest unbroken row of runs that went as the newest did began."""
    wanted, began = kind.good(entries[0]), entries[0].moment
    for entry in entries:
        if kind.good(entry) != wanted:
            break
        began = entry.moment
    return began


def _last_good(entries: Sequence[Entry], kind: Kind) -> float | None:
    return next((entry.moment for entry in entries if kind.good(entry)), None)


def _listed(record: dict[str, Any], key: str) -> list[str]:
    """Return the texts of a list of a record, so many that a mail stays readable."""
    value = record.get(key)
    texts = [short(text).rstrip(".") for text in value if isinstance(text, str) and text.strip()] if isinstance(value, list) else []
    more = [f"and {len(texts) - _MOST_REASONS} more"] if len(texts) > _MOST_REASONS else []
    return texts[:_MOST_REASONS] + more


# --- the nightly job --------------------------------------------------------------------------------------------------------


def _good_night(entry: Entry) -> bool:
    return entry.text("verdict") in GOOD_NIGHTS


def _told_night(entry: Entry) -> str:
    verdict = short(entry.text("verdict", 40)) or "no verdict"
    completed, failed = entry.number("users_completed"), entry.number("users_failed")
    told = verdict.replace("-", " ")
    if completed is not None:
        told += f", {completed:.0f} of {completed + (failed or 0):.0f} users"
    reasons = [] if _good_night(entry) else _listed(entry.record, "reasons")
    return f"{told}: {'; '.join(reasons)}" if reasons else told


def _nobody(facts: Facts) -> Iterator[Condition]:
    """Yield that nobody was processed, where there was somebody not long ago: the database may show the app no rows."""
    nights = facts.runs.get("nightly", ())
    if nights and nights[0].number("users_elsewhere"):
        return  # other droplets processed them
    if nights and nights[0].text("verdict") == "nothing-to-do" and any(night.number("users_found") for night in nights[:_USERS_WITHIN]):
        yield Condition(
            "nightly", PROBLEM, "nightly job: nobody to process",
            f"found no user to process at {at(nights[0].moment)}, though it did within the last {_USERS_WITHIN} runs",
            "Either nobody has a Limitless key any more, or the database shows the app no rows. Look at the app, and at "
            "/var/log/giggles/nightly.log on the droplet.", nights[0].moment, "nothing-to-do", looks_quiet=1,
        )  # fmt: skip


# --- backup and drill -------------------------------------------------------------------------------------------------------


def _went_well(entry: Entry) -> bool:
    return entry.record.get("ok") is True


def _told_run(entry: Entry) -> str:
    if _went_well(entry):
        files = entry.number("files")
        return "went well" if files is None else f"went well, {files:.0f} files"
    reason = short(entry.text("reason")).rstrip(".")
    return f"failed: {reason or '; '.join(_listed(entry.record, 'problems')) or 'no reason is recorded'}"


# --- converge ---------------------------------------------------------------------------------------------------------------


def _converge(facts: Facts, wanted: Expected, memory: Memory) -> Iterator[Subject]:
    waited_for = "converge" in wanted.roles and wanted.self_converge
    kind = Kind(
        "converge", "Converge", wanted.thresholds.converge_hours * HOUR if waited_for else None, _went_well, _told_converge,
        "What was there before goes on running. salt-call state.apply shows what fails, salt-call giggles.history when it began.",
        "systemctl start giggles-converge" if waited_for else "salt-call state.apply",
    )  # fmt: skip
    # Who applies one concern by hand sees what came of it, and learns nothing about the others.
    whole = [entry for entry in facts.runs.get("converge", ()) if _is_whole(entry)]
    found, drift = list(_conditions(facts, kind, whole, memory)), list(_drift(facts, memory))
    put_back = f"put back what was changed by hand: {names([short(one.key.partition(':')[2], 80) for one in drift])}" if drift else ""
    if waited_for or found or drift or whole:
        yield _subject(facts, kind, whole, [*found, *drift], put_back)


def _is_whole(entry: Entry) -> bool:
    """Tell whether a converge was one of all states; records of earlier versions do not say."""
    return entry.record.get("full") is not False


def _told_converge(entry: Entry) -> str:
    if not _went_well(entry):
        failures = entry.record.get("failures")
        listed = [item for item in failures if isinstance(item, dict)] if isinstance(failures, list) else []
        told = [short(": ".join(str(item[key]) for key in ("id", "comment") if item.get(key))).rstrip(".") for item in listed]
        reasons = told[:_MOST_REASONS] or _listed(entry.record, "reasons") or [short(entry.text("reason")).rstrip(".")]
        return f"failed: {'; '.join(filter(None, reasons)) or 'see its record'}"
    changed = entry.number("changed")
    said = f"{changed:.0f} changed" if changed else "nothing to change"
    commit = entry.text("commit", 10)
    return f"{said}, commit {commit}" if commit else said


def _drift(facts: Facts, memory: Memory) -> Iterator[Condition]:
    """Yield what somebody changed: of every converge since the last look, and of all from the newest whole one on.

    The next whole one finds it untouched.
    """
    entries = facts.runs.get("converge", ())
    # Of a droplet that is seen for the first time, only the newest.
    fresh = [entry for entry in entries if entry.moment > memory.seen] if memory.seen else []
    newest = next((number for number, entry in enumerate(entries) if _is_whole(entry)), len(entries) - 1)
    told: dict[str, Condition] = {}
    for entry in reversed(entries[: max(len(fresh), newest + 1)]):
        found = entry.record.get("drift")
        for item in found if isinstance(found, list) else []:
            if not isinstance(item, dict) or not (item.get("id") or item.get("name")):
                continue
            name = short(str(item.get("id") or item["name"]))
            what = short(str(item.get("name") or name))
            summary = f": {short(str(item['summary'])).rstrip('.')}" if item.get("summary") else ""
            told[name] = Condition(
                f"drift:{name}", WARNING, f"drift: {what}", f"{what} ({name}){summary}. Found {at(entry.moment)}",
                "Find out who changed it by hand: salt-call giggles.history shows the differences.",
                entry.moment, event=True, looks_quiet=1,
            )  # fmt: skip
    yield from told.values()
