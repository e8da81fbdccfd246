"""Public ssh keys made up for tests: well-formed, and nobody holds the private half."""

from __future__ import annotations

import base64
import struct


def wire(*fields: bytes) -> str:
    """Return fields in the wire format of ssh (RFC 4251 section 5), in base64 as in a public key file."""
    return base64.b64encode(b"".join(struct.pack(">I", len(field)) + field for field in fields)).decode()


def ed25519_key(fill: int = 7) -> str:
    """Return a well-formed Ed25519 public key that nobody holds the private half of."""
    return f"ssh-ed25519 {wire(b'ssh-ed25519', bytes([fill]) * 32)} you@laptop"
