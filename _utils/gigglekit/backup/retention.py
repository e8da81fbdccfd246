"""Which snapshots are kept: the newest of each of so many days, weeks and months, and always the newest of all."""

from __future__ import annotations

import time
from collections.abc import Iterable

from gigglekit.backup.names import SnapshotName
from gigglekit.backup.settings import Keep


def kept(snapshots: Iterable[SnapshotName], keep: Keep) -> set[SnapshotName]:
    """Return the snapshots that stay.

    Days without a snapshot do not count, so that a droplet that was off for a month does not lose what it had. Weeks begin on
    Monday; days, weeks and months are those of UTC.

    Arguments:
        snapshots: all there are.
        keep: how many.
    """
    newest_first = sorted(snapshots, reverse=True)
    result = set(newest_first[:1])
    for form, number in (("%Y-%m-%d", keep.daily), ("%G-%V", keep.weekly), ("%Y-%m", keep.monthly)):
        seen: set[str] = set()
        for snapshot in newest_first:
            period = time.strftime(form, time.gmtime(snapshot.seconds))
            if period not in seen and len(seen) < number:
                seen.add(period)
                result.add(snapshot)
    return result
