"""Messages signed, so that anybody with the public key sees who wrote them and that nothing was changed.

Keys are their 32 bytes; for files there is PEM.

Sources: Ed25519, RFC 8032; its keys in PEM, RFC 8410.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64


class NoKeyError(Exception):
    """This is no private Ed25519 key."""


class WrongSignatureError(Exception):
    """The message was not signed by this key, or it or its signature was changed."""


def new() -> bytes:
    """Return a new private key of 32 bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """Return the public key, of 32 bytes, of a private key.

    Raises:
        ValueError: the private key has another length than 32 bytes.
    """
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """Return the signature of a message, of `SIGNATURE_BYTES` bytes; the same each time.

    Raises:
        ValueError: the private key has another length than 32 bytes.
    """
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Return if the message was signed by the private key of `public`.

    Raises:
        WrongSignatureError: it was not.
        ValueError: the public key has another length than 32 bytes.
    """
    key = Ed25519PublicKey.from_public_bytes(public)
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise WrongSignatureError from None


def private_pem(private: bytes) -> bytes:
    """Return a private key as PKCS#8 in PEM, not encrypted."""
    key = Ed25519PrivateKey.from_private_bytes(private)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_pem(public: bytes) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in PEM."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def from_private_pem(pem: bytes) -> bytes:
    """Return the 32 bytes of a private key.

    Raises:
        NoKeyError: this is none, or one for something else.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError):
        raise NoKeyError from None
    if not isinstance(key, Ed25519PrivateKey):
        raise NoKeyError
    return key.private_bytes_raw()
