"""The concern `monitoring` through Salt: what it applies for which choices, on its own, and that no secret is in what Salt keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import right_settings
from tests.salt.conftest import REPOSITORY, Minion
from tests.salt.test_rendering import GRAINS, found, references

MAIL = {"to": "ops@example.test", "host": "mail.example.test"}
SECRETS = {
    "smtp_user": "planted-user", "smtp_password": "planted \'pass\" #word", "uptimerobot_key": "u1234567-planted0123456789",
    "pings": {"backup": "https://hc.example.test/planted-address"},
}  # fmt: skip


NOBODY, SOMEBODY, EVERYTHING = "nobody is told", "somebody is told", "somebody is told, and UptimeRobot looks"
CHOICES: dict[str, dict[str, Any]] = {NOBODY: {}, SOMEBODY: {"mail": MAIL}, EVERYTHING: {"mail": MAIL, "uptimerobot": {"enabled": True}}}

Low = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Low:
    """The states of the concern for each choice of `giggles:monitoring`, as Salt would run them."""
    low = {}
    for name, chosen in CHOICES.items():
        folder = tmp_path_factory.mktemp("minion")
        minion = Minion(folder, folder / "canary")
        minion.droplet_file.parent.mkdir()
        settings = right_settings()
        settings["monitoring"] = chosen
        settings["secrets"]["monitoring"] = SECRETS
        minion.answer(settings)
        grains = {"giggles_environment": "production", "os_family": "Debian", "virtual": "kvm", **GRAINS["Debian 12"]}
        minion.configure(file_roots={"base": [str(REPOSITORY / "salt")]}, grains=grains)
        done = minion.call("--out=json", "--log-level=error", "state.show_low_sls", "monitoring")
        low[name] = json.loads(done.stdout or "{}").get("local")
        assert isinstance(low[name], list), done.stdout + done.stderr
        assert all(isinstance(chunk, dict) for chunk in low[name]), low[name]
        assert "planted" not in done.stdout + done.stderr + minion.written()
    return low


@pytest.mark.parametrize("chosen", CHOICES)
def test_it_can_be_applied_by_itself_and_names_only_states_that_it_brings_along(low: Low, chosen: str) -> None:
    states = low[chosen]
    assert [(chunk["__id__"], *named) for chunk in states for named in references(chunk) if not found(states, *named[1:])] == []
    order = [chunk["__id__"] for chunk in states]
    assert {"watch-runs", "status-expectations", "status-folder", "monitoring-settings"} <= set(order)
    # The folder of records has its owner and mode from the one place that says so, also where the droplet is bare.
    assert ("folder-/var/lib/giggles", "app.folders") in {(chunk["__id__"], chunk["__sls__"]) for chunk in states}
    assert order.index("folder-/var/lib/giggles/records") < order.index("watch-runs")
    assert all(not chunk.get("makedirs") for chunk in states if str(chunk["name"]).startswith("/var/lib/giggles"))


def test_mail_leaves_only_where_somebody_is_written_to(low: Low) -> None:
    kept = {name: next(chunk for chunk in states if chunk["__id__"] == "mail-settings")["fun"] for name, states in low.items()}
    assert kept == {NOBODY: "absent", SOMEBODY: "managed", EVERYTHING: "managed"}


def test_uptimerobot_is_kept_where_it_is_enabled(low: Low) -> None:
    kept = {name: any(chunk["__id__"] == "uptimerobot-monitors-exact" for chunk in states) for name, states in low.items()}
    assert kept == {NOBODY: False, SOMEBODY: False, EVERYTHING: True}


def test_everything_with_a_secret_is_for_root_alone_and_shows_no_changes(low: Low) -> None:
    kept = {"/etc/msmtprc", "/etc/giggles/monitoring.json", "/etc/giggles/uptimerobot.json"}
    secret = [chunk for chunk in low[EVERYTHING] if chunk["name"] in kept]
    assert {chunk["name"] for chunk in secret} == kept
    for chunk in secret:
        assert (chunk["mode"], chunk["user"], chunk["show_changes"], chunk["follow_symlinks"]) == ("0600", "root", False, False)
