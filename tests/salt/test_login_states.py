"""The login states: faithful under test=True, one paragraph when they refuse, nothing changed when nothing is to be."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gigglekit.login import guard, hostkeys, second_factor
from gigglekit.login.accounts import Accounts
from gigglekit.login.errors import LoginError
from salt.exceptions import CommandExecutionError

from tests.public_keys import ed25519_key

REPOSITORY = Path(__file__).resolve().parents[2]


def loaded(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loaded", REPOSITORY / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(*, test: bool) -> ModuleType:
    module = loaded("_states/login.py")
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


@pytest.mark.parametrize("test", [True, False])
def test_sudo_that_asks_for_a_password_that_nobody_has_is_refused_before_anything_is_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch, test: bool
) -> None:
    noted: list[object] = []
    monkeypatch.setattr(guard, "begin", lambda *arguments: noted.append(arguments))
    state = load(test=test)
    monkeypatch.setattr(state, "Accounts", lambda: Accounts(root))

    def guarded(**more: bool) -> dict[str, Any]:
        ret: dict[str, Any] = state.guarded("login-guarded", "operator", [ed25519_key()], **more)
        return ret

    for shadow in ("", "operator:!:1::::::\n"):
        (root / "etc/shadow").write_text("root:!:1::::::\n" + shadow)
        ret = guarded(admin_password=True)
        assert ret["result"] is False
        assert all(word in ret["comment"] for word in ("giggles:admin:sudo_password", "passwd operator", "Nothing was changed"))
    assert noted == []
    assert guarded()["result"] is True
    (root / "etc/shadow").write_text("operator:$y$j9T$abc:1::::::\n")
    assert guarded(admin_password=True)["result"] is True


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


@pytest.fixture
def service(tmp_path: Path) -> Path:
    path = tmp_path / "sshd"
    path.write_text("@include common-auth\naccount required pam_nologin.so\n")
    return path


def test_what_pam_asks_is_announced_changed_and_then_left_alone(service: Path) -> None:
    before, lines = service.read_text(), ["auth required pam_deny.so"]
    announced = load(test=True).asks(str(service), lines)
    assert (announced["result"], announced["changes"]) == (None, {"asks": {"old": ["@include common-auth"], "new": lines}})
    assert service.read_text() == before
    done = load(test=False).asks(str(service), lines)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert service.read_text() == before.replace("@include common-auth", lines[0])
    for test in (True, False):
        again = load(test=test).asks(str(service), lines)
        assert (again["result"], again["changes"]) == (True, {})


def test_a_service_that_is_not_installed_yet_is_no_failure_under_test(service: Path) -> None:
    service.unlink()
    assert load(test=True).asks(str(service), ["@include common-auth"])["result"] is None
    done = load(test=False).asks(str(service), ["@include common-auth"])
    assert (done["result"], done["changes"]) == (False, {})
    assert "openssh-server" in done["comment"]


class Operator:
    """Somebody who asks for a second factor with salt-call, on a droplet whose folder for it is elsewhere."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.note = folder.with_name("confirmed.json")
        monkeypatch.setattr(second_factor, "SecondFactor", functools.partial(second_factor.SecondFactor, folder=folder, note=self.note))
        self.module = loaded("_modules/giggles.py")
        self.choose(wanted=False)

    def choose(self, *, wanted: bool) -> None:
        self.module.__pillar__ = {"giggles": {"domain": "giggles.test", "hardening": {"ssh_second_factor": wanted}}}  # type: ignore[attr-defined]

    def ask(self, typed: str = "", **arguments: bool) -> str:
        self.monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return str(self.module.second_factor(**arguments))

    def confirm(self) -> None:
        """Make one and show a right code."""
        secret = second_factor.base64.b32decode(re.findall(r"secret=([A-Z2-7]{32})&", self.ask(new=True))[0])
        self.ask(second_factor.code(secret, int(second_factor.time.time() // second_factor.STEP)) + "\n", confirm=True)

    def guarded(self, admin: str, *, wanted: bool = True, test: bool = False) -> dict[str, Any]:
        state = load(test=test)
        self.monkeypatch.setattr(state, "SecondFactor", second_factor.SecondFactor)
        self.monkeypatch.setattr(guard, "begin", lambda *arguments: None)
        return dict(state.guarded("login-guarded", admin, [ed25519_key()], second_factor=wanted))

    def state(self, *, admin: str = "operator", wanted: bool = True, test: bool = False) -> dict[str, Any]:
        state = load(test=test)
        self.monkeypatch.setattr(state, "SecondFactor", second_factor.SecondFactor)
        return dict(state.second_factor("second-factor-chosen", admin, wanted))


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return Operator(tmp_path / "second-factor", monkeypatch)


def test_a_second_factor_is_made_confirmed_from_standard_input_and_not_shown_again(operator: Operator) -> None:
    with pytest.raises(CommandExecutionError, match="waits to be confirmed"):
        operator.ask("123456\n", confirm=True)
    page = operator.ask()
    found = re.search(r"otpauth://totp/giggles\.test:operator\?secret=([A-Z2-7]{32})&", page)
    assert found
    with pytest.raises(CommandExecutionError, match="Nothing was changed"):
        operator.ask("000\n", confirm=True)
    secret = second_factor.base64.b32decode(found[1])
    right = second_factor.code(secret, int(second_factor.time.time() // second_factor.STEP))
    assert "ssh_second_factor to true" in operator.ask(f"{right}\n", confirm=True)
    with pytest.raises(CommandExecutionError, match="cannot be shown again"):
        operator.ask()
    assert found[1] not in operator.ask(new=True)


def test_what_is_missing_for_a_second_factor_is_told_and_a_damaged_one_fails(operator: Operator) -> None:
    assert operator.state(wanted=False)["result"] is True
    missing = operator.state()
    assert missing["result"] is True
    assert "does NOT ask" in missing["comment"]
    operator.ask()
    assert operator.state() == missing, "one that was not confirmed is none"
    (operator.folder / "operator").write_text("nothing of use\n")
    damaged = operator.state()
    assert damaged["result"] is False
    assert "new=True" in damaged["comment"]
    assert operator.state(wanted=False)["result"] is True


def assert_refused(ret: dict[str, Any], *words: str) -> None:
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "\n" not in ret["comment"]
    for word in ("was not changed", "salt-call giggles.second_factor", *words):
        assert word in ret["comment"], ret["comment"]


def test_one_that_was_confirmed_and_is_gone_fails_until_another_is_there(operator: Operator) -> None:
    operator.confirm()
    assert operator.state()["result"] is True
    (operator.folder / "operator").unlink()
    for _ in range(2):
        assert_refused(operator.state(), str(operator.folder / "operator"), "ssh_second_factor to false", "console")
    operator.confirm()
    assert operator.state()["result"] is True


def test_another_administrator_without_one_is_refused_before_anything_changes(operator: Operator) -> None:
    assert operator.guarded("anna")["result"] is True, "nobody has one"
    operator.confirm()
    for test in (True, False):
        ret = operator.guarded("anna", test=test)
        assert (ret["result"], ret["changes"]) == (False, {})
        for word in ("anna", "operator", "Nothing was changed", "salt-call giggles.second_factor", "ssh_second_factor to false"):
            assert word in ret["comment"], ret["comment"]
    assert operator.guarded("anna", wanted=False)["result"] is True
    (operator.folder / "operator").rename(operator.folder / "anna")
    assert operator.guarded("anna")["result"] is True
    # One of the same administrator that is gone is told where it matters, and what else drifted is put back.
    (operator.folder / "anna").unlink()
    assert operator.guarded("operator")["result"] is True


def test_without_knowing_whose_it_was_one_that_is_gone_is_missed(operator: Operator) -> None:
    operator.confirm()
    operator.note.write_text("nothing of use\n")
    assert operator.guarded("anna")["result"] is True
    assert_refused(operator.state(admin="anna"), "anna")


def test_one_from_before_there_was_a_note_of_it_is_missed_too(operator: Operator) -> None:
    operator.confirm()
    noted = operator.note.read_bytes()
    operator.note.unlink()
    assert operator.state(test=True)["result"] is True
    assert not operator.note.exists(), "under test nothing is written"
    assert operator.state()["result"] is True
    assert operator.note.read_bytes() == noted, "the same one is noted the same way: otherwise a lost note would hide what else changed"


def test_one_that_was_removed_while_nobody_wanted_it_is_missed_no_more(operator: Operator) -> None:
    operator.confirm()
    assert operator.state(wanted=False)["result"] is True
    assert operator.note.exists(), "what was set up stays for later"
    (operator.folder / "operator").unlink()
    operator.state(wanted=False, test=True)
    assert_refused(operator.state(test=True))
    assert operator.state(wanted=False)["result"] is True
    assert "does NOT ask" in operator.state()["comment"]


def test_whatever_else_lies_in_its_place_fails_and_changes_nothing(operator: Operator) -> None:
    place = operator.folder / "operator"
    operator.folder.mkdir()
    place.symlink_to("nowhere")
    assert_refused(operator.state(), "new=True")
    place.unlink()
    place.mkdir()
    assert_refused(operator.state(), f"{place} is a folder", "new=True")
