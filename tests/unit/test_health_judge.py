"""What is wrong is decided in one place: the status shows it, the page shows it, and mails are about the same, whatever the facts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health import calendar_of_runs, page, status
from gigglekit.health.expected import Expected
from gigglekit.health.facts import KINDS, UPLOADS, Certificate, Disk, Facts, Release, Vault, gather
from gigglekit.health.judge import conditions, judge
from gigglekit.health.judge.condition import LEVELS, WRONG, Condition, Memory
from gigglekit.health.places import Places
from gigglekit.health.recent import Entry
from gigglekit.health.units import Unit, Units
from gigglekit.health.watch import State, step
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.status_droplet import ALL_ROLES, DAY, HOUR, NOW, WANTED, all_run

ONLY_RUNS = dataclasses.replace(WANTED, roles=frozenset({"nightly", "backup", "converge"}))
NONE_FAILED = Units({}, ())


def run(age: float = 60, **told: Any) -> Entry:
    return Entry(NOW - age, told)


GOOD = {"nightly": [run(verdict="ok")], "backup": [run(ok=True)], "drill": [run(ok=True)], "converge": [run(ok=True)]}


def keys(
    facts: Facts | None = None,
    wanted: Expected = ONLY_RUNS,
    *,
    seen: float = 0.0,
    opened: tuple[str, ...] = (),
    memory: Memory | None = None,
    **runs: list[Entry],
) -> dict[str, Condition]:
    """Return what is judged to be wrong; of runs that are not given, the newest was good."""
    facts = dataclasses.replace(facts or Facts(NOW, units=all_run([name for name, _ in wanted.units()])), runs={**GOOD, **runs})
    return {found.key: found for found in conditions(judge(facts, wanted, memory or Memory(frozenset(opened), seen)))}


def test_of_a_droplet_that_is_all_right_nothing_is_said() -> None:
    assert keys() == {}


@pytest.mark.parametrize("verdict", ["partial", "failed", "killed", "silent-failure", "never heard of"])
def test_a_nightly_verdict_that_is_not_ok_is_open_with_its_reasons(verdict: str) -> None:
    found = keys(nightly=[run(30, verdict=verdict, reasons=["The database was down.", None, 7]), run(verdict="ok")])
    assert set(found) == {"nightly"}
    assert found["nightly"].variant == verdict
    assert "The database was down" in found["nightly"].paragraph


def test_nobody_to_process_is_only_told_where_there_was_somebody_before() -> None:
    nobody = run(verdict="nothing-to-do", users_found=0)
    assert keys(nightly=[nobody]) == {}
    before = run(90000, verdict="ok", users_found=2)
    assert set(keys(nightly=[nobody, before])) == {"nightly"}
    assert keys(nightly=[run(verdict="nothing-to-do", users_found=None, users_elsewhere=2), before]) == {}, "another droplet did them"


@pytest.mark.parametrize(("kind", "longest"), [("nightly", 26 * HOUR), ("backup", 30 * HOUR), ("drill", 9 * DAY), ("converge", 3 * HOUR)])
def test_what_is_too_old_is_overdue(kind: str, longest: float) -> None:
    units = all_run([name for name, _ in ONLY_RUNS.units()])
    for age, overdue in ((longest - 60, False), (longest + 60, True)):
        old = {kind: [run(age, verdict="ok", ok=True)]}
        assert (f"{kind}-overdue" in keys(**old)) is overdue, age
        started = Facts(NOW, uptime=600, units=units)
        assert keys(started, **old) == {}, "a machine that was off catches up first"
        assert (f"{kind}-overdue" in keys(started, opened=(f"{kind}-overdue",), **old)) is overdue, "a restart is no run"
        since = Facts(NOW, units=units, set_up={kind: NOW - age})
        assert (f"{kind}-overdue" in keys(since, **{kind: []})) is overdue, "it never ran since it was set up"
    assert keys(Facts(NOW, units=units), dataclasses.replace(ONLY_RUNS, roles=frozenset()), **{kind: [run(longest + 60, ok=True)]}) == {}


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
def test_a_run_that_is_at_work_is_not_overdue_unless_it_was_before(kind: str) -> None:
    name, key, old = f"giggles-{kind}.service", f"{kind}-overdue", {kind: [run(10 * DAY, verdict="ok", ok=True)]}
    names = [name for name, _ in ONLY_RUNS.units()]
    at_work = Facts(NOW, units=all_run([*names, name], **{name.replace("-", "_").replace(".", "_"): "activating"}))
    resting = Facts(NOW, units=all_run([*names, name], **{name.replace("-", "_").replace(".", "_"): "inactive"}))
    assert keys(at_work, **old) == {}, "a night that is longer than the one before ends later"
    assert key in keys(resting, **old)
    assert key in keys(at_work, opened=(key,), **old)


@pytest.mark.parametrize("kind", ["converge", "backup", "drill"])
def test_a_failed_run_is_open_until_one_is_good(kind: str) -> None:
    failed = run(60, ok=False, reason="The bucket is away", failures=[{"id": "x", "comment": "no space"}])
    found = keys(**{kind: [failed, run(120, ok=True)]})
    assert set(found) == {kind}
    assert ("x: no space" if kind == "converge" else "The bucket is away") in found[kind].paragraph
    assert keys(**{kind: [run(30, ok=True), failed]}) == {}


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
def test_the_unit_of_a_run_is_never_told_beside_what_its_record_says(kind: str) -> None:
    name = f"giggles-{kind}.service"

    def failed(since: float | None) -> Facts:
        known = {name: Unit(name, True, "failed", "exit-code", since)}
        return Facts(NOW, units=Units({**all_run([n for n, _ in ONLY_RUNS.units()]).known, **known}, (name, "giggles.service")))

    bad, good = run(60, ok=False, verdict="failed"), run(60, ok=True, verdict="ok")
    for found in (keys(failed(NOW - 59), **{kind: [bad]}), keys(failed(NOW - 30), **{kind: [good]}), keys(failed(None), **{kind: [good]})):
        assert set(found) == {kind, "unit:giggles.service"}, "with a record or without one, it is one condition"
    assert set(keys(failed(NOW - 90), **{kind: [good]})) == {"unit:giggles.service"}, "a good run came after it"


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
def test_a_run_that_failed_without_a_record_is_open_until_a_good_one_whatever_systemd_says_or_forgets(kind: str) -> None:
    name = f"giggles-{kind}.service"
    names = [found for found, _ in ONLY_RUNS.units()]
    before, after = run(600, ok=True, verdict="ok"), run(60, ok=True, verdict="ok")
    seen = Memory(frozenset({kind}), unrecorded={kind: NOW - 300})
    forgotten = (None, all_run(names), all_run([*names, name], **{name.replace("-", "_").replace(".", "_"): "activating"}))
    for units in forgotten:
        found = keys(Facts(NOW, units=units), memory=seen, **{kind: [before]})
        assert found.pop("services", None) is None or units is None
        assert [(key, one.variant) for key, one in found.items()] == [(kind, "no record")]
        assert kind not in keys(Facts(NOW, units=units), memory=seen, **{kind: [after, before]})
        assert kind not in keys(Facts(NOW, units=units), **{kind: [before]}), "nothing was seen that could be kept"


def test_one_concern_applied_by_hand_says_nothing_about_the_others() -> None:
    failed, part = run(600, ok=False, failures=[{"id": "x"}], full=True), run(60, ok=True, full=False, drift=[])
    assert set(keys(converge=[part, failed])) == {"converge"}
    assert keys(converge=[run(30, ok=True, full=True), part, failed]) == {}
    old = [run(60, ok=True, full=False), run(4 * HOUR, ok=True)]
    assert set(keys(converge=old)) == {"converge-overdue"}
    assert keys(converge=[run(60, ok=False, full=False, failures=[]), run(600, ok=True)]) == {}, "who started it sees that it failed"
    found = run(600, ok=True, drift=[{"id": "motd", "name": "/etc/motd"}])
    assert set(keys(converge=[part, found], seen=NOW - 600)) == {"drift:motd"}, "nobody has looked whether it is untouched"
    assert set(keys(converge=[run(60, ok=True, full=False, drift=[{"id": "x"}]), run(600, ok=True)], seen=NOW - 600)) == {"drift:x"}
    assert keys(converge=[run(30, ok=True, drift=[]), part, found], seen=NOW - 60) == {}


ONLY_APP = dataclasses.replace(WANTED, roles=frozenset({"app"}))
APP = "unit:giggles.service"


def app(state: str = "active", *, answer: str | None = "", restarts: int = 0, vault: Vault | None = None) -> Facts:
    known = dict(all_run([name for name, _ in ONLY_APP.units()]).known)
    known["giggles.service"] = Unit("giggles.service", True, state, "exit-code", NOW - 2, restarts=restarts)
    return Facts(NOW, units=Units(known, ()), release=Release("c", NOW, True), app=answer, vault=vault)


def test_an_app_that_systemd_says_nothing_of_does_not_run() -> None:
    seen = app()
    assert seen.units is not None
    told = {name: unit for name, unit in seen.units.known.items() if name != "giggles.service"}
    assert keys(dataclasses.replace(seen, units=Units(told, ())), ONLY_APP)[APP].level == "problem"


def test_an_app_that_does_not_answer_is_a_problem_when_that_lasts() -> None:
    assert keys(app(), ONLY_APP) == {}
    assert keys(app(answer=None), ONLY_APP) == {}
    for silent in (app(answer="it did not answer"), app("activating"), app("activating", answer="the connection failed")):
        first = keys(silent, ONLY_APP)[APP]
        assert (first.level, first.mailed, 600 < first.patience < 900) == ("warning", True, True)
        assert keys(silent, ONLY_APP, opened=(APP,))[APP].level == "problem"
    locked = app("activating", vault=Vault("encrypted", "", False))
    assert keys(locked, dataclasses.replace(ONLY_APP, roles=frozenset({"app", "vault"})))[APP].mailed is False, "the vault is told"


@pytest.mark.parametrize(
    ("looks", "count", "told"),
    [
        ([(900, 0), (600, 4), (300, 9)], 12, True),
        ([(900, 3), (600, 3), (300, 12)], 12, False),
        ([(1200, 40), (900, 80), (600, 120), (300, 0)], 0, False),
        ([(1500, 0), (1200, 40), (900, 80), (600, 120), (300, 120)], 120, False),
        ([(1200, 0), (900, 40), (600, 80), (300, 120)], 120, True),
        ([(900, 12), (600, 12), (300, 12)], 12, False),
        ([(20, 1), (15, 4), (10, 7)], 9, False),
        ([], 12, False),
    ],
)
def test_an_app_that_is_started_anew_at_look_after_look_is_a_problem_at_once(looks: list[tuple[int, int]], count: int, told: bool) -> None:
    found = keys(app(restarts=count), ONLY_APP, memory=Memory(restarts=[(NOW - age, seen) for age, seen in looks]))
    assert {key: (one.level, one.patience) for key, one in found.items()} == ({APP: ("problem", 0.0)} if told else {})


def test_what_moves_clips_into_vaults_has_to_run_where_there_is_a_vault() -> None:
    wanted = dataclasses.replace(WANTED, roles=frozenset({"vault"}))
    units = all_run([name for name, _ in wanted.units()], giggles_vault_adopt_service="inactive")
    told = [set(keys(Facts(NOW, units=units, vault=vault), wanted)) - {"vault"} for vault in (
        Vault("encrypted", "", True), Vault("encrypted", "", False), Vault("plain", "", True), None)]  # fmt: skip
    assert told == [{"unit:giggles-vault-adopt.service"}, set(), set(), set()]
    kept = dataclasses.replace(WANTED, roles=frozenset({"hardening"}))
    still = all_run([name for name, _ in kept.units()], giggles_reboot_timer="inactive")
    assert set(keys(Facts(NOW, units=still), kept)) == {"unit:giggles-reboot.timer"}


def test_sshd_need_not_run_while_its_socket_waits_for_somebody() -> None:
    wanted = dataclasses.replace(ONLY_RUNS, roles=frozenset({"hardening"}))
    names = [name for name, _ in wanted.units()]

    def found(sshd: str, socket: str) -> set[str]:
        known = {"ssh.service": Unit("ssh.service", True, sshd, "success", None), "ssh.socket": Unit("ssh.socket", True, socket, "", None)}
        return set(keys(Facts(NOW, units=Units({**all_run(names).known, **known}, ())), wanted))

    assert found("inactive", "active") == found("active", "inactive") == set()
    assert found("inactive", "inactive") == found("failed", "active") == {"unit:ssh.service"}


def test_a_value_at_its_threshold_does_not_come_and_go() -> None:
    units = all_run([name for name, _ in WANTED.units()])
    for bytes_, inodes, opened, told in (
        (85.0, 1.0, (), {"disk:/"}), (84.0, 1.0, ("disk:/",), {"disk:/"}), (81.0, 1.0, ("disk:/",), set()), (84.0, 1.0, (), set()),
        (1.0, 90.0, (), {"inodes:/"}), (1.0, None, ("inodes:/",), set()),
    ):  # fmt: skip
        assert set(keys(Facts(NOW, units=units, disks=[Disk("/", bytes_, inodes)]), opened=opened)) == told
    web = dataclasses.replace(ONLY_RUNS, roles=frozenset({"web"}))

    def served(days: float, placeholder: bool = False) -> Facts:
        return Facts(NOW, units=units, certificate=Certificate(NOW - DAY, NOW + days * DAY, placeholder))

    assert keys(served(20.5), web) == {}
    assert set(keys(served(20.5), web, opened=("certificate",))) == {"certificate"}
    assert keys(served(-0.1), web)["certificate"].variant == "ended"
    assert keys(served(500, placeholder=True), web)["certificate"].variant == "placeholder"
    assert keys(Facts(NOW, units=units), web)["certificate"].variant == "none"


def test_the_vault_is_told_when_it_is_weaker_or_stays_locked() -> None:
    wanted = dataclasses.replace(ONLY_RUNS, roles=frozenset({"vault"}))
    units = all_run([name for name, _ in wanted.units()])

    def kept(vault: Vault | None) -> dict[str, Condition]:
        return keys(Facts(NOW, units=units, vault=vault), wanted)

    assert (kept(Vault("plain", "", True))["vault"].patience, kept(Vault("plain", "", True))["vault"].level) == (0, "warning")
    assert kept(Vault("encrypted", "", False))["vault"].patience > 0
    assert kept(Vault("encrypted", "", True)) == {}
    assert kept(None)["vault"].level == "unknown"


def test_drift_of_every_converge_since_the_last_look_counts_and_is_told_by_name() -> None:
    motd = [{"id": "motd", "name": "/etc/motd", "summary": "a line too many"}]
    three = [run(100, ok=True, drift=[]), run(200, ok=True, drift=[{"id": "x", "name": "x"}]), run(300, ok=True, drift=motd)]
    assert set(keys(converge=three, seen=NOW - 301)) == {"drift:motd", "drift:x"}
    assert set(keys(converge=three, seen=NOW - 250)) == {"drift:x"}
    assert keys(converge=three, seen=NOW - 100) == {}
    assert keys(converge=three) == {}, "of a droplet seen for the first time, only the newest"
    found = keys(converge=three[2:], seen=NOW - 300)
    assert set(found) == {"drift:motd"}, "no converge since"
    assert "a line too many" in found["drift:motd"].paragraph


def test_what_was_chosen_is_shown_and_not_mailed() -> None:
    chosen = dataclasses.replace(WANTED, bucket=False, mail=False, domain=None)
    found = keys(Facts(NOW, units=all_run([name for name, _ in chosen.units()]), release=Release("c", NOW, True),
                       vault=Vault("encrypted", "", True)), chosen)  # fmt: skip
    assert {key: (one.level, one.mailed) for key, one in found.items()} == dict.fromkeys(
        ("backup", "certificate", "alerts"), ("warning", False)
    )


def test_the_name_of_a_unit_or_a_file_is_written_as_it_is_and_a_sentence_as_one() -> None:
    drift = keys(converge=[run(ok=True, drift=[{"id": "watch-runs", "name": "watch-runs"}])])["drift:watch-runs"]
    assert drift.paragraph.startswith("watch-runs (watch-runs). Found ")
    failed = keys(Facts(NOW, units=Units(all_run([name for name, _ in ONLY_RUNS.units()]).known, ("a.service",))))["unit:a.service"]
    assert failed.paragraph.startswith("a.service has failed. systemctl status a.service")
    assert keys(backup=[run(ok=False, reason="No answer.")])["backup"].paragraph.startswith("Failed: No answer (")


def test_mails_that_cannot_be_sent_are_shown() -> None:
    memory = Memory(waiting=2, failing_since=NOW - 2 * HOUR, failing="the mail server is not there, or refused")
    (alerts,) = [one for one in judge(Facts(NOW), WANTED, memory) if one.name == "alerts"]
    assert alerts.level == "problem"
    assert "2 mails wait to be sent: the mail server is not there" in alerts.line


def test_a_mail_that_was_given_up_is_shown_and_fails_nothing() -> None:
    subjects = judge(Facts(NOW), WANTED, Memory(set_aside=["[n] backup failed"]))
    (alerts,) = [one for one in subjects if one.name == "alerts"]
    assert (alerts.level, alerts.conditions[0].mailed) == ("warning", False)
    assert "[n] backup failed" in alerts.line


def test_whatever_this_machine_is_it_can_be_looked_at(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.records.mkdir(parents=True)
    (places.records / "nightly.jsonl").write_bytes(
        b'\xff{"time": 1}\n[]\n{"time": "2999-01-01T00:00:00Z"}\n{"time": "2026-11-20T00:00:00Z", "verdict": []}\n'
    )
    (places.records / "backup.jsonl").mkdir()
    facts = gather(places, WANTED, now=NOW)
    assert len(facts.runs["nightly"]) == 1
    assert facts.runs["backup"] == []
    assert any(disk.path == "/" for disk in gather(Places(), WANTED).disks)
    assert "nightly" in {one.key for one in conditions(judge(facts, WANTED))}


# --- one judge, whatever the facts ------------------------------------------------------------------------------------------

words = st.text(max_size=12) | st.sampled_from(["ok", "partial", "killed", "nothing-to-do", "<b>&\x1b", "a\nb"])
anything = st.none() | st.booleans() | st.integers(-5, 10**18) | st.floats() | words | st.lists(words, max_size=2)
record = st.fixed_dictionaries({}, optional={
    "ok": st.booleans() | anything, "verdict": words | anything, "users_found": anything, "users_completed": anything, "reason": anything,
    "reasons": anything, "problems": anything, "changed": anything, "commit": anything, "root_percent": anything,
    "drift": st.lists(st.dictionaries(st.sampled_from(["id", "name", "summary"]), anything), max_size=3) | anything,
    "failures": st.lists(st.dictionaries(st.sampled_from(["id", "comment"]), anything), max_size=3) | anything,
})  # fmt: skip
moments = st.floats(NOW - 20 * DAY, NOW + 300)
entries = st.lists(st.builds(Entry, moments, record), max_size=4).map(lambda found: sorted(found, key=lambda one: -one.moment))
unit_names = st.sampled_from(sorted({*(name for name, _ in WANTED.units()), *(f"giggles-{kind}.service" for kind in KINDS), "a.service"}))
states = st.sampled_from(["active", "inactive", "failed", "activating", "reloading", "strange"])
units_of = st.builds(
    Units, st.dictionaries(unit_names, states).map(
        lambda given: {n: Unit(n, True, s, "exit-code", NOW - HOUR, restarts=9) for n, s in given.items()}),
    st.lists(unit_names, max_size=3, unique=True).map(tuple),
) | st.just(all_run([name for name, _ in WANTED.units()]))  # fmt: skip
percents = st.none() | st.floats(0, 100)
facts_of = st.builds(
    Facts, now=st.just(NOW), uptime=st.sampled_from([60.0, 1e6]), runs=st.just(GOOD) | st.dictionaries(st.sampled_from(KINDS), entries),
    ahead=st.dictionaries(st.sampled_from(KINDS), moments), set_up=st.dictionaries(st.sampled_from(KINDS), moments),
    units=st.none() | units_of,
    disks=st.lists(st.builds(Disk, st.sampled_from(["/", "/var", UPLOADS]), percents, percents), max_size=3, unique_by=lambda d: d.path),
    certificate=st.none() | st.builds(Certificate, moments, st.floats(NOW - DAY, NOW + 60 * DAY), st.booleans()),
    restart_asked=st.none() | moments, vault=st.none() | st.builds(Vault, st.sampled_from(["encrypted", "plain"]), words, st.booleans()),
    release=st.none() | st.builds(Release, words, st.none() | moments, st.booleans()), app=st.none() | words,
)  # fmt: skip
wanted_of = st.builds(
    Expected, roles=st.frozensets(st.sampled_from(sorted(ALL_ROLES))) | st.just(ALL_ROLES), domain=st.sampled_from([None, "giggles.test"]),
    bucket=st.booleans(), mail=st.booleans(), self_converge=st.booleans(), nightly_memory_mb=st.just(1700),
    thresholds=st.just(WANTED.thresholds), second_factor=st.sampled_from([None, "operator"]),
)  # fmt: skip
memories = st.builds(
    Memory, st.frozensets(st.sampled_from(["disk:/", "inodes:/", "certificate", "unit:a.service", APP])), st.just(0.0) | moments,
    st.integers(0, 2), st.none() | moments, words, st.dictionaries(st.sampled_from(["nightly", "backup", "drill", "converge"]), moments),
    st.just([]) | st.just([(NOW - 900 + 300 * number, number) for number in range(3)]), st.lists(words, max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(facts_of, wanted_of, memories)
def test_status_page_and_mails_are_about_the_same_conditions(facts: Facts, wanted: Expected, memory: Memory) -> None:
    subjects = judge(facts, wanted, memory)
    found = conditions(subjects)
    told = status.of(subjects, facts.now)
    json.dumps(told.as_dict(), allow_nan=False)
    assert len({one.key for one in found}) == len(found), "one key, one condition"
    for one in found:
        assert one.level in LEVELS[:-1]
        assert one.title
        assert one.todo
        assert all(letter.isprintable() for letter in one.text + one.title), "it would break a line"
    # The status is red if and only if a condition of that level is open.
    assert told.all_right is not any(one.level in WRONG for one in found)
    assert told.level == (found[0].level if found else "ok")
    for fact, subject in ((fact, next(one for one in subjects if one.name == fact.name)) for fact in told.facts):
        assert fact.level == (min((one.level for one in subject.conditions), key=LEVELS.index) if subject.conditions else "ok")
        assert fact.conditions == tuple(one.key for one in subject.conditions)
        assert fact.text
        assert bool(fact.todo) == (fact.level != "ok")
    assert {key for fact in told.facts for key in fact.conditions} == {one.key for one in found}
    # A mail tells all of them but what was chosen, and nothing else.
    state, changes = step(State(), found, now=facts.now, name="n", somebody=True)
    later, more = step(state, found, now=facts.now + DAY, name="n", somebody=True)
    assert {change.key for change in [*changes, *more]} == {one.key for one in found if one.mailed}
    assert all(one.mailed for one in found if one.level in WRONG and one.key != "alerts"), "something is wrong, and nobody is told"
    assert bool(later.letters) is any(one.mailed for one in found)
    drawn = page.render(told, calendar_of_runs.days(facts.runs, facts.now), wanted)
    assert f'<header class="{told.level}">' in drawn
    assert drawn.count('<div class="level problem">') == sum(fact.level == "problem" for fact in told.facts)
