"""Public ssh keys are read for real: what could not log in is refused before it locks anybody out."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from gigglekit.settings.formats import ssh_key_fault
from gigglekit.settings.keys import InvalidPublicKeyError, parse_public_key
from hypothesis import given
from hypothesis import strategies as st

from tests.public_keys import ed25519_key, wire


def rsa_key(bits: int) -> str:
    modulus = (1 << (bits - 1)) | 1
    return "ssh-rsa " + wire(b"ssh-rsa", (65537).to_bytes(3, "big"), b"\0" + modulus.to_bytes((bits + 7) // 8, "big"))


def test_an_ed25519_key_is_taken() -> None:
    key = parse_public_key(ed25519_key())
    assert (key.type, key.bits, key.comment) == ("ssh-ed25519", 256, "you@laptop")
    assert base64.b64encode(key.blob).decode() in ed25519_key()


def test_a_key_of_a_hardware_token_is_taken() -> None:
    name = "sk-ssh-ed25519@openssh.com"
    assert parse_public_key(f"{name} {wire(name.encode(), bytes(range(32)), b'ssh:')}").type == name


@pytest.mark.parametrize("arguments", [["-t", "ed25519"], ["-t", "rsa", "-b", "3072"]])
def test_what_ssh_keygen_makes_is_taken(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "two words", "-f", str(file), *arguments], check=True, timeout=60)
    assert parse_public_key(file.with_suffix(".pub").read_text()).comment == "two words"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "empty"),
        ("ssh-ed25519", "missing after its type"),
        ("ssh-ed25519 ???", "not valid base64"),
        (f"ssh-ed25519 {wire(b'ssh-ed25519', bytes(31))}", "not 32 bytes"),
        (f"ssh-ed25519 {wire(b'ssh-ed25519', bytes(32))[:40]}", "cut off"),
        (f"ssh-ed25519 {wire(b'ssh-rsa', bytes(32))}", "not the type inside"),
        (rsa_key(2048), "of 2048 bits, and at least 3072"),
        ("ssh-dss AAAA", "DSA"),
        (f"ecdsa-sha2-nistp256 {wire(b'ecdsa-sha2-nistp256')}", "ECDSA"),
        ('from="10.0.0.1" ' + ed25519_key(), "options are not taken"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "PRIVATE key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "options are not taken"),
    ],
)
def test_what_cannot_log_in_is_refused(line: str, reason: str) -> None:
    with pytest.raises(InvalidPublicKeyError, match=reason):
        parse_public_key(line)


def test_an_rsa_key_of_3072_bits_is_taken() -> None:
    assert parse_public_key(rsa_key(3072)).bits == 3072


@given(st.binary(max_size=200))
def test_no_blob_makes_the_parser_fail_in_another_way(blob: bytes) -> None:
    for kind in ("ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com"):
        for content in (blob, base64.b64decode(wire(kind.encode())) + blob):
            fault = ssh_key_fault(f"{kind} {base64.b64encode(content).decode()}")
            assert fault is None or len(fault) > 8
