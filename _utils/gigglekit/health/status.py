"""Whether everything is all right, and since when: facts from records, systemd, the disk and small files, each with a verdict.

Each fact is looked at by a function of its own that takes a `Look` and returns facts. What cannot be found out is said to be
unknown, and with something unknown not everything is all right. A warning is something known that was chosen or has been put
right; it is told, and fails no script.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigglekit.health import expected, recent, units, validity
from gigglekit.health.expected import Expected
from gigglekit.health.recent import Entry

OK, WARNING, PROBLEM, UNKNOWN = "ok", "warning", "problem", "unknown"
LEVELS = (PROBLEM, UNKNOWN, WARNING, OK)
"""The worst first."""
HOUR, DAY = 3600.0, 86400.0
_HISTORY_S = 90 * DAY
_MOST_NAMES = 5
GOOD_NIGHTS = frozenset({"ok", "nothing-to-do"})


@dataclass(frozen=True)
class Fact:
    """One thing that is as it should be, or not.

    Arguments:
        name: for programs: `nightly`, `backup`, `disk-root`, …; never changes.
        title: for people.
        level: `ok`, `warning`, `problem` or `unknown`.
        text: what is, in one line.
        since: from when on it has been so, RFC 3339; None if that is not known.
        todo: what to do, in one sentence; "" if there is nothing to do.
        values: the numbers behind the text, for programs.
    """

    name: str
    title: str
    level: str
    text: str
    since: str | None = None
    todo: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """All facts at one time.

    Arguments:
        time: when they were looked at, RFC 3339.
        all_right: whether nothing is a problem and nothing is unknown.
        level: the worst of all facts.
        since: from when on it has been so, RFC 3339; None if that is not known.
        summary: one sentence.
        facts: the worst first, otherwise in a fixed order.
    """

    time: str
    all_right: bool
    level: str
    since: str | None
    summary: str
    facts: tuple[Fact, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**dataclasses.asdict(self), "facts": [dataclasses.asdict(fact) for fact in self.facts]}


@dataclass(frozen=True)
class Places:
    """Where a droplet keeps what is looked at.

    Arguments:
        root: what all other paths lie below; another one in tests.
    """

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Return a path of the droplet."""
        return self.root / path.lstrip("/")

    @property
    def records(self) -> Path:
        """Where runs are recorded."""
        return self.at("/var/lib/giggles/records")


@dataclass(frozen=True)
class Look:
    """What one look at a droplet has to go by.

    Arguments:
        places: where everything lies.
        wanted: what the droplet is meant to have.
        now: the time in seconds since 1970.
        ask_systemd: see `units.look`.
        read: records that were read already, by kind.
    """

    places: Places
    wanted: Expected
    now: float
    ask_systemd: Callable[[list[str]], units.Units | None] = units.look
    read: dict[str, list[Entry]] = field(default_factory=dict)

    @functools.cached_property
    def systemd(self) -> units.Units | None:
        """Expected units and failed ones; None if systemd does not answer."""
        return self.ask_systemd([*sorted({name for name, _ in _expected_units(self)}), "giggles-nightly.service"])

    def entries(self, kind: str) -> list[Entry]:
        """Return the records of one kind that count for a status, the newest first."""
        if kind not in self.read:
            self.read[kind] = list(recent.newest_first(self.places.records, kind, now=self.now, since=self.now - _HISTORY_S))
        return self.read[kind]

    def age_of(self, path: str) -> float | None:
        """Return the seconds since a file was changed; None if there is none."""
        try:
            return max(0.0, self.now - os.lstat(self.places.at(path)).st_mtime)
        except OSError:
            return None


def collect(
    places: Places | None = None,
    wanted: Expected | None = None,
    *,
    now: float | None = None,
    ask_systemd: Callable[[list[str]], units.Units | None] = units.look,
) -> Status:
    """Look at the droplet. Never raises over what lies in records and files.

    Arguments:
        places: where everything lies; a droplet's places if left out.
        wanted: what the droplet is meant to have; what is written down on it if left out.
        now: seconds since 1970.
        ask_systemd: see `units.look`.
    """
    places = places or Places()
    wanted = wanted or expected.read(places.at(str(expected.PATH))) or expected.by_default()
    look = Look(places, wanted, time.time() if now is None else now, ask_systemd)
    facts = [fact for about in _ABOUT for fact in about(look)]
    noted = next(recent.newest_first(places.records, "status", now=look.now), None)
    return judge(facts, look.now, noted)


def judge(facts: list[Fact], now: float, noted: Entry | None = None) -> Status:
    """Draw one verdict from all facts.

    Arguments:
        facts: all of them.
        now: seconds since 1970.
        noted: the last record of when everything came right or went wrong, which the status page leaves; None if there is none.
    """
    ordered = sorted(facts, key=lambda fact: LEVELS.index(fact.level))
    wrong = [fact for fact in ordered if fact.level in (PROBLEM, UNKNOWN)]
    warned = [fact for fact in ordered if fact.level == WARNING]
    all_right = not wrong
    # It has been wrong from its first problem on, and right from when the last thing came right.
    times = [fact.since for fact in (wrong or ordered) if fact.since is not None and fact.level != WARNING]
    since = (max(times) if all_right else min(times)) if times else None
    if noted is not None and noted.record.get("all_right") is all_right:
        since = recent.written(noted.moment)
    when = f", since {readable(since)}" if since else ""
    if all_right:
        summary = f"Everything is all right{when}."
        if warned:
            summary += f" Worth knowing: {_names([fact.title for fact in warned])}."
    else:
        summary = f"Not everything is all right{when}: {_names([fact.title for fact in wrong])}."
    return Status(recent.written(now) or "", all_right, ordered[0].level if ordered else UNKNOWN, since, summary, tuple(ordered))


def readable(when: str | None) -> str:
    """Return a time of a record as people write it."""
    return "" if when is None else when.replace("T", " ").replace(":00Z", "Z")[:16] + " UTC"


def _names(names: list[str]) -> str:
    told = ", ".join(names[:_MOST_NAMES])
    return told if len(names) <= _MOST_NAMES else f"{told} and {len(names) - _MOST_NAMES} more"


def ago(seconds: float) -> str:
    """Return a span of time as people say it: `40 min`, `5 h`, `3 days`."""
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days"


def _unbroken(entries: list[Entry], good: Callable[[Entry], bool]) -> float:
    """Return when the newest unbroken row of runs that went as the newest did began."""
    wanted, began = good(entries[0]), entries[0].moment
    for entry in entries:
        if good(entry) != wanted:
            break
        began = entry.moment
    return began


def _runs(
    look: Look,
    *,
    kind: str,
    title: str,
    set_up: str,
    limit_s: float,
    good: Callable[[Entry], bool],
    text: Callable[[Entry], str],
    todo: str,
    by_hand: str,
) -> Fact:
    """Judge runs that come again and again: how the newest went, and how old the newest good one is."""
    entries = look.entries(kind)
    good_ones = [entry for entry in entries if good(entry)]
    values: dict[str, Any] = {
        "last": recent.written(entries[0].moment) if entries else None,
        "last_good": recent.written(good_ones[0].moment) if good_ones else None,
        "age_hours": round((look.now - good_ones[0].moment) / HOUR, 1) if good_ones else None,
    }
    if not entries:
        age = look.age_of(set_up)
        if age is not None and age < limit_s:
            due = recent.written(look.now - age + limit_s)
            return Fact(kind, title, OK, f"has not run yet; due by {readable(due)}", recent.written(look.now - age), "", values)
        return Fact(kind, title, UNKNOWN, "no run is recorded", None, f"Start it by hand and look at its record: {by_hand}.", values)
    newest = entries[0]
    if not good(newest):
        return Fact(kind, title, PROBLEM, text(newest), recent.written(_unbroken(entries, good)), todo, values)
    age = look.now - newest.moment
    if age > limit_s:
        overdue = f"overdue: the last run ended {ago(age)} ago, {readable(recent.written(newest.moment))}"
        return Fact(
            kind, title, PROBLEM, overdue, recent.written(newest.moment + limit_s), f"See why it did not start, then: {by_hand}.", values
        )
    said = f"{text(newest)}, {ago(max(0.0, age))} ago"
    return Fact(kind, title, OK, said, recent.written(_unbroken(entries, good)), "", values)


# --- what is looked at ----------------------------------------------------------------------------------------------------


def _nightly(look: Look) -> Iterator[Fact]:
    if "nightly" not in look.wanted.roles:
        return
    yield _runs(
        look,
        kind="nightly",
        title="Nightly job",
        set_up="/etc/cron.d/giggles-nightly",
        limit_s=look.wanted.thresholds.nightly_hours * HOUR,
        good=lambda entry: entry.text("verdict") in GOOD_NIGHTS,
        text=_told_night,
        todo="salt-call giggles.nightly shows the reasons; the run's log is /var/log/giggles/nightly.log.",
        by_hand="systemctl start giggles-nightly",
    )


def _told_night(entry: Entry) -> str:
    verdict = entry.text("verdict", 40) or "no verdict"
    completed, failed = entry.number("users_completed"), entry.number("users_failed")
    told = [verdict.replace("-", " ")]
    if completed is not None:
        told.append(f"{completed:.0f} of {completed + (failed or 0):.0f} users")
    reasons = entry.record.get("reasons")
    if verdict not in GOOD_NIGHTS and isinstance(reasons, list):
        told += [reason[:160] for reason in reasons[:2] if isinstance(reason, str)]
    return ", ".join(told)


def _backup(look: Look) -> Iterator[Fact]:
    if "backup" not in look.wanted.roles:
        return
    if not look.wanted.bucket:
        yield Fact(
            "backup", "Backup", WARNING, "none: clips exist only on this droplet", None,
            "Name a bucket in giggles:backup, as docs/BACKUP_AND_RESTORE.md shows.",
        )  # fmt: skip
        return
    yield _runs(
        look,
        kind="backup",
        title="Backup",
        set_up="/etc/systemd/system/giggles-backup.timer",
        limit_s=look.wanted.thresholds.backup_hours * HOUR,
        good=_went_well,
        text=_told_run,
        todo="journalctl -u giggles-backup says more; salt-call giggles.sync tries again.",
        by_hand="salt-call giggles.sync",
    )
    yield _runs(
        look,
        kind="drill",
        title="Restore drill",
        set_up="/etc/systemd/system/giggles-drill.timer",
        limit_s=look.wanted.thresholds.drill_days * DAY,
        good=_went_well,
        text=_told_run,
        todo="journalctl -u giggles-drill says more; salt-call giggles.drill tries again.",
        by_hand="salt-call giggles.drill",
    )


def _went_well(entry: Entry) -> bool:
    return entry.record.get("ok") is True


def _told_run(entry: Entry) -> str:
    if _went_well(entry):
        files = entry.number("files")
        return "went well" if files is None else f"went well, {files:.0f} files"
    problems = entry.record.get("problems")
    first = next((text for text in problems if isinstance(text, str)), "") if isinstance(problems, list) else ""
    return f"failed: {entry.text('reason') or first[:200] or 'no reason is recorded'}"


def _converge(look: Look) -> Iterator[Fact]:
    if "converge" not in look.wanted.roles or not look.wanted.self_converge:
        newest = next(iter(look.entries("converge")), None)
        if newest is not None and not _went_well(newest):
            yield Fact(
                "converge", "Converge", PROBLEM, _told_converge(newest), recent.written(newest.moment),
                "salt-call state.apply shows what failed; salt-call giggles.history shows when it began.",
            )  # fmt: skip
        return
    fact = _runs(
        look,
        kind="converge",
        title="Converge",
        set_up="/etc/systemd/system/giggles-converge.timer",
        limit_s=look.wanted.thresholds.converge_hours * HOUR,
        good=_went_well,
        text=_told_converge,
        todo="journalctl -u giggles-converge says more; salt-call giggles.history shows when it began.",
        by_hand="systemctl start giggles-converge",
    )
    newest = next(iter(look.entries("converge")), None)
    if fact.level == OK and newest is not None and newest.length("drift"):
        fact = dataclasses.replace(
            fact, level=WARNING, todo="Find out who changed it by hand: salt-call giggles.history shows the differences."
        )
    yield fact


def _told_converge(entry: Entry) -> str:
    told = []
    if not _went_well(entry):
        told.append(f"failed: {_ids(entry, 'failures') or entry.text('reason') or 'see its record'}")
    elif not entry.number("changed"):
        told.append("nothing to change")
    else:
        told.append(f"{entry.number('changed'):.0f} changed")
    if entry.length("drift"):
        told.append(f"put back what was changed by hand: {_ids(entry, 'drift')}")
    commit = entry.text("commit", 10)
    return ", ".join([*told, f"commit {commit}"] if commit else told)


def _ids(entry: Entry, key: str) -> str:
    listed = entry.record.get(key)
    if not isinstance(listed, list):
        return ""
    return _names([str(item["id"])[:80] for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)])


def _certificate(look: Look) -> Iterator[Fact]:
    if "web" not in look.wanted.roles:
        return
    title, path = "Certificate", look.places.at("/etc/nginx/tls/current/fullchain.pem")
    if not look.wanted.domain:
        yield Fact("certificate", title, WARNING, "none yet, since this droplet has no name", None, "Choose giggles:domain in the pillar.")
        return
    valid = validity.read(path)
    if valid is None:
        yield Fact("certificate", title, UNKNOWN, "cannot be read", None, "Apply it again: salt-call state.apply web.")
        return
    begin, end = valid
    days = (end - look.now) / DAY
    values = {"days": round(days, 1), "not_after": recent.written(end)}
    try:
        placeholder = Path(os.readlink(path.parent)).name == "placeholder"
    except OSError:
        placeholder = False
    if placeholder:
        yield Fact(
            "certificate", title, PROBLEM, "the placeholder is served; the authority has issued none yet", recent.written(begin),
            "salt-call state.apply web asks again and says what the authority answers.", values,
        )  # fmt: skip
    elif begin > look.now + recent.AHEAD_S or days < look.wanted.thresholds.certificate_days:
        wrong_at = recent.written(min(look.now, end - look.wanted.thresholds.certificate_days * DAY))
        text = "has ended" if days < 0 else f"ends in {days:.0f} days, {readable(recent.written(end))}"
        yield Fact(
            "certificate", title, PROBLEM, text, wrong_at,
            "It was not renewed: journalctl -u giggles-certbot says why, systemctl start giggles-certbot tries again.", values,
        )  # fmt: skip
    else:
        yield Fact("certificate", title, OK, f"valid for {days:.0f} more days", None, "", values)


def _vault(look: Look) -> Iterator[Fact]:
    if "vault" not in look.wanted.roles:
        return
    title, uploads = "Vault", look.places.at("/var/lib/giggles/uploads")
    try:
        told = json.loads(look.places.at("/etc/giggles/vault.json").read_text(encoding="utf-8"))
        mode, reason = str(told["mode"]), str(told.get("reason", ""))[:200]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        yield Fact("vault", title, UNKNOWN, "nobody knows how clips are kept", None, "Apply it: salt-call state.apply vault.")
        return
    values = {"mode": mode}
    if mode != "encrypted":
        text = f"clips lie unencrypted ({reason})" if reason else "clips lie unencrypted"
        yield Fact("vault", title, WARNING, text, None, "docs/ERASURE.md says what that means for an erasure.", values)
    elif not os.path.ismount(uploads):
        yield Fact(
            "vault", title, PROBLEM, "the volume with the clips is not mounted", None, "systemctl start giggles-vault-unlock.", values
        )
    else:
        yield Fact("vault", title, OK, "clips lie encrypted, each user's under a key of its own", None, "", values)


def _disk(look: Look) -> Iterator[Fact]:
    history: list[Entry] | None = None
    for name, title, path in (("disk-root", "Disk", "/"), ("disk-uploads", "Disk for clips", "/var/lib/giggles/uploads")):
        place = look.places.at(path)
        if name == "disk-uploads" and not os.path.ismount(place):
            continue
        used = usage(place)
        if used is None:
            yield Fact(name, title, UNKNOWN, f"{path} cannot be looked at", None, "See df and dmesg.")
            continue
        limits = look.wanted.thresholds
        values = {"percent": used.percent, "inode_percent": used.inode_percent, "free_mb": used.free_mb}
        text = f"{used.percent:.0f} % of {used.size_mb / 1024:.1f} GB in use"
        if used.percent < limits.disk_percent and used.inode_percent < limits.inode_percent:
            yield Fact(name, title, OK, text, None, "", values)
            continue
        if used.inode_percent >= limits.inode_percent:
            text += f", {used.inode_percent:.0f} % of its inodes"
        history = look.entries("disk") if history is None else history
        key = "root_percent" if name == "disk-root" else "uploads_percent"
        full_since = None
        for entry in history:
            if (entry.number(key) or 0) < limits.disk_percent:
                break
            full_since = entry.moment
        todo = (
            "salt-call giggles.sweep dry_run=True counts what could go; giggles:vault:size_mb makes the volume larger."
            if name == "disk-uploads"
            else "Look for what has grown: du -xhd1 / | sort -h; journalctl --vacuum-size=200M and apt-get clean free some."
        )
        yield Fact(name, title, PROBLEM, text, recent.written(full_since), todo, values)


@dataclass(frozen=True)
class Usage:
    """How full a file system is, as df(1) reckons: without what is reserved for root."""

    percent: float
    inode_percent: float
    size_mb: float
    free_mb: float


def usage(path: Path) -> Usage | None:
    """Return how full the file system at `path` is; None if it cannot be asked."""
    try:
        told = os.statvfs(path)
    except OSError:
        return None
    used = told.f_blocks - told.f_bfree
    usable = used + told.f_bavail
    inodes = told.f_files - told.f_ffree
    return Usage(
        percent=round(100 * used / usable, 1) if usable else 0.0,
        inode_percent=round(100 * inodes / told.f_files, 1) if told.f_files else 0.0,
        size_mb=told.f_blocks * told.f_frsize / 2**20,
        free_mb=round(told.f_bavail * told.f_frsize / 2**20, 1),
    )


def _release(look: Look) -> Iterator[Fact]:
    if "app" not in look.wanted.roles:
        return
    title = "Release"
    try:
        commit = Path(os.readlink(look.places.at("/opt/giggles/current"))).name
    except OSError:
        yield Fact("release", title, PROBLEM, "none is live", None, "Apply it: salt-call state.apply app.")
        return
    try:
        facts = json.loads((look.places.at("/opt/giggles/releases") / commit / ".giggles-release.json").read_text(encoding="utf-8"))
        built = facts["built"] if isinstance(facts["built"], str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        yield Fact(
            "release", title, PROBLEM, f"{commit[:10]} is live, and is not complete", None, "Build it anew: salt-call state.apply app.",
            {"commit": commit[:64]},
        )  # fmt: skip
        return
    moment = recent.moment_of(built)
    text = f"{commit[:10]}, built {readable(recent.written(moment))}" if moment is not None else commit[:10]
    yield Fact("release", title, OK, text, None, "", {"commit": commit[:64]})


def _expected_units(look: Look) -> Iterator[tuple[str, str]]:
    """Yield units that have to be active, and what brings them back."""
    wanted = look.wanted
    for role, names in (
        ("hardening", ["ssh.service", "fail2ban.service"]),
        ("vault", ["giggles-vault-unlock.service", "giggles-vault-lobby.timer", "giggles-vault-sweep.timer"]),
        ("app", ["giggles.service", "giggles.socket"]),
        ("web", ["nginx.service", *(["giggles-certbot.timer"] if wanted.domain else [])]),
        ("nightly", ["cron.service"]),
        ("backup", ["giggles-backup.timer", "giggles-drill.timer"] if wanted.bucket else []),
        ("converge", ["giggles-converge.timer"] if wanted.self_converge else []),
        ("monitoring", ["giggles-watch.timer", "giggles-status.timer", "giggles-status.path"]),
    ):
        if role in wanted.roles:
            yield from ((name, f"salt-call state.apply {role}") for name in names)


def _services(look: Look) -> Iterator[Fact]:
    title, told = "Services", look.systemd
    if told is None:
        yield Fact("services", title, UNKNOWN, "systemd does not answer", None, "Look at: systemctl is-system-running.")
        return
    if "app" in look.wanted.roles and (app := told.known.get("giggles.service")) is not None:
        # A start takes a minute or two, and requests wait meanwhile.
        level = {"active": OK, "activating": WARNING, "reloading": OK}.get(app.state, PROBLEM)
        text = {OK: "runs", WARNING: "is starting"}.get(level, f"does not run ({app.state}, {app.result or 'no result'})")
        since = recent.written(app.since)
        todo = "" if level == OK else "journalctl -u giggles says why; systemctl restart giggles starts it."
        yield Fact("app", "App", level, text, since, todo)
    down = [
        (name, repair)
        for name, repair in _expected_units(look)
        if name != "giggles.service" and ((unit := told.known.get(name)) is None or unit.state not in ("active", "reloading", "activating"))
    ]
    failed = [name for name in told.failed if name != "giggles.service" and name not in {name for name, _ in down}]
    times = [unit.since for name in [*(name for name, _ in down), *failed] if (unit := told.known.get(name)) and unit.since]
    since = recent.written(min(times)) if times else None
    values = {"down": [name for name, _ in down], "failed": list(told.failed)}
    if down:
        todo = f"{down[0][1]} brings {down[0][0]} back; journalctl -u {down[0][0]} says why it stopped."
        text = f"not running: {_names([name for name, _ in down] + failed)}"
        yield Fact("services", title, PROBLEM, text, since, todo, values)
    elif failed:
        todo = f"journalctl -u {failed[0]} says why; systemctl reset-failed {failed[0]} when that is settled."
        yield Fact("services", title, PROBLEM, f"failed: {_names(failed)}", since, todo, values)
    else:
        yield Fact("services", title, OK, "all run that should", None, "", values)


def _restart(look: Look) -> Iterator[Fact]:
    age = look.age_of("/run/reboot-required")
    title, days = "Restart", look.wanted.thresholds.reboot_days
    if age is None:
        yield Fact("restart", title, OK, "no update waits for one", None, "", {"waiting_days": None})
        return
    values, since = {"waiting_days": round(age / DAY, 1)}, recent.written(look.now - age)
    text = f"an update has waited for one for {ago(age)}"
    if age < days * DAY:
        yield Fact("restart", title, WARNING, text, since, "Nothing: it restarts by itself in the night.", values)
    else:
        yield Fact("restart", title, PROBLEM, text, since, "Restart it at a quiet hour: systemctl reboot.", values)


def _alerts(look: Look) -> Iterator[Fact]:
    if "monitoring" in look.wanted.roles and not look.wanted.mail:
        yield Fact(
            "alerts", "Alerts", WARNING, "go to nobody, since no address is given", None, "Name one: giggles:monitoring:mail in the pillar."
        )


_ABOUT: tuple[Callable[[Look], Iterator[Fact]], ...] = (
    _services, _nightly, _backup, _converge, _vault, _disk, _certificate, _release, _restart, _alerts,
)  # fmt: skip
