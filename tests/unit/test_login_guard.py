"""What decides about logins is noted, compared, proved, and put back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from gigglekit.login import guard, snapshot
from gigglekit.login.errors import LoginError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for folder in ("etc/ssh/sshd_config.d", "etc/sudoers.d", "etc/ufw/applications.d", "home/operator/.ssh", "root"):
        (root / folder).mkdir(parents=True)
    (root / "etc/ssh/sshd_config").write_text("PermitRootLogin yes\n")
    (root / "etc/ssh/sshd_config.d/50-cloud-init.conf").write_text("PasswordAuthentication no\n")
    (root / "etc/ssh/ssh_host_rsa_key").write_text("private\n")
    (root / "etc/ssh/ssh_host_rsa_key").chmod(0o600)
    (root / "etc/ufw/applications.d/openssh-server").write_text("[OpenSSH]\n")
    (root / "home/operator/.ssh/authorized_keys").write_text("ssh-ed25519 AAAA\n")
    for name in ("passwd", "shadow", "group", "gshadow"):
        (root / "etc" / name).write_text("root:x:0:\n")
    return root


PLACES = (*snapshot.PLACES, "home/operator/.ssh")


def noted(root: Path) -> snapshot.Snapshot:
    return snapshot.Snapshot.from_json(json.loads(json.dumps(snapshot.take(root, PLACES).to_json())))


def test_everything_comes_back(root: Path) -> None:
    before = noted(root)
    (root / "etc/ssh/sshd_config").write_text("AllowUsers nobody\n")
    (root / "etc/ssh/sshd_config").chmod(0o600)
    (root / "etc/ssh/sshd_config.d/50-cloud-init.conf").unlink()
    (root / "etc/ssh/sshd_config.d/00-giggles.conf").write_text("AllowUsers nobody\n")
    (root / "etc/ssh/ssh_host_rsa_key").write_text("another\n")
    (root / "etc/sudoers.d").chmod(0o750)
    (root / "home/operator/.ssh/authorized_keys").unlink()
    (root / "etc/passwd").write_text("root:changed:0:\ngiggles:x:999:\n")
    restored = snapshot.restore(before, root)
    assert restored == [
        "/etc/passwd",
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssh/sshd_config",
        "/etc/ssh/sshd_config.d/00-giggles.conf",
        "/etc/ssh/sshd_config.d/50-cloud-init.conf",
        "/etc/sudoers.d",
        "/home/operator/.ssh/authorized_keys",
    ]
    assert (root / "etc/passwd").read_text() == "root:x:0:\ngiggles:x:999:\n", "new accounts own files, so they stay"
    assert snapshot.take(root, PLACES).entries == before.entries
    assert snapshot.restore(before, root) == []


def test_the_home_comes_back_but_nothing_in_it_is_touched(root: Path) -> None:
    # sshd trusts no keys in a home that others can write to.
    home = root / "home/operator"
    before = snapshot.take(root, (*PLACES, f"home/operator{snapshot.ALONE}"))
    home.chmod(0o777)
    (home / "letter").write_text("mine\n")
    assert snapshot.restore(before, root) == ["/home/operator"]
    assert home.stat().st_mode & 0o777 == 0o755
    assert (home / "letter").read_text() == "mine\n"
    assert snapshot.restore(before, root) == []


def test_a_home_that_was_a_link_is_never_emptied(root: Path) -> None:
    home = root / "home/operator"
    home.rename(root / "home/elsewhere")
    home.symlink_to("elsewhere")
    before = snapshot.take(root, (f"home/operator{snapshot.ALONE}",))
    home.unlink()
    home.mkdir()
    (home / "letter").write_text("mine\n")
    assert snapshot.restore(before, root) == []
    assert (home / "letter").read_text() == "mine\n"


def test_a_link_put_in_the_place_of_a_file_is_replaced_and_not_followed(root: Path, tmp_path: Path) -> None:
    before = noted(root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious\n")
    (root / "etc/ssh/sshd_config").unlink()
    (root / "etc/ssh/sshd_config").symlink_to(elsewhere)
    snapshot.restore(before, root)
    assert not (root / "etc/ssh/sshd_config").is_symlink()
    assert elsewhere.read_text() == "precious\n"


def test_what_a_package_brought_meanwhile_stays(root: Path) -> None:
    # /etc/ufw is there before ufw is: openssh-server puts its profile into it.
    before = noted(root)
    (root / "etc/ufw/ufw.conf").write_text("ENABLED=no\n")
    (root / "etc/sudoers").write_text("root ALL=(ALL) ALL\n")
    assert snapshot.restore(before, root) == []
    assert (root / "etc/ufw/ufw.conf").exists()


def test_large_files_are_left_out(root: Path) -> None:
    (root / "etc/ssh/moduli").write_text("1" * 300_000)
    assert "etc/ssh/moduli" not in noted(root).entries


@pytest.fixture
def machine(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The guard on `root`, with every command it runs noted instead."""
    commands: list[list[str]] = []

    def run(command: list[str], stdin: str = "") -> tuple[int, str]:
        commands.append([*command, stdin] if stdin else command)
        if command[0].endswith("-save"):
            return 0, f"# {len(commands)}\n*filter\n:INPUT DROP [{len(commands)}:9]\n-A INPUT -j ufw-user-input\nCOMMIT\n"
        return 0, ""

    class Root(type(Path())):  # type: ignore[misc]
        """Paths below `root`, for the few that the guard makes itself."""

        def __new__(cls, *parts: str) -> Path:
            return (root / str(parts[0]).lstrip("/")) if parts[0] in ("/", "/run/sshd") else Path(*parts)

    (root / "run").mkdir()
    monkeypatch.setattr(guard, "ask", run)
    monkeypatch.setattr(guard.listening, "ask", run)
    monkeypatch.setattr(guard, "Path", Root)
    monkeypatch.setattr(guard, "WORKSPACE", tmp_path / "workspace")
    monkeypatch.setattr(guard, "CHECKPOINT", tmp_path / "workspace/checkpoint.json")
    return commands


def let_in(user: str, **more: object) -> None:
    assert user == "operator"


def refuse(user: str, **more: object) -> None:
    raise LoginError("sshd did not let it in (Permission denied)")


def test_nothing_is_tried_when_nothing_changed(machine: list[list[str]]) -> None:
    guard.begin(None)
    assert guard.end("operator", try_login=refuse) is None
    assert not guard.CHECKPOINT.exists()


def test_a_change_that_lets_the_administrator_in_stays(machine: list[list[str]], root: Path) -> None:
    guard.begin(None)
    (root / "etc/ssh/sshd_config").write_text("PermitRootLogin no\n")
    assert guard.end("operator", try_login=let_in) == ["/etc/ssh/sshd_config"]
    assert (root / "etc/ssh/sshd_config").read_text() == "PermitRootLogin no\n"
    assert not guard.CHECKPOINT.exists()


def test_a_change_that_locks_out_is_undone_and_told(machine: list[list[str]], root: Path) -> None:
    guard.begin(None)
    (root / "etc/ssh/sshd_config").write_text("AllowUsers nobody\n")
    with pytest.raises(LoginError) as told:
        guard.end("operator", try_login=refuse)
    assert "sshd did not let it in (Permission denied)" in str(told.value)
    assert "/etc/ssh/sshd_config" in str(told.value)
    assert (root / "etc/ssh/sshd_config").read_text() == "PermitRootLogin yes\n"
    assert ["systemctl", "reload-or-restart", "ssh.service"] in machine
    assert not guard.CHECKPOINT.exists()


def test_the_administrator_before_gets_the_keys_back_when_the_next_one_cannot_log_in(machine: list[list[str]], root: Path) -> None:
    keys = root / "home/operator/.ssh/authorized_keys"
    guard.begin(None, [Path("/home/operator")])
    keys.unlink()
    with pytest.raises(LoginError, match=r"/home/operator/\.ssh/authorized_keys"):
        guard.end("anna", try_login=refuse)
    assert keys.read_text() == "ssh-ed25519 AAAA\n"


def test_without_its_timer_a_run_does_not_begin(machine: list[list[str]], monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    moved = guard.Path
    monkeypatch.setattr(guard, "Path", lambda *parts: root if parts[0] == "/run/systemd/system" else moved(*parts))

    def refusing(command: list[str], stdin: str = "") -> tuple[int, str]:
        machine.append(command)
        if command[0] == "systemd-run":
            return 1, "Failed to start transient timer unit: Unit giggles-login-guard.service was already loaded"
        return 0, ""

    monkeypatch.setattr(guard, "ask", refusing)
    with pytest.raises(LoginError, match=r"already loaded\. So nothing was changed"):
        guard.begin(None)
    assert not guard.CHECKPOINT.is_file()
    stopped = ["systemctl", "stop", "giggles-login-guard.timer", "giggles-login-guard.service"]
    assert machine.index(stopped) < [command[0] for command in machine].index("systemd-run")


def test_without_a_checkpoint_nothing_can_be_proved(machine: list[list[str]]) -> None:
    with pytest.raises(LoginError, match=r"Apply hardening\.guard"):
        guard.end("operator", try_login=let_in)


def test_the_checkpoint_is_only_for_root(machine: list[list[str]]) -> None:
    guard.begin(None)
    assert guard.CHECKPOINT.stat().st_mode & 0o777 == 0o600
    assert guard.WORKSPACE.stat().st_mode & 0o777 == 0o700


def test_a_run_that_lives_is_left_alone(machine: list[list[str]], root: Path) -> None:
    guard.begin(None)
    (root / "etc/ssh/sshd_config").write_text("AllowUsers nobody\n")
    assert guard.main() == 0
    assert (root / "etc/ssh/sshd_config").read_text() == "AllowUsers nobody\n"


def dead(checkpoint: guard.Checkpoint) -> None:
    data = json.loads(guard.CHECKPOINT.read_text())
    # This very process number, but of a process that started at another time.
    data["process"], data["started"] = os.getpid(), "1"
    guard.CHECKPOINT.write_text(json.dumps(data))


def test_a_run_that_was_killed_is_undone(machine: list[list[str]], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard.begin(None)
    (root / "etc/ssh/sshd_config").write_text("AllowUsers nobody\n")
    dead(guard.Checkpoint.read())  # type: ignore[arg-type]
    assert guard.main() == 0
    assert (root / "etc/ssh/sshd_config").read_text() == "PermitRootLogin yes\n"
    assert "Put back: /etc/ssh/sshd_config" in capsys.readouterr().err
    assert not guard.CHECKPOINT.exists()


def test_what_a_killed_run_noted_outlives_the_next_run(machine: list[list[str]], root: Path) -> None:
    guard.begin(None)
    (root / "etc/ssh/sshd_config").write_text("AllowUsers nobody\n")
    dead(guard.Checkpoint.read())  # type: ignore[arg-type]
    guard.begin(None)
    with pytest.raises(LoginError):
        guard.end("operator", try_login=refuse)
    assert (root / "etc/ssh/sshd_config").read_text() == "PermitRootLogin yes\n"


def test_a_run_that_hangs_for_half_an_hour_is_undone(machine: list[list[str]]) -> None:
    guard.begin(None)
    checkpoint = guard.Checkpoint.read()
    assert checkpoint is not None
    assert not checkpoint.abandoned()
    late = guard.Checkpoint(checkpoint.state, {}, checkpoint.process, checkpoint.started, checkpoint.at - guard.PATIENCE - 1)
    assert late.abandoned()


def test_only_a_changed_firewall_is_loaded_again(machine: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    guard.begin(None)
    checkpoint = guard.Checkpoint.read()
    assert checkpoint is not None
    guard.revert(checkpoint)
    assert not any(command[0] == "iptables-restore" for command in machine)
    changed = {name: text + "-A INPUT -j DROP\n" for name, text in checkpoint.enforced.items()}
    guard.revert(guard.Checkpoint(checkpoint.state, changed, 1, "1", 0.0))
    assert [command[0] for command in machine if command[0].endswith("-restore")] == ["iptables-restore", "ip6tables-restore"]


def test_a_firewall_that_was_not_there_is_switched_off_again(machine: list[list[str]]) -> None:
    guard.begin(None)
    checkpoint = guard.Checkpoint.read()
    assert checkpoint is not None
    none = {"iptables-restore": "", "ip6tables-restore": ""}
    guard.revert(guard.Checkpoint(checkpoint.state, none, 1, "1", 0.0))
    assert ["ufw", "--force", "disable"] in machine
