"""What a release is judged by: what it answers, through nginx and at its socket, what users are answered, and that it goes on running."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.release import gate
from gigglekit.release.front import Front, Traffic
from gigglekit.release.health import Answer

LINE = (
    '203.0.113.7 - - [30/Nov/2026:02:00:00 +0000] "{request} HTTP/2.0" {status} 12 "-" "{agent}" '
    "host=giggles.test time=0.010 upstream={up}\n"
)


def line(status: int = 200, *, request: str = "GET /", agent: str = "curl", up: str | None = None) -> str:
    return LINE.format(request=request, status=status, agent=agent, up=up or status)


# --- users --------------------------------------------------------------------------------------------------------------------


def test_users_whom_the_app_fails_are_counted_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(500))
    traffic = Traffic(log)
    with log.open("a") as file:
        file.write(line() + line(502, up="502, 200") + line(500) + line(404) + line(503, request="POST /api/x", up="502"))
    assert traffic.counted() == (5, 3)


@pytest.mark.parametrize(
    "written",
    [
        line(500, agent="giggles-gate"),
        line(500, up="-"),
        line(500, request="DELETE /api/laughter-detections/6f1c1b1e"),
        "nonsense\n",
    ],
)
def test_what_is_no_fault_of_the_release_is_not_counted(tmp_path: Path, written: str) -> None:
    log = tmp_path / "access.log"
    log.write_text("")
    traffic = Traffic(log)
    log.write_text(written + line())
    assert traffic.counted() == (1, 0)


def test_each_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text("")
    traffic = Traffic(log)
    with log.open("a") as file:
        file.write(line(500) + line(502)[:-5])
        file.flush()
        assert traffic.counted() == traffic.counted() == (1, 1)
        # What was counted is not looked at again, however long the log gets.
        os.truncate(log, 0)
        os.truncate(log, len(line(500)))
        file.write(line(502))
        file.flush()
    assert traffic.counted() == (2, 2)


def test_a_log_that_is_rotated_or_missing_is_no_reason_to_fail(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    assert Traffic(log).counted() == (0, 0)
    log.write_text(line() * 10)
    traffic = Traffic(log)
    log.rename(tmp_path / "access.log.1")
    assert traffic.counted() == (0, 0)
    log.write_text(line(500))
    assert traffic.counted() == (1, 1)


# --- the verdict --------------------------------------------------------------------------------------------------------------


class Said:
    """Answers that a test has prepared, page by page."""

    def __init__(self, app: Path, **pages: Answer) -> None:
        self.pages = {"/api/health": Answer(200, b'{"status": "healthy"}'), "/": Answer(200, b"page"), **pages}
        self.asked = gate.Asked(lambda page, _: self.pages.get(page, Answer(404, b"")), "through nginx", app, whole_files=True)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gate, "_LAST_WORDS", 0.5)
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "a.css").write_text("body {}")
    return tmp_path


def verdict(said: Said, trouble: str = "", traffic: Traffic | None = None) -> str:
    return gate.judge(said.asked, 0, lambda: trouble, traffic)


WHOLE = {"/static/a.css": Answer(200, b"body {}")}


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({}, ""),
        ({"/api/health": Answer(0, b"", "it did not answer")}, "/api/health did not answer through nginx within 10 s: it hangs"),
        ({"/api/health": Answer(502, b"")}, "/api/health answered 502"),
        ({"/api/health": Answer(200, b"<html>")}, "not that it is healthy"),
        ({"/": Answer(0, b"", "the connection failed (reset)")}, r"first page \(/\) could not be asked through nginx"),
        ({"/": Answer(404, b"")}, r"first page \(/\) answered 404"),
        ({"/": Answer(302, b"")}, ""),
        ({"/": Answer(200, b'<link href="/static/a.css?v=1">')}, ""),
        ({"/": Answer(200, b'<script src="/static/js/gone.js">')}, "asks for /static/js/gone.js, and the release has no such file"),
        ({"/static/a.css": Answer(404, b"")}, "/static/a.css answered 404 through nginx, and not what lies in the release"),
        ({"/static/a.css": Answer(200, b"body {color")}, "not what lies in the release"),
    ],
)
def test_what_is_wrong_is_said(app: Path, pages: dict[str, Answer], words: str) -> None:
    found = verdict(Said(app, **{**WHOLE, **pages}))
    assert bool(found) == bool(words)
    assert re.search(words, found)


def test_a_process_that_ended_is_the_reason_rather_than_that_it_does_not_answer(app: Path) -> None:
    dead = Said(app, **{"/api/health": Answer(0, b"", "the connection failed (refused)")})
    assert verdict(dead, "its process ended by itself with exit code 3") == "its process ended by itself with exit code 3"


def test_a_process_whose_end_is_noticed_late_is_the_reason_all_the_same(app: Path) -> None:
    """Its connections end before systemd has counted it out."""
    gone = Said(app, **{"/": Answer(0, b"", "the connection failed (reset)")})
    told = iter(["", "", "", "its process was killed"])
    assert gate.judge(gone.asked, 0, lambda: next(told)) == "its process was killed"


def test_a_release_without_static_files_is_asked_for_none(tmp_path: Path) -> None:
    assert verdict(Said(tmp_path)) == ""
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / ".hidden").write_text("x")
    (tmp_path / "static" / "link").symlink_to("/etc/passwd")
    assert verdict(Said(tmp_path)) == ""


def test_users_who_are_failed_are_a_reason_and_a_few_among_many_are_not(app: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    for written, blamed in ((line(500) * 2, False), (line(500) * 3 + line() * 100, False), (line(500) * 3 + line() * 20, True)):
        log.write_text("")
        traffic = Traffic(log)
        log.write_text(written)
        assert bool(verdict(Said(app, **WHOLE), traffic=traffic)) is blamed


# --- nginx --------------------------------------------------------------------------------------------------------------------


def make_certificate(folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=placeholder",
         "-days", "2", "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "fullchain.pem"


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A site that names itself by a certificate that nobody vouches for, as a placeholder does."""
    certificate = make_certificate(tmp_path / "served")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{self.path} {self.headers['Host']} {self.headers['User-Agent']}".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("privkey.pem"))
    context.set_servername_callback(lambda _, name, __: None if name == "giggles.test" else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)  # type: ignore[arg-type]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield Front("giggles.test", ("127.0.0.1", server.server_address[1]), certificate, tmp_path / "access.log")
    server.shutdown()
    server.server_close()


def test_nginx_is_asked_by_its_name_and_with_the_placeholder_too(front: Front) -> None:
    assert front.ask("/x", 5) == Answer(200, b"/x giggles.test giggles-gate")
    assert front.unreachable() == ""


def test_another_certificate_than_the_one_that_lies_here_is_noticed(front: Front, tmp_path: Path) -> None:
    shutil.copy(make_certificate(tmp_path / "another"), front.certificate)
    assert "another certificate" in front.unreachable()
    front.certificate.unlink()
    assert "No such file" in front.unreachable()


def test_another_name_and_nobody_at_all_are_noticed(front: Front) -> None:
    assert Front("other.test", front.address, front.certificate).unreachable() != ""
    assert "refused" in Front("giggles.test", ("127.0.0.1", 1), front.certificate).unreachable()
