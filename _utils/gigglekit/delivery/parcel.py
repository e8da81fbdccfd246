"""One clip on its way: what lies in the bucket for it, and the receipt for that.

A parcel `delivery/<id>` is the clip with whose and which it is, encrypted under a key that only the droplets of the fleet have
(C2SP chunked encryption, Cobblestone-256). Its id is a keyed hash of all that, so the same clip sent twice is one parcel, and the
name tells nothing. The receipt `delivered/<id>` is encrypted the same way: who may only write into the bucket can forge neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from gigglekit.crypto import chunked, keys
from gigglekit.vault.places import is_user_id

PARCELS, RECEIPTS = "delivery/", "delivered/"
STORED, REFUSED = "stored", "refused"
MOST_CLIP_BYTES = 128 << 20
"""More than an hour of sound as the app writes it. A clip is in memory as a whole, three times over while it is packed."""
MOST_PARCEL_BYTES = MOST_CLIP_BYTES + (1 << 20)
MOST_RECEIPT_BYTES = 4096
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.wav")
_LENGTH_BYTES = 4
_MOST_HEAD_BYTES = 4096


class ParcelError(Exception):
    """A parcel or a receipt is none of ours, or is damaged."""


def is_clip(name: str) -> bool:
    """Tell whether a file's name is one that the app gives clips."""
    return bool(_NAME.fullmatch(name))


@dataclass(frozen=True)
class Clip:
    """One clip.

    Arguments:
        user: whose, by the app's id.
        name: of the file.
        modified: when it was written, in nanoseconds since 1970.
        content: its bytes.
    """

    user: str
    name: str
    modified: int
    content: bytes


class Keys:
    """What the droplets of a fleet have in common."""

    def __init__(self, secret: bytes) -> None:
        """Arguments: `secret`, 32 bytes, uniformly random."""
        self._names = keys.derive(secret, "giggles-salt/v1/delivery/names")
        self._contents = keys.derive(secret, "giggles-salt/v1/delivery/contents")

    def id_of(self, clip: Clip) -> str:
        """Return the id of a clip's parcel."""
        return keys.keyed_hash(self._names, json.dumps([clip.user, clip.name, hashlib.sha256(clip.content).hexdigest()]))

    def pack(self, clip: Clip) -> tuple[str, bytes]:
        """Return a parcel's id and content."""
        ident = self.id_of(clip)
        head = json.dumps({"user": clip.user, "name": clip.name, "modified": clip.modified}).encode()
        return ident, chunked.encrypt(
            self._contents, _context(PARCELS, ident), len(head).to_bytes(_LENGTH_BYTES, "big") + head + clip.content
        )

    def unpack(self, ident: str, content: bytes) -> Clip:
        """Undo `pack`.

        Raises:
            ParcelError: it was not packed with this key under this id, or not for a user and a clip.
        """
        try:
            plain = chunked.decrypt(self._contents, _context(PARCELS, ident), content)
            length = int.from_bytes(plain[:_LENGTH_BYTES], "big")
            if not 0 < length <= _MOST_HEAD_BYTES:
                raise ValueError("its head has no length")
            head = json.loads(plain[_LENGTH_BYTES : _LENGTH_BYTES + length])
            clip = Clip(str(head["user"]), str(head["name"]), int(head["modified"]), plain[_LENGTH_BYTES + length :])
        except (chunked.DamagedError, ValueError, KeyError, TypeError):
            raise ParcelError("it is damaged, or was packed with another key") from None
        if not is_user_id(clip.user) or not is_clip(clip.name) or self.id_of(clip) != ident:
            raise ParcelError("it is for no user, or no clip")
        return clip

    def receipt(self, ident: str, what: str) -> bytes:
        """Return the content of the receipt for a parcel: `STORED` or `REFUSED`."""
        return chunked.encrypt(self._contents, _context(RECEIPTS, ident), what.encode())

    def read_receipt(self, ident: str, content: bytes) -> str:
        """Return what a receipt says.

        Raises:
            ParcelError: it is none of ours for this parcel.
        """
        try:
            said = chunked.decrypt(self._contents, _context(RECEIPTS, ident), content).decode()
        except (chunked.DamagedError, ValueError):
            raise ParcelError("it is damaged, or was made with another key") from None
        if said not in (STORED, REFUSED):
            raise ParcelError("it says nothing that is known here")
        return said


def ident_of(name: str, kind: str) -> str | None:
    """Return the id in the name of an object of a kind; None if it is none."""
    ident = name.removeprefix(kind)
    return ident if name.startswith(kind) and _ID.fullmatch(ident) else None


def _context(kind: str, ident: str) -> bytes:
    return f"giggles-salt/v1/{kind}".encode() + b"\0" + ident.encode()
