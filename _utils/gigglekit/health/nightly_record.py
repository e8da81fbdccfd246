"""What systemd runs before and after each nightly run: `python -m gigglekit.health.nightly_record begin|end`.

`begin` notes when the run began, marks the place in the log, and counts the recordings that lie there. `end` puts together what
the log, systemd, the folders and the database say, and records the verdict; systemd runs it after a crash and a kill as well. A
note that is still there when the next run begins is of a run that nobody saw end: the droplet went down. That is recorded then.

Neither ever fails or holds up the job: what cannot be had is left out, and their units limit the time.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gigglekit import records
from gigglekit.files.replacing import replace
from gigglekit.health import nightly_database, nightly_files, nightly_log
from gigglekit.health.nightly import Ending, Night, Seen, judge, observe

KEPT_NIGHTS = 2000
_USUAL_NIGHTS = 5
"""So many nights in a row have to have found clips before a night without any is out of the ordinary."""
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_MOST_NOTE_BYTES = 4096


@dataclass(frozen=True)
class Places:
    """Where everything lies.

    Arguments:
        records: folder of the records.
        note: what `begin` leaves for `end`; it outlives a restart of the droplet.
        log: of the nightly job.
        uploads: the app's upload folder.
        groups: where control groups are mounted.
        process: of this process, in proc(5).
    """

    records: Path = records.FOLDER
    note: Path = Path("/var/lib/giggles/nightly-begun.json")
    log: Path = nightly_log.PATH
    uploads: Path = nightly_files.UPLOADS
    groups: Path = Path("/sys/fs/cgroup")
    process: Path = Path("/proc/self")


@dataclass(frozen=True)
class Begun:
    """What is known of a run from its beginning; None where it is not.

    Arguments:
        time: when (RFC 3339, UTC).
        uptime: seconds since the droplet started, by a clock that nobody sets.
        boot: which start of the droplet.
        word: what marks the place in the log.
        recordings: how many lay there.
    """

    time: str | None = None
    uptime: float | None = None
    boot: str | None = None
    word: str | None = None
    recordings: int | None = None

    @property
    def moment(self) -> float | None:
        """When, in seconds since the epoch."""
        try:
            return float(calendar.timegm(time.strptime(self.time or "", _FORMAT)))
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True)
class Recorder:
    """Notes and records runs.

    Arguments:
        places: where everything lies.
        boot: which start of the droplet this is.
    """

    places: Places = field(default_factory=Places)
    boot: str = field(default_factory=lambda: _text(Path("/proc/sys/kernel/random/boot_id")).strip())

    def begin(self) -> None:
        """Note that a run begins. If one before it was never seen to end, that one is recorded."""
        lost = self._begun()
        if lost is not None:
            with contextlib.suppress(OSError):
                self._record_lost(lost)
        now = time.time()
        shown = time.strftime(_FORMAT, time.gmtime(now))
        begun = Begun(
            shown,
            _uptime(),
            self.boot,
            nightly_log.begin(self.places.log, shown),
            nightly_files.recordings_before(self.places.uploads, now),
        )
        replace(self.places.note, json.dumps(asdict(begun)).encode() + b"\n", 0o600)

    def end(self, environment: Mapping[str, str]) -> Night | None:
        """Record the run that has just ended; a start that found the job at work already is no run of its own.

        Arguments:
            environment: of a program that systemd runs at the end: $SERVICE_RESULT, $EXIT_CODE, $EXIT_STATUS.
        """
        begun = self._begun() or Begun()
        ending = Ending(*(environment.get(name) or None for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS")))
        seconds = self._seconds(begun)
        part = nightly_log.part(self.places.log, begun.word)
        told = observe(part.lines)
        moment = begun.moment
        left = None if moment is None else nightly_files.recordings_before(self.places.uploads, moment)
        seen = Seen(
            clips=None if moment is None else nightly_files.clips_since(self.places.uploads, moment),
            erased=None if left is None or begun.recordings is None else max(0, begun.recordings - left),
            peak_mb=_peak_mb(self.places),
            database=None if seconds is None else nightly_database.ask(seconds + 2, told.lease),
            usually_clips=self._usually_clips(),
            whole=part.whole,
        )
        night = judge(told, ending, seen)
        if night is not None:
            self._append(night, begun, {"seconds": seconds})
        self.places.note.unlink(missing_ok=True)
        return night

    def _record_lost(self, begun: Begun) -> None:
        told = observe(nightly_log.part(self.places.log, begun.word).lines)
        night = judge(told, Ending(), Seen(whole=False))
        if night is not None:
            # Nobody knows when it ended, so its record bears the time at which it began.
            self._append(night, begun, {"seconds": None, **({"time": begun.time} if begun.moment is not None else {})})

    def _append(self, night: Night, begun: Begun, times: dict[str, Any]) -> None:
        started = begun.time if begun.moment is not None else None
        records.append(self.places.records, "nightly", {**night.record(), "started": started, **times}, keep=KEPT_NIGHTS)

    def _seconds(self, begun: Begun) -> float | None:
        if begun.uptime is None or begun.boot != self.boot:
            return None
        return round(max(0.0, _uptime() - begun.uptime), 1)

    def _usually_clips(self) -> bool:
        nights = [night for night in records.newest(self.places.records, "nightly", 4 * _USUAL_NIGHTS) if night.get("verdict") == "ok"]
        numbers = [night.get("clips_found") for night in nights[:_USUAL_NIGHTS]]
        return len(numbers) == _USUAL_NIGHTS and all(isinstance(number, int) and number > 0 for number in numbers)

    def _begun(self) -> Begun | None:
        """Return what was noted; None if there is no note, and one that says nothing if it cannot be read."""
        try:
            descriptor = os.open(self.places.note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            return Begun()
        with os.fdopen(descriptor, "rb") as file:
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return Begun()
                said = json.loads(file.read(_MOST_NOTE_BYTES))
            except (OSError, ValueError, RecursionError):
                return Begun()
        if not isinstance(said, dict):
            return Begun()
        uptime, recordings = said.get("uptime"), said.get("recordings")
        return Begun(
            **{name: said[name] for name in ("time", "boot", "word") if isinstance(said.get(name), str)},
            uptime=float(uptime) if isinstance(uptime, int | float) and math.isfinite(uptime) else None,
            recordings=recordings if isinstance(recordings, int) else None,
        )


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _peak_mb(places: Places) -> int | None:
    """Return the most memory that the control group of this process had, MB; this process is in that of the job.

    Source: the kernel's admin-guide/cgroup-v2 (memory.peak, from 5.19 on) and cgroup-v1/memory (memory.max_usage_in_bytes).
    """
    for line in _text(places.process / "cgroup").splitlines():
        match = re.fullmatch(r"[0-9]+:([^:]*):(/.*)", line)
        if not match or ".." in match[2]:
            continue
        group = match[2].removesuffix("/.control").strip("/")
        if match[1] == "":
            candidates = [places.groups / group / "memory.peak"]
        elif "memory" in match[1].split(","):
            candidates = [places.groups / "memory" / group / "memory.max_usage_in_bytes"]
        else:
            continue
        for path in candidates:
            text = _text(path).strip()
            # The root group would be the whole droplet.
            if group and text.isascii() and text.isdecimal():
                return int(text[:20]) >> 20
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main(arguments: list[str]) -> int:
    """Note or record a run; say in one line what could not be written."""
    recorder = Recorder()
    try:
        if arguments == ["begin"]:
            recorder.begin()
        elif arguments == ["end"]:
            recorder.end(os.environ)
        else:
            print("nightly_record takes one word: begin or end.", file=sys.stderr)
            return 2
    except OSError as error:
        print(
            f"What became of the nightly job could not be written down ({error.filename}: {error.strerror}). Look at df and ls -l; the "
            "next night is recorded again.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
