"""The file with the answers and secrets of one droplet, /etc/giggles/pillar/droplet.sls.

What is there is kept, answers are added, and what can be generated is. bootstrap.sh uses it from the command line:

    python -m gigglekit.settings.droplet --pillar FILE [--answers FILE] [--set KEY=VALUE]...   write the file
    … --check                write nothing, check the whole pillar, and print a paragraph for everything that is wrong
    … --missing              write nothing, list what is still missing: key, question and secret (yes or no), by tabs
    … --get KEY              write nothing, print the value that a setting would have
    … --stdin-value KEY      take one answer from standard input, so that a secret is never an argument

The exit code is 0, 1 for a wrong answer or pillar, 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gigglekit.files.replacing import replace
from gigglekit.settings.answers import (
    Chosen,
    WrongAnswerError,
    assignment,
    content_of,
    dotted,
    from_environment,
    from_file,
    from_text,
    is_plain,
    parse_key,
    with_answer,
)
from gigglekit.settings.check import check, merged, misplaced, missing, value_at
from gigglekit.settings.formats import backblaze_region
from gigglekit.settings.machine import Machine
from gigglekit.settings.overlays import backup_beside
from gigglekit.settings.places import DROPLET_FILE, REPOSITORY
from gigglekit.settings.problem import Key, Problem, concerns, is_secret
from gigglekit.settings.report import Source, paragraphs, pillar_sources
from gigglekit.settings.schema import TOP, defaults, nodes

HEADER = """\
#!quiet_yaml
# The answers and secrets of this droplet, written by bootstrap.sh. It keeps what is here and adds what is missing.
# Change a value here and run `salt-call state.apply`. Comments are lost when bootstrap.sh has something to add.
"""
PUSHED_HEADER = """\
#!quiet_yaml
# What this droplet was told to be, secrets included, by whoever converges its fleet (docs/FLEET.md). Edits are put back with the next
# such run; until then `salt-call state.apply` and the self-converge go by what stands here.
"""
APP_ENVIRONMENT = Path("/opt/giggles/.env")
"""What the app of this droplet works with, where one is installed."""
RETRY = "`bootstrap.sh` again"
_ANSWERS = "the answers that were given (a GIGGLES_… variable, --set, --answers or a prompt)"

GENERATORS: Mapping[str, Callable[[], str]] = {
    # 43 characters of base64url; the app wants 32, at least 10 of them different.
    "varied-secret": lambda: secrets.token_urlsafe(32),
    "hex-key": lambda: secrets.token_hex(32),
}
"""How to make what the schema marks with `x-generate`."""

DERIVATIONS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "region-of-endpoint": lambda settings: backblaze_region(value_at(settings, ("giggles", "backup", "endpoint"))),
}
"""How to take what the schema marks with `x-derive` from the other settings; None where they do not tell."""


class _Text(str):
    """A text to be written in double quotes, so that no reader of YAML takes it for anything else."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'))
# Two lists that are the same object would be written as an anchor and a reference to it.
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def read(path: Path) -> Chosen:
    """Return what a droplet file says below `giggles`; nothing if there is no such file.

    Raises:
        WrongAnswerError: it cannot be read, or is not a file that this module could write again without loss.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise WrongAnswerError(f"{path} cannot be read: {reason}. Correct that, or move the file away and answer anew.") from None
    if not is_plain(text):
        raise WrongAnswerError(
            f"{path} is rendered by more than plain YAML, so completing it here would change what it says. "
            "Edit it by hand, and check it with `salt-call state.apply test=True`."
        )
    return from_text(text, str(path))


def complete(chosen: Chosen, settings: Mapping[str, Any]) -> Chosen:
    """Return `chosen` with everything that `settings` need, nobody gave, and a machine can make or take from the others.

    Args:
        chosen: what the droplet file holds, answers included.
        settings: the same with defaults and committed choices below it.
    """
    for key, node, _ in missing(settings):
        if "x-generate" in node:
            chosen = with_answer(chosen, key, GENERATORS[node["x-generate"]]())
        elif "x-derive" in node and (text := DERIVATIONS[node["x-derive"]](settings)):
            chosen = with_answer(chosen, key, text)
    return chosen


def render(chosen: Chosen, header: str = HEADER) -> str:
    """Return the content of a droplet file; whatever characters a value has, Salt reads the same value back."""
    return header + yaml.dump(
        {"giggles": _quoted(chosen)},
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=2**31,
        default_flow_style=False,
    )


def write(path: Path, chosen: Chosen) -> bool:
    """Write a droplet file that only its owner can read, in one step.

    Args:
        path: the file; its folder is made, closed to others, if it is not there.
        chosen: all that it shall hold below `giggles`.

    Returns:
        Whether anything was written: a file that says the same already is left alone, comments and all.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists():
        path.chmod(0o600)
        if read(path) == chosen:
            return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(path, render(chosen).encode())
    return True


def _quoted(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _quoted(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    return _Text(value) if isinstance(value, str) else value


def _committed(folder: Path, environment: str | None) -> list[Path]:
    """Return the committed pillar files of an environment, those that win last."""
    names = ["giggles.sls"] + ([f"{environment}.sls"] if environment else [])
    return [folder / name for name in names if (folder / name).is_file()]


def _with_committed(folder: Path, chosen: Chosen) -> tuple[dict[str, Any], list[Source], str]:
    """Return all settings below `giggles`, their committed sources, and the environment they are for.

    Raises:
        WrongAnswerError: a committed file is no YAML, so what it says would be asked for as if nobody had chosen it.
    """
    choices = next(node["enum"] for key, node in nodes() if key == ("giggles", "environment"))
    environment = chosen.get("environment", defaults()["environment"])
    files = _committed(folder, environment if environment in choices else None)
    for file in files:
        if is_plain(text := file.read_text(encoding="utf-8", errors="replace")):
            content_of(text, str(file))
    sources = pillar_sources(files)
    settings = defaults()
    for _, content in [*sources, ("", {"giggles": chosen})]:
        below = content.get("giggles") if isinstance(content, Mapping) else None
        settings = merged(settings, below) if isinstance(below, Mapping) else settings
    return settings, sources, str(settings.get("environment"))


def _memory_mb() -> int | None:
    try:
        first = Path("/proc/meminfo").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(first) // 1024


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gigglekit.settings.droplet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pillar", type=Path, default=DROPLET_FILE, metavar="FILE", help="the file (default: %(default)s)")
    parser.add_argument("--choices", type=Path, default=REPOSITORY / "pillar", metavar="FOLDER", help="the committed pillar")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="YAML file with answers below the key giggles")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one answer that is no secret")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--stdin-value", metavar="KEY", help="take the answer for KEY from standard input")
    action.add_argument("--missing", action="store_true", help="list what is still missing and cannot be generated")
    action.add_argument("--check", action="store_true", help="check the whole pillar")
    action.add_argument("--get", metavar="KEY", help="print the value of a setting that is no secret")
    return parser.parse_args(argv)


def _answered(options: argparse.Namespace, chosen: Chosen) -> tuple[Chosen, Chosen]:
    """Return what is chosen with all answers laid over it, and the answers alone."""
    answers = from_file(options.answers) if options.answers else {}
    chosen = merged(chosen, answers)
    single = list(from_environment(os.environ)) + [assignment(text) for text in options.set]
    if options.stdin_value:
        key, _ = parse_key(options.stdin_value)
        text = sys.stdin.readline().strip()
        if not text:
            raise WrongAnswerError(f"No answer was given for {dotted(key)}. Give one, or stop here and start again later.")
        single.append((key, text))
    for key, text in single:
        chosen, answers = with_answer(chosen, key, text), with_answer(answers, key, text)
    return chosen, answers


def _answered_keys(answers: Chosen, key: Key = TOP) -> list[Key]:
    if not answers:
        return []
    keys: list[Key] = []
    for name, value in answers.items():
        below: Key = (*key, str(name))
        keys += _answered_keys(value, below) if isinstance(value, dict) and value else [below]
    return keys


def _run(options: argparse.Namespace) -> int:
    chosen, answers = _answered(options, read(options.pillar))
    settings, sources, environment = _with_committed(options.choices, chosen)
    if options.get:
        return _print_value(options.get, settings)
    _keep_keys(settings, options.pillar)
    chosen = complete(chosen, settings)
    settings = merged(settings, chosen)
    if options.missing:
        for key, node, _ in missing(settings):
            print(dotted(key), node.get("x-prompt", node["description"]), "yes" if is_secret(key) else "no", sep="\t")
        return 0
    sources += [(str(options.pillar), {"giggles": chosen}), (_ANSWERS, {"giggles": answers})]
    machine = Machine(environment, _memory_mb(), backup_beside=backup_beside(environment, options.choices))
    problems = [*misplaced(sources), *check({"giggles": settings}, machine)]
    if options.check:
        return _tell(problems, sources)
    given = _answered_keys(answers)
    wrong = [
        problem for problem in problems if any(concerns(problem.key, key) for key in given) and value_at(settings, problem.key) is not None
    ]
    if wrong:
        return _tell(wrong, sources)
    write(options.pillar, chosen)
    return 0


def _keep_keys(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse to make a key anew that the app here has: with another one, what it has encrypted would be lost for good.

    Raises:
        WrongAnswerError: the droplet file was lost, or a part of it.
    """
    try:
        there = APP_ENVIRONMENT.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for key, node, _ in missing(settings):
        if "x-generate" in node and any(line.startswith(f"{key[-1]}=") for line in there):
            raise WrongAnswerError(
                f"{dotted(key)} is not in {path}, and the app on this droplet works with one, so none is made anew: what is encrypted with "
                f"it would be lost. Copy the value of {key[-1]} from {APP_ENVIRONMENT} to {dotted(key)} in {path}, or put that file back "
                "from your password manager, then start again."
            )


def _tell(problems: Sequence[Problem], sources: Sequence[Source]) -> int:
    print("\n\n".join(paragraphs(problems, sources, RETRY)), file=sys.stderr)
    return 1 if problems else 0


def _print_value(name: str, settings: Mapping[str, Any]) -> int:
    key, _ = parse_key(name)
    if is_secret(key):
        raise WrongAnswerError(f"{dotted(key)} is a secret and is not printed. Its file is {DROPLET_FILE}.")
    value = value_at(settings, key)
    if value is None:
        return 1
    print(value if isinstance(value, str) else json.dumps(value))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the top of this module.

    Args:
        argv: arguments without the name of the program; those of the process if None.

    Returns:
        The exit code.
    """
    options = _arguments(argv)
    try:
        return _run(options)
    except WrongAnswerError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(
            f"{options.pillar} cannot be written: {error.strerror}. Run this as root, on a disk with space.",
            file=sys.stderr,
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
