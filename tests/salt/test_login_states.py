"""The login states: faithful under test=True, one paragraph when they refuse, nothing changed when nothing is to be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gigglekit.login import guard, hostkeys
from gigglekit.login.accounts import Accounts
from gigglekit.login.errors import LoginError

from tests.public_keys import ed25519_key

REPOSITORY = Path(__file__).resolve().parents[2]


def load(*, test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("login_state", REPOSITORY / "_states" / "login.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    return module


def never(*arguments: Any, **more: Any) -> None:
    raise AssertionError("nothing may be done here")


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("keys", [[], ["ssh-ed25519 AAAA you"]])
def test_without_a_usable_key_the_run_ends_before_anything_is_noted(monkeypatch: pytest.MonkeyPatch, keys: list[str], test: bool) -> None:
    monkeypatch.setattr(guard, "begin", never)
    ret = load(test=test).guarded("login-guarded", "operator", keys)
    assert ret["result"] is False
    assert "Nothing was changed" in ret["comment"]
    assert ret["changes"] == {}


def test_under_test_nothing_is_noted_and_no_timer_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "begin", never)
    monkeypatch.setattr(guard, "end", never)
    state = load(test=True)
    assert state.guarded("login-guarded", "operator", [ed25519_key()])["result"] is True
    ret = state.proven("login-proven", "operator")
    assert (ret["result"], ret["changes"]) == (True, {})


def test_a_lock_out_is_a_failed_state_with_its_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise LoginError("After this run's changes ... put back")

    monkeypatch.setattr(guard, "end", refuse)
    ret = load(test=False).proven("login-proven", "operator")
    assert (ret["result"], ret["comment"]) == (False, "After this run's changes ... put back")


@pytest.mark.parametrize(("changed", "words"), [(None, "Nothing that decides"), (["/etc/ssh/sshd_config"], "logged in")])
def test_a_proof_is_no_change(monkeypatch: pytest.MonkeyPatch, changed: list[str] | None, words: str) -> None:
    monkeypatch.setattr(guard, "end", lambda *arguments, **more: changed)
    ret = load(test=False).proven("login-proven", "operator")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert words in ret["comment"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\ntoor:x:0:0::/root:/bin/bash\n")
    (tmp_path / "etc/shadow").write_text("root:!:1::::::\ntoor:!:1::::::\n")
    (tmp_path / "etc/group").write_text("sudo:x:27:\n")
    (tmp_path / "etc/gshadow").write_text("sudo:*::\n")
    return tmp_path


def test_accounts_are_announced_changed_and_then_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for test, result in ((True, None), (False, True)):
        state = load(test=test)
        monkeypatch.setattr(state, "Accounts", lambda: Accounts(root))
        ret = state.accounts_exact("nobody-else", "operator", {"sudo": []})
        assert ret["result"] is result
        assert ret["changes"] == {"superusers removed": ["toor"]}
    ret = state.accounts_exact("nobody-else", "operator", {"sudo": []})
    assert (ret["result"], ret["changes"]) == (True, {})


def test_host_keys_are_announced_changed_and_then_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostkeys.differences, "__defaults__", (tmp_path,))
    monkeypatch.setattr(hostkeys.bring, "__defaults__", (tmp_path,))
    wanted = {"ed25519": 256}
    announced = load(test=True).host_keys("ssh-host-keys", wanted)
    assert announced["result"] is None
    assert list(tmp_path.iterdir()) == []
    done = load(test=False).host_keys("ssh-host-keys", wanted)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert load(test=False).host_keys("ssh-host-keys", wanted)["changes"] == {}
    assert load(test=True).host_keys("ssh-host-keys", wanted)["result"] is True


def test_a_private_key_is_never_in_the_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostkeys.differences, "__defaults__", (tmp_path,))
    monkeypatch.setattr(hostkeys.bring, "__defaults__", (tmp_path,))
    ret = load(test=False).host_keys("ssh-host-keys", {"ed25519": 256})
    secret = (tmp_path / "ssh_host_ed25519_key").read_text().splitlines()[1]
    assert secret not in str(ret)
