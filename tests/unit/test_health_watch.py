"""What is told is what changed: once when it opens, once when it is over, whatever happens in between."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records
from gigglekit.health import expected, facts, monitoring, outbox, page, recent, status, watch, watching
from gigglekit.health.facts import Facts
from gigglekit.health.judge import conditions, judge
from gigglekit.health.judge.condition import Condition
from gigglekit.health.mail import Mailer
from gigglekit.health.places import Places
from gigglekit.health.units import Unit, Units
from gigglekit.health.watch import Letter, State, step
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import status_droplet

NOW = 1_800_000_000.0
KINDS = ("nightly", "converge", "backup", "drill")
WANTED = dataclasses.replace(
    status_droplet.WANTED, roles=frozenset({"nightly", "backup", "converge"}),
    thresholds=dataclasses.replace(status_droplet.WANTED.thresholds, converge_hours=1),
)  # fmt: skip


# --- from conditions to letters ---------------------------------------------------------------------------------------------


def condition(key: str = "a", **more: Any) -> Condition:
    return Condition(key, "problem", f"title of {key}", f"paragraph of {key}", "Mend it.", **{"looks_quiet": 1, **more})


def looks(*rounds: list[Condition], somebody: bool = True, every: float = 300) -> tuple[State, list[list[str]]]:
    """Take looks one after the other, and return what each said."""
    state, said = State(), []
    for number, found in enumerate(rounds):
        state, changes = step(state, found, now=NOW + every * number, name="giggles.test", somebody=somebody)
        said.append([f"{change.event} {change.key}" for change in changes])
    return state, said


def test_one_letter_when_it_opens_and_one_when_it_is_over() -> None:
    state, said = looks([condition()], [condition()], [], [])
    assert said == [["open a"], [], ["over a"], []]
    assert [letter.subject for letter in state.letters] == ["[giggles.test] title of a", "[giggles.test] over: title of a"]
    assert "Paragraph of a. Mend it." in state.letters[0].body


def test_all_changes_of_a_look_are_in_one_letter() -> None:
    state, _ = looks([condition("a"), condition("b"), condition("c")])
    (letter,) = state.letters
    assert all(f"Paragraph of {key}" in letter.body for key in "abc")
    assert "2 more" in letter.subject


def test_another_variant_is_told_and_the_same_is_not() -> None:
    _, said = looks([condition(variant="failed")], [condition(variant="failed")], [condition(variant="killed")])
    assert said == [["open a"], [], ["changed a"]]


def test_drift_is_told_once_while_it_lasts_and_its_end_is_not_mailed() -> None:
    drift = condition("drift:motd", event=True)
    state, said = looks([drift], [drift], [drift], [])
    assert said == [["open drift:motd"], [], [], ["over drift:motd"]]
    assert len(state.letters) == 1
    assert "paragraph of drift:motd" in state.letters[0].body


def test_drift_that_a_converge_found_mended_is_told_again_however_soon_it_comes_back() -> None:
    drift = condition("drift:motd", event=True)
    _, said = looks(*[[drift], []] * 5)
    assert said == [["open drift:motd"], ["over drift:motd"]] * 5


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


def test_a_clock_that_was_ahead_when_it_was_first_seen_puts_off_no_mail_for_years() -> None:
    lasting = condition(patience=1000)
    ahead, _ = step(State(), [lasting], now=NOW + 365 * 86400, name="giggles.test", somebody=True)
    first, none = step(ahead, [lasting], now=NOW, name="giggles.test", somebody=True)
    state, changes = step(first, [lasting], now=NOW + 1000, name="giggles.test", somebody=True)
    assert (none, [change.event for change in changes], len(state.letters)) == ([], ["open"], 1)


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
    state = State()
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
        self.texts: list[str] = []
        self.noted: set[int] = set()
        self.away = False
        self.refused = "\0"
        self.die: Callable[[str], None] = lambda _: None

    def send(self, letter: Letter) -> str:
        self.die("before")
        if self.away:
            return "the mail server is not there, or refused"
        if self.refused in letter.subject + letter.body:
            return "the server did not take the message"
        self.texts.append(letter.subject + ": " + letter.body)
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
    server, disk = Sent(), State()
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
            arrived[f"open {key}"] += body.count(f"Paragraph of {key}")
            arrived[f"over {key}"] += body.count(f"Over: title of {key}")
    assert +arrived == +expected
    for key in "abcd":
        assert expected[f"open {key}"] == expected[f"over {key}"], "all is over at the end"


def post(server: Sent, looks: int, letters: dict[int, tuple[str, str]], changes: dict[int, Callable[[], None]] | None = None) -> State:
    """Look so many times, with a letter more at some looks, and something that happens before others."""
    state = State()
    for number in range(looks):
        (changes or {}).get(number, lambda: None)()
        if number in letters:
            state = watch.with_letter(state, *letters[number], now=NOW + 300 * number)
        state = outbox.deliver(state, server, lambda _: None, now=NOW + 300 * number)
    return state


def test_a_text_that_the_server_refuses_is_sent_without_it_and_holds_up_no_other() -> None:
    server = Sent()
    server.refused = "poison"
    state = post(server, 4, {0: ("bad", "poison"), 1: ("good", "text")})
    assert state.letters == ()
    assert server.texts[0].startswith("bad: The mail server refused the text of this mail.")
    assert server.texts[1:] == ["good: text"]
    assert (state.failing, state.set_aside) == ("", ())


def test_a_mail_that_the_server_refuses_whatever_is_in_it_is_set_aside_once_another_one_was_taken() -> None:
    server = Sent()
    server.refused = "poison"
    alone = post(server, 40, {0: ("poison", "text")})
    assert [letter.subject for letter in alone.letters] == ["poison"], "nobody knows yet whose fault it is"
    assert alone.failing
    for others in (1, 2, 20):
        server = Sent()
        server.refused = "poison"
        bad = {number: (f"poison {number}", "text") for number in range(3)}
        state = post(server, 60, {**bad, **{10 + number: (f"alert {number}", "text") for number in range(others)}})
        assert server.texts == [f"alert {number}: text" for number in range(others)]
        assert (state.letters, state.failing) == ((), "")
        assert {subject for _, subject in state.set_aside} == {"poison 0", "poison 1", "poison 2"}
    assert watch.memory(state).set_aside
    later, _ = step(state, [], now=NOW + 60 * 300 + watch.ASIDE_S, name="n", somebody=True)
    assert later.set_aside == ()


def test_a_server_that_refuses_everything_for_a_day_loses_no_text() -> None:
    server = Sent()
    server.refused = ""
    sent = {number * 10: (f"alert {number}", "its text") for number in range(20)}
    state = post(server, 288, sent, {287: lambda: setattr(server, "refused", "\0")})
    assert sorted(server.texts) == sorted(f"{subject}: {text}" for subject, text in sent.values())
    assert (state.letters, state.set_aside) == ((), ())


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from([*State.__dataclass_fields__, "version"]), inner)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_lies_in_the_state_file_is_taken_for_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    path.write_bytes(content)
    assert watch.load(path, NOW) == State()


def _places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in items:
        yield from _places_in(below, (*place, name))


def test_a_state_that_is_damaged_in_one_place_ends_no_look(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    shown = watch.Open(NOW - 900, "t", "p", shown=True, told=NOW - 900)
    whole = State(
        looked=NOW - 300, seen=NOW - 900, open={"disk:/": shown, "x": shown},
        restless={"y": (NOW - 100, 2)}, letters=(Letter(1, NOW - 500, "s", "b", begun=NOW - 400),), number=1, digest="2026-11-23",
        failing_since=NOW - 4000, failing="why", mailed=NOW - 9000, set_aside=((NOW - 100, "s"),), restarts=((NOW - 300, 2),),
    )  # fmt: skip
    watch.store(path, whole)
    assert watch.load(path, NOW) == whole
    kept = path.read_text()
    server = Sent()
    server.away = True
    seen = facts.Facts(NOW, units=status_droplet.all_run([]), disks=[facts.Disk("/", 90.0)])
    for place in _places_in(json.loads(kept)):
        for value in (None, True, "x", -1, 1e300, float("nan"), float("inf"), [], {}, [1], 10**400):
            damaged = json.loads(kept)
            inner = damaged
            for name in place[:-1]:
                inner = inner[name]
            inner[place[-1]] = value
            path.write_text(json.dumps(damaged))
            state = watch.load(path, NOW)
            wrong = conditions(judge(seen, status_droplet.WANTED, watch.memory(state)))
            state, _ = step(state, wrong, now=NOW, name="n", somebody=True, restarts=3)
            state = watch.with_digest(state, now=NOW, day="2026-11-24", hour=8, name="n", changes=[])
            watch.store(tmp_path / "other.json", state)
            outbox.deliver(state, server, lambda _: None, now=NOW)


def test_mails_that_wait_since_a_time_to_come_are_shown_when_they_have_waited_for_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    watch.store(path, State(looked=NOW, letters=(Letter(1, NOW, "s", "b"),), number=1, failing_since=NOW + 1e6, failing="why"))
    state = watch.load(path, NOW)
    assert watch.memory(state).failing_since == NOW, "the clock was ahead when the first one could not be sent"


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
    places: Places
    mailer: Mailer

    def mails(self) -> list[str]:
        taken = sorted((self.folder / "taken").iterdir(), key=lambda path: int(path.name.split("-")[1]))
        return [path.read_text() for path in taken]

    def look(self, facts: Facts) -> dict[str, Any]:
        return watching.look(self.places, self.mailer, facts)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "taken").mkdir()
    (tmp_path / "msmtp").write_text(MSMTP)
    (tmp_path / "msmtp").chmod(0o755)
    places = Places(tmp_path / "root")
    for folder in (places.records, places.settings.parent, places.page.parent):
        folder.mkdir(parents=True)
    chosen = {"domain": "giggles.test", "monitoring": {"mail": {"to": "you@example.test", "from": None, "digest": False}}}
    places.settings.write_text(monitoring.settings_file(chosen, {"pings": {"backup": "https://hc.test/secret"}}))
    places.expected.write_text(json.dumps({**vars(WANTED), "roles": sorted(WANTED.roles), "thresholds": vars(WANTED.thresholds)}))
    alerts = places.lock.parent
    mailer = Mailer("root@giggles.test", "you@example.test", "giggles.test", str(tmp_path / "msmtp"), tmp_path / "rc", alerts)
    return Watched(tmp_path, places, mailer)


def facts_at(watched: Watched, now: float, failed: tuple[str, ...] = ()) -> Facts:
    runs = {kind: list(recent.newest_first(watched.places.records, kind, now=now)) for kind in KINDS}
    known = {name: Unit(name, True, "active", "success", NOW) for name, _ in WANTED.units()}
    return Facts(now=now, uptime=(now - NOW) + 90000, units=Units(known, failed), runs=runs, set_up=dict.fromkeys(KINDS, now - 60))


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
    assert list(watched.places.lock.parent.iterdir()) == [watched.places.lock], "no note of a sent letter stays"
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
    assert watch.load(watched.places.told, NOW).letters[0].begun == NOW
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


def test_mails_of_a_staging_droplet_begin_with_that(watched: Watched) -> None:
    watched.places.settings.write_text(watched.places.settings.read_text().replace('"production"', '"staging"'))
    watched.look(facts_at(watched, NOW, ("a.service",)))
    watching.send_test(watched.places, watched.mailer)
    assert [line for mail in watched.mails() for line in mail.splitlines() if line.startswith("Subject: [staging giggles.test] ")] == [
        "Subject: [staging giggles.test] test",
        "Subject: [staging giggles.test] a.service failed",
    ]


@pytest.mark.parametrize("name", ["settings", "expected"])
def test_a_look_needs_its_settings(watched: Watched, name: str) -> None:
    getattr(watched.places, name).write_text("{")
    with pytest.raises(watching.WatchError, match=r"state\.apply monitoring"):
        watched.look(facts_at(watched, NOW))


def test_a_look_draws_the_page_of_what_it_tells_and_the_status_says_the_same(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    records.append(watched.places.records, "backup", {"ok": False, "reason": "the bucket is away"})
    now = time.time()
    seen = facts_at(watched, now, ("a.service",))
    done = watched.look(seen)
    assert done["page"] == ""
    assert {"backup", "unit:a.service"} <= set(done["open"])
    drawn = watched.places.page.read_text()
    monkeypatch.setattr(facts, "gather", lambda *args, **kwargs: seen)
    shown = status.collect(watched.places)
    assert shown.summary.partition(", since")[2].partition(": ")[2] in drawn
    assert {key for fact in shown.facts for key in fact.conditions} == set(done["open"])
    assert all(text in drawn for text in ("the bucket is away", "a.service has failed"))


def test_a_page_that_cannot_be_written_is_told_in_a_sentence_and_mails_leave(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.places.page.parent.rmdir()
    seen = facts_at(watched, NOW, ("a.service",))
    real = watching.look
    monkeypatch.setattr(watching, "look", lambda places: real(places, watched.mailer, seen))
    assert watching.main(watched.places) == 1
    said = capsys.readouterr()
    assert "The status page could not be made" in said.err
    assert said.out == "open: a.service failed\n"
    assert len(watched.mails()) == 1


@pytest.mark.parametrize("name", ["disk", "status"])
def test_a_look_that_can_record_nothing_of_its_own_tells_all_the_same(watched: Watched, name: str) -> None:
    (watched.places.records / f"{name}.jsonl").mkdir()
    watched.look(facts_at(watched, NOW, ("a.service",)))
    assert len(watched.mails()) == 1


def test_what_is_recorded_while_somebody_looks_is_looked_at_as_well(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, real = [], watching.look

    def look(places: Places) -> dict[str, Any]:
        looks.append(1)
        done = real(places, watched.mailer, facts_at(watched, NOW))
        if len(looks) == 1:
            records.append(places.records, "backup", {"ok": True})
        return done

    monkeypatch.setattr(watching, "look", look)
    assert watching.main(watched.places) == 0
    assert len(looks) == 2
    assert expected.read(watched.places.expected) == WANTED


def app_at(watched: Watched, minutes: float, state: str = "active", *, answer: str = "", restarts: int = 0, uptime: float = 1e6) -> Facts:
    """Return a droplet on which only the app may be wrong."""
    now = NOW + 60 * minutes
    seen = facts_at(watched, now)
    assert seen.units is not None
    told = Unit("giggles.service", True, state, "exit-code", now - 2, restarts=restarts)
    known = {**seen.units.known, **{name: Unit(name, True, "active", "success", NOW) for name, _ in WITH_APP.units()}, told.name: told}
    return dataclasses.replace(
        seen,
        units=Units(known, ()),
        app=answer,
        uptime=uptime,
        release=facts.Release("c", NOW, True),
        vault=facts.Vault("encrypted", "", True),
    )


WITH_APP = dataclasses.replace(WANTED, roles=WANTED.roles | {"app", "vault"})


@pytest.fixture
def with_app(watched: Watched) -> Watched:
    watched.places.expected.write_text(
        json.dumps({**vars(WITH_APP), "roles": sorted(WITH_APP.roles), "thresholds": vars(WITH_APP.thresholds)})
    )
    for kind in KINDS:
        records.append(watched.places.records, kind, {"time": recent.written(NOW - 60), "ok": True, "verdict": "ok"})
    return watched


def subjects(watched: Watched) -> list[str]:
    return [line.removeprefix("Subject: [giggles.test] ") for mail in watched.mails() for line in mail.splitlines() if "Subject: " in line]


@pytest.mark.parametrize("answers", [True, False])
def test_an_app_that_crashes_again_and_again_is_one_mail_and_its_recovery_another(with_app: Watched, answers: bool) -> None:
    for number in range(9):
        state, answer = ("active", "") if answers or number % 2 else ("activating", "it did not answer")
        if not answers:
            answer = "it did not answer"
        with_app.look(app_at(with_app, 5 * number, state, answer=answer, restarts=40 * number))
        assert bool(with_app.mails()) is (number >= 3), f"look {number}"
    for number in range(9, 16):
        with_app.look(app_at(with_app, 5 * number, restarts=320))
    first, *rest = subjects(with_app)
    assert "the app" in first
    assert rest == [f"over: {first}"]


def test_an_app_that_waited_for_the_vault_is_no_mail_when_it_is_unlocked(with_app: Watched) -> None:
    for number in range(10):
        locked = number < 5
        seen = app_at(with_app, 5 * number, "activating" if locked else "active", restarts=100 * min(number, 5))
        with_app.look(dataclasses.replace(seen, vault=facts.Vault("encrypted", "", not locked)))
    assert subjects(with_app) == ["vault locked", "over: vault locked"]


def test_an_app_that_hangs_is_one_mail_though_systemd_finds_nothing_wrong(with_app: Watched) -> None:
    for number in range(6):
        with_app.look(app_at(with_app, 5 * number, answer="it did not answer"))
    assert subjects(with_app) == ["the app does not answer"]
    assert "unit:giggles.service" in [one["key"] for one in watching.told(with_app.places, NOW)["open"]]


def test_a_deploy_a_converge_and_a_start_of_some_minutes_are_no_mail(with_app: Watched) -> None:
    silent = {
        1: ("activating", ""),
        2: ("active", "it did not answer"),
        6: ("activating", "it did not answer"),
        11: ("active", "x"),
        12: ("active", "x"),
    }
    for number in range(20):
        state, answer = silent.get(number, ("active", ""))
        with_app.look(app_at(with_app, 5 * number, state, answer=answer, restarts=int(number > 3)))
    assert with_app.mails() == []


def test_a_restart_of_the_machine_ends_nothing_that_was_overdue(with_app: Watched) -> None:
    records.append(with_app.places.records, "backup", {"time": recent.written(NOW - 50), "ok": False, "reason": "x"})
    (with_app.places.records / "backup.jsonl").write_text(json.dumps({"time": recent.written(NOW - 3 * 86400), "ok": True}) + "\n")
    for number in range(20):
        uptime = 1e6 if number < 3 else 300.0 * (number - 3) + 60
        with_app.look(dataclasses.replace(app_at(with_app, 2 * number, uptime=uptime), set_up={}))
    assert subjects(with_app) == ["backup overdue"]


@pytest.mark.parametrize("forgets", ["systemctl does not answer", "reset-failed", "a restart of the machine"])
def test_a_run_that_failed_without_a_record_is_over_when_one_was_good_and_not_before(with_app: Watched, forgets: str) -> None:
    name = "giggles-backup.service"

    def look(number: int, state: str | None) -> None:
        seen = app_at(with_app, 5 * number)
        assert seen.units is not None
        unit = {name: Unit(name, True, state or "", "oom-kill", NOW + 100)}
        units = Units({**seen.units.known, **unit}, (name,) if state == "failed" else ())
        with_app.look(dataclasses.replace(seen, units=units if state else None))

    for number in range(6):
        look(number, "failed" if number < 3 else {"systemctl does not answer": None, "reset-failed": "inactive"}.get(forgets, "active"))
    look(6, "failed" if forgets.startswith("systemctl") else "inactive")
    assert [subject for subject in subjects(with_app) if "backup" in subject] == ["backup failed"]
    records.append(with_app.places.records, "backup", {"time": recent.written(NOW + 1900), "ok": True})
    look(7, "inactive")
    assert [subject for subject in subjects(with_app) if "backup" in subject] == ["backup failed", "over: backup failed"]


def test_a_disk_that_takes_nothing_is_told_once_and_its_end_too(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full, real, append = [watched.places.records, watched.places.page.parent], watch.replace, records.append

    def replace(path: Path, *rest: Any) -> None:
        if path.parent in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, *rest)

    def append_or_not(*given: Any, **more: Any) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(*given, **more)

    monkeypatch.setattr(records, "append", append_or_not)
    for module in (watch, page):
        monkeypatch.setattr(module, "replace", replace)
    disk = [facts.Disk("/", 100.0, 100.0)]
    for number in range(4):
        watched.look(dataclasses.replace(facts_at(watched, NOW + 300 * number), disks=disk))
        assert len(watched.mails()) == 1, "it is told, and told once"
    assert {"disk:/", "inodes:/"} <= {one["key"] for one in watching.told(watched.places, NOW)["open"]}
    seen, look = dataclasses.replace(facts_at(watched, NOW + 1200), disks=disk), watching.look
    monkeypatch.setattr(watching, "look", lambda places: look(places, watched.mailer, seen))
    assert watching.main(watched.places) == 1
    assert "No space left on device" in capsys.readouterr().err
    full.clear()
    for number in range(5, 9):
        look(watched.places, watched.mailer, facts_at(watched, NOW + 300 * number))
    assert [("over: " in subject) for subject in subjects(watched)] == [False, True]
    assert list(watched.places.told_meanwhile.parent.iterdir()) == []
    assert watching.told(watched.places, NOW)["open"] == []


def test_where_nothing_at_all_can_be_remembered_no_mail_leaves_every_five_minutes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(path: Path, *rest: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(watch, "replace", replace)
    for number in range(3):
        with pytest.raises(OSError, match="No space"):
            watched.look(facts_at(watched, NOW + 300 * number, ("a.service",)))
    assert watched.mails() == []


def test_what_nobody_can_see_stays_open_and_nothing_new_is_said(watched: Watched) -> None:
    watched.look(facts_at(watched, NOW, ("a.service",)))
    for number in range(1, 5):
        done = watched.look(dataclasses.replace(facts_at(watched, NOW + 60 * number), units=None))
        assert "unit:a.service" in done["open"]
    assert [mail.count("Subject:") for mail in watched.mails()] == [1]
