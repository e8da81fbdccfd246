"""What Salt's returner does after each run of states: record it, or hand it to the self-converge that started the run."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.files.replacing import replace
from gigglekit.health import basis, converge, pushed
from gigglekit.health.cleaning import Cleaner
from gigglekit.login import second_factor
from gigglekit.release import pin
from gigglekit.settings.places import REPOSITORY
from gigglekit.settings.pushing import PUSHED

FUNCTIONS = ("state.apply", "state.highstate", "state.sls", pushed.FUNCTION)
HANDOVER = "GIGGLES_CONVERGE"
"""Variable with the folder in which the self-converge lays what it knows, and looks for what came of the run."""
KNOWN, OUTCOME = "known.json", "outcome.json"
KEPT = 5000
"""A run every half hour for a hundred days."""

# Arguments that leave a run one of all states.
_HARMLESS = ("test", "queue", "concurrent")
_NO = ("false", "0", "no", "off", "none", "null", "")
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Places:
    """Where things lie; other ones in tests.

    Arguments:
        tree: this repository.
        records: where records lie.
        last: what the last whole run had.
        confirmed: what an operator confirms on the droplet, on which states wait that the pillar asks for, or chooses there.
    """

    tree: Path = REPOSITORY
    records: Path = records.FOLDER
    last: Path = basis.PATH
    confirmed: tuple[Path, ...] = (second_factor.NOTE, pin.PATH)


def is_run(function: object, arguments: Sequence[object], *, testing: bool = False) -> bool:
    """Tell whether this call of Salt is one that changes the droplet.

    Arguments:
        function: its name.
        arguments: as they stand on the command line.
        testing: whether Salt's configuration has test=True.
    """
    keywords, _ = _parsed(arguments)
    if function not in FUNCTIONS or _is_yes(keywords.get("mock", "False")):
        return False
    return not _is_yes(keywords.get("test", str(testing)))


def is_full(function: object, arguments: Sequence[object]) -> bool:
    """Tell whether a call runs all states of this droplet, with its own pillar."""
    keywords, positional = _parsed(arguments)
    return function in ("state.apply", "state.highstate") and not positional and not set(keywords) - set(_HARMLESS)


def record(returned: Mapping[str, Any], pillar: Mapping[str, Any], *, testing: bool = False, places: Places | None = None) -> None:
    """Record a call of Salt, if it was one of states that changes the droplet.

    Arguments:
        returned: what Salt gives its returners: `fun`, `fun_args`, `return`.
        pillar: the droplet's, as that call had it.
        testing: as for `is_run`.
        places: where things lie.

    Raises:
        OSError: the record could not be written.
    """
    function, arguments, result = returned.get("fun"), returned.get("fun_args") or [], returned.get("return")
    archive = pushed.archive(function, arguments)
    if archive is not None:
        pillar = pushed.pillar(archive)
        pushed.forget(archive)
    if not is_run(function, arguments, testing=testing) or converge.is_conflict(result):
        return
    where = places or Places()
    now = basis.Basis(basis.commit_of(where.tree), basis.pillar_digest(pillar, where.confirmed))
    last = basis.load(where.last)
    handed = os.environ.get(HANDOVER)
    made = converge.outcome(result, basis=now, last=last, known_drift=_known(handed), clean=Cleaner(pillar), is_public=is_public)
    ended = time.time()
    seconds = _age_of_this_process()
    full = is_full(function, arguments) if archive is None else pushed.is_whole(result, pillar)
    run = {
        "started": _rfc3339(ended - seconds),
        "seconds": round(seconds, 1),
        "trigger": "pushed" if archive is not None or PUSHED in pillar else "hand",
        "full": full,
        **made,
    }
    settled = converge.settled(result, now) if full else None
    if settled is not None:
        basis.store(settled, where.last)
    if handed is None:
        records.append(where.records, "converge", run, keep=KEPT)
    else:
        replace(Path(handed) / OUTCOME, json.dumps({**run, "rendered": converge.is_rendered(result)}).encode())


def is_public(path: str) -> bool:
    """Tell whether everybody on this droplet may read the file at `path` as it is now."""
    place = Path(path)
    try:
        status = place.lstat()
        folders = [parent.stat().st_mode for parent in place.parents]
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o004) and all(mode & 0o001 for mode in folders)


def _known(folder: str | None) -> frozenset[str] | None:
    if folder is None:
        return None
    try:
        known = json.loads((Path(folder) / KNOWN).read_bytes())
        return None if known is None else frozenset(map(str, known))
    except (OSError, ValueError, TypeError):
        return None


def _parsed(arguments: Sequence[object]) -> tuple[dict[str, str], list[str]]:
    found = [(_KEYWORD.fullmatch(str(one)), str(one)) for one in arguments]
    return {match[1]: match[2] for match, _ in found if match}, [text for match, text in found if not match]


def _is_yes(text: str) -> bool:
    return text.strip().lower() not in _NO


def _age_of_this_process() -> float:
    """Return since how many seconds this process runs; proc(5), /proc/pid/stat, field 22."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError):
        return 0.0


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
