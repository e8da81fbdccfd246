"""Keys are derived, wrapped and hashed as the standards say, and a wrong key opens nothing."""

from __future__ import annotations

import pytest
from gigglekit.crypto import keys
from hypothesis import given
from hypothesis import strategies as st

KEY = st.binary(min_size=32, max_size=32)


def test_derivation_is_hkdf_sha512_of_rfc_5869() -> None:
    # Test case 3 of RFC 5869 (no salt, no info) with SHA-512, as Wycheproof and several libraries publish it.
    expected = "f5fa02b18298a72a8c23898a8703472c6eb179dc204c03425c970e3b164bf90fff22d04836d0e2343bac"
    assert keys.derive(bytes([0x0B]) * 22, "", 42).hex() == expected


def test_wrapping_is_aes_kwp_of_rfc_5649() -> None:
    # RFC 5649, section 6, has a 192-bit key; both of its vectors.
    by = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    long = bytes.fromhex("c37b7e6492584340bed12207808941155068f738")
    short = bytes.fromhex("466f7250617369")
    assert keys.wrap(long, by).hex() == "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"
    assert keys.wrap(short, by).hex() == "afbeb0f07dfbf5419200f2ccb50bb24f"
    assert keys.unwrap(keys.wrap(long, by), by) == long


def test_a_keyed_hash_is_hmac_sha256_of_rfc_4231_cut_to_128_bits() -> None:
    # RFC 4231, test cases 1 and 2.
    assert keys.keyed_hash(bytes([0x0B]) * 20, "Hi There") == "b0344c61d8db38535ca8afceaf0bf12b"
    assert keys.keyed_hash(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7"


def test_new_keys_are_long_enough_and_differ() -> None:
    made = {keys.new() for _ in range(100)}
    assert len(made) == 100
    assert {len(key) for key in made} == {keys.KEY_BYTES}


@given(KEY, KEY)
def test_what_was_wrapped_is_unwrapped(key: bytes, by: bytes) -> None:
    wrapped = keys.wrap(key, by)
    assert len(wrapped) == len(key) + 8
    assert keys.unwrap(wrapped, by) == key


@given(KEY, KEY, st.integers(0, 39), st.integers(1, 255))
def test_one_changed_byte_is_noticed(key: bytes, by: bytes, place: int, change: int) -> None:
    damaged = bytearray(keys.wrap(key, by))
    damaged[place] ^= change
    with pytest.raises(keys.WrongKeyError):
        keys.unwrap(bytes(damaged), by)


@given(KEY, KEY, KEY)
def test_another_key_opens_nothing(key: bytes, by: bytes, other: bytes) -> None:
    if by != other:
        with pytest.raises(keys.WrongKeyError):
            keys.unwrap(keys.wrap(key, by), other)


@given(KEY, KEY, st.integers(0, 39))
def test_what_was_cut_off_is_noticed(key: bytes, by: bytes, length: int) -> None:
    with pytest.raises(keys.WrongKeyError):
        keys.unwrap(keys.wrap(key, by)[:length], by)


@given(KEY, st.text(max_size=20), st.text(max_size=20))
def test_labels_give_keys_apart(root: bytes, one: str, other: str) -> None:
    assert (keys.derive(root, one) == keys.derive(root, other)) == (one == other)
