"""A second factor: the codes of RFC 6238, shown once, in force only when it was seen to work, and never in the proof's way."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from gigglekit.login import second_factor
from gigglekit.login.errors import LoginError
from gigglekit.login.second_factor import STEP, SecondFactor, Shown, code

NOW = 1_800_000_015.0
PRESENT = int(NOW // STEP)

# RFC 6238, Appendix B, for HMAC-SHA-1; RFC 4226, Appendix D. There with eight digits, of which these are the last six.
VECTORS = {59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"}


@pytest.mark.parametrize("at", VECTORS)
def test_codes_are_those_of_rfc_6238(at: int) -> None:
    assert code(b"12345678901234567890", at // STEP) == VECTORS[at]


@pytest.fixture
def factor(tmp_path: Path) -> SecondFactor:
    return SecondFactor("operator", tmp_path / "second-factor", tmp_path / "giggles/second-factor.json")


def secret_of(shown: Shown) -> bytes:
    return base64.b32decode(shown.secret.replace(" ", ""))


def confirmed(factor: SecondFactor, now: float = NOW) -> bytes:
    secret = secret_of(factor.begin("giggles.test", new=True))
    factor.confirm(code(secret, int(now // STEP)), now=now)
    return secret


def edit(factor: SecondFactor, pattern: str, new: str) -> None:
    text = factor.path.read_text()
    assert re.search(pattern, text)
    factor.path.write_text(re.sub(pattern, new, text))


def test_what_is_shown_is_what_an_authenticator_takes(factor: SecondFactor) -> None:
    shown = factor.begin("giggles.test")
    uri = urlsplit(shown.uri)
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/giggles.test:operator")
    query = parse_qs(uri.query)
    assert query["issuer"] == ["giggles.test"]
    assert base64.b32decode(query["secret"][0]) == secret_of(shown)
    # RFC 4226, section 4, R6: 160 bits are recommended.
    assert len(secret_of(shown)) == 20
    assert len(set(shown.scratch)) == 5
    assert all(re.fullmatch("[1-9][0-9]{7}", one) for one in shown.scratch)
    for part in (shown.uri, shown.secret, *shown.scratch):
        assert part in shown.page()
        assert part not in repr(shown)


def test_nothing_is_in_force_before_a_right_code(factor: SecondFactor) -> None:
    secret = secret_of(factor.begin("giggles.test"))
    assert not factor.is_there()
    wrong = [code(secret, PRESENT + away) for away in (-2, 2)] + ["", "000", "not a code"]
    for typed in wrong:
        with pytest.raises(LoginError, match="logins are as before"):
            factor.confirm(typed, now=NOW)
        assert not factor.is_there()
    typed = code(secret, PRESENT)
    factor.confirm(f" {typed[:3]} {typed[3:]}\n", now=NOW)
    assert factor.is_there()
    assert factor.problem() == ""
    assert [file.name for file in factor.folder.iterdir()] == ["operator"]
    assert (factor.path.stat().st_mode & 0o777, factor.folder.stat().st_mode & 0o777) == (0o400, 0o700)


def test_it_is_shown_once_and_another_replaces_it_only_when_it_is_confirmed(factor: SecondFactor) -> None:
    first = confirmed(factor)
    before = factor.path.read_bytes()
    with pytest.raises(LoginError, match=r"cannot be shown again.*new=True"):
        factor.begin("giggles.test")
    second = secret_of(factor.begin("giggles.test", new=True))
    assert second != first
    with pytest.raises(LoginError):
        factor.confirm(code(first, PRESENT), now=NOW)
    assert factor.path.read_bytes() == before
    factor.confirm(code(second, PRESENT), now=NOW)
    assert factor.path.read_text().startswith(base64.b32encode(second).decode())
    with pytest.raises(LoginError, match="waits to be confirmed"):
        factor.confirm(code(second, PRESENT), now=NOW)


def test_one_that_was_never_confirmed_gives_way_to_the_next(factor: SecondFactor) -> None:
    factor.begin("giggles.test")
    secret = secret_of(factor.begin("giggles.test"))
    factor.confirm(code(secret, PRESENT), now=NOW)


def test_the_module_is_told_to_take_no_code_twice_and_few_tries(factor: SecondFactor) -> None:
    confirmed(factor)
    lines = factor.path.read_text().splitlines()
    # The code that confirmed it has been typed once already.
    assert lines[1:5] == ['" RATE_LIMIT 3 30', '" WINDOW_SIZE 3', f'" DISALLOW_REUSE {PRESENT}', '" TOTP_AUTH']
    assert len(factor.path.read_bytes()) < 1024


@pytest.mark.parametrize(
    ("into", "used", "step", "wait"),
    [
        (5, [], -1, 0),
        (5, [-1], 0, 0),
        (5, [-1, 0], 1, 0),
        (5, [-1, 0, 1], 0, 25),
        # So near the end that the code before it might come too late.
        (25, [], 0, 0),
        (25, [0], 1, 0),
        (25, [0, 1], 0, 5),
        (5, [-9, 7], -1, 0),
    ],
)
def test_the_proof_takes_a_code_that_nobody_used_and_its_owner_needs_least(
    factor: SecondFactor, into: int, used: list[int], step: int, wait: float
) -> None:
    confirmed(factor)
    edit(factor, "DISALLOW_REUSE.*", " ".join(["DISALLOW_REUSE", *(str(PRESENT + away) for away in used)]))
    assert second_factor._free(factor.path.read_text(), float(PRESENT * STEP + into)) == (PRESENT + step, wait)


def test_the_proof_waits_until_the_module_lets_somebody_try_again(factor: SecondFactor) -> None:
    confirmed(factor)
    now = int(NOW)
    edit(factor, "RATE_LIMIT 3 30", f"RATE_LIMIT 3 30 {now - 40} {now - 20} {now - 10} {now - 2}")
    assert second_factor._free(factor.path.read_text(), now)[1] == 11
    edit(factor, f" {now - 2}", "")
    assert second_factor._free(factor.path.read_text(), now)[1] == 0


def test_the_proof_gives_a_real_code_and_waits_for_one(factor: SecondFactor, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = confirmed(factor)
    clock = [PRESENT * STEP + 5.0]
    monkeypatch.setattr(second_factor.time, "time", lambda: clock[0])
    monkeypatch.setattr(second_factor.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    assert factor.code_for_proof() == code(secret, PRESENT - 1)
    edit(factor, "DISALLOW_REUSE.*", f"DISALLOW_REUSE {PRESENT - 1} {PRESENT} {PRESENT + 1}")
    assert factor.code_for_proof() == code(secret, PRESENT + 2)
    assert clock == [(PRESENT + 1) * STEP]


@pytest.mark.parametrize("content", [b"", b"\n", b"not base32!\n", b"\xff\xfe\n", b"A" * 2000 + b"\n", b'AAAAAAAA\n" HOTP_COUNTER 1\n'])
def test_what_would_let_nobody_in_is_told(factor: SecondFactor, content: bytes) -> None:
    confirmed(factor)
    factor.path.write_bytes(content)
    assert str(factor.path) in factor.problem()
    assert "AAAA" not in factor.problem()


def test_what_is_noted_of_it_is_no_secret_and_differs_from_one_to_the_next(factor: SecondFactor) -> None:
    assert factor.confirmed_for() is None
    shown = factor.begin("giggles.test")
    assert factor.confirmed_for() is None
    factor.confirm(code(secret_of(shown), PRESENT), now=NOW)
    assert factor.confirmed_for() == "operator"
    first = factor.note.read_text()
    for part in (shown.secret, shown.secret.replace(" ", ""), secret_of(shown).hex(), *shown.scratch):
        assert part not in first
    assert factor.note.stat().st_mode & 0o777 == 0o600
    confirmed(factor)
    assert factor.note.read_text() != first


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"null", b'{"user": 7}', b"[" * 100_000])
def test_a_damaged_note_still_says_that_there_was_one(factor: SecondFactor, content: bytes) -> None:
    confirmed(factor)
    factor.note.write_bytes(content)
    assert factor.confirmed_for() == ""
