"""The certbot states through Salt, with a certbot that issues at once, refuses, or counts how often it was started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "giggles.example.test"
DIRECTORY = "https://acme.example/directory"

# What certbot leaves on disk, made with openssl; `refuse` beside the script makes it say no.
FAKE = """#!/bin/bash
set -eu
cd "$(dirname "$0")"
echo "$@" >> started
if [ -e refuse ]; then echo 'An unexpected error occurred:'; cat refuse; exit 1; fi
for word; do
  case $word in --cert-name=*) name=${word#*=} ;; --server=*) server=${word#*=} ;; --webroot-path=*) webroot=${word#*=} ;; esac
done
if [ "$1" = delete ]; then rm -r config/*/$name config/renewal/$name.conf; exit; fi
names=() ; while [ $# -gt 0 ]; do [ "$1" != -d ] || names+=("$2"); shift; done
mkdir -p config/{live,archive}/$name config/renewal
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj "/CN=$name" \\
  -addext "subjectAltName=$(printf 'DNS:%s,' "${names[@]}" | sed 's/,$//')" \\
  -keyout config/archive/$name/privkey1.pem -out config/archive/$name/fullchain1.pem 2>/dev/null
cp config/archive/$name/fullchain1.pem config/archive/$name/cert1.pem
cp config/archive/$name/fullchain1.pem config/archive/$name/chain1.pem
for kind in cert chain fullchain privkey; do ln -sfn ../../archive/$name/${kind}1.pem config/live/$name/$kind.pem; done
printf '%s\\n' 'version = 5.8.0' '[renewalparams]' 'key_type = ecdsa' "server = $server" 'authenticator = webroot' \\
  "webroot_path = $webroot," > config/renewal/$name.conf
"""


class Machine:
    """The states as Salt's own loader hands them out, beside a fake certbot; no salt-call, which takes seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = {"id": "droplet", "root_dir": str(folder / "root"), "file_client": "local", "module_dirs": [str(REPOSITORY)]}
        (folder / "minion").write_text(json.dumps(settings), encoding="utf-8")
        self.loaded = {}
        for test in (False, True):
            options = salt.config.minion_config(str(folder / "minion"))
            options.update(grains={}, pillar={}, test=test)
            modules = salt.loader.minion_mods(options)
            self.loaded[test] = salt.loader.states(options, modules, salt.loader.utils(options), salt.loader.serializers(options))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    program = tmp_path / "certbot"
    program.write_text(FAKE)
    program.chmod(0o755)
    return Machine(tmp_path)


def state(machine: Machine, function: str, *, test: bool = False, **arguments: Any) -> dict[str, Any]:
    return machine.loaded[test][function](**arguments)


def certificate(machine: Machine, *, domains: str = NAME, directory: str = DIRECTORY, test: bool = False) -> dict[str, Any]:
    folder = machine.folder
    return state(
        machine, "certbot.certificate", name=NAME, domains=domains.split(","), directory=directory, webroot="/var/lib/acme",
        certbot=f"{folder}/certbot", config_dir=f"{folder}/config", work_dir=f"{folder}/work", logs_dir=f"{folder}/logs", test=test,
    )  # fmt: skip


def starts(machine: Machine) -> int:
    record = machine.folder / "started"
    return len(record.read_text().splitlines()) if record.exists() else 0


def test_certificate_is_announced_issued_and_then_left_alone(machine):
    announced = certificate(machine, test=True)
    assert announced["result"] is None
    assert announced["changes"]["requested"]["because"] == ["there is none yet"]
    assert starts(machine) == 0

    issued = certificate(machine)
    assert issued["result"] is True
    assert issued["changes"]["certificate"]["old"] is None
    assert issued["changes"]["certificate"]["new"]["domains"] == [NAME]
    assert "PRIVATE" not in str(issued)

    again = certificate(machine)
    assert again["result"] is True
    assert again["changes"] == {}
    assert certificate(machine, test=True)["result"] is True
    assert starts(machine) == 1, "certbot was started though nothing was to be done"


def test_other_names_and_another_authority_mean_another_certificate(machine):
    certificate(machine)
    more = certificate(machine, domains=f"{NAME},www.{NAME}")
    assert more["changes"]["certificate"]["new"]["domains"] == [NAME, f"www.{NAME}"]
    moved = certificate(machine, domains=f"{NAME},www.{NAME}", directory="https://other.example/directory")
    assert f"it came from {DIRECTORY}" in str(moved["changes"])
    assert moved["changes"]["certificate"]["new"]["server"] == "https://other.example/directory"
    assert starts(machine) == 3


def test_refusal_fails_with_one_paragraph_and_is_not_repeated_at_once(machine):
    (machine.folder / "refuse").write_text("too many certificates already issued, retry after 2099-01-01 00:00:00 UTC")
    refused = certificate(machine)
    assert refused["result"] is False
    assert refused["changes"] == {}
    assert "\n" not in refused["comment"]
    assert "too many certificates" in refused["comment"]
    assert "2099-01-01 00:00 UTC" in refused["comment"]

    for test in (False, True):
        waiting = certificate(machine, test=test)
        assert waiting["result"] is False
        assert "is not repeated before 2099-01-01 00:00 UTC" in waiting["comment"]
    assert starts(machine) == 1

    (machine.folder / "refuse").unlink()
    assert certificate(machine, directory="https://other.example/directory")["result"] is True
    assert not (machine.folder / "work/giggles-refusal.json").exists()


def test_a_certificate_that_is_issued_and_still_not_right_is_not_requested_at_every_converge(machine):
    # An authority hands out few certificates for the same names (Let's Encrypt: five in seven days).
    program = machine.folder / "certbot"
    program.write_text(FAKE.replace('server = $server"', 'server = https://elsewhere.example/directory"'))
    first = certificate(machine)
    assert first["result"] is False
    assert "still not right" in first["comment"]
    assert first["changes"]["certificate"]["new"]["domains"] == [NAME]
    for test in (False, True):
        again = certificate(machine, test=test)
        assert again["result"] is False
        assert "still not right" in again["comment"]
    assert starts(machine) == 1
    note = json.loads((machine.folder / "work/giggles-refusal.json").read_text())
    assert note["next_at"] - note["at"] > 7 * 24 * 3600 / 5


def test_refusal_keeps_the_certificate_that_is_there(machine):
    certificate(machine)
    before = (machine.folder / f"config/live/{NAME}/fullchain.pem").read_bytes()
    (machine.folder / "refuse").write_text("no")
    assert certificate(machine, domains=f"{NAME},www.{NAME}")["result"] is False
    assert (machine.folder / f"config/live/{NAME}/fullchain.pem").read_bytes() == before


def test_unused_certificates_are_removed_and_named(machine):
    certificate(machine)
    (machine.folder / "config/renewal/old.example.test.conf").touch()
    (machine.folder / "config/live/old.example.test").mkdir()
    announced = certificate(machine, test=True)
    assert announced["result"] is None
    assert announced["changes"] == {"removed": ["old.example.test"]}
    assert certificate(machine)["changes"] == {"removed": ["old.example.test"]}
    assert certificate(machine)["changes"] == {}
    assert (machine.folder / f"config/renewal/{NAME}.conf").exists()


def test_link_leads_to_the_placeholder_until_there_is_a_certificate(machine):
    folder = machine.folder
    link = {
        "name": f"{folder}/tls/current",
        "placeholder": f"{folder}/tls/placeholder",
        "certificate": NAME,
        "config_dir": f"{folder}/config",
    }
    assert state(machine, "certbot.linked", **link, test=True)["result"] is None
    assert not (folder / "tls").exists()
    assert state(machine, "certbot.linked", **link)["changes"] == {"old": None, "new": f"{folder}/tls/placeholder"}
    certificate(machine)
    assert state(machine, "certbot.linked", **link)["changes"] == {
        "old": f"{folder}/tls/placeholder",
        "new": f"{folder}/config/live/{NAME}",
    }
    assert state(machine, "certbot.linked", **link)["changes"] == {}
    (folder / f"config/archive/{NAME}/privkey1.pem").write_text("damaged")
    assert state(machine, "certbot.linked", **link)["changes"]["new"] == f"{folder}/tls/placeholder"


def test_placeholder_is_made_once_and_repaired(machine):
    place = machine.folder / "tls" / "placeholder"
    assert state(machine, "certbot.placeholder_present", name=str(place), test=True)["result"] is None
    assert not place.exists()
    made = state(machine, "certbot.placeholder_present", name=str(place))
    assert made["changes"]["because"] == ["fullchain.pem does not exist"]
    assert state(machine, "certbot.placeholder_present", name=str(place))["changes"] == {}
    (place / "privkey.pem").chmod(0o644)
    assert state(machine, "certbot.placeholder_present", name=str(place))["changes"] == {"modes": {f"{place}/privkey.pem": "0600"}}


def test_keys_that_others_can_read_are_closed_and_named(machine):
    folder = machine.folder / "letsencrypt"
    keys = {"config_dir": str(folder), "name": "keys-private"}
    assert state(machine, "certbot.keys_private", **keys)["changes"] == {}
    key, account = folder / "archive/site/privkey1.pem", folder / "accounts/authority/directory/one/private_key.json"
    for path, mode in {key: 0o644, account: 0o400}.items():
        path.parent.mkdir(parents=True)
        path.touch(mode)
    (folder / "archive").chmod(0o755)
    (folder / "accounts").chmod(0o700)
    looked = state(machine, "certbot.keys_private", test=True, **keys)
    assert looked["result"] is None
    assert set(looked["changes"]) == {str(folder / "archive"), str(key)}
    assert key.stat().st_mode & 0o777 == 0o644
    assert set(state(machine, "certbot.keys_private", **keys)["changes"]) == set(looked["changes"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert state(machine, "certbot.keys_private", **keys)["changes"] == {}


def test_installation_is_faithful_in_test_mode_and_failure_is_one_paragraph(machine):
    folder = machine.folder
    arguments = {"name": f"{folder}/opt", "lock": f"{folder}/certbot.txt", "version": "3.11", "uv": f"{folder}/uv"}
    assert state(machine, "certbot.installed", **arguments, test=True)["result"] is None
    (folder / "certbot.txt").write_text("certbot==5.8.0\n")
    assert "built" in state(machine, "certbot.installed", **arguments, test=True)["changes"]
    assert not (folder / "opt").exists()
    failed = state(machine, "certbot.installed", **arguments)
    assert failed["result"] is False
    assert "bootstrap.sh puts it there" in failed["comment"]
    assert "\n" not in failed["comment"]
