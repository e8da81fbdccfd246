"""What is written is read as it was, for anything that can be written; and garbage is refused by one error only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import string
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gigglekit.backup import kit, names, section, signed, snapshot
from gigglekit.backup.kit import Kit
from gigglekit.backup.names import SnapshotName
from gigglekit.backup.section import Extent, FileEntry, NotReadableError, PackEntry, Section
from gigglekit.backup.signed import Signer
from gigglekit.backup.snapshot import Dump, Head, Part
from gigglekit.crypto import chunked, sealing
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.backup_folder import samples

EXAMPLES = samples(80)
a_while = hypothesis_settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)

ids = st.text("0123456789abcdef", min_size=32, max_size=32)
sha256 = st.text("0123456789abcdef", min_size=64, max_size=64)
bytes32 = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 1 << 62)
times = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0"))
# Names as the kernel has them: any bytes but a slash and a zero byte, so no text now and then.
parts_of_paths = st.one_of(
    st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"/", b"-").replace(b"\0", b"-").decode("utf-8", "surrogateescape")),
    st.text(string.ascii_letters, min_size=1, max_size=20),
).filter(lambda name: name not in (".", ".."))
paths = st.one_of(
    st.lists(parts_of_paths, min_size=1, max_size=4).map(lambda parts: "/".join(("clips", *parts))),
    parts_of_paths.map(lambda name: f"legacy/{name}"),
)
users = st.one_of(st.just(""), st.uuids().map(str))


@st.composite
def sections(draw: Any) -> Section:
    packs = tuple(
        PackEntry(pack, draw(st.integers(section.HEADER_BYTES, 1 << 40)), draw(st.binary(min_size=56, max_size=56)))
        for pack in draw(st.lists(ids, max_size=4))
    )
    files = []
    for path in sorted(draw(st.sets(paths, max_size=8))):
        extents = []
        for _ in range(draw(st.integers(0, 3)) if packs else 0):
            index = draw(st.integers(0, len(packs) - 1))
            length = draw(st.integers(1, packs[index].size))
            extents.append(Extent(index, draw(st.integers(0, packs[index].size - length)), length))
        size = sum(extent.length for extent in extents)
        files.append(FileEntry(path, size, draw(st.integers(-section.MOST_TIME, section.MOST_TIME)), draw(ids), tuple(extents)))
    return Section(draw(users), packs, tuple(files))


snapshot_names = st.builds(
    lambda moment, snapshot_id, generation: SnapshotName(moment.strftime("%Y%m%dT%H%M%SZ").rjust(16, "0"), snapshot_id, generation),
    st.datetimes(),
    ids,
    st.integers(0, 999_999),
)
dumps = st.builds(Dump, ids, numbers, sha256, st.text("0123456789.", min_size=1, max_size=12))


@st.composite
def heads(draw: Any) -> Head:
    parts = tuple(
        Part(vault, draw(numbers), draw(st.integers(56, 1 << 62)), draw(sha256), draw(numbers), draw(numbers))
        for vault in sorted(draw(st.sets(ids, max_size=5)))
    )
    previous = draw(st.one_of(st.just(""), snapshot_names.map(lambda name: name.base)))
    return Head(draw(times), draw(st.integers(1, 1 << 62)), previous, draw(st.none() | dumps), parts)


# --- round trips --------------------------------------------------------------------------------------------------------------------


@a_while
@given(sections())
def test_a_section_is_read_as_it_was_written(content: Section) -> None:
    assert section.decode(section.encode(content)) == content


@a_while
@given(paths)
def test_every_path_that_a_walk_can_find_is_safe_and_stays_below_its_folder(path: str) -> None:
    assert section.is_safe(path)


@a_while
@given(snapshot_names, heads(), bytes32)
def test_a_head_is_read_as_it_was_written_and_under_its_own_name_only(name: SnapshotName, head: Head, key: bytes) -> None:
    whole = snapshot.encode(name, head, b"sections", key)
    size = snapshot.head_size(whole[: snapshot.FIRST_BYTES])
    data = whole[snapshot.FIRST_BYTES :][:size]
    assert snapshot.decode_head(name, data, key) == head
    assert whole[snapshot.FIRST_BYTES + size :] == b"sections"
    for other in (dataclasses.replace(name, generation=name.generation + 1), dataclasses.replace(name, id=name.id[::-1] + "x")):
        with pytest.raises(NotReadableError):
            snapshot.decode_head(other, data, key)
    with pytest.raises(NotReadableError):
        snapshot.decode_head(name, data, bytes(each ^ 1 for each in key))


@a_while
@given(snapshot_names)
def test_a_snapshots_name_is_read_as_it_was_written(name: SnapshotName) -> None:
    assert names.snapshot_name(name.text) == name
    assert name.object == f"snapshots/{name.base}.{name.generation}"


@a_while
@given(st.lists(snapshot_names, min_size=2, max_size=6))
def test_names_of_snapshots_sort_by_time(found: list[SnapshotName]) -> None:
    assert [name.time for name in sorted(found)] == sorted(name.time for name in found)
    assert [name.seconds for name in sorted(found)] == sorted(name.seconds for name in found)


lines = st.text(string.ascii_letters + string.digits + ":/.-_", max_size=60).filter(lambda text: not text.startswith("#"))
kits = st.builds(Kit, lines, lines, lines, lines, lines, bytes32, bytes32)


@a_while
@given(kits)
def test_a_kit_is_read_as_it_was_written(made: Kit) -> None:
    assert kit.read(kit.write(made)) == made


@a_while
@given(kits, st.data())
def test_a_kit_that_was_typed_again_is_read_and_one_letter_that_is_wrong_is_found(made: Kit, data: Any) -> None:
    text = kit.write(made)
    typed = "\r\n".join(
        line.lower().replace("-", " ") if line.startswith(("key:", "signer:")) else f"  {line}  " for line in text.splitlines()
    )
    assert kit.read(f"\n# my kit\n\n{typed}\n\n") == made
    start = text.index("key: ") + 5
    at = data.draw(st.integers(start, start + 62).filter(lambda place: text[place] != "-"))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567").filter(lambda one: one != text[at]))
    with pytest.raises(NotReadableError, match="key"):
        kit.read(text[:at] + letter + text[at + 1 :])


SIGNER, STRANGER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))), Signer(Ed25519PrivateKey.generate())
PRIVATE = bytes(range(1, 33))
PUBLIC = sealing.public_of(PRIVATE)


@a_while
@given(ids, bytes32, st.data())
def test_a_sealed_key_is_read_under_its_own_name_and_with_its_own_kit_and_signer_only(vault: str, key: bytes, data: Any) -> None:
    name = names.USER_KEYS + vault
    sealed = signed.seal_key(name, key, PUBLIC, SIGNER)
    assert len(sealed) == 8 + 64 + 80
    assert signed.unseal_key(name, sealed, PRIVATE, SIGNER.public) == key
    flipped = bytearray(sealed)
    flipped[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    length = data.draw(st.integers(0, len(sealed) - 1))
    for content, under, private, public in (
        (sealed, name[:-1] + ("0" if name[-1] != "0" else "1"), PRIVATE, SIGNER.public),
        (sealed, name, bytes(range(2, 34)), SIGNER.public),
        (sealed, name, PRIVATE, STRANGER.public),
        (bytes(flipped), name, PRIVATE, SIGNER.public),
        (sealed[:length], name, PRIVATE, SIGNER.public),
        (sealed + b"\0", name, PRIVATE, SIGNER.public),
    ):
        with pytest.raises(NotReadableError):
            signed.unseal_key(under, content, private, public)


@a_while
@given(ids, times, st.data())
def test_a_tombstone_is_read_under_its_own_name_only(vault: str, since: str, data: Any) -> None:
    name, content = signed.tombstone(vault, since, SIGNER)
    assert signed.read_tombstone(name, content, SIGNER.public) == since
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for wrong, under, public in ((bytes(flipped), name, SIGNER.public), (content, name + "0", SIGNER.public), (content, name, PUBLIC)):
        with pytest.raises(NotReadableError):
            signed.read_tombstone(under, wrong, public)


# --- garbage ------------------------------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([1 << 64, -1, "0" * 32, "clips/a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def refused_or(kind: type, read: Any) -> None:
    """Whatever it is, it is read or refused by the one error."""
    with contextlib.suppress(NotReadableError):
        assert isinstance(read(), kind)


@a_while
@given(st.binary(max_size=300))
def test_garbage_of_any_kind_is_refused(data: bytes) -> None:
    name = SnapshotName("20261124T054500Z", "0" * 32)
    for read in (
        lambda: section.decode(data),
        lambda: section.decode(zlib.compress(data)),
        lambda: snapshot.head_size(b"GIGGLES" + data),
        lambda: snapshot.decode_head(name, data, bytes(32)),
        lambda: snapshot.decode_head(name, chunked.encrypt(bytes(32), names.head_context(name), data), bytes(32)),
        lambda: signed.unseal_key("x", data, PRIVATE, PUBLIC),
        lambda: signed.unseal_key("x", signed.sign(signed.KEY, "x", data, SIGNER), PRIVATE, SIGNER.public),
        lambda: signed.read_tombstone("x", data, PUBLIC),
        lambda: signed.read_tombstone("x", signed.sign(signed.LEDGER, "x", data, SIGNER), SIGNER.public),
        lambda: signed.read_receipt("x", data, PUBLIC),
        lambda: signed.read_receipt("x", signed.sign(signed.LEDGER, "x", data, SIGNER), SIGNER.public),
        lambda: signed.open_signed(signed.KEY, "x", data, data[:32]),
        lambda: kit.read(data.decode("utf-8", "replace")),
    ):
        with pytest.raises(NotReadableError):
            read()


@a_while
@given(st.dictionaries(st.sampled_from(["user", "packs", "files", "x"]), anything), st.data())
def test_json_of_any_shape_is_no_section_or_a_right_one(content: dict[str, Any], data: Any) -> None:
    right = {"user": "", "packs": [["0" * 32, 100, "A" * 74 + "A="]], "files": [["clips/a", 5, 0, "0" * 32, [[0, 0, 5]]]]}
    text = json.dumps({**right, **content} if data.draw(st.booleans()) else content).encode()
    refused_or(Section, lambda: section.decode(zlib.compress(text)))
    # One thing in what would be right is something else.
    changed = json.loads(json.dumps(right))
    place = changed["files"][0] if data.draw(st.booleans()) else changed["packs"][0]
    place[data.draw(st.integers(0, len(place) - 1))] = data.draw(anything)
    refused_or(Section, lambda: section.decode(zlib.compress(json.dumps(changed).encode())))


@a_while
@given(st.data())
def test_json_of_any_shape_is_no_head_or_a_right_one(data: Any) -> None:
    name = SnapshotName("20261124T054500Z", "0" * 32)
    part = {"vault": "0" * 32, "offset": 0, "length": 100, "sha256": "0" * 64, "files": 1, "bytes": 5}
    dump = {"id": "0" * 32, "bytes": 5, "sha256": "0" * 64, "server": "15.9"}
    content: Any = {"format": 1, "time": "2026-11-24T05:45:00Z", "number": 1, "previous": "", "dump": dump, "users": [part]}
    place = data.draw(st.sampled_from([content, part, dump]))
    place[data.draw(st.sampled_from([*place, "more"]))] = data.draw(anything)
    sealed = chunked.encrypt(bytes(32), names.head_context(name), json.dumps(content).encode())
    refused_or(Head, lambda: snapshot.decode_head(name, sealed, bytes(32)))


@a_while
@given(st.text(max_size=60) | snapshot_names.map(lambda name: name.text), st.data())
def test_what_is_no_name_is_none_and_never_another_ones(text: str, data: Any) -> None:
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from(["", "0", "٣", " ", "\n", "Z", ".", "-"])) + text[at:]
    found = names.snapshot_name(text)
    assert found is None or found.text == text


@a_while
@given(st.text() | st.integers() | st.none() | ids)
def test_an_id_is_one_or_not(text: object) -> None:
    assert names.is_id(text) == (isinstance(text, str) and len(text) == 32 and set(text) <= set("0123456789abcdef"))


def test_ids_are_never_the_same_twice() -> None:
    assert len({names.new_id() for _ in range(1000)}) == 1000
