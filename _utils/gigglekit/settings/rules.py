"""Rules between settings: each one is right by itself, and together they would not work.

A rule states itself once; messages and docs/PILLAR.md quote that statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from gigglekit.settings.formats import backblaze_region, is_commit
from gigglekit.settings.machine import Machine
from gigglekit.settings.problem import Key, Problem, concerns

BACKUP_MINUTES = 60
DRILL_MINUTES = 60
# The timers spread by a quarter of an hour, and an upgrade is done within an hour.
UPDATE_MINUTES = 75
REBOOT_MINUTES = 15
# What the kernel, sshd, nginx and journald need beside the app.
SYSTEM_MB = 200
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"

_DAY = 24 * 60

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule between settings.

    Attributes:
        statement: the rule, as the docs say it.
        reads: the settings it looks at; it is skipped while one of them is wrong by itself.
        broken: yields what is wrong, given the settings (defaults merged in) and the machine.
    """

    statement: str
    reads: tuple[Key, ...]
    broken: Callable[[Settings, Machine], Iterator[tuple[Key, str]]]


def minutes(time: str) -> int:
    """Return the minutes since midnight of a time of day such as "04:30"."""
    hours, _, rest = time.partition(":")
    return int(hours) * 60 + int(rest)


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether two spans, each (start, length) in minutes, meet on a clock that starts again at midnight."""
    return (second[0] - first[0]) % _DAY < first[1] or (first[0] - second[0]) % _DAY < second[1]


def _schedule(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    spans: dict[Key, tuple[int, int]] = {}
    if "nightly" in settings["roles"]:
        nightly = settings["nightly"]
        spans["giggles", "nightly", "at"] = (minutes(nightly["at"]), nightly["timeout_hours"] * 60)
    spans["giggles", "backup", "at"] = (minutes(settings["backup"]["at"]), BACKUP_MINUTES)
    if "hardening" in settings["roles"]:
        spans["giggles", "hardening", "reboot_at"] = (minutes(settings["hardening"]["reboot_at"]), REBOOT_MINUTES)
    for (first, first_span), (second, second_span) in combinations(spans.items(), 2):
        if _overlap(first_span, second_span):
            yield second, f"{_clock(second_span)} meets {':'.join(first)}, {_clock(first_span)}"


def _drill(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    if settings["backup"]["bucket"] is None or "backup" not in settings["roles"]:
        return
    # On the day of the drill as on every other, so the day does not matter to what comes daily.
    span = (minutes(settings["backup"]["drill_at"].partition(" ")[2]), DRILL_MINUTES)
    others: dict[Key, tuple[int, int]] = {("giggles", "backup", "at"): (minutes(settings["backup"]["at"]), BACKUP_MINUTES)}
    if "nightly" in settings["roles"]:
        nightly = settings["nightly"]
        others["giggles", "nightly", "at"] = (minutes(nightly["at"]), nightly["timeout_hours"] * 60)
    if "hardening" in settings["roles"]:
        hardening = settings["hardening"]
        others["giggles", "hardening", "reboot_at"] = (minutes(hardening["reboot_at"]), REBOOT_MINUTES)
        others["giggles", "hardening", "updates_at"] = (minutes(hardening["updates_at"]), UPDATE_MINUTES)
    for other, other_span in others.items():
        if _overlap(span, other_span):
            yield ("giggles", "backup", "drill_at"), f"{_clock(span)} meets {':'.join(other)}, {_clock(other_span)}"


def _ring(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    roles = settings["roles"]
    if "backup" in roles and settings["backup"]["bucket"] is not None and "vault" not in roles:
        yield _ROLES, "backup is among them and vault is not"


def _region(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    backup = settings["backup"]
    region = backblaze_region(backup["endpoint"])
    if region is not None and backup["region"] not in (None, region):
        yield ("giggles", "backup", "region"), f"the endpoint is in {region}"


def _lock(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    backup = settings["backup"]
    for name, days in (("keep:daily", backup["keep"]["daily"]), ("keep_dumps_days", backup["keep_dumps_days"])):
        if backup["lock_days"] > days:
            yield ("giggles", "backup", "lock_days"), f"it is more than backup:{name}, {days} days"


def _backup_memory(settings: Settings, machine: Machine) -> Iterator[tuple[Key, str]]:
    if machine.memory_mb is None or settings["backup"]["bucket"] is None or "backup" not in settings["roles"]:
        return
    left = max(machine.memory_mb - SYSTEM_MB, 0)
    if settings["backup"]["memory_max_mb"] > left:
        yield ("giggles", "backup", "memory_max_mb"), f"this droplet has {machine.memory_mb} MB, so at most {left} MB are left for it"


def _clock(span: tuple[int, int]) -> str:
    start, length = span
    end = (start + length) % _DAY
    return f"{start // 60:02}:{start % 60:02} to {end // 60:02}:{end % 60:02}"


def _app_memory(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    app = settings["app"]
    if app["memory_high_mb"] >= app["memory_max_mb"]:
        yield ("giggles", "app", "memory_high_mb"), f"it is not below app:memory_max_mb, {app['memory_max_mb']} MB"


def _budgets(settings: Settings, machine: Machine) -> Iterator[tuple[Key, str]]:
    if machine.memory_mb is None:
        return
    budgets = {name: settings[name]["memory_max_mb"] for name in ("app", "nightly") if name in settings["roles"]}
    for name, budget in budgets.items():
        if budget > machine.memory_mb - SYSTEM_MB:
            left = max(machine.memory_mb - SYSTEM_MB, 0)
            yield (
                ("giggles", name, "memory_max_mb"),
                f"this droplet has {machine.memory_mb} MB, so at most {left} MB are left for it",
            )
    if "hardening" in settings["roles"]:
        swap = settings["hardening"]["swap_mb"]
        if sum(budgets.values()) > machine.memory_mb - SYSTEM_MB + swap:
            yield (
                ("giggles", "hardening", "swap_mb"),
                f"the budgets of app and nightly job add up to {sum(budgets.values())} MB, and memory and swap of this "
                f"droplet to {machine.memory_mb + swap} MB, of which the system needs {SYSTEM_MB} MB",
            )


def _aliases(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    if settings["domain"] in settings["aliases"]:
        yield ("giggles", "aliases"), "the domain itself is among them"


def _environment(settings: Settings, machine: Machine) -> Iterator[tuple[Key, str]]:
    if machine.environment is not None and settings["environment"] != machine.environment:
        yield ("giggles", "environment"), f"the grain giggles_environment of this droplet says {machine.environment!r}"


def _staging_certificate(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    if settings["environment"] == "staging" and settings["web"]["acme"]["directory"] == LETS_ENCRYPT:
        yield ("giggles", "web", "acme", "directory"), "a staging droplet would use up the rate limits of production"


def _own_prefix(settings: Settings, machine: Machine) -> Iterator[tuple[Key, str]]:
    backup = settings["backup"]
    if backup["bucket"] is None or "backup" not in settings["roles"] or machine.backup_beside is None:
        return
    bucket, prefix = machine.backup_beside
    # A bucket that only the other droplet's own answers name may be this one.
    if bucket in (None, backup["bucket"]) and prefix == backup["prefix"]:
        beside = "production" if settings["environment"] == "staging" else "staging"
        yield ("giggles", "backup", "prefix"), f"pillar/{beside}.sls has the same, and as far as Git knows the same bucket"


def _git_protocol(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    repository = settings["app"]["repository"] or ""
    if repository.startswith("git://") and not is_commit(settings["app"]["ref"]):
        yield (
            ("giggles", "app", "ref"),
            "git:// proves nothing about who answers, so a branch or tag could be anybody's",
        )


def _supabase_keys(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    app = settings["secrets"].get("app") or {}
    service = app.get("SUPABASE_SERVICE_ROLE_KEY")
    for name in ("SUPABASE_KEY", "SUPABASE_ANON_KEY"):
        if service is not None and app.get(name) == service:
            yield ("giggles", "secrets", "app", name), "it is the same as SUPABASE_SERVICE_ROLE_KEY"


def _own_keys(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    app = settings["secrets"].get("app") or {}
    if app.get("SECRET_KEY") is not None and app.get("SECRET_KEY") == app.get("ENCRYPTION_KEY"):
        yield ("giggles", "secrets", "app", "SECRET_KEY"), "it is the same as ENCRYPTION_KEY"


def _uptimerobot(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    if not settings["monitoring"]["uptimerobot"]["enabled"]:
        return
    if not (settings["secrets"].get("monitoring") or {}).get("uptimerobot_key"):
        yield ("giggles", "secrets", "monitoring", "uptimerobot_key"), "it is missing"
    if settings["domain"] is None:
        yield ("giggles", "domain"), "it is missing"


def _converge_age(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    converge, hours = settings["converge"], settings["monitoring"]["thresholds"]["converge_hours"]
    if "converge" in settings["roles"] and converge["enabled"] and hours * 60 <= converge["every_minutes"]:
        key: Key = ("giggles", "monitoring", "thresholds", "converge_hours")
        yield key, f"a converge comes every {converge['every_minutes']} minutes, so it would be told as overdue again and again"


def _mail_login(settings: Settings, _: Machine) -> Iterator[tuple[Key, str]]:
    given = settings["secrets"].get("monitoring") or {}
    lacking = [name for name in ("smtp_user", "smtp_password") if not given.get(name)]
    if len(lacking) == 1:
        yield ("giggles", "secrets", "monitoring", lacking[0]), "it is missing, so no mail would be taken"


_ROLES: Key = ("giggles", "roles")

RULES: tuple[Rule, ...] = (
    Rule(
        "The grain `giggles_environment` of the droplet and `environment` are the same.",
        (("giggles", "environment"),),
        _environment,
    ),
    Rule(
        "Nightly job (from `nightly:at`, for `nightly:timeout_hours`), backup (from `backup:at`, for "
        f"{BACKUP_MINUTES} minutes) and restart (from `hardening:reboot_at`, for {REBOOT_MINUTES} minutes) never meet.",
        (_ROLES, ("giggles", "nightly"), ("giggles", "backup"), ("giggles", "hardening", "reboot_at")),
        _schedule,
    ),
    Rule(
        f"With a bucket, the drill (from `backup:drill_at`, for {DRILL_MINUTES} minutes) meets none of them, nor the updates (from "
        f"`hardening:updates_at`, for {UPDATE_MINUTES} minutes); the time counts, whatever the day.",
        (_ROLES, ("giggles", "nightly"), ("giggles", "backup"), ("giggles", "hardening")),
        _drill,
    ),
    Rule(
        "With a bucket, a droplet with the role backup has the role vault too: the keys that the backup, of the database too, is encrypted "
        "with are kept there.",
        (_ROLES, ("giggles", "backup", "bucket")),
        _ring,
    ),
    Rule(
        "`backup:region` is the one in `backup:endpoint`, where that is Backblaze's.",
        (("giggles", "backup"),),
        _region,
    ),
    Rule(
        "`backup:lock_days` is at most `backup:keep:daily` and `backup:keep_dumps_days`: what is locked cannot be cleared away.",
        (("giggles", "backup"),),
        _lock,
    ),
    Rule(
        f"With a bucket, `backup:memory_max_mb` leaves {SYSTEM_MB} MB of the droplet's memory to the system.",
        (_ROLES, ("giggles", "backup")),
        _backup_memory,
    ),
    Rule(
        "`app:memory_high_mb` is below `app:memory_max_mb`, so that the app is slowed down before it is stopped.",
        (("giggles", "app", "memory_high_mb"), ("giggles", "app", "memory_max_mb")),
        _app_memory,
    ),
    Rule(
        f"Each `memory_max_mb` leaves {SYSTEM_MB} MB of the droplet's memory to the system, and both together fit into "
        f"memory and swap less those {SYSTEM_MB} MB.",
        (
            _ROLES,
            ("giggles", "app", "memory_max_mb"),
            ("giggles", "nightly", "memory_max_mb"),
            ("giggles", "hardening", "swap_mb"),
        ),
        _budgets,
    ),
    Rule(
        "`monitoring:thresholds:converge_hours` is longer than `converge:every_minutes`, where the droplet converges by itself.",
        (_ROLES, ("giggles", "converge"), ("giggles", "monitoring", "thresholds", "converge_hours")),
        _converge_age,
    ),
    Rule("`aliases` does not repeat `domain`.", (("giggles", "domain"), ("giggles", "aliases")), _aliases),
    Rule(
        "`environment: staging` takes its certificate from another directory than Let's Encrypt's production one.",
        (("giggles", "environment"), ("giggles", "web", "acme", "directory")),
        _staging_certificate,
    ),
    Rule(
        "With a bucket, `backup:prefix` is another one than Git names for the other environment, unless Git names another bucket for it.",
        (_ROLES, ("giggles", "environment"), ("giggles", "backup")),
        _own_prefix,
    ),
    Rule(
        "A `git://` repository needs a full commit as `app:ref`.",
        (("giggles", "app", "repository"), ("giggles", "app", "ref")),
        _git_protocol,
    ),
    Rule(
        "The public Supabase keys differ from the service role key, which would open the database to every visitor.",
        (("giggles", "secrets"),),
        _supabase_keys,
    ),
    Rule("`smtp_user` and `smtp_password` go together.", (("giggles", "secrets"),), _mail_login),
    Rule("`SECRET_KEY` and `ENCRYPTION_KEY` differ.", (("giggles", "secrets"),), _own_keys),
    Rule(
        "With `monitoring:uptimerobot:enabled` there are `domain` and `secrets:monitoring:uptimerobot_key`.",
        (("giggles", "domain"), ("giggles", "monitoring", "uptimerobot"), ("giggles", "secrets")),
        _uptimerobot,
    ),
)
"""Every rule between settings."""


def rule_problems(settings: Settings, machine: Machine, wrong: frozenset[Key]) -> list[Problem]:
    """Check settings against the rules between them.

    Args:
        settings: what is below `giggles`, defaults merged in.
        machine: the droplet they are for.
        wrong: settings that are wrong by themselves; rules that read them are skipped.

    Returns:
        One problem per broken rule and setting.
    """
    problems = []
    for rule in RULES:
        if not any(concerns(key, other) for key in rule.reads for other in wrong):
            problems += [Problem(key, reason, rule.statement.replace("`", "")) for key, reason in rule.broken(settings, machine)]
    return problems
