"""Answers to the questions of bootstrap.sh: from a file, from the environment, from options, from a prompt."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gigglekit.settings.check import merged, value_at
from gigglekit.settings.problem import Key, is_secret
from gigglekit.settings.schema import LOADER, TOP, Node, node_at, nodes

Chosen = dict[str, Any]
"""Settings below `giggles`, as far as somebody has chosen them."""


class WrongAnswerError(Exception):
    """An answer cannot be taken. The message is one paragraph for an operator and holds no secret."""


def parse_key(text: str) -> tuple[Key, Node]:
    """Return the setting that `text` names, as `app.ref` or as `giggles:app:ref`, with its part of the schema.

    Raises:
        WrongAnswerError: there is no such setting, or it is a section.
    """
    names = text.replace(":", ".").split(".")
    key: Key = (*TOP, *(names[1:] if names[:1] == list(TOP) else names))
    node = node_at(key)
    if node is None or "properties" in node:
        known = [dotted(other) for other, below in nodes() if "properties" not in below]
        close = difflib.get_close_matches(text, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else " docs/PILLAR.md lists them all."
        raise WrongAnswerError(f"There is no single setting of the name that was given.{hint}")
    return key, node


def dotted(key: Key) -> str:
    """Return a key as options take it, such as `app.ref`."""
    return ".".join(key[len(TOP) :])


def from_file(path: Path) -> Chosen:
    """Return the answers in a YAML file that looks like a pillar: one mapping `giggles` with settings in it.

    Raises:
        WrongAnswerError: the file cannot be read, or is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WrongAnswerError(f"{path} cannot be read: {error.strerror}. Name a file that is there.") from None
    except ValueError:
        raise WrongAnswerError(f"{path} is not UTF-8 text. Save it as such.") from None
    return from_text(text, str(path))


def from_text(text: str, name: str) -> Chosen:
    """Return the settings in the text of a pillar file, nothing where it has none yet.

    Args:
        text: YAML with one mapping `giggles`.
        name: what to call the text in messages.

    Raises:
        WrongAnswerError: it is something else.
    """
    content = content_of(text, name)
    if content is None or content == {"giggles": None}:
        return {}
    if not isinstance(content, dict) or set(content) != {"giggles"} or not isinstance(content["giggles"], dict):
        raise WrongAnswerError(f"{name} is no pillar: put everything in it below one key `giggles:`, as docs/PILLAR.md shows.")
    chosen: Chosen = content["giggles"]
    return chosen


def is_plain(text: str) -> bool:
    """Return whether a pillar file is YAML as it stands, and not made into YAML by Salt first."""
    first = text.partition("\n")[0].strip()
    return first in ("#!quiet_yaml", "#!yaml") or (not first.startswith("#!") and "{{" not in text and "{%" not in text)


def content_of(text: str, name: str) -> Any:  # noqa: ANN401 (whatever it says)
    """Return what the text of a YAML file says.

    Args:
        text: of the file.
        name: what to call it in messages.

    Raises:
        WrongAnswerError: it is no YAML, or has a key twice.
    """
    try:
        loader = LOADER(text)
        try:
            node = loader.get_single_node()
            if twice := _key_twice(node):
                # Salt refuses it too. Plain YAML takes the last one, and what stood below the first would be lost.
                raise WrongAnswerError(
                    f"{name} has the same key twice{_place(twice.start_mark)}, and only what stands below the second would count. Put "
                    "both together below one, and start again."
                )
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise WrongAnswerError(f"{name} is not YAML{_line(error)}. Correct that line and start again.") from None
    except ValueError:
        raise WrongAnswerError(f"{name} is not YAML: one of its values looks like a date that cannot be. Quote it.") from None


def from_environment(variables: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    """Yield every setting that a GIGGLES_… variable answers, with its text; empty variables answer nothing."""
    for key, node in nodes():
        text = variables.get(node.get("x-variable", ""), "").strip()
        if text:
            yield key, text


def assignment(text: str) -> tuple[Key, str]:
    """Split `key=value` as given on the command line.

    Raises:
        WrongAnswerError: it has another form, or names a secret, which would be readable in the list of processes.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise WrongAnswerError("An assignment has the form key=value, such as domain=giggles.example.com.")
    key, node = parse_key(name)
    if is_secret(key):
        raise WrongAnswerError(
            f"{dotted(key)} is a secret, and every user of a machine can read the arguments of its processes. Give "
            f"it in the variable {node['x-variable']}, in a file with --answers, or at the prompt. As it may have been "
            "seen now, replace it first."
        )
    return key, value


def with_answer(chosen: Chosen, key: Key, text: str) -> Chosen:
    """Return `chosen` with one more answer.

    Args:
        chosen: what is there already; left as it is.
        key: the setting.
        text: the answer as it was typed. Items of a list are separated by commas, ssh keys by line breaks.

    Returns:
        The settings, with the text turned into the kind of value that the schema wants. A text that cannot be turned
        is kept, so that the check can say what is wrong with it.

    Raises:
        KeyError: there is no such setting.
    """
    node = node_at(key)
    if node is None:
        raise KeyError(key)
    value: object = _typed(node, text)
    if isinstance(value, list) and node.get("x-adds"):
        before = value_at(chosen, key)
        value = [*before, *(item for item in value if item not in before)] if isinstance(before, list) else value
    answer: Chosen = {}
    section = answer
    for name in key[len(TOP) : -1]:
        section = section.setdefault(name, {})
    section[key[-1]] = value
    return merged(chosen, answer)


def _typed(node: Node, text: str) -> object:
    kind = node.get("type")
    if kind == "array":
        separator = "\n" if node["items"].get("format") == "ssh-public-key" else ","
        return [item.strip() for item in text.split(separator) if item.strip()]
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
    except ValueError:
        return text
    return text


def _key_twice(node: yaml.Node | None) -> yaml.Node | None:
    """Return a key that its mapping has already, None if there is no such key."""
    pending: list[Any] = [node]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if id(one) in seen or not isinstance(one, yaml.MappingNode | yaml.SequenceNode):
            continue
        seen.add(id(one))
        if isinstance(one, yaml.SequenceNode):
            pending += one.value
            continue
        names = set()
        for name, value in one.value:
            pending.append(value)
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if (name.tag, name.value) in names:
                    return name
                names.add((name.tag, name.value))
    return None


def _line(error: yaml.YAMLError) -> str:
    """Say where YAML stumbled; its own message quotes the line, which may be a secret."""
    mark = getattr(error, "problem_mark", None)
    return _place(mark) if mark else ""


def _place(mark: yaml.Mark) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})"
