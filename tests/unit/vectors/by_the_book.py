"""The constructions of docs/FORMAT.md once more, written from the standards and not from gigglekit.

Only hashlib, hmac and the bare primitives AES, AES-GCM and X25519 of `cryptography` are used. Tests compare gigglekit with this, and this
with published vectors. It is meant to be read: somebody who has to open a backup without this project can start here.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK, TAG, SALT, COMMITMENT = 16384, 16, 24, 32


def hkdf_expand(prk: bytes, info: bytes, length: int, name: str) -> bytes:
    """RFC 5869, section 2.3."""
    okm = block = b""
    while len(okm) < length:
        block = hmac.digest(prk, block + info + bytes([len(okm) // len(block) + 1 if block else 1]), name)
        okm += block
    return okm[:length]


def hkdf(ikm: bytes, info: bytes, length: int, name: str = "sha512") -> bytes:
    """RFC 5869 without salt: a salt of zeros, as HMAC fills up an empty one."""
    return hkdf_expand(hmac.digest(b"", ikm, name), info, length, name)


def chunked_keys(key: bytes, context: bytes, salt: bytes, name: str = "sha512") -> tuple[bytes, int, bytes]:
    """c2sp.org/chunked-encryption, "Key derivation": the key, the base nonce and the commitment of a message."""
    info = b"c2sp.org/chunked-encryption@v1+" + b"AEAD_AES_256_GCM" + b"\x00" + salt + context
    okm = hkdf_expand(key, info, 32 + 12 + COMMITMENT, name)
    return okm[:32], int.from_bytes(okm[32:44], "big"), okm[44:]


def chunked_encrypt(key: bytes, context: bytes, salt: bytes, message: bytes, name: str = "sha512") -> bytes:
    """c2sp.org/chunked-encryption; with SHA-512 it is Cobblestone-256."""
    aead_key, base_nonce, commitment = chunked_keys(key, context, salt, name)
    encrypted = salt + commitment
    for number in range(len(message) // CHUNK + 1):
        chunk = message[number * CHUNK : (number + 1) * CHUNK]
        encrypted += AESGCM(aead_key).encrypt((base_nonce ^ number).to_bytes(12, "big"), chunk, b"")
    return encrypted


def chunked_decrypt(key: bytes, context: bytes, encrypted: bytes, name: str = "sha512") -> bytes:
    """The way back.

    Raises:
        ValueError, cryptography.exceptions.InvalidTag: it is not what was encrypted.
    """
    salt, commitment, chunks = encrypted[:SALT], encrypted[SALT : SALT + COMMITMENT], encrypted[SALT + COMMITMENT :]
    aead_key, base_nonce, expected = chunked_keys(key, context, salt, name)
    if len(key) != 32 or commitment != expected:
        raise ValueError("another key, another context, or no whole header")
    message, number = b"", 0
    while True:
        chunk, chunks = chunks[: CHUNK + TAG], chunks[CHUNK + TAG :]
        message += AESGCM(aead_key).decrypt((base_nonce ^ number).to_bytes(12, "big"), chunk, b"")
        number += 1
        if len(chunk) < CHUNK + TAG:
            break
    if chunks:
        raise ValueError("more follows the last chunk")
    return message


def gmac(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """NIST SP 800-38D, section 7.1, with nothing to encrypt and a nonce of 96 bits."""

    def block(text: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(text)  # noqa: S305 (one block)

    def multiply(x: int, y: int) -> int:
        """Section 6.3: the leftmost bit is the coefficient of 1."""
        product = 0
        for bit in reversed(range(128)):
            product ^= y if x >> bit & 1 else 0
            y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
        return product

    hash_key, total = int.from_bytes(block(bytes(16)), "big"), 0
    padded = data + bytes(-len(data) % 16) + (8 * len(data)).to_bytes(8, "big") + bytes(8)
    for start in range(0, len(padded), 16):
        total = multiply(total ^ int.from_bytes(padded[start : start + 16], "big"), hash_key)
    mask = block(nonce + b"\x00\x00\x00\x01")
    return bytes(a ^ b for a, b in zip(total.to_bytes(16, "big"), mask, strict=True))


def hpke_keys(shared: bytes, encapsulated: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes, bytes]:
    """RFC 9180, sections 4.1 and 5.1: from what X25519 gave to the shared secret, the key and the nonce of the first message.

    DHKEM(X25519, HKDF-SHA256) is 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002; the base mode is 0x00.
    """

    def extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(prk: bytes, suite: bytes, label: bytes, text: bytes, length: int) -> bytes:
        return hkdf_expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + text, length, "sha256")

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    secret = expand(extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret", encapsulated + public, 32)
    context = b"\x00" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", info)
    prk = extract(secret, suite, b"secret", b"")
    return secret, expand(prk, suite, b"key", context, 32), expand(prk, suite, b"base_nonce", context, 12)


def hpke_seal(ephemeral: bytes, public: bytes, info: bytes, message: bytes) -> bytes:
    """RFC 9180, section 6.1, with an ephemeral private key that is given; whoever seals in earnest makes a new one each time."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    encapsulated = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    _, key, nonce = hpke_keys(shared, encapsulated, public, info)
    return encapsulated + AESGCM(key).encrypt(nonce, message, b"")


def hpke_open(private: bytes, info: bytes, sealed: bytes) -> bytes:
    """The way back.

    Raises:
        ValueError, cryptography.exceptions.InvalidTag: it was not sealed to this key for this purpose.
    """
    key = X25519PrivateKey.from_private_bytes(private)
    encapsulated = sealed[:32]
    shared = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    _, aead_key, nonce = hpke_keys(shared, encapsulated, key.public_key().public_bytes_raw(), info)
    return AESGCM(aead_key).decrypt(nonce, sealed[32:], b"")
