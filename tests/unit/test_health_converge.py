"""What is recorded of a run of states: drift told from intended change, failures, and nothing that is secret."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from gigglekit import records
from gigglekit.health import basis, converge, history, recording
from gigglekit.health.basis import Basis, LastFull
from gigglekit.health.cleaning import Cleaner

OLD, NEW = Basis("a" * 40, "pillar"), Basis("b" * 40, "pillar")
SETTLED = LastFull(OLD)
PILLAR = {
    "giggles": {
        "domain": "giggles.example.com",
        "secrets": {"app": {"SECRET_KEY": 'very "secret" one', "DATABASE_URL": "postgresql://app:p%40ssw0rd@db:5432/app"}},
    }
}


def state(
    identifier: str, *, number: int = 0, name: str | None = None, result: bool | None = True, comment: str = "Said.", **changes: Any
) -> Any:
    """Return what Salt returns of one state, by its key."""
    name = name or identifier
    return {
        f"file_|-{identifier}_|-{name}_|-managed": {
            "__id__": identifier, "name": name, "result": result, "comment": comment, "changes": changes, "__run_num__": number,
        }
    }  # fmt: skip


def outcome(
    returned: Any, *, now: Basis = OLD, last: LastFull | None = SETTLED, known: frozenset[str] | None = None, public: bool = True
) -> Any:
    return converge.outcome(returned, basis=now, last=last, known_drift=known, clean=Cleaner(PILLAR), is_public=lambda _: public)


def ids(entries: list[dict[str, str]]) -> list[str]:
    return [entry["id"] for entry in entries]


CHANGED = {**state("a", number=2, mode="0644"), **state("b", number=1, mode="0600"), **state("c")}


def test_without_a_new_commit_or_pillar_every_change_is_drift() -> None:
    told = outcome(CHANGED)
    assert ids(told["drift"]) == ["b", "a"]
    assert told["intended"] == []
    assert told["changed"] == 2
    assert told["ok"] is True


@pytest.mark.parametrize("now", [NEW, Basis(OLD.commit, "another pillar")], ids=["commit", "pillar"])
def test_with_a_new_commit_or_pillar_changes_are_intended(now: Basis) -> None:
    told = outcome(CHANGED, now=now)
    assert (told["drift"], ids(told["intended"])) == ([], ["b", "a"])
    assert told["previous_commit"] == OLD.commit
    assert told["commit"] == now.commit


def test_what_an_apply_of_the_old_commit_would_have_changed_is_drift_under_a_new_one_too() -> None:
    told = outcome(CHANGED, now=NEW, known=frozenset({"a", "never-changed"}))
    assert (ids(told["drift"]), ids(told["intended"])) == (["a"], ["b"])


def test_what_was_seen_before_does_not_make_a_change_intended_without_a_new_commit() -> None:
    assert ids(outcome(CHANGED, known=frozenset({"a"}))["drift"]) == ["b", "a"]


def test_the_first_run_of_all_makes_the_droplet_and_has_no_drift() -> None:
    assert outcome(CHANGED, last=None)["drift"] == []


def test_a_state_that_failed_before_is_not_drift_when_it_works_at_last() -> None:
    told = outcome(CHANGED, last=LastFull(OLD, frozenset({"a"})))
    assert (ids(told["drift"]), ids(told["intended"])) == (["b"], ["a"])


def test_a_droplet_on_which_a_state_keeps_failing_still_tells_drift() -> None:
    first = {**CHANGED, **state("broken", result=False)}
    kept = converge.settled(first, NEW)
    assert kept == LastFull(NEW, frozenset({"broken"}))
    assert ids(outcome(first, now=NEW, last=kept)["drift"]) == ["b", "a"]


def login(function: str, number: int, result: bool) -> Any:
    returned = state(f"login-{function}", number=number, result=result)
    return {f"login_|-login-{function}_|-login-{function}_|-{function}": next(iter(returned.values()))}


@pytest.mark.parametrize(("proven", "again"), [(False, ["ssh"]), (True, [])])
def test_what_was_put_back_since_nobody_could_log_in_is_not_drift_when_it_is_made_again(proven: bool, again: list[str]) -> None:
    around = {**state("before", number=1, mode="0600"), **state("after", number=6, mode="0600")}
    ssh = state("ssh", number=3, diff="new")
    run = {**around, **login("guarded", 2, True), **ssh, **state("same", number=4), **login("proven", 5, proven)}
    told = outcome({**around, **ssh, **state("same", number=4, mode="0600")}, now=NEW, last=converge.settled(run, NEW))
    assert ids(told["intended"]) == again
    assert ids(told["drift"]) == [one for one in ("before", "ssh", "same", "after") if one not in again]


@pytest.mark.parametrize("made", [99, 100, 101])
def test_of_many_changes_a_hundred_are_named_and_all_are_counted(made: int) -> None:
    told = outcome({key: value for number in range(made) for key, value in state(f"s{number}", number=number, mode="0600").items()})
    assert ids(told["drift"]) == [f"s{number}" for number in range(min(made, 100))]
    assert told["changed"] == made


def test_a_run_that_did_not_render_settles_nothing_and_fails() -> None:
    returned = ["Rendering SLS 'base:web' failed: Jinja variable 'x' is undefined"]
    assert converge.settled(returned, NEW) is None
    told = outcome(returned)
    assert (told["ok"], told["failed"]) == (False, 1)
    assert "Jinja variable" in told["failures"][0]["comment"]
    assert outcome(None)["ok"] is False
    assert outcome("text")["ok"] is False


def test_another_run_at_work_is_not_a_failure_of_this_one() -> None:
    busy = ['The function "state.apply" is running as PID 12 and was started at 2026, Nov 24 with jid 2026']
    assert converge.is_conflict(busy)
    assert not converge.is_conflict([*busy, "Rendering failed"])
    assert not converge.is_conflict([])
    assert not converge.is_conflict(CHANGED)


def test_failures_are_those_that_have_a_cause_and_all_are_counted() -> None:
    told = outcome({
        **state("after", number=1, result=False, comment="One or more requisite failed: web.cause"),
        **state("cause", number=0, result=False, comment="No space left on device"),
    })  # fmt: skip
    assert told["failed"] == 2
    assert told["failures"] == [{"id": "cause", "name": "cause", "comment": "No space left on device"}]
    assert told["ok"] is False


def test_a_change_is_told_in_one_line() -> None:
    diff = "--- \n+++ \n@@ -1,2 +1,2 @@\n same\n-old\n+new\n+more\n"
    told = outcome({
        **state("content", number=0, name="/etc/issue", diff=diff),
        **state("unit", number=1, **{"ssh.service": {"old": "inactive", "new": "active"}}),
        **state("exact", number=2, removed=["/etc/cron.d/mine", "/etc/cron.d/yours"]),
        **state("would", number=3, result=None, comment="The file is set to be changed\nNote: no changes made"),
        **state("hidden", number=4, diff="<show_changes=False>"),
    })  # fmt: skip
    assert [entry["summary"] for entry in told["drift"]] == [
        "content: 2 lines added, 1 removed",
        "ssh.service: inactive → active",
        "removed: /etc/cron.d/mine, /etc/cron.d/yours",
        "The file is set to be changed",
        "content",
    ]
    assert told["diffs"] == [{"name": "/etc/issue", "diff": diff}]


def test_a_diff_of_a_file_that_not_everybody_may_read_is_not_recorded() -> None:
    told = outcome(state("env", name="/opt/giggles/.env", diff="--- \n+++ \n@@ -1 +1 @@\n-harmless\n+words\n"), public=False)
    assert told["diffs"] == []
    assert "harmless" not in json.dumps(told)


LEAKS = {
    "a secret": 'it is very "secret" one.',
    "a secret in JSON": json.dumps('very "secret" one'),
    "a password of an address": "tried p@ssw0rd and p%40ssw0rd",
    "any address's password": "https://me:hunter2hunter2@example.com/x",
    "a value by its name": "SMTP_PASSWORD = hunter2hunter2",
    "a mail address": "mailto someone@example.com now",
    "a user": "6F1C1B1E-1111-4222-8333-944445555666",
    "a clip": "/var/lib/giggles/uploads/clips/someone/laugh.wav is there",
    "a key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("text", LEAKS.values(), ids=[name.replace(" ", "-") for name in LEAKS])
def test_nothing_secret_and_nobody_s_name_gets_into_a_record(text: str) -> None:
    told = outcome({
        **state("changed", number=0, name=text, diff=f"--- \n+++ \n@@ -1 +1 @@\n+{text}\n", more=text, **{text: {"old": "", "new": text}}),
        **state("failed", number=1, result=False, comment=text),
    })  # fmt: skip
    rest = outcome([f"Rendering failed: {text}"])
    said = json.dumps([told, rest], ensure_ascii=False).lower()
    for part in ('very \\"secret\\" one', 'very \\\\\\"secret', "ssw0rd", "hunter2", "someone", "6f1c1b1e", "laugh.wav", "b3blbnnz"):
        assert part not in said


@pytest.mark.parametrize("folder", ["audio", "clips", "temp", "vaults"])
def test_a_folder_that_every_droplet_has_is_told_by_its_name(folder: str) -> None:
    path = f"/var/lib/giggles/uploads/{folder}"
    clean = Cleaner({})
    assert clean(f"folder-{path}: mode 0750") == f"folder-{path}: mode 0750"
    assert clean(f"{path}, and more") == f"{path}, and more"
    for private in (f"{path}/x", f"{path}x", f"{path}.x", f"{path}/"):
        assert clean(private) == "/var/lib/giggles/uploads/…"


@pytest.mark.parametrize("length", [3_000, 50_000, 500_000])
@pytest.mark.parametrize("kind", ["a secret", "an address", "a password in an address"])
def test_wherever_a_long_text_is_cut_no_piece_of_what_is_private_is_left(kind: str, length: int) -> None:
    secret = "Zq" * 150
    private = {"a secret": secret, "an address": f"{'Zq' * 30}@example.com", "a password in an address": f"https://me:{secret}@h"}[kind]
    clean = Cleaner({"giggles": {"secrets": {"one": secret}}})
    for shift in range(0, len(private), 7):
        # What is replaced gets shorter, so that what was behind a cut moves up.
        said = clean("x" * shift + f" {private} " * (length // len(private)), 500)
        assert "Zq" not in said.replace("[secret]", "")
        assert len(said) <= 500
    assert clean(f"{'x' * 600}") == "x" * 499 + "…"


def test_a_text_that_imitates_secrets_is_read_in_no_time() -> None:
    began = time.monotonic()
    Cleaner({})("password" * 50_000, 100_000)
    assert time.monotonic() - began < 30, "it takes a fraction of a second, and more than a minute if each beginning is followed to the end"


def test_a_record_of_any_run_stays_small_enough_for_its_readers() -> None:
    diff = "--- \n+++ \n" + "+" + "x" * 50_000
    many: dict[str, Any] = {}
    for number in range(1000):
        many |= state(f"{'i' * 300}{number}", number=number, name="n" * 1000, result=number % 2 == 0, comment="c" * 5000, diff=diff)
    told = outcome(many)
    assert (told["changed"], told["failed"]) == (1000, 500)
    assert len(json.dumps(told)) < 96 << 10


# --- what is recorded at all, and as what


@pytest.mark.parametrize(
    ("function", "arguments", "is_run", "is_full"),
    [
        ("state.apply", [], True, True),
        ("state.highstate", [], True, True),
        ("state.apply", ["test=False"], True, True),
        ("state.apply", ["concurrent=True"], True, True),
        ("state.apply", ["web"], True, False),
        ("state.apply", ["mods=web"], True, False),
        ("state.apply", ["exclude=web"], True, False),
        ("state.apply", ["pillar={giggles: {}}"], True, False),
        ("state.sls", ["web"], True, False),
        ("state.apply", ["test=True"], False, True),
        ("state.apply", ["web", "test=yes"], False, False),
        ("state.apply", ["mock=True"], False, False),
        ("state.show_highstate", [], False, False),
        ("test.ping", [], False, False),
    ],
)
def test_only_runs_of_states_are_recorded_and_whole_ones_are_known(
    function: str, arguments: list[str], is_run: bool, is_full: bool
) -> None:
    assert recording.is_run(function, arguments) is is_run
    assert recording.is_full(function, arguments) is is_full


def test_a_minion_that_always_tests_records_nothing_unless_told_otherwise() -> None:
    assert not recording.is_run("state.apply", [], testing=True)
    assert recording.is_run("state.apply", ["test=False"], testing=True)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> recording.Places:
    monkeypatch.delenv(recording.HANDOVER, raising=False)
    return recording.Places(tmp_path / "tree", tmp_path / "records", tmp_path / "private" / "last.json", (tmp_path / "confirmed.json",))


def call(places: recording.Places, returned: Any, *arguments: str, pillar: Any = PILLAR) -> None:
    recording.record({"fun": "state.apply", "fun_args": list(arguments), "return": returned}, pillar, places=places)


def test_a_run_by_hand_is_recorded_and_the_next_one_is_compared_with_it(places: recording.Places) -> None:
    call(places, CHANGED)
    call(places, CHANGED)
    second, first = history.history(places.records, full=True)
    assert (first["trigger"], ids(first["intended"]), first["drift"]) == ("hand", ["b", "a"], [])
    assert ids(second["drift"]) == ["b", "a"]
    assert {"time", "started", "seconds"} <= set(first)
    assert (places.last.stat().st_mode & 0o777, places.last.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    shown = history.history(places.records)
    assert shown[0]["drift"] == ["b (b): mode: 0600", "a (a): mode: 0644"]


def test_a_part_of_the_states_settles_nothing(places: recording.Places) -> None:
    call(places, CHANGED, "web")
    assert basis.load(places.last) is None
    call(places, CHANGED)
    call(places, CHANGED, "web", pillar={"giggles": {"domain": "another"}})
    call(places, CHANGED)
    assert [len(record["drift"]) for record in history.history(places.records)] == [2, 0, 0, 0]


def test_what_an_operator_has_confirmed_on_the_droplet_is_intended_as_a_choice_in_the_pillar_is(places: recording.Places) -> None:
    call(places, CHANGED)
    (confirmed,) = places.confirmed
    confirmed.write_text("{}")
    call(places, CHANGED, "hardening")
    call(places, CHANGED)
    call(places, CHANGED)
    drift = [len(record["drift"]) for record in history.history(places.records)]
    assert drift == [2, 0, 0, 0], "the one after it is drift again"


def test_what_is_no_run_leaves_no_record(places: recording.Places) -> None:
    call(places, CHANGED, "test=True")
    call(places, ['The function "state.apply" is running as PID 12 and was started at 2026 with jid 2026'])
    recording.record({"fun": "test.ping", "fun_args": [], "return": True}, PILLAR, places=places)
    assert not places.records.exists()


def test_a_run_of_the_timer_is_handed_over_with_what_it_knew(
    places: recording.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    basis.store(LastFull(Basis("old", "old")), places.last)
    monkeypatch.setenv(recording.HANDOVER, str(tmp_path))
    (tmp_path / recording.KNOWN).write_text('["a"]')
    call(places, CHANGED)
    assert not places.records.exists()
    made = json.loads((tmp_path / recording.OUTCOME).read_text())
    assert (made["rendered"], ids(made["drift"]), ids(made["intended"])) == (True, ["a"], ["b"])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\x00", b'{"commit": 1}', b"null", b'{"commit":null,"pillar":"","unsettled":7}']
)
def test_whatever_lies_in_the_note_of_the_last_run_is_taken_for_not_knowing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.json").write_bytes(content)
    assert basis.load(tmp_path / "last.json") is None


def test_a_file_is_public_only_if_everybody_can_get_at_it(tmp_path: Path) -> None:
    assert recording.is_public("/etc/passwd")
    assert not recording.is_public("/etc/shadow")
    assert not recording.is_public("/etc/none/such")
    assert not recording.is_public("/etc")
    tmp_path.chmod(0o700)
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    assert not recording.is_public(str(tmp_path / "open"))


def test_history_reads_whatever_lies_there(tmp_path: Path) -> None:
    assert history.history(tmp_path) == []
    records.append(tmp_path, "converge", {"ok": True, "commit": 7, "drift": "x", "failures": [3]})
    with (tmp_path / "converge.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n[1]\n{"cut": \n' + b"[" * 100_000 + b"\n")
    assert [record["ok"] for record in history.history(tmp_path)] == [True]
    assert history.history(tmp_path, count=0) == []


def test_what_failed_is_told_of_the_run_that_was_asked_for(tmp_path: Path) -> None:
    failed = {"id": "certificate-issued", "name": "example.com", "comment": "No certificate could be had. Wait."}
    records.append(tmp_path, "converge", {"ok": False, "failures": [failed], "time": "2026-01-02T03:04:05Z"})
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc).timestamp()
    assert history.failed(tmp_path, at + 0.9) == ["certificate-issued (example.com): No certificate could be had. Wait."]
    assert history.failed(tmp_path, at + 1) == [], "an earlier run says nothing of this one"
    assert history.failed(tmp_path / "none", 0) == []
    records.append(tmp_path, "converge", {"ok": False, "failures": "x", "time": "whenever"})
    assert history.failed(tmp_path, 0) == []
