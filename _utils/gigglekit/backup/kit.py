"""The recovery kit: a page of text that opens the backup on a machine that knows nothing. Source: docs/FORMAT.md."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import textwrap
from dataclasses import dataclass, field

from gigglekit.backup.section import NotReadableError
from gigglekit.crypto import sealing

_FIRST = "giggles-salt recovery kit 1"
_FIELDS = ("endpoint", "region", "bucket", "prefix", "created", "key", "signer")
_CHECK_BYTES, _KEY_BYTES, _GROUP = 3, 32, 7
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True)
class Kit:
    """A recovery kit.

    Arguments:
        endpoint: of the S3 interface, https://….
        region: the bucket's.
        bucket: its name.
        prefix: what names of objects begin with.
        created: when it was made (RFC 3339).
        key: the X25519 private key, 32 bytes.
        signer: the droplet's Ed25519 public key, 32 bytes.
    """

    endpoint: str
    region: str
    bucket: str
    prefix: str
    created: str
    key: bytes = field(repr=False)
    signer: bytes

    @property
    def public(self) -> bytes:
        """The public half of its key, which stays on the droplet."""
        return sealing.public_of(self.key)


def write(kit: Kit) -> str:
    """Return a kit as text."""
    return (
        f"{_FIRST}\n"
        "# Whoever has this page and can read the bucket can read every clip. Keep it in a password manager, and once more on paper.\n"
        "# What to do with it: docs/BACKUP_AND_RESTORE.md in the repository of this server.\n"
        f"endpoint: {kit.endpoint}\nregion: {kit.region}\nbucket: {kit.bucket}\nprefix: {kit.prefix}\ncreated: {kit.created}\n"
        f"key: {_armour(kit.key)}\nsigner: {_armour(kit.signer)}\n"
    )


def read(text: str) -> Kit:
    """Read a kit that somebody kept, printed, or typed again.

    Raises:
        NotReadableError: it is none, or there is a mistake in it; the text names the line and quotes nothing.
    """
    lines = [line.strip() for line in text[:_MOST_CHARACTERS].splitlines()]
    # "local:" is what salt-call writes above all that it prints.
    lines = [line for line in lines if line and line != "local:" and not line.startswith("#")]
    if not lines or not re.fullmatch(r"giggles-salt recovery kit \d+", " ".join(lines[0].lower().split())):
        raise NotReadableError(f"it does not begin with the line '{_FIRST}'")
    if " ".join(lines[0].lower().split()) != _FIRST:
        raise NotReadableError("it is of a newer version than this program knows")
    found: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or name not in _FIELDS or name in found:
            raise NotReadableError("it has a line that is not 'name: value' with one of the names " + ", ".join(_FIELDS) + ", or one twice")
        found[name] = value.strip()
    missing = [name for name in _FIELDS if name not in found and name != "prefix"]
    if missing:
        raise NotReadableError(f"the line {missing[0]} is missing")
    return Kit(
        found["endpoint"], found["region"], found["bucket"], found.get("prefix", ""), found["created"],
        _bare("key", found["key"]), _bare("signer", found["signer"]),
    )  # fmt: skip


def fingerprint(public: bytes) -> str:
    """Return what tells a kit from others and gives nothing away: 16 hexadecimal digits of its public key's SHA-256."""
    return hashlib.sha256(b"giggles-salt/v1/kit\0" + public).hexdigest()[:16]


def _armour(key: bytes) -> str:
    text = base64.b32encode(key + hashlib.sha256(key).digest()[:_CHECK_BYTES]).decode()
    return "-".join(textwrap.wrap(text, _GROUP))


def _bare(name: str, text: str) -> bytes:
    try:
        data = base64.b32decode(re.sub(r"[\s-]", "", text).upper())
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _KEY_BYTES + _CHECK_BYTES or hashlib.sha256(data[:_KEY_BYTES]).digest()[:_CHECK_BYTES] != data[_KEY_BYTES:]:
        raise NotReadableError(
            f"the line {name} has a typing mistake: it is 8 groups of 7 letters or digits 2 to 7, and its check does not fit"
        )
    return data[:_KEY_BYTES]
