"""A droplet that has some of the roles: its states stand by themselves, and what other droplets do is not done here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import right_settings

from .conftest import REPOSITORY, Minion
from .test_rendering import APPLICATION_KEY, BUCKET, GRAINS, found, references

FLEET = {
    "web": ["hardening", "vault", "app", "web", "backup", "monitoring", "converge"],
    "night": ["hardening", "vault", "app", "nightly", "monitoring", "converge"],
    "store": ["hardening", "vault", "backup", "monitoring", "converge"],
    "night of three roles": ["vault", "app", "nightly"],
    "store of two roles": ["vault", "backup"],
}


@pytest.fixture(scope="module", params=FLEET)
def droplet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[dict[str, Any]]]:
    """The roles, and the states as Salt would run them."""
    folder = tmp_path_factory.mktemp("minion")
    minion = Minion(folder, folder / "canary")
    minion.droplet_file.parent.mkdir()
    settings = right_settings()
    settings.update(roles=FLEET[request.param], backup=BUCKET)
    settings["secrets"]["backup"] = APPLICATION_KEY
    minion.answer(settings)
    grains = {"giggles_environment": "production", "os_family": "Debian", "virtual": "kvm", **GRAINS["Debian 12"]}
    minion.configure(file_roots={"base": [str(REPOSITORY / "salt")]}, grains=grains)
    done = minion.call("--out=json", "--log-level=error", "state.show_lowstate")
    low = json.loads(done.stdout or "{}").get("local")
    assert isinstance(low, list), low or done.stderr
    assert all(isinstance(chunk, dict) for chunk in low), low
    return FLEET[request.param], low


def test_every_requisite_finds_its_state(droplet: tuple[list[str], list[dict[str, Any]]]) -> None:
    _, low = droplet
    missing = [
        (chunk["__id__"], requisite, kind, name)
        for chunk in low
        for requisite, kind, name in references(chunk)
        if not found(low, kind, name)
    ]
    assert missing == []


def test_the_firewall_opens_what_the_roles_need(droplet: tuple[list[str], list[dict[str, Any]]]) -> None:
    roles, low = droplet
    rules = [rule for chunk in low if chunk["state"] == "ufw" for rule in chunk["rules"]]
    expected = {22, 80, 443} if "web" in roles else {22}
    assert {rule["port"] for rule in rules} == (expected if "hardening" in roles else set())


def test_a_role_that_is_not_there_does_no_work(droplet: tuple[list[str], list[dict[str, Any]]]) -> None:
    roles, low = droplet
    gone = {chunk["__id__"].removesuffix("-units-gone") for chunk in low if chunk["__id__"].endswith("-units-gone")}
    assert gone == {"nightly", "web", "backup", "monitoring", "converge"} - set(roles)
    removed = {unit for chunk in low if chunk["__id__"].endswith("-units-gone") for unit in chunk["units"]}
    kept = {unit for chunk in low if (chunk["state"], chunk["fun"]) == ("units", "running") for unit in chunk.get("units", [chunk["name"]])}
    written = {chunk["name"] for chunk in low if (chunk["state"], chunk["fun"]) == ("file", "managed")}
    assert not removed & kept
    assert not [unit for unit in removed if f"/etc/systemd/system/{unit}" in written]
    packages = {str(name) for chunk in low if chunk["state"] == "pkg" for name in chunk.get("pkgs", [chunk["name"]])}
    assert ("nginx" in packages) == ("web" in roles)
    assert ("/etc/cron.d/giggles-nightly" in written) == ("nightly" in roles)


def test_nothing_of_a_fleet_is_there_on_a_droplet_that_nobody_tells_what_to_be(droplet: tuple[list[str], list[dict[str, Any]]]) -> None:
    _, low = droplet
    assert not [chunk["__id__"] for chunk in low if chunk["__sls__"] == "common.pushed"]


def test_without_nginx_nothing_is_to_be_stopped(droplet: tuple[list[str], list[dict[str, Any]]]) -> None:
    roles, low = droplet
    expected = "web" not in roles and Path("/usr/sbin/nginx").exists()
    assert ("nginx-does-not-run" in {chunk["__id__"] for chunk in low}) == expected
