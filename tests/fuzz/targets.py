"""The parsers of bytes that come from the bucket, or from a person's hands. A new one is one line in TARGETS."""

from __future__ import annotations

import hashlib
import json
import zlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gigglekit.backup import kit, names, section, signed, snapshot, waiting
from gigglekit.crypto import chunked, sealing
from gigglekit.crypto.keys import WrongKeyError

from tests.fuzz.engine import Target
from tests.unit.vectors import by_the_book

KEY, PRIVATE, EPHEMERAL, CONTEXT = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34)), b"fuzz"
PUBLIC = sealing.public_of(PRIVATE)
ID = "0123456789abcdef" * 2
TEXTS = (b"", b"a clip", bytes(16384), bytes(16385), bytes(range(256)) * 130)
MESSAGES = tuple(by_the_book.chunked_encrypt(KEY, CONTEXT, bytes([number]) * 24, text) for number, text in enumerate(TEXTS))


def chunked_message(data: bytes) -> None:
    """Whatever is decrypted, in one go, piece by piece or by parts, is one of the texts that were encrypted."""
    try:
        reader = chunked.Reader(KEY, CONTEXT, data[: chunked.HEADER_BYTES], len(data))
        start, end = reader.span(0, reader.plain_size)
        part: bytes | None = reader.open(data[start:end], start, 0, reader.plain_size)
    except chunked.DamagedError:
        part = None
    try:
        plain: bytes | None = chunked.decrypt(KEY, CONTEXT, data)
    except chunked.DamagedError:
        plain = None
    assert part == plain, "the two ways to decrypt do not agree"
    assert plain is None or (plain in TEXTS and data in MESSAGES), "something was decrypted that nobody encrypted"
    if plain is None:
        raise chunked.DamagedError


def chunked_part(data: bytes) -> None:
    """Size, offset and length are lies, 8 bytes each, before the encrypted bytes: what is read is true all the same."""
    size, offset, length = (int.from_bytes(data[at : at + 8], "big", signed=True) for at in (0, 8, 16))
    message = data[24:]
    part = chunked.Reader(KEY, CONTEXT, message[:56], size)
    start, end = part.span(offset, length)
    assert end - start <= length + length // 1024 + 2 * 16400, "more is asked for than the part lies in"
    plain = part.open(message[start:end], start, offset, length)
    assert any(plain == text[offset : offset + length] for text in TEXTS), "something was decrypted that nobody encrypted"


def part(message: bytes, offset: int, length: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in (len(message), offset, length)) + message


SEALED = tuple(by_the_book.hpke_seal(EPHEMERAL, PUBLIC, CONTEXT, text) for text in (b"", b"a key", bytes(32)))


def sealed_key(data: bytes) -> None:
    sealing.unseal(PRIVATE, CONTEXT, data)
    assert data in SEALED, "something was unsealed that nobody sealed"


SECTION = section.Section(
    "6f1c1b1e-0000-4000-8000-000000000001",
    (section.PackEntry(ID, 16_793_656, bytes(56)),),
    (
        section.FileEntry("clips/2026/a.wav", 131_072, 1_764_000_000_000_000_000, ID, (section.Extent(0, 0, 131_072),)),
        section.FileEntry("legacy/b.wav", 0, 0, ID, ()),
    ),
)


def section_text(data: bytes) -> None:
    """What a section says, once it is inflated."""
    found = section.decode(zlib.compress(data, 1))
    assert section.decode(section.encode(found)) == found, "a section is not what it is once it was written again"
    assert all(".." not in file.path.split("/") and not file.path.startswith("/") for file in found.files), "a path leads out"


SNAPSHOT = names.SnapshotName("20261124T054500Z", ID)
HEAD = snapshot.Head(
    "2026-11-24T05:45:00Z",
    17,
    f"20261123T054500Z-{ID}",
    snapshot.Dump(ID, 123, hashlib.sha256().hexdigest(), "15.9"),
    (snapshot.Part(ID, 0, 1234, hashlib.sha256().hexdigest(), 40, 5_242_880),),
)


def head_of(whole: bytes) -> bytes:
    return whole[snapshot.FIRST_BYTES :][: snapshot.head_size(whole)]


def snapshot_head(data: bytes) -> None:
    """What a head says, once it is decrypted."""
    sealed = by_the_book.chunked_encrypt(KEY, names.head_context(SNAPSHOT), bytes(24), data)
    found = snapshot.decode_head(SNAPSHOT, sealed, KEY)
    again = head_of(snapshot.encode(SNAPSHOT, found, b"", KEY))
    assert snapshot.decode_head(SNAPSHOT, again, KEY) == found, "a head is not what it is once it was written again"


def snapshot_object(data: bytes) -> None:
    size = snapshot.head_size(data[: snapshot.FIRST_BYTES])
    snapshot.decode_head(SNAPSHOT, data[snapshot.FIRST_BYTES :][:size], KEY)


WHOLE = snapshot.encode(SNAPSHOT, HEAD, b"sections", KEY)
HEAD_TEXT = chunked.decrypt(KEY, names.head_context(SNAPSHOT), head_of(WHOLE))


def snapshot_name(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = names.snapshot_name(text)
    if found is None:
        raise ValueError
    assert found.text == text, "a name is not what it is once it was written again"
    assert found.seconds >= 0 or text < "1970"


RECORD = waiting.Waiting(f"20261124T054500Z-{ID}", frozenset((ID,)), frozenset((SNAPSHOT,)))


def pruning_record(data: bytes) -> None:
    """What a record of a prune says, once it is decrypted."""
    found = waiting.decode(RECORD.name, by_the_book.chunked_encrypt(KEY, names.pruning_context(RECORD.name), bytes(24), data), KEY)
    assert waiting.decode(RECORD.name, waiting.encode(found, KEY), KEY) == found, "a record is not what it is once it was written again"


RECORD_TEXT = chunked.decrypt(KEY, names.pruning_context(RECORD.name), waiting.encode(RECORD, KEY))
KIT = kit.Kit("https://s3.example.test", "eu-central-003", "a-bucket", "", "2026-11-24T05:40:00Z", PRIVATE, PUBLIC)


def kit_text(data: bytes) -> None:
    found = kit.read(data.decode("utf-8", "replace"))
    assert (found.key, found.signer) == (KIT.key, KIT.signer), "a key was typed wrongly, and was taken"
    assert kit.read(kit.write(found)) == found, "a kit is not what it is once it was written again"


def signed_object(data: bytes) -> None:
    """The name begins, a zero byte ends it; what follows was signed by somebody else, or by nobody."""
    name, _, content = data.partition(b"\0")
    signed.read_tombstone(name.decode("utf-8", "replace"), content, PUBLIC)
    raise AssertionError("an object was taken that nobody signed")


SIGNER = signed.Signer(Ed25519PrivateKey.from_private_bytes(KEY))
KEY_NAME, STONE, RECEIPT = names.USER_KEYS + ID, names.ERASED + ID, names.RECEIPTS + "000001"
RECEIPT_TEXT = json.dumps({"subject": ID, "started": "2026-11-24T00:00:00Z"}).encode()
WRONG_KEYS = (bytes(31), bytes(33), b"")
SIGNED = tuple(by_the_book.hpke_seal(EPHEMERAL, PUBLIC, names.key_info(KEY_NAME), text) for text in (KEY, *WRONG_KEYS))


def sealed_key_object(data: bytes) -> None:
    """Whatever the droplet's own signer has signed under a key's name, it is a key only if it was sealed as one."""
    found = signed.unseal_key(KEY_NAME, signed.sign(signed.KEY, KEY_NAME, data, SIGNER), PRIVATE, SIGNER.public)
    assert (found, data) == (KEY, SIGNED[0]), "a key was taken that nobody sealed"


def tombstone(data: bytes) -> None:
    """Whatever the droplet's own signer has signed under a tombstone's name, it is one only if it says so in every word."""
    since = signed.read_tombstone(STONE, signed.sign(signed.LEDGER, STONE, data, SIGNER), SIGNER.public)
    assert since.isascii(), "a time that is none"
    assert json.loads(data.decode("utf-8", "surrogateescape"))["subject"] == ID, "a tombstone of somebody else"


def receipt(data: bytes) -> None:
    """Whatever the droplet's own signer has signed under a receipt's name, it says whose erasure it is of, and since when, or is none."""
    subject, since = signed.read_receipt(RECEIPT, signed.sign(signed.LEDGER, RECEIPT, data, SIGNER), SIGNER.public)
    assert since.isascii(), "a time that is none"
    assert json.loads(data[64:].decode("utf-8", "surrogateescape"))["subject"] == subject, "a receipt of somebody else"


# Deeper than Python's own stack.
NESTED = b'{"a":' * 50_000
DAMAGED, UNREADABLE = (chunked.DamagedError,), (section.NotReadableError,)
TARGETS = (
    Target("chunked", chunked_message, DAMAGED, MESSAGES),
    Target("chunked-part", chunked_part, DAMAGED, tuple(part(message, offset, 5) for message in MESSAGES[1:] for offset in (0, 1))),
    Target("sealing", sealed_key, (WrongKeyError,), SEALED),
    Target("section", section.decode, UNREADABLE, (section.encode(SECTION), zlib.compress(b"{}"))),
    Target("section-text", section_text, UNREADABLE, (zlib.decompress(section.encode(SECTION)), b"{}", NESTED)),
    Target("snapshot", snapshot_object, UNREADABLE, (WHOLE, WHOLE[: snapshot.FIRST_BYTES])),
    Target("snapshot-head", snapshot_head, UNREADABLE, (HEAD_TEXT, b'{"format":1}', NESTED)),
    Target("snapshot-name", snapshot_name, (ValueError,), (SNAPSHOT.text.encode(), b"20261124T054500Z")),
    Target("pruning-record", pruning_record, UNREADABLE, (RECORD_TEXT, b'{"format":1}', NESTED)),
    Target("kit", kit_text, UNREADABLE, (kit.write(KIT).encode(), b"giggles-salt recovery kit 1\n")),
    Target("sealed-key", sealed_key_object, UNREADABLE, SIGNED),
    Target("tombstone", tombstone, UNREADABLE, (signed.tombstone(ID, "2026-11-24T00:00:00Z", SIGNER)[1][72:], b"{}", NESTED)),
    Target("receipt", receipt, UNREADABLE, (bytes(64) + RECEIPT_TEXT, bytes(64) + b"{}", bytes(64) + NESTED)),
    Target("ledger", signed_object, UNREADABLE, (b"ledger/erased/" + ID.encode() + b"\0GIGGLED\x01" + bytes(64) + b'{"format":1}',)),
)
