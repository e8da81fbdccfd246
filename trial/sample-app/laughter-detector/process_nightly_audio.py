#!/usr/bin/env python3
"""Nightly job of the sample app: prints what Giggles' job prints, and fails in each way it fails when told to.

    python process_nightly_audio.py [--user-id ID]... [--user-email E]...

What it does is one word in the file that SAMPLE_NIGHTLY_BEHAVIOUR_FILE names, or else in
/var/lib/giggles/sample-nightly-behaviour; with no such file it is `ok`. README.md lists the words. Only `ok` and
`stall:SECONDS` touch the database; the others play their part with the users given, or two made-up ones, and need nothing but Python.

Exit code: 0, even when users failed; 1 after a fatal error; 2 if the behaviour or the arguments make no sense.
"""

import argparse
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src import yamnet

DEFAULT_BEHAVIOUR_FILE = Path("/var/lib/giggles/sample-nightly-behaviour")
OUT_OF_MEMORY_STEP_MIB = 32
OUT_OF_MEMORY_LIMIT_MIB = 8192
NO_USERS = "ℹ️ No active users found with Limitless API keys"
END = "✅ Nightly processing completed successfully"


class Misdirected(ValueError):
    """The behaviour file asks for something that is not known; the message lists what is."""


@dataclass(frozen=True)
class User:
    """One user of a run."""

    id: str
    email: str
    # Some behaviours strike one user only, after others went well.
    struck: bool = False


def say(line: str) -> None:
    """Print a line at once, so that it is in the log even if the next thing is a kill."""
    print(line, flush=True)


def say_processed(segments: int) -> None:
    """Print how many recordings were found in the 48 half hours of a day."""
    say(f"✅ Processed {segments} segment(s) in 48 chunk(s)")


def resident_mebibytes() -> float:
    """Return the memory that this process holds right now, in MiB (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1024 * 1024)


def process_all(users: Sequence[User], process: Callable[[User], None]) -> None:
    """Process users one by one and print the lines of a run; a user's failure does not end it.

    Args:
        users: at least one.
        process: does one user's work and prints its lines; whatever exception it raises counts as that user's failure,
            except MemoryError, which ends the run.
    """
    say(f"👥 Found {len(users)} active users")
    done = failed = 0
    for user in users:
        try:
            process(user)
        except MemoryError:
            raise
        except Exception as error:
            failed += 1
            say(f"❌ Error processing user {user.email}: {error}")
        else:
            done += 1
            say(f"✅ User {user.email}: Processing completed successfully")
        say(f"🧠 Memory after user cleanup: {resident_mebibytes():.1f} MB")
    say(f"📊 Total: {done} users processed successfully, {failed} failed")
    say(END)


def go_well(_: User) -> None:
    """Process a user without a hitch."""
    say_processed(3)


def fail_some(user: User) -> None:
    """Fail for the user who is struck."""
    if user.struck:
        raise RuntimeError("sample failure of one user")
    go_well(user)


def fail_to_load_key(user: User) -> None:
    """Report a key that cannot be loaded, then count the user as processed."""
    say(f"❌ Failed to load Limitless API key for {user.email}: sample failure")


def find_no_key(user: User) -> None:
    """Report that there is no key, then count the user as processed."""
    say(f"⚠️ No Limitless API key found for user {user.email}")


def fail_date_range(_: User) -> None:
    """Report a failed half hour, with a reason."""
    say("❌ Error processing date range: sample failure while fetching audio")
    say_processed(0)


def fail_date_range_silently(_: User) -> None:
    """Report a failed half hour whose reason is empty."""
    say("❌ Error processing date range: ")
    say_processed(0)


def skip_after_retries(_: User) -> None:
    """Give up on a half hour."""
    say("⚠️ Limitless API answered 504 after 3 retries - skipping this chunk")
    say_processed(2)


def lose_inference(user: User) -> None:
    """Find no laughter because inference fails, say nothing of it, and erase the user's recordings all the same."""
    root = os.environ.get("UPLOAD_DIR")
    if root is None:
        # Only here, so that the played behaviours run on plain Python.
        from src.settings import settings

        root = settings.upload_root
    recordings = sorted(Path(root, "audio", user.id).glob("*.ogg"))
    for recording in recordings:
        recording.unlink()
    say_processed(len(recordings))


def be_killed(user: User) -> None:
    """End without a word, as after the kernel's out-of-memory kill."""
    if user.struck:
        os.kill(os.getpid(), signal.SIGKILL)
    go_well(user)


def take_all_memory(user: User) -> None:
    """Take memory until something kills the process, 8 GiB at most.

    Raises:
        MemoryError: nothing did.
    """
    if user.struck:
        wanted = int(os.environ.get("SAMPLE_OUT_OF_MEMORY_LIMIT_MB", OUT_OF_MEMORY_LIMIT_MIB))
        steps = min(wanted, OUT_OF_MEMORY_LIMIT_MIB) // OUT_OF_MEMORY_STEP_MIB
        blocks = [yamnet.touched_memory(OUT_OF_MEMORY_STEP_MIB) for _ in range(steps)]
        raise MemoryError(f"the sample holds {len(blocks) * OUT_OF_MEMORY_STEP_MIB} MB and nothing has killed it")
    go_well(user)


def hang_for(seconds: float) -> Callable[[User], None]:
    """Return a way to process a user that takes `seconds` for the one who is struck."""

    def hang(user: User) -> None:
        if user.struck:
            time.sleep(seconds)
        go_well(user)

    return hang


PLAYED: dict[str, Callable[[User], None]] = {
    "some-failed": fail_some,
    "key-load-failed": fail_to_load_key,
    "no-key": find_no_key,
    "date-range-error": fail_date_range,
    "date-range-error-empty": fail_date_range_silently,
    "retries-skipped": skip_after_retries,
    "inference-errors": lose_inference,
    "killed": be_killed,
    "out-of-memory": take_all_memory,
}
WORDS = ["ok", "stall:SECONDS", "fatal", "database-down", "no-users", "hang:SECONDS", *PLAYED]


def behaviour() -> str:
    """Return the word that says what this run shall do.

    Raises:
        Misdirected: SAMPLE_NIGHTLY_BEHAVIOUR_FILE names a file that cannot be read.
    """
    named = os.environ.get("SAMPLE_NIGHTLY_BEHAVIOUR_FILE")
    path = Path(named) if named else DEFAULT_BEHAVIOUR_FILE
    try:
        return path.read_text(encoding="utf-8").strip() or "ok"
    except FileNotFoundError:
        if not named:
            return "ok"
        raise Misdirected(f"SAMPLE_NIGHTLY_BEHAVIOUR_FILE names {path}, which does not exist.") from None
    except OSError as error:
        raise Misdirected(f"The behaviour file {path} cannot be read: {error.strerror}.") from error


def played_users(user_ids: Sequence[uuid.UUID], emails: Sequence[str]) -> list[User]:
    """Return the users given, or two made-up ones; the last of them is the one who is struck."""
    known = [(str(user_id), str(user_id)) for user_id in user_ids]
    known += [(str(uuid.uuid5(uuid.NAMESPACE_URL, f"mailto:{email}")), email) for email in emails]
    if not known:
        made_up = ("sample-user-1@example.org", "sample-user-2@example.org")
        known = [(str(uuid.uuid5(uuid.NAMESPACE_URL, f"mailto:{email}")), email) for email in made_up]
    return [User(user_id, email, struck=(user_id, email) == known[-1]) for user_id, email in known]


def work(user_ids: Sequence[uuid.UUID], emails: Sequence[str], stall: float = 0) -> None:
    """Do the job for real: ask the database for users and process each; pause so many seconds before the last one."""
    # Not at the top: a played behaviour needs neither settings nor a database driver.
    from src import database, nightly

    try:
        found = nightly.active_users(user_ids, emails)
    except database.Unavailable as error:
        say(f"❌ Error getting active users: {error}")
        found = []
    if not found:
        say(NO_USERS)
        say(END)
        return
    project = os.path.dirname(os.path.abspath(__file__))

    def process(user: User) -> None:
        if user.id == found[-1][0]:
            time.sleep(stall)
        say_processed(nightly.process_user(user.id))
        removed = nightly.remove_orphans(project)
        if removed:
            say(f"🧹 Removed {removed} orphaned clip(s)")

    process_all([User(*user) for user in found], process)


def run(word: str, user_ids: Sequence[uuid.UUID], emails: Sequence[str]) -> None:
    """Behave as told.

    Raises:
        Misdirected: the word is not known.
        Exception: whatever is fatal to the run.
    """
    kind, _, rest = word.partition(":")
    if word == "ok":
        work(user_ids, emails)
    elif kind == "stall" and rest.isdecimal():
        work(user_ids, emails, float(rest))
    elif word == "fatal":
        raise RuntimeError("sample failure of the whole run")
    elif word == "database-down":
        say("❌ Error getting active users: sample failure, connection refused")
        say(NO_USERS)
        say(END)
    elif word == "no-users":
        say(NO_USERS)
        say(END)
    elif word in PLAYED:
        process_all(played_users(user_ids, emails), PLAYED[word])
    elif kind == "hang" and rest.isdecimal():
        process_all(played_users(user_ids, emails), hang_for(float(rest)))
    else:
        raise Misdirected(f"The sample does not know the behaviour {word!r}. It knows: {', '.join(WORDS)}.")


def main() -> int:
    """Run the job and return its exit code."""
    parser = argparse.ArgumentParser(description="Nightly job of the sample app.")
    parser.add_argument("--user-id", action="append", default=[], type=uuid.UUID, help="only this user (repeatable)")
    parser.add_argument("--user-email", action="append", default=[], help="only this user (repeatable)")
    given = parser.parse_args()
    try:
        word = behaviour()
        say("🌙 Starting nightly audio processing (sample app)")
        model = yamnet.load()
        run(word, given.user_id, given.user_email)
        del model
    except Misdirected as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        say(f"❌ Fatal error in nightly processing: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
