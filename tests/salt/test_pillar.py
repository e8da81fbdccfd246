"""A wrong pillar is refused before anything changes; a right one is applied. Through Salt's own pillar compiler."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gigglekit.settings.places import UNREADABLE

REPOSITORY = Path(__file__).resolve().parents[2]

REFUSED = 5
"""The exit code of state.apply with a pillar that did not compile."""

Settings = dict[str, Any]


def test_a_right_pillar_is_applied(minion: Any, right: Settings) -> None:
    minion.answer(right)
    result = minion.call("state.apply")
    assert result.returncode == 0, result.stdout + result.stderr
    assert minion.canary.read_text() == "giggles.example.test\n"


WRONG: dict[str, tuple[Callable[[Settings], object], list[str]]] = {
    "unknown key": (
        lambda settings: settings["app"].update(memory_hihg_mb=900),
        ["giggles:app:memory_hihg_mb", "did you mean giggles:app:memory_high_mb?"],
    ),
    "wrong type": (
        lambda settings: settings.update(nightly={"at": 750}),
        ["giggles:nightly:at", "it is a number", 'from "00:00" to "23:59"', "droplet.sls"],
    ),
    "missing secret": (
        lambda settings: settings["secrets"]["app"].pop("DATABASE_URL"),
        ["giggles:secrets:app:DATABASE_URL", "it is missing", "postgresql://"],
    ),
    "invalid domain": (
        lambda settings: settings.update(domain="https://giggles.example.test"),
        ["giggles:domain", "it begins with a scheme", "“https://giggles.example.test”", "a host name in lower case"],
    ),
    "broken rule": (
        lambda settings: settings.update(hardening={"reboot_at": "03:00"}),
        ["giggles:hardening:reboot_at", "meets giggles:nightly:at"],
    ),
    "weak secret": (
        lambda settings: settings["secrets"]["app"].update(SECRET_KEY="planted-short-secret"),
        ["giggles:secrets:app:SECRET_KEY", "it is shorter than 32 characters"],
    ),
    "secret in the wrong place": (
        lambda settings: settings["app"].update(environment={"SECRET_KEY": "planted-secret-key-0123456789abcdefghij"}),
        ["giggles:app:environment:SECRET_KEY", "belongs to secrets.app"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_pillar_changes_nothing_and_says_why(case: str, minion: Any, right: Settings) -> None:
    spoil, words = WRONG[case]
    spoil(right)
    minion.answer(right)
    result = minion.call("state.apply")
    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == REFUSED, said
    for word in words:
        assert word in said
    assert not minion.canary.exists()
    assert "planted" not in said + minion.written()


def test_a_section_that_is_not_indented_is_not_passed_over(minion: Any, right: Settings) -> None:
    minion.answer(right)
    with minion.droplet_file.open("a") as file:
        file.write("converge:\n  allowed_signers: [planted]\n")
    result = minion.call("state.apply")
    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == REFUSED, said
    assert f"Indent it below `giggles:` in {minion.droplet_file}" in said
    assert "planted" not in said


def test_a_pillar_given_with_the_command_is_checked_too(minion: Any, right: Settings) -> None:
    minion.answer(right)
    result = minion.call("state.apply", "pillar={'giggles': {'domain': '10.0.0.1'}}")
    assert result.returncode == REFUSED
    assert "it is an IP address" in " ".join(result.stdout.split())


def test_a_droplet_without_answers_is_sent_to_bootstrap(minion: Any) -> None:
    result = minion.call("state.apply")
    said = " ".join(result.stdout.split())
    assert result.returncode == REFUSED
    assert "there is no droplet.sls" in said
    assert "Run bootstrap.sh" in said


def test_a_droplet_without_its_grain_is_told_so(minion: Any, right: Settings) -> None:
    minion.answer(right)
    minion.configure(grains={})
    result = minion.call("state.apply")
    assert result.returncode == REFUSED
    assert "no grain giggles_environment" in " ".join(result.stdout.split())


def test_a_staging_droplet_gets_its_certificate_from_staging(minion: Any, right: Settings) -> None:
    minion.answer(right | {"environment": "staging"})
    minion.configure(grains={"giggles_environment": "staging"})
    result = minion.call("pillar.get", "giggles:web:acme:directory", "unmask=True")
    assert "acme-staging-v02" in result.stdout, result.stdout + result.stderr
    assert minion.call("state.apply").returncode == 0


def test_a_pillar_that_was_right_is_checked_again_once_it_changes(minion: Any, right: Settings) -> None:
    minion.answer(right)
    assert minion.call("state.apply").returncode == 0
    minion.canary.unlink()
    minion.answer(right | {"domain": "GIGGLES.example.test"})
    assert minion.call("state.apply").returncode == REFUSED
    assert not minion.canary.exists()


BROKEN = {
    "two colons": 'SECRET_KEY: planted: "planted-secret"',
    "an asterisk, which YAML takes for a reference": "SECRET_KEY: *planted-secret",
    "an exclamation mark, which YAML takes for a type": "SECRET_KEY: !planted-secret x",
    "a quote that is never closed": 'SECRET_KEY: "planted-secret',
    "a key twice": "SECRET_KEY: planted-one\n      SECRET_KEY: planted-two",
    "a number too long for Python": f"SECRET_KEY: {'9' * 5000}",
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_renderer_tells_a_mistake_by_its_place_alone(case: str) -> None:
    renderer = runpy.run_path(str(REPOSITORY / "_renderers" / "quiet_yaml.py"))
    noted = renderer["render"](f"#!quiet_yaml\ngiggles:\n  secrets:\n    app:\n      {BROKEN[case]}\n", sls="droplet")
    assert set(noted) == {UNREADABLE}
    assert set(noted[UNREADABLE]) == {"droplet"}
    assert "planted" not in str(noted)


def test_a_mistake_in_yaml_changes_nothing_and_is_told_in_a_paragraph(minion: Any) -> None:
    minion.droplet_file.write_text("#!quiet_yaml\ngiggles:\n  secrets:\n    app:\n      SECRET_KEY: *planted-secret\n")
    result = minion.call("state.apply")
    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == REFUSED, said
    assert "droplet.sls: it is not YAML (line 5, column" in said
    assert "Traceback" not in said
    assert not minion.canary.exists()
    assert "planted" not in said + minion.written()
