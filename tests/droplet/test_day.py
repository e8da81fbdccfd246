"""A day of a droplet, compressed: what its timers start is started in its order, in each hour something goes wrong and is mended again.

Nothing is told twice and nothing is left out, no two of the jobs are ever at work at once, and neither memory nor the disk grows.
GIGGLES_DAY_HOURS says how many hours it has: 3 by themselves, 24 by hand (some minutes).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .by_itself import CONVERGES, HURRIED, look, mails
from .clips import KEYS, ask
from .conftest import Droplet
from .leaking import leaks, now
from .leaking import secrets as forms_of
from .test_backup_units import KEPT, PILLAR
from .test_nightly import BEHAVIOUR
from .test_nightly_verdict import newest

HOURS = int(os.environ.get("GIGGLES_DAY_HOURS", "3"))
JOBS = ("nightly", "backup", "drill", "converge")
VALIDATOR, CRON = "/usr/local/lib/giggles/validate", "/etc/cron.d/giggles-nightly"
PLACE = "/run/day"
FULL = "/var/lib/giggles/uploads/temp/day-full"
UNIT = r"[Service]\nType=oneshot\nExecStart=/usr/bin/test -e /run/day/well\nRemainAfterExit=yes\n"
KEPT_CONVERGES = 5000
MOST_LOOKS = 12
"""One every five minutes."""

# An end of the pings that the droplet trusts; it notes who told it what, but for the secret part of the address.
CHECKS = """
import http.server, ssl, sys
class Check(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, _, told = self.path.strip("/").partition("/")
        with open("/run/day/pings", "a") as file:
            file.write(kind.partition("-")[0] + " " + told + chr(10))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8899), Check)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/day/both.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
PREPARE = f"""
cd {PLACE}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=check -addext subjectAltName=IP:127.0.0.1 \
  -keyout key.pem -out cert.pem 2>/dev/null
cat key.pem cert.pem > both.pem; cp cert.pem "/etc/ssl/certs/$(openssl x509 -hash -noout -in cert.pem).0"
systemd-run -q --unit=day-checks --property=UMask=0077 /usr/bin/python3 {PLACE}/checks.py
"""
RESTORE = f"""
mv {KEPT} {PILLAR}
systemctl stop day-checks 'day-test-*' 2>/dev/null || true
rm -f "/etc/ssl/certs/$(openssl x509 -hash -noout -in {PLACE}/cert.pem).0" /run/systemd/system/day-test-* {FULL} {BEHAVIOUR}
rm -rf {PLACE}; if test -d {CRON}; then rm -r {CRON}; fi
if test -e {CONVERGES}; then sed -i /planted-by-test-day/d {CONVERGES}; chown root:giggles {CONVERGES}; fi
systemctl daemon-reload; systemctl reset-failed 'day-test-*' 'giggles-*' 2>/dev/null || true
"""
FORGET = """
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.write_text(json.dumps({**json.loads(path.read_text()), "restless": {}}, sort_keys=True, ensure_ascii=False) + chr(10))
"""
# A file of records is only cut where it grows past another 256 KB: one byte is left until then.
FILL = """
import os, sys
left = -os.path.getsize(sys.argv[1]) % (256 << 10) or 256 << 10
line = '{"time": "2020-01-01T00:00:00Z", "ok": true, "trigger": "planted-by-test-day", "filling": "%s"}' + chr(10)
left -= len(line % "") + 1
with open(sys.argv[1], "a") as file:
    file.write(line % ("x" * (left if left >= 0 else left + (256 << 10))))
"""
# What an hour's script can say. Each span is one run, by systemd's own clock: from when it began to when it was over.
WORDS = f"""
span() {{ echo "$1 $(systemctl show -p InactiveExitTimestampMonotonic --value giggles-$1) \
  $(systemctl show -p InactiveEnterTimestampMonotonic --value giggles-$1)" >> {PLACE}/spans; }}
hurried() {{ {HURRIED}}}
job() {{ if [ $1 = converge ]; then hurried; else systemctl start giggles-$1 || true; fi; span $1; }}
look() {{ systemctl start giggles-watch; }}
shown() {{ grep -o '"shown": true' /var/lib/giggles/records/alerts-state.json | wc -l; }}
quiet() {{ for _ in $(seq {MOST_LOOKS}); do if [ "$(shown)" = "$(cat {PLACE}/shown)" ]; then break; fi; look; done; }}
# The lobby gets its new key after each job; a converge waits for that.
settled() {{ for _ in $(seq 1200); do
  case $(systemctl show -p ActiveState --value giggles-vault-lobby) in inactive|failed) break ;; esac; sleep 0.05; done; }}
nightly() {{ echo "$1" > {BEHAVIOUR}; job nightly; settled; }}
# What was over in the hour before is no news of this one any more.
flock /var/lib/giggles/alerts/lock python3 -c '{FORGET}' /var/lib/giggles/records/alerts-state.json
"""


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What goes wrong in an hour.

    Arguments:
        name: in words.
        begins: bash, before the first converge of the hour.
        ends: bash, after a look; the hour ends with another converge.
        told: keys of conditions that open and are over again, `{hour}` for the hour's number.
        event: whether the end of these is not told.
        meanwhile: bash, after the first converge, which would mend it.
    """

    name: str
    begins: str
    ends: str
    told: tuple[str, ...]
    event: bool = False
    meanwhile: str = "true"


# What takes longest comes last.
TROUBLES = [
    Trouble("a night that fails silently", "nightly database-down", "nightly hang:0", ("nightly",)),
    Trouble("a file that somebody removed", f"rm {VALIDATOR}", "true", ("drift:validator-installed",), event=True),
    Trouble("a unit that fails, comes back for one look, and fails again",
            f"printf '{UNIT}' > /run/systemd/system/day-test-$HOUR.service; systemctl daemon-reload\n"
            "systemctl start day-test-$HOUR || true; look; touch /run/day/well; systemctl start day-test-$HOUR; look\n"
            "rm /run/day/well; systemctl restart day-test-$HOUR || true",
            "touch /run/day/well; systemctl start day-test-$HOUR; rm /run/day/well", ("unit:day-test-{hour}.service",)),
    Trouble("a volume that fills up",
            # As the app would leave it: another owner's would be drift.
            f"install -o giggles -g giggles -m 0640 /dev/null {FULL}\n"
            f"fallocate -l $(($(df --output=size -B1 /var/lib/giggles/uploads | tail -n 1) * 88 / 100)) {FULL}", f"rm {FULL}",
            ("disk:/var/lib/giggles/uploads",)),
    Trouble("a state that cannot be applied", f"rm {CRON}; mkdir -p {CRON}/in-the-way", f"rm -r {CRON}", ("converge",)),
    Trouble("a mail server that is away", "nightly fatal", f"cp -a {PLACE}/msmtprc /etc/msmtprc; nightly hang:0", ("nightly",),
            meanwhile=f"cp -a /etc/msmtprc {PLACE}; sed -i 's/^port .*/port 9/' /etc/msmtprc; look"),
    Trouble("an app that is killed and started again by systemd", "true",
            "for _ in $(seq 600); do if systemctl -q is-active giggles; then break; fi; sleep 0.2; done", (),
            meanwhile="systemctl kill -s KILL giggles"),
    Trouble("a bucket that is away", "curl -sS -X PUT $CONTROL/faults -d '[{\"kind\": \"down\"}]'; job backup",
            "curl -sS -X DELETE $CONTROL/faults; job backup", ("backup",)),
]  # fmt: skip


def script(hour: int) -> str:
    """Return what happens in an hour: two converges, the job that is due, what goes wrong, and looks until all is quiet again."""
    trouble = TROUBLES[hour % len(TROUBLES)]
    due = {
        # The last converge begins at the same moment: systemd has the others wait for it.
        0: "systemctl start giggles-converge giggles-nightly giggles-backup; span converge; span nightly; span backup; settled",
        1: "job backup; job converge",
        2: "job drill; job converge",
        # A converge that is begun beside a job waits by itself, and says when it went on.
        3: f"echo hang:3 > {BEHAVIOUR}; systemctl start --no-block giggles-nightly; sleep 1; systemctl start giggles-converge\n"
           f"date -u -d \"$(systemctl show -p InactiveEnterTimestamp --value giggles-nightly)\" +%FT%TZ > {PLACE}/waited\n"
           f"tail -n 1 {CONVERGES} >> {PLACE}/waited; echo hang:0 > {BEHAVIOUR}; span nightly; settled; job converge",
        # Somebody starts one by hand as well.
        4: "job converge; job converge",
    }.get(hour, "job converge")  # fmt: skip
    return "\n".join([f"HOUR={hour}", WORDS, trouble.begins, "job converge", trouble.meanwhile, "look", trouble.ends, due, "look", "quiet"])


@dataclasses.dataclass(frozen=True)
class Day:
    """What came of it.

    Arguments:
        spans: unit, beginning and end of each run, in microseconds.
        alerts: what looks found to be different.
        told: subjects and Message-IDs of the mails.
        pings: kind and signal of each.
        ends: how each run of a kind ended, as a check should hear it.
        leaks: where an address of these checks was found that may not hold one.
        waited: when a nightly job ended, and the record of the converge that waited for it; nothing on a short day.
        memory: kilobytes of each unit that was there at the end of the first hour and of the last.
        disk: kilobytes at the same moments.
    """

    spans: list[tuple[str, int, int]]
    alerts: list[dict[str, Any]]
    told: list[tuple[str, str]]
    pings: list[tuple[str, str]]
    ends: dict[str, list[str]]
    leaks: list[str]
    waited: list[str]
    memory: list[dict[str, int]]
    disk: list[int]


def measured(droplet: Droplet) -> tuple[dict[str, int], int]:
    """Return kilobytes: of memory by unit, and of the disk without users' clips and the journal, which have limits of their own."""
    used: Counter[str] = Counter()
    for line in droplet.shell("ps -eo unit=,rss=").splitlines():
        name, kilobytes = line.split()
        if name.endswith(".service"):
            used[name] += int(kilobytes)
    # What apt and dpkg fetch and keep at an hour of their own is not of this day either.
    others = ("/var/log/journal", "/var/lib/giggles/vault.img", "/var/lib/apt", "/var/cache/apt", "/var/backups")
    without = " ".join(f"--exclude={path}" for path in others)
    return dict(used), int(droplet.shell(f"du -sxck {without} /etc /opt /root /srv /var | tail -n 1").split()[0])


def lines(droplet: Droplet, kind: str) -> list[str]:
    """Return the records of a kind as they lie there, the oldest first."""
    return droplet.shell(f"cat /var/lib/giggles/records/{kind}.jsonl 2>/dev/null || true").splitlines()


@pytest.fixture(scope="module")
def day(droplet: Droplet) -> Iterator[Day]:
    droplet.shell(f"cp -a {PILLAR} {KEPT}; install -d -m 0700 {PLACE}")
    try:
        pillar = yaml.safe_load(droplet.shell(f"cat {PILLAR}"))
        pings = {kind: f"https://127.0.0.1:8899/{kind}-{secrets.token_hex(8)}" for kind in ("nightly", "backup", "converge")}
        pillar["giggles"]["secrets"]["monitoring"] = {"pings": pings}
        droplet.write(PILLAR, "#!quiet_yaml\n" + yaml.safe_dump(pillar), "0600")
        begin = now(droplet)
        droplet.write(f"{PLACE}/checks.py", CHECKS)
        droplet.shell(PREPARE)
        if droplet.exec(["test", "-e", f"{KEYS}/kit.json"], check=False).returncode != 0:
            ask(droplet, "recovery_kit", "rotate=True")
        assert droplet.apply("monitoring.settings").failed == {}
        # More records than are kept, of long ago.
        old = '{\\"time\\": \\"2020-01-01T00:00:00Z\\", \\"ok\\": true, \\"trigger\\": \\"planted-by-test-day\\"}'
        droplet.shell(f'yes "{old}" | head -n {2 * KEPT_CONVERGES} | cat - {CONVERGES} > {PLACE}/many; cat {PLACE}/many > {CONVERGES}')
        droplet.exec(["python3", "-c", FILL, CONVERGES])
        # What tests before have changed by hand is over before the day begins.
        droplet.converge()
        look(droplet)
        droplet.shell(f"{WORDS} nightly hang:0; rm -f {PLACE}/spans {PLACE}/pings; for _ in 1 2 3; do look; done; shown > {PLACE}/shown")
        known = {kind: len(lines(droplet, kind)) for kind in ("alerts", "backup", "nightly")}
        began, letters = droplet.shell("date -u +%FT%TZ").strip(), len(mails(droplet))
        memory, disk = [], []
        for hour in range(HOURS):
            droplet.shell(f"CONTROL={droplet.info['s3']['control']}\n{script(hour)}")
            if hour in (0, HOURS - 1):
                kilobytes, size = measured(droplet)
                memory.append(kilobytes)
                disk.append(size)
        spans = [line.split() for line in droplet.shell(f"cat {PLACE}/spans").splitlines()]
        converges = [json.loads(line) for line in lines(droplet, "converge")]
        verdicts = [json.loads(line)["verdict"] for line in lines(droplet, "nightly")[known["nightly"] :]]
        yield Day(
            [(name, int(start), int(end)) for name, start, end in spans],
            [json.loads(line) for line in lines(droplet, "alerts")[known["alerts"] :]],
            [(str(mail["Subject"]), str(mail["Message-ID"])) for mail in mails(droplet)[letters:]],
            [(line.split(" ")[0], line.split(" ")[1]) for line in droplet.shell(f"cat {PLACE}/pings").splitlines()],
            {
                "nightly": [{"ok": "", "failed": "1"}.get(verdict, "fail") for verdict in verdicts],
                "backup": ["" if json.loads(line)["ok"] else "1" for line in lines(droplet, "backup")[known["backup"] :]],
                "converge": ["" if one["ok"] else "1" for one in converges if one["time"] > began],
            },
            leaks(droplet, forms_of({**pings, "token": pings["converge"].rpartition("-")[2]}), since=begin),
            droplet.shell(f"cat {PLACE}/waited || true").splitlines(),
            memory,
            disk,
        )
    finally:
        droplet.shell(f"curl -sS -X DELETE {droplet.info['s3']['control']}/faults; {RESTORE}")
        assert droplet.apply("monitoring.settings").failed == {}


def test_each_change_is_told_once_and_nothing_else_is(day: Day) -> None:
    wanted: list[tuple[str, str, bool]] = []
    for hour in range(HOURS):
        trouble = TROUBLES[hour % len(TROUBLES)]
        for key in trouble.told:
            wanted += [("open", key.format(hour=hour), True), ("over", key.format(hour=hour), not trouble.event)]
    assert [(one["event"], one["key"], one["told"]) for one in day.alerts] == wanted
    assert len(day.told) == sum(told for _, _, told in wanted)
    assert len({number for _, number in day.told}) == len(day.told)


def test_no_two_jobs_are_at_work_at_once(day: Day) -> None:
    assert {name for name, _, _ in day.spans} == (set(JOBS) if HOURS > 2 else set(JOBS) - {"drill"})
    assert Counter(name for name, _, _ in day.spans)["converge"] >= 2 * HOURS
    assert len(day.ends["converge"]) >= 50 * HOURS // 24
    spans = sorted(day.spans, key=lambda span: span[1])
    assert all(start < end for _, start, end in spans)
    overlapping = [(one, other) for one, other in itertools.pairwise(spans) if other[1] < one[2]]
    assert overlapping == []
    if HOURS > 3:
        ended, record = day.waited
        assert json.loads(record)["started"] >= ended


def test_a_check_elsewhere_hears_of_each_start_and_of_how_it_ended(day: Day) -> None:
    for kind, ends in day.ends.items():
        heard = [signal for name, signal in day.pings if name == kind]
        assert len(ends) >= 2
        assert [signal for signal in heard if signal != "start"] == ends, kind
        assert ("start", "start") not in itertools.pairwise(heard), kind
        # A converge that finds something else at work begins later, and only its end is told.
        assert len(ends) // 2 <= heard.count("start") if kind == "converge" else heard.count("start") == len(ends), kind
    assert day.leaks == []


def test_old_records_go(droplet: Droplet, day: Day) -> None:
    assert len(droplet.shell(f"cat {CONVERGES}").splitlines()) < 1.2 * KEPT_CONVERGES
    assert newest(droplet)["verdict"] == "ok"


def test_neither_memory_nor_disk_grows(day: Day) -> None:
    first, last = day.memory[0], day.memory[-1]
    staying = {"giggles.service", "nginx.service", "cron.service", "ssh.service", "fail2ban.service", "giggles-vault-adopt.service"}
    assert staying <= set(first) & set(last)
    grown = {name: (first[name], last[name]) for name in staying if last[name] > 1.1 * first[name] + 8_000}
    assert grown == {}
    # Clips are the app's, and lie on a volume of their own; here it is what the droplet writes of itself.
    assert day.disk[-1] - day.disk[0] < 1_000 + 200 * HOURS
