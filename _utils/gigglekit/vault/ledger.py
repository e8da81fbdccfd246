"""What is remembered of erased users: a tombstone for each, and a journal while it is being done. Neither says a name.

Both are replaced by renaming, which leaves what they held before on the disk: so nothing may stand in them that has to go.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from gigglekit.files.replacing import replace
from gigglekit.vault.errors import VaultError
from gigglekit.vault.places import Places

_TOMBSTONES, _JOURNAL, _SUFFIX = "tombstones", "journal", ".json"


class Ledger:
    """Tombstones and journals, in a folder that only root can read.

    Arguments:
        places: where it lies.
    """

    def __init__(self, places: Places) -> None:
        self._folder = places.ledger

    def tombstone(self, vault_id: str) -> dict[str, Any] | None:
        """Return what is known of an erased user, None if this one was never asked to be erased."""
        return self._read(_TOMBSTONES, vault_id)

    def tombstones(self) -> list[str]:
        """Return the vault ids of all who were asked to be erased."""
        return self._names(_TOMBSTONES)

    def bury(self, vault_id: str, **facts: str | int) -> None:
        """Set a tombstone, or add facts to the one that stands."""
        before = self.tombstone(vault_id) or {"since": now()}
        self._write(_TOMBSTONES, vault_id, {**before, **facts})

    def journal(self, vault_id: str) -> dict[str, Any] | None:
        """Return how far an erasure has come, None if none is going on."""
        return self._read(_JOURNAL, vault_id)

    def unfinished(self) -> list[str]:
        """Return the vault ids of erasures that are going on."""
        return self._names(_JOURNAL)

    def note(self, vault_id: str, journal: dict[str, Any]) -> None:
        """Write down how far an erasure has come."""
        self._write(_JOURNAL, vault_id, journal)

    def close(self, vault_id: str) -> None:
        """Remove the journal of a finished erasure."""
        path = self._path(_JOURNAL, vault_id)
        self._tidy(path)
        path.unlink(missing_ok=True)

    def _path(self, kind: str, vault_id: str) -> Path:
        return self._folder / kind / f"{vault_id}{_SUFFIX}"

    def _names(self, kind: str) -> list[str]:
        folder = self._folder / kind
        if not folder.is_dir():
            return []
        return sorted(
            entry.name.removesuffix(_SUFFIX)
            for entry in folder.iterdir()
            if entry.name.endswith(_SUFFIX) and not entry.name.startswith(".")
        )

    def _read(self, kind: str, vault_id: str) -> dict[str, Any] | None:
        path = self._path(kind, vault_id)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise VaultError(
                f"{path} is damaged, so nothing was done. Put it back from a backup, or look what it says: cat {path}."
            ) from error
        if not isinstance(content, dict):
            raise VaultError(f"{path} is damaged: no object. Nothing was done. Put it back from a backup.")
        return content

    def _write(self, kind: str, vault_id: str, content: dict[str, Any]) -> None:
        path = self._path(kind, vault_id)
        for folder in (self._folder, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tidy(path)
        replace(path, json.dumps(content, sort_keys=True).encode() + b"\n", 0o600)

    @staticmethod
    def _tidy(path: Path) -> None:
        """Remove what a run that was killed while it wrote this file has left."""
        for unfinished in path.parent.glob(f".{path.name}.*"):
            unfinished.unlink(missing_ok=True)


def now() -> str:
    """Return the time as receipts and records have it: UTC, in seconds (RFC 3339)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
