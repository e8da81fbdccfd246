"""Messages of any size encrypted in chunks, so that any part of one can be decrypted without the rest.

The scheme is C2SP chunked-encryption in its Cobblestone-256 form: HKDF-Expand-SHA-512 and AES-256-GCM. A message is a header
(24 random bytes of salt, 32 bytes of commitment to key, salt and context), then chunks of 16 KiB each followed by its tag. The
last chunk is always shorter than 16 KiB, and may be empty: that is how the end is known. The nonce holds the chunk's number, so
that no chunk can be moved, left out, doubled or added.

Sources: c2sp.org/chunked-encryption; HKDF, RFC 5869; AES-GCM, NIST SP 800-38D.
"""

from __future__ import annotations

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.utils import Buffer

HEADER_BYTES = 56
CHUNK_BYTES = 16384
TAG_BYTES = 16

_SALT_BYTES, _COMMITMENT_BYTES, _KEY_BYTES, _NONCE_BYTES = 24, 32, 32, 12
_SEALED_BYTES = CHUNK_BYTES + TAG_BYTES
_MOST_CHUNKS = 2**38
_LABEL = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"


class DamagedError(Exception):
    """What was encrypted is damaged, cut off, or was encrypted by another key or for another context."""


def ciphertext_size(plain: int) -> int:
    """Return how many bytes a message of `plain` bytes is once it is encrypted.

    Raises:
        ValueError: no message can have this size.
    """
    chunks = plain // CHUNK_BYTES + 1
    if plain < 0 or chunks > _MOST_CHUNKS:
        raise ValueError(f"a message cannot have {plain} bytes")
    return HEADER_BYTES + plain + chunks * TAG_BYTES


def plaintext_size(cipher: int) -> int:
    """Return how many bytes the message is that takes `cipher` bytes encrypted.

    Raises:
        DamagedError: nothing that is whole has this size.
    """
    whole, rest = divmod(cipher - HEADER_BYTES, _SEALED_BYTES)
    if cipher < HEADER_BYTES or rest < TAG_BYTES or whole >= _MOST_CHUNKS:
        raise DamagedError(f"a whole message cannot take {cipher} bytes")
    return whole * CHUNK_BYTES + rest - TAG_BYTES


class Encryptor:
    """Encrypts one message piece by piece: any number of updates, then `finish`.

    Arguments:
        key: 32 uniformly random bytes; any number of messages may be encrypted by one key.
        context: what the message is, at most a few hundred bytes; to decrypt it the same has to be given.
    """

    def __init__(self, key: bytes, context: bytes) -> None:
        self._encryptor = Cobblestone256Encryptor(key, context)

    def update(self, data: Buffer) -> bytes:
        """Return the next encrypted bytes; up to one chunk of the message is held back."""
        return self._encryptor.update(data)

    def update_into(self, data: Buffer, buffer: memoryview) -> int:
        """Write the next encrypted bytes into the start of `buffer`, which may be larger; return how many.

        Raises:
            ValueError: `buffer` is too small. Nothing is lost: the same call with a larger one goes on.
        """
        return self._encryptor.update_into(data, buffer)

    def finish(self) -> bytes:
        """Return the last encrypted bytes."""
        return self._encryptor.finalize()


class Decryptor:
    """Decrypts one message piece by piece, from its start: any number of updates, then `finish`.

    What `update` returns is what was encrypted, but only once `finish` returned is it known that it is all of it.

    Arguments:
        key: 32 bytes.
        context: as it was given to encrypt.
    """

    def __init__(self, key: bytes, context: bytes) -> None:
        self._decryptor = Cobblestone256Decryptor(key, context)

    def update(self, data: Buffer) -> bytes:
        """Return the next bytes of the message; less than two chunks are held back.

        Raises:
            DamagedError: this is not what was encrypted by this key for this context.
        """
        try:
            return self._decryptor.update(data)
        except InvalidTag:
            raise DamagedError("not what was encrypted by this key for this context") from None

    def finish(self) -> bytes:
        """Return the last bytes of the message.

        Raises:
            DamagedError: the end is missing, or damaged.
        """
        try:
            return self._decryptor.finalize()
        except InvalidTag:
            raise DamagedError("cut off, or damaged at its end") from None


class Reader:
    """Decrypts any part of a message, given the encrypted bytes that hold it.

    The size of a message that lies elsewhere may be a lie. A part that reaches up to the end is only decrypted if the message ends
    there, and no part is ever decrypted to anything but what was encrypted.

    Arguments:
        key: 32 bytes.
        context: as it was given to encrypt.
        header: the first `HEADER_BYTES` bytes of the encrypted message.
        size: of the whole encrypted message in bytes.

    Raises:
        DamagedError: it was encrypted by another key or for another context, or cannot have this size.
        ValueError: the key has another length.
    """

    def __init__(self, key: bytes, context: bytes, header: bytes, size: int) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError("a key has 32 bytes")
        self.plain_size = plaintext_size(size)
        self._size = size
        salt, commitment = header[:_SALT_BYTES], header[_SALT_BYTES:]
        derived = HKDFExpand(hashes.SHA512(), _KEY_BYTES + _NONCE_BYTES + _COMMITMENT_BYTES, _LABEL + salt + context).derive(key)
        # GCM alone does not: for a ciphertext made for it, two keys can open to two messages.
        if not constant_time.bytes_eq(derived[_KEY_BYTES + _NONCE_BYTES :], bytes(commitment)):
            raise DamagedError("encrypted by another key or for another context")
        self._nonce = int.from_bytes(derived[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES], "big")
        self._cipher = AESGCM(derived[:_KEY_BYTES])

    def span(self, offset: int, length: int) -> tuple[int, int]:
        """Return from which up to before which encrypted byte the whole chunks lie that hold a part of the message.

        A part that reaches up to the end has the last chunk in it even if that is empty, since it proves that the end is there.

        Arguments:
            offset: of the part's first byte in the message.
            length: of the part in bytes; 0 asks for the chunk that byte is in.

        Raises:
            DamagedError: the message has no such part.
        """
        first, last = self._chunks(offset, length)
        return HEADER_BYTES + first * _SEALED_BYTES, min(HEADER_BYTES + (last + 1) * _SEALED_BYTES, self._size)

    def open(self, data: bytes | memoryview, start: int, offset: int, length: int) -> bytes:
        """Return a part of the message.

        Arguments:
            data: encrypted bytes that hold the part's `span`; may hold more.
            start: at which byte of the encrypted message `data` begins, the first of a chunk.
            offset: of the part's first byte in the message.
            length: of the part in bytes.

        Raises:
            DamagedError: it is not what was encrypted, or the message has no such part, or `data` ends too early.
            ValueError: `start` is not where a chunk begins, or lies behind the part.
        """
        first, last = self._chunks(offset, length)
        if start < HEADER_BYTES or (start - HEADER_BYTES) % _SEALED_BYTES or start > HEADER_BYTES + first * _SEALED_BYTES:
            raise ValueError(f"the part's chunks cannot be found in what begins at byte {start}")
        sealed = memoryview(data)
        # First of all, so that a size that is a lie cannot ask for memory without end.
        if self.span(offset, length)[1] - start > len(sealed):
            raise DamagedError("there is less than the part's chunks")
        plain = bytearray((last - first + 1) * CHUNK_BYTES)
        room = memoryview(plain)
        for chunk in range(first, last + 1):
            begin = HEADER_BYTES + chunk * _SEALED_BYTES - start
            end = min(begin + _SEALED_BYTES, self._size - start)
            at = (chunk - first) * CHUNK_BYTES
            try:
                nonce = (self._nonce ^ chunk).to_bytes(_NONCE_BYTES, "big")
                self._cipher.decrypt_into(nonce, sealed[begin:end], None, room[at : at + end - begin - TAG_BYTES])
            except InvalidTag:
                raise DamagedError(f"chunk {chunk} is not what was encrypted") from None
        skip = offset - first * CHUNK_BYTES
        return bytes(room[skip : skip + length])

    def _chunks(self, offset: int, length: int) -> tuple[int, int]:
        end = offset + length
        if offset < 0 or length < 0 or end > self.plain_size:
            raise DamagedError(f"a message of {self.plain_size} bytes has no bytes {offset} to {end}")
        first = offset // CHUNK_BYTES
        if end == self.plain_size:
            return first, end // CHUNK_BYTES
        return first, max(first, (end - 1) // CHUNK_BYTES)


def encrypt(key: bytes, context: bytes, data: Buffer) -> bytes:
    """Return a whole message encrypted; see `Encryptor`."""
    encryptor = Encryptor(key, context)
    return encryptor.update(data) + encryptor.finish()


def encrypt_into(key: bytes, context: bytes, data: Buffer, buffer: memoryview) -> int:
    """Write a whole message encrypted into the start of `buffer`, without a copy of it in between; return how many bytes.

    Arguments:
        key: see `Encryptor`.
        context: see `Encryptor`.
        data: the message.
        buffer: at least `ciphertext_size` of its size in bytes; may be larger.

    Raises:
        ValueError: `buffer` is too small.
    """
    size = ciphertext_size(memoryview(data).nbytes)
    if size > len(buffer):
        raise ValueError(f"{size} bytes do not fit into {len(buffer)}")
    encryptor = Encryptor(key, context)
    written = encryptor.update_into(data, buffer)
    buffer[written:size] = encryptor.finish()
    return size


def decrypt(key: bytes, context: bytes, data: Buffer) -> bytes:
    """Return the message that was encrypted as a whole; see `Decryptor`.

    Raises:
        DamagedError: it is not what was encrypted by this key for this context, or not all of it.
    """
    decryptor = Decryptor(key, context)
    return decryptor.update(data) + decryptor.finish()
