"""The whole check of a pillar: schema, values that the droplet's roles need, and rules between values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gigglekit.settings.machine import Machine
from gigglekit.settings.places import DROPLET_FILE, GRAINS_FILE, UNREADABLE
from gigglekit.settings.problem import Key, Problem, concerns
from gigglekit.settings.rules import Settings, rule_problems
from gigglekit.settings.schema import TOP, Node, allowed, defaults, nodes, schema, schema_problems


def check(pillar: Mapping[Any, Any], machine: Machine) -> list[Problem]:
    """Check the pillar of a droplet.

    Args:
        pillar: the whole pillar, as merged from all its files; only `giggles` and what the renderer noted are read.
        machine: the droplet it is for.

    Returns:
        Everything that is wrong, worst first; an empty list for a pillar that may be applied.
    """
    problems = list(_unreadable(pillar)) or list(_unreached(machine))
    if UNREADABLE in pillar:
        return problems
    chosen = pillar.get("giggles")
    if chosen is None:
        reason = "the pillar holds no settings at all" if "giggles" not in pillar else "it is empty"
        return problems or [Problem(TOP, reason, allowed(schema()), remedy=_no_answers(machine))]
    if not isinstance(chosen, Mapping):
        return problems + schema_problems(chosen)
    settings = merged(defaults(), chosen)
    problems += schema_problems(settings)
    wrong = frozenset(problem.key for problem in problems)
    absent = [problem for problem in missing_problems(settings) if not any(concerns(problem.key, key) for key in wrong)]
    wrong |= {problem.key for problem in absent}
    if absent and not machine.has_answers:
        reason = f"there is no droplet.sls, so {len(absent)} settings are missing that this droplet's roles need"
        absent = [Problem(("giggles", "secrets"), reason, f"a file {DROPLET_FILE}", remedy=_no_answers(machine))]
    return problems + absent + rule_problems(settings, machine, wrong)


def misplaced(sources: Iterable[tuple[str, object]]) -> Iterator[Problem]:
    """Yield a problem for every setting of a pillar file that stands beside the key `giggles`: nothing would read it there.

    Args:
        sources: our own pillar files, by name. Elsewhere in the pillar there may be somebody else's keys.
    """
    for name, content in sources:
        for key in content if isinstance(content, Mapping) else ():
            if key in schema()["properties"]:
                reason = f"it stands beside `giggles:` in {name} and not below it, so nothing reads it"
                yield Problem((key,), reason, f"the setting giggles:{key}", remedy=f"Indent it below `giggles:` in {name}")


def merged(below: Mapping[str, Any], above: Mapping[Any, Any]) -> dict[str, Any]:
    """Lay one mapping over another as salt/map.jinja does: mappings join, everything else is replaced."""
    result: dict[str, Any] = dict(below)
    for name, value in above.items():
        under = result.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        result[name] = merged(under, value) if both else value  # type: ignore[arg-type]
    return result


def missing(settings: Settings) -> Iterator[tuple[Key, Node, list[str]]]:
    """Yield the settings that are needed and that nobody has given, with what needs them: roles, or another setting."""
    roles = settings.get("roles")
    on = [role for role in roles if isinstance(role, str)] if isinstance(roles, list | tuple) else []
    for key, node in nodes():
        needed_by = [role for role in node.get("x-required-by", []) if role in on]
        companion = node.get("x-required-with")
        # A section and the role that it is for have the same name.
        if companion and companion.partition(":")[0] in on and value_at(settings, (*TOP, *companion.split(":"))) is not None:
            needed_by.append(companion)
        if needed_by and value_at(settings, key) in (None, [], ()):
            yield key, node, needed_by


def missing_problems(settings: Settings) -> list[Problem]:
    """Return a problem for every setting that is needed and that nobody has given."""
    problems = []
    for key, node, needed_by in missing(settings):
        kind = "setting" if "x-required-with" in node else "roles" if len(needed_by) > 1 else "role"
        who = f"the {kind} {' and '.join(needed_by)}"
        problems.append(Problem(key, f"it is missing, and {who} cannot do without it", allowed(node, null=False)))
    return problems


def value_at(settings: Settings, key: Key) -> Any:  # noqa: ANN401 (whatever is there)
    """Return the value of the setting `key`, None where there is none; an item of a list has its position as the last part."""
    value: Any = settings
    for name in key[len(TOP) :]:
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _unreadable(pillar: Mapping[Any, Any]) -> Iterator[Problem]:
    """Yield a problem for every pillar file that is not YAML; with one missing, nothing else can be judged."""
    noted = pillar.get(UNREADABLE)
    for sls, place in noted.items() if isinstance(noted, Mapping) else ():
        if sls == "fleet" or str(sls).startswith("droplets."):
            where = f"{str(sls).replace('.', '/')}.sls of the fleet's pillar (docs/FLEET.md)"
        else:
            where = str(DROPLET_FILE) if sls == "droplet" else f"pillar/{sls}.sls"
        yield Problem(
            (f"{sls}.sls",),
            f"it is not YAML ({place})",
            "YAML with every key once; texts with special characters in double quotes",
            remedy=f"Correct that place in {where}",
        )


def _unreached(machine: Machine) -> Iterator[Problem]:
    """Yield a problem where the grain that selects the pillar files is not there or wrong."""
    choices = next(node["enum"] for key, node in nodes() if key == ("giggles", "environment"))
    if machine.environment in choices:
        return
    reason = (
        "this droplet has no grain giggles_environment, so neither its overlay nor its secrets were read"
        if machine.environment is None
        else "the grain giggles_environment of this droplet names no environment, so no overlay was read"
    )
    yield Problem(
        ("giggles", "environment"),
        reason,
        "the grain giggles_environment with one of " + ", ".join(choices),
        remedy=f"Run bootstrap.sh again, or write the line `giggles_environment: production` into {GRAINS_FILE}",
    )


def _no_answers(machine: Machine) -> str | None:
    if machine.has_answers:
        return None
    return f"Run bootstrap.sh, which asks for what is missing, generates what can be generated and writes {DROPLET_FILE}"
