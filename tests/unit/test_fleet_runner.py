"""The runner of the nightly job: the script is run for whom the lease covers, ends with it, and ends as it would have ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from gigglekit.fleet import heart, lines, runner
from gigglekit.fleet.errors import ForeignError, LeaseError, LostError, UnreachableError
from gigglekit.fleet.heart import Heart
from gigglekit.fleet.lease import Holder, Lease, Leases, Share
from gigglekit.fleet.runner import BUSY, STOPPED, UNAVAILABLE, Runner
from gigglekit.fleet.script import Script
from gigglekit.health.nightly import Ending, Seen, judge, observe

from .postgres import Cluster, cluster, execute, fill, rows, user_id

TELLS = """
import json, os, sys
told = {"argv": sys.argv, "file": os.path.abspath(__file__), "name": __name__, "first": os.path.abspath(sys.path[0]),
        "folder": os.getcwd(), "library": os.environ.get("PYTHONPATH"), "shown": open("/proc/self/cmdline").read().split("\\0")}
with open("told.jsonl", "a") as file:
    file.write(json.dumps(told) + "\\n")
"""
NOTHING = Share((), all_of_them=False, left=0, elsewhere=0, given_up=0)


@dataclass
class Played:
    """Leases as a database would give them that behaves as told."""

    holder: Holder = field(default_factory=lambda: Holder("night1", "m", "b"))
    seconds: float = 600.0
    shares: list[Share | LeaseError] = field(default_factory=list)
    refuses: LeaseError | None = None
    does: list[str] = field(default_factory=list)

    def take(self) -> Lease:
        if self.refuses:
            raise self.refuses
        return Lease(7, 3)

    def claim(self, _: Lease, droplets: list[str], *, again: bool = False) -> Share:
        share = self.shares.pop(0) if self.shares else NOTHING
        if isinstance(share, LeaseError):
            raise share
        return share

    def renew(self, _: Lease) -> None:
        raise UnreachableError("away")

    def done(self, _: Lease) -> None:
        self.does.append("done")

    def end(self, _: Lease) -> None:
        self.does.append("end")

    def withdraw(self, _: Lease) -> None:
        self.does.append("withdraw")


@dataclass
class Night:
    """A runner with a script of the test's own, and what came of it."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def script(self, text: str) -> Script:
        (self.folder / "process_nightly_audio.py").write_text(textwrap.dedent(text))
        return Script(sys.executable, "process_nightly_audio.py", self.folder, {"PATH": os.environ["PATH"]})

    def run(self, text: str, leases: Any, droplets: list[str] | None = None, **more: Any) -> int:
        return Runner(
            self.script(text), leases, droplets or ["night1"], **{"seconds": 3600, "say": self.said.append, "pause": 0.05, **more}
        ).run()

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "told.jsonl").read_text().splitlines()]

    def kinds(self) -> list[str]:
        return [kind for line in self.said if (kind := (lines.read(line) or ("", ""))[0])]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    before = signal.getsignal(signal.SIGTERM)
    yield Night(tmp_path)
    signal.signal(signal.SIGTERM, before)


def some(*numbers: int, left: int | None = None) -> Share:
    users = tuple(user_id(number) for number in numbers)
    return Share(users, all_of_them=False, left=len(users) if left is None else left, elsewhere=0, given_up=0)


def test_a_single_droplet_leaves_it_to_the_script_whom_it_finds(night: Night) -> None:
    leases = Played(shares=[Share((user_id(1),), all_of_them=True, left=1, elsewhere=0, given_up=0)])
    assert night.run(TELLS, leases) == 0
    (told,) = night.told
    assert told["argv"] == ["process_nightly_audio.py"]
    assert leases.does == ["done", "end"]
    assert night.kinds() == [lines.LEASE, lines.PART, lines.ELSEWHERE]


def test_users_reach_the_script_as_ever_and_no_list_of_processes_shows_them(night: Night) -> None:
    many = range(5000)
    leases = Played(shares=[some(*many)])
    assert night.run(TELLS, leases, ["night1", "night2"]) == 0
    (told,) = night.told
    assert told["argv"][1:] == [word for number in many for word in ("--user-id", user_id(number))]
    assert (told["name"], told["library"]) == ("__main__", None)
    assert told["file"] == str(night.folder / "process_nightly_audio.py")
    assert told["first"] == told["folder"] == str(night.folder)
    assert "process_nightly_audio.py" in told["shown"], "or the release's own lock would not be taken"
    assert user_id(1) not in " ".join(told["shown"])


def test_a_script_that_ends_before_it_knows_its_users_is_no_error_of_the_runner(night: Night) -> None:
    script = night.script("")
    refuses = Script("/bin/false", script.name, script.folder, script.environment)
    assert refuses.start([user_id(number) for number in range(50_000)]).wait() == 1


@pytest.mark.parametrize(
    ("text", "status", "does"),
    [
        ("", 0, ["done", "end"]),
        ("raise SystemExit(1)", 1, ["end"]),
        ("raise SystemExit(75)", BUSY, ["withdraw", "end"]),
        ("import os; os.kill(os.getpid(), 9)", -9, ["end"]),
        ("import os; os.kill(os.getpid(), 11)", -11, ["end"]),
    ],
)
def test_it_ends_as_the_script_ended_and_only_what_ended_well_is_done(night: Night, text: str, status: int, does: list[str]) -> None:
    leases = Played(shares=[some(1)])
    assert night.run(text, leases) == status
    assert leases.does == does


def test_what_was_done_while_the_database_was_away_is_written_down_when_it_is_back(night: Night) -> None:
    @dataclass
    class Away(Played):
        times: int = 4

        def done(self, lease: Lease) -> None:
            self.times -= 1
            if self.times > 0:
                raise UnreachableError("away")
            super().done(lease)

        def claim(self, lease: Lease, droplets: list[str], *, again: bool = False) -> Share:
            # The database leaves them to this droplet, since its lease is alive.
            if not self.shares and "done" not in self.does:
                return some(left=1)
            return super().claim(lease, droplets)

    leases = Away(shares=[some(1)])
    assert night.run("", leases, seconds=5) == 0
    assert leases.does == ["done", "end"]
    assert lines.OPEN not in night.kinds()


def test_a_start_by_hand_between_two_parts_is_waited_for(night: Night) -> None:
    leases = Played(shares=[some(1), some(2)])
    text = """
        import os, sys
        number = len(os.listdir("tries")) if os.path.isdir("tries") else os.mkdir("tries") or 0
        open(f"tries/{number}", "w").close()
        sys.exit(75 if number in (1, 2) else 0)
    """
    assert night.run(text, leases, ["night1", "night2"]) == 0
    assert len(list((night.folder / "tries").iterdir())) == 4
    assert leases.does == ["done", "done", "end"]


def test_without_a_lease_a_single_droplet_runs_and_says_so_and_one_of_several_does_not(night: Night) -> None:
    leases = Played(refuses=UnreachableError("The database is away."))
    assert night.run(TELLS, leases) == 0
    assert night.said[0] == lines.line(lines.UNLEASED, "The database is away.")
    assert len(night.told) == 1
    night.said.clear()
    leases = Played(refuses=LeaseError("It refuses."))
    assert night.run(TELLS, leases, ["night1", "night2"]) == UNAVAILABLE
    assert night.said == [lines.line(lines.REFUSED, "It refuses.")]
    assert len(night.told) == 1
    assert night.run(TELLS, None) == 0, "no database is configured"
    assert len(night.told) == 2


def test_a_single_droplet_too_leaves_the_database_of_another_environment_alone(night: Night) -> None:
    assert night.run(TELLS, Played(refuses=ForeignError("It is production's."))) == UNAVAILABLE
    assert night.said == [lines.line(lines.REFUSED, "It is production's.")]
    assert not (night.folder / "told.jsonl").exists()


def test_one_of_several_waits_for_a_database_that_is_not_there_yet(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Played(refuses=UnreachableError("away"), shares=[some(1)])
    threading.Timer(0.3, lambda: setattr(leases, "refuses", None)).start()
    assert night.run(TELLS, leases, ["night1", "night2"]) == 0
    assert len(night.told) == 1
    monkeypatch.setattr(runner, "AWAITED_SECONDS", 0.1)
    assert night.run(TELLS, Played(refuses=UnreachableError("away")), ["night1", "night2"]) == UNAVAILABLE


def test_a_lease_that_could_not_be_used_is_given_back(night: Night) -> None:
    leases = Played(shares=[LeaseError("other tables")])
    assert night.run(TELLS, leases) == 0
    assert leases.does == ["end"]
    assert lines.UNLEASED in night.kinds()


def test_a_droplet_that_is_not_in_the_list_says_so(night: Night) -> None:
    assert night.run("", Played(), ["night2", "night3"]) == 0
    assert lines.UNLISTED in night.kinds()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("heeds", [True, False])
def test_a_script_whose_lease_runs_out_is_ended_before_it_is_over(night: Night, monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    clock = Clock()
    leases = Played(shares=[some(1)], seconds=100)
    monkeypatch.setattr(runner, "Heart", lambda *given: Heart(*given[:2], clock(), clock))
    ended: list[float] = []
    text = f"""
        import signal, time
        signal.signal(signal.SIGTERM, signal.{"SIG_DFL" if heeds else "SIG_IGN"})
        open("begun", "w").close()
        time.sleep(300)
    """

    def passes() -> None:
        while not (night.folder / "begun").exists():
            time.sleep(0.02)
        clock.now += 79
        time.sleep(1.2)
        ended.append(processes())
        clock.now += 2
        while processes() and clock.now < 1099:
            time.sleep(1.2)
            clock.now += 3
        ended.append(clock.now)

    def processes() -> int:
        return int(subprocess.run(["pgrep", "-fc", str(night.folder / "bin/python")], capture_output=True, text=True, check=False).stdout)

    (night.folder / "bin").mkdir()
    (night.folder / "bin/python").symlink_to(sys.executable)
    thread = threading.Thread(target=passes)
    thread.start()
    script = replace(night.script(text), python=str(night.folder / "bin/python"))
    status = Runner(script, leases, ["night1", "night2"], 3600, night.said.append, pause=0.05).run()  # type: ignore[arg-type]
    thread.join(60)
    assert status == STOPPED
    assert ended[0] == 1, "it was stopped too early"
    assert ended[1] < 1099, "it was still at work when the lease was over"
    assert lines.LOST in night.kinds()
    assert leases.does == ["end"]


def test_a_heart_holds_a_lease_only_for_as_long_as_it_surely_is_one() -> None:
    clock = Clock()
    told: list[Callable[[], None]] = []

    class Answers(Played):
        def renew(self, _: Lease) -> None:
            # The answer takes a while: it counts from when it was asked for.
            clock.now += 5
            told.pop(0)() if told else stop()

    def stop() -> None:
        one.stop()
        raise UnreachableError("away")

    def lose() -> None:
        raise LostError("over")

    leases = Answers(seconds=0.1)
    leases_100 = Answers(seconds=100)
    one = Heart(leases, Lease(1, 1), clock(), clock)  # type: ignore[arg-type]
    assert one.left == pytest.approx(0.1)
    told.append(lambda: None)
    one.run()
    assert one.left == pytest.approx(0.1 - 5 - 5)
    one = Heart(leases, Lease(1, 1), clock() + 1e6, clock)  # type: ignore[arg-type]
    told.append(lose)
    one.run()
    assert one.left == 0
    assert Heart(leases_100, Lease(1, 1), clock() - 30, clock).left == 70  # type: ignore[arg-type]


def test_told_to_end_it_ends_the_script_and_gives_the_lease_back(night: Night) -> None:
    leases = Played(shares=[some(1)])

    def end() -> None:
        while not (night.folder / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    assert night.run('import time; open("begun", "w").close(); time.sleep(300)', leases) == -signal.SIGTERM
    assert leases.does == ["end"]


def test_it_stops_waiting_for_others_before_systemd_ends_it(night: Night) -> None:
    waiting = Share((), all_of_them=False, left=4, elsewhere=1, given_up=0)
    assert night.run("", Played(shares=[waiting] * 1000), ["night1", "night2"], seconds=0.3) == 0
    assert lines.line(lines.OPEN, 4) in night.said
    assert not (night.folder / "told.jsonl").exists()


def test_a_database_that_goes_away_while_it_waits_is_asked_again(night: Night) -> None:
    leases = Played(shares=[some(1, left=2), UnreachableError("away"), UnreachableError("away"), some(2)])
    assert night.run(TELLS, leases, ["night1", "night2"]) == 0
    assert len(night.told) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_signal_that_ended_the_script_ends_the_runner(number: signal.Signals) -> None:
    program = f"from gigglekit.fleet.runner import end_as; end_as(-{int(number)})"
    library = Path(heart.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(library)}, check=False, timeout=60)
    assert done.returncode == -number
    assert runner.end_as(3) == 3


# --- with a real database ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_who_was_another_droplets_is_done_here_when_it_dies_and_nobody_twice(server: Cluster, night: Night) -> None:
    name = server.app()
    url = server.url(name, name)
    fill(url, users=30, clips=0)
    execute(url, "UPDATE public.limitless_keys SET created_at = now() - interval '1 day'; DELETE FROM public.processing_logs WHERE true")
    droplets = ["night1", "night2"]
    other = Leases(url, Holder("night2", "other", "b"), 600)
    lease = other.take()
    theirs = other.claim(lease, droplets).users
    done, begun = theirs[:3], theirs[3:5]
    log = "INSERT INTO public.processing_logs (user_id, date, status, trigger_type) VALUES ('{}', now()::date, '{}', 'cron')"
    execute(url, ";".join([*(log.format(user, "completed") for user in done), *(log.format(user, "processing") for user in begun)]))

    def dies() -> None:
        # When this one has done its own and waits.
        mine = "SELECT count(*) FROM giggles_salt.nightly_users WHERE done IS NOT NULL"
        for _ in range(600):
            with contextlib.suppress(Exception):
                if rows(url, mine) == [(30 - len(theirs),)]:
                    break
            time.sleep(0.05)
        execute(url, f"UPDATE giggles_salt.nightly_leases SET expires = now() WHERE token = {lease.token}")  # noqa: S608

    thread = threading.Thread(target=dies)
    thread.start()
    status = night.run(TELLS, Leases(url, Holder("night1", "own", "b"), 600), droplets)
    thread.join(60)
    assert status == 0
    parts = [told["argv"][2::2] for told in night.told]
    assert sorted(parts[0]) == sorted({user_id(number) for number in range(30)} - set(theirs))
    assert sorted(parts[1]) == sorted(set(theirs) - set(done))
    assert len(parts) == 2
    assert night.said[-1] == lines.line(lines.ELSEWHERE, len(done))
    server.drop(name)


def test_who_was_claimed_by_a_call_whose_answer_was_lost_is_processed(server: Cluster, night: Night) -> None:
    """The connection may end after the database has done what it was asked, and then nobody else may have these users."""
    name = server.app()
    url = server.url(name, name)
    fill(url, users=12, clips=0)
    execute(url, "UPDATE public.limitless_keys SET created_at = now() - interval '1 day'; DELETE FROM public.processing_logs WHERE true")
    droplets = ["night1", "night2"]
    other = Leases(url, Holder("night2", "other", "b"), 600)
    theirs = other.claim(other.take(), droplets).users
    calls = []

    class Cut(Leases):
        def claim(self, lease: Lease, droplets: Sequence[str], *, again: bool = False) -> Share:
            calls.append(lease)
            if len(calls) == 2:
                # The other one has died, so that this call claims its users.
                execute(url, "UPDATE giggles_salt.nightly_leases SET expires = now() WHERE droplet = 'night2'")
            share = super().claim(lease, droplets, again=again)
            if len(calls) == 2:
                assert share.users == theirs
                raise UnreachableError("away")
            return share

    assert night.run(TELLS, Cut(url, Holder("night1", "own", "b"), 600), droplets, seconds=5) == 0
    assert lines.OPEN not in night.kinds()
    assert [user for told in night.told for user in sorted(told["argv"][2::2])][-len(theirs) :] == list(theirs)
    assert sum(len(told["argv"][2::2]) for told in night.told) == 12
    server.drop(name)


# --- the verdict -----------------------------------------------------------------------------------------------------------------

WELL = Ending("success", "exited", "0")


def part(users: int | str, done: int, failed: int = 0) -> list[str]:
    """What one start of the script leaves in the log."""
    return [
        lines.line(lines.PART, users), "🌙 Starting nightly audio processing", f"👥 Found {done + failed} active users",
        f"📊 Total: {done} users processed successfully, {failed} failed", "✅ Nightly processing completed successfully",
    ]  # fmt: skip


OWN = [lines.line(lines.LEASE, 12)]
ALL_DONE = lines.line(lines.ELSEWHERE, 5)
VERDICTS = {
    "one part": ([*OWN, *part(4, 4), ALL_DONE], WELL, "ok", "All of 4 users"),
    "two parts": ([*OWN, *part(4, 4), *part(2, 2), ALL_DONE], WELL, "ok", "All of 6 users"),
    "all": ([*OWN, *part("all", 4), lines.line(lines.ELSEWHERE, 0)], WELL, "ok", "All of 4 users"),
    "a failure in the first part": ([*OWN, *part(4, 3, 1), *part(2, 2), ALL_DONE], WELL, "partial", "1 user and went well for 5"),
    "a first part without its end": ([*OWN, *part(4, 4)[:-1], *part(2, 2), ALL_DONE], WELL, "silent-failure", "last line"),
    "a first part without a summary": ([*OWN, *part(4, 4)[:2], *part(2, 2), ALL_DONE], WELL, "silent-failure", "summary"),
    "fewer found than given": ([*OWN, *part(4, 3), ALL_DONE], WELL, "partial", "given 4 users and found 3"),
    "all elsewhere": ([*OWN, ALL_DONE], WELL, "nothing-to-do", "other droplets have processed 5 users"),
    "no user is this droplet's": ([*OWN, lines.line(lines.ELSEWHERE, 0)], WELL, "nothing-to-do", "other droplets'"),
    "given up": ([*OWN, *part(4, 4), ALL_DONE, lines.line(lines.GIVEN_UP, 2)], WELL, "partial", "2 users"),
    "others left": ([*OWN, *part(4, 4), lines.line(lines.OPEN, 3), ALL_DONE], WELL, "partial", "had not done 3 users"),
    "unleased": ([lines.line(lines.UNLEASED, "x"), *part("all", 4)], WELL, "ok", "without a lease"),
    "unleased and no users": (
        [lines.line(lines.UNLEASED, "x"), lines.line(lines.PART, "all"), "ℹ️ No active users found with Limitless API keys",
         "✅ Nightly processing completed successfully"], WELL, "nothing-to-do", "no active user"),
    "refused": ([lines.line(lines.REFUSED, "x")], Ending("exit-code", "exited", str(UNAVAILABLE)), "failed", "did not begin"),
    "lost": ([*OWN, *part(4, 4)[:3], lines.line(lines.LOST, "x")], Ending("exit-code", "exited", str(STOPPED)), "killed", "nearly over"),
    "not listed": ([lines.line(lines.UNLISTED), *OWN, *part(4, 4), ALL_DONE], WELL, "ok", "giggles:nightly:droplets"),
    "the log just stops": ([*OWN, *part(4, 4)], Ending(), "killed", "no end"),
    "nothing but a lease": (OWN, WELL, "silent-failure", "summary"),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_what_became_of_a_night_with_a_lease(case: str) -> None:
    said, ending, verdict, reason = VERDICTS[case]
    found = judge(observe(said), ending, Seen())
    assert found is not None
    assert (found.verdict, reason in " ".join(found.reasons)) == (verdict, True), found


def test_a_start_that_finds_a_run_by_hand_is_no_night() -> None:
    said = [*OWN, lines.line(lines.PART, "all"), "The nightly job is already running, so this one ends without doing anything."]
    assert judge(observe(said), Ending("success", "exited", "75"), Seen()) is None


def test_the_lease_is_read_and_a_forged_one_is_none() -> None:
    assert observe(OWN).lease == 12
    assert observe([lines.line(lines.LEASE, "1; DROP")]).lease is None
    assert observe(["x giggles-salt: lease: 12"]).lease is None
