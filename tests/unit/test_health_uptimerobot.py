"""The monitors at UptimeRobot: exactly those that the settings want, none of anybody else's touched, and no faster than it allows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gigglekit.health.uptimerobot import noted as notes_of
from gigglekit.health.uptimerobot import settings as settings_of
from gigglekit.health.uptimerobot.client import Client, Monitor, Patience
from gigglekit.health.uptimerobot.errors import DeniedError, LimitedError, RefusedError, UnreachableError, UptimeRobotError
from gigglekit.health.uptimerobot.keeping import announced, carry_out, look
from gigglekit.health.uptimerobot.plan import MARK, plan
from gigglekit.health.uptimerobot.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.uptimerobot_server import KEY, READ_ONLY, Account, server

SITE, HEALTH = f"giggles.example.test: website{MARK}", f"giggles.example.test: health{MARK}"
WANTED = Settings(True, KEY, "giggles.example.test", 300, (14, 7), ("ops@example.test",))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept: list[float] = []

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Droplet:
    """One droplet's client, and what it noted."""

    def __init__(self, account: Account, folder: Path, clock: Time) -> None:
        self.account, self.clock = account, clock
        self.settings, self.notes = folder / "uptimerobot.json", folder / "notes" / "noted.json"
        self.settings.write_text("{}")
        self.seconds = 150.0

    def client(self, key: str = KEY) -> Client:
        patience = Patience(self.seconds, 5.0, self.clock.read, self.clock.read, self.clock.sleep)
        return Client(key, api=self.account.url, patience=patience)

    def apply(self, wanted: Settings = WANTED, key: str = KEY) -> dict[str, Any]:
        """Keep the monitors once; return what a state would show."""
        client = self.client(key)
        found = look(client, wanted, notes_of.read(self.settings, self.notes))
        done: list[Any] = []
        monitors, contacts = carry_out(client, found, self.notes, done=done.append)
        assert tuple(done) == found.changes
        notes_of.note_look(self.settings, self.notes, monitors, contacts)
        return announced(found.changes)

    def remarks(self, wanted: Settings = WANTED) -> str:
        return " ".join(look(self.client(), wanted, notes_of.read(self.settings, self.notes)).remarks)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def account(clock: Time) -> Iterator[Account]:
    with server(Account(clock=clock.read)) as made:
        yield made


@pytest.fixture
def droplet(account: Account, tmp_path: Path, clock: Time) -> Droplet:
    return Droplet(account, tmp_path, clock)


# --- exactly what is wanted -----------------------------------------------------------------------------------------------------


def test_site_health_and_certificate_are_watched_and_a_second_look_changes_nothing(droplet: Droplet, account: Account) -> None:
    first = droplet.apply()
    assert first == {"contact …@example.test": "made", f"monitor {SITE}": "made", f"monitor {HEALTH}": "made"}
    site, health = account.named(SITE), account.named(HEALTH)
    assert (site["type"], site["url"], site["httpMethodType"]) == ("HTTP", "https://giggles.example.test/", "GET")
    assert (site["sslExpirationReminder"], site["checkSSLErrors"], site["config"]) == (True, True, {"sslExpirationPeriodDays": [14, 7]})
    assert (health["type"], health["url"]) == ("KEYWORD", "https://giggles.example.test/api/health")
    assert (health["keywordType"], health["keywordValue"], health["httpMethodType"]) == ("ALERT_NOT_EXISTS", '"healthy"', "GET")
    assert len(account.monitors) == 2
    (contact,) = account.contacts.values()
    for monitor in (site, health):
        assert [entry["alertContactId"] for entry in monitor["assignedAlertContacts"]] == [contact["id"]]
    account.writes()
    assert droplet.apply() == {}
    assert account.writes() == []


def test_the_keyword_is_in_what_the_app_answers_and_in_no_other_health() -> None:
    body = json.dumps({"status": "healthy", "timestamp": "x"}, separators=(",", ":"))
    keyword = '"healthy"'
    assert keyword in body
    assert keyword not in body.replace("healthy", "unhealthy")


@pytest.mark.parametrize(
    "spoiled",
    [
        {"interval": 600},
        {"url": "https://elsewhere.test/"},
        {"sslExpirationReminder": False},
        {"config": {"sslExpirationPeriodDays": [1]}},
        {"config": None},
        {"httpMethodType": "HEAD"},
        {"assignedAlertContacts": []},
        {"checkSSLErrors": False},
    ],
    ids=str,
)
def test_what_somebody_changed_is_put_back_and_nothing_besides_is_sent(droplet: Droplet, account: Account, spoiled: dict[str, Any]) -> None:
    droplet.apply()
    site = account.named(SITE)
    site.update(spoiled)
    before = {name: value for name, value in site.items() if name not in spoiled}
    account.writes()
    assert list(droplet.apply()) == [f"monitor {SITE}"]
    (sent,) = [entry for entry in account.asked if entry.method == "PATCH"]
    assert sent.body.keys() == spoiled.keys()
    assert {name: value for name, value in site.items() if name not in spoiled} == before
    assert droplet.apply() == {}


def test_one_that_was_removed_is_made_again_and_one_of_another_type_is_replaced(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    del account.monitors[account.named(HEALTH)["id"]]
    account.named(SITE)["type"] = "PING"
    assert droplet.apply() == {f"monitor {SITE}": "removed", f"monitor {HEALTH}": "made"}
    assert {monitor["type"] for monitor in account.monitors.values()} == {"HTTP", "KEYWORD"}
    assert droplet.apply() == {}


def test_what_people_made_is_never_touched(droplet: Droplet, account: Account) -> None:
    theirs = [
        account.by_hand(friendlyName="website", url="https://giggles.example.test/"),
        account.by_hand(friendlyName="giggles.example.test: website", url="https://giggles.example.test/"),
        account.by_hand(friendlyName=f"another.example.test: website{MARK}", url="https://another.example.test/"),
        account.by_hand(friendlyName=f"giggles.example.test.evil: website{MARK}"),
        account.by_hand(friendlyName=None, type="HEARTBEAT", url="token"),
    ]
    contacts = [account.contact("boss@example.test", name=f"boss@example.test{MARK}"), account.contact("+49", kind="ProSms")]
    before = json.dumps([account.monitors[ident] for ident in theirs] + [account.contacts[ident] for ident in contacts])
    droplet.apply()
    droplet.apply(replace(WANTED, interval_seconds=600, contacts=("new@example.test",)))
    droplet.apply(replace(WANTED, enabled=False))
    assert json.dumps([account.monitors[ident] for ident in theirs] + [account.contacts[ident] for ident in contacts]) == before
    assert sorted(account.monitors) == sorted(theirs)
    assert sorted(account.contacts) == sorted(contacts)


def test_one_of_ours_that_a_person_renames_is_theirs(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    kept = account.named(SITE)
    kept["friendlyName"] = "I keep this"
    assert droplet.apply() == {f"monitor {SITE}": "made"}
    droplet.apply(replace(WANTED, enabled=False))
    assert list(account.monitors.values()) == [kept]


def test_with_another_domain_the_monitors_of_the_old_one_go(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    moved = droplet.apply(replace(WANTED, domain="new.example.test"))
    assert moved[f"monitor {SITE}"] == "removed"
    assert sorted(monitor["friendlyName"] for monitor in account.monitors.values()) == [
        f"new.example.test: health{MARK}",
        f"new.example.test: website{MARK}",
    ]


def test_a_new_droplet_of_the_same_name_takes_over_and_doubles_go(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    droplet.notes.unlink()
    double = account.by_hand(friendlyName=SITE)
    assert droplet.apply() == {f"monitor {SITE}": "removed"}
    assert double not in account.monitors
    assert droplet.apply() == {}


def test_switched_off_only_what_is_ours_goes_and_nothing_is_left_noted(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    gone = droplet.apply(replace(WANTED, enabled=False))
    assert set(gone.values()) == {"removed"}
    assert not account.monitors
    assert not account.contacts
    noted = notes_of.read(droplet.settings, droplet.notes)
    assert not noted.monitors | noted.contacts


# --- contacts -------------------------------------------------------------------------------------------------------------------


def test_a_contact_that_is_there_is_used_whoever_made_it_and_stays(droplet: Droplet, account: Account) -> None:
    theirs = account.contact("OPS@example.test")
    assert droplet.apply() == {f"monitor {SITE}": "made", f"monitor {HEALTH}": "made"}
    droplet.apply(replace(WANTED, contacts=()))
    droplet.apply(replace(WANTED, enabled=False))
    assert list(account.contacts) == [theirs]


def test_a_contact_of_ours_that_somebody_else_uses_stays(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    (ours,) = account.contacts
    account.by_hand(assignedAlertContacts=[{"alertContactId": str(ours)}])
    droplet.apply(replace(WANTED, contacts=("new@example.test",)))
    assert ours in account.contacts
    assert "stays" in droplet.remarks(replace(WANTED, contacts=("new@example.test",)))


def test_who_has_not_agreed_and_what_is_paused_is_told_without_naming_a_person(droplet: Droplet, account: Account) -> None:
    droplet.apply()
    account.named(SITE)["status"] = "PAUSED"
    told = droplet.remarks()
    assert "…@example.test has not agreed" in told
    assert "paused" in told
    assert "ops@" not in told
    assert droplet.apply() == {}


def test_with_nobody_named_who_is_alerted_is_left_to_the_dashboard(droplet: Droplet, account: Account) -> None:
    nobody = replace(WANTED, contacts=())
    theirs = account.contact("me@example.test")
    droplet.apply(nobody)
    assert "Nobody is named" in droplet.remarks(nobody)
    account.named(SITE)["assignedAlertContacts"] = [{"alertContactId": str(theirs)}]
    assert droplet.apply(nobody) == {}


# --- the conversation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize("count", [0, 3, 6, 7])
def test_all_pages_are_read_though_the_last_may_be_empty(account: Account, droplet: Droplet, size: int, count: int) -> None:
    account.most_per_page = size
    idents = [account.by_hand(friendlyName=f"m{number}") for number in range(count)]
    assert [monitor.ident for monitor in droplet.client().monitors()] == idents


def test_requests_go_to_no_other_place_than_the_api(account: Account, droplet: Droplet) -> None:
    with server(Account()) as elsewhere:
        account.faults.append(("GET", 302, {"Location": f"{elsewhere.url}/monitors"}, b""))
        with pytest.raises(UnreachableError, match="302"):
            droplet.client().monitors()
        link = {"data": [], "nextLink": f"{elsewhere.url}/monitors?cursor=5"}
        account.faults.append(("GET", 200, {}, json.dumps(link).encode()))
        assert droplet.client().monitors() == []
        assert elsewhere.asked == []


@pytest.mark.parametrize("epoch", [True, False], ids=["as documented", "as observed"])
def test_a_free_plan_is_not_asked_more_than_it_allows(account: Account, droplet: Droplet, clock: Time, epoch: bool) -> None:
    account.limit, account.epoch, account.most_per_page = 10, epoch, 2
    for number in range(30):
        account.by_hand(friendlyName=f"m{number}")
    droplet.apply()
    assert len(account.asked) > 15
    assert account.turned_away == 0
    assert 0 < sum(clock.slept) <= 130


def test_when_others_use_up_the_account_it_waits_as_long_as_it_is_told(account: Account, droplet: Droplet, clock: Time) -> None:
    account.limit = 10
    for _ in range(10):
        account.admit()
    assert set(droplet.apply().values()) == {"made"}
    assert account.turned_away == 1
    assert max(clock.slept) == 60


def test_a_limit_that_does_not_end_is_told_and_what_was_done_holds(account: Account, droplet: Droplet) -> None:
    account.faults += [("POST", 429, {"Retry-After": "60"}, b"ThrottlerException: Too Many Requests")] * 5
    with pytest.raises(LimitedError, match="next apply goes on"):
        droplet.apply()
    account.faults.clear()
    droplet.apply()
    assert len(account.monitors) == 2
    assert droplet.apply() == {}


@pytest.mark.parametrize(
    "headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "0"}, {"Retry-After": "-1", "X-RateLimit-Reset": "x"}], ids=str
)
def test_a_limit_without_a_time_is_waited_for_all_the_same(
    account: Account, droplet: Droplet, clock: Time, headers: dict[str, str]
) -> None:
    account.faults.append(("GET", 429, headers, b"no"))
    assert droplet.client().monitors() == []
    assert clock.slept
    assert all(1 <= seconds <= 60 for seconds in clock.slept)


def test_a_larger_plan_does_not_wait(account: Account, droplet: Droplet, clock: Time) -> None:
    account.limit, account.most_per_page = 100, 1
    for number in range(30):
        account.by_hand(friendlyName=f"m{number}")
    droplet.apply()
    assert clock.slept == []


def test_an_error_of_its_own_is_asked_again_but_nothing_is_made_twice(account: Account, droplet: Droplet) -> None:
    account.faults += [("GET", 503, {}, b"<html>"), ("GET", 0, {}, b"")]
    assert droplet.client().monitors() == []
    account.faults += [("GET", 500, {}, b"")] * 3
    with pytest.raises(UnreachableError, match="500"):
        droplet.client().monitors()
    for status in (500, 0, -1):
        account.faults[:] = [("POST", status, {}, b"")]
        with pytest.raises(UnreachableError):
            droplet.apply()
        assert len([entry for entry in account.asked if entry.method == "POST"]) == 1
        account.asked.clear()
    # The last one was done although nobody heard of it.
    droplet.apply()
    assert len(account.monitors) == 2
    assert len(account.contacts) == 1
    assert droplet.apply() == {}


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (401, {"message": "Unauthorized", "code": "003-005"}, DeniedError, "main API key"),
        (403, {"message": "Your plan lacks it", "code": "000-003"}, DeniedError, "certificate_days"),
        (400, {"message": ["interval must not be less than 300", "x" * 500]}, RefusedError, "interval must not be less than 300"),
        (422, {"message": {"odd": 1}}, RefusedError, "status 422"),
        (418, b"\xff\xfe", RefusedError, "status 418"),
        (400, b"[1]", RefusedError, "status 400"),
    ],
)
def test_every_refusal_is_one_paragraph_that_says_what_to_do(
    account: Account, droplet: Droplet, status: int, body: Any, kind: type[UptimeRobotError], told: str
) -> None:
    account.faults.append(("*", status, {}, body if isinstance(body, bytes) else json.dumps(body).encode()))
    with pytest.raises(kind) as refused:
        droplet.client().monitors()
    text = str(refused.value)
    assert told in text
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", b"[]", b"{}", b'{"data": {}}', b'{"data": [1]}', b'{"data": [{}]}', b'{"data": [{"id": true}]}', b"[" * 100_000,
     b'{"data": [], "nextLink": 5}', b'{"data": [], "nextLink": "?cursor="}', b'{"data": [], "nextLink": "http://[?cursor=1"}'],
    ids=lambda answer: answer[:30].decode(),
)  # fmt: skip
def test_what_is_not_the_api_is_taken_for_nothing(account: Account, droplet: Droplet, answer: bytes) -> None:
    account.faults.append(("GET", 200, {}, answer))
    with pytest.raises(UnreachableError, match="as it is documented"):
        droplet.client().monitors()


def test_a_cursor_that_goes_round_ends(account: Account, droplet: Droplet) -> None:
    page = json.dumps({"data": [], "nextLink": "/v3/monitors?cursor=1"}).encode()
    account.faults += [("GET", 200, {}, page)] * 5
    with pytest.raises(UnreachableError):
        droplet.client().monitors()


def test_a_key_that_may_only_read_is_told_and_changes_nothing(account: Account, droplet: Droplet) -> None:
    with pytest.raises(DeniedError, match="only read"):
        droplet.apply(key=READ_ONLY)
    assert not account.monitors


def test_a_plan_without_reminders_says_which_setting_to_change(account: Account, droplet: Droplet) -> None:
    account.reminds = False
    with pytest.raises(DeniedError, match="certificate_days"):
        droplet.apply()
    droplet.apply(replace(WANTED, certificate_days=()))
    assert account.named(SITE)["sslExpirationReminder"] is False


def test_the_key_is_in_no_message(account: Account, droplet: Droplet) -> None:
    account.faults.append(("GET", 400, {}, json.dumps({"message": f"bad key {KEY}"}).encode()))
    with pytest.raises(RefusedError) as refused:
        droplet.client().monitors()
    assert KEY not in f"{refused.value!r} {WANTED} {droplet.client()!r} {vars(refused.value)}"
    for key in ("", "a b", "u1\r\nX: y", "ü" * 20):
        with pytest.raises(DeniedError) as none:
            Client(key)
        assert key not in str(none.value) or not key
    with pytest.raises(UnreachableError) as nobody:
        Client(KEY, api="http://127.0.0.1:9/v3", patience=Patience(1, 1, sleep=lambda _: None)).monitors()
    assert KEY not in str(nobody.value)
    assert nobody.value.__cause__ is None


# --- planning, notes, settings --------------------------------------------------------------------------------------------------


_NAMES = st.sampled_from(["type", "url", "interval", "config", "assignedAlertContacts", "status"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.text()
_VALUES = _LEAVES | st.lists(_LEAVES | st.dictionaries(st.just("alertContactId"), _LEAVES))


@given(st.lists(st.dictionaries(_NAMES, _VALUES), max_size=4))
def test_whatever_is_told_of_monitors_is_no_exception_and_only_ours_change(fields: list[dict[str, Any]]) -> None:
    monitors = [Monitor(number, SITE if number % 2 else "theirs", entry) for number, entry in enumerate(fields)]
    found = plan(WANTED, monitors, [], notes_of.Noted(None, True))
    assert all(change.ident is None or change.ident % 2 for change in found.changes)


def test_a_look_counts_for_a_day_and_for_these_settings_only(tmp_path: Path) -> None:
    settings, notes = tmp_path / "settings.json", tmp_path / "deep" / "noted.json"
    settings.write_text("one")
    assert notes_of.read(settings, notes).due
    notes_of.note_look(settings, notes, frozenset({1}), frozenset({2}), now=1000.0)
    for now, due in ((1000, False), (1000 + 86399, False), (1000 + 86400, True), (999, True)):
        noted = notes_of.read(settings, notes, now=float(now))
        assert (noted.due, noted.time, noted.monitors, noted.contacts) == (due, 1000.0, {1}, {2})
    settings.write_text("two")
    changed = notes_of.read(settings, notes, now=1000.0)
    assert (changed.due, changed.time, changed.monitors) == (True, None, {1})
    assert notes.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"time": true}', b'{"monitors": ["1", true, 2.5, null]}', b"[" * 100_000])
def test_notes_that_are_spoiled_are_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    settings, notes = tmp_path / "settings.json", tmp_path / "noted.json"
    settings.write_text("one")
    notes.write_bytes(content)
    assert notes_of.read(settings, notes) == notes_of.Noted(None, True)


CHOICES = {"enabled": True, "interval_seconds": 300, "certificate_days": [7, 14], "contacts": []}


def test_the_settings_come_back_as_they_were_chosen_and_alerts_go_where_mails_go() -> None:
    text = settings_of.settings_file(CHOICES, "giggles.example.test", "ops@example.test", KEY)
    assert settings_of.parse(text.encode()) == WANTED
    named = settings_of.settings_file({**CHOICES, "contacts": ["x@example.test"]}, "giggles.example.test", "ops@example.test", KEY)
    assert settings_of.parse(named.encode()).contacts == ("x@example.test",)
    assert settings_of.parse(settings_of.settings_file(CHOICES, "giggles.example.test", None, KEY).encode()).contacts == ()


@pytest.mark.parametrize(
    "spoiled",
    [{"key": "a b"}, {"key": None}, {"domain": None}, {"domain": "x"}, {"interval_seconds": True}, {"interval_seconds": 5},
     {"contacts": [1]}, {"contacts": ["none"]}, {"certificate_days": [0]}, {"certificate_days": "7"}, {"enabled": 1}, {"api": "http://example.test/"},
     {"api": "ftp://localhost"}, {"api": 5}, {"api": "http://["}, {"other": 1}],
    ids=str,
)  # fmt: skip
def test_settings_that_are_wrong_are_refused_without_the_key(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    path = tmp_path / "uptimerobot.json"
    content = json.loads(settings_of.settings_file(CHOICES, "giggles.example.test", None, KEY)) | spoiled
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    with pytest.raises(UptimeRobotError) as refused:
        settings_of.load(path)
    assert KEY not in str(refused.value)
    assert "salt-call state.apply monitoring" in str(refused.value)


def test_settings_that_others_can_read_are_not_used_and_none_are_none(tmp_path: Path) -> None:
    path = tmp_path / "uptimerobot.json"
    assert settings_of.load(path) is None
    path.write_text("{}")
    path.chmod(0o640)
    with pytest.raises(UptimeRobotError, match="0640"):
        settings_of.load(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UptimeRobotError, match="link"):
        settings_of.load(path)


def test_nothing_here_reads_the_real_clock_of_the_account(account: Account) -> None:
    """The fixtures' time stands still, so no test of them waits."""
    assert account.clock() != pytest.approx(time.time(), abs=1000)
