"""Every sls renders, and every requisite finds its state, on each operating system that bootstrap.sh accepts.

Ubuntu cannot be booted where this is tested, so this is what is known of it: the whole highstate is compiled by Salt with
the grains of Ubuntu 22.04 and 24.04, and its requisites are resolved. What Debian does is shown by a booted droplet.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import right_settings

from .conftest import REPOSITORY, Minion

GRAINS = {
    "Debian 12": {"os": "Debian", "osrelease": "12", "osmajorrelease": 12, "oscodename": "bookworm"},
    "Debian 13": {"os": "Debian", "osrelease": "13", "osmajorrelease": 13, "oscodename": "trixie"},
    "Ubuntu 22.04": {"os": "Ubuntu", "osrelease": "22.04", "osmajorrelease": 22, "oscodename": "jammy"},
    "Ubuntu 24.04": {"os": "Ubuntu", "osrelease": "24.04", "osmajorrelease": 24, "oscodename": "noble"},
}
REQUISITES = ("require", "watch", "onchanges", "onfail", "prereq", "listen", "require_any", "watch_any", "onchanges_any", "onfail_any")


BUCKET = {"bucket": "giggles-backup", "endpoint": "https://s3.eu-central-003.backblazeb2.com", "region": "eu-central-003"}
APPLICATION_KEY = {"key_id": "0031a2b3c4d5e6f0000000001", "application_key": "K003planted0application0key0abc"}


# Asked for the administrator's second factor, which this machine has not.
HAS_EVERY_FILE = "def file_exists(path):\n    return True\n\n\ndef path_exists_glob(path):\n    return True\n"


@pytest.fixture(scope="module", params=[(system, much) for system in GRAINS for much in (True, False)], ids=str)
def chunks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The low chunks of the highstate, as Salt would run them in order: of each system, with a bucket and a second factor and without."""
    system, much = request.param
    folder = tmp_path_factory.mktemp("minion")
    minion = Minion(folder, folder / "canary")
    minion.droplet_file.parent.mkdir()
    settings = right_settings()
    if much:
        settings["backup"] = BUCKET
        settings["secrets"]["backup"] = APPLICATION_KEY
        settings["delivery"] = {"mode": "receive"}
        settings["secrets"]["delivery"] = {"key": bytes(range(32)).hex()}
        settings["hardening"] = {"ssh_second_factor": True}
        (folder / "modules/_modules").mkdir(parents=True)
        (folder / "modules/_modules/file.py").write_text(HAS_EVERY_FILE)
    minion.answer(settings)
    minion.configure(
        file_roots={"base": [str(REPOSITORY / "salt")]},
        module_dirs=[str(folder / "modules"), str(REPOSITORY)],
        grains={"giggles_environment": "production", "os_family": "Debian", "virtual": "kvm", **GRAINS[system]},
    )
    done = minion.call("--out=json", "--log-level=error", "state.show_lowstate")
    low = json.loads(done.stdout or "{}").get("local")
    assert isinstance(low, list), low or done.stderr
    assert all(isinstance(chunk, dict) for chunk in low), low
    return low


def references(chunk: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (requisite, state module or `id` or `sls`, what it names) of one chunk."""
    for requisite in REQUISITES:
        for entry in chunk.get(requisite, []):
            if isinstance(entry, str):
                yield requisite, "id", entry
            else:
                yield from ((requisite, kind, name) for kind, name in entry.items())


def found(low: list[dict[str, Any]], kind: str, name: str) -> bool:
    """Tell whether a requisite names a state of the run, by Salt's rules: its ID or its name, globs allowed."""
    if kind == "sls":
        return any(fnmatch.fnmatch(chunk["__sls__"], name) for chunk in low)
    return any(
        (kind in ("id", chunk["state"])) and (fnmatch.fnmatch(chunk["__id__"], name) or fnmatch.fnmatch(str(chunk["name"]), name))
        for chunk in low
    )


def test_the_highstate_compiles_and_holds_every_concern(chunks: list[dict[str, Any]]) -> None:
    concerns = {chunk["__sls__"].split(".")[0] for chunk in chunks}
    assert concerns == {"common", "hardening", "vault", "app", "delivery", "web", "nightly", "backup", "monitoring", "converge"}


def test_without_a_mail_address_the_droplet_looks_at_itself_all_the_same(chunks: list[dict[str, Any]]) -> None:
    states = {chunk["__id__"]: chunk for chunk in chunks}
    assert states["mail-settings"]["fun"] == "absent"
    assert "mail-client-installed" not in states
    assert states["watch-runs"]["units"] == ["giggles-watch.timer", "giggles-watch.path"]


def test_a_droplet_converges_by_itself(chunks: list[dict[str, Any]]) -> None:
    assert {"converge-timer-runs", "giggles-converge.service-installed"} <= {chunk["__id__"] for chunk in chunks}


def test_no_secret_is_in_what_salt_keeps_of_the_states(chunks: list[dict[str, Any]]) -> None:
    assert "planted" not in json.dumps(chunks)


def test_every_requisite_names_a_state_of_the_run(chunks: list[dict[str, Any]]) -> None:
    named = [(chunk["__id__"], *reference) for chunk in chunks for reference in references(chunk)]
    assert named, "a tree without any requisite would pass for nothing"
    assert [entry for entry in named if not found(chunks, entry[2], entry[3])] == []


def test_a_requisite_that_names_nothing_would_be_found(chunks: list[dict[str, Any]]) -> None:
    assert not found(chunks, "file", "nothing-has-this-name")


def test_a_second_factor_is_asked_for_only_where_it_was_chosen(chunks: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    _, much = request.node.callspec.params["chunks"]
    (asked,) = [chunk["lines"] for chunk in chunks if chunk["__id__"] == "ssh-asks-exactly"]
    assert ["pam_google_authenticator" in line for line in asked] == [much]
    (proof,) = [chunk for chunk in chunks if chunk["__id__"] == "login-proven"]
    assert proof["second_factor"] is much


def test_only_where_a_socket_starts_sshd_it_need_not_run(chunks: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    system, _ = request.node.callspec.params["chunks"]
    (runs,) = [chunk for chunk in chunks if chunk["__id__"] == "ssh-runs"]
    assert (runs.get("socket"), runs.get("boot", True)) == (("ssh.socket", False) if system == "Ubuntu 24.04" else (None, True))


def test_no_state_id_is_used_in_two_places(chunks: list[dict[str, Any]]) -> None:
    places: dict[str, set[str]] = {}
    for chunk in chunks:
        places.setdefault(chunk["__id__"], set()).add(chunk["__sls__"])
    assert {name: found_in for name, found_in in places.items() if len(found_in) > 1} == {}
