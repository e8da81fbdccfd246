"""Keys sealed to a public key, so that only the holder of the private key can read them.

The scheme is HPKE in base mode, single-shot, with no additional data: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. What
is sealed is 32 bytes of encapsulated key, then the ciphertext, then 16 bytes of tag. Anybody can seal to a public key: what opens is
secret and whole, but says nothing about who sealed it.

Sources: HPKE, RFC 9180, sections 5.1.1 and 6.1; X25519, RFC 7748.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from gigglekit.crypto.keys import WrongKeyError

OVERHEAD_BYTES = 48

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def new_pair() -> tuple[bytes, bytes]:
    """Return a new private key and its public key, of 32 bytes each."""
    key = X25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def public_of(private: bytes) -> bytes:
    """Return the public key of a private key of 32 bytes.

    Raises:
        ValueError: it has another length.
    """
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal(public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Return `plaintext` sealed to a public key, `OVERHEAD_BYTES` longer.

    Arguments:
        public: 32 bytes.
        info: what is sealed, and for what; to unseal it the same has to be given.
        plaintext: what nobody else shall read.

    Raises:
        ValueError: the public key is none.
    """
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)


def unseal(private: bytes, info: bytes, sealed: bytes) -> bytes:
    """Undo `seal`.

    Raises:
        WrongKeyError: it was not sealed to this key or for this purpose, or is damaged.
        ValueError: the private key has another length.
    """
    key = X25519PrivateKey.from_private_bytes(private)
    try:
        return _SUITE.decrypt(sealed, key, info)
    except InvalidTag as error:
        raise WrongKeyError from error
