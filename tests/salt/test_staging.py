"""The same tree beside production: what a staging droplet has otherwise, and that production has none of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from gigglekit.health.expected import of_settings
from gigglekit.settings.schema import defaults

from tests.conftest import right_settings

from .conftest import REPOSITORY, Minion
from .test_rendering import APPLICATION_KEY, BUCKET, GRAINS, found, references

SITE = "web/files/etc/nginx/sites-available/giggles"
NIGHTLY = "nightly/files/etc/systemd/system/giggles-nightly.service"
CONVERGE = "converge/files/etc/systemd/system/giggles-converge.service"
# As Salt renders: none of it is HTML.
JINJA = jinja2.Environment(keep_trailing_newline=True)  # noqa: S701
Low = list[dict[str, Any]]


def droplet(folder: Path, environment: str, **chosen: Any) -> Minion:
    """A droplet of one environment, with a bucket and UptimeRobot chosen for both, and what else is chosen for it."""
    minion = Minion(folder, folder / "canary")
    minion.droplet_file.parent.mkdir()
    settings = right_settings() | {"environment": environment, "backup": BUCKET} | chosen
    settings["secrets"] |= {"backup": APPLICATION_KEY, "monitoring": {"uptimerobot_key": "planted-uptimerobot-key"}}
    minion.answer(settings)
    grains = {"giggles_environment": environment, "os_family": "Debian", "virtual": "kvm", **GRAINS["Debian 12"]}
    minion.configure(file_roots={"base": [str(REPOSITORY / "salt")]}, grains=grains)
    return minion


def lowstate(minion: Minion) -> Low:
    done = minion.call("--out=json", "--log-level=error", "state.show_lowstate")
    low = json.loads(done.stdout or "{}").get("local")
    assert isinstance(low, list), done.stdout + done.stderr
    assert all(isinstance(chunk, dict) for chunk in low), low
    return low


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Low]:
    """The whole highstate of both environments; UptimeRobot is chosen for production alone, as the overlay of staging switches it off."""
    watched = {"monitoring": {"uptimerobot": {"enabled": True}}}
    return {
        "production": lowstate(droplet(tmp_path_factory.mktemp("production"), "production", **watched)),
        "staging": lowstate(droplet(tmp_path_factory.mktemp("staging"), "staging", web={"only_from": ["203.0.113.7"]})),
    }


def state(low: Low, identifier: str) -> dict[str, Any]:
    (chunk,) = [chunk for chunk in low if chunk["__id__"] == identifier]
    return chunk


def site(low: Low) -> str:
    """The nginx site as it is written on the droplet."""
    template = JINJA.from_string((REPOSITORY / "salt" / SITE).read_text(encoding="utf-8"))
    return template.render(state(low, "nginx-site-giggles")["context"])


def commands(service: str, chosen: dict[str, Any]) -> list[str]:
    """What a unit starts as its main program, as it is written on the droplet."""
    text = (REPOSITORY / "salt" / service).read_text(encoding="utf-8").partition("\n")[2].partition("{% include")[0]
    written = JINJA.from_string(text).render(giggles=chosen, grains={"id": "night1"}).replace("\\\n", "")
    return [line for line in written.splitlines() if line.startswith("ExecStart=")]


def test_every_requisite_of_a_staging_droplet_names_a_state_of_the_run(low: dict[str, Low]) -> None:
    staging = low["staging"]
    named = [(chunk["__id__"], *reference) for chunk in staging for reference in references(chunk)]
    assert named
    assert [entry for entry in named if not found(staging, entry[2], entry[3])] == []


def test_it_has_every_state_of_production_but_the_monitors_that_wake_somebody(low: dict[str, Low]) -> None:
    states = {name: {chunk["__id__"] for chunk in chunks} for name, chunks in low.items()}
    assert "uptimerobot-monitors-exact" in states["production"] - states["staging"]
    assert {name for name in states["production"] - states["staging"] if "uptimerobot" not in name} == set()
    assert states["staging"] <= states["production"]


def test_its_names_in_the_bucket_are_its_own(low: dict[str, Low]) -> None:
    prefixes = {name: state(chunks, "backup-settings")["context"]["choices"]["prefix"] for name, chunks in low.items()}
    assert prefixes == {"production": "", "staging": "staging/"}


def test_its_certificate_comes_from_the_staging_directory(low: dict[str, Low]) -> None:
    directories = {name: json.dumps(state(chunks, "certificate-issued")) for name, chunks in low.items()}
    assert "acme-staging-v02" in directories["staging"]
    assert "acme-staging" not in directories["production"]


def test_search_engines_are_asked_to_leave_it_alone_and_only_it(low: dict[str, Low]) -> None:
    assert site(low["staging"]).count('add_header X-Robots-Tag "noindex, nofollow, noarchive" always;') == 1
    assert "X-Robots-Tag" not in site(low["production"])


def test_only_chosen_addresses_and_the_droplet_itself_may_come_in(low: dict[str, Low]) -> None:
    lines = [line.strip() for line in site(low["staging"]).splitlines()]
    rules = [line for line in lines if line.startswith(("allow ", "deny "))]
    assert rules[:4] == ["allow 127.0.0.0/8;", "allow ::1;", "allow 203.0.113.7;", "deny all;"]
    # The authority's challenges are answered in another server block, before it.
    assert lines.index("location ^~ /.well-known/acme-challenge/ {") < lines.index("allow 127.0.0.0/8;")
    assert "allow " not in site(low["production"])


def test_status_and_alerts_know_that_it_is_staging(low: dict[str, Low]) -> None:
    for name in ("status-expectations", "monitoring-settings"):
        assert {environment: state(chunks, name)["context"]["choices"]["environment"] for environment, chunks in low.items()} == {
            "production": "production",
            "staging": "staging",
        }
    assert of_settings(defaults() | {"environment": "staging"}).environment == "staging"


@pytest.mark.parametrize("branch", [None, "production"])
def test_the_self_converge_follows_the_branch_that_was_chosen(branch: str | None) -> None:
    chosen = defaults()
    chosen["converge"]["branch"] = branch
    (command,) = commands(CONVERGE, chosen)
    assert command.endswith("converge_run --pull" + (" --branch production" if branch else ""))


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_the_nightly_job_says_whose_database_it_expects(environment: str) -> None:
    (command,) = commands(NIGHTLY, defaults() | {"environment": environment})
    assert command.endswith(f" --environment={environment}")


def test_staging_with_productions_place_in_the_bucket_is_refused(tmp_path: Path) -> None:
    minion = droplet(tmp_path, "staging", backup=BUCKET | {"prefix": ""})
    refused = minion.call("state.show_top")
    said = " ".join((refused.stdout + refused.stderr + minion.call("state.apply").stdout).split())
    assert "giggles:backup:prefix" in said
    assert "pillar/production.sls has the same" in said


def test_promote_is_refused_in_a_paragraph_off_staging(minion: Minion, right: dict[str, Any]) -> None:
    minion.answer(right)
    said = minion.call("giggles.promote")
    assert said.returncode != 0
    assert "This droplet is production, and only what ran on staging is promoted" in " ".join((said.stdout + said.stderr).split())
    assert "no number of hours" in minion.call("giggles.promote", "hours=soon").stderr
    assert "Traceback" not in said.stdout + said.stderr


def test_the_overlay_says_no_more_than_what_only_staging_chooses() -> None:
    chosen = yaml.safe_load((REPOSITORY / "pillar/staging.sls").read_text())["giggles"]
    assert "app" not in chosen, "what runs there is what production gets"
    assert "secrets" not in chosen
