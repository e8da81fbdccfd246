"""Keys made, derived and wrapped.

Sources: HKDF, RFC 5869; AES key wrap with padding, RFC 5649; HMAC, RFC 2104; SHA-2, FIPS 180-4.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import hashes, hmac, keywrap
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


class WrongKeyError(Exception):
    """What was wrapped is damaged, or was wrapped by another key."""


def new() -> bytes:
    """Return a random key of `KEY_BYTES` bytes from the operating system."""
    return os.urandom(KEY_BYTES)


def derive(root: bytes, label: str, length: int = KEY_BYTES) -> bytes:
    """Return a key for one purpose, from which neither the root key nor one for another purpose can be worked out.

    Arguments:
        root: uniformly random, `KEY_BYTES` bytes or more.
        label: the purpose; the info of HKDF-SHA512, which gets no salt.
        length: of the result in bytes.
    """
    return HKDF(algorithm=hashes.SHA512(), length=length, salt=None, info=label.encode()).derive(root)


def combine(first: bytes, second: bytes, label: str) -> bytes:
    """Return a key for one purpose, of which neither of two shares by itself tells anything.

    Arguments:
        first, second: uniformly random, `KEY_BYTES` bytes each; HKDF-SHA512 gets one after the other.
        label: as for `derive`.

    Raises:
        ValueError: a share has another length, and where one ends would not be fixed.
    """
    if len(first) != KEY_BYTES or len(second) != KEY_BYTES:
        raise ValueError(f"a share has {KEY_BYTES} bytes")
    return derive(first + second, label)


def wrap(key: bytes, by: bytes) -> bytes:
    """Return `key` encrypted and authenticated under the key `by` (32 bytes), 8 bytes longer."""
    return keywrap.aes_key_wrap_with_padding(by, key)


def unwrap(wrapped: bytes, by: bytes) -> bytes:
    """Undo `wrap`.

    Raises:
        WrongKeyError: it was not wrapped by this key, or is damaged.
    """
    try:
        return keywrap.aes_key_unwrap_with_padding(by, wrapped)
    except (keywrap.InvalidUnwrap, ValueError) as error:
        raise WrongKeyError from error


class KeyedHash:
    """Hashes texts under one key: HMAC-SHA-256, cut to 128 bits. Several threads may use one object.

    Arguments:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # Begun once: that is most of what it takes for a short text.
        self._begun = hmac.HMAC(key, hashes.SHA256())

    def of(self, text: str) -> str:
        """Return what stands for `text`, as 32 hexadecimal digits."""
        code = self._begun.copy()
        code.update(text.encode())
        return code.finalize()[:16].hex()


def keyed_hash(key: bytes, text: str) -> str:
    """Return what stands for one text under a key; see `KeyedHash`."""
    return KeyedHash(key).of(text)
