"""Digests of contents: what a content is known again by, and what a restored file is compared with. Source: docs/FORMAT.md, "Digests".

Nobody without the user's key can work one out or find two contents that have the same, so a hash does that needs a key: GMAC is twenty
times as fast as SHA-256, and reading every clip for it is most of what a backup does. GMAC as a signature would need a nonce for each
content. Here it is only the universal hash in it that counts: its tags are seen by nobody, since they go through HMAC first.

Sources: GMAC, NIST SP 800-38D; a pseudorandom function over a universal hash: Boneh and Shoup, A Graduate Course in Applied Cryptography,
section 7.3.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.utils import Buffer

from gigglekit.backup import names
from gigglekit.crypto import keys

PREFIX = "gmac:"
"""What a digest begins with; one of programs until November 2026 is over SHA-256, and begins with nothing."""
_NONCE = bytes(12)


class Digester(Protocol):
    """Works out the digest of one content, piece by piece."""

    def update(self, data: Buffer) -> None:
        """Take in the next bytes."""

    def finish(self) -> str:
        """Return the digest; nothing can be taken in after that."""


class Digests:
    """Works out digests under a user's key. Several threads may use one object.

    Arguments:
        manifest_key: the user's, 32 bytes.
    """

    def __init__(self, manifest_key: bytes) -> None:
        self._hash = keys.KeyedHash(manifest_key)
        content_key = keys.derive(manifest_key, names.CONTENT_LABEL)
        self._cipher, self._gmac = Cipher(algorithms.AES256(content_key), modes.GCM(_NONCE)), AESGCM(content_key)

    def begin(self, like: str = "") -> Digester:
        """Return what works out a digest.

        Arguments:
            like: a digest that this one is to be compared with; "" for a content that is new.
        """
        return _Earlier(self._hash) if is_earlier(like) else _Gmac(self._hash, self._cipher)

    def of(self, content: Buffer, like: str = "") -> str:
        """Return the digest of a content that is in memory as a whole; see `begin`."""
        if not is_earlier(like):
            return _digest(self._hash, self._gmac.encrypt(_NONCE, b"", content))
        digester = self.begin(like)
        digester.update(content)
        return digester.finish()


def _digest(under: keys.KeyedHash, tag: bytes) -> str:
    return PREFIX + under.of(f"content\0{tag.hex()}")


def is_earlier(digest: str) -> bool:
    """Tell whether a digest is of the kind that programs made until November 2026."""
    return bool(digest) and not digest.startswith(PREFIX)


class _Gmac:
    def __init__(self, under: keys.KeyedHash, cipher: Cipher[modes.GCM]) -> None:
        self._hash, self._gmac = under, cipher.encryptor()

    def update(self, data: Buffer) -> None:
        self._gmac.authenticate_additional_data(data)

    def finish(self) -> str:
        self._gmac.finalize()
        return _digest(self._hash, self._gmac.tag)


class _Earlier:
    def __init__(self, under: keys.KeyedHash) -> None:
        self._hash, self._sha256 = under, hashlib.sha256()

    def update(self, data: Buffer) -> None:
        self._sha256.update(data)

    def finish(self) -> str:
        return self._hash.of(self._sha256.hexdigest())
