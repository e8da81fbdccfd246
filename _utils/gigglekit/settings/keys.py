"""Public ssh keys: whether a line is one, and one that the hardened sshd of a droplet accepts."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

MINIMUM_RSA_BITS = 3072

# The key types that the droplet's sshd offers logins for. A type that it does not accept must not pass here: with no
# other key in the pillar, nobody could log in any more.
ACCEPTED_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa")

_REFUSED_TYPES = {
    "ssh-dss": "it is a DSA key, which OpenSSH no longer accepts",
    "ecdsa-sha2-nistp256": "it is an ECDSA key, which the sshd of this server does not accept",
    "ecdsa-sha2-nistp384": "it is an ECDSA key, which the sshd of this server does not accept",
    "ecdsa-sha2-nistp521": "it is an ECDSA key, which the sshd of this server does not accept",
    "sk-ecdsa-sha2-nistp256@openssh.com": "it is an ECDSA key, which the sshd of this server does not accept",
}


class InvalidPublicKeyError(ValueError):
    """A line is not a usable public key. The message says why and never quotes the line: it may be a private key."""


@dataclass(frozen=True)
class PublicKey:
    """One accepted public key.

    Attributes:
        type: key type as in RFC 4253, section 6.6, such as `ssh-ed25519`.
        bits: size of the key in bits.
        blob: the key in wire format.
        comment: what follows the key on its line, often empty.
    """

    type: str
    bits: int
    blob: bytes
    comment: str


def parse_public_key(line: str) -> PublicKey:
    """Read one line as in `~/.ssh/id_ed25519.pub`.

    Args:
        line: type, key in base64 and an optional comment, separated by spaces; no authorized_keys options.

    Returns:
        The key, all of whose fields have been read.

    Raises:
        InvalidPublicKeyError: the line is something else, or a key that is too weak.

    Source: RFC 4253 section 6.6 (ssh-rsa), RFC 8709 section 4 (ssh-ed25519), PROTOCOL.u2f of OpenSSH (sk-).
    """
    if "PRIVATE KEY" in line:
        raise InvalidPublicKeyError("it is a PRIVATE key, which must never leave its owner's machine: make a new pair")
    parts = line.strip().split(None, 2)
    if not parts:
        raise InvalidPublicKeyError("it is empty")
    name = parts[0]
    if name in _REFUSED_TYPES:
        raise InvalidPublicKeyError(_REFUSED_TYPES[name])
    if name not in ACCEPTED_TYPES:
        if any(accepted in line for accepted in ACCEPTED_TYPES):
            raise InvalidPublicKeyError("something stands before the key type; options are not taken")
        raise InvalidPublicKeyError("it does not begin with a key type")
    if len(parts) < 2:
        raise InvalidPublicKeyError("the key itself is missing after its type")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPublicKeyError("the key after the type is not valid base64: it may be cut off or wrapped") from None
    bits = _read_key(name, blob)
    return PublicKey(name, bits, blob, parts[2] if len(parts) > 2 else "")


def _read_key(name: str, blob: bytes) -> int:
    """Return the size in bits of the key in `blob`, after reading every field of it."""
    fields = _fields(blob)
    if fields[0] != name.encode():
        raise InvalidPublicKeyError("the type before the key is not the type inside it")
    if name == "ssh-rsa":
        if len(fields) != 3:
            raise InvalidPublicKeyError("the RSA key is incomplete")
        exponent, modulus = (int.from_bytes(field, "big") for field in fields[1:])
        if modulus.bit_length() < MINIMUM_RSA_BITS:
            raise InvalidPublicKeyError(f"it is an RSA key of {modulus.bit_length()} bits, and at least {MINIMUM_RSA_BITS} are needed")
        if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
            raise InvalidPublicKeyError("its numbers are not those of an RSA key")
        return modulus.bit_length()
    expected = 3 if name.startswith("sk-") else 2
    if len(fields) != expected or len(fields[1]) != 32:
        raise InvalidPublicKeyError("the Ed25519 key is not 32 bytes long: it may be cut off")
    return 256


def _fields(blob: bytes) -> list[bytes]:
    """Split wire format into its strings (RFC 4251 section 5): four bytes of length, then as many bytes."""
    fields = []
    position = 0
    while position < len(blob):
        if position + 4 > len(blob):
            raise InvalidPublicKeyError("the key ends in the middle: it may be cut off")
        (length,) = struct.unpack_from(">I", blob, position)
        position += 4
        if position + length > len(blob):
            raise InvalidPublicKeyError("the key ends in the middle: it may be cut off")
        fields.append(blob[position : position + length])
        position += length
    if not fields:
        raise InvalidPublicKeyError("the key is empty")
    return fields
