"""Receipts: what was erased, how and when, signed, and chained so that none can be changed, left out or moved.

A receipt is a folder `NNNNNN` with two files: `receipt.json`, canonical JSON, and `receipt.sig`, the Ed25519 signature of
exactly those bytes. It holds the SHA-256 of the `receipt.json` before it. docs/ERASURE.md shows how to check one with
openssl alone.

Sources: Ed25519, RFC 8032; canonical JSON as RFC 8785 has it for texts, whole numbers and objects with ASCII keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import Any

from gigglekit.crypto import signing
from gigglekit.files.replacing import replace
from gigglekit.vault.errors import VaultError
from gigglekit.vault.ledger import Ledger
from gigglekit.vault.places import Places

FORMAT = "giggles-salt/receipt/1"
_NUMBER = re.compile(r"\d{6,}")
_PRIVATE, _PUBLIC = "receipts.key", "receipts.pub"
_CONTENT, _SIGNATURE = "receipt.json", "receipt.sig"


@dataclass(frozen=True)
class Verdict:
    """What checking the receipts found.

    Arguments:
        checked: how many receipts were looked at.
        problems: one sentence each; empty if every receipt is as it was signed, and none is missing.
    """

    checked: int
    problems: tuple[str, ...]


def canonical(content: dict[str, Any]) -> bytes:
    """Return the one way to write an object of texts, whole numbers, lists and objects as JSON (RFC 8785)."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Receipts:
    """The receipts of a droplet, and the key that signs them.

    Arguments:
        places: where they lie.
    """

    def __init__(self, places: Places) -> None:
        self._folder = places.ledger / "receipts"
        self._private = places.keys / _PRIVATE
        self._public = self._folder / _PUBLIC
        self._ledger = Ledger(places)

    def prepare(self, *, dry_run: bool = False) -> bool:
        """Have a signing key, and its public half beside the receipts; return whether something was (or would be) made."""
        if self._private.exists() and self._public.exists():
            return False
        if not dry_run:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._private.exists():
                if any(True for _ in self.numbers()):
                    raise VaultError(
                        f"{self._private} is gone, although there are receipts signed by it. Nothing was changed. Put it back with the "
                        "recovery kit, so that new receipts can be checked by the same public key: docs/BACKUP_AND_RESTORE.md"
                    )
                self._private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace(self._private, signing.private_pem(signing.new()), 0o600)
            replace(self._public, self.public_key(), 0o600)
        return True

    def public_key(self) -> bytes:
        """Return the public key that checks the receipts, as PEM."""
        return signing.public_pem(signing.public_of(self._key()))

    def _key(self) -> bytes:
        try:
            return signing.from_private_pem(self._private.read_bytes())
        except (OSError, signing.NoKeyError) as error:
            raise VaultError(
                f"The key that signs receipts, {self._private}, cannot be used. The recovery kit brings it back: salt-call "
                "giggles.restore kit=/root/kit.txt. On a droplet without receipts salt-call state.apply vault makes one."
            ) from error

    def signing_key(self) -> bytes:
        """Return the private key, 32 bytes: the backup signs with it too."""
        return self._key()

    def take_over(self, private: bytes) -> None:
        """Sign with the key of a droplet that is gone, out of its backup.

        Raises:
            VaultError: there are receipts here already that another key has signed.
        """
        self.insist_on_room(private)
        ours = signing.public_pem(signing.public_of(private))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, pem in ((self._private, signing.private_pem(private)), (self._public, ours)):
            if not path.exists() or path.read_bytes() != pem:
                replace(path, pem, 0o600)

    def insist_on_room(self, private: bytes) -> None:
        """Go on only if the receipts of another droplet can be taken over; nothing is changed.

        Raises:
            VaultError: there are receipts here already that another key has signed.
        """
        ours = signing.public_pem(signing.public_of(private))
        if self.numbers() and not (self._public.exists() and self._public.read_bytes() == ours):
            raise VaultError(
                f"Receipts in {self._folder} were signed by another key than the backup's, so that the two cannot become one. Nothing was "
                "changed. Keep a copy of that folder elsewhere, remove it and the tombstones beside it, then ask again."
            )

    def raw(self, number: int) -> tuple[bytes, bytes]:
        """Return a receipt and its signature, byte for byte.

        Raises:
            VaultError: there is none of this number.
        """
        folder = self._folder / f"{number:06d}"
        try:
            return (folder / _CONTENT).read_bytes(), (folder / _SIGNATURE).read_bytes()
        except OSError as error:
            raise VaultError(f"There is no receipt {number} that can be read. salt-call giggles.receipts lists those there are.") from error

    def put_back(self, number: int, content: bytes, signature: bytes) -> bool:
        """Keep a receipt out of the backup; return whether it was not there."""
        folder = self._folder / f"{number:06d}"
        if folder.exists():
            return False
        unfinished = self._folder / f".{number:06d}"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700, parents=True)
        replace(unfinished / _CONTENT, content, 0o600)
        replace(unfinished / _SIGNATURE, signature, 0o600)
        unfinished.rename(folder)
        return True

    def numbers(self) -> list[int]:
        """Return the numbers of all receipts, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._folder.iterdir() if _NUMBER.fullmatch(entry.name))

    def read(self, number: int) -> dict[str, Any]:
        """Return what a receipt says; `check` says whether to believe it.

        Raises:
            VaultError: there is none of this number, or it cannot be read.
        """
        try:
            content = json.loads((self._folder / f"{number:06d}" / _CONTENT).read_bytes())
        except (OSError, ValueError) as error:
            raise VaultError(f"There is no receipt {number} that can be read. salt-call giggles.receipts lists those there are.") from error
        return dict(content)

    def issue(self, content: dict[str, Any]) -> int:
        """Sign a receipt, chain it to the one before, and keep it.

        Issuing the same content again, after a run that was killed, returns the receipt that is there.

        Arguments:
            content: texts, whole numbers, lists and objects.

        Returns:
            The receipt's number.
        """
        numbers = self.numbers()
        for number in reversed(numbers):
            # Others may have been erased since that run was killed.
            if {**self.read(number), "number": 0, "previous": ""} == {**content, "format": FORMAT, "number": 0, "previous": ""}:
                return number
        number = (numbers[-1] if numbers else 0) + 1
        before = (self._folder / f"{numbers[-1]:06d}" / _CONTENT).read_bytes() if numbers else b""
        previous = hashlib.sha256(before).hexdigest() if numbers else ""
        text = canonical({**content, "format": FORMAT, "number": number, "previous": previous})
        unfinished = self._folder / f".{number:06d}"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700, parents=True)
        replace(unfinished / _CONTENT, text, 0o600)
        replace(unfinished / _SIGNATURE, signing.sign(self._key(), text), 0o600)
        unfinished.rename(self._folder / f"{number:06d}")
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return number

    def check(self) -> Verdict:
        """Check every receipt: its signature, its number, its link to the one before, and that none is missing."""
        problems: list[str] = []
        numbers = self.numbers()
        public = signing.public_of(self._key())
        previous = ""
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                problems.append(f"Receipt {expected} is missing.")
                break
            problems += [f"Receipt {number} {what}" for what in self._faults(number, previous, public)]
            try:
                previous = hashlib.sha256((self._folder / f"{number:06d}" / _CONTENT).read_bytes()).hexdigest()
            except OSError:
                previous = "missing"
        for vault_id in self._ledger.tombstones():
            # Nothing is chained to the newest receipt yet; the tombstones know of it.
            known = (self._ledger.tombstone(vault_id) or {}).get("receipt")
            if known is not None and known not in numbers:
                problems.append(f"Receipt {known} is missing, although a user was erased with it.")
        return Verdict(len(numbers), tuple(dict.fromkeys(problems)))

    def _faults(self, number: int, previous: str, public: bytes) -> list[str]:
        folder = self._folder / f"{number:06d}"
        try:
            text, signature = (folder / _CONTENT).read_bytes(), (folder / _SIGNATURE).read_bytes()
        except OSError as error:
            return [f"cannot be read: {error.strerror}."]
        try:
            signing.verify(public, signature, text)
        except signing.WrongSignatureError:
            return ["is not as it was signed: it, or its signature, was changed."]
        content = json.loads(text)
        faults = []
        if content.get("number") != number:
            faults.append(f"was signed as number {content.get('number')}: receipts were moved.")
        if content.get("previous") != previous:
            faults.append("does not follow the one before it: one was taken out, put in or exchanged.")
        return faults
