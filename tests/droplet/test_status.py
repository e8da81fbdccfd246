"""The status on a booted droplet: screen, page and alerts agree, and the page is shown to nobody elsewhere and holds no secret."""

from __future__ import annotations

import html.parser
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Droplet
from .leaking import secrets_of

PAGE, RECORDS = "/var/lib/giggles-status/index.html", "/var/lib/giggles/records"
SOMEBODY, ADDRESS = "0b0e7c1e-5a6b-4c3d-8e9f-0a1b2c3d4e5f", "somebody@people.example"
CLIP = f"/var/lib/giggles/uploads/clips/{SOMEBODY}/20261124_laughter_2708-64_13.wav"
ASK = "curl -s -o /run/status-answer -D /run/status-headers -w '%{http_code}' --max-time 20"


@pytest.fixture(scope="module", autouse=True)
def watched(droplet: Droplet) -> Iterator[None]:
    """The role is applied by itself, and the droplet's own records are put back afterwards."""
    droplet.shell(f"rm -rf /root/records; cp -a {RECORDS} /root/records")
    # A leftover of an UptimeRobot that is not chosen any more.
    droplet.write("/etc/giggles/uptimerobot.json", "{}", "0600")
    done = droplet.apply("monitoring")
    assert done.code == 0, done.failed or done.text
    assert "uptimerobot-settings" in done.changed
    yield
    droplet.shell(
        "systemctl stop giggles-watch.path giggles-watch.timer status-test.service || true; rm -f /run/systemd/system/status-test.service; "
        f"systemctl daemon-reload; systemctl reset-failed 'status-test*' || true; find {RECORDS} -mindepth 1 -delete; "
        f"cp -a /root/records/. {RECORDS}; rm -rf /root/records; systemctl start giggles-watch.path giggles-watch.timer"
    )


def status(droplet: Droplet) -> tuple[int, dict[str, Any]]:
    """Return the exit code of giggles.status, and what it says."""
    done = droplet.exec(["salt-call", "--local", "--retcode-passthrough", "--log-level=error", "--out=json", "giggles.status"], check=False)
    return done.returncode, json.loads(done.stdout)["local"]


def page(droplet: Droplet) -> str:
    """Return the page as it lies in its folder."""
    return droplet.exec(["cat", PAGE]).stdout.decode()


class Levels(html.parser.HTMLParser):
    """The levels of a page, by the titles beside them, and whether the whole is right."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.whole, self._level, self._bold = "", "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the level of a line, and where its title begins."""
        kind = dict(attrs).get("class") or ""
        if tag == "header":
            self.whole = kind
        if tag == "div" and kind.startswith("level "):
            self._level = kind.partition(" ")[2]
        self._bold = tag == "b"

    def handle_data(self, data: str) -> None:
        """Note a title."""
        if self._bold:
            self.found[data] = self._level
            self._bold = False


def test_the_page_is_made_anew_when_something_is_recorded(droplet: Droplet) -> None:
    droplet.wait_for("a first page", lambda: droplet.exec(["test", "-s", PAGE], check=False).returncode == 0, 60)
    before = droplet.shell(f"stat -c '%i %.9Y' {PAGE}")
    # As the nightly job's recorder does, and then nobody asks for a look.
    line = json.dumps({"verdict": "killed", "reasons": ["planted-reason of the night"], "users_completed": 1, "users_failed": 2})
    script = "import json, sys; from pathlib import Path; from gigglekit import records; "
    script += "records.append(Path('/var/lib/giggles/records'), 'nightly', json.loads(sys.argv[1]))"
    droplet.exec(["env", "PYTHONPATH=/srv/giggles-salt/_utils", "/opt/salt/current/bin/python", "-B", "-c", script, line])
    droplet.wait_for("the record on the page", lambda: "planted-reason of the night" in page(droplet), 60)
    assert droplet.shell(f"stat -c '%i %.9Y' {PAGE}") != before
    assert droplet.shell(f"stat -c '%a %U:%G' {PAGE} {RECORDS} /var/lib/giggles {RECORDS}/status.jsonl").split("\n")[:4] == [
        "644 root:root", "750 root:giggles", "750 root:giggles", "640 root:giggles",
    ]  # fmt: skip
    assert droplet.shell("ls -A /var/lib/giggles-status").split() == ["index.html"]


def test_screen_page_and_alerts_agree_and_the_exit_code_says_it(droplet: Droplet) -> None:
    droplet.write("/run/systemd/system/status-test.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    droplet.shell("systemctl daemon-reload; systemctl start status-test.service || true; systemctl start giggles-watch.service")
    code, found = status(droplet)
    assert (code, found["all_right"]) == (1, False)
    shown = Levels(page(droplet))
    assert shown.found == {fact["title"]: fact["level"] for fact in found["facts"]}
    assert shown.whole == found["level"]
    keys = {key for fact in found["facts"] for key in fact["conditions"]}
    assert {"nightly", "unit:status-test.service"} <= keys
    alerts = json.loads(droplet.exec(["salt-call", "--local", "--out=json", "giggles.alerts"]).stdout)["local"]
    assert {"nightly", "unit:status-test.service"} <= {one["key"] for one in alerts["open"]} <= keys


def test_a_droplet_on_which_all_is_right_says_so(droplet: Droplet) -> None:
    # What other tests left is of no concern here: only what this droplet is made of counts.
    droplet.shell(f"systemctl reset-failed; rm -f {RECORDS}/*.jsonl")
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "verdict": "ok", "ok": True})
    droplet.shell(f"for kind in nightly backup drill converge; do echo '{line}' > {RECORDS}/$kind.jsonl; done")
    code, found = status(droplet)
    wrong = {fact["name"]: fact["text"] for fact in found["facts"] if fact["level"] in ("problem", "unknown")}
    # A trial's disk is the one of the machine that it runs on.
    assert wrong.keys() <= {"disk-root"}, wrong
    assert code == (1 if wrong else 0)
    droplet.shell("systemctl start giggles-watch.service")
    assert Levels(page(droplet)).whole == found["level"]
    assert ("Everything is all right" in page(droplet)) is (not wrong)


def test_it_is_served_on_loopback_alone_and_may_run_nothing(droplet: Droplet) -> None:
    asked = droplet.shell(
        f"{ASK} http://127.0.0.1:9180/; echo; cat /run/status-headers; echo ----; cmp /run/status-answer {PAGE} && echo same; "
        f"{ASK} -X POST http://127.0.0.1:9180/; echo; {ASK} http://127.0.0.1:9180/records; echo; "
        f"{ASK} -H 'Host: evil.example' http://127.0.0.1:9180/; echo; ss -Hltn 'sport = :9180'"
    )
    head, _, rest = asked.partition("----\n")
    assert head.startswith("200\n")
    policy = re.search(r"(?im)^content-security-policy: (.*)$", head)
    assert policy
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "script-src" not in policy[1]
    assert "frame-ancestors 'none'" in policy[1]
    same, posted, elsewhere, misled, listening = rest.splitlines()
    assert (same, posted, elsewhere, misled) == ("same", "403", "404", "421")
    assert listening.split()[3] == "127.0.0.1:9180"
    text = page(droplet)
    assert not re.search(r"<script|javascript:|(?:src|href)=|url\(|@import", text, re.IGNORECASE)
    with socket.socket() as stranger:
        stranger.settimeout(3)
        assert stranger.connect_ex((droplet.info["ip"], 9180)) != 0
    assert "all right" not in droplet.request(path="/", host="localhost:9180").body.decode(errors="replace")


def test_nothing_on_the_page_is_anybodys(droplet: Droplet) -> None:
    pillar = secrets_of(droplet)
    log, recorder = "/var/log/giggles/nightly.log", "/usr/local/lib/giggles/nightly-record"
    before = droplet.shell(f"cat {RECORDS}/nightly.jsonl | wc -l")
    # As the app writes of its users when something fails, before a verdict is made of it.
    planted = f"❌ Error processing user {ADDRESS} ({SOMEBODY}): {CLIP}\n❌ Error processing date range: {SOMEBODY} {CLIP}\n"
    try:
        droplet.shell(f"{recorder} begin 20")
        droplet.exec(["bash", "-euc", f"cat >> {log}"], stdin=planted.encode())
        droplet.shell(f"SERVICE_RESULT=success EXIT_CODE=exited EXIT_STATUS=0 {recorder} end 50; systemctl start giggles-watch.service")
        assert SOMEBODY in droplet.shell(f"tail -n 2 {log}")
    finally:
        droplet.shell(f"sed -i /{SOMEBODY}/d {log}")
    assert int(droplet.shell(f"cat {RECORDS}/nightly.jsonl | wc -l")) == int(before) + 1
    recorded = droplet.shell(f"tail -n 1 {RECORDS}/nightly.jsonl")
    assert json.loads(recorded)["verdict"] == "silent-failure", recorded
    text = page(droplet).encode() + droplet.exec(["cat", "/etc/giggles/status.json"]).stdout
    assert b"silent failure" in text, "the page is about that night"
    assert not pillar.found_in(text)
    assert not re.search(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text), "an id of a user"
    assert not re.search(rb"[\w.+-]+@[\w-]+\.[\w.-]+", text), "an address"
    assert b"uploads/clips" not in text, "a path of a user"


def test_its_own_records_start_no_look_after_the_other(droplet: Droplet) -> None:
    count = "journalctl --sync; journalctl -u giggles-watch.service -o cat | grep -c ^Finished"
    told = droplet.shell(f"systemctl stop giggles-watch.timer; systemctl start giggles-watch.service; {count}; sleep 2; {count}")
    first, second = map(int, told.split())
    assert 0 < first == second
