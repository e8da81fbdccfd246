"""Remembering that a pillar was checked and found right, so that only a changed one is checked again.

Importing jsonschema takes longer than everything else that the check does, and Salt compiles the pillar at every call.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from gigglekit.files.replacing import replace
from gigglekit.settings.machine import Machine
from gigglekit.settings.places import DEFAULTS_FILE, SCHEMA_FILE
from gigglekit.settings.showing import as_text

NAME = "giggles-pillar-accepted"


def fingerprint(pillar: object, machine: Machine) -> str:
    """Return a digest of all that the result of a check depends on.

    Args:
        pillar: the merged pillar, secrets included; SHA-256 does not give them away, and the keys among them are too
            long to be guessed.
        machine: the droplet that the pillar is for.

    Returns:
        64 hexadecimal digits: of the settings, the droplet, the schema, the defaults, the committed choices and the code of the check.
    """
    digest = hashlib.sha256()
    # The overlay of the other environment counts too.
    choices = sorted(SCHEMA_FILE.parent.glob("*.sls"))
    for file in (SCHEMA_FILE, DEFAULTS_FILE, *choices, *sorted(Path(__file__).parent.glob("*.py"))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for token in (platform.python_version(), repr(machine), *_tokens(pillar)):
        digest.update(f"{len(token)}:{token}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def is_remembered(folder: Path, mark: str) -> bool:
    """Return whether the last pillar found right had the fingerprint `mark`."""
    try:
        return hmac.compare_digest((folder / NAME).read_text(encoding="ascii").strip(), mark)
    except (OSError, ValueError, TypeError):
        return False


def remember(folder: Path, mark: str) -> None:
    """Note in `folder` that the pillar with the fingerprint `mark` was found right, if it can be written there."""
    with contextlib.suppress(OSError):
        replace(folder / NAME, mark.encode() + b"\n")


def _tokens(value: object) -> Iterator[str]:
    """Yield the settings in a fixed order, each text with its kind, so that 1 and "1" differ."""
    if isinstance(value, Mapping):
        yield f"mapping {len(value)}"
        for name in sorted(value, key=as_text):
            yield f"{type(name).__name__} {as_text(name)}"
            yield from _tokens(value[name])
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}"
        for item in value:
            yield from _tokens(item)
    else:
        yield f"{type(value).__name__} {as_text(value)}"
