"""Dead-man pings reach a check as it expects them, give up in time, and repeat its address nowhere."""

from __future__ import annotations

import datetime
import fcntl
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gigglekit import records
from gigglekit.health import monitoring, pings
from gigglekit.health.pings import PingError, end_signal, ping

SECRET = "3f2c-secret-of-the-check"


@dataclass
class Check:
    """A check's server: what it was asked, and what it answers next (a status, `drip`, or an address to go to)."""

    port: int
    trust: ssl.SSLContext
    asked: list[str] = field(default_factory=list)
    answers: list[object] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/{SECRET}"

    def ping(self, signal: str = "", **more: float) -> None:
        ping(self.url, signal, seconds=more.get("seconds", 5), pauses=(0, 0), trust=self.trust)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "check")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def check(certificate: Path) -> Iterator[Check]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            answer = made.answers.pop(0) if made.answers else 200
            if answer == "drip":
                while not stopped.is_set():
                    try:
                        self.wfile.write(b"H")
                        self.wfile.flush()
                    except OSError:
                        return
                    stopped.wait(0.05)
                return
            self.send_response(answer if isinstance(answer, int) else 302)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    stopped = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Check(server.server_address[1], ssl.create_default_context(cafile=str(certificate)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    stopped.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize(("signal", "end"), [("", ""), ("start", "/start"), ("fail", "/fail"), ("137", "/137")])
def test_start_success_and_failure_are_told_as_the_check_expects(check: Check, signal: str, end: str) -> None:
    check.ping(signal)
    assert check.asked == [f"/{SECRET}{end}"]


def test_a_server_in_trouble_is_asked_three_times(check: Check) -> None:
    check.answers = [503, 429]
    check.ping()
    assert len(check.asked) == 3
    check.answers = [500, 502, 503, 200]
    with pytest.raises(PingError, match="503"):
        check.ping()
    assert len(check.asked) == 6


def test_a_check_that_is_not_there_is_asked_once(check: Check) -> None:
    check.answers = [404, 200]
    with pytest.raises(PingError, match="404"):
        check.ping()
    assert len(check.asked) == 1


def test_a_redirect_is_followed_only_where_it_stays_encrypted(check: Check) -> None:
    check.answers = [f"{check.url}/elsewhere"]
    check.ping()
    assert check.asked[-1] == f"/{SECRET}/elsewhere"
    for to in (f"http://127.0.0.1:{check.port}/{SECRET}", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        asked = len(check.asked)
        check.answers = [to, to, to]
        with pytest.raises(PingError, match="302"):
            check.ping()
        assert len(check.asked) == asked + 1
    check.answers = [check.url] * 20
    with pytest.raises(PingError):
        check.ping()


def test_a_slow_server_is_given_up(
    check: Check, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path, check.url)
    monkeypatch.setattr(monitoring.read, "__defaults__", (tmp_path / "monitoring.json",))
    monkeypatch.setattr(pings, "ALL_SECONDS", 0.5)
    check.answers = ["drip"] * 3
    begun = time.monotonic()
    assert pings.main(["backup", "start"], lambda url, what: ping(url, what, pauses=(0, 0), trust=check.trust)) == 1
    assert time.monotonic() - begun < 20, "it would have waited for ever"
    said = capsys.readouterr()
    assert "did not answer in time" in said.err
    assert SECRET not in said.err + said.out


def test_nobody_else_is_believed_and_nothing_goes_in_the_clear(check: Check) -> None:
    with pytest.raises(PingError, match="certificate"):
        ping(check.url, "", pauses=(), trust=ssl.create_default_context())
    with pytest.raises(PingError, match="https"):
        ping(check.url.replace("https", "http"), "", pauses=())
    with pytest.raises(PingError, match="no connection") as raised:
        ping("https://127.0.0.1:1/" + SECRET, "", pauses=())
    assert SECRET not in str(raised.value)
    assert check.asked == []


def test_how_a_run_ended_is_what_systemd_says(tmp_path: Path) -> None:
    def told(result: str, code: str, status: str) -> str | None:
        return end_signal("backup", {"SERVICE_RESULT": result, "EXIT_CODE": code, "EXIT_STATUS": status}, tmp_path, time.time())

    assert told("success", "exited", "0") == ""
    assert told("exit-code", "exited", "3") == "3"
    assert told("oom-kill", "killed", "KILL") == "fail"
    assert told("timeout", "killed", "TERM") == "fail"
    assert told("exit-code", "exited", "999") == "fail"
    assert told("exit-code", "exited", "0") == "fail", "it failed, whatever the number"
    assert end_signal("backup", {}, tmp_path, time.time()) == "fail", "nobody knows"


@pytest.mark.parametrize(("verdict", "signal"), [("ok", ""), ("nothing-to-do", ""), ("partial", "fail"), ("silent-failure", "fail")])
def test_the_nightly_job_is_told_by_its_verdict(tmp_path: Path, verdict: str, signal: str) -> None:
    good = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}
    now = time.time()
    assert end_signal("nightly", good, tmp_path, now) == "fail", "without a record nobody knows"
    records.append(tmp_path, "nightly", {"verdict": verdict})
    assert end_signal("nightly", good, tmp_path, now) == signal
    assert end_signal("nightly", good, tmp_path, now + 3600) == "fail", "that record is of another night"


@pytest.mark.parametrize("result", ["success", "exit-code"])
def test_a_run_that_gave_up_before_it_began_is_told_to_nobody(tmp_path: Path, result: str) -> None:
    def told(kind: str, status: str = "75") -> str | None:
        environment = {"SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": status}
        return end_signal(kind, environment, tmp_path, time.time())

    assert told("converge") is None
    assert told("nightly") is None
    records.append(tmp_path, "nightly", {"verdict": "ok"})
    assert told("nightly") is None, "that record is of the run which is at work, or was before"
    records.append(tmp_path, "nightly", {"verdict": "failed"})
    assert told("nightly") == "75", "it was recorded as a night"
    assert told("converge", "1") == ("1" if result == "exit-code" else "")


def test_a_start_that_is_kept_out_is_told_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, f"https://hc.test/{SECRET}", *pings.KINDS)
    monkeypatch.setattr(monitoring.read, "__defaults__", (tmp_path / "monitoring.json",))
    lock = tmp_path / "nightly.lock"
    monkeypatch.setattr(pings, "_NIGHTLY_LOCK", lock)
    busy: list[str] = []
    monkeypatch.setattr("gigglekit.health.at_work.at_work", lambda: busy)

    def started() -> list[str]:
        asked: list[str] = []
        for kind in pings.KINDS:
            assert pings.main([kind, "start"], lambda _, what, kind=kind: asked.append(f"{kind} {what}")) == 0  # type: ignore[misc]
        return asked

    assert started() == ["nightly start", "backup start", "converge start"]
    busy.append("giggles-backup.service")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert started() == ["backup start"]
    busy.clear()
    assert started() == ["nightly start", "backup start", "converge start"]


def write(folder: Path, url: str | None, *kinds: str) -> None:
    chosen = {
        "domain": "g.test", "roles": [], "converge": {"enabled": True}, "backup": {"bucket": None},
        "monitoring": {"mail": {"to": None, "from": None, "digest": False}, "thresholds": {}},
    }  # fmt: skip
    (folder / "monitoring.json").write_text(
        monitoring.settings_file(chosen, {"pings": dict.fromkeys(kinds or ("backup",), url)} if url else {})
    )


def test_without_an_address_nothing_is_asked_and_the_settings_show_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring.read, "__defaults__", (tmp_path / "monitoring.json",))
    asked: list[tuple[str, str]] = []
    assert pings.main(["backup", "start"], lambda url, what: asked.append((url, what))) == 0
    write(tmp_path, None)
    assert pings.main(["backup", "start"], lambda url, what: asked.append((url, what))) == 0
    assert asked == []
    write(tmp_path, f"https://hc.test/{SECRET}")
    monkeypatch.setenv("SERVICE_RESULT", "exit-code")
    monkeypatch.setenv("EXIT_CODE", "exited")
    monkeypatch.setenv("EXIT_STATUS", "2")
    assert pings.main(["backup", "end"], lambda url, what: asked.append((url, what))) == 0
    assert pings.main(["nightly", "end"], lambda url, what: asked.append((url, what))) == 0
    assert asked == [(f"https://hc.test/{SECRET}", "2")]
    assert SECRET not in repr(monitoring.read())
    assert pings.main(["backup"]) == pings.main(["other", "end"]) == 2
