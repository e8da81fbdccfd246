"""What giggles-delivery.service runs: `python -m gigglekit.delivery send|receive`, as the app's account. By hand: `refuse ID`.

Which bucket and which key stand in a file that systemd hands over (LoadCredential=), since that account may not read it itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from gigglekit.backup import settings
from gigglekit.backup.bucket import Bucket
from gigglekit.backup.errors import BackupError
from gigglekit.delivery.parcel import Keys, ParcelError
from gigglekit.delivery.receiving import receive, refuse
from gigglekit.delivery.sending import send

CLIPS = Path("/var/lib/giggles/uploads/clips")
STORED = Path("/var/lib/giggles-delivery")
_PATIENCE_SECONDS = 24 * 3600
"""A clip that is no further after so long is a failure that somebody has to look at."""


def load(path: Path) -> tuple[settings.Settings, Keys]:
    """Return what the settings say.

    Raises:
        ValueError: one line that says what is wrong. It repeats no secret.
        OSError: they cannot be read.
    """
    try:
        said = json.loads(path.read_bytes())
        return settings.parse(json.dumps(said["bucket"]).encode()), Keys(bytes.fromhex(said["key"]))
    except (KeyError, TypeError):
        raise ValueError("it lacks bucket or key") from None


def main(arguments: list[str]) -> int:
    """Send, receive or refuse; say in one line what came of it, and in further ones what is wrong."""
    if arguments not in (["send"], ["receive"]) and (len(arguments) != 2 or arguments[0] != "refuse"):
        print("gigglekit.delivery takes one word, send or receive, or two: refuse and the id of a parcel.", file=sys.stderr)
        return 2
    place = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/etc/giggles")) / "delivery.json"
    try:
        chosen, keys = load(place)
        bucket = Bucket(chosen)
        if arguments[0] == "refuse":
            refuse(bucket, keys, arguments[1])
            print("It was refused. The droplet that made the clip removes it with its next run.")
            return 0
        if arguments == ["receive"]:
            received = receive(bucket, keys, CLIPS, STORED)
            told, problems = dataclasses.asdict(received), received.problems
        else:
            sent = send(bucket, keys, CLIPS)
            told, problems = dataclasses.asdict(sent), sent.problems
            if sent.oldest > _PATIENCE_SECONDS:
                problems.append(
                    f"{sent.waiting} clips have no receipt, the oldest for {sent.oldest / 3600:.0f} hours. They are kept here. "
                    "Look at the droplet that serves them: systemctl status giggles-delivery."
                )
    except ParcelError as error:
        print(f"Nothing was refused: {error}. Take the id from journalctl -u giggles-delivery.", file=sys.stderr)
        return 1
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"Clips were not delivered ({reason}). salt-call state.apply delivery writes the settings anew; see df too.", file=sys.stderr)
        return 1
    told.pop("problems")
    print(json.dumps(told, sort_keys=True))
    for sentence in problems:
        print(sentence, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
