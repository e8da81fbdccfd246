"""What is remembered of trial droplets that stand beside others."""

from __future__ import annotations

import datetime
import json
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "trial"))

from machinery import answers, errors, record, trial


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIGGLES_TRIAL_DIR", str(tmp_path))
    return tmp_path


def test_a_droplet_beside_another_has_its_neighbours_secrets_and_key_and_an_address_of_its_own() -> None:
    home = record.create("web", "bookworm")
    beside = record.create("night", "trixie", home)
    assert record.require("night") == beside
    assert beside.neighbours_port == home.neighbours_port
    assert beside.droplet_port.address != home.droplet_port.address
    assert (beside.database_password, beside.s3_secret_key) == (home.database_password, home.s3_secret_key)
    assert beside.home_place.private_key == home.place.private_key
    assert beside.domain != home.domain
    assert record.beside("web") == ["night"]
    assert record.beside("night") == []


def test_what_another_tree_of_this_project_wrote_is_read_and_what_this_one_writes_is_read_there(place: Path) -> None:
    home = record.create("web", "bookworm")
    record.create("night", "bookworm", home)
    for name in ("web", "night"):
        known = json.loads((place / "trials" / name / "trial.json").read_text())
        assert not {"beside", "roles", "neighbours_number"} & set(known)
    (place / "trials/web/part.json").unlink()
    assert record.require("web") == home


def test_its_roles_are_told_to_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    home = dataclasses.replace(record.create("web", "bookworm"), roles=("vault", "nightly"))
    home.save()
    home.place.private_key.with_suffix(".pub").write_text("ssh-ed25519 AAAA operator\n")
    told: dict[str, Any] = answers.pillar(record.require("web"))
    assert told["giggles"]["roles"] == ["vault", "nightly"]
    assert "roles" not in answers.pillar(dataclasses.replace(home, roles=()))["giggles"]


@pytest.mark.parametrize(
    ("name", "beside", "word"),
    [
        ("night2", "night", "--beside web"),
        ("web", "web", "stands alone"),
        ("night", "other", "stands beside web"),
        ("night2", "none", "no trial droplet"),
    ],
)
def test_who_cannot_stand_beside_whom_is_told(name: str, beside: str, word: str) -> None:
    record.create("night", "bookworm", record.create("web", "bookworm"))
    record.create("other", "bookworm")
    with pytest.raises(errors.TrialError, match=word):
        trial._home(name, trial.Wish(beside=beside))


def test_one_that_others_stand_beside_keeps_its_neighbours() -> None:
    record.create("night", "bookworm", record.create("web", "bookworm"))
    record.create("other", "bookworm")
    with pytest.raises(errors.TrialError, match="Others stand beside web"):
        trial._home("web", trial.Wish(beside="other", fresh=True))
    assert trial._home("night", trial.Wish()) == record.require("web"), "begun again, it stands where it stood"


def test_nothing_that_comes_at_night_comes_while_a_trial_is_young() -> None:
    for hour in range(24):
        made = 1_800_000_000 // 86400 * 86400 + hour * 3600 + 3599
        there = datetime.datetime.fromtimestamp(made, zoneinfo.ZoneInfo(answers.quiet_zone(made)))
        assert 7 < there.hour < 16, f"it is {there:%H:%M} in the trial that was made at {hour}:59 UTC"
