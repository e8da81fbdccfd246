"""What is recorded of a run of states: what it changed, split into drift and intended change, what failed, and diffs.

The rule, as docs/ARCHITECTURE.md tells it:

- The commit of this repository and the pillar, with what was confirmed on the droplet itself, are those of the last whole run:
  somebody or something else changed the droplet, so every change is drift. Only a state that failed in that run, or whose change was
  put back in it since nobody could log in, is not settled yet, and what it changes is intended.
- One of them is new: a change is intended, unless the timer saw, before it took the new commit, that an apply of the old one
  would have changed the same state.
- There was no whole run before: all of it is intended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gigglekit.health.basis import Basis, LastFull

MOST_DRIFT, MOST_INTENDED, MOST_FAILURES = 100, 60, 20
MOST_DIFF, MOST_DIFFS = 4_000, 16_000
"""Characters of one diff, and of all of a record. A whole record stays below what the grain reads, 96 KB."""
_MOST_SUMMARY = 160
_NEVER_RAN = "One or more requisite failed"


@dataclass(frozen=True)
class Change:
    """What a state changed, or would change.

    Arguments:
        id: the state's ID.
        name: what it is about, a path for example.
        summary: one line.
    """

    id: str
    name: str
    summary: str


Clean = Callable[[str, int], str]


def is_conflict(returned: object) -> bool:
    """Tell whether Salt refused the run, since another one is at work; then nothing happened that could be recorded."""
    return isinstance(returned, list) and bool(returned) and all('The function "state.' in str(line) for line in returned)


def is_rendered(returned: object) -> bool:
    """Tell whether states were run: Salt returns a list of complaints if pillar, top or a file of states is broken."""
    return isinstance(returned, Mapping) and all(isinstance(state, Mapping) and "result" in state for state in returned.values())


def changes(returned: object, clean: Clean) -> list[Change]:
    """Return what a run changed or, with test=True, would change; one entry for each state, in the order they ran."""
    return [_change(identifier, state, clean) for identifier, state in _states(returned) if _changes(state)]


def drifted(
    found: Iterable[Change], *, basis: Basis, last: LastFull | None, known_drift: frozenset[str] | None
) -> tuple[list[Change], list[Change]]:
    """Split changes into drift and intended ones, by the rule above.

    Arguments:
        found: the changes.
        basis: commit and pillar of this run.
        last: the last whole run before it.
        known_drift: ids of states that an apply of the old commit would have changed; None if nobody looked.
    """
    drift: list[Change] = []
    intended: list[Change] = []
    for change in found:
        if last is None:
            is_drift = False
        elif last.basis == basis:
            is_drift = change.id not in last.unsettled
        else:
            is_drift = change.id in (known_drift or ())
        (drift if is_drift else intended).append(change)
    return drift, intended


def outcome(
    returned: object,
    *,
    basis: Basis,
    last: LastFull | None,
    known_drift: frozenset[str] | None,
    clean: Clean,
    is_public: Callable[[str], bool],
) -> dict[str, Any]:
    """Return what a record says of a run, but for its times.

    Arguments:
        returned: what Salt returned: states by their keys, or a list of complaints when nothing was run.
        basis, last, known_drift: as for `drifted`.
        clean: takes secrets out of a text and cuts it to a length.
        is_public: whether everybody on the droplet may read this path; no other file's content is recorded.
    """
    drift, intended = drifted(changes(returned, clean), basis=basis, last=last, known_drift=known_drift)
    failures, failed = _failures(returned, clean)
    return {
        "ok": not failed,
        "commit": basis.commit,
        "previous_commit": last.basis.commit if last else None,
        "changed": len(drift) + len(intended),
        "failed": failed,
        "drift": [vars(change) for change in drift[:MOST_DRIFT]],
        "intended": [vars(change) for change in intended[:MOST_INTENDED]],
        "failures": failures,
        "diffs": _diffs(returned, clean, is_public),
    }


def settled(returned: object, basis: Basis) -> LastFull | None:
    """Return what later runs are compared with, after a run of all states; None if none of them was run."""
    if not returned or not is_rendered(returned):
        return None
    failed = {identifier for identifier, state in _states(returned) if state.get("result") is False}
    return LastFull(basis, frozenset(failed | _put_back(returned)))


def _put_back(returned: object) -> set[str]:
    """Return the states whose changes are not there any more since no login succeeded after them: `login.proven` has put back all that
    decides about logins. Which of them did is not told, so all that changed something since `login.guarded` count."""
    changed: set[str] = set()
    for key, identifier, state in _ordered(returned):
        if key.startswith("login_|-") and key.endswith("_|-guarded"):
            changed.clear()
        elif key.startswith("login_|-") and key.endswith("_|-proven"):
            # Where something else has failed before it, it was not asked, and the guard that outlasts the run puts back the same.
            return changed if state.get("result") is False else set()
        elif state.get("changes"):
            changed.add(identifier)
    return set()


def _states(returned: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for _, identifier, state in _ordered(returned):
        yield identifier, state


def _ordered(returned: object) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield key, ID and what was returned of each state, in the order they ran."""
    if not is_rendered(returned):
        return
    assert isinstance(returned, Mapping)  # noqa: S101 (is_rendered says so; this is for mypy)
    for key, state in sorted(returned.items(), key=lambda item: _order(item[1])):
        parts = str(key).split("_|-")
        yield str(key), str(state.get("__id__") or (parts[1] if len(parts) > 1 else key)), state


def _order(state: Mapping[str, Any]) -> int:
    number = state.get("__run_num__")
    return number if isinstance(number, int) else 1 << 30


def _changes(state: Mapping[str, Any]) -> bool:
    return bool(state.get("changes")) or state.get("result", True) is None


def _change(identifier: str, state: Mapping[str, Any], clean: Clean) -> Change:
    words = list(_words(state.get("changes")))
    text = "; ".join(words) if words else str(state.get("comment", "")).strip().partition("\n")[0]
    return Change(clean(identifier, 200), clean(str(state.get("name", identifier)), 200), clean(text, _MOST_SUMMARY))


def _words(found: object, within: str = "") -> Iterator[str]:
    """Say what Salt says of changes in few words, a few of them."""
    lead = f"{within}: " if within else ""
    if isinstance(found, Mapping):
        if set(found) == {"old", "new"}:
            yield f"{lead}{_short(found['old'])} → {_short(found['new'])}"
            return
        for key, value in list(found.items())[:20]:
            if key == "diff" and isinstance(value, str):
                yield lead + _lines(value)
            else:
                yield from _words(value, f"{within} {key}".strip())
    elif found is not None:
        yield lead + _short(found)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_short(one) for one in value[:5]) + (", …" if len(value) > 5 else "")
    return " ".join(str(value).split())[:80] or "nothing"


def _lines(diff: str) -> str:
    if not _is_diff(diff):
        return "content" if diff.startswith("<") else _short(diff)
    lines = diff.splitlines()[2:]
    return f"content: {sum(line.startswith('+') for line in lines)} lines added, {sum(line.startswith('-') for line in lines)} removed"


def _is_diff(text: str) -> bool:
    return text.startswith("--- ") and "\n+++ " in text


def _failures(returned: object, clean: Clean) -> tuple[list[dict[str, str]], int]:
    if not is_rendered(returned):
        lines = [str(line) for line in returned] if isinstance(returned, list) else []
        text = "\n".join(lines) or "Salt returned nothing that could be read."
        return [{"id": "rendered", "name": "state.apply", "comment": clean(text, 1500)}], 1
    failed = [(identifier, state) for identifier, state in _states(returned) if state.get("result") is False]
    # Those that were not run because of another one say nothing about the cause.
    telling = [pair for pair in failed if not str(pair[1].get("comment", "")).startswith(_NEVER_RAN)] or failed
    return [
        {
            "id": clean(identifier, 200),
            "name": clean(str(state.get("name", identifier)), 200),
            "comment": clean(str(state.get("comment", "")).strip(), 500),
        }
        for identifier, state in telling[:MOST_FAILURES]
    ], len(failed)


def _diffs(returned: object, clean: Clean, is_public: Callable[[str], bool]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    left = MOST_DIFFS
    for _, state in _states(returned):
        for path, diff in _diffs_in(state.get("changes"), str(state.get("name", ""))):
            if left < 100 or not is_public(path):
                continue
            text = clean(diff, min(MOST_DIFF, left))
            left -= len(text)
            found.append({"name": clean(path, 200), "diff": text})
    return found


def _diffs_in(found: object, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(found, Mapping):
        return
    for key, value in found.items():
        if key == "diff" and isinstance(value, str) and _is_diff(value):
            yield path, value
        else:
            yield from _diffs_in(value, str(key) if str(key).startswith("/") else path)
