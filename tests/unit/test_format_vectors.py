"""docs/vectors/ is what docs/FORMAT.md says, and gigglekit reads and writes the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from gigglekit.backup import names, signed, waiting
from gigglekit.backup.digests import Digests
from gigglekit.crypto import chunked, keys, sealing, signing
from gigglekit.vault import keyring, share

from tests.unit.vectors import by_the_book, make_format_vectors

FILE = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "format-1.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_file_is_what_the_script_makes() -> None:
    assert make_format_vectors.make() == VECTORS


@pytest.mark.parametrize("case", VECTORS["derived"])
def test_keys_are_derived_so(case: dict[str, Any]) -> None:
    assert keys.derive(h(case["root"]), case["label"], len(h(case["key"]))) == h(case["key"])


@pytest.mark.parametrize("case", VECTORS["hashed"])
def test_vault_ids_are_made_so(case: dict[str, Any]) -> None:
    assert keys.keyed_hash(h(case["key"]), case["text"]) == case["hash"]


@pytest.mark.parametrize("case", VECTORS["digests"])
def test_contents_have_these_digests(case: dict[str, Any]) -> None:
    content = make_format_vectors.counting(0, case["length"])
    for digest, like in ((case["digest"], ""), (case["digest"], case["digest"]), (case["earlier"], case["earlier"])):
        digester = Digests(h(case["key"])).begin(like)
        digester.update(content)
        assert digester.finish() == digest == Digests(h(case["key"])).of(content, like)


@pytest.mark.parametrize("case", VECTORS["encrypted"])
def test_content_is_encrypted_so(case: dict[str, Any]) -> None:
    key, context = h(case["key"]), h(case["context"])
    plain = make_format_vectors.counting(0, case["length"])
    message = by_the_book.chunked_encrypt(key, context, h(case["salt"]), plain)
    assert (len(message), hashlib.sha256(message).hexdigest()) == (case["encrypted_bytes"], case["sha256"])
    assert message == h(case.get("encrypted", message.hex()))
    assert len(message) == chunked.ciphertext_size(case["length"])
    assert chunked.decrypt(key, context, message) == plain
    reader = chunked.Reader(key, context, message[: chunked.HEADER_BYTES], len(message))
    start, end = reader.span(case["length"] // 2, case["length"] - case["length"] // 2)
    assert reader.open(message[start:end], start, case["length"] // 2, case["length"] - case["length"] // 2) == plain[case["length"] // 2 :]


def test_contexts_are_those_that_the_backup_gives() -> None:
    one, vault = make_format_vectors.ID, make_format_vectors.VAULT
    snapshot = names.SnapshotName("20261124T054500Z", one)
    ours = {names.pack_context(one), names.section_context(snapshot, vault), names.head_context(snapshot), names.dump_context(one)}
    ours.add(names.pruning_context(f"{snapshot.time}-{one}"))
    assert {h(case["context"]) for case in VECTORS["encrypted"]} == ours
    labels = {names.BACKUP_LABEL, names.MANIFEST_LABEL, names.CONTENT_LABEL, keyring.FSCRYPT_LABEL, share.LABEL}
    assert {case["label"] for case in VECTORS["derived"]} == labels


def test_what_waits_to_be_removed_is_written_so() -> None:
    one = make_format_vectors.ID
    snapshot = names.SnapshotName("20261124T054500Z", one, 3)
    name, key, other = f"20261124T054500Z-{one}", make_format_vectors.counting(2), make_format_vectors.VAULT
    text = f'{{"format":1,"packs":["{one}","{other}"],"snapshots":["20261124T054500Z-{one}.3"]}}'.encode()
    record = waiting.Waiting(name, frozenset((other, one)), frozenset((snapshot,)))
    context = b"giggles-salt/v1/pruning\0" + name.encode()
    assert chunked.decrypt(key, context, waiting.encode(record, key)) == text
    assert waiting.decode(name, by_the_book.chunked_encrypt(key, context, bytes(24), text), key) == record


@pytest.mark.parametrize("case", VECTORS["sealed"])
def test_keys_are_sealed_and_signed_so(case: dict[str, Any]) -> None:
    info = b"giggles-salt/v1/key\0" + case["name"].encode()
    assert sealing.public_of(h(case["kit_private"])) == h(case["kit_public"])
    assert sealing.unseal(h(case["kit_private"]), info, h(case["sealed"])) == h(case["key"])
    assert names.key_info(case["name"]) == info
    whole = h(case["object"])
    assert signed.unseal_key(case["name"], whole, h(case["kit_private"]), h(case["signer_public"])) == h(case["key"])
    assert whole[72:] == h(case["sealed"])
    assert signing.sign(h(case["signer_private"]), case["name"].encode() + b"\0" + whole[72:]) == whole[8:72]
    signing.verify(h(case["signer_public"]), whole[8:72], case["name"].encode() + b"\0" + whole[72:])
    with pytest.raises(signing.WrongSignatureError):
        signing.verify(h(case["signer_public"]), whole[8:72], b"keys/users/other\0" + whole[72:])
