"""Takes secrets out of text that somebody will read, also where a library has quoted only a part of one."""

from __future__ import annotations

from collections.abc import Iterable

_PIECE = 6


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every run of characters that is at least six characters of a secret.

    pydantic and others shorten what they quote ("abc...xyz"), so looking for whole secrets is not enough.

    Arguments:
        text: any text.
        secrets: values that must not appear; those shorter than six characters are replaced where they stand whole.

    Returns:
        The text with "[secret]" in their places.
    """
    hidden = bytearray(len(text))
    for secret in secrets:
        size = min(_PIECE, len(secret))
        for start in range(len(secret) - size + 1 if size else 0):
            piece = secret[start : start + size]
            at = text.find(piece)
            while at >= 0:
                hidden[at : at + size] = b"\x01" * size
                at = text.find(piece, at + 1)
    # What stands between two pieces belongs to the secret too, only written differently.
    last = -1
    for position in range(len(text)):
        if not hidden[position]:
            continue
        if 0 < position - last - 1 < _PIECE and last >= 0:
            hidden[last + 1 : position] = b"\x01" * (position - last - 1)
        last = position
    parts: list[str] = []
    for position, character in enumerate(text):
        if not hidden[position]:
            parts.append(character)
        elif position == 0 or not hidden[position - 1]:
            parts.append("[secret]")
    return "".join(parts)
