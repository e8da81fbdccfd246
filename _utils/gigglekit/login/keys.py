"""Public keys as they stand in authorized_keys.

Source: sshd(8), section AUTHORIZED_KEYS FILE FORMAT; RFC 4253, section 6.6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import LoginError

ACCEPTED = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa")
MINIMUM_RSA_BITS = 3072
_PREFIXES = ("ssh-", "sk-ssh-", "ecdsa-", "sk-ecdsa-")


@dataclass(frozen=True)
class PublicKey:
    """One public key.

    Arguments:
        kind: its algorithm, e.g. `ssh-ed25519`.
        bits: its size; 256 for the curves.
        fingerprint: `SHA256:…`, as ssh-keygen prints it.
        comment: the words after the key.
    """

    kind: str
    bits: int
    fingerprint: str
    comment: str


def read(line: str) -> PublicKey:
    """Read one line of authorized_keys (options before the key are skipped) or of a .pub file.

    Raises:
        ValueError: it is no public key; says what is wrong with it.
    """
    fields = line.split()
    start = next((n for n, field in enumerate(fields) if field.startswith(_PREFIXES)), None)
    if "PRIVATE KEY" in line:
        raise ValueError("it is a private key; give the content of the .pub file")
    if start is None or len(fields) < start + 2:
        raise ValueError("it is not of the form 'ssh-ed25519 AAAA… comment'")
    kind = fields[start]
    try:
        blob = base64.b64decode(fields[start + 1], validate=True)
        parts = _parts(blob)
    except (binascii.Error, struct.error, ValueError) as error:
        raise ValueError("its base64 part is damaged; copy the .pub file again, in one line") from error
    if not parts or parts[0] != kind.encode():
        raise ValueError(f"it says {kind} but holds another kind of key")
    bits = 256
    if kind == "ssh-rsa":
        if len(parts) < 3:
            raise ValueError("its base64 part is cut short; copy the .pub file again, in one line")
        bits = int.from_bytes(parts[2], "big").bit_length()
    elif kind in ACCEPTED and (len(parts) < 2 or len(parts[1]) != 32):
        raise ValueError("its base64 part is cut short; copy the .pub file again, in one line")
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(kind, bits, fingerprint, " ".join(fields[start + 2 :]))


def _parts(blob: bytes) -> list[bytes]:
    parts = []
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        if len(blob) < 4 + length:
            raise ValueError("cut short")
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return parts


def require_usable(lines: Iterable[str], who: str) -> list[PublicKey]:
    """Return the keys that sshd, as it is configured here, will accept.

    Arguments:
        lines: the keys of the account `who`.
        who: the account's name.

    Raises:
        LoginError: there is none, or one of them could never be used.
    """
    keys = []
    for number, line in enumerate(lines, 1):
        try:
            key = read(line)
            if key.kind not in ACCEPTED:
                raise ValueError(f"its kind, {key.kind}, is not accepted here")
            if key.kind == "ssh-rsa" and key.bits < MINIMUM_RSA_BITS:
                raise ValueError(f"its {key.bits} bits are too few for RSA; {MINIMUM_RSA_BITS} are needed")
        except ValueError as error:
            raise LoginError(
                f"SSH key number {number} of the administrator {who} cannot be used: {error}. Nothing was changed. "
                "Correct giggles:admin:ssh_keys; 'ssh-keygen -t ed25519' makes a key that is accepted."
            ) from error
        keys.append(key)
    if not keys:
        raise LoginError(
            f"The administrator {who} has no SSH key, and passwords are not accepted, so hardening this machine would "
            "lock everybody out. Nothing was changed. Put the content of your .pub file into giggles:admin:ssh_keys; "
            "'ssh-keygen -t ed25519' makes one."
        )
    return keys
