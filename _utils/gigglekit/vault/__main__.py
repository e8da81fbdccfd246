"""What the units of the vault run: `python -m gigglekit.vault COMMAND`. Operators use salt-call giggles.* instead."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gigglekit.vault.errors import VaultError
from gigglekit.vault.watch import WAITING

if TYPE_CHECKING:
    from gigglekit.vault.keyring import Keyring

_LOBBY_TRIES, _LOBBY_SECONDS, _LOBBY_PAUSE = 20, 5.0, 30.0
_APP_UNITS = ("giggles.service",)
_MOUNT_UNIT = "var-lib-giggles-uploads.mount"


def _unlock() -> int:
    from gigglekit.vault import places, unlock
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.ledger import Ledger
    from gigglekit.vault.volume import mounted

    here = places.Places()
    keyring, encrypted = Keyring(here), here.is_encrypted()
    # Without keys what follows says so. Not with the lock: whoever has it need not wait for the network.
    if keyring.exists() and keyring.lacks_share():
        _fetch_share(keyring)
    if not encrypted:
        print(f"Clips lie unencrypted on this droplet ({here.reason()}); there is nothing to unlock.")
        return 0
    with here.locked(), mounted(here) as volume:
        print(f"{unlock.unlock(volume, keyring, Ledger(here))} keys given to the kernel.")
    return 0


def _fetch_share(keyring: Keyring) -> None:
    # An entry point may know both; the vault itself knows nothing of the backup.
    from gigglekit.backup.shares import open_shares
    from gigglekit.vault.share import NoBucketError

    shares = open_shares()
    if shares is None:
        raise NoBucketError
    keyring.fetch_share(shares)
    print(f"The share of the key was fetched from {shares.place}.")


def _adopt() -> int:
    from gigglekit.vault import adopt, places
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.ledger import Ledger
    from gigglekit.vault.volume import mounted

    here = places.Places()
    with here.locked(), mounted(here) as volume:
        done = adopt.adopt_all(volume, Keyring(here), Ledger(here))
    if done.folders or done.refused:
        print(f"{done.folders} folders with {done.files} files adopted; {done.refused} of erased users refused.")
    for problem in done.problems:
        print(problem, file=sys.stderr)
    return 1 if done.problems else WAITING if done.waiting else 0


def _watch() -> int:
    from gigglekit.vault.watch import watch

    watch(Path("/var/lib/giggles/uploads"), [sys.executable, "-s", "-m", "gigglekit.vault", "adopt"])
    return 0


def _renew_lobby() -> int:
    from gigglekit.vault import lobby, places
    from gigglekit.vault.keyring import Keyring
    from gigglekit.vault.ledger import Ledger
    from gigglekit.vault.volume import mounted

    here = places.Places()
    if not here.is_encrypted():
        return 0
    for attempt in range(_LOBBY_TRIES):
        # Not locked all the time: an erasure does not wait for somebody who is slow to close a file.
        time.sleep(_LOBBY_PAUSE if attempt else 0)
        with here.locked(), mounted(here) as volume:
            renewed = lobby.renew(volume, Keyring(here), Ledger(here), seconds=_LOBBY_SECONDS)
        if renewed.complete:
            break
    else:
        print(f"The lobby's old key is still needed for {renewed.waiting_for}; the next run tries again.", file=sys.stderr)
        return 1
    print("The lobby has a new key, and the old one is gone.")
    return 0


def _switch(device: str) -> int:
    from gigglekit.vault import migrate, places

    here = places.Places()
    with here.locked():
        migrate.switch(
            here,
            Path(device),
            Path("/opt/giggles/nightly.lock"),
            stop_app=lambda: _system("stop", *_APP_UNITS),
            mount=lambda: _system("start", _MOUNT_UNIT),
        )
    return 0


def _after_switch() -> int:
    """However far the switch came, leave the app with its clips."""
    from gigglekit.vault import places

    here = places.Places()
    if here.before.exists() and not os.path.ismount(here.uploads):
        _system("start", _MOUNT_UNIT)
    return _unlock() if os.path.ismount(here.uploads) else 0


def _system(*arguments: str) -> None:
    from gigglekit.command import run

    done = run(["systemctl", *arguments], seconds=300)
    if done.code != 0:
        raise VaultError(f"systemctl {' '.join(arguments)} failed: {done.last_words}. Look at its journal, then apply again.")


def _show_in_status(text: str) -> None:
    """Have `systemctl status` show why this unit waits to be tried again: of its journal it shows nothing then.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("/"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.sendto(f"STATUS={text}".encode(), address)


def main() -> int:
    """Run the command that the process arguments name; errors are one paragraph on standard error."""
    parser = argparse.ArgumentParser(prog="vault", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("unlock", "adopt", "watch", "renew-lobby", "after-switch"):
        commands.add_parser(name)
    commands.add_parser("switch").add_argument("device")
    given = parser.parse_args()
    try:
        if given.command == "switch":
            return _switch(given.device)
        acts = {"unlock": _unlock, "adopt": _adopt, "watch": _watch, "renew-lobby": _renew_lobby, "after-switch": _after_switch}
        return acts[given.command]()
    except VaultError as error:
        words = str(error)
    except OSError as error:
        words = f"{error.filename or 'The vault'}: {error.strerror}. Look at df, dmesg and systemctl status giggles-vault-unlock."
    print(words, file=sys.stderr)
    _show_in_status(words)
    return 1


if __name__ == "__main__":
    sys.exit(main())
