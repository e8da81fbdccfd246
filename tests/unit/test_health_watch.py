"""What is told is what changed: once when it opens, once when it is over, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records
from gigglekit.health import monitoring, outbox, watch, watching
from gigglekit.health.conditions import Condition, Thresholds, conditions
from gigglekit.health.facts import Disk, Facts, Run, gather, runs
from gigglekit.health.mail import Mailer
from gigglekit.health.watch import Letter, State, step
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_800_000_000.0
LIMITS = Thresholds()
FINE = Facts(now=NOW, nightly=(), converge=(), backup=(), drill=())
KINDS = ("nightly", "converge", "backup", "drill")


def run(age: float = 60, **told: Any) -> Run:
    return Run(NOW - age, told)


def keys(facts: Facts, *, began: float = NOW - 60, seen: float = 0.0, open_keys: tuple[str, ...] = ()) -> dict[str, Condition]:
    return {found.key: found for found in conditions(facts, LIMITS, began=began, seen=seen, open_keys=open_keys)}


def with_facts(**changes: Any) -> Facts:
    return dataclasses.replace(FINE, **changes)


def test_of_a_droplet_that_is_all_right_nothing_is_said() -> None:
    good = with_facts(
        nightly=[run(verdict="ok", users_found=3)], converge=[run(ok=True, drift=[])], backup=[run(ok=True)], drill=[run(ok=True)],
        units=(), disks=[Disk("/", 84.9, 84.9)], certificate=True, certificate_ends=NOW + 21 * 86400, vault="open",
    )  # fmt: skip
    assert keys(good, began=NOW - 1e8) == {}
    assert keys(FINE) == {}, "a droplet that was made a minute ago has missed nothing"


@pytest.mark.parametrize("verdict", ["partial", "failed", "killed", "silent-failure", "never heard of"])
def test_a_nightly_verdict_that_is_not_ok_is_open_with_its_reasons(verdict: str) -> None:
    found = keys(with_facts(nightly=[run(verdict="ok"), run(30, verdict=verdict, reasons=["The database was down.", None, 7])]))
    assert set(found) == {"nightly"}
    assert found["nightly"].variant == verdict
    assert "The database was down" in found["nightly"].paragraph


def test_nobody_to_process_is_only_told_where_there_was_somebody_before() -> None:
    assert keys(with_facts(nightly=[run(verdict="nothing-to-do", users_found=0)])) == {}
    told = keys(with_facts(nightly=[run(90000, verdict="ok", users_found=2), run(verdict="nothing-to-do", users_found=0)]))
    assert set(told) == {"nightly"}


@pytest.mark.parametrize(
    ("kind", "longest"), [("nightly", 26 * 3600), ("backup", 30 * 3600), ("drill", 9 * 86400), ("converge", 3 * 3600)]
)  # fmt: skip
def test_what_is_too_old_is_overdue(kind: str, longest: float) -> None:
    old = {"verdict": "ok", "ok": True}
    for age, overdue in ((longest - 60, False), (longest + 60, True)):
        facts = with_facts(**{kind: [run(age, **old)]})
        assert (f"{kind}-overdue" in keys(facts, began=0.0)) is overdue, age
        assert f"{kind}-overdue" not in keys(dataclasses.replace(facts, uptime=600), began=0.0), "a machine that was off catches up first"
    assert f"{kind}-overdue" in keys(FINE, began=NOW - longest - 60), "it never ran"
    assert f"{kind}-overdue" not in keys(with_facts(**{kind: None}), began=0.0), "nobody waits for it here"


@pytest.mark.parametrize("kind", ["converge", "backup", "drill"])
def test_a_failed_run_is_open_until_one_is_good(kind: str) -> None:
    failed = run(60, ok=False, reason="The bucket is away", failures=[{"id": "x", "comment": "no space"}])
    assert set(keys(with_facts(**{kind: [run(120, ok=True), failed]}))) == {kind}
    assert keys(with_facts(**{kind: [failed, run(30, ok=True)]})) == {}


def test_a_unit_is_told_by_itself_only_where_no_record_says_more() -> None:
    units = ("giggles-backup.service", "giggles.service")
    assert set(keys(with_facts(units=units, backup=[run(ok=False)]))) == {"backup", "unit:giggles.service"}
    assert set(keys(with_facts(units=units, backup=[run(ok=True)]))) == {"unit:giggles-backup.service", "unit:giggles.service"}
    assert set(keys(with_facts(units=None), open_keys=("unit:a.service", "disk:/"))) == {"unit:a.service"}, "systemd did not answer"


def test_a_value_at_its_threshold_does_not_come_and_go() -> None:
    for bytes_, inodes, open_keys, told in (
        (85.0, 1.0, (), {"disk:/"}), (84.0, 1.0, ("disk:/",), {"disk:/"}), (81.0, 1.0, ("disk:/",), set()), (84.0, 1.0, (), set()),
        (1.0, 90.0, (), {"inodes:/"}), (1.0, None, ("inodes:/",), set()),
    ):  # fmt: skip
        assert set(keys(with_facts(disks=[Disk("/", bytes_, inodes)]), open_keys=open_keys)) == told
    soon = with_facts(certificate=True, certificate_ends=NOW + 20.5 * 86400)
    assert keys(soon) == {}
    assert set(keys(soon, open_keys=("certificate",))) == {"certificate"}
    assert keys(with_facts(certificate=True, certificate_ends=NOW - 1))["certificate"].variant == "ended"
    assert keys(with_facts(certificate=True))["certificate"].variant == "none"


def test_the_vault_is_told_when_it_is_weaker_or_stays_locked() -> None:
    assert keys(with_facts(vault="plain"))["vault"].patience == 0
    assert keys(with_facts(vault="locked"))["vault"].patience > 0
    assert keys(with_facts(vault="open")) == keys(with_facts(vault=None)) == {}


def test_drift_of_every_converge_since_the_last_look_counts_and_is_told_by_name() -> None:
    drift = [{"id": "motd", "name": "/etc/motd", "summary": "a line too many"}]
    three = [run(300, ok=True, drift=drift), run(200, ok=True, drift=[{"id": "x", "name": "x"}]), run(100, ok=True, drift=[])]
    assert set(keys(with_facts(converge=three), seen=NOW - 301)) == {"drift:motd", "drift:x"}
    assert set(keys(with_facts(converge=three), seen=NOW - 250)) == {"drift:x"}
    assert keys(with_facts(converge=three), seen=NOW - 100) == {}
    assert keys(with_facts(converge=three)) == {}, "of a droplet seen for the first time, only the newest"
    assert set(keys(with_facts(converge=three), seen=NOW - 100, open_keys=("drift:motd",))) == {"drift:motd"}, "no converge since"


# --- from conditions to letters ---------------------------------------------------------------------------------------------


def condition(key: str = "a", **more: Any) -> Condition:
    return Condition(key, f"title of {key}", f"paragraph of {key}", **{"looks_quiet": 1, **more})


def looks(*rounds: list[Condition], somebody: bool = True, every: float = 300) -> tuple[State, list[list[str]]]:
    """Take looks one after the other, and return what each said."""
    state, said = State(began=0.0), []
    for number, found in enumerate(rounds):
        state, changes = step(state, found, now=NOW + every * number, name="giggles.test", somebody=somebody)
        said.append([f"{change.event} {change.key}" for change in changes])
    return state, said


def test_one_letter_when_it_opens_and_one_when_it_is_over() -> None:
    state, said = looks([condition()], [condition()], [], [])
    assert said == [["open a"], [], ["over a"], []]
    assert [letter.subject for letter in state.letters] == ["[giggles.test] title of a", "[giggles.test] over: title of a"]
    assert "paragraph of a" in state.letters[0].body


def test_all_changes_of_a_look_are_in_one_letter() -> None:
    state, _ = looks([condition("a"), condition("b"), condition("c")])
    (letter,) = state.letters
    assert all(f"paragraph of {key}" in letter.body for key in "abc")
    assert "2 more" in letter.subject


def test_another_variant_is_told_and_the_same_is_not() -> None:
    _, said = looks([condition(variant="failed")], [condition(variant="failed")], [condition(variant="killed")])
    assert said == [["open a"], [], ["changed a"]]


def test_drift_is_told_once_while_it_lasts_and_its_end_is_not_mailed() -> None:
    drift = condition("drift:motd", event=True)
    state, said = looks([drift], [dataclasses.replace(drift, paragraph="")], [drift], [])
    assert said == [["open drift:motd"], [], [], ["over drift:motd"]]
    assert len(state.letters) == 1
    assert "paragraph of drift:motd" in state.letters[0].body


def test_what_is_gone_for_a_moment_is_not_over() -> None:
    _, said = looks([condition(looks_quiet=3)], [], [condition(looks_quiet=3)], [], [], [])
    assert said == [["open a"], [], [], [], [], ["over a"]]


def test_what_comes_back_at_once_has_to_be_gone_for_longer_each_time() -> None:
    state, said = looks(*[[condition()] if number % 2 else [] for number in range(400)])
    assert sum(map(len, said)) <= 8, "a thing that comes and goes all day"
    assert state.open["a"].shown


def test_what_must_last_is_not_told_before_and_leaves_no_trace_if_it_does_not() -> None:
    patient = condition(patience=700)
    _, said = looks([patient], [patient], [patient], [patient], [])
    assert said == [[], [], [], ["open a"], ["over a"]]
    assert looks([patient], [], [patient])[1] == [[], [], []]


def test_without_an_address_no_letter_waits_and_with_one_what_is_open_is_told() -> None:
    state, said = looks([condition()], somebody=False)
    assert said == [["open a"]]
    assert state.letters == ()
    state, changes = step(state, [condition()], now=NOW + 300, name="n", somebody=True)
    assert changes == []
    assert len(state.letters) == 1
    state, _ = step(state, [condition()], now=NOW + 600, name="n", somebody=True)
    assert len(state.letters) == 1
    unheard, _ = looks([condition()], [], somebody=False)
    assert step(unheard, [], now=NOW + 900, name="n", somebody=True)[0].letters == (), "nobody had heard of it"


def test_letters_that_wait_for_long_give_way_to_one_that_names_them() -> None:
    state = State(began=0.0)
    for number in range(200):
        state = watch.with_letter(state, f"subject {number}.", "body", now=NOW + number)
    assert len(state.letters) == watch.MOST_LETTERS
    everything = state.letters[0].body + "".join(letter.subject for letter in state.letters)
    assert all(f"subject {number}." in everything for number in range(200))
    assert len({letter.number for letter in state.letters}) == watch.MOST_LETTERS


def test_a_digest_comes_once_a_day_after_its_hour() -> None:
    state, _ = looks([condition()])
    told = {"now": NOW, "day": "2027-01-15", "name": "n", "changes": ["- a change"]}
    assert watch.with_digest(state, hour=6, **told) == state
    state = watch.with_digest(state, hour=7, **told)
    assert "1 open" in state.letters[-1].subject
    assert "title of a" in state.letters[-1].body
    assert "- a change" in state.letters[-1].body
    assert watch.with_digest(state, hour=8, **told) == state


class Sent:
    """A mail server: what it took, by number; whether it is away; and what msmtp noted."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.noted: set[int] = set()
        self.away = False
        self.die: Callable[[str], None] = lambda _: None

    def send(self, letter: Letter) -> str:
        self.die("before")
        if self.away:
            return "the mail server is not there, or refused"
        self.taken.append(letter.number)
        self.noted.add(letter.number)
        self.die("after")
        return ""

    def was_taken(self, letter: Letter) -> bool:
        return letter.number in self.noted

    def forget(self, letter: Letter) -> None:
        self.noted.discard(letter.number)


class Killed(BaseException):
    """The process is gone."""


MOMENTS = ("", "", "away", "before store", "before", "after", "before noting")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.frozensets(st.sampled_from("abcd")), st.sampled_from(MOMENTS)), max_size=40))
def test_over_any_history_each_change_is_in_one_mail_and_none_arrives_twice(history: list[tuple[frozenset[str], str]]) -> None:
    server, disk = Sent(), State(began=0.0)
    expected: Counter[str] = Counter()
    bodies: dict[int, str] = {}
    for number, (wrong, moment) in enumerate([*history, *[(frozenset(), "")] * (watch.MOST_LOOKS_QUIET + 2)]):
        now = NOW + number * 300
        state, changes = step(disk, [condition(key) for key in sorted(wrong)], now=now, name="n", somebody=True)
        if moment == "before store":
            continue
        disk = state
        expected.update(f"{change.event} {change.key}" for change in changes)
        bodies.update({letter.number: letter.subject + letter.body.partition("Still open:")[0] for letter in state.letters})
        stores = 0

        def store(changed: State, moment: str = moment) -> None:
            nonlocal disk, stores
            stores += 1
            if moment == "before noting" and stores == 2:
                raise Killed
            disk = changed

        def die(when: str, moment: str = moment) -> None:
            if when == moment:
                raise Killed

        server.away, server.die = moment == "away", die
        try:
            outbox.deliver(state, server, store, now=now)
        except Killed:
            pass
        else:
            assert moment == "away" or disk.letters == ()
    assert len(server.taken) == len(set(server.taken)), "a mail arrived twice"
    assert disk.letters == ()
    assert set(server.taken) == set(bodies), "a mail was lost"
    arrived = Counter()
    for body in bodies.values():
        for key in "abcd":
            arrived[f"open {key}"] += body.count(f"paragraph of {key}")
            arrived[f"over {key}"] += body.count(f"Over: title of {key}")
    assert +arrived == +expected
    for key in "abcd":
        assert expected[f"open {key}"] == expected[f"over {key}"], "all is over at the end"


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from([*State.__dataclass_fields__, "version"]), inner)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_lies_in_the_state_file_is_taken_for_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    path.write_bytes(content)
    assert watch.load(path, NOW) == State(began=NOW)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    state, _ = looks([condition(), condition("b", patience=9)], [condition("b", patience=9)], [condition("c")])
    state = dataclasses.replace(state, failing_since=NOW, failing="no", letters=(dataclasses.replace(state.letters[0], begun=NOW),))
    watch.store(tmp_path / "state", state)
    assert watch.load(tmp_path / "state", NOW) == state
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


# --- a droplet's day --------------------------------------------------------------------------------------------------------

MSMTP = """#!/bin/sh
# Takes what a mail server takes, and notes it as msmtp does.
for word in "$@"; do case $word in --logfile=*) log=${word#--logfile=} ;; esac; done
[ -e "$(dirname "$0")/away" ] && exit 75
cat > "$(dirname "$0")/taken/$(basename "$log" .log).eml"
echo "x" >> "$(dirname "$0")/count"
echo "host=mail exitcode=EX_OK" >> "$log"
[ -e "$(dirname "$0")/kill" ] && { rm "$(dirname "$0")/kill"; kill -KILL "$PPID"; }
exit 0
"""


@dataclasses.dataclass(frozen=True)
class Watched:
    """A droplet's folders, and a mail server beside them."""

    folder: Path
    places: watching.Places
    mailer: Mailer

    def mails(self) -> list[str]:
        taken = sorted((self.folder / "taken").iterdir(), key=lambda path: int(path.name.split("-")[1]))
        return [path.read_text() for path in taken]

    def look(self, facts: Facts) -> dict[str, Any]:
        return watching.look(self.places, self.mailer, facts)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "taken").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "msmtp").write_text(MSMTP)
    (tmp_path / "msmtp").chmod(0o755)
    chosen = {
        "domain": "giggles.test", "roles": ["nightly", "backup", "converge"], "converge": {"enabled": True}, "backup": {"bucket": "b"},
        "monitoring": {"mail": {"to": "you@example.test", "from": None, "digest": False}, "thresholds": {"converge_hours": 1}},
    }  # fmt: skip
    (tmp_path / "monitoring.json").write_text(monitoring.settings_file(chosen, {"pings": {"backup": "https://hc.test/secret"}}))
    places = watching.Places(
        tmp_path / "monitoring.json", tmp_path / "records", tmp_path / "records/alerts-state.json", tmp_path / "alerts/lock", tmp_path
    )
    mailer = Mailer("root@giggles.test", "you@example.test", "giggles.test", str(tmp_path / "msmtp"), tmp_path / "rc", tmp_path / "alerts")
    return Watched(tmp_path, places, mailer)


def facts_at(watched: Watched, now: float, units: tuple[str, ...] = ()) -> Facts:
    told = {kind: runs(watched.places.records, kind, now) for kind in KINDS}
    return Facts(now=now, uptime=(now - NOW) + 90000, units=units, **told)


def test_24_hours_with_50_converges_and_a_failure_each_hour(watched: Watched) -> None:
    folder = watched.places.records

    def record(kind: str, now: float, **told: Any) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        records.append(folder, kind, {"time": when, **told}, keep=40)

    for kind in ("backup", "drill"):
        record(kind, NOW - 3600, ok=True)
    record("nightly", NOW - 3600, verdict="ok", users_found=2)
    converges, expected, sizes = 0, [], []
    for minute in range(0, 24 * 60, 5):
        now, hour, within = NOW + minute * 60, minute // 60, minute % 60
        failing = 10 <= within < 30
        kind = ("unit", "converge", "drift", "backup", "nightly")[hour % 5]
        if within == 10:
            expected += {"drift": ["drift"]}.get(kind, ["open", "over"])
        if within in (0, 30) or (hour in (3, 9) and within == 45):
            converges += 1
            record("converge", now, ok=True, drift=[])
        if kind == "converge" and within in (10, 25):
            converges, _ = converges + 1, record("converge", now, ok=within != 10, failures=[{"id": "x", "comment": "y"}], drift=[])
        if kind == "drift" and within == 10:
            record("converge", now, ok=True, drift=[{"id": "motd", "name": "/etc/motd"}])
        if kind == "backup" and within in (10, 30):
            record("backup", now, ok=within == 30, reason="away")
        if kind == "nightly" and within in (10, 30):
            record("nightly", now, verdict="ok" if within == 30 else "killed", users_found=2)
        watched.look(facts_at(watched, now + 1, ("giggles.service",) if kind == "unit" and failing else ()))
        watched.look(facts_at(watched, now + 2, ("giggles.service",) if kind == "unit" and failing else ()))
        sizes.append(sum(path.stat().st_size for path in folder.iterdir() if path.name != "alerts.jsonl"))
    assert converges >= 50
    mails = watched.mails()
    assert len(mails) == len(expected) == 24 * 2 - 5
    assert ["over" if "] over: " in mail else "drift" if "] drift: " in mail else "open" for mail in mails] == expected
    assert len({mail.split("Message-ID: ")[1].splitlines()[0] for mail in mails}) == len(mails)
    changes = [json.loads(line)["event"] for line in (folder / "alerts.jsonl").read_text().splitlines()]
    assert Counter(changes) == {"open": 24, "over": 24}
    assert max(sizes[len(sizes) // 2 :]) < 2 * max(sizes[: len(sizes) // 2]), "records and state grow"
    assert list((watched.folder / "alerts").iterdir()) == [watched.places.lock], "no note of a sent letter stays"
    assert "you@example.test" not in "".join(path.read_text() for path in folder.iterdir())
    assert "hc.test" not in "".join(path.read_text() for path in folder.iterdir())


def test_killed_when_the_server_has_taken_the_mail_it_is_not_sent_again(watched: Watched) -> None:
    (watched.folder / "kill").touch()
    wrong = facts_at(watched, NOW, ("a.service",))
    child = os.fork()
    if child == 0:
        watched.look(wrong)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    end = time.monotonic() + 20
    while not watched.mails() and time.monotonic() < end:
        time.sleep(0.01)
    assert watch.load(watched.places.state, NOW).letters[0].begun == NOW
    assert watched.look(dataclasses.replace(wrong, now=NOW + 300))["waiting"] == 0
    assert (watched.folder / "count").read_text() == "x\n"


def test_a_server_that_is_away_gets_each_mail_once_when_it_is_back(watched: Watched) -> None:
    (watched.folder / "away").touch()
    for number in range(3):
        done = watched.look(facts_at(watched, NOW + 300 * number, ("a.service", "b.service")[: number + 1]))
    assert done["waiting"] == 2
    assert "no time" in done["why"]
    assert watching.told(watched.places, NOW)["mail"]["failing"]["since"] == "2027-01-15T08:00:00Z"
    (watched.folder / "away").unlink()
    assert watched.look(facts_at(watched, NOW + 1200, ("a.service", "b.service")))["waiting"] == 0
    assert ["a.service failed" in mail for mail in watched.mails()] == [True, True]
    assert len(watched.mails()) == 2
    told = watching.told(watched.places, NOW)
    assert [one["key"] for one in told["open"]] == ["unit:a.service", "unit:b.service"]
    assert told["mail"] == {"somebody": True, "waiting": 0, "last": "2027-01-15T08:20:00Z"}


def test_a_look_needs_its_settings(watched: Watched) -> None:
    watched.places.settings.write_text("{")
    with pytest.raises(watching.WatchError, match=r"state\.apply monitoring"):
        watched.look(FINE)


def test_whatever_this_machine_is_it_can_be_looked_at(tmp_path: Path) -> None:
    everything = dict.fromkeys(("nightly", "converge", "backup", "certificate", "vault"), True)
    (tmp_path / "nightly.jsonl").write_bytes(
        b'\xff{"time": 1}\n[]\n{"time": "2999-01-01T00:00:00Z"}\n{"time": "2026-01-01T00:00:00Z", "verdict": []}\n'
    )
    (tmp_path / "backup.jsonl").mkdir()
    facts = gather(everything, tmp_path, tmp_path)
    assert facts.nightly is not None
    assert len(facts.nightly) == 1
    assert facts.backup == []
    assert any(disk.path == "/" for disk in gather({}).disks)
    assert "nightly" in keys(facts)
