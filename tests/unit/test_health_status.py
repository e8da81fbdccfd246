"""The status says that everything is all right only when it is, and what to do when it is not."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records
from gigglekit.health import facts, recent, status, watch
from gigglekit.health.expected import Expected, read, settings_file
from gigglekit.health.facts import Disk
from gigglekit.health.judge.condition import LEVELS
from gigglekit.health.judge.words import readable
from gigglekit.health.places import Places
from gigglekit.health.status import Status
from gigglekit.health.units import Units, _parse
from gigglekit.release import health

from tests.unit.status_droplet import ALL_ROLES, DAY, HOUR, NOW, WANTED, all_run, at, certificate, healthy, mounted, spoil, write


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    mounted(monkeypatch)
    monkeypatch.setattr(facts, "usage", lambda path: Disk(str(path), 40.0, 10.0, 25_000.0, 15_000.0))
    # Where a test makes no /run, the app answers.
    real = facts._app
    monkeypatch.setattr(facts, "_app", lambda path: real(path) if path.parent.is_dir() else "")
    return healthy(tmp_path)


def look(places: Places, wanted: Expected = WANTED, *, now: float = NOW, ask: Callable[[list[str]], Any] = all_run) -> Status:
    found = status.collect(places, wanted, now=now, ask_systemd=ask)
    json.dumps(found.as_dict(), allow_nan=False)
    for fact in found.facts:
        assert fact.level in LEVELS
        assert fact.text
        assert "\n" not in fact.text
        assert bool(fact.todo) == (fact.level != "ok"), fact
    return found


def fact(found: Status, name: str) -> status.Fact:
    return next(fact for fact in found.facts if fact.name == name)


def test_a_droplet_on_which_all_goes_well_is_all_right_since_its_last_start(places: Places) -> None:
    found = look(places)
    assert found.all_right
    assert {one.level for one in found.facts} == {"ok"}
    assert found.since == at(NOW - 5 * DAY)
    assert found.summary == f"Everything is all right, since {readable(found.since)}."
    names = {"app", "services", "nightly", "backup", "drill", "converge", "vault", "disk-root", "disk-uploads", "certificate", "release"}
    assert {one.name for one in found.facts} >= names


def test_a_droplet_that_is_not_production_says_so_first(places: Places) -> None:
    found = look(places, dataclasses.replace(WANTED, environment="staging"))
    assert found.summary.startswith("This is staging. Everything is all right")
    assert found.as_dict()["environment"] == "staging"
    assert look(places).as_dict()["environment"] == "production"


def test_since_when_it_has_been_so_is_what_was_noted(places: Places) -> None:
    write(places, "status", [{"time": at(NOW - 9 * DAY), "all_right": False}, {"time": at(NOW - 8 * DAY), "all_right": True}])
    assert look(places).since == at(NOW - 8 * DAY)
    spoil(places, "nightly", 0, verdict="failed")
    assert look(places).since == at(NOW - 3 * HOUR), "it was noted as right, and is not"


def test_a_release_that_was_chosen_by_hand_is_told_and_is_no_problem(places: Places) -> None:
    pin = places.at("/opt/giggles/pin.json")
    pin.write_text(json.dumps({"commit": "0123456789abcdef", "how": "rollback"}))
    assert "by giggles.rollback, and not what the pillar names" in fact(look(places), "release").text
    assert look(places).all_right
    pin.write_text(json.dumps({"commit": "another", "how": "rollback"}))
    assert "rollback" not in fact(look(places), "release").text


SPOILS: dict[str, tuple[str, Callable[[Places], Any], str]] = {
    "a silent failure": ("nightly", lambda p: spoil(p, "nightly", 0, verdict="silent-failure", reasons=["no database"]), "no data"),
    "a night without a verdict": ("nightly", lambda p: spoil(p, "nightly", 0, verdict=None), "no verdict"),
    "no night for two days": ("nightly", lambda p: write(p, "nightly", [{"time": at(NOW - 2 * DAY), "verdict": "ok"}]), "overdue"),
    "a backup that failed": ("backup", lambda p: spoil(p, "backup", 0, ok=False, reason="no answer"), "no answer"),
    "a backup with problems": ("backup", lambda p: spoil(p, "backup", 0, ok=False, problems=["two files"]), "two files"),
    "an old backup": ("backup", lambda p: write(p, "backup", [{"time": at(NOW - 31 * HOUR), "ok": True}]), "overdue"),
    "an old drill": ("drill", lambda p: write(p, "drill", [{"time": at(NOW - 10 * DAY), "ok": True}]), "overdue"),
    "a converge that failed": ("converge", lambda p: spoil(p, "converge", 0, ok=False, failures=[{"id": "ufw-on"}]), "ufw-on"),
    "no converge any more": ("converge", lambda p: write(p, "converge", [{"time": at(NOW - 4 * HOUR), "ok": True}]), "overdue"),
    "a certificate that ends": ("certificate", lambda p: certificate(p, NOW + 19 * DAY), "ends in 19 days"),
    "a certificate that has ended": ("certificate", lambda p: certificate(p, NOW - DAY), "has ended"),
    "the placeholder": ("certificate", lambda p: certificate(p, NOW + 900 * DAY, name="placeholder"), "placeholder"),
    "no release": ("release", lambda p: p.at("/opt/giggles/current").unlink(), "none is live"),
    "half a release": ("release", lambda p: next(p.at("/opt/giggles/releases").glob("*/.*.json")).write_text("{"), "not complete"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_what_is_wrong_is_a_problem_and_named(places: Places, name: str) -> None:
    about, do, words = SPOILS[name]
    do(places)
    found = look(places)
    wrong = [one for one in found.facts if one.level != "ok"]
    assert [(one.name, one.level) for one in wrong] == [(about, "problem")]
    assert words in wrong[0].text
    assert not found.all_right
    assert wrong[0].title in found.summary


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00" * 9000, os.urandom(100_000), b"[" * 100_000, b'{"time": "2999-01-01T00:00:00Z", "ok": true, "verdict": "ok"}'],
)
def test_what_nobody_knows_is_not_all_right(places: Places, kind: str, content: bytes) -> None:
    (places.records / f"{kind}.jsonl").write_bytes(content)
    found = look(places)
    assert fact(found, kind).level == "unknown"
    assert not found.all_right


def test_what_was_set_up_today_may_not_have_run_yet(places: Places) -> None:
    (places.records / "nightly.jsonl").unlink()
    cron = places.at("/etc/cron.d/giggles-nightly")
    cron.parent.mkdir(parents=True)
    cron.write_text("")
    os.utime(cron, (NOW - HOUR, NOW - HOUR))
    assert fact(look(places), "nightly").level == "ok"
    assert "has not run yet" in fact(look(places), "nightly").text
    late = fact(look(places, now=NOW + 26 * HOUR), "nightly")
    assert (late.level, late.since) == ("problem", at(NOW + 25 * HOUR))


def test_a_row_of_failures_has_lasted_since_its_first(places: Places) -> None:
    for number in range(3):
        spoil(places, "backup", number, ok=False, reason="no answer")
    spoil(places, "backup", 5, ok=False)
    assert fact(look(places), "backup").since == at(NOW - 2 * HOUR - 2 * DAY)


def test_drift_that_was_put_back_is_told_and_fails_nothing(places: Places) -> None:
    spoil(places, "converge", 0, changed=1, drift=[{"id": "sshd-config", "name": "/etc/ssh/sshd_config"}])
    found = look(places)
    assert (fact(found, "converge").level, found.all_right) == ("warning", True)
    assert "sshd-config" in fact(found, "converge").text
    assert "Worth knowing: Converge" in found.summary


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
def test_what_was_set_up_by_a_clock_that_was_ahead_is_overdue_all_the_same(places: Places, kind: str) -> None:
    path = places.at(facts._SET_UP[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    os.utime(path, (NOW + 300 * DAY, NOW + 300 * DAY))
    assert look(places).all_right
    write(places, kind, [{"time": at(NOW - 30 * DAY), "ok": True, "verdict": "ok"}])
    assert f"{kind}-overdue" in fact(look(places), kind).conditions
    write(places, kind, [])
    assert fact(look(places), kind).level == "unknown", "nobody can tell since when one could be"


@pytest.mark.parametrize("kind", ["nightly", "backup", "drill", "converge"])
def test_a_run_of_a_time_to_come_is_not_judged_and_that_is_said_until_the_next_one(places: Places, kind: str) -> None:
    records.append(places.records, kind, {"time": at(NOW + 2 * DAY), "ok": False, "verdict": "failed"})
    found = look(places)
    assert (found.all_right, fact(found, kind).level, fact(found, kind).conditions) == (False, "unknown", (f"{kind}-ahead",))
    assert "timedatectl" in fact(found, kind).todo
    assert fact(look(places, now=NOW + 2 * DAY), kind).level == "problem", "the clock is right again, and that run did fail"
    records.append(places.records, kind, {"time": at(NOW - 60), "ok": True, "verdict": "ok"})
    assert look(places).all_right


def test_services_that_do_not_run_are_named_with_what_brings_them_back(places: Places) -> None:
    found = look(places, ask=functools.partial(all_run, giggles_drill_timer="inactive", nginx_service="failed"))
    services = fact(found, "services")
    assert services.level == "problem"
    assert {"giggles-drill.timer", "nginx.service"} <= set(services.values["down"])
    assert "salt-call state.apply" in services.todo
    assert fact(look(places, ask=functools.partial(all_run, giggles_service="failed")), "app").level == "problem"


def test_an_app_that_only_seems_to_run_is_a_problem_once_it_has_lasted_and_a_start_is_none(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_ANSWER_SECONDS", 0.3)
    starting = functools.partial(all_run, giggles_service="activating")
    assert fact(look(places, ask=starting), "app").level == "warning"
    assert look(places, ask=starting).all_right
    places.at("/run").mkdir()
    assert "/run/giggles.sock is not there" in fact(look(places), "app").text, "nginx has nobody to ask"
    with socket.socket(socket.AF_UNIX) as listening:
        # As systemd's own socket does, it takes connections, and nobody answers.
        listening.bind(str(places.at("/run/giggles.sock")))
        listening.listen()
        assert "does not answer" in fact(look(places), "app").text
        lasting = watch.State(looked=NOW, open={"unit:giggles.service": watch.Open(NOW - HOUR, "t", "p", shown=True)})
        watch.store(places.told, lasting)
        silent = look(places)
        assert (fact(silent, "app").level, silent.all_right) == ("problem", False)
        assert "web.log" in fact(silent, "app").todo
    # Nobody listens any more.
    assert fact(look(places), "app").level == "problem"
    with monkeypatch.context() as patched:
        patched.setattr(health, "ask", lambda path, seconds: "")
        assert (fact(look(places), "app").level, fact(look(places), "app").text) == ("ok", "runs and answers")


def test_a_second_factor_that_was_chosen_and_is_not_set_up_is_told(places: Places) -> None:
    chosen = dataclasses.replace(WANTED, second_factor="operator")
    path = places.at("/etc/giggles/second-factor/operator")
    path.parent.mkdir()
    assert fact(look(places, chosen), "second-factor").level == "warning"
    path.symlink_to("/nonexistent")
    assert "giggles.second_factor" in fact(look(places, chosen), "second-factor").todo
    path.unlink()
    path.write_text("")
    assert fact(look(places, chosen), "second-factor").level == "ok"
    assert "second-factor" not in {one.name for one in look(places).facts}


def test_units_that_nobody_expects_and_that_failed_are_told(places: Places) -> None:
    def ask(names: list[str]) -> Units:
        return Units(all_run(names).known, ("somebodys.service",))

    assert "somebodys.service" in fact(look(places, ask=ask), "services").text


def test_a_systemd_that_does_not_answer_is_not_all_right(places: Places) -> None:
    found = look(places, ask=lambda names: None)
    assert fact(found, "services").level == "unknown"
    assert not found.all_right


@pytest.mark.parametrize(("percent", "inodes", "level"), [(84.9, 10, "ok"), (85, 10, "problem"), (10, 85, "problem")])
def test_a_disk_is_full_at_its_threshold(
    places: Places, monkeypatch: pytest.MonkeyPatch, percent: float, inodes: float, level: str
) -> None:
    monkeypatch.setattr(facts, "usage", lambda path: Disk(str(path), percent, inodes, 25_000.0, 100.0))
    found = look(places)
    assert (fact(found, "disk-root").level, fact(found, "disk-uploads").level) == (level, level)


@pytest.mark.parametrize(("days", "level"), [(1, "warning"), (8, "problem")])
def test_a_restart_that_is_waited_for_too_long_is_a_problem(places: Places, days: float, level: str) -> None:
    asked = places.at("/run/reboot-required")
    asked.parent.mkdir()
    asked.write_text("")
    os.utime(asked, (NOW - days * DAY, NOW - days * DAY))
    assert fact(look(places), "restart").level == level


def test_what_was_not_chosen_is_told_once_and_fails_nothing(places: Places) -> None:
    (places.at("/etc/giggles/vault.json")).write_text('{"mode": "plain", "reason": "the kernel cannot"}')
    found = look(places, dataclasses.replace(WANTED, bucket=False, mail=False, domain=None))
    assert {one.name for one in found.facts if one.level == "warning"} == {"backup", "alerts", "certificate", "vault"}
    assert found.all_right
    only = look(places, dataclasses.replace(WANTED, roles=frozenset({"hardening"})))
    assert {one.name for one in only.facts} == {"services", "converge", "disk-root", "disk-uploads", "restart"}


def test_a_volume_that_is_not_mounted_is_a_problem(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: False)
    assert fact(look(places), "vault").level == "problem"


def test_five_years_of_records_cost_no_more_than_ninety_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, real = [0], recent.json.loads

    def loads(text: bytes) -> Any:
        counted[0] += 1
        return real(text)

    read_lines = []
    for days in (90, 5 * 365):
        places = healthy(tmp_path / str(days), days=days)
        with monkeypatch.context() as patched:
            patched.setattr(recent.json, "loads", loads)
            counted[0] = 0
            status.collect(places, WANTED, now=NOW, ask_systemd=all_run)
            read_lines.append(counted[0])
    assert read_lines[1] <= read_lines[0] + 20 < 5000


def test_lines_come_newest_first_however_long_they_are(tmp_path: Path) -> None:
    lines = [{"time": at(NOW - 1000 + number), "n": number, "text": "x" * (number * 977 % 70_000)} for number in range(200)]
    write(Places(tmp_path), "nightly", lines)
    folder = Places(tmp_path).records
    assert [entry.record["n"] for entry in recent.newest_first(folder, "nightly", now=NOW)] == list(range(199, -1, -1))
    some = list(recent.newest_first(folder, "nightly", now=NOW, most_bytes=300_000))
    assert 1 < len(some) < 20
    assert some[0].record["n"] == 199


def test_what_is_written_down_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read(path) is None
    chosen = {
        "roles": sorted(ALL_ROLES), "domain": WANTED.domain, "backup": {"bucket": "b"}, "converge": {"enabled": True},
        "admin": {"name": "operator"}, "hardening": {"ssh_second_factor": False}, "delivery": {"mode": None},
        "nightly": {"memory_max_mb": 1700}, "monitoring": {"mail": {"to": "a@b.test"}, "thresholds": vars(WANTED.thresholds)},
    }  # fmt: skip
    path.write_text(settings_file(chosen))
    assert "a@b" not in path.read_text(), "everybody may read it"
    assert read(path) == WANTED
    path.write_text(settings_file({**chosen, "hardening": {"ssh_second_factor": True}}))
    assert read(path) == dataclasses.replace(WANTED, second_factor="operator")
    path.write_text(settings_file({**chosen, "delivery": {"mode": "send"}}))
    wanted = read(path)
    assert wanted == dataclasses.replace(WANTED, delivery=True)
    assert ("giggles-delivery.timer", "app") in wanted.units()
    path.write_text(settings_file({**chosen, "environment": "staging"}))
    assert read(path) == dataclasses.replace(WANTED, environment="staging")
    for content in ("", "{", "[]", '{"roles": 7}', "[" * 100_000):
        path.write_text(content)
        assert read(path) is None
        assert status.collect(Places(tmp_path / "none"), now=NOW, ask_systemd=all_run).facts


@pytest.mark.parametrize("content", [None, "", '{"roles": ["app'])
def test_a_droplet_of_which_nobody_knows_what_it_is_meant_to_have_is_not_all_right(places: Places, content: str | None) -> None:
    def collected() -> Status:
        return status.collect(places, now=NOW, ask_systemd=all_run)

    kept = json.dumps({**vars(WANTED), "roles": sorted(ALL_ROLES), "thresholds": vars(WANTED.thresholds)})
    places.expected.parent.mkdir(parents=True, exist_ok=True)
    places.expected.write_text(kept)
    assert collected().all_right
    places.expected.unlink()
    if content is not None:
        places.expected.write_text(content)
    found = collected()
    assert (found.all_right, found.level) == (False, "unknown")
    assert "/etc/giggles/status.json" in fact(found, "expected").text
    assert "state.apply common" in fact(found, "expected").todo


def test_systemd_is_understood() -> None:
    text = (
        "Id=a.service\nLoadState=loaded\nActiveState=active\nResult=success\nActiveEnterTimestamp=Tue 2026-11-24 21:00:01 UTC\n"
        "NRestarts=7\n\n"
        "Id=b.timer\nLoadState=not-found\nActiveState=inactive\nResult=success\nInactiveEnterTimestamp=\n"
    )
    found = _parse(text)
    assert (found["a.service"].restarts, found["b.timer"].restarts) == (7, 0)
    assert found["a.service"].since == recent.moment_of("2026-11-24T21:00:01Z")
    assert (found["b.timer"].loaded, found["b.timer"].state, found["b.timer"].since) == (False, "inactive", None)
