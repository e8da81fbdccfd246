"""What a text may not hold when it is written down: secrets, e-mail addresses, users' ids, and where their clips lie."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_SHORTEST_SECRET = 6
"""A shorter value would be found in words that are none."""

_MOST_SEARCHED = 64 << 10
"""Characters that are searched beyond those that are asked for."""
_LONGEST_PATTERN = 1 << 10
"""What the patterns below find in one line is no longer, but for what they find when it is cut as well."""

# Bounded, so that no long word costs a search from each of its letters to its end.
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_IN_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]{0,20}://)[^\s/@]{1,500}@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?i)((?:password|passwd|passphrase|secret|token|credential|api_?key|access_?key|encryption_?key)[\w-]{0,100}[\"']?\s*[=:]\s*)\S.*"
)
_MAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
# Not the folders that every droplet has there, by which states are named.
_CLIP = re.compile(r"/var/lib/giggles/uploads(?:\.new|\.before)?/(?!(?:audio|clips|temp|vaults)(?:[\s,;:'\")\]}]|\Z))[^\s,;:'\")\]}]+")
_USER = re.compile(r"(?i)\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


class Cleaner:
    """Takes out of a text what nobody may read in a record.

    Arguments:
        pillar: the droplet's; whatever stands below `giggles:secrets` is found in every spelling that a state would print.
    """

    def __init__(self, pillar: Mapping[str, Any]) -> None:
        chosen = pillar.get("giggles")
        secrets = chosen.get("secrets") if isinstance(chosen, Mapping) else None
        self._secrets = sorted({spelling for value in _leaves(secrets) for spelling in _spellings(value)}, key=len, reverse=True)
        self._longest = max([_LONGEST_PATTERN, *map(len, self._secrets)])

    def __call__(self, text: str, most: int = 500) -> str:
        """Return the text without them, cut to `most` characters."""
        # A text may be long, and only so much of it is searched: what stands across this cut is not found, so its end is left out below.
        rest = text[most + _MOST_SEARCHED :]
        text = text[: most + _MOST_SEARCHED]
        text = _PRIVATE_KEY.sub("[private key]", text)
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = _IN_ADDRESS.sub(r"\1[secret]@", text)
        text = _NAMED.sub(r"\1[secret]", text)
        text = _MAIL.sub("[address]", text)
        text = _CLIP.sub("/var/lib/giggles/uploads/…", text)
        text = _USER.sub("[id]", text)
        if rest:
            text = text[: max(0, len(text) - self._longest)] + "…"
        return text if len(text) <= most else text[: most - 1] + "…"


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _spellings(secret: str) -> Iterator[str]:
    parts = [secret, *secret.splitlines()]
    # The password of an address is one by itself.
    found = re.match(r"[a-z][a-z0-9+.-]*://[^/@:]*:(.+)@", secret)
    if found:
        parts += [found[1], unquote(found[1])]
    for part in parts:
        for spelling in (part, json.dumps(part)[1:-1], repr(part)[1:-1]):
            if len(spelling.strip()) >= _SHORTEST_SECRET:
                yield spelling.strip()
