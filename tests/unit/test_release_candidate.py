"""A release on trial is started as the service itself would start it, and how a process ended is said so that a person understands it."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from gigglekit.command import Outcome
from gigglekit.release import candidate, handover
from gigglekit.release.candidate import SystemdCandidate
from gigglekit.release.errors import TrialError
from gigglekit.release.service import Ended, SystemdService, how_it_ended

UNIT = """\
[Unit]
Description=Giggles app
[Service]
Type=exec
User=giggles
ExecStartPre=/usr/local/lib/giggles/vault-is-open
WorkingDirectory=/opt/giggles/current/.app
ExecStart=/opt/giggles/current/.venv/bin/python -m uvicorn ${GIGGLES_MODULE} --fd 3 --proxy-headers
Environment=PATH=/opt/giggles/current/.venv/bin:/usr/bin
EnvironmentFile=-/opt/giggles/current/.giggles-start.env
Restart=on-failure
StandardOutput=append:/var/log/giggles/web.log
MemoryHigh=1200M
MemoryMax=1500M
OOMScoreAdjust=-300
ProtectSystem=strict
[Install]
WantedBy=multi-user.target
"""
RELEASE = Path("/opt/giggles/releases") / ("a" * 40)


class Systemd:
    """Stands in for systemd's programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.asked: list[Sequence[str]] = []
        self.code = 0
        self.shown = ""
        monkeypatch.setattr(candidate, "run", self.run)
        monkeypatch.setattr(candidate, "ask", self.ask)

    def run(self, argv: Sequence[str], *, seconds: float) -> Outcome:
        self.started = list(argv)
        return Outcome(self.code, "", "Failed to start transient service unit: no")

    def ask(self, argv: Sequence[str], *, seconds: float) -> tuple[int, str]:
        self.asked.append(argv)
        return 0, self.shown


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(monkeypatch)


@pytest.fixture
def tried(tmp_path: Path) -> SystemdCandidate:
    unit = tmp_path / "giggles.service"
    unit.write_text(UNIT)
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 2000000 kB\nMemAvailable:  716800 kB\n")
    return SystemdCandidate(unit, tmp_path / "giggles.sock", 900, memory)


def properties(argv: Sequence[str]) -> list[str]:
    return [word.removeprefix("--property=") for word in argv if word.startswith("--property=")]


def test_it_has_the_services_own_command_and_walls_for_another_release(systemd: Systemd, tried: SystemdCandidate) -> None:
    tried.start(RELEASE, "src.main:app")
    own = systemd.started
    assert own[own.index(f"{RELEASE}/.venv/bin/python") :] == [
        f"{RELEASE}/.venv/bin/python", "-m", "uvicorn", "src.main:app", "--fd", "3", "--proxy-headers",
    ]  # fmt: skip
    assert not [word for word in own if "/opt/giggles/current" in word]
    told = properties(own)
    for line in ("User=giggles", "ProtectSystem=strict", "MemoryMax=1500M", f"Environment=PATH={RELEASE}/.venv/bin:/usr/bin"):
        assert line in told
    assert f"WorkingDirectory={RELEASE}/.app" in told
    # It is not started anew, has an end, and gives the public name back whatever becomes of who started it.
    assert not [line for line in told if line.startswith("Restart=")]
    assert "RuntimeMaxSec=900" in told
    assert f"--socket-property=ListenStream={tried.socket.parent}/giggles-candidate.sock" in own
    assert "--socket-property=SocketMode=0660" in own


def test_the_service_has_its_socket_back_when_it_ends_and_without_a_word_where_it_was_never_lent(
    systemd: Systemd, tried: SystemdCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tried.socket.parent)
    tried.start(RELEASE, "src.main:app")
    (given_back,) = (line for line in properties(systemd.started) if line.startswith("ExecStopPost=") and "giggles-own.sock" in line)
    command = shlex.split(given_back.removeprefix("ExecStopPost=-+"))
    own, public = tried.socket.with_name("giggles-own.sock"), tried.socket.with_name("giggles.sock")

    def ends() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    ends()
    assert not public.exists()
    with contextlib.closing(listen(own)) as kept, contextlib.closing(listen(public)):
        ends()
        assert meets(public, kept)
    assert not own.exists()


def test_when_memory_is_scarce_the_one_on_trial_goes_first(systemd: Systemd, tried: SystemdCandidate, tmp_path: Path) -> None:
    tried.start(RELEASE, "src.main:app")
    told = properties(systemd.started)
    assert [line for line in told if line.startswith(("MemoryHigh", "OOMScore"))] == ["MemoryHigh=700M", "OOMScoreAdjust=700"]
    for written, expected in (("MemAvailable: 99 kB\n", "600M"), ("MemAvailable: 9999999 kB\n", "1200M"), ("nonsense", "1200M")):
        (tmp_path / "meminfo").write_text(written)
        tried.start(RELEASE, "src.main:app")
        assert f"MemoryHigh={expected}" in properties(systemd.started)


def test_what_systemd_does_not_take_is_told(systemd: Systemd, tried: SystemdCandidate, tmp_path: Path) -> None:
    systemd.code = 1
    with pytest.raises(TrialError, match=r"unit: no.*left as it is"):
        tried.start(RELEASE, "src.main:app")
    (tmp_path / "giggles.service").write_text("[Service]\n")
    with pytest.raises(TrialError, match="names no command"):
        tried.start(RELEASE, "src.main:app")


def test_its_end_and_a_start_anew_are_trouble(systemd: Systemd, tried: SystemdCandidate) -> None:
    tried.start(RELEASE, "src.main:app")
    systemd.shown = "ActiveState=inactive\nInvocationID=\n"
    assert tried.trouble() == ""
    systemd.shown = "ActiveState=active\nInvocationID=one\n"
    assert tried.trouble() == ""
    systemd.shown = "ActiveState=active\nInvocationID=two\n"
    assert tried.trouble() == "its process ended by itself"
    systemd.shown = "ActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=3\nInvocationID=one\n"
    assert tried.trouble() == "its process ended by itself with exit code 3"
    systemd.shown = "ActiveState=failed\nResult=oom-kill\nExecMainCode=2\nExecMainStatus=9\nInvocationID=one\n"
    assert "memory runs out (it may use 1500 MB, giggles:app:memory_max_mb)" in tried.trouble()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("oom-kill killed KILL\nexit-code exited 1\n", "memory runs out"),
        ("signal killed KILL\n", "memory runs out"),
        ("signal dumped SEGV\n", "ended by signal 11"),
        ("exit-code exited 3\n", "with exit code 3"),
        ("success\n", "its process ended by itself"),
        ("signal killed NONSENSE\n", "its process ended by itself"),
    ],
)
def test_how_the_first_process_ended_is_known_once_another_one_runs(
    systemd: Systemd, tried: SystemdCandidate, written: str, words: str
) -> None:
    """The next question has systemd start it once more, and only then is anybody asked."""
    tried.start(RELEASE, "src.main:app")
    note = next(line for line in properties(systemd.started) if "EXIT_STATUS" in line)
    assert note == f"ExecStopPost=-+/bin/sh -c 'echo $$SERVICE_RESULT $$EXIT_CODE $$EXIT_STATUS >> {tried.socket.with_suffix('.ended')}'"
    systemd.shown = "ActiveState=active\nInvocationID=one\n"
    assert tried.trouble() == ""
    tried.socket.with_suffix(".ended").write_text(written)
    systemd.shown = "ActiveState=active\nInvocationID=two\n"
    assert words in tried.trouble()
    tried.stop()
    assert not tried.socket.with_suffix(".ended").exists()


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(killed=True, status=9), "as happens when memory runs out"),
        (Ended(killed=True, status=11), "ended by signal 11"),
        (Ended(killed=False, status=0), "with exit code 0"),
        (Ended.told_by({"ExecMainCode": "3", "ExecMainStatus": "6"}), "ended by signal 6"),
        (Ended.told_by({}), "with exit code 0"),
        (None, "ended by itself"),
    ],
)
def test_how_a_process_ended_is_said(ended: Ended | None, words: str) -> None:
    assert words in how_it_ended(ended)


@pytest.mark.parametrize(
    ("shown", "journal", "ended"),
    [
        # systemd has started it anew, and forgotten how the one before ended.
        ("ExecMainCode=0\nExecMainStatus=0", '{"EXIT_CODE": "killed", "EXIT_STATUS": "9"}', Ended(killed=True, status=9)),
        ("ExecMainCode=0\nExecMainStatus=0", '{"EXIT_CODE": "exited", "EXIT_STATUS": "3"}', Ended(killed=False, status=3)),
        ("ExecMainCode=0\nExecMainStatus=0", "", None),
        ("ExecMainCode=0\nExecMainStatus=0", "[1]", None),
        ("ExecMainCode=2\nExecMainStatus=9", '{"EXIT_CODE": "exited", "EXIT_STATUS": "3"}', Ended(killed=True, status=9)),
    ],
)
def test_how_a_service_ended_is_known_after_it_was_started_anew(
    monkeypatch: pytest.MonkeyPatch, shown: str, journal: str, ended: Ended | None
) -> None:
    answers = {"systemctl": shown, "journalctl": journal}
    monkeypatch.setattr("gigglekit.release.service.ask", lambda command, **_: (0, answers[command[0]]))
    assert SystemdService().ended() == ended


# --- the public name ------------------------------------------------------------------------------------------------------------


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path.name)
    listening.listen(5)
    return listening


def meets(path: Path, listening: socket.socket) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path.name)
        listening.settimeout(0.2)
        try:
            listening.accept()[0].close()
        except TimeoutError:
            return False
        return True


def test_a_name_is_lent_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    public, other = tmp_path / "p.sock", tmp_path / "c.sock"
    with listen(public) as service, listen(other) as tried:
        assert not handover.give_back(public)
        own = handover.lend(public, other)
        assert meets(public, tried)
        assert meets(own, service)
        assert handover.give_back(public)
        assert meets(public, service)
        assert sorted(os.listdir()) == ["p.sock"]
        assert not handover.give_back(public)


def test_what_was_left_between_two_steps_is_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    public = tmp_path / "p.sock"
    with listen(public) as service:
        os.link(public, handover.own_name(public))
        assert not handover.give_back(public), "it was never lent"
        assert os.listdir() == ["p.sock"]
        public.rename(handover.own_name(public))
        assert handover.give_back(public), "the name was gone altogether"
        assert meets(public, service)
        assert os.listdir() == ["p.sock"]


def test_who_is_connected_or_waits_in_the_queue_is_waited_for(tmp_path: Path) -> None:
    # The kernel shows the name that the socket was made with, so a whole one.
    short = Path("/tmp") / f"g{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        try:
            listening.bind(str(short))
            listening.listen(5)
            assert handover.drain(short, 1)
            client.connect(str(short))
            assert not handover.drain(short, 0.2), "in the queue"
            accepted = listening.accept()[0]
            assert not handover.drain(short, 0.2), "accepted"
            accepted.close()
            assert handover.drain(short, 1)
        finally:
            short.unlink()
