"""The nightly verdict: every way to fail has its own, and nothing is called good that does not say so to its end."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records
from gigglekit.health import nightly, nightly_database, nightly_files, nightly_log, nightly_record
from gigglekit.health.nightly import Database, Ending, Night, Seen, judge, observe
from hypothesis import given, settings
from hypothesis import strategies as st

from . import postgres
from .test_sample_app import Sandbox

WELL = Ending("success", "exited", "0")
KILLED = Ending("signal", "killed", "KILL")
CHECKED = Database(active_users=2, completed=2, failed=0, unfinished=0)
USER = "somebody@example.org"


def total(done: int, failed: int) -> str:
    """The summary."""
    return f"📊 Total: {done} users processed successfully, {failed} failed"


SUMMARY = total(2, 0)
END = "✅ Nightly processing completed successfully"
NO_USERS = "ℹ️ No active users found with Limitless API keys"
GOOD = [
    "🌙 Starting nightly audio processing",
    "👥 Found 2 active users",
    "✅ Processed 3 segment(s) in 48 chunk(s)",
    f"✅ User {USER}: Processing completed successfully",
    "🧠 Memory after user cleanup: 708.5 MB",
    "✅ Processed 1 segment(s) in 48 chunk(s)",
    f"✅ User {USER}: Processing completed successfully",
    "🧠 Memory after user cleanup: 650.0 MB",
    SUMMARY,
    END,
]


def night(lines: list[str] | str, ending: Ending = WELL, **seen: Any) -> Night:
    """Judge a run, which is one of its own."""
    text = lines if isinstance(lines, str) else "".join(f"{line}\n" for line in lines)
    found = judge(observe(text.split("\n")), ending, Seen(**seen))
    assert found is not None
    assert found.verdict in nightly.VERDICTS
    assert found.reasons
    assert USER not in json.dumps(found.record())
    return found


def with_line(line: str) -> list[str]:
    """A good night with a further line in its middle."""
    return [*GOOD[:3], line, *GOOD[3:]]


# --- the contract's table ---------------------------------------------------------------------------------------------------


def test_a_good_night() -> None:
    found = night(GOOD, clips=6, peak_mb=900, database=CHECKED)
    assert found == Night("ok", ("All of 2 users went well.",), 2, 2, 0, 6, 900, "success")


TABLE = {
    "one user failed": ([*GOOD[:6], f"❌ Error processing user {USER}: no", total(1, 1), END], WELL,
                        "partial", "1 user and went well for 1"),
    "all users failed": (["👥 Found 2 active users", total(0, 2), END], WELL, "failed", "all of 2 users"),
    "fatal": (["👥 Found 2 active users", f"❌ Fatal error in nightly processing: {USER}"], Ending("exit-code", "exited", "1"), "failed",
              "An error ended the whole run"),
    "exit code without a word": (GOOD[:2], Ending("exit-code", "exited", "2"), "failed", "exit code 2"),
    "not started": ([], Ending("exit-code", "exited", "203"), "failed", "exit code 203"),
    "resources": ([], Ending("resources"), "failed", "could not be started"),
    "no users": ([GOOD[0], NO_USERS, END], WELL, "nothing-to-do", "nothing to do"),
    "database down": ([GOOD[0], f"❌ Error getting active users: {USER}", NO_USERS, END], WELL, "silent-failure", "could not be asked for"),
    "key not loaded": (with_line(f"❌ Failed to load Limitless API key for {USER}"), WELL, "silent-failure", "could not be loaded (once)"),
    "no key": (with_line(f"⚠️ No Limitless API key found for user {USER}"), WELL, "silent-failure", "without a Limitless API key"),
    "date range": (with_line("❌ Error processing date range: 504"), WELL, "silent-failure", "could not be processed (once)"),
    "date range, empty": (with_line("❌ Error processing date range: "), WELL, "silent-failure", "could not be processed (once)"),
    "skipped": (with_line("⚠️ Limitless API answered 504 after 3 retries - skipping this chunk"), WELL, "silent-failure", "was skipped"),
    "the log just stops": (GOOD[:4], KILLED, "killed", "signal KILL"),
    "out of memory": (GOOD[:4], Ending("oom-kill", "killed", "KILL"), "killed", "memory"),
    "too long": (GOOD[:4], Ending("timeout", "killed", "TERM"), "killed", "timeout_hours"),
    "stopped by hand": (GOOD[:4], Ending("success", "killed", "TERM"), "killed", "by hand"),
    "crashed": (GOOD[:4], Ending("core-dump", "dumped", "SEGV"), "failed", "crashed"),
    "nobody saw an end": (GOOD, Ending(), "killed", "no end"),
    "no summary": ([line for line in GOOD if line != SUMMARY], WELL, "silent-failure", "without its summary"),
    "no end": (GOOD[:-1], WELL, "silent-failure", "without its last line"),
    "the end before the summary": ([*GOOD[:-2], END, SUMMARY], WELL, "silent-failure", "without its last line"),
    "nothing at all": ([], WELL, "silent-failure", "without its summary"),
    "users unaccounted for": ([*GOOD[:-2], total(1, 0), END], WELL, "silent-failure", "accounts for 1"),
    "a user's error that is not in the summary": (with_line(f"❌ Error processing user {USER}: x"), WELL, "partial", "1 user"),
    "killed after its end": (GOOD, KILLED, "killed", "signal KILL"),
    "the lock is gone": (["The lock /opt/giggles/nightly.lock of the nightly job cannot be opened (No such file or directory); run it as"],
                         Ending("exit-code", "exited", "75"), "failed", "lock"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_every_way_to_fail_has_its_verdict(case: str) -> None:
    lines, ending, verdict, reason = TABLE[case]
    found = night(lines, ending)
    assert found.verdict == verdict, found
    assert reason in " ".join(found.reasons)


SEEN = {
    "recordings erased for nothing": (GOOD, {"erased": 3, "clips": 0}, "silent-failure", "3 recordings were erased"),
    "recordings that became clips": (GOOD, {"erased": 3, "clips": 1}, "ok", "went well"),
    "no clip where there always were some": (GOOD, {"clips": 0, "usually_clips": True}, "silent-failure", "processed 4 segments"),
    "a quiet night": (GOOD, {"clips": 0}, "ok", "went well"),
    "a night without recordings": ([GOOD[1], *GOOD[-2:]], {"clips": 0, "usually_clips": True}, "ok", "went well"),
    "part of the log is missing": (GOOD, {"whole": False}, "partial", "log is missing"),
    "failures that only the database has": (GOOD, {"database": Database(2, 1, 1, 0)}, "silent-failure", "failed for 1 user"),
    "failures that both have": (TABLE["one user failed"][0], {"database": Database(2, 1, 1, 0)}, "partial", "went well for 1"),
    "begun and not ended": (GOOD, {"database": Database(2, 1, 0, 1)}, "silent-failure", "begun and not ended"),
    "users that were not found": ([NO_USERS, END], {"database": Database(3, 0, 0, 0)}, "silent-failure", "has 3 users"),
    "no users, and none": ([NO_USERS, END], {"database": Database(0, 0, 0, 0)}, "nothing-to-do", "no active user"),
    "found none of some": (["👥 Found 0 active users", total(0, 0), END], {"database": CHECKED}, "silent-failure", "has 2"),
    "not cross-checked": (GOOD, {"database": None}, "ok", "not cross-checked"),
    "users that the log does not know": (GOOD, {"database": Database(50, 2, 0, 0)}, "partial", "found 2 users, but the database has 50"),
    "users of whom the app finds more": (GOOD, {"database": Database(1, 2, 0, 0)}, "ok", "went well"),
    "users nobody counts": (GOOD, {"database": Database(None, 2, 0, 0)}, "ok", "went well"),
    "users that went well in the log alone": (GOOD, {"database": Database(2, 1, 0, 0)}, "partial", "database has it of 1"),
    "both": (TABLE["one user failed"][0], {"database": Database(7, 1, 1, 0)}, "partial", "database has 7"),
    "no entry of the run": (GOOD, {"database": Database(2, 0, 0, 0)}, "ok", "no entry of this run"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEEN)
def test_what_is_known_besides_the_log_counts(case: str) -> None:
    lines, seen, verdict, reason = SEEN[case]
    found = night(lines, **seen)
    assert found.verdict == verdict, found
    assert reason in " ".join(found.reasons)


def test_a_start_that_finds_the_job_at_work_is_no_night() -> None:
    said = "The nightly job is already running, so this one ends without doing anything. Wait for it: systemctl status giggles-nightly"
    assert judge(observe([said]), Ending("exit-code", "exited", "75"), Seen()) is None
    assert judge(observe([said]), Ending("success", "exited", "75"), Seen()) is None
    for result in ("exit-code", "success"):
        assert night(GOOD[:3], Ending(result, "exited", "75")).verdict == "failed", "it had begun"


def test_memory_is_the_most_that_anybody_says() -> None:
    assert night(GOOD).peak_mb == 708
    assert night(GOOD, peak_mb=1650).peak_mb == 1650
    assert night([SUMMARY]).peak_mb is None


def test_a_logger_may_put_a_time_and_a_level_before_each_line() -> None:
    assert night([f"2026-11-24 02:30:01,123 - INFO - {line}" for line in GOOD]).verdict == "ok"


@pytest.mark.parametrize("quoted", [SUMMARY, END, "Found 2 active users"])
def test_what_an_error_quotes_is_not_the_job_speaking(quoted: str) -> None:
    told = observe([f"❌ Error processing user x: {quoted}", f"❌ Error processing date range: {quoted}"])
    assert (told.found, told.completed, told.ended) == (None, None, False)


# --- the sample app, as it plays each way ----------------------------------------------------------------------------------------

WORDS = {
    "some-failed": "partial", "fatal": "failed", "database-down": "silent-failure", "no-users": "nothing-to-do",
    "key-load-failed": "silent-failure", "no-key": "silent-failure", "date-range-error": "silent-failure",
    "date-range-error-empty": "silent-failure", "retries-skipped": "silent-failure", "killed": "killed", "hang:0": "ok",
    "nonsense": "failed",
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_what_the_sample_app_prints_gets_its_verdict(tmp_path: Path, word: str) -> None:
    done = Sandbox(tmp_path).nightly(word)
    exited = Ending("exit-code" if done.returncode else "success", "exited", str(done.returncode))
    ending = KILLED if done.returncode < 0 else exited
    found = judge(observe((done.stdout + done.stderr).split("\n")), ending, Seen())
    assert found is not None
    assert found.verdict == WORDS[word], found
    assert "example.org" not in json.dumps(found.record())


# --- no log whatsoever raises, or is called good without its two lines ---------------------------------------------------------------


def is_complete(text: str) -> bool:
    """Tell whether a summary without failures and an end line after it are in a text, by looking for nothing but their words."""
    summary, end = text.rfind(" users processed successfully, 0 failed"), text.rfind("Nightly processing completed successfully")
    return -1 < summary < end


def test_ten_thousand_broken_logs() -> None:
    chance = random.Random(5)  # noqa: S311 (the same logs every time)
    pieces = [*GOOD, *(line for lines, *_ in TABLE.values() for line in lines)]
    seen: dict[str, int] = {}
    for _ in range(10_000):
        lines = list(GOOD) if chance.random() < 0.7 else chance.choices(pieces, k=chance.randrange(14))
        match chance.randrange(5):
            case 0:
                chance.shuffle(lines)
            case 1:
                lines = [line for line in lines if chance.random() < 0.85]
            case 2:
                lines.insert(chance.randrange(len(lines) + 1), chance.choice(pieces))
        data = bytearray("\n".join([*lines, ""]).encode())
        if chance.random() < 0.5:
            for _ in range(chance.randrange(1, 4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.5:
            del data[chance.randrange(len(data) + 1) :]
        text = data.decode("utf-8", "replace")
        found = night(text.replace(USER, "x"), chance.choice([WELL, WELL, WELL, KILLED, Ending()]))
        seen[found.verdict] = seen.get(found.verdict, 0) + 1
        assert found.verdict != "ok" or is_complete(text), text
    assert set(seen) == set(nightly.VERDICTS), "one of the verdicts was never reached, so this looks at too little"


def test_a_good_log_cut_anywhere_is_not_good() -> None:
    text = "\n".join(GOOD)
    assert night(text).verdict == "ok"
    for length in range(len(text)):
        assert night(text[:length].replace(USER, "x")).verdict != "ok"


TEXTS = st.lists(st.one_of(st.sampled_from(GOOD), st.text(), st.builds("{}{}".format, st.text(max_size=5), st.sampled_from(GOOD))))
SIGNALS = st.one_of(st.none(), st.text(), st.sampled_from(["success", "exited", "0", "75", "KILL", "killed"]))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.builds(Ending, SIGNALS, SIGNALS, SIGNALS))
def test_no_text_raises(lines: list[str], ending: Ending) -> None:
    found = judge(observe(lines), ending, Seen())
    if found is not None:
        assert json.dumps(found.record())
        assert found.verdict != "ok" or is_complete("\n".join(lines))


# --- the run's part of the log -----------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with an earlier night in it."""
    folder = tmp_path / "log"
    folder.mkdir()
    path = folder / "nightly.log"
    path.write_text("\n".join([*GOOD, ""]))
    return path


def printed(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def rotated(log: Path) -> None:
    """Do what logrotate does: copytruncate, compress."""
    for number in range(8, 0, -1):
        old = log.with_name(f"nightly.log.{number}.gz")
        if old.exists():
            old.rename(log.with_name(f"nightly.log.{number + 1}.gz"))
    with gzip.open(log.with_name("nightly.log.1.gz"), "wb") as file:
        file.write(log.read_bytes())
    os.truncate(log, 0)


def read(log: Path, word: str | None) -> tuple[list[str], bool]:
    part = nightly_log.part(log, word)
    lines = list(part.lines)
    return lines, part.whole


def test_only_what_came_after_the_beginning_is_the_runs(log: Path) -> None:
    printed(log, "half a line")
    word = nightly_log.begin(log, "now")
    printed(log, "one", "two")
    assert read(log, word) == (["one", "two"], True)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_log_that_is_rotated_meanwhile_is_read_as_a_whole(log: Path, times: int) -> None:
    word = nightly_log.begin(log, "now")
    for number in range(times):
        printed(log, f"before {number}")
        rotated(log)
    # Longer than before: its size alone would say that nothing was cut.
    printed(log, *["after"] * 500)
    assert read(log, word) == ([*(f"before {number}" for number in range(times)), *["after"] * 500], True)


def test_a_log_that_was_rotated_and_not_compressed_is_read_too(log: Path) -> None:
    word = nightly_log.begin(log, "now")
    printed(log, "before")
    shutil.copy(log, log.with_name("nightly.log.1"))
    os.truncate(log, 0)
    printed(log, "after")
    assert read(log, word) == (["before", "after"], True)


def test_a_part_that_is_gone_is_known_to_be_gone(log: Path) -> None:
    word = nightly_log.begin(log, "now")
    os.truncate(log, 0)
    printed(log, "after")
    assert read(log, word) == (["after"], False)
    damaged = log.with_name("nightly.log.1.gz")
    word = nightly_log.begin(log, "now")
    chance = random.Random(1)  # noqa: S311
    printed(log, *(chance.randbytes(20).hex() for _ in range(4000)))
    rotated(log)
    damaged.write_bytes(damaged.read_bytes()[:-5000])
    lines, whole = read(log, word)
    assert lines
    assert not whole
    assert read(log, None) == ([], False)
    log.unlink()
    assert nightly_log.begin(log, "now") is None


def test_a_log_without_lines_or_without_end_is_no_trap(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = nightly_log.begin(log, "now")
    with log.open("ab") as file:
        file.write(b"x" * (3 << 20) + b"\n" + b"\xff\x00\n" + "✅ fine\n".encode())
    lines, whole = read(log, word)
    assert (len(lines), lines[-1], whole) == (3, "✅ fine", True)
    assert len(lines[0]) < (1 << 16)
    monkeypatch.setattr(nightly_log, "_MOST_BYTES", 1000)
    assert not read(log, word)[1]


def test_the_log_is_never_a_link_to_something_else(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious\n")
    log.unlink()
    log.symlink_to(target)
    assert nightly_log.begin(log, "now") is None
    assert target.read_text() == "precious\n"


# --- the recorder --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nightly_record.Places:
    """A droplet with one recording of an earlier day and an earlier clip, and no database."""
    for folder in ("uploads/audio/u", "uploads/clips/u", "uploads/vaults/v/clips", "uploads/vaults/v/audio", "proc", "groups"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("audio/u/a.ogg", "vaults/v/audio/b.ogg", "vaults/v/clips/c.wav"):
        path = tmp_path / "uploads" / name
        path.write_bytes(b"")
        os.utime(path, (1, 1))
    (tmp_path / "uploads/clips/link").symlink_to("/")
    monkeypatch.setattr(nightly_database, "ask", lambda seconds, lease: None)
    return nightly_record.Places(
        tmp_path / "records", tmp_path / "begun.json", log, tmp_path / "uploads", tmp_path / "groups", tmp_path / "proc"
    )


def environment(result: str = "success", code: str = "exited", status: str = "0") -> dict[str, str]:
    return {"SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status}


def recorded(places: nightly_record.Places) -> list[dict[str, Any]]:
    return records.newest(places.records, "nightly", 100)


def test_a_night_is_recorded_once_with_all_of_it(places: nightly_record.Places) -> None:
    (places.process / "cgroup").write_text("0::/system.slice/giggles-nightly.service\n")
    group = places.groups / "system.slice/giggles-nightly.service"
    group.mkdir(parents=True)
    (group / "memory.peak").write_text(f"{1500 << 20}\n")
    recorder = nightly_record.Recorder(places)
    recorder.begin()
    assert places.note.stat().st_mode & 0o777 == 0o600
    printed(places.log, *GOOD)
    (places.uploads / "vaults/v/clips/new.wav").write_bytes(b"")
    (places.uploads / "clips/u/newer.wav").write_bytes(b"")
    recorder.end(environment())
    (one,) = recorded(places)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.pop("time"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.pop("started"))
    assert 0 <= one.pop("seconds") < 100
    assert "not cross-checked" in one.pop("reasons")[1]
    assert one == {
        "verdict": "ok", "users_found": 2, "users_completed": 2, "users_failed": 0, "clips_found": 2, "peak_mb": 1500, "result": "success",
        "users_elsewhere": None,
    }  # fmt: skip
    assert not places.note.exists()
    assert USER not in (places.records / "nightly.jsonl").read_text()


def test_recordings_that_vanish_without_a_clip_are_told(places: nightly_record.Places) -> None:
    recorder = nightly_record.Recorder(places)
    recorder.begin()
    printed(places.log, *GOOD)
    (places.uploads / "vaults/v/audio/b.ogg").unlink()
    (places.uploads / "audio/u/new.ogg").write_bytes(b"")
    recorder.end(environment())
    (one,) = recorded(places)
    assert one["verdict"] == "silent-failure"
    assert "1 recording was erased" in one["reasons"][0]


def test_clips_that_always_came_and_do_not_are_told(places: nightly_record.Places) -> None:
    for verdict in ("ok", "ok", "partial", "ok", "ok", "ok"):
        records.append(places.records, "nightly", {"verdict": verdict, "clips_found": 0 if verdict == "partial" else 3})
    recorder = nightly_record.Recorder(places)
    recorder.begin()
    printed(places.log, *GOOD)
    recorder.end(environment())
    assert "unlike in the nights before" in recorded(places)[0]["reasons"][0]


def test_a_refused_start_leaves_no_record(places: nightly_record.Places) -> None:
    recorder = nightly_record.Recorder(places)
    recorder.begin()
    printed(places.log, "The nightly job is already running, so this one ends without doing anything.")
    recorder.end(environment("exit-code", "exited", "75"))
    assert recorded(places) == []
    assert not places.note.exists()


def test_a_run_that_the_droplet_went_down_in_is_recorded_by_the_next(places: nightly_record.Places) -> None:
    nightly_record.Recorder(places, boot="one").begin()
    begun = json.loads(places.note.read_text())["time"]
    printed(places.log, *GOOD[:4])
    after = nightly_record.Recorder(places, boot="two")
    after.begin()
    printed(places.log, *GOOD)
    after.end(environment())
    newer, older = recorded(places)
    assert (older["verdict"], older["users_found"], older["time"], older["seconds"]) == ("killed", 2, begun, None)
    assert newer["verdict"] == "ok"


@pytest.mark.parametrize(
    "note", [b"", b"{", b"\xff\xfe", b"[]", b'{"time": 5, "uptime": "x", "word": 7}', b'{"word": "../../etc"}', b"[" * 4000]
)
def test_a_damaged_note_is_never_a_good_night_and_never_an_error(places: nightly_record.Places, note: bytes) -> None:
    places.note.write_bytes(note)
    recorder = nightly_record.Recorder(places)
    recorder.end(environment())
    (one,) = recorded(places)
    assert one["verdict"] != "ok"
    assert (one["started"], one["seconds"], one["clips_found"]) == (None, None, None)
    places.note.write_bytes(note)
    recorder.begin()
    printed(places.log, *GOOD)
    recorder.end(environment())
    assert recorded(places)[0]["verdict"] == "ok"


def test_without_uploads_log_or_control_group_there_is_still_a_record(places: nightly_record.Places) -> None:
    shutil.rmtree(places.uploads)
    places.log.unlink()
    recorder = nightly_record.Recorder(places)
    recorder.begin()
    recorder.end(environment("oom-kill", "killed", "KILL"))
    (one,) = recorded(places)
    assert (one["verdict"], one["clips_found"], one["peak_mb"]) == ("killed", None, None)


def test_the_peak_of_version_one_control_groups(places: nightly_record.Places) -> None:
    (places.process / "cgroup").write_text("4:cpu,memory:/a/b.service\n1:name=systemd:/a/b.service\n0::/\n")
    (places.groups / "memory/a/b.service").mkdir(parents=True)
    (places.groups / "memory/a/b.service/memory.max_usage_in_bytes").write_text(f"{7 << 20}\n")
    (places.groups / "memory.peak").write_text("999999999999\n")
    assert nightly_record._peak_mb(places) == 7


def test_a_recording_that_is_being_adopted_is_counted_once(places: nightly_record.Places) -> None:
    before = nightly_files.recordings_before(places.uploads, time.time() + 1)
    assert before is not None
    folders = [places.uploads / "audio/.adopting-6f1c", places.uploads / "vaults/aa/audio"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.ogg").write_bytes(b"sound")
        os.utime(folder / "a.ogg", ns=(10**18, 10**18))
    assert nightly_files.recordings_before(places.uploads, time.time() + 1) == before + 1


def test_a_folder_that_cannot_be_walked_in_time_is_not_counted(places: nightly_record.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nightly_files.recordings_before(places.uploads, time.time()) == 2
    monkeypatch.setattr(nightly_files, "_SECONDS", -1.0)
    assert nightly_files.recordings_before(places.uploads, time.time()) is None


# --- the database ----------------------------------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer_is_not_cross_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nightly_database.ask(10) is None, "there is no .env here"
    called: list[list[str]] = []

    def slow(argv: list[str], **_: object) -> None:
        called.append(argv)
        raise nightly_database.CommandTimeoutError("too slow")

    monkeypatch.setattr(nightly_database, "run", slow)
    assert nightly_database.ask(10.4) is None
    assert called[0][-1] == "10"


ENTRY = (
    "INSERT INTO public.processing_logs (user_id, date, status, trigger_type, created_at)"
    " VALUES ('{}', now(), '{}', '{}', now() - interval '{}')"
)


def test_the_database_counts_users_of_this_run_and_nobody_elses(cluster: postgres.Cluster) -> None:
    name = cluster.app()
    url = cluster.url(name, name)
    try:
        # Each has a key, and an entry made by hand.
        postgres.fill(cluster.url(name), users=5, clips=0)
        entries = [(0, "completed", "cron", "1 s"), (0, "completed", "scheduled", "2 s"), (1, "failed", "cron", "3 s"),
                   (2, "processing", "cron", "1 s"), (3, "failed", "cron", "1 hour"), (4, "failed", "manual", "1 s")]  # fmt: skip
        postgres.execute(cluster.url(name), ";".join(ENTRY.format(postgres.user_id(user), *rest) for user, *rest in entries))
        assert nightly_database.look(url, 600) == Database(active_users=0, completed=1, failed=1, unfinished=1), "they came meanwhile"
        postgres.execute(cluster.url(name), "UPDATE public.limitless_keys SET created_at = now() - interval '1 hour' WHERE true")
        assert nightly_database.look(url, 600).active_users == 5
        # Where the app writes the entry of a day anew, it says when.
        again = "UPDATE public.processing_logs SET last_processed = now() WHERE user_id = '{}' AND trigger_type = 'cron'"
        postgres.execute(cluster.url(name), "ALTER TABLE public.processing_logs ADD last_processed timestamptz")
        postgres.execute(cluster.url(name), again.format(postgres.user_id(3)))
        assert nightly_database.look(url, 600) == Database(active_users=5, completed=1, failed=2, unfinished=1)
        postgres.execute(cluster.url(name), "ALTER TABLE public.limitless_keys RENAME COLUMN is_active TO enabled")
        assert nightly_database.look(url, 600).active_users is None
        hide = "ALTER TABLE public.processing_logs FORCE ROW LEVEL SECURITY; ALTER ROLE {} NOBYPASSRLS"
        postgres.execute(cluster.url(name), hide.format(name))
        with pytest.raises(PermissionError):
            nightly_database.look(url, 600)
    finally:
        cluster.drop(name)
