"""Every value reaches the app as it was chosen, and no key that it would choke on."""

from __future__ import annotations

import io

import dotenv
import pytest
from gigglekit.release import environment
from gigglekit.release.dotenv import dotenv_file, read_back, systemd_file
from gigglekit.release.redaction import redact
from hypothesis import given
from hypothesis import strategies as st

ANYTHING = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
NASTY = st.text("\\'\"${}:-#= \n\r`~aA\u2028", max_size=30)
SECRETS = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_KEY": "planted-anon-key",
    "SUPABASE_SERVICE_ROLE_KEY": "planted-service-role-key",
    "SECRET_KEY": "planted-secret-key-0123456789abcdefghij",
    "ENCRYPTION_KEY": "0123456789abcdef" * 4,
    "DATABASE_URL": "postgresql://planted:planted-password@db.example.test:5432/postgres",
}


def parsed(text: str) -> dict[str, str | None]:
    # newline=None is how a file is opened: universal newlines.
    return dotenv.dotenv_values(stream=io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline=None))


@given(st.dictionaries(st.sampled_from(["A", "B", "C"]), ANYTHING | NASTY, min_size=1))
def test_any_value_comes_back_exactly_from_dotenv(values: dict[str, str]) -> None:
    assert parsed(dotenv_file(values)) == values


@given(st.dictionaries(st.sampled_from(["A", "B", "C"]), ANYTHING | NASTY, min_size=1))
def test_what_was_written_can_be_read_back(values: dict[str, str]) -> None:
    assert read_back(dotenv_file(values)) == values
    assert read_back(systemd_file(values)) == values


def test_a_nul_is_refused_without_showing_the_value() -> None:
    with pytest.raises(ValueError, match="SECRET_KEY holds a NUL") as caught:
        dotenv_file({"SECRET_KEY": "hush\0hush"})
    assert "hush" not in str(caught.value)


def test_fixed_values_win_and_the_anon_key_stays_out() -> None:
    values = environment.app_environment(
        {"LAUGHTER_THRESHOLD": 0.3}, SECRETS | {"SUPABASE_ANON_KEY": "anon"}, ["https://a.test", "https://b.test"], "/u"
    )
    assert values == SECRETS | {
        "LAUGHTER_THRESHOLD": "0.3",
        "ALLOWED_ORIGINS": "https://a.test,https://b.test",
        "UPLOAD_DIR": "/u",
        "HOST": "127.0.0.1",
        "PORT": "8000",
    }


def test_the_anon_key_is_the_public_key_unless_given() -> None:
    assert environment.process_environment(SECRETS) == {"SUPABASE_ANON_KEY": "planted-anon-key"}
    assert environment.process_environment(SECRETS | {"SUPABASE_ANON_KEY": "own"}) == {"SUPABASE_ANON_KEY": "own"}


@pytest.mark.parametrize("key", ["B2_KEY", "DEBUG", "UPLOAD_DIR", "smtp_password"])
def test_a_key_the_app_does_not_take_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=key) as caught:
        environment.app_environment({}, SECRETS | {key: "planted-value"}, ["https://a.test"], "/u")
    assert "planted" not in str(caught.value)


def test_a_missing_secret_is_named() -> None:
    few = {key: value for key, value in SECRETS.items() if key not in ("DATABASE_URL", "ENCRYPTION_KEY")}
    with pytest.raises(ValueError, match="without ENCRYPTION_KEY, DATABASE_URL"):
        environment.app_environment({}, few, ["https://a.test"], "/u")


def test_quoted_parts_of_a_secret_are_taken_out() -> None:
    text = "input_value='planted-secret-key-01...9abcdefghij', type=str"
    cleaned = redact(text, SECRETS.values())
    assert cleaned == "input_value='[secret]', type=str"


def test_text_without_secrets_is_left_as_it_is() -> None:
    text = "No module named 'src.nothing'"
    assert redact(text, SECRETS.values()) == text
