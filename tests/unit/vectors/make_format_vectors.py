"""Prints the test vectors of docs/FORMAT.md, worked out by `by_the_book.py` and not by gigglekit.

    .venv/bin/python -m tests.unit.vectors.make_format_vectors > docs/vectors/format-1.json

Every run prints the same. Bytes are in hexadecimal. Keys, salts and the like are what nobody would use: bytes that count up.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.unit.vectors import by_the_book

ID, VAULT = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
# In full up to here; of longer ones the SHA-256 is given.
SHOWN_BYTES = 200


def counting(start: int, length: int = 32) -> bytes:
    """Return bytes that count up from `start`."""
    return bytes((start + n) % 256 for n in range(length))


def derived() -> list[dict[str, Any]]:
    """ "Keys": HKDF-SHA512 without salt."""
    wanted = (("fscrypt", 32, 64), ("backup", 32, 32), ("manifest", 32, 32), ("content", 32, 32), ("key-encryption", 64, 32))
    return [
        {
            "root": counting(0, root).hex(),
            "label": f"giggles-salt/v1/{name}",
            "key": by_the_book.hkdf(counting(0, root), f"giggles-salt/v1/{name}".encode(), length).hex(),
        }
        for name, root, length in wanted
    ]


def hashed() -> list[dict[str, Any]]:
    """ "Objects": the vault id of a user."""
    user = "6f1c1b1e-0000-4000-8000-000000000001"
    return [{"key": counting(1).hex(), "text": user, "hash": hmac.digest(counting(1), user.encode(), "sha256")[:16].hex()}]


def digests() -> list[dict[str, Any]]:
    """ "Digests": of contents of `length` bytes that count up from 0, of both kinds."""
    key, result = counting(8), []
    for length in (0, 5, 16, 1000):
        content = counting(0, length)
        tag = by_the_book.gmac(by_the_book.hkdf(key, b"giggles-salt/v1/content", 32), bytes(12), content)
        digest = "gmac:" + hmac.digest(key, b"content\0" + tag.hex().encode(), "sha256")[:16].hex()
        earlier = hmac.digest(key, hashlib.sha256(content).hexdigest().encode(), "sha256")[:16].hex()
        result.append({"key": key.hex(), "length": length, "digest": digest, "earlier": earlier})
    return result


def encrypted() -> list[dict[str, Any]]:
    """ "Encrypted content": messages of `length` bytes that count up from 0, with a given salt."""
    result = []
    subjects = {"pack": ID, "section": f"{ID}.0\0{VAULT}", "snapshot": f"20261124T054500Z-{ID}.0", "database": ID}
    subjects["pruning"] = f"20261124T054500Z-{ID}"
    for name, subject in subjects.items():
        context = f"giggles-salt/v1/{name}\0{subject}".encode()
        for length in (0, 5, 16383, 16384, 16385, 40000):
            message = by_the_book.chunked_encrypt(counting(2), context, counting(3, 24), counting(0, length))
            entry = {"key": counting(2).hex(), "context": context.hex(), "salt": counting(3, 24).hex(), "length": length}
            entry |= {"encrypted_bytes": len(message), "sha256": hashlib.sha256(message).hexdigest()}
            result.append(entry if len(message) > SHOWN_BYTES else {**entry, "encrypted": message.hex()})
    return result


def sealed() -> list[dict[str, Any]]:
    """ "Sealed keys": HPKE with a given ephemeral key, and the whole signed object."""
    kit, ephemeral, signer = counting(4), counting(5), Ed25519PrivateKey.from_private_bytes(counting(6))
    public = X25519PrivateKey.from_private_bytes(kit).public_key().public_bytes_raw()
    result = []
    for name in (f"keys/users/{VAULT}", "keys/system/names", f"keys/database/{ID}"):
        box = by_the_book.hpke_seal(ephemeral, public, b"giggles-salt/v1/key\0" + name.encode(), counting(7))
        signature = signer.sign(name.encode() + b"\0" + box)
        result.append({
            "name": name, "key": counting(7).hex(), "kit_private": kit.hex(), "kit_public": public.hex(),
            "ephemeral_private": ephemeral.hex(),
            "signer_private": counting(6).hex(), "signer_public": signer.public_key().public_bytes_raw().hex(),
            "sealed": box.hex(), "object": (b"GIGGKEY\x01" + signature + box).hex(),
        })  # fmt: skip
    return result


def make() -> dict[str, Any]:
    """Return all of them."""
    return {"format": 1, "derived": derived(), "hashed": hashed(), "digests": digests(), "encrypted": encrypted(), "sealed": sealed()}


if __name__ == "__main__":
    print(json.dumps(make(), indent=1))
