"""Chunked encryption: every size, every way to feed and read it, and everything that somebody could do to it."""

from __future__ import annotations

import os

import pytest
from cryptography.exceptions import InvalidTag
from gigglekit.crypto import chunked
from gigglekit.crypto.chunked import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, DamagedError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vectors import by_the_book

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
CONTEXT = b"giggles-salt/test\x00one"
SEALED = CHUNK_BYTES + TAG_BYTES

# Sizes on and beside the edges of chunks are what goes wrong.
EDGES = st.builds(lambda chunks, beside: max(0, chunks * CHUNK_BYTES + beside), st.integers(0, 4), st.integers(-2, 2))
SIZES = st.one_of(EDGES, st.integers(0, 4 * CHUNK_BYTES))
CONTEXTS = st.binary(max_size=80)
ALL_SIZES = sorted({max(0, chunks * CHUNK_BYTES + beside) for chunks in range(4) for beside in (-1, 0, 1)})


def text(size: int) -> bytes:
    """Bytes of which no two chunks are alike."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


def reader_of(message: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> chunked.Reader:
    return chunked.Reader(key, context, message[:HEADER_BYTES], len(message))


def read(message: bytes, offset: int, length: int, key: bytes = KEY, context: bytes = CONTEXT) -> bytes:
    reader = reader_of(message, key, context)
    start, end = reader.span(offset, length)
    return reader.open(message[start:end], start, offset, length)


def read_all(message: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> bytes:
    return read(message, 0, reader_of(message, key, context).plain_size, key, context)


def refused(message: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> None:
    """Fail unless both ways to decrypt refuse this."""
    with pytest.raises(DamagedError):
        chunked.decrypt(key, context, message)
    with pytest.raises(DamagedError):
        read_all(message, key, context)


# Sizes


@given(st.one_of(SIZES, st.integers(0, 2**50)))
def test_sizes_are_worked_out_both_ways(size: int) -> None:
    assert chunked.plaintext_size(chunked.ciphertext_size(size)) == size


@pytest.mark.parametrize("size", ALL_SIZES)
def test_sizes_are_those_of_what_is_encrypted(size: int) -> None:
    assert len(chunked.encrypt(KEY, CONTEXT, bytes(size))) == chunked.ciphertext_size(size)


def test_sizes_that_cannot_be_are_refused() -> None:
    possible = {chunked.ciphertext_size(size) for size in range(3 * CHUNK_BYTES)}
    for size in range(-1, max(possible)):
        if size not in possible:
            with pytest.raises(DamagedError):
                chunked.plaintext_size(size)
    # 2**38 chunks are the most there may be, of which the last is shorter.
    most = 2**38 * CHUNK_BYTES - 1
    assert chunked.plaintext_size(chunked.ciphertext_size(most)) == most
    with pytest.raises(ValueError, match="cannot have"):
        chunked.ciphertext_size(most + 1)
    with pytest.raises(DamagedError):
        chunked.plaintext_size(chunked.ciphertext_size(most) + 1 + TAG_BYTES)
    with pytest.raises(ValueError, match="cannot have"):
        chunked.ciphertext_size(-1)


# There and back


@given(SIZES, CONTEXTS, st.data())
@settings(deadline=None)
def test_what_is_encrypted_in_any_pieces_is_decrypted_in_any_pieces(size: int, context: bytes, data: st.DataObject) -> None:
    plain = text(size)

    def pieces(whole: bytes) -> list[bytes]:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
        return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    encryptor = chunked.Encryptor(KEY, context)
    message = b"".join(encryptor.update(piece) for piece in pieces(plain)) + encryptor.finish()
    assert len(message) == chunked.ciphertext_size(size)
    decryptor = chunked.Decryptor(KEY, context)
    assert b"".join(decryptor.update(piece) for piece in pieces(message)) + decryptor.finish() == plain
    assert chunked.decrypt(KEY, context, message) == plain
    assert read_all(message, context=context) == plain


@given(st.lists(SIZES, max_size=4), st.integers(0, 50))
@settings(deadline=None)
def test_files_are_encrypted_into_one_buffer_as_one_message(sizes: list[int], more: int) -> None:
    files = [text(size) for size in sizes]
    room = memoryview(bytearray(chunked.ciphertext_size(sum(sizes)) + more))
    encryptor, at = chunked.Encryptor(KEY, CONTEXT), 0
    for file in files:
        at += encryptor.update_into(file, room[at:])
    last = encryptor.finish()
    room[at : at + len(last)] = last
    assert at + len(last) == len(room) - more
    assert chunked.decrypt(KEY, CONTEXT, room[: at + len(last)]) == b"".join(files)
    assert bytes(room[at + len(last) :]) == bytes(more)


@given(st.lists(SIZES, max_size=4))
@settings(deadline=None)
def test_files_are_encrypted_into_one_buffer_as_messages_of_their_own(sizes: list[int]) -> None:
    room = memoryview(bytearray(sum(chunked.ciphertext_size(size) for size in sizes)))
    at = 0
    for size in sizes:
        written = chunked.encrypt_into(KEY, CONTEXT, text(size), room[at:])
        assert chunked.decrypt(KEY, CONTEXT, room[at : at + written]) == text(size)
        at += written
    assert at == len(room)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_a_buffer_that_is_too_small_is_not_written_past(size: int) -> None:
    room = bytearray(chunked.ciphertext_size(size))
    with pytest.raises(ValueError, match="do not fit"):
        chunked.encrypt_into(KEY, CONTEXT, text(size), memoryview(room)[:-1])
    assert room == bytes(len(room))


def test_no_salt_is_used_twice() -> None:
    assert len({chunked.encrypt(KEY, CONTEXT, b"")[:24] for _ in range(1000)}) == 1000


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_keys_of_another_length_are_no_keys(length: int) -> None:
    for way in (chunked.encrypt, chunked.decrypt):
        with pytest.raises(ValueError, match="32 bytes"):
            way(bytes(length), b"", bytes(100))
    with pytest.raises(ValueError, match="32 bytes"):
        chunked.Reader(bytes(length), b"", bytes(HEADER_BYTES), 100)


# The scheme, by others' lines


@given(SIZES, CONTEXTS, st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24))
@settings(deadline=None)
def test_what_the_few_lines_encrypt_is_decrypted(size: int, context: bytes, key: bytes, salt: bytes) -> None:
    message = by_the_book.chunked_encrypt(key, context, salt, text(size))
    assert chunked.decrypt(key, context, message) == text(size)
    assert read_all(message, key, context) == text(size)


@given(SIZES, CONTEXTS, st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_what_is_encrypted_the_few_lines_decrypt(size: int, context: bytes, key: bytes) -> None:
    message = chunked.encrypt(key, context, text(size))
    assert by_the_book.chunked_decrypt(key, context, message) == text(size)
    assert by_the_book.chunked_encrypt(key, context, message[:24], text(size)) == message


def test_the_chunk_number_has_more_than_one_byte() -> None:
    plain = text(258 * CHUNK_BYTES + 5)
    message = chunked.encrypt(KEY, CONTEXT, plain)
    assert by_the_book.chunked_decrypt(KEY, CONTEXT, message) == plain
    assert read_all(message) == plain
    for offset in (chunk * CHUNK_BYTES + beside for chunk in (254, 255, 256, 257) for beside in (-1, 0)):
        assert read(message, offset, 100) == plain[offset : offset + 100]


@pytest.mark.parametrize("chunk", [2**8, 2**16, 2**32, 2**38 - 2])
def test_chunks_far_in_are_found(chunk: int) -> None:
    # Nobody can store such a message; a reader is given the one chunk, as another's lines encrypt it.
    salt = bytes(24)
    aead_key, nonce, commitment = by_the_book.chunked_keys(KEY, CONTEXT, salt)
    part = by_the_book.AESGCM(aead_key).encrypt((nonce ^ chunk).to_bytes(12, "big"), text(CHUNK_BYTES), b"")
    reader = chunked.Reader(KEY, CONTEXT, salt + commitment, chunked.ciphertext_size((chunk + 1) * CHUNK_BYTES + 7))
    start, end = reader.span(chunk * CHUNK_BYTES + 9, 100)
    assert (start, end) == (HEADER_BYTES + chunk * SEALED, HEADER_BYTES + (chunk + 1) * SEALED)
    assert reader.open(part, start, chunk * CHUNK_BYTES + 9, 100) == text(CHUNK_BYTES)[9:109]


# Parts


@given(SIZES, st.data())
@settings(deadline=None)
def test_any_part_is_what_the_whole_has_there(size: int, data: st.DataObject) -> None:
    plain = text(size)
    message = by_the_book.chunked_encrypt(KEY, CONTEXT, bytes(24), plain)
    reader = reader_of(message)
    assert reader.plain_size == size
    places = st.one_of(st.integers(0, size), st.sampled_from([at for at in (*ALL_SIZES, size) if at <= size]))
    offset, stop = sorted((data.draw(places), data.draw(places)))
    length = stop - offset
    start, end = reader.span(offset, length)
    # The chunks that the part lies in and no other, but for the last if the part reaches the end.
    last = (offset + length if offset + length == size else offset + max(length, 1) - 1) // CHUNK_BYTES
    assert start == HEADER_BYTES + offset // CHUNK_BYTES * SEALED
    assert end == min(HEADER_BYTES + (last + 1) * SEALED, len(message))
    assert reader.open(message[start:end], start, offset, length) == plain[offset : offset + length]
    # Of more encrypted bytes than needed, as when parts are fetched together, the same.
    first = data.draw(st.integers(0, (start - HEADER_BYTES) // SEALED))
    begin = HEADER_BYTES + first * SEALED
    more = data.draw(st.integers(end, len(message)))
    assert reader.open(memoryview(message)[begin:more], begin, offset, length) == plain[offset : offset + length]
    assert reader.open(message[start:] + b"what follows the message", start, offset, length) == plain[offset : offset + length]
    # Of fewer, nothing.
    with pytest.raises(DamagedError):
        reader.open(message[start : end - 1], start, offset, length)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_a_part_that_reaches_the_end_includes_the_last_chunk(size: int) -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(size))
    reader = reader_of(message)
    for offset in {0, size // 2, size}:
        assert reader.span(offset, size - offset)[1] == len(message)
    damaged = bytearray(message)
    damaged[-1] ^= 1
    for offset in {0, size // 2, size}:
        with pytest.raises(DamagedError):
            read(bytes(damaged), offset, size - offset)


@given(SIZES, st.integers(-3, 5 * CHUNK_BYTES), st.integers(-3, 5 * CHUNK_BYTES))
def test_parts_that_the_message_does_not_have_are_refused(size: int, offset: int, length: int) -> None:
    message = by_the_book.chunked_encrypt(KEY, CONTEXT, bytes(24), text(size))
    reader = reader_of(message)
    if offset < 0 or length < 0 or offset + length > size:
        with pytest.raises(DamagedError):
            reader.span(offset, length)
        with pytest.raises(DamagedError):
            reader.open(message[HEADER_BYTES:], HEADER_BYTES, offset, length)
    else:
        assert read(message, offset, length) == text(size)[offset : offset + length]
    for beside in ((0, size + 1), (size, 1), (size + 1, 0), (-1, 1), (-1, 0), (0, -1), (size, -1)):
        with pytest.raises(DamagedError):
            reader.span(*beside)


def test_encrypted_bytes_from_another_place_are_refused() -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(4 * CHUNK_BYTES))
    reader = reader_of(message)
    start, end = reader.span(CHUNK_BYTES, CHUNK_BYTES)
    for wrong in (HEADER_BYTES - SEALED, 0, start - 1, start + 1, HEADER_BYTES + 2 * SEALED):
        with pytest.raises(ValueError, match="begins at"):
            reader.open(message[start:end], wrong, CHUNK_BYTES, CHUNK_BYTES)
    with pytest.raises(DamagedError):
        reader.open(message[start - SEALED : end - SEALED], start, CHUNK_BYTES, CHUNK_BYTES)


# What somebody could do to it


@given(SIZES.filter(lambda size: size < 2 * CHUNK_BYTES), st.data())
@settings(deadline=None)
def test_one_changed_bit_is_noticed(size: int, data: st.DataObject) -> None:
    message = bytearray(chunked.encrypt(KEY, CONTEXT, text(size)))
    bit = data.draw(st.integers(0, len(message) * 8 - 1))
    message[bit // 8] ^= 1 << bit % 8
    refused(bytes(message))


def test_every_single_changed_bit_of_a_short_message_is_noticed() -> None:
    message = chunked.encrypt(KEY, CONTEXT, b"a clip")
    for bit in range(len(message) * 8):
        damaged = bytearray(message)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(bytes(damaged))


def test_every_truncation_of_a_message_is_noticed() -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(2 * CHUNK_BYTES + 3))
    lengths = {*range(200), *range(len(message) - 200, len(message))}
    lengths |= {HEADER_BYTES + chunks * SEALED + beside for chunks in (1, 2) for beside in range(-20, 19)}
    for length in lengths:
        assert length < len(message)
        refused(message[:length])


@given(SIZES, st.binary(min_size=1, max_size=40))
@settings(deadline=None)
def test_what_is_appended_is_noticed(size: int, more: bytes) -> None:
    refused(chunked.encrypt(KEY, CONTEXT, text(size)) + more)


@given(st.permutations(range(4)))
@settings(deadline=None)
def test_chunks_that_changed_places_are_noticed(order: list[int]) -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(4 * CHUNK_BYTES + 10))
    parts = [message[HEADER_BYTES + n * SEALED : HEADER_BYTES + (n + 1) * SEALED] for n in range(5)]
    moved = message[:HEADER_BYTES] + b"".join(parts[n] for n in order) + parts[4]
    if order == [0, 1, 2, 3]:
        assert chunked.decrypt(KEY, CONTEXT, moved) == read_all(moved) == text(4 * CHUNK_BYTES + 10)
        return
    refused(moved)
    # And so it is by whoever reads only that chunk.
    for place, number in enumerate(order):
        if place != number:
            with pytest.raises(DamagedError):
                read(moved, place * CHUNK_BYTES, CHUNK_BYTES)


@pytest.mark.parametrize("kept", [[0, 0, 1, 2], [0, 2], [1, 2], [0], [0, 1], [0, 1, 2, 2], [0, 1, 0, 2], [2]])
def test_chunks_that_were_left_out_or_doubled_are_noticed(kept: list[int]) -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(2 * CHUNK_BYTES + 10))
    parts = [message[HEADER_BYTES + n * SEALED : HEADER_BYTES + (n + 1) * SEALED] for n in range(3)]
    refused(message[:HEADER_BYTES] + b"".join(parts[n] for n in kept))


def test_chunks_of_another_message_under_the_same_key_are_noticed() -> None:
    one, other = (chunked.encrypt(KEY, CONTEXT, text(2 * CHUNK_BYTES)) for _ in range(2))
    mixed = one[: HEADER_BYTES + SEALED] + other[HEADER_BYTES + SEALED :]
    assert len(mixed) == len(one)
    refused(mixed)
    refused(one[:HEADER_BYTES] + other[HEADER_BYTES:])
    refused(one[:24] + other[24:])


@given(SIZES, st.binary(min_size=32, max_size=32), CONTEXTS)
@settings(deadline=None)
def test_another_key_or_context_opens_nothing(size: int, key: bytes, context: bytes) -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(size))
    if key != KEY:
        refused(message, key=key)
    if context != CONTEXT:
        refused(message, context=context)


def test_a_ciphertext_made_for_two_keys_opens_with_one_only() -> None:
    # The chunk opens with the other key, as GCM allows; the commitment is the first key's.
    message = chunked.encrypt(KEY, CONTEXT, b"")
    salt = message[:24]
    other_key, nonce, commitment = by_the_book.chunked_keys(OTHER_KEY, CONTEXT, salt)
    tag = by_the_book.AESGCM(other_key).encrypt(nonce.to_bytes(12, "big"), b"", b"")
    assert chunked.decrypt(OTHER_KEY, CONTEXT, salt + commitment + tag) == b""
    forged = salt + message[24:HEADER_BYTES] + tag
    refused(forged, key=OTHER_KEY)
    refused(forged)


def test_a_size_that_is_a_lie_lets_nothing_false_be_read() -> None:
    plain = text(3 * CHUNK_BYTES + 100)
    message = chunked.encrypt(KEY, CONTEXT, plain)
    for claimed in (3 * CHUNK_BYTES + 99, 3 * CHUNK_BYTES + 101, 3 * CHUNK_BYTES, 2 * CHUNK_BYTES + 5, 5 * CHUNK_BYTES):
        reader = chunked.Reader(KEY, CONTEXT, message[:HEADER_BYTES], chunked.ciphertext_size(claimed))
        start, end = reader.span(0, claimed)
        with pytest.raises(DamagedError):
            reader.open(message[start:end] + bytes(max(0, end - len(message))), start, 0, claimed)
        # What lies before the end is true all the same.
        assert reader.open(message[HEADER_BYTES:], HEADER_BYTES, 5, 100) == plain[5:105]


def test_a_size_that_is_a_lie_asks_for_no_memory() -> None:
    message = chunked.encrypt(KEY, CONTEXT, b"short")
    reader = chunked.Reader(KEY, CONTEXT, message[:HEADER_BYTES], chunked.ciphertext_size(2**50))
    with pytest.raises(DamagedError):
        reader.open(message[HEADER_BYTES:], HEADER_BYTES, 0, 2**50)


def test_errors_hold_neither_key_nor_text() -> None:
    key, plain = os.urandom(32), b"what somebody said"
    message = chunked.encrypt(key, CONTEXT, plain)
    shown = []
    for damaged in (message[:-1], message[:20], message[:24] + bytes(32) + message[56:], message[:-1] + bytes([message[-1] ^ 1])):
        for way in (chunked.decrypt, lambda key, context, message: read_all(message, key, context)):
            with pytest.raises(DamagedError) as caught:
                way(key, CONTEXT, damaged)
            shown.append(repr(caught.value) + str(caught.value.__cause__))
    assert all(plain.decode() not in line and repr(key) not in line and key.hex() not in line for line in shown)
    assert len(shown) == 8


def test_control_the_few_lines_refuse_too() -> None:
    message = chunked.encrypt(KEY, CONTEXT, text(CHUNK_BYTES))
    for damaged in (message[:-1], message[: HEADER_BYTES + SEALED], message + b"x"):
        with pytest.raises((ValueError, InvalidTag)):
            by_the_book.chunked_decrypt(KEY, CONTEXT, damaged)
