"""A receipt can be checked by anybody, and none can be changed, taken out, put in or moved unseen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from gigglekit.crypto import signing
from gigglekit.vault import receipt
from gigglekit.vault.errors import VaultError
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import Places
from gigglekit.vault.receipt import Receipts

from tests.unit.killing import killed_before
from tests.unit.vault_volume import Droplet


class Book:
    """A ledger with receipts in it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.places = Places(keys=folder / "keys", ledger=folder / "ledger")
        self.receipts, self.ledger = Receipts(self.places), Ledger(self.places)
        self.folder = folder / "ledger" / "receipts"
        self.receipts.prepare()
        for number in range(1, count + 1):
            assert self.receipts.issue({"subject": f"{number:032x}", "copies": []}) == number
            self.ledger.bury(f"{number:032x}", receipt=number)

    def file(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06d}" / name

    def problems(self) -> tuple[str, ...]:
        return self.receipts.check().problems


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path, 4)


def test_receipts_as_they_were_written_have_no_faults(book: Book) -> None:
    assert book.receipts.check() == receipt.Verdict(4, ())
    assert Receipts(Places(keys=book.places.keys, ledger=book.places.ledger)).numbers() == [1, 2, 3, 4]


def verify(public: Path, folder: Path) -> int:
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", "receipt.json", "-sigfile", "receipt.sig"]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False).returncode


def test_openssl_alone_checks_a_receipt_from_its_files(book: Book, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(book.folder, copied)
    for number in (1, 2, 3, 4):
        assert verify(copied / "receipts.pub", copied / f"{number:06d}") == 0
    previous = subprocess.run(["sha256sum", copied / "000002" / "receipt.json"], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert json.loads((copied / "000003" / "receipt.json").read_text())["previous"] == previous
    text = bytearray((copied / "000003" / "receipt.json").read_bytes())
    text[20] ^= 1
    (copied / "000003" / "receipt.json").write_bytes(text)
    assert verify(copied / "receipts.pub", copied / "000003") != 0


@pytest.mark.parametrize("name", ["receipt.json", "receipt.sig"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_one_changed_byte_is_found_wherever_it_is(book: Book, number: int, name: str) -> None:
    path = book.file(number, name)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert any(f"Receipt {number} is not as it was signed" in problem for problem in book.problems()), place
    path.write_bytes(content)
    assert book.problems() == ()


def take_out(number: int) -> Callable[[Book], None]:
    return lambda book: shutil.rmtree(book.folder / f"{number:06d}")


def swap(book: Book) -> None:
    book.file(2, "").rename(book.folder / "aside")
    book.file(3, "").rename(book.file(2, ""))
    (book.folder / "aside").rename(book.file(3, ""))


def put_in(book: Book) -> None:
    shutil.copytree(book.file(2, ""), book.file(5, ""))


def replace_by_another(book: Book) -> None:
    shutil.rmtree(book.file(3, ""))
    shutil.copytree(book.file(2, ""), book.file(3, ""))


def close_the_gap(book: Book) -> None:
    shutil.rmtree(book.file(2, ""))
    book.file(3, "").rename(book.file(2, ""))
    book.file(4, "").rename(book.file(3, ""))


def lose_a_file(book: Book) -> None:
    book.file(2, "receipt.sig").unlink()


def empty_it(book: Book) -> None:
    book.file(2, "receipt.json").write_bytes(b"")


def copy_under_a_longer_name(book: Book) -> None:
    shutil.copytree(book.file(2, ""), book.folder / "0000002")


@pytest.mark.parametrize(
    "spoil",
    [
        take_out(1),
        take_out(2),
        take_out(4),
        swap,
        put_in,
        replace_by_another,
        close_the_gap,
        lose_a_file,
        empty_it,
        copy_under_a_longer_name,
    ],
    ids=[
        "first gone",
        "middle gone",
        "last gone",
        "two swapped",
        "copy added",
        "copy instead",
        "gap closed",
        "file lost",
        "emptied",
        "longer name",
    ],
)
def test_what_was_taken_out_put_in_or_moved_is_found(book: Book, spoil: Callable[[Book], None]) -> None:
    spoil(book)
    assert book.problems() != ()


def test_a_receipt_signed_by_another_key_is_found(book: Book, tmp_path: Path) -> None:
    other = Book(tmp_path / "other", 4)
    shutil.rmtree(book.file(4, ""))
    shutil.copytree(other.file(4, ""), book.file(4, ""))
    assert any("Receipt 4" in problem for problem in book.problems())


def test_a_receipt_of_another_history_signed_by_the_same_key_is_found(book: Book, tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    earlier = Places(keys=book.places.keys, ledger=tmp_path / "earlier" / "ledger")
    shutil.copytree(book.places.ledger, earlier.ledger)
    for number in (3, 4):
        shutil.rmtree(earlier.ledger / "receipts" / f"{number:06d}")
    assert Receipts(earlier).issue({"subject": "somebody else", "copies": []}) == 3
    shutil.rmtree(book.file(3, ""))
    shutil.copytree(earlier.ledger / "receipts" / "000003", book.file(3, ""))
    assert book.problems() == ("Receipt 4 does not follow the one before it: one was taken out, put in or exchanged.",)


def test_the_same_content_gets_no_second_receipt_even_after_others(book: Book) -> None:
    assert book.receipts.issue({"subject": f"{2:032x}", "copies": []}) == 2
    assert book.receipts.numbers() == [1, 2, 3, 4]


def test_killed_anywhere_while_one_is_issued_there_is_one_in_the_end(tmp_path: Path) -> None:
    book = Book(tmp_path, 1)
    call = 0
    killed = True
    while killed:
        call += 1
        content = {"subject": f"{call + 1:032x}", "copies": []}
        killed = killed_before(call, lambda content=content: book.receipts.issue(content))  # type: ignore[misc]
        assert book.problems() == (), f"killed before call {call}"
        assert book.receipts.issue(content) == call + 1
        assert book.problems() == ()
        assert list(book.folder.glob(".*")) == []
    assert call > 8


def test_without_its_key_no_receipt_is_signed_and_no_other_key_is_made(book: Book) -> None:
    (book.places.keys / "receipts.key").unlink()
    with pytest.raises(VaultError, match="Nothing was changed"):
        book.receipts.prepare()
    with pytest.raises(VaultError, match="cannot be used"):
        book.receipts.issue({"subject": "new"})
    assert book.receipts.numbers() == [1, 2, 3, 4]


def test_a_lost_public_key_is_written_again(book: Book) -> None:
    public = book.folder / "receipts.pub"
    before = public.read_bytes()
    public.unlink()
    assert book.receipts.prepare(dry_run=True)
    assert not public.exists()
    assert book.receipts.prepare()
    assert (public.read_bytes(), book.receipts.prepare()) == (before, False)


def test_there_is_no_receipt_of_another_number(book: Book) -> None:
    with pytest.raises(VaultError, match="There is no receipt 9"):
        book.receipts.read(9)


def test_canonical_json_is_that_of_rfc_8785() -> None:
    content = {"b": 1, "a": {"é": '€\u2028\x07"\\/', "A": [True, None]}}
    assert receipt.canonical(content) == '{"a":{"A":[true,null],"é":"€\u2028\\u0007\\"\\\\/"},"b":1}'.encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_receipt_holds_no_name_no_key_and_no_path(droplet: Droplet) -> None:
    user, other = droplet.adopted(2)
    root = droplet.keyring.root_key(droplet.vault_id(user))
    assert root is not None
    wrapped = next(droplet.places.keys.rglob(f"{droplet.vault_id(user)}.key")).read_bytes()
    kek = next(droplet.places.keys.rglob("key-encryption-key")).read_bytes()
    number = droplet.shred(user).receipt
    text = (droplet.places.ledger / "receipts" / f"{number:06d}" / "receipt.json").read_text()
    said = json.loads(text)
    assert said["subject"] == droplet.vault_id(user)
    assert user not in text
    assert user.replace("-", "") not in text
    assert not any(f"{folder}/" in text for folder in ("uploads", "clips", "audio", "vaults", str(droplet.folder)))
    assert not any(secret.hex() in text for secret in (root, wrapped, kek))
    assert droplet.vault_id(other) not in text
    assert {copy["copy"] for copy in said["copies"]} == {"clips and audio", "key ring", "lobby", "legacy clips", "database", "backup"}
    assert all(copy["method"] and copy["risk"] and copy["time"] for copy in said["copies"])
    assert verify(droplet.places.ledger / "receipts" / "receipts.pub", droplet.places.ledger / "receipts" / f"{number:06d}") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_ledger_names_no_erased_user(droplet: Droplet) -> None:
    (user,) = droplet.adopted()
    droplet.shred(user)
    for path in droplet.places.ledger.rglob("*"):
        assert user not in path.name
        assert not path.is_file() or user.encode() not in path.read_bytes()


def test_a_lost_signing_key_comes_back_and_a_strangers_is_refused(droplet: Droplet) -> None:
    droplet.receipts.issue({"subject": "x"})
    private = droplet.receipts.signing_key()
    (droplet.places.keys / "receipts.key").unlink()
    with pytest.raises(VaultError, match="another key"):
        droplet.receipts.take_over(signing.new())
    droplet.receipts.take_over(private)
    assert droplet.receipts.signing_key() == private
    assert droplet.receipts.check().problems == ()
