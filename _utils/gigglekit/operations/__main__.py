"""What the backup's units run, and what works without Salt: `python -m gigglekit.operations COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gigglekit.backup.errors import BackupError
from gigglekit.operations.droplet import Droplet
from gigglekit.vault.errors import VaultError


def _sync(droplet: Droplet, given: argparse.Namespace) -> dict[str, Any]:
    from gigglekit.operations import saving

    try:
        done = saving.sync(droplet, anyway=given.anyway)
    except (BackupError, VaultError, OSError):
        if saving.is_prune_due(droplet, postponed=True):
            # Why the backup failed is what has to be told.
            with contextlib.suppress(BackupError, VaultError, OSError):
                saving.end_dumps(droplet)
        raise
    if saving.is_prune_due(droplet, postponed=bool(done["problems"])):
        done["pruned"] = saving.prune(droplet)
        for told in ("problems", "notes"):
            done[told] += done["pruned"].pop(told)
    return done


def _prune(droplet: Droplet, _: argparse.Namespace) -> dict[str, Any]:
    from gigglekit.operations import saving

    return saving.prune(droplet)


def _drill(droplet: Droplet, _: argparse.Namespace) -> dict[str, Any]:
    from gigglekit.operations import checking

    return checking.drill(droplet)


def _verify(droplet: Droplet, given: argparse.Namespace) -> dict[str, Any]:
    from gigglekit.operations import checking

    return checking.verify(droplet, fraction=checking.fraction_of(given.read_data))


def _restore(droplet: Droplet, given: argparse.Namespace) -> dict[str, Any]:
    from gigglekit.operations import restoring

    text = given.kit.read_text(errors="replace") if given.kit else None
    return restoring.restore(
        droplet, user=given.user_id, snapshot=given.snapshot, target=given.target, kit_text=text, path=given.path, replace=given.replace
    )


def main() -> int:
    """Run the command that the process arguments name; errors are one paragraph on standard error."""
    parser = argparse.ArgumentParser(prog="backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync").add_argument("--anyway", action="store_true", help="go on although another droplet made snapshots there")
    commands.add_parser("prune")
    commands.add_parser("drill")
    commands.add_parser("verify").add_argument("--read-data", default="none", help="all, none, or a part such as 1%%")
    restore = commands.add_parser("restore", help="works on a machine that knows nothing but the recovery kit, too")
    restore.add_argument("--kit", type=Path, help="file with the recovery kit")
    restore.add_argument("--target", help="folder to restore into; without it, where the app looks")
    restore.add_argument("--user-id")
    restore.add_argument("--snapshot")
    restore.add_argument("--path", help="only files whose path begins so")
    restore.add_argument("--replace", action="store_true", help="clips that are there with another content give way")
    given = parser.parse_args()
    acts: dict[str, Callable[[Droplet, argparse.Namespace], dict[str, Any]]] = {
        "sync": _sync, "prune": _prune, "drill": _drill, "verify": _verify, "restore": _restore,
    }  # fmt: skip
    try:
        done = acts[given.command](Droplet(), given)
    except (BackupError, VaultError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'The backup'}: {error.strerror}. Look at df and dmesg, then ask again.", file=sys.stderr)
        return 1
    problems, notes = done.pop("problems", []), done.pop("notes", [])
    print(json.dumps(done, sort_keys=True))
    for sentence in (*problems, *notes):
        print(sentence, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
