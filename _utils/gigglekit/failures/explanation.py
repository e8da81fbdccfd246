"""One paragraph for each cause behind the failed states of a run: what happened, why, what to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from .causes import CAUSES, Cause
from .facts import Facts
from .failure import Failure

APT_LOG = Path("/var/log/apt/term.log")
_MOST_LOG = 64 * 1024
"""Bytes at the end of apt's log that are looked at."""


def explain(failures: Sequence[Failure], apt_log: Path = APT_LOG) -> list[str]:
    """Return a paragraph for each known cause; a failure whose cause is not known is in none.

    Arguments:
        failures: the states that failed and do not say themselves what to do.
        apt_log: where apt keeps what dpkg said.
    """
    found: dict[Cause, list[Failure]] = {}
    for failure in failures:
        whole = _with_words_of_dpkg(failure, apt_log)
        cause = next((cause for cause in CAUSES if cause.is_behind(whole.said)), None)
        if cause:
            found.setdefault(cause, []).append(whole)
    return [cause.paragraph.format_map(Facts(found[cause])) for cause in CAUSES if cause in found]


def _with_words_of_dpkg(failure: Failure, apt_log: Path) -> Failure:
    # apt says only that dpkg failed. Why, dpkg says on the terminal that apt gives it, and that goes to the log.
    if not re.search(r"Sub-process \S*dpkg\S* returned an error", failure.said):
        return failure
    try:
        with apt_log.open("rb") as log:
            log.seek(max(0, apt_log.stat().st_size - _MOST_LOG))
            text = log.read().decode(errors="replace")
    except OSError:
        return failure
    return dataclasses.replace(failure, said=f"{failure.said}\n{text.rpartition('Log started:')[2]}")
