"""What became of one nightly run: read out of what the job printed, how systemd saw it end, and what else is known.

The job exits 0 and says `0 failed` when the database was down, keys could not be loaded or detection failed. So nothing here
is believed for its exit code alone: a night is `ok` only when the log has the summary and, after it, the end line, all users
are accounted for, and no sign of a failure is in it.

Nothing that the log quotes is passed on: its lines hold e-mail addresses.

Source: the lines that process_nightly_audio.py of stokedbloke/giggles-cli prints; $SERVICE_RESULT in systemd.exec(5).
"""

from __future__ import annotations

import calendar
import dataclasses
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

OK, PARTIAL, FAILED, KILLED, SILENT, NOTHING = "ok", "partial", "failed", "killed", "silent-failure", "nothing-to-do"
VERDICTS = (OK, PARTIAL, FAILED, KILLED, SILENT, NOTHING)

_BUSY = 75
"""How a start ends that finds the job's lock held (gigglekit.release.single_run)."""
_AHEAD_S = 300
"""A record from further in the future is of a clock that was wrong, and would look young for too long."""

# The icons are not looked at, since editors and terminals rewrite them; a logger may put a time and a level in front.
_START = r"[^A-Za-z]*(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[^A-Za-z]*)?"
_FOUND = re.compile(_START + r"Found ([0-9]{1,7}) active users?\b")
_SUMMARY = re.compile(_START + r"Total: ([0-9]{1,7}) users? processed successfully, ([0-9]{1,7}) failed\s*")
_END = re.compile(_START + r"Nightly processing completed successfully\s*")
_FATAL = re.compile(_START + r"Fatal error in nightly processing")
_NO_USERS = re.compile(_START + r"No active users found")
_NO_DATABASE = re.compile(_START + r"Error getting active users")
_USER_ERROR = re.compile(_START + r"Error processing user ")
_SEGMENTS = re.compile(_START + r"Processed ([0-9]{1,7}) segment\(s\)")
_MEMORY = re.compile(_START + r"Memory after user cleanup: ([0-9]{1,7}(?:\.[0-9]{1,3})?) MB")
_LOCK_LINE = re.compile(r"The lock \S+ of the nightly job cannot be opened")
_FLAGS = {"no_users": _NO_USERS, "no_database": _NO_DATABASE, "fatal": _FATAL, "no_lock": _LOCK_LINE}
# What the job prints and then counts as success.
_SIGNS = {
    "key": re.compile(_START + r"Failed to load Limitless API key"),
    "no-key": re.compile(_START + r"No Limitless API key found for user"),
    "range": re.compile(_START + r"Error processing date range"),
    # Within the line: what answered stands before it.
    "skipped": re.compile(r"after [0-9]+ retries - skipping this chunk"),
}
_CRASHES = {"SEGV", "ABRT", "BUS", "FPE", "ILL", "SYS", "TRAP"}
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Told:
    """What the log of one run says.

    Arguments:
        found: users that it set out with; None if it does not say.
        completed: users of the summary that went well; None without a summary.
        failed: users of the summary that did not.
        ended: whether the end line stands after the summary, or after the word that there are no users.
        no_users: whether it says that there are none.
        no_database: whether it could not ask for the users.
        fatal: whether it says that an error ended it.
        user_errors: users whose processing it says failed.
        signs: how often it says each thing that it then counts as success.
        segments: recordings that it says it processed.
        memory_mb: the most memory that it says it had, MB.
        no_lock: whether it could not look at the lock.
    """

    found: int | None = None
    completed: int | None = None
    failed: int | None = None
    ended: bool = False
    no_users: bool = False
    no_database: bool = False
    fatal: bool = False
    user_errors: int = 0
    signs: Mapping[str, int] = field(default_factory=dict)
    segments: int = 0
    memory_mb: float | None = None
    no_lock: bool = False


@dataclass(frozen=True)
class Ending:
    """How systemd saw the job end; None where it did not say.

    Arguments:
        result: `success`, `exit-code`, `signal`, `oom-kill`, `timeout`, … ($SERVICE_RESULT).
        code: `exited`, `killed` or `dumped` ($EXIT_CODE).
        status: the exit code, or the signal's name ($EXIT_STATUS).
    """

    result: str | None = None
    code: str | None = None
    status: str | None = None


@dataclass(frozen=True)
class Database:
    """What the database says of the time of the run: users, and never which.

    Arguments:
        active_users: who are active and had a key when it began, and so should have been found; None if it does not say.
        completed: users with an entry of the nightly job that is `completed`.
        failed: users with one that is `failed`.
        unfinished: users with one that is still `pending` or `processing`.
    """

    active_users: int | None
    completed: int
    failed: int
    unfinished: int


@dataclass(frozen=True)
class Seen:
    """What else is known of the run; None where nobody could say.

    Arguments:
        clips: clips that it wrote.
        erased: recordings that lay there before it and are gone.
        peak_mb: the most memory that it had, MB.
        database: what the database says.
        usually_clips: whether each of the last nights found clips.
        whole: whether all of its log could be read.
    """

    clips: int | None = None
    erased: int | None = None
    peak_mb: int | None = None
    database: Database | None = None
    usually_clips: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Night:
    """What is recorded of a night.

    Arguments:
        verdict: one of `VERDICTS`.
        reasons: why, in sentences; at least one.
        users_found: as the job says; None if it does not.
        users_completed: likewise.
        users_failed: likewise.
        clips_found: clips that were written; None if nobody could count.
        peak_mb: the most memory that it had, MB.
        result: how systemd says that it ended.
    """

    verdict: str
    reasons: tuple[str, ...]
    users_found: int | None = None
    users_completed: int | None = None
    users_failed: int | None = None
    clips_found: int | None = None
    peak_mb: int | None = None
    result: str | None = None

    def record(self) -> dict[str, Any]:
        """Return it as it is recorded, without the times."""
        return {**dataclasses.asdict(self), "reasons": list(self.reasons)}


def observe(lines: Iterable[str]) -> Told:
    """Read what the job printed in one run; takes any text.

    Arguments:
        lines: without their ends, the oldest first; the last one may be cut.
    """
    numbers: dict[str, Any] = {}
    signs: dict[str, int] = {}
    user_errors = segments = 0
    for whole_line in lines:
        line = whole_line[:_LONGEST_LINE]
        if match := _FOUND.match(line):
            # A run begins: nothing that was said before is about it.
            numbers.update(found=int(match[1]), completed=None, failed=None, ended=False)
        elif match := _SUMMARY.fullmatch(line):
            numbers.update(completed=int(match[1]), failed=int(match[2]), ended=False)
        elif _END.fullmatch(line):
            numbers["ended"] = numbers.get("completed") is not None or numbers.get("no_users", False)
        elif match := _SEGMENTS.match(line):
            segments += int(match[1])
        elif match := _MEMORY.match(line):
            numbers["memory_mb"] = max(numbers.get("memory_mb") or 0.0, float(match[1]))
        elif _USER_ERROR.match(line):
            user_errors += 1
        else:
            for name, flag in _FLAGS.items():
                if flag.match(line):
                    numbers[name] = True
        for sign, pattern in _SIGNS.items():
            if pattern.search(line) if sign == "skipped" else pattern.match(line):
                signs[sign] = signs.get(sign, 0) + 1
    return Told(**numbers, user_errors=user_errors, signs=signs, segments=segments)


def judge(told: Told, ending: Ending, seen: Seen) -> Night | None:
    """Return what became of the night; None if this was a start that found the job running, and so no night of its own.

    Arguments:
        told: what the log says.
        ending: what systemd says.
        seen: what else is known.
    """
    if ending.status == str(_BUSY) and told.found is None and not told.no_lock:
        return None
    verdict, reasons = _verdict(told, ending, seen)
    peak = [mb for mb in (seen.peak_mb, None if told.memory_mb is None else round(told.memory_mb)) if mb is not None]
    return Night(
        verdict=verdict,
        reasons=tuple(reasons),
        users_found=0 if told.found is None and told.no_users and not told.no_database else told.found,
        users_completed=told.completed,
        users_failed=told.failed,
        clips_found=seen.clips,
        peak_mb=max(peak, default=None),
        result=ending.result if ending.result and re.fullmatch(r"[a-z-]{1,30}", ending.result) else None,
    )


def overdue(last: Mapping[str, Any] | None, now: float, hours: float) -> bool:
    """Tell whether the newest night is too long ago; so are no night at all, one without a time, and one from the future.

    Arguments:
        last: the newest record of a night, None if there is none.
        now: seconds since the epoch.
        hours: how old it may be.
    """
    try:
        age = now - calendar.timegm(time.strptime(str((last or {}).get("time")), "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, OverflowError):
        return True
    return age < -_AHEAD_S or age > hours * 3600


def _verdict(told: Told, ending: Ending, seen: Seen) -> tuple[str, list[str]]:
    stopped = _stopped(told, ending)
    if stopped is not None:
        return stopped[0], [stopped[1], *_progress(told)]
    silent = _silent(told, seen)
    if told.no_users and not told.found and not silent:
        unchecked = [_UNCHECKED] if seen.database is None else []
        return NOTHING, ["There was nothing to do: the app has no active user with a Limitless API key.", *unchecked]
    failed = max(told.failed or 0, told.user_errors)
    if failed and told.completed is not None and told.ended:
        if not told.completed:
            return FAILED, [f"Processing failed for all of {_users(failed)}.", _SEE_LOG, *silent]
        reasons = [f"Processing failed for {_users(failed)} and went well for {told.completed}.", _SEE_LOG]
        return PARTIAL, [*reasons, *silent, *_left_out(told, seen)]
    if silent:
        return SILENT, [*silent, *_left_out(told, seen), *(["The job itself says that all went well."] if told.ended else [])]
    if left_out := _left_out(told, seen):
        return PARTIAL, left_out
    if not seen.whole:
        return PARTIAL, ["A part of this night's log is missing, so nobody can say that all went well."]
    return OK, [f"All of {_users(told.completed or 0)} went well.", *_notes(seen)]


_UNCHECKED = "This is what the log says; it was not cross-checked with the database."
_SEE_LOG = "What went wrong is in /var/log/giggles/nightly.log."


def _stopped(told: Told, ending: Ending) -> tuple[str, str] | None:
    """Return the verdict and why, if the run did not come to its own good end."""
    if ending.result == "oom-kill":
        return KILLED, (
            "It was killed because it needed more memory than it may have. Raise nightly:memory_max_mb, or take a larger droplet."
        )
    if ending.result == "timeout":
        return KILLED, "It was stopped because it ran longer than nightly:timeout_hours."
    if ending.code in ("killed", "dumped"):
        signal = ending.status if ending.status and re.fullmatch(r"[A-Z0-9+-]{2,12}", ending.status) else "unknown"
        if ending.code == "dumped" or signal in _CRASHES:
            return FAILED, f"The program crashed (signal {signal}). {_SEE_LOG}"
        if signal == "KILL":
            return KILLED, (
                "It was killed in the middle (signal KILL), most likely because memory ran out: see nightly:memory_max_mb, and "
                "journalctl -k around that time."
            )
        return KILLED, f"It was stopped in the middle (signal {signal}), by hand or because the droplet was shut down."
    if told.no_lock:
        return FAILED, "The job's lock could not be opened, so it did not begin. salt-call state.apply nightly puts it back."
    if told.fatal:
        return FAILED, f"An error ended the whole run. {_SEE_LOG}"
    if ending.result == "success" and (ending.code, ending.status) == ("exited", "0"):
        return None
    if ending.code == "exited" and ending.status and re.fullmatch(r"[0-9]{1,3}", ending.status):
        return FAILED, f"It ended with exit code {ending.status}, and the log has no word of a fatal error. {_SEE_LOG}"
    if ending.result in ("success", None):
        return KILLED, "It came to no end that anybody saw: the droplet went down in the middle, or the start was called off."
    return FAILED, "It could not be started. systemctl status giggles-nightly says why."


def _silent(told: Told, seen: Seen) -> list[str]:
    """Return what speaks against a run that exited 0, though it says nothing of it in its summary."""
    reasons = []
    database = seen.database
    if told.no_database:
        reasons.append("The users could not be asked for, since the database did not answer or refused; it went on as if there were none.")
    elif told.no_users and not told.found:
        if database is not None and database.active_users:
            reasons.append(f"It found no users, but the database has {_users(database.active_users)} who are active and have a key.")
        return reasons
    elif told.completed is None or told.failed is None:
        reasons.append("It exited 0 without its summary, so nobody knows whom it processed.")
    elif not told.ended:
        reasons.append("It exited 0 without its last line, so it did not come to its end.")
    elif told.found is None:
        reasons.append("It does not say how many users it found, so its summary cannot be checked.")
    elif told.found != told.completed + told.failed:
        reasons.append(f"It found {_users(told.found)}, and its summary accounts for {told.completed + told.failed}.")
    elif not told.found:
        if database is not None and database.active_users:
            reasons.append(f"It found no users, but the database has {_users(database.active_users)} who are active and have a key.")
        else:
            reasons.append("It found no users and did not say that there are none.")
    reasons += [_SIGN_TEXTS[sign].format(_times(number)) for sign, number in told.signs.items()]
    if seen.clips == 0 and seen.erased:
        reasons.append(
            f"{_recordings(seen.erased)} erased and not one clip was written. The app erases a recording too when the detection of "
            "laughter failed on it."
        )
    elif seen.clips == 0 and told.segments and seen.usually_clips:
        reasons.append(
            f"It says that it processed {told.segments} segments, and not one clip came of them, unlike in the nights before. The app "
            "takes a failed detection for no laughter."
        )
    if database is not None:
        if database.failed > max(told.failed or 0, told.user_errors):
            reasons.append(f"The database says that processing failed for {_users(database.failed)} (processing_logs).")
        if database.unfinished:
            reasons.append(f"The database says that processing of {_users(database.unfinished)} was begun and not ended (processing_logs).")
    return reasons


def _left_out(told: Told, seen: Seen) -> list[str]:
    """Return what the database has that the summary does not account for. The other way round nothing is said: who left is in the log."""
    database = seen.database
    if database is None or not told.found or told.completed is None:
        return []
    reasons = []
    if database.active_users is not None and database.active_users > told.found:
        reasons.append(
            f"It found {_users(told.found)}, but the database has {database.active_users} who are active and had a key when it began, so "
            "the others were not processed."
        )
    entries = database.completed + database.failed + database.unfinished
    if entries and database.completed < told.completed:
        reasons.append(
            f"The summary says that {_users(told.completed)} went well, but the database has it of {database.completed} (processing_logs)."
        )
    return reasons


_SIGN_TEXTS = {
    "key": "A Limitless API key could not be loaded ({}), and the user counts as processed.",
    "no-key": "A user without a Limitless API key counts as processed ({}).",
    "range": "A stretch of time could not be processed ({}), and counts as if nothing had been recorded in it.",
    "skipped": "A stretch of time was skipped because Limitless did not answer ({}).",
}


def _notes(seen: Seen) -> list[str]:
    if seen.database is None:
        return [_UNCHECKED]
    if not seen.database.completed + seen.database.failed + seen.database.unfinished:
        return ["The database has no entry of this run (processing_logs)."]
    return []


def _progress(told: Told) -> list[str]:
    if told.found is None:
        return []
    return [f"It had found {_users(told.found)}" + (" and had not come to its summary." if told.completed is None else ".")]


def _users(number: int) -> str:
    return "1 user" if number == 1 else f"{number} users"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _recordings(number: int) -> str:
    return "1 recording was" if number == 1 else f"{number} recordings were"
