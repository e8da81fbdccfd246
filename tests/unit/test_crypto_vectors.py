"""The primitives give what the standards and Wycheproof say, through the functions that the rest of gigglekit calls.

vectors/README.md says where the figures come from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import AlreadyFinalized, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from gigglekit.crypto import chunked, keys, sealing, signing

from tests.unit.vectors import by_the_book

Case = dict[str, Any]
VECTORS = Path(__file__).parent / "vectors"


def cases(name: str, **wanted: str) -> list[Any]:
    """Return the cases of a file as parameters; none at all is an error."""
    found = [case for case in json.loads((VECTORS / f"{name}.json").read_text()) if wanted.items() <= case.items()]
    assert found
    return [pytest.param(case, id=str(case.get("tcId") or case.get("name") or number)) for number, case in enumerate(found)]


def h(text: str) -> bytes:
    return bytes.fromhex(text)


# Chunked encryption


def encrypted(case: Case) -> tuple[bytes, bytes, bytes]:
    return h(case["key"]), h(case["ctx"]), zlib.decompress(h(case["ct"]))


def reader_of(key: bytes, context: bytes, message: bytes) -> chunked.Reader:
    return chunked.Reader(key, context, message[: chunked.HEADER_BYTES], len(message))


def read(reader: chunked.Reader, message: bytes, offset: int, length: int) -> bytes:
    """Decrypt a part by Reader, giving it no more than it asks for."""
    start, end = reader.span(offset, length)
    return reader.open(message[start:end], start, offset, length)


def read_all(key: bytes, context: bytes, message: bytes) -> bytes:
    reader = reader_of(key, context, message)
    return read(reader, message, 0, reader.plain_size)


def read_end(key: bytes, context: bytes, message: bytes) -> bytes:
    """Only see to it that the message ends where its size says."""
    reader = reader_of(key, context, message)
    return read(reader, message, reader.plain_size, 0)


def stream(decryptor: chunked.Decryptor, message: bytes, step: int, plain: bytearray) -> None:
    for at in range(0, len(message), step):
        plain += decryptor.update(message[at : at + step])
    plain += decryptor.finish()


@pytest.mark.parametrize("case", cases("cobblestone_256", result="valid"))
def test_cobblestone_256_is_decrypted(case: Case) -> None:
    key, context, message = encrypted(case)
    plain = chunked.decrypt(key, context, message)
    assert hashlib.sha512(plain).hexdigest() == case["msgSha512"]
    assert len(plain) == case["msgLength"] == chunked.plaintext_size(len(message))
    assert chunked.ciphertext_size(len(plain)) == len(message)
    reader = reader_of(key, context, message)
    assert reader.span(0, reader.plain_size) == (chunked.HEADER_BYTES, len(message))
    assert read_all(key, context, message) == plain
    assert read_end(key, context, message) == b""


@pytest.mark.parametrize("case", cases("cobblestone_256", result="valid"))
def test_any_part_of_cobblestone_256_is_what_the_whole_has_there(case: Case) -> None:
    key, context, message = encrypted(case)
    plain = chunked.decrypt(key, context, message)
    reader = reader_of(key, context, message)
    edges = {0, 1, 6, 100, 16382, 16383, 16384, 16385, 32766, 32767, 32768, 32769, len(plain)}
    places = sorted(edge for edge in edges if edge <= len(plain))
    for offset in places:
        for end in (place for place in places if place >= offset):
            assert read(reader, message, offset, end - offset) == plain[offset:end]


@pytest.mark.parametrize("case", cases("cobblestone_256", result="invalid"))
def test_what_cobblestone_256_forbids_is_refused(case: Case) -> None:
    key, context, message = encrypted(case)
    refusal = ValueError if "InvalidKeySize" in case["flags"] else chunked.DamagedError
    with pytest.raises(refusal):
        chunked.decrypt(key, context, message)
    with pytest.raises(refusal):
        read_all(key, context, message)
    if "ValidFinalChunk" not in case["flags"]:
        with pytest.raises(refusal):
            read_end(key, context, message)


@pytest.mark.parametrize("case", [case for case in cases("cobblestone_256", result="invalid") if "msgLength" in case.values[0]])
@pytest.mark.parametrize("step", [1000, 16400, 10**6])
def test_of_a_damaged_message_only_what_lies_before_the_damage_is_handed_out(case: Case, step: int) -> None:
    key, context, message = encrypted(case)
    decryptor, plain = chunked.Decryptor(key, context), bytearray()
    with pytest.raises(chunked.DamagedError):
        stream(decryptor, message, step, plain)
    assert len(plain) <= case["msgLength"]
    assert step == 10**6 or len(plain) == case["msgLength"]
    # After that nothing is handed out, and no end is reached.
    with pytest.raises(AlreadyFinalized):
        decryptor.update(b"")
    with pytest.raises(AlreadyFinalized):
        decryptor.finish()


@pytest.mark.parametrize("case", cases("chunked_sha256"))
def test_the_few_lines_written_from_the_scheme_agree_with_its_vectors(case: Case) -> None:
    # These are for SHA-256, which gigglekit has no use for. The same lines with SHA-512 are compared with it elsewhere.
    key, context = h(case["key"]), case["context"].encode()
    message = base64.b64decode(case["ciphertext"] or "")
    message = zlib.decompress(message) if case.get("compressed") else message
    if case["expect"] == "success":
        plain = by_the_book.chunked_decrypt(key, context, message, "sha256")
        assert (len(plain), hashlib.sha256(plain).hexdigest()) == (case["payload_length"], case["payload_sha256"])
        assert by_the_book.chunked_encrypt(key, context, message[:24], plain, "sha256") == message
    else:
        with pytest.raises((ValueError, InvalidTag)):
            by_the_book.chunked_decrypt(key, context, message, "sha256")


@pytest.mark.parametrize("case", cases("aes_gcm"))
def test_aes_256_gcm_as_reader_calls_it(case: Case) -> None:
    plain, sealed = h(case["msg"]), h(case["ct"]) + h(case["tag"])
    buffer = bytearray(len(plain))
    if case["result"] == "valid":
        assert AESGCM(h(case["key"])).decrypt_into(h(case["iv"]), memoryview(sealed), h(case["aad"]), memoryview(buffer)) == len(plain)
        assert buffer == plain
    else:
        with pytest.raises(InvalidTag):
            AESGCM(h(case["key"])).decrypt_into(h(case["iv"]), memoryview(sealed), h(case["aad"]), memoryview(buffer))


@pytest.mark.parametrize("case", cases("gmac_256"))
def test_gmac_as_digests_call_it(case: Case) -> None:
    gmac = Cipher(algorithms.AES256(h(case["key"])), modes.GCM(h(case["iv"]))).encryptor()
    content = memoryview(h(case["aad"]))
    gmac.authenticate_additional_data(content[:7])
    gmac.authenticate_additional_data(content[7:])
    assert gmac.finalize() == b""
    assert gmac.tag == h(case["tag"]) == by_the_book.gmac(h(case["key"]), h(case["iv"]), h(case["aad"]))


# Keys


@pytest.mark.parametrize("case", cases("aes_kwp"))
def test_wrapping_is_aes_kwp(case: Case) -> None:
    by, key, wrapped = h(case["key"]), h(case["msg"]), h(case["ct"])
    if case["result"] == "valid":
        assert keys.unwrap(wrapped, by) == key
        assert keys.wrap(key, by) == wrapped
    else:
        with pytest.raises(keys.WrongKeyError):
            keys.unwrap(wrapped, by)


def test_aes_kwp_of_rfc_5649_is_unwrapped_by_the_library_too() -> None:
    # Control: what the wrapping tests compare with is the standard's own function.
    by = h("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    assert aes_key_unwrap_with_padding(by, h("afbeb0f07dfbf5419200f2ccb50bb24f")) == h("466f7250617369")


@pytest.mark.parametrize("case", cases("hkdf_sha512"))
def test_derivation_is_hkdf_sha512(case: Case) -> None:
    root, info, size = h(case["ikm"]), h(case["info"]), case["size"]
    try:
        label = info.decode()
    except UnicodeDecodeError:
        # Labels are text. What stands in for `derive` is compared with it in the next test.
        assert by_the_book.hkdf(root, info, size) == h(case["okm"])
        return
    if case["result"] == "valid":
        assert keys.derive(root, label, size) == h(case["okm"])
    else:
        with pytest.raises(ValueError, match="derive"):
            keys.derive(root, label, size)


@pytest.mark.parametrize("length", [1, 32, 64, 65, 1000])
def test_derivation_is_the_few_lines_of_rfc_5869(length: int) -> None:
    for root in (bytes(32), bytes(range(32))):
        for label in ("", "giggles-salt/v1/backup", "ü" * 50):
            assert keys.derive(root, label, length) == by_the_book.hkdf(root, label.encode(), length)


@pytest.mark.parametrize("case", [case for case in cases("hmac_sha256") if h(case.values[0]["msg"]).isascii()])
def test_a_keyed_hash_is_hmac_sha256(case: Case) -> None:
    assert keys.keyed_hash(h(case["key"]), h(case["msg"]).decode()) == case["mac"][:32]


# Sealing


@pytest.mark.parametrize("case", cases("hpke"))
def test_what_was_sealed_by_the_vectors_of_rfc_9180_is_unsealed(case: Case) -> None:
    key, nonce, text = h(case["key"]), h(case["base_nonce"]), h(case["pt"])
    # Control: key and nonce are those of the published ciphertext, which has additional data. Sealed keys have none.
    assert AESGCM(key).encrypt(nonce, text, h(case["aad"])) == h(case["ct"])
    sealed = h(case["enc"]) + AESGCM(key).encrypt(nonce, text, b"")
    assert sealing.unseal(h(case["skRm"]), h(case["info"]), sealed) == text
    assert sealing.public_of(h(case["skRm"])) == h(case["pkRm"])
    assert sealing.public_of(h(case["skEm"])) == h(case["enc"])
    for info, other in ((b"", sealed), (h(case["info"]), h(case["enc"]) + h(case["ct"])), (h(case["info"]), sealed[:-1])):
        with pytest.raises(keys.WrongKeyError):
            sealing.unseal(h(case["skRm"]), info, other)


@pytest.mark.parametrize("case", cases("x25519"))
def test_sealing_agrees_with_x25519_of_wycheproof(case: Case) -> None:
    private, encapsulated, shared = h(case["private"]), h(case["public"]), h(case["shared"])
    public = sealing.public_of(private)
    _, key, nonce = by_the_book.hpke_keys(shared, encapsulated, public, b"info")
    sealed = encapsulated + AESGCM(key).encrypt(nonce, b"secret", b"")
    if any(shared):
        assert sealing.unseal(private, b"info", sealed) == b"secret"
        sealing.seal(encapsulated, b"info", b"secret")
    else:
        # Anybody could have sealed this, or would read what is sealed to it.
        with pytest.raises(keys.WrongKeyError):
            sealing.unseal(private, b"info", sealed)
        with pytest.raises(ValueError, match="shared key"):
            sealing.seal(encapsulated, b"info", b"secret")


@pytest.mark.parametrize("case", cases("hpke"))
def test_the_few_lines_written_from_rfc_9180_agree_with_its_vectors(case: Case) -> None:
    shared = X25519PrivateKey.from_private_bytes(h(case["skEm"])).exchange(X25519PublicKey.from_public_bytes(h(case["pkRm"])))
    expected = h(case["shared_secret"]), h(case["key"]), h(case["base_nonce"])
    assert by_the_book.hpke_keys(shared, h(case["enc"]), h(case["pkRm"]), h(case["info"])) == expected


def test_sealing_and_the_few_lines_of_rfc_9180_open_each_other() -> None:
    private, public = sealing.new_pair()
    ephemeral, _ = sealing.new_pair()
    for text in (b"", bytes(32), bytes(1000)):
        assert by_the_book.hpke_open(private, b"purpose", sealing.seal(public, b"purpose", text)) == text
        assert sealing.unseal(private, b"purpose", by_the_book.hpke_seal(ephemeral, public, b"purpose", text)) == text


def test_what_is_sealed_is_unsealed_by_its_key_for_its_purpose_only() -> None:
    private, public = sealing.new_pair()
    other, _ = sealing.new_pair()
    assert sealing.public_of(private) == public
    for text in (b"", b"x", bytes(32), bytes(100_000)):
        sealed = sealing.seal(public, b"purpose", text)
        assert len(sealed) == len(text) + sealing.OVERHEAD_BYTES
        assert sealing.unseal(private, b"purpose", sealed) == text
        assert sealing.seal(public, b"purpose", text) != sealed
        for key, info in ((other, b"purpose"), (private, b"purposes"), (private, b"")):
            with pytest.raises(keys.WrongKeyError):
                sealing.unseal(key, info, sealed)


def test_one_changed_bit_of_what_was_sealed_is_noticed_and_so_is_what_was_cut_off() -> None:
    private, public = sealing.new_pair()
    sealed = sealing.seal(public, b"purpose", bytes(32))
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        if bit == 255:
            # RFC 7748 has this bit of a public key ignored; RFC 9180 has it in what the key is derived from.
            assert damaged[31] != sealed[31]
        with pytest.raises(keys.WrongKeyError):
            sealing.unseal(private, b"purpose", bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(keys.WrongKeyError):
            sealing.unseal(private, b"purpose", sealed[:length])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_no_keys(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sealing.seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        sealing.unseal(bytes(length), b"", bytes(80))
    with pytest.raises(ValueError, match="32 bytes"):
        sealing.public_of(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        signing.sign(bytes(length), b"")


# Signing


@pytest.mark.parametrize("case", cases("ed25519_signing"))
def test_signing_is_ed25519(case: Case) -> None:
    private, public, text, signature = h(case["private"]), h(case["public"]), h(case["msg"]), h(case["sig"])
    assert signing.public_of(private) == public
    assert signing.sign(private, text) == signature
    assert len(signature) == signing.SIGNATURE_BYTES
    signing.verify(public, signature, text)
    with pytest.raises(signing.WrongSignatureError):
        signing.verify(public, signature, text + b"\x00")


@pytest.mark.parametrize("case", [*cases("ed25519_checking", result="valid"), *cases("ed25519_checking", result="invalid")])
def test_checking_is_ed25519(case: Case) -> None:
    public, signature, text = h(case["public"]), h(case["sig"]), h(case["msg"])
    if case["result"] == "valid":
        signing.verify(public, signature, text)
    else:
        with pytest.raises(signing.WrongSignatureError):
            signing.verify(public, signature, text)


def test_keys_for_signing_come_back_from_their_files() -> None:
    private = signing.new()
    pem = signing.private_pem(private)
    assert signing.from_private_pem(pem) == private
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert signing.public_pem(signing.public_of(private)).startswith(b"-----BEGIN PUBLIC KEY-----")
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    for_sealing = X25519PrivateKey.generate().private_bytes(*pkcs8, serialization.NoEncryption())
    locked = Ed25519PrivateKey.generate().private_bytes(*pkcs8, serialization.BestAvailableEncryption(b"a passphrase"))
    for wrong in (b"", b"text", pem[:60], signing.public_pem(signing.public_of(private)), for_sealing, locked):
        with pytest.raises(signing.NoKeyError):
            signing.from_private_pem(wrong)
