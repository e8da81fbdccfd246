"""What became of one nightly run: read out of what the job printed, how systemd saw it end, and what else is known.

The job exits 0 and says `0 failed` when the database was down, keys could not be loaded or detection failed. So nothing here
is believed for its exit code alone: a night is `ok` only when the log has the summary and, after it, the end line, all users
are accounted for, and no sign of a failure is in it.

Nothing that the log quotes is passed on: its lines hold e-mail addresses.

Source: the lines that process_nightly_audio.py of stokedbloke/giggles-cli prints; $SERVICE_RESULT in systemd.exec(5).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from gigglekit.fleet import lines as fleet_lines
from gigglekit.health.nightly_told import Told, observe

__all__ = ["Database", "Ending", "Night", "Seen", "Told", "judge", "observe"]

OK, PARTIAL, FAILED, KILLED, SILENT, NOTHING = "ok", "partial", "failed", "killed", "silent-failure", "nothing-to-do"
VERDICTS = (OK, PARTIAL, FAILED, KILLED, SILENT, NOTHING)

_BUSY = 75
"""How a start ends that finds the job's lock held (gigglekit.release.single_run)."""

_CRASHES = {"SEGV", "ABRT", "BUS", "FPE", "ILL", "SYS", "TRAP"}


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
        users_elsewhere: users of the night whom other droplets did; None if there was no lease.
    """

    verdict: str
    reasons: tuple[str, ...]
    users_found: int | None = None
    users_completed: int | None = None
    users_failed: int | None = None
    clips_found: int | None = None
    peak_mb: int | None = None
    result: str | None = None
    users_elsewhere: int | None = None

    def record(self) -> dict[str, Any]:
        """Return it as it is recorded, without the times."""
        return {**dataclasses.asdict(self), "reasons": list(self.reasons)}


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
        users_elsewhere=told.number(fleet_lines.ELSEWHERE) if fleet_lines.ELSEWHERE in told.fleet else None,
    )


def _verdict(told: Told, ending: Ending, seen: Seen) -> tuple[str, list[str]]:
    stopped = _stopped(told, ending)
    if stopped is not None:
        return stopped[0], [stopped[1], *_progress(told)]
    if told.nothing_here:
        return _nothing_here(told)
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
    if undone := _undone(told):
        return PARTIAL, [*undone, *_of_the_fleet(told)]
    return OK, [f"All of {_users(told.completed or 0)} went well.", *_notes(seen), *_of_the_fleet(told)]


def _nothing_here(told: Told) -> tuple[str, list[str]]:
    if undone := _undone(told):
        return PARTIAL, [*undone, *_of_the_fleet(told)]
    elsewhere = told.number(fleet_lines.ELSEWHERE)
    done = f"other droplets have processed {_users(elsewhere)} of this night" if elsewhere else "all users are other droplets'"
    return NOTHING, [f"There was nothing to do here: {done}.", *_of_the_fleet(told)]


def _undone(told: Told) -> list[str]:
    """Return whom of the night nobody has processed as far as this droplet knows: those that are given up, and those of others."""
    undone = []
    if given_up := told.number(fleet_lines.GIVEN_UP):
        undone.append(
            f"{_users(given_up)} of this night ended up without being processed, since the job that had them did not come to its end, "
            f"twice. They are tried again tomorrow. {_SEE_LOG}"
        )
    if left := told.number(fleet_lines.OPEN):
        undone.append(
            f"Other droplets had not done {_users(left)} when this one stopped waiting for them, and may have done them since, or be "
            f"dead: look at giggles.nightly there. {_SEE_LOG}"
        )
    return undone


def _of_the_fleet(told: Told) -> list[str]:
    """Return what is to be known of other droplets, though it is no failure of this one."""
    notes = []
    if fleet_lines.UNLEASED in told.fleet:
        notes.append(
            "It ran without a lease, since the database gave none (the log says why): another droplet on the same database would not "
            "have been noticed."
        )
    if fleet_lines.UNLISTED in told.fleet:
        notes.append("This droplet's name is not in giggles:nightly:droplets; add it there, on every droplet.")
    return notes


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
    if fleet_lines.LOST in told.fleet:
        return KILLED, (
            "It was stopped because the app's database could not be reached until the lease of this droplet was nearly over, and another "
            "droplet may take its users then. Whom no other droplet did is done by the next run."
        )
    if fleet_lines.REFUSED in told.fleet:
        return FAILED, (
            "It did not begin: the app's database gave no lease (the log says why), and without one two droplets could process the same "
            "users. When that is put right: systemctl start giggles-nightly."
        )
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
    database, reasons = seen.database, []
    if told.given is not None and told.found is not None and told.given > told.found:
        reasons.append(f"It was given {_users(told.given)} and found {told.found}, so the others were not processed.")
    if database is None or not told.found or told.completed is None:
        return reasons
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
