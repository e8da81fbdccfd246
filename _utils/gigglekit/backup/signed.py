"""Small objects that the droplet signs: sealed keys, tombstones, receipts. Source: docs/FORMAT.md."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gigglekit.backup import names
from gigglekit.backup.section import NotReadableError, load_json, take
from gigglekit.crypto import keys, sealing

KEY, LEDGER = b"GIGGKEY\x01", b"GIGGLED\x01"
RECEIPT_BYTES = 1 << 20
"""No receipt is as long."""
_SIGNATURE_BYTES = 64
_START = 8 + _SIGNATURE_BYTES
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True)
class Signer:
    """What signs.

    Arguments:
        key: an Ed25519 private key.
    """

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """Its public half, 32 bytes."""
        return self.key.public_key().public_bytes_raw()

    @property
    def private(self) -> bytes:
        """Its 32 secret bytes."""
        return self.key.private_bytes_raw()


def sign(magic: bytes, name: str, content: bytes, signer: Signer) -> bytes:
    """Return an object that holds `content` and says that this droplet put it there under this name."""
    return magic + signer.key.sign(name.encode() + b"\0" + content) + content


def open_signed(magic: bytes, name: str, data: bytes, public: bytes) -> bytes:
    """Return the content of a signed object.

    Arguments:
        magic: what it is.
        name: the object's name, without the prefix.
        data: the object.
        public: the signer's public key, 32 bytes.

    Raises:
        NotReadableError: it is none, or was not signed by this signer under this name.
    """
    if len(data) < _START or data[:7] != magic[:7]:
        raise NotReadableError("it does not begin as such an object does")
    if data[:8] != magic:
        raise NotReadableError("it is of a newer version than this program knows")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(data[8:_START], name.encode() + b"\0" + data[_START:])
    except (InvalidSignature, ValueError):
        raise NotReadableError("it was not signed by this droplet under this name") from None
    return data[_START:]


def seal_key(name: str, key: bytes, kit_public: bytes, signer: Signer) -> bytes:
    """Return a key as it lies in the bucket: only the recovery kit opens it.

    Arguments:
        name: the object's name, without the prefix.
        key: 32 bytes.
        kit_public: the kit's public key, 32 bytes.
        signer: signs it.
    """
    return sign(KEY, name, sealing.seal(kit_public, names.key_info(name), key), signer)


def unseal_key(name: str, data: bytes, kit_private: bytes, signer_public: bytes) -> bytes:
    """Return a key out of the bucket.

    Raises:
        NotReadableError: it is none, was put there by somebody else, or was sealed for another kit.
    """
    sealed = open_signed(KEY, name, data, signer_public)
    try:
        key = sealing.unseal(kit_private, names.key_info(name), sealed)
    except keys.WrongKeyError:
        raise NotReadableError("it was sealed for another recovery kit") from None
    if len(key) != keys.KEY_BYTES:
        raise NotReadableError("it holds no key")
    return key


def tombstone(vault_id: str, since: str, signer: Signer) -> tuple[str, bytes]:
    """Return name and content of the object that says that a user was erased."""
    name = names.ERASED + vault_id
    content = json.dumps({"format": 1, "since": since, "subject": vault_id}, sort_keys=True, separators=(",", ":")).encode()
    return name, sign(LEDGER, name, content, signer)


def read_tombstone(name: str, data: bytes, public: bytes) -> str:
    """Return since when the user of a tombstone is erased.

    Raises:
        NotReadableError: it is none, or somebody else's.
    """
    form, since, subject = take(load_json(open_signed(LEDGER, name, data, public)), "format", "since", "subject")
    if form != 1 or name != f"{names.ERASED}{subject}" or not isinstance(since, str) or not _TIME.fullmatch(since):
        raise NotReadableError("it is no tombstone")
    return since


def read_receipt(name: str, data: bytes, public: bytes) -> tuple[str, str]:
    """Return whose erasure a receipt tells of, by vault id, and since when.

    Raises:
        NotReadableError: it is none, or somebody else's.
    """
    content = load_json(open_signed(LEDGER, name, data, public)[_SIGNATURE_BYTES:])
    subject, since = content.get("subject"), content.get("started")
    if not isinstance(subject, str) or not isinstance(since, str) or not _TIME.fullmatch(since):
        raise NotReadableError("it is no receipt")
    return subject, since
