"""A run of states that came from elsewhere over salt-ssh, as one archive: what was in it, and that it does not stay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FUNCTION = "state.pkg"
_MOST_BYTES = 8 << 20


def archive(function: object, arguments: Sequence[object]) -> Path | None:
    """Return the archive that a call of Salt has run, None if it was no such call."""
    if function != FUNCTION or not arguments or not str(arguments[0]).endswith("/salt_state.tgz"):
        return None
    return Path(str(arguments[0]))


def pillar(path: Path) -> dict[str, Any]:
    """Return the pillar in an archive; an empty one if there is none that can be read."""
    # Only now, as below: every run of states loads this module, and few come over salt-ssh.
    import tarfile

    with contextlib.suppress(OSError, tarfile.TarError, ValueError, EOFError, KeyError), tarfile.open(path, "r:gz") as packed:
        member = packed.getmember("pillar.json")
        file = packed.extractfile(member) if member.size <= _MOST_BYTES else None
        found = json.load(file) if file is not None else {}
        return found if isinstance(found, dict) else {}
    return {}


def forget(path: Path) -> None:
    """Remove an archive: the pillar in it holds secrets, and nobody reads it again."""
    path.unlink(missing_ok=True)


def is_whole(returned: object, pillar: Mapping[str, Any]) -> bool:
    """Tell whether a run had states of everything that the droplet is for, which its call does not say.

    Arguments:
        returned: what came of each state.
        pillar: the droplet's.
    """
    if not isinstance(returned, Mapping):
        return False
    ran = {str(state.get("__sls__", "")).partition(".")[0] for state in returned.values() if isinstance(state, Mapping)}
    from gigglekit.settings.schema import defaults

    chosen = pillar.get("giggles")
    roles = chosen.get("roles") if isinstance(chosen, Mapping) else None
    return {"common", *map(str, roles or defaults()["roles"])} <= ran
