"""Where a socket starts sshd, the socket is opened first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gigglekit.login import guard, listening, snapshot
from gigglekit.login.errors import LoginError


class Systemd:
    """As systemd is with a socket whose service runs: it refuses to start the socket."""

    def __init__(self, *, socket: bool, service: bool, broken: bool = False) -> None:
        self.active = {listening.SOCKET: socket, listening.SERVICE: service}
        self.broken = broken
        self.commands: list[str] = []

    def __call__(self, argv: list[str], **_more: object) -> tuple[int, str]:
        self.commands.append(" ".join(argv))
        unit = argv[-1]
        if argv[:2] == ["systemctl", "is-active"]:
            return (0 if self.active[unit] else 3), ""
        if argv[:2] == ["systemctl", "stop"] and unit in self.active:
            self.active[unit] = False
        if argv[:2] == ["systemctl", "reload-or-restart"]:
            self.active[unit] = True
        if argv[:2] == ["systemctl", "start"]:
            if unit == listening.SOCKET and (self.broken or self.active[listening.SERVICE]):
                return 1, "ssh.socket: Socket service ssh.service already active, refusing."
            self.active[unit] = True
        return 0, ""


def test_a_socket_is_opened_although_sshd_ran_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(socket=False, service=True)
    monkeypatch.setattr(listening, "ask", systemd)
    listening.listen()
    assert systemd.active == {listening.SOCKET: True, listening.SERVICE: True}


def test_an_open_socket_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(socket=True, service=False)
    monkeypatch.setattr(listening, "ask", systemd)
    listening.listen()
    assert systemd.active[listening.SERVICE] is False
    assert len(systemd.commands) == 1


def test_sshd_runs_even_if_its_socket_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(socket=False, service=True, broken=True)
    monkeypatch.setattr(listening, "ask", systemd)
    with pytest.raises(LoginError, match=r"already active, refusing.*logins go on"):
        listening.listen()
    assert systemd.active[listening.SERVICE] is True


def test_putting_back_opens_the_socket_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(socket=False, service=False)
    for module in (guard, listening):
        monkeypatch.setattr(module, "ask", systemd)
    monkeypatch.setattr(guard, "Path", lambda *_parts: tmp_path)
    monkeypatch.setattr(guard, "CHECKPOINT", tmp_path / "checkpoint.json")
    monkeypatch.setattr(guard.snapshot, "restore", lambda *_arguments: [])
    guard.CHECKPOINT.write_text(json.dumps({}))
    guard.revert(guard.Checkpoint(snapshot.Snapshot({}, {}, {}), guard._enforced(), 1, "1", 0.0))
    assert systemd.active == {listening.SOCKET: True, listening.SERVICE: True}
    assert not guard.CHECKPOINT.exists()
