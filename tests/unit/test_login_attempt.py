"""The login that is tried after changes: it says no only where the administrator would hear it too."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from gigglekit.login import attempt
from gigglekit.login.errors import LoginError

DENIED = "operator@192.0.2.7: Permission denied (keyboard-interactive)."


class Sshd:
    """Answers each try in turn, as ssh would show it; a code that it took once it does not take again."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked, self.used = list(answers), 0, set[str]()

    def __call__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        self.asked += 1
        typed = Path((environment or {})["GIGGLES_ANSWER"]).read_text().strip() if environment else ""
        answer = self.answers.pop(0) if self.answers else "in"
        if answer == "refused":
            return self.done(255, "ssh: connect to host 192.0.2.7 port 22: Connection refused")
        if typed in self.used:
            return self.done(255, DENIED)
        if typed:
            self.used.add(typed)
        if answer == "in":
            return self.done(0, "", "giggles-proven\n")
        return self.done(255, DENIED if answer == "denied" else "no answer within 10 s")

    def done(self, code: int, said: str, shown: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, shown, said)


def log_in(sshd: Sshd, folder: Path, monkeypatch: pytest.MonkeyPatch, *, second_factor: bool = True) -> None:
    monkeypatch.setattr(attempt, "_run", sshd)
    monkeypatch.setattr(attempt.time, "sleep", lambda seconds: None)
    # What the real one does: the first code that is not noted as used.
    fresh = lambda: next(one for one in ("111111", "222222", "333333") if one not in sshd.used)  # noqa: E731
    attempt._log_in("operator", "192.0.2.7", 22, folder / "key", True, fresh if second_factor else None)


def test_a_try_that_used_its_code_up_and_got_no_answer_is_followed_by_one_with_another_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd = Sshd("refused", "slow", "slow", "in")
    log_in(sshd, tmp_path, monkeypatch)
    assert (sshd.asked, sshd.used) == (4, {"111111", "222222", "333333"})
    assert (tmp_path / "answer").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("second_factor", [True, False])
def test_a_refusal_is_an_answer_and_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second_factor: bool) -> None:
    sshd = Sshd("denied")
    with pytest.raises(LoginError, match=r"sshd did not let it in .*Permission denied"):
        log_in(sshd, tmp_path, monkeypatch, second_factor=second_factor)
    assert sshd.asked == 1


def test_an_sshd_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd = Sshd(*["refused"] * 100)
    with pytest.raises(LoginError, match="Connection refused"):
        log_in(sshd, tmp_path, monkeypatch)
    assert sshd.asked == attempt._TRIES
