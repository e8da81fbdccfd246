"""Units are asked about all at once, put right one by one, and left alone when they are right."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from gigglekit.systemd import units

REPOSITORY = Path(__file__).resolve().parents[2]


class Systemd:
    """Answers as systemctl does, for units given as {name: [load, active, file]}."""

    def __init__(self, **known: list[str]) -> None:
        self.known = {name.replace("_", "."): state for name, state in known.items()}
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> str:
        verb, names = command[1], command[command.index("--") + 1 :]
        if verb == "show":
            absent = ["not-found", "inactive", ""]
            return "\n".join("Id={}\nLoadState={}\nActiveState={}\nUnitFileState={}\n".format(n, *self.known.get(n, absent)) for n in names)
        self.ran.append(f"{verb} {' '.join(names)}")
        for name in names:
            state = self.known[name]
            if verb == "unmask":
                state[0], state[2] = "loaded", "disabled"
            elif verb == "enable":
                state[2] = "enabled"
            elif verb in {"start", "restart"}:
                state[1] = "active"
        return ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    fake = Systemd(
        right_service=["loaded", "active", "enabled"],
        masked_timer=["masked", "inactive", "masked"],
        stopped_service=["loaded", "failed", "enabled"],
        disabled_service=["loaded", "active", "disabled"],
    )
    monkeypatch.setattr(units, "_run", fake)
    return fake


def load(test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("units_state", REPOSITORY / "_states" / "units.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    return module


def test_what_is_right_is_left_alone(systemd: Systemd) -> None:
    ret = load(test=False).running("right.service")
    assert ret["result"] is True
    assert ret["changes"] == {}
    assert systemd.ran == []


def test_masked_stopped_and_disabled_units_are_put_right_and_named(systemd: Systemd) -> None:
    names = ["right.service", "masked.timer", "stopped.service", "disabled.service"]
    ret = load(test=False).running("all", units=names)
    assert ret["result"] is True
    assert {name: change["old"] for name, change in ret["changes"].items()} == {
        "masked.timer": "masked, inactive",
        "stopped.service": "enabled, failed",
        "disabled.service": "disabled, active",
    }
    assert "start masked.timer" in systemd.ran
    assert "reset-failed stopped.service" in systemd.ran
    assert "start disabled.service" not in systemd.ran
    assert load(test=False).running("all", units=names)["changes"] == {}


def test_looking_changes_nothing(systemd: Systemd) -> None:
    ret = load(test=True).running("all", units=["masked.timer", "right.service"])
    assert ret["result"] is None
    assert list(ret["changes"]) == ["masked.timer"]
    assert systemd.ran == []


def test_a_unit_not_there_yet_fails_in_earnest_but_not_when_looking(systemd: Systemd) -> None:
    assert load(test=True).running("absent.service")["result"] is None
    ret = load(test=False).running("absent.service")
    assert ret["result"] is False
    assert "There is no unit absent.service" in ret["comment"]


def test_a_change_in_what_is_watched_restarts_once(systemd: Systemd) -> None:
    names = ["right.service", "stopped.service"]
    ret = load(test=False).mod_watch("all", sfun="running", units=names)
    assert ret["result"] is True
    assert set(ret["changes"]) == set(names)
    assert systemd.ran == ["reset-failed stopped.service", "start stopped.service", "restart right.service"]


def test_enabling_does_not_start(systemd: Systemd) -> None:
    systemd.known["clock.service"] = ["loaded", "inactive", "disabled"]
    ret = load(test=False).enabled("clock.service")
    assert ret["result"] is True
    assert systemd.ran == ["enable clock.service"]
