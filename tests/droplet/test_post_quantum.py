"""Recorded today, decrypted one day: key exchange is post-quantum wherever the system's OpenSSH and OpenSSL have it."""

from __future__ import annotations

import re

from .conftest import Droplet

SSH = {"bookworm": "sntrup761x25519-sha512", "trixie": "mlkem768x25519-sha256"}
TLS = {"bookworm": "X25519", "trixie": "X25519MLKEM768"}
"""OpenSSL 3.0 has no post-quantum group; naming one would keep nginx from starting."""


def test_ssh_agrees_on_the_best_key_exchange_of_its_system(droplet: Droplet) -> None:
    offered = re.search(r"^kexalgorithms (.*)$", droplet.shell("sshd -T"), re.MULTILINE)
    assert offered
    assert offered[1].split(",")[0].startswith(SSH[droplet.info["release"]])


def test_tls_agrees_on_the_best_group_of_its_system(droplet: Droplet) -> None:
    group = TLS[droplet.info["release"]]
    domain = droplet.info["domain"]
    spoken = droplet.shell(f"openssl s_client -connect 127.0.0.1:443 -servername {domain} -groups {group} </dev/null 2>&1", check=False)
    assert re.search(rf"(Negotiated TLS1.3 group|Server Temp Key): {group}\b", spoken), spoken[-1500:]
