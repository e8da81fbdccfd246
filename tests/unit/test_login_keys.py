"""Only a key that sshd will accept counts as a way in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from gigglekit.login.errors import LoginError
from gigglekit.login.keys import read, require_usable

from tests.public_keys import ed25519_key, wire

RSA_2048 = f"ssh-rsa {wire(b'ssh-rsa', bytes([1, 0, 1]), bytes([0, 0x80]) + bytes(255))} old@laptop"
RSA_4096 = f"ssh-rsa {wire(b'ssh-rsa', bytes([1, 0, 1]), bytes([0, 0x80]) + bytes(511))} old@laptop"
ECDSA = f"ecdsa-sha2-nistp256 {wire(b'ecdsa-sha2-nistp256', b'nistp256', bytes(65))} other@laptop"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_size_and_fingerprint_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    private = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", str(private)], check=True)
    told = subprocess.run(["ssh-keygen", "-l", "-f", str(private)], capture_output=True, text=True, check=True).stdout.split()
    key = read(private.with_suffix(".pub").read_text())
    assert [str(key.bits), key.fingerprint] == told[:2]


def test_options_before_a_key_are_skipped() -> None:
    assert read(f'from="127.0.0.1",restrict {ed25519_key()}').kind == "ssh-ed25519"


@pytest.mark.parametrize("line", [ed25519_key(), RSA_4096])
def test_a_good_key_is_usable(line: str) -> None:
    assert [key.kind for key in require_usable([line], "operator")] == [line.split(maxsplit=1)[0]]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (RSA_2048, "2048 bits are too few"),
        (ECDSA, "ecdsa-sha2-nistp256, is not accepted"),
        ("ssh-ed25519 AAAA you", "damaged"),
        (ed25519_key().replace("ssh-ed25519 ", "ssh-rsa ", 1), "holds another kind of key"),
        (f"ssh-ed25519 {wire(b'ssh-ed25519', bytes(16))}", "cut short"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("you@laptop", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_a_key_nobody_could_log_in_with_is_refused(line: str, why: str) -> None:
    with pytest.raises(LoginError, match=rf"key number 2 .*{why}.*Nothing was changed"):
        require_usable([ed25519_key(), line], "operator")


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(LoginError, match=r"would lock everybody out\. Nothing was changed"):
        require_usable([], "operator")
