"""Where the vault lies, and who may work on it."""

from __future__ import annotations

import contextlib
import grp
import json
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gigglekit.files.draining import Owner
from gigglekit.files.locking import only_one
from gigglekit.files.replacing import replace
from gigglekit.vault.errors import BusyError, RefusedError, VaultError

KINDS = ("clips", "audio")
"""What a user has a folder of."""
LOBBY = ("clips", "audio", "temp")
"""What the app expects below its upload folder."""
VAULTS = "vaults"
ENCRYPTED, PLAIN = "encrypted", "plain"

_USER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class Places:
    """The folders of one droplet.

    Arguments:
        uploads: where the app keeps clips; the root of the encrypted volume.
        keys: root keys, key-encryption key, signing key; on another file system than `uploads`.
        ledger: tombstones, journals and receipts of shreds.
        configuration: says how this droplet keeps clips; written when it converges.
        lock: whoever changes anything holds it.
        user: account that the app runs as.
        group: its group.
        memory: what must never lie on a disk, on a file system of its own that is never swapped.
    """

    uploads: Path = Path("/var/lib/giggles/uploads")
    keys: Path = Path("/etc/giggles/keys")
    ledger: Path = Path("/var/lib/giggles/ledger")
    configuration: Path = Path("/etc/giggles/vault.json")
    lock: Path = Path("/run/giggles/vault.lock")
    user: str = "giggles"
    group: str = "giggles"
    memory: Path = Path("/run/giggles/keys")

    @property
    def staging(self) -> Path:
        """Where a new volume is mounted while the clips of the app are still elsewhere."""
        return self.uploads.with_name(f"{self.uploads.name}.new")

    @property
    def before(self) -> Path:
        """Where the clips lie that were there before the volume, until they are erased."""
        return self.uploads.with_name(f"{self.uploads.name}.before")

    def owner(self) -> Owner:
        """Return whose clips are.

        Raises:
            VaultError: the account does not exist.
        """
        try:
            return Owner(pwd.getpwnam(self.user).pw_uid, grp.getgrnam(self.group).gr_gid)
        except KeyError as error:
            raise VaultError(f"The account {self.user} does not exist here. Apply it first: salt-call state.apply app.account.") from error

    def mode(self) -> str | None:
        """Return `ENCRYPTED` or `PLAIN`, None before the concern `vault` was applied."""
        try:
            return str(json.loads(self.configuration.read_text())["mode"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise VaultError(f"{self.configuration} is damaged. salt-call state.apply vault writes it anew.") from error

    def reason(self) -> str:
        """Return why clips are kept as they are, "" if that needs no reason."""
        try:
            return str(json.loads(self.configuration.read_text()).get("reason", ""))
        except (OSError, ValueError, AttributeError):
            return ""

    def is_encrypted(self) -> bool:
        """Tell whether clips are encrypted here.

        Raises:
            VaultError: nobody knows: the concern `vault` was never applied.
        """
        mode = self.mode()
        if mode is None:
            raise VaultError("This droplet has no vault yet. Apply it first: salt-call state.apply vault.")
        return mode == ENCRYPTED

    def configure(self, mode: str, reason: str = "") -> None:
        """Write down how clips are kept."""
        content = json.dumps({"mode": mode, **({"reason": reason} if reason else {})}, sort_keys=True) + "\n"
        replace(self.configuration, content.encode(), 0o644)

    @contextlib.contextmanager
    def locked(self, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
        """Be the only one who changes the vault during the block.

        Arguments:
            seconds: how long to wait for others.

        Raises:
            BusyError: somebody else was at work for all that time.
        """
        self.lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with only_one(
            self.lock,
            seconds=seconds,
            pause=0.02,
            busy=lambda: BusyError(
                f"Something else has been working on the vault for {seconds:.0f} s (see fuser -v {self.lock}), so nothing was done. Wait "
                "for it to end, then ask again."
            ),
        ):
            yield


def is_user_id(text: str) -> bool:
    """Tell whether this is a user's id as the app writes it: a UUID in lower case with hyphens."""
    return _USER_ID.fullmatch(text) is not None


def user_id(value: object) -> str:
    """Return a user id that was given by a person.

    Raises:
        RefusedError: it is none; the message does not repeat it.
    """
    if isinstance(value, str) and is_user_id(value):
        return value
    if isinstance(value, str) and is_user_id(value.lower()):
        why = "it has upper-case letters, and the app writes ids in lower case"
    elif isinstance(value, str) and not value:
        why = "it is empty"
    elif isinstance(value, str):
        why = "it is no UUID"
    else:
        why = "none was given" if value is None else "it is a list, a number or the like, and one text is needed"
    raise RefusedError(
        f"This is no user's id: {why}. Nothing was erased. Give it as the app's database has it, for example "
        "user_id=6f1c1b1e-1111-4222-8333-944445555666; salt-call giggles.vaults lists those that have a vault."
    )
