"""How much of a value a message may show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from gigglekit.settings.problem import Key, is_secret

_LONGEST = 60
# Long enough for every word and most host names, too short for a key or token of any use.
_LONGEST_NAME = 31
_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
# To the last @: a password that should have been percent-encoded may hold a slash, and an @ itself.
_CREDENTIALS = re.compile(r"(?<=://).*@")


def as_text(value: object) -> str:
    """Return `str(value)`; numbers of thousands of digits, which Python refuses to write out, in hexadecimal."""
    return hex(value) if isinstance(value, int) and value.bit_length() > 1024 else str(value)


def shown_value(key: Key, value: object, secrets: Iterable[str]) -> str | None:
    """Return `value` as a message may show it.

    Args:
        key: the setting that holds it.
        value: what the pillar says there.
        secrets: every secret text in the pillar, since one may have been copied to the wrong place too.

    Returns:
        The value in quotes, shortened, with passwords and whatever could be a token taken out; None for secrets, for
        texts that hold one, and for lists and mappings, which are too long to help.
    """
    if is_secret(key) or not isinstance(value, str | int | float):
        return None
    text = as_text(value)
    if "PRIVATE KEY" in text or any(secret in text for secret in secrets if secret):
        return None
    text = _CREDENTIALS.sub("…@", text)
    text = _TOKEN.sub(lambda match: match[0][:8] + "…", text)
    text = "".join(character if character.isprintable() else "�" for character in text)
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    return f"“{text}”" if isinstance(value, str) else text


def shown_name(name: object, secrets: Iterable[str]) -> str | None:
    """Return the name of an unknown key as a message may show it, None where it could be a secret itself."""
    text = as_text(name)
    if len(text) > _LONGEST_NAME or not re.fullmatch(r"[\w.-]+", text):
        return None
    return None if any(secret in text for secret in secrets if secret) else text


def texts(value: object) -> Iterator[str]:
    """Yield every text and number inside `value`, as text; keys of mappings are not values and left out."""
    pending = [value]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping | list | tuple):
            # YAML anchors can tie a knot: a list that holds itself.
            if id(current) not in seen:
                seen.add(id(current))
                pending.extend(current.values() if isinstance(current, Mapping) else current)
        elif current is not None and not isinstance(current, bool):
            yield as_text(current)
