"""From what can be seen to what is not all right. Pure: the same facts give the same conditions.

A condition that is open already is judged a little stricter before it counts as over (a disk must fall below its threshold by some
per cent), so that a value at the threshold does not open and close it all day.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gigglekit.health.facts import Disk, Facts, Run

OK_VERDICTS = frozenset({"ok"})
NOTHING = "nothing-to-do"
PERCENT_BACK = 3.0
"""By how much a file system must fall below its threshold before that is over."""
AFTER_BOOT_S = 3600.0
"""How long after a start nothing counts as overdue: timers make up for what was missed while the machine was off."""
VAULT_PATIENCE_S = 600.0
LOOKS_QUIET = 3
"""How many looks in a row something must be gone before it is over, unless a record says that it is."""
_HOUR, _DAY = 3600.0, 86400.0
_USERS_WITHIN = 14
_MOST_REASONS, _LONGEST = 5, 300
_OWN_CONDITION = {"giggles-nightly.service": "nightly", "giggles-backup.service": "backup", "giggles-drill.service": "drill",
                  "giggles-converge.service": "converge"}  # fmt: skip


@dataclass(frozen=True)
class Thresholds:
    """From when on something is told; `giggles:monitoring:thresholds` in the pillar."""

    disk_percent: float = 85
    inode_percent: float = 85
    certificate_days: float = 20
    nightly_hours: float = 26
    backup_hours: float = 30
    drill_days: float = 9
    converge_hours: float = 3
    reboot_days: float = 7


@dataclass(frozen=True)
class Condition:
    """Something that is not all right.

    Arguments:
        key: stable while it is the same thing, for example `disk:/`.
        title: a few words, for a subject.
        paragraph: what happened, why, what to do.
        variant: another kind of the same; when it changes, that is told.
        patience: seconds that it must last before it is told.
        looks_quiet: how many looks in a row it must be gone before it is over.
        event: whether it was over when it was found; its end is not told.
    """

    key: str
    title: str
    paragraph: str
    variant: str = ""
    patience: float = 0.0
    looks_quiet: int = LOOKS_QUIET
    event: bool = False


def conditions(facts: Facts, limits: Thresholds, *, began: float, seen: float, open_keys: Collection[str] = ()) -> list[Condition]:
    """Return what is not all right now.

    Arguments:
        facts: the droplet at one moment.
        limits: the thresholds.
        began: when this droplet was first looked at; before that nothing can have been missed.
        seen: time of the newest record of a converge that an earlier look has taken into account.
        open_keys: keys of the conditions that are open.
    """
    found = [*_nightly(facts, limits, began), *_converge(facts, limits, began), *_drift(facts, seen, open_keys)]
    found += [*_backup(facts, limits, began), *_vault(facts), *_certificate(facts, limits, open_keys), *_reboot(facts, limits)]
    for disk in facts.disks:
        found += _disk(disk, limits, open_keys)
    keys = {condition.key for condition in found}
    found += (_unit(name) for name in facts.units or () if _OWN_CONDITION.get(name) not in keys)
    if facts.units is None:
        # Nobody knows, so what was open stays so, and nothing new is said.
        found += (_unit(key.partition(":")[2]) for key in open_keys if key.startswith("unit:"))
    return found


def _nightly(facts: Facts, limits: Thresholds, began: float) -> Iterator[Condition]:
    if facts.nightly is None:
        return
    newest = facts.nightly[-1] if facts.nightly else None
    if newest is not None:
        verdict = str(newest.told.get("verdict"))
        had_users = any(_positive(run.told.get("users_found")) for run in facts.nightly[-_USERS_WITHIN:])
        if verdict == NOTHING and had_users:
            yield Condition(
                "nightly", "nightly job: nobody to process",
                f"The nightly job of {_at(newest.time)} found no user to process, though it did within the last {_USERS_WITHIN} runs. "
                "Either nobody has a Limitless key any more, or the database shows the app no rows. Look at the app, and at "
                "/var/log/giggles/nightly.log on the droplet.", variant=verdict, looks_quiet=1,
            )  # fmt: skip
        elif verdict != NOTHING and verdict not in OK_VERDICTS:
            yield Condition(
                "nightly", f"nightly job: {verdict}",
                f"The nightly job of {_at(newest.time)} was not all right: {verdict}. {_listed(newest.texts('reasons'))}Look at "
                "/var/log/giggles/nightly.log on the droplet; systemctl start giggles-nightly runs it again.",
                variant=verdict, looks_quiet=1,
            )  # fmt: skip
    yield from _overdue(
        facts, "nightly", "nightly job", newest, limits.nightly_hours * _HOUR, began, "systemctl status cron giggles-nightly"
    )


def _converge(facts: Facts, limits: Thresholds, began: float) -> Iterator[Condition]:
    if facts.converge is None:
        return
    newest = next((run for run in reversed(facts.converge) if run.ok is not None), None)
    if newest is not None and newest.ok is False:
        failures = [f"{entry.get('id') or entry.get('name')}: {entry.get('comment', '')}" for entry in newest.entries("failures")]
        yield Condition(
            "converge", "applying the configuration fails",
            f"The configuration could not be applied at {_at(newest.time)}; what was there before goes on running. "
            f"{_listed(failures or newest.texts('reasons'))}Run salt-call state.apply on the droplet and read what the last state says.",
            looks_quiet=1,
        )  # fmt: skip
    yield from _overdue(facts, "converge", "converge", _last_ok(facts.converge), limits.converge_hours * _HOUR, began,
                        "systemctl status giggles-converge.timer giggles-converge")  # fmt: skip


def _drift(facts: Facts, seen: float, open_keys: Collection[str]) -> Iterator[Condition]:
    """Yield what somebody changed; it is open until a later converge finds it untouched, and told once as long as it is open."""
    if not facts.converge:
        return
    fresh = [run for run in facts.converge if run.time > seen] if seen else list(facts.converge[-1:])
    if not fresh:
        # No converge since: whatever was open is as it was. Its words are kept by who remembers it.
        yield from (Condition(key, key.partition(":")[2], "", event=True, looks_quiet=1) for key in open_keys if key.startswith("drift:"))
        return
    entries = {str(entry.get("id") or entry.get("name")): (run, entry) for run in fresh for entry in run.entries("drift")}
    for name, (run, entry) in entries.items():
        what = _short(str(entry.get("name") or name))
        summary = f": {_short(str(entry['summary']))}" if entry.get("summary") else ""
        yield Condition(f"drift:{name}", f"drift: {what}", f"{what} ({name}){summary}. Found {_at(run.time)}.", event=True, looks_quiet=1)


def _backup(facts: Facts, limits: Thresholds, began: float) -> Iterator[Condition]:
    for kind, title, runs, longest, ask in (
        ("backup", "backup", facts.backup, limits.backup_hours * _HOUR, "journalctl -u giggles-backup -n 20"),
        ("drill", "restore drill", facts.drill, limits.drill_days * _DAY, "journalctl -u giggles-drill -n 20"),
    ):
        if runs is None:
            continue
        newest = next((run for run in reversed(runs) if run.ok is not None), None)
        if newest is not None and newest.ok is False:
            reason = newest.told.get("reason")
            yield Condition(
                kind, f"{title} failed",
                f"The {title} of {_at(newest.time)} failed. {_listed([reason] if isinstance(reason, str) else [])}"
                + ("What was stored before is untouched. " if kind == "backup" else "Treat it as no backup until you know why. ")
                + f"On the droplet, {ask} says more; salt-call giggles.{'sync' if kind == 'backup' else 'drill'} tries again.",
                looks_quiet=1,
            )  # fmt: skip
        yield from _overdue(facts, kind, title, _last_ok(runs), longest, began, f"systemctl status giggles-{kind}.timer, then {ask}")


def _overdue(facts: Facts, kind: str, title: str, last: Run | None, longest: float, began: float, look: str) -> Iterator[Condition]:
    since = max(began, last.time) if last else began
    if facts.now - since <= longest or facts.uptime < AFTER_BOOT_S:
        return
    what = f"The last good one ended {_at(last.time)}" if last else "There has been none since this droplet is watched"
    yield Condition(
        f"{kind}-overdue", f"{title} overdue",
        f"The {title} is overdue. {what}, and one is expected every {_span(longest)}. Nobody may have started it, or it fails. On the "
        f"droplet: {look}.", looks_quiet=1,
    )  # fmt: skip


def _vault(facts: Facts) -> Iterator[Condition]:
    why = f" ({_short(facts.vault_reason)})" if facts.vault_reason else ""
    if facts.vault == "plain":
        yield Condition(
            "vault", "clips lie unencrypted",
            f"Clips lie UNENCRYPTED on this droplet{why}, and erasing a user is weaker. Boot a kernel of the distribution, then "
            "salt-call state.apply vault; docs/ERASURE.md says what that means.", variant="plain",
        )  # fmt: skip
    elif facts.vault == "locked":
        yield Condition(
            "vault", "vault locked",
            f"The volume of clips is locked{why}, so the app waits and nothing is stored. On the droplet: systemctl status "
            "giggles-vault-unlock says what it waits for.", variant="locked", patience=VAULT_PATIENCE_S,
        )  # fmt: skip


def _certificate(facts: Facts, limits: Thresholds, open_keys: Collection[str]) -> Iterator[Condition]:
    if not facts.certificate:
        return
    todo = "It should have been renewed by itself. On the droplet, salt-call state.apply web says why it was not."
    if facts.certificate_ends is None:
        yield Condition("certificate", "no certificate", f"No certificate can be read at /etc/nginx/tls/current. {todo}", variant="none")
        return
    days = (facts.certificate_ends - facts.now) / _DAY
    if days < 0:
        yield Condition(
            "certificate", "certificate expired", f"The certificate ended {_at(facts.certificate_ends)}. {todo}", variant="ended"
        )
    elif days < limits.certificate_days + ("certificate" in open_keys):
        yield Condition("certificate", "certificate ends soon", f"The certificate ends {_at(facts.certificate_ends)}. {todo}")


def _reboot(facts: Facts, limits: Thresholds) -> Iterator[Condition]:
    if facts.reboot:
        yield Condition(
            "reboot", "restart needed",
            f"An update has waited for a restart of the machine for {limits.reboot_days:g} days. giggles-reboot.timer restarts it at "
            "its hour unless the nightly job or a backup is at work. On the droplet: systemctl status giggles-reboot, or sudo reboot.",
            patience=limits.reboot_days * _DAY,
        )  # fmt: skip


def _disk(disk: Disk, limits: Thresholds, open_keys: Collection[str]) -> Iterator[Condition]:
    for key, used, limit, what, look in (
        (f"disk:{disk.path}", disk.bytes_percent, limits.disk_percent, "", "sudo du -xh --max-depth=2 {} | sort -h | tail"),
        (f"inodes:{disk.path}", disk.inodes_percent, limits.inode_percent, " of the inodes",
         "sudo du -x --inodes --max-depth=2 {} | sort -n | tail"),
    ):  # fmt: skip
        if used is not None and used >= limit - (PERCENT_BACK if key in open_keys else 0):
            yield Condition(
                key, f"{disk.path} {limit:g} %{what} full",
                f"The file system {disk.path} is filling up: more than {limit:g} %{what} are in use. When it is full, nothing can be "
                f"stored. On the droplet, {look.format(disk.path)} shows what is large; docs/TROUBLESHOOTING.md, The disk is full.",
            )  # fmt: skip


def _unit(name: str) -> Condition:
    shown = _short(name)
    return Condition(
        f"unit:{shown}", f"{shown} failed",
        f"The unit {shown} has failed. On the droplet, systemctl status {shown} and journalctl -u {shown} -n 50 say why; salt-call "
        "state.apply starts what should run.",
    )  # fmt: skip


def thresholds(chosen: Mapping[str, object]) -> Thresholds:
    """Return the thresholds of a settings file; what is not a number there has its default."""
    known = Thresholds.__dataclass_fields__
    return Thresholds(
        **{
            key: float(value)
            for key, value in chosen.items()
            if key in known and isinstance(value, int | float) and not isinstance(value, bool)
        }
    )


def _last_ok(runs: Sequence[Run]) -> Run | None:
    return next((run for run in reversed(runs) if run.ok), None)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _listed(texts: Sequence[str]) -> str:
    kept = [_short(text).rstrip(".") for text in texts[:_MOST_REASONS] if text.strip()]
    more = f" And {len(texts) - _MOST_REASONS} more." if len(texts) > _MOST_REASONS else ""
    return f"{'; '.join(kept)}.{more} " if kept else ""


def _short(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _span(seconds: float) -> str:
    return f"{seconds / _DAY:g} days" if seconds >= 3 * _DAY else f"{seconds / _HOUR:g} hours"
