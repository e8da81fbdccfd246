"""The schema of the pillar: reading it, walking it, and checking settings against it."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from gigglekit.settings.formats import FORMATS
from gigglekit.settings.places import DEFAULTS_FILE, SCHEMA_FILE
from gigglekit.settings.problem import Key, Problem
from gigglekit.settings.showing import shown_name, shown_value, texts

Error: TypeAlias = Any
"""A jsonschema.ValidationError."""

Node = Mapping[str, Any]
"""The part of the schema that speaks of one setting."""

TOP: Key = ("giggles",)

# libyaml reads the schema ten times faster than Python does.
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_QUOTES = "; put it in quotes, so that YAML reads it as text"


def read_yaml(path: Path) -> Any:  # noqa: ANN401 (whatever the file says)
    """Return what the YAML file `path` says.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(path.read_bytes(), Loader=LOADER)  # noqa: S506 (a safe loader)


@lru_cache(maxsize=1)
def schema() -> Node:
    """Return pillar/schema.yaml."""
    node: Node = read_yaml(SCHEMA_FILE)
    return node


def defaults() -> dict[str, Any]:
    """Return salt/defaults.yaml: every setting where nobody has chosen otherwise."""
    settings: dict[str, Any] = read_yaml(DEFAULTS_FILE)
    return settings


def nodes(node: Node | None = None, key: Key = TOP) -> Iterator[tuple[Key, Node]]:
    """Yield every setting of the schema with its node, sections before what is in them, in the order of the file."""
    node = schema() if node is None else node
    yield key, node
    for name, below in node.get("properties", {}).items():
        yield from nodes(below, (*key, name))


def node_at(key: Key) -> Node | None:
    """Return the part of the schema that speaks of the setting `key`, None for a setting that there is not."""
    node = schema()
    for name in key[len(TOP) :]:
        if name in node.get("properties", {}):
            node = node["properties"][name]
        elif "items" in node and name.isdigit():
            node = node["items"]
        else:
            return None
    return node


def allowed(node: Node, null: bool = True) -> str:
    """Say in words what the schema allows at `node`, for messages and docs alike.

    Args:
        node: the part of the schema that speaks of the setting.
        null: whether to mention that it may be null.
    """
    types = [kind for kind in _types(node) if kind != "null"]
    kind = types[0] if types else "object"
    if "enum" in node:
        words = "one of " + ", ".join(str(choice) for choice in node["enum"])
    elif kind == "object":
        words = "a mapping with the keys " + ", ".join(node.get("properties", {}))
    elif kind == "array":
        words = ("a list, with no item twice, of: " if node.get("uniqueItems") else "a list of: ") + allowed(node["items"])
        if node.get("minItems"):
            words += f" (at least {node['minItems']})"
        if "maxItems" in node:
            words += f" (at most {node['maxItems']})"
    elif kind == "boolean":
        words = "true or false"
    elif kind in ("integer", "number"):
        words = ("a whole number" if kind == "integer" else "a number") + _limits(node)
    else:
        words = FORMATS[node["format"]].allowed if "format" in node else "text"
    return words + (", or null" if null and "null" in _types(node) else "")


def schema_problems(settings: object) -> list[Problem]:
    """Check settings against the schema alone.

    Args:
        settings: what is below the pillar key `giggles`, defaults merged in; anything at all may be passed.

    Returns:
        One problem per setting that is wrong, in the order of the schema; none if all is well.
    """
    secrets = _secrets(settings)
    found: dict[Key, Problem] = {}
    errors = sorted(_validator().iter_errors(settings), key=lambda error: error.validator == "pattern")
    for error in errors:
        for problem in _problems(error, secrets):
            found.setdefault(problem.key, problem)
    for problem in _control_characters(settings):
        found.setdefault(problem.key, problem)
    order = {key: number for number, (key, _) in enumerate(nodes())}
    return sorted(found.values(), key=lambda problem: (order.get(problem.key[:3], order.get(problem.key[:2], 0)), problem.key))


@lru_cache(maxsize=1)
def _validator() -> Any:  # noqa: ANN401 (jsonschema's types are known only where it is imported)
    """Build the validator of jsonschema with the formats of this project.

    The schema itself is checked by the tests, not at every run.
    """
    # Only when there is something to check: the import takes longer than the check.
    jsonschema: Any = import_module("jsonschema")
    validators: Any = import_module("jsonschema.validators")
    standard = jsonschema.Draft202012Validator

    def check_format(_: object, name: str, text: object, __: object) -> Iterator[Error]:
        fault = FORMATS[name].fault(text) if isinstance(text, str) and name in FORMATS else None
        if fault:
            yield jsonschema.ValidationError(fault)

    # 3072.0 is a whole number to JSON Schema, but not to systemd; not-a-number passes every comparison.
    strict: dict[str, Callable[[object, object], bool]] = {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: (
            (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value))
        ),
    }
    checker = standard.TYPE_CHECKER.redefine_many(strict)
    kind = validators.extend(standard, validators={"format": check_format}, type_checker=checker)
    return kind(schema())


def _problems(error: Error, secrets: frozenset[str]) -> Iterator[Problem]:
    """Yield what one error of jsonschema means. Its own message is never used: it quotes the value."""
    names = [_name(part, secrets) for part in error.absolute_path]
    key: Key = (*TOP, *names)
    node: Node = error.schema
    if error.validator == "additionalProperties":
        for name in error.instance:
            if name not in node["properties"]:
                yield _unknown_key(key, name, node, secrets)
        return
    value = None if node.get("format") == "ssh-public-key" else shown_value(key, error.instance, secrets)
    yield Problem(key, _reason(error, node, key, secrets), allowed(node), value)


def _unknown_key(section: Key, name: object, node: Node, secrets: frozenset[str]) -> Problem:
    """Say that there is no such setting, and which one may have been meant."""
    shown = shown_name(name, secrets)
    key = (*section, shown or "…")
    refused = node.get("x-refused", {})
    if shown in refused:
        return Problem(key, f"it is not taken here: {refused[shown]}", "the keys " + ", ".join(node["properties"]))
    reason = "there is no such setting" if shown else "a key has a name that no setting has"
    if shown:
        folded = {choice.lower(): (*section, choice) for choice in node["properties"]}
        close = difflib.get_close_matches(shown.lower(), folded, n=1, cutoff=0.7)
        meant = [other for other, _ in nodes() if other[-1] == shown] or [folded[name] for name in close]
        if meant:
            reason += f"; did you mean {':'.join(meant[0])}?"
    return Problem(key, reason, "the keys " + ", ".join(node["properties"]))


def _reason(error: Error, node: Node, key: Key, secrets: frozenset[str]) -> str:
    """Say in one clause what is wrong, without the value."""
    rule = error.validator
    if rule == "format":
        return str(error.message)
    if rule == "type":
        return _type_reason(error.instance, node)
    if rule == "enum":
        shown = shown_value(key, error.instance, secrets)
        close = difflib.get_close_matches(str(error.instance)[:40], map(str, node["enum"]), n=1) if shown else []
        return "it is none of the choices" + (f"; did you mean {close[0]}?" if close else "")
    reasons = {
        "pattern": "it does not have the right form",
        "minimum": "it is too small",
        "exclusiveMinimum": "it is too small",
        "maximum": "it is too large",
        "minItems": "the list is too short",
        "maxItems": "the list is too long",
        "uniqueItems": "an item is in the list twice",
        "minLength": "it is too short",
    }
    return reasons.get(str(rule), f"it breaks the rule {rule} of the schema")


def _type_reason(value: object, node: Node) -> str:
    """Say which kind of value was found where another one belongs, and what YAML may have done to it."""
    wants_text = "string" in _types(node)
    if value is None:
        return "it is empty: give it a value, or remove the line so that the default holds"
    if isinstance(value, bool):
        return "it is true or false" + (_QUOTES if wants_text else "")
    if isinstance(value, int | float):
        if wants_text and node.get("format") == "time-of-day":
            return "it is a number, since YAML reads 12:30 as minutes of an hour; put it in quotes"
        return "it is a number" + (_QUOTES if wants_text else "") + ("" if wants_text else " of the wrong kind")
    if isinstance(value, datetime.date):
        return "it is a date" + (_QUOTES if wants_text else "")
    if isinstance(value, str):
        number = {"integer", "number"} & set(_types(node))
        return "it is text" + ("; write the number without quotes" if number and value.strip().isdigit() else "")
    if isinstance(value, Mapping):
        return "it is a mapping"
    if isinstance(value, list | tuple):
        return "it is a list"
    return "it is of a kind that YAML has and a pillar has not"


def _control_characters(settings: object) -> Iterator[Problem]:
    """Yield texts with line breaks and the like, which could add lines to the files they are written into."""
    pending: list[tuple[Key, object]] = [(TOP, settings)]
    seen: set[int] = set()
    secrets = _secrets(settings)
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping | list | tuple):
            if id(value) in seen:
                continue
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            pending.extend(((*key, _name(name, secrets)), below) for name, below in items)
        elif isinstance(value, str) and not value.isprintable():
            node = node_at(key)
            words = allowed(node) if node else "text on one line"
            yield Problem(key, "it contains a line break or another character that cannot be printed", words)


def _secrets(settings: object) -> frozenset[str]:
    """Return every secret text of these settings."""
    return frozenset(texts(settings.get("secrets"))) if isinstance(settings, Mapping) else frozenset()


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    return frozenset(key[-1] for key, _ in nodes())


def _name(part: object, secrets: frozenset[str]) -> str:
    """Return a key or the number of an item as a message may show it: names of settings always, others with care."""
    if isinstance(part, str) and part in _known_names():
        return part
    return str(part) if isinstance(part, int) and not isinstance(part, bool) else shown_name(part, secrets) or "…"


def _types(node: Node) -> list[str]:
    kind = node.get("type", "object")
    return [kind] if isinstance(kind, str) else list(kind)


def _limits(node: Node) -> str:
    unit = f" {node['x-unit']}" if "x-unit" in node else ""
    if "exclusiveMinimum" in node:
        return f" above {node['exclusiveMinimum']}, up to {node['maximum']}{unit}"
    return f" from {node['minimum']} to {node['maximum']}{unit}"
