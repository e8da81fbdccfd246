"""The states of a run that failed and do not say themselves what to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

_RAISED = "An exception occurred in this state"


@dataclass(frozen=True)
class Failure:
    """A state that failed.

    Attributes:
        identifier: its ID.
        name: what it is about, often a path.
        said: all that it and the programs it ran said. This may hold anything, secrets too, and must not be quoted.
    """

    identifier: str
    name: str
    said: str


def unexplained(running: Mapping[str, object], explaining: Collection[str]) -> list[Failure]:
    """Return the states of a run that failed by themselves, without those that explain their failures.

    Arguments:
        running: what the states returned so far, by their tags (`module_|-ID_|-name_|-function`), as Salt keeps it.
        explaining: the state modules whose comments say what to do. What they did not foresee is returned all the same.
    """
    found = []
    for tag, returned in running.items():
        # A state whose requisites failed was not run; and a run that is broken off has a mark between its states.
        if not isinstance(returned, Mapping) or returned.get("result") is not False or returned.get("__state_ran__") is False:
            continue
        module, identifier, *_ = [*tag.split("_|-"), ""]
        said = _said(returned)
        if module not in explaining or said.startswith(_RAISED):
            found.append(Failure(identifier, str(returned.get("name", "")), said))
    return found


def _said(returned: Mapping[str, object]) -> str:
    changes = returned.get("changes")
    # What a command printed; other changes hold contents of files.
    printed = [changes.get(stream) for stream in ("stderr", "stdout")] if isinstance(changes, Mapping) else []
    return "\n".join(str(part) for part in (returned.get("comment"), *printed) if part)
