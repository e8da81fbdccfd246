"""Files that change what a unit says: drop-ins beside it, as `systemctl edit` and `systemctl set-property` leave them, and
a file of its name that is read instead of the package's, as `systemctl edit --full` leaves it.

Source: systemd.unit(5), "drop-in" files and the load path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..dpkg import strays
from ..dpkg.ownership import DATABASE

PACKAGED = ("usr/lib/systemd/system", "lib/systemd/system")
PLACES = ("etc/systemd/system", "etc/systemd/system.control", "run/systemd/system", "run/systemd/system.control")


def folders(unit: str) -> list[str]:
    """Return the names of the folders whose files change a unit: its own, and those it shares by the beginning of its name.

    Folders for all units of a kind (`service.d`) are left to whoever looks after the whole machine.

    Arguments:
        unit: with its suffix. For `giggles-certbot.timer` these are `giggles-certbot.timer.d` and `giggles-.timer.d`.
    """
    stem, _, kind = unit.rpartition(".")
    parts = stem.split("-")
    shared = ["-".join(parts[:count]) + f"-.{kind}.d" for count in range(len(parts) - 1, 0, -1)]
    return [f"{unit}.d", *shared]


def find(units: Sequence[str], root: Path = Path("/"), database: Path = DATABASE) -> list[str]:
    """Return the drop-ins of units that no package brought, and what is read in the place of packages' units; sorted.

    Arguments:
        units: with their suffixes.
        root: where the file system begins.
        database: dpkg's database.

    Raises:
        OwnershipError: dpkg's lists cannot be read.
    """
    names = dict.fromkeys(name for unit in units for name in folders(unit))
    return sorted(strays.find({str(root / place / name): [] for place in PLACES for name in names}, database) + _replacing(units, root))


def _replacing(units: Sequence[str], root: Path) -> list[str]:
    found = []
    for unit in units:
        packaged = next((path for path in (root / place / unit for place in PACKAGED) if path.is_file()), None)
        if packaged is None:
            continue
        for path in (root / place / unit for place in PLACES):
            # A mask is lifted by whoever wants the unit to run, and a link to the package's own unit changes nothing.
            if os.path.lexists(path) and path.resolve() not in (Path("/dev/null"), packaged.resolve()):
                found.append(str(path))
    return found


def remove(path: str) -> None:
    """Remove one drop-in, and its folder with the last one in it; or a file that replaced a unit.

    Arguments:
        path: from `find`.

    Raises:
        OSError: it cannot be removed.
    """
    strays.remove(path)
    folder = Path(path).parent
    if folder.suffix == ".d":
        # Another one may still be in it.
        with contextlib.suppress(OSError):
            folder.rmdir()
