"""The status as one HTML file: no script, nothing from elsewhere, light and dark, for a telephone as well.

giggles-watch writes it in one step at every look, from the judgement that mails are about. The file is XHTML in its syntax, so that
it can be checked, and everything that comes from a record is escaped. Its own policy (CSP) allows its one style by its hash and
nothing else, wherever a copy of it is opened.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from gigglekit import records
from gigglekit.files.replacing import replace
from gigglekit.health import calendar_of_runs, facts, recent, status
from gigglekit.health.calendar_of_runs import Day
from gigglekit.health.expected import PRODUCTION, Expected
from gigglekit.health.facts import Facts
from gigglekit.health.judge import judge
from gigglekit.health.judge.condition import OK, PROBLEM, UNKNOWN, WARNING, WRONG, Memory
from gigglekit.health.judge.runs import GOOD_NIGHTS
from gigglekit.health.judge.words import readable
from gigglekit.health.places import Places
from gigglekit.health.recent import Entry
from gigglekit.health.status import Fact, Status
from gigglekit.health.svg import Bar, Chart, Line, bars, escaped, lines, strip

REFRESH_S = 300
_DISK_EVERY_S = 6 * 3600
_DISK_KEPT = 400
"""Four a day, for a hundred days."""

_STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --text: #1c1c1e; --soft: #5b5f66; --rule: #dddedf;
  --ok: #276749; --warning: #8a5a00; --problem: #c53030; --unknown: #6b46c1; --quiet: #8a9099; --second: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --back: #141517; --card: #1d1f22; --text: #ececee; --soft: #a3a8b0; --rule: #34373c;
  --ok: #48bb78; --warning: #ecc94b; --problem: #fc8181; --unknown: #b794f4; --quiet: #7d848e; --second: #63b3ed; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { margin: 0; font-size: 1.4rem; line-height: 1.3; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
p { margin: .25rem 0; }
.soft, figcaption, small { color: var(--soft); font-size: .875rem; }
header { border-left: .375rem solid var(--quiet); padding: .25rem 0 .25rem .875rem; }
header.ok { border-color: var(--ok); } header.warning { border-color: var(--ok); }
header.problem { border-color: var(--problem); } header.unknown { border-color: var(--unknown); }
ul.facts { list-style: none; margin: 1.25rem 0 0; padding: 0; border-top: 1px solid var(--rule); }
ul.facts li { display: grid; grid-template-columns: 6.5rem 9rem 1fr; gap: 0 .75rem; padding: .5rem 0;
  border-bottom: 1px solid var(--rule); }
ul.facts div { min-width: 0; overflow-wrap: anywhere; }
.level { font-weight: 600; white-space: nowrap; }
.level.ok { color: var(--ok); } .level.warning { color: var(--warning); }
.level.problem { color: var(--problem); } .level.unknown { color: var(--unknown); }
figure { margin: 0 0 1.25rem; padding: .75rem .75rem .5rem; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
/* On a narrow screen the newest days are seen first, and the older ones are scrolled to. */
.scroll { overflow-x: auto; } figure .scroll { direction: rtl; }
svg { display: block; direction: ltr; width: 100%; min-width: 34rem; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.ok { fill: var(--ok); } .warning { fill: var(--warning); } .problem { fill: var(--problem); } .unknown { fill: var(--unknown); }
.quiet, .none { fill: var(--quiet); } .column { fill: transparent; } g:hover .column { fill: var(--rule); }
.grid { stroke: var(--rule); fill: none; } .limit { stroke: var(--problem); stroke-dasharray: 4 4; fill: none; }
.mark { stroke: var(--problem); stroke-width: 1.75; fill: none; } .mark.note { stroke: var(--warning); }
.line { fill: none; stroke: var(--ok); stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.line.second { stroke: var(--second); stroke-dasharray: 6 4; }
.key { display: inline-block; width: 1.5rem; border-top: 2px solid var(--ok); vertical-align: middle; }
.key.second { border-top: 2px dashed var(--second); } .key.limit { border-top: 2px dashed var(--problem); }
table { border-collapse: collapse; font-size: .875rem; white-space: nowrap; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
summary { cursor: pointer; margin-top: 1.5rem; }
@media (max-width: 40rem) { ul.facts li { grid-template-columns: 6.5rem 1fr; } ul.facts .said { grid-column: 1 / -1; }
  svg text { font-size: 15px; } }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_LEVEL_WORDS = {OK: "✓ right", WARNING: "! note", PROBLEM: "✕ problem", UNKNOWN: "? unknown"}
_VERDICT_KIND = {"ok": "ok", "nothing-to-do": "quiet", "partial": "warning"}


def render(found: Status, days: Sequence[Day], wanted: Expected) -> str:
    """Return the whole page.

    Arguments:
        found: what is now.
        days: what was, the oldest day first; every day is drawn.
        wanted: what the droplet is meant to have; its thresholds are drawn, too.
    """
    name = escaped(wanted.domain or "Giggles server")
    title = name if wanted.environment == PRODUCTION else f"{escaped(wanted.environment)} {name}"
    icon = {PROBLEM: "✕", UNKNOWN: "?"}.get(found.level, "✓")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{escaped(_POLICY)}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            '<meta name="color-scheme" content="light dark"/>',
            '<meta name="referrer" content="no-referrer"/>',
            '<meta name="robots" content="noindex"/>',
            f'<meta http-equiv="refresh" content="{REFRESH_S}"/>',
            f"<title>{icon} {title}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f'<header class="{escaped(found.level)}">',
            f"<h1>{escaped(found.summary)}</h1>",
            f'<p class="soft">{name}, as of <time datetime="{escaped(found.time)}">{escaped(readable(found.time))}</time>. '
            "This file is made anew every five minutes: an older one means that this has stopped.</p>",
            "</header>",
            '<ul class="facts">',
            *[_fact(fact) for fact in found.facts],
            "</ul>",
            f"<h2>The last {len(days)} days</h2>",
            *_figures(days, wanted),
            _table(days),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _fact(fact: Fact) -> str:
    since = f' <small>since <time datetime="{escaped(fact.since)}">{escaped(readable(fact.since))}</time></small>' if fact.since else ""
    todo = f"<p>{escaped(fact.todo)}</p>" if fact.todo else ""
    return (
        f'<li><div class="level {escaped(fact.level)}">{_LEVEL_WORDS.get(fact.level, "?")}</div><div><b>{escaped(fact.title)}</b></div>'
        f'<div class="said">{escaped(fact.text)}{since}{todo}</div></li>'
    )


def _figures(days: Sequence[Day], wanted: Expected) -> list[str]:
    dates = [day.date for day in days]
    nights, converges = [_night(day) for day in days], [_converge(day) for day in days]
    figures = [
        _figure("Nightly runs: minutes; ✕ where a run did not go well", bars(
            Chart("nights", "Nightly runs", _counted(days, lambda day: day.nights, _night_word), dates), nights, unit=" min")),
        _figure(f"Nightly memory peaks; the limit is {wanted.nightly_memory_mb} MB", bars(
            Chart("memory", "Memory peaks of the nightly job", _peaks(days), dates), [_peak(day) for day in days], unit="",
            limit=float(wanted.nightly_memory_mb))),
        _figure("Converges: how many a day changed something; ! where something had been changed by hand, ✕ where one failed", bars(
            Chart("converges", "Converges", _counted(days, lambda day: day.converges, _converge_word), dates), converges, unit="")),
        _figure("Backups", strip(
            Chart("backups", "Backups", _counted(days, lambda day: day.backups, _run_word), dates),
            [_run(day.date, day.backups) for day in days])),
        _figure("Restore drills", strip(
            Chart("drills", "Restore drills", _counted(days, lambda day: day.drills, _run_word), dates),
            [_run(day.date, day.drills) for day in days])),
    ]  # fmt: skip
    disk = [
        Line("disk", "first", [_most(day.disks, "root_percent") for day in days]),
        Line("clips", "second", [_most(day.disks, "uploads_percent") for day in days]),
    ]
    told = [f"{line.name}: {value:.0f} % at last" for line in disk if (value := _last(line.values)) is not None]
    figures.append(
        _figure(
            '<span class="key"></span> disk, <span class="key second"></span> volume of the clips, <span class="key limit"></span> limit: '
            "per cent in use",
            lines(
                Chart("disks", "Disk in use", "; ".join(told) or "nothing is recorded yet", dates),
                disk,
                unit=" %",
                top=100.0,
                limit=float(wanted.thresholds.disk_percent),
            ),
        )
    )
    return figures


def _figure(caption: str, drawing: str) -> str:
    """Frame a drawing. `caption` is HTML of this file's own."""
    return f'<figure><figcaption>{caption}</figcaption><div class="scroll" tabindex="0">{drawing}</div></figure>'


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _most(entries: Sequence[Entry], key: str) -> float | None:
    return max((value for entry in entries if (value := entry.number(key)) is not None), default=None)


def _counted(days: Sequence[Day], of: Callable[[Day], Sequence[Entry]], word: Callable[[Entry], str]) -> str:
    counts = Counter(word(entry) for day in days for entry in of(day))
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common(8))
    return f"In {len(days)} days: {told}." if told else "Nothing is recorded yet."


def _night_word(entry: Entry) -> str:
    return entry.text("verdict", 20) or "without a verdict"


def _run_word(entry: Entry) -> str:
    return "good" if entry.record.get("ok") is True else "failed"


def _converge_word(entry: Entry) -> str:
    if entry.record.get("ok") is not True:
        return "failed"
    return "with drift" if entry.length("drift") else "good"


def _night(day: Day) -> Bar:
    if not day.nights:
        return Bar(None, "quiet", f"{day.date}: no run")
    # The worst of a day counts: a second run by hand does not hide what the first one did.
    worst = next((entry for entry in day.nights if entry.text("verdict") not in GOOD_NIGHTS), day.nights[0])
    verdict = _night_word(worst)
    told = [f"{day.date}: {verdict.replace('-', ' ')}"]
    completed, failed = worst.number("users_completed"), worst.number("users_failed")
    if completed is not None:
        told.append(f"{completed:.0f} users done, {failed or 0:.0f} failed")
    seconds = worst.number("seconds")
    if seconds is not None:
        told.append(f"{seconds / 60:.1f} min")
    return Bar((seconds or 0.0) / 60, _VERDICT_KIND.get(verdict, "problem"), ", ".join(told), "" if verdict in GOOD_NIGHTS else "x")


def _peak(day: Day) -> Bar:
    most = _most(day.nights, "peak_mb")
    if most is None:
        return Bar(None, "quiet", f"{day.date}: not known")
    killed = any(entry.text("verdict") == "killed" for entry in day.nights)
    return Bar(most, "problem" if killed else "ok", f"{day.date}: {most:.0f} MB{', killed' if killed else ''}", "x" if killed else "")


def _peaks(days: Sequence[Day]) -> str:
    peaks = [most for day in days if (most := _most(day.nights, "peak_mb")) is not None]
    return f"Between {min(peaks):.0f} and {max(peaks):.0f} MB; {peaks[-1]:.0f} MB at last." if peaks else "Nothing is recorded yet."


def _converge(day: Day) -> Bar:
    if not day.converges:
        return Bar(None, "quiet", f"{day.date}: none")
    words = Counter(_converge_word(entry) for entry in day.converges)
    changing = sum(1 for entry in day.converges if entry.number("changed"))
    told = f"{day.date}: {len(day.converges)} converges, {changing} changed something"
    told += "".join(f", {words[word]} {word}" for word in ("with drift", "failed") if words[word])
    kind = "problem" if words["failed"] else "warning" if words["with drift"] else "ok" if changing else "quiet"
    return Bar(float(changing), kind, told, "x" if words["failed"] else "!" if words["with drift"] else "")


def _run(date: str, entries: Sequence[Entry]) -> Bar:
    if not entries:
        return Bar(None, "quiet", f"{date}: none")
    words = Counter(map(_run_word, entries))
    kind = "ok" if not words["failed"] else "warning" if words["good"] else "problem"
    told = ", ".join(f"{count} {word}" for word, count in words.items())
    return Bar(1.0, kind, f"{date}: {told}", "x" if words["failed"] else "")


def _table(days: Sequence[Day]) -> str:
    rows = []
    for day in reversed(days):
        peak, root, clips = _most(day.nights, "peak_mb"), _most(day.disks, "root_percent"), _most(day.disks, "uploads_percent")
        cells = [
            day.date,
            _night(day).told.partition(": ")[2],
            "" if peak is None else f"{peak:.0f} MB",
            _converge(day).told.partition(": ")[2],
            _run(day.date, day.backups).told.partition(": ")[2],
            _run(day.date, day.drills).told.partition(": ")[2],
            "" if root is None else f"{root:.0f} %",
            "" if clips is None else f"{clips:.0f} %",
        ]
        first, *others = (escaped(cell) for cell in cells)
        rows.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>')
    titles = ("Day", "Nightly run", "Memory peak", "Converges", "Backups", "Drills", "Disk", "Clips")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        "<details><summary>The same as a table</summary>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></details>'
    )


def note_change(places: Places, found: Status) -> None:
    """Write down when everything came right or went wrong, so that the next look knows since when it has been so."""
    newest = next(recent.newest_first(places.records, "status", now=recent.moment_of(found.time) or 0.0), None)
    if newest is None or newest.record.get("all_right") is not found.all_right:
        wrong = [fact.name for fact in found.facts if fact.level in WRONG]
        records.append(places.records, "status", {"time": found.time, "all_right": found.all_right, "wrong": wrong})


def note_disk(places: Places, now: float) -> None:
    """Write down how full the disks are, unless that was done within the last six hours: nothing else records it."""
    newest = next(recent.newest_first(places.records, "disk", now=now), None)
    if newest is not None and now - newest.moment < _DISK_EVERY_S:
        return
    record: dict[str, object] = {"time": recent.written(now)}
    for name, path in (("root", "/"), ("uploads", "/var/lib/giggles/uploads")):
        place = places.at(path)
        if name == "root" or place.is_mount():
            used = facts.usage(place)
            if used is not None:
                record |= {f"{name}_percent": used.percent, f"{name}_inode_percent": used.inode_percent}
    records.append(places.records, "disk", record, keep=_DISK_KEPT)


def write(places: Places, seen: Facts, wanted: Expected, memory: Memory) -> Status:
    """Put the page in its place, in one step.

    Arguments:
        places: where everything lies; the page's folder has to be there.
        seen: the droplet at one moment.
        wanted: what it is meant to have.
        memory: from earlier looks.

    Raises:
        OSError: the page cannot be written; the old one stays.
    """
    noted = next(recent.newest_first(places.records, "status", now=seen.now), None)
    found = status.of(judge(seen, wanted, memory), seen.now, noted, environment=wanted.environment)
    note_change(places, found)
    text = render(found, calendar_of_runs.days(seen.runs, seen.now), wanted)
    replace(places.page, text.encode("utf-8", "replace"), 0o644)
    return found
