"""Units are asked about all at once, put right one by one, and left alone when they are right."""

from __future__ import annotations

import functools
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
        self.outdated: list[str] = []
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> str:
        if command[1] == "daemon-reload":
            self.ran.append("daemon-reload")
            return ""
        verb, names = command[1], command[command.index("--") + 1 :]
        if verb == "show":
            absent = ["not-found", "inactive", ""]
            block = "Id={}\nLoadState={}\nActiveState={}\nUnitFileState={}\nNeedDaemonReload={}\n"
            outdated = ["yes" if "daemon-reload" not in self.ran and name in self.outdated else "no" for name in names]
            return "\n".join(block.format(n, *self.known.get(n, absent), old) for n, old in zip(names, outdated, strict=True))
        self.ran.append(f"{verb} {' '.join(names)}")
        for name in names:
            state = self.known[name]
            if verb == "unmask":
                state[0], state[2] = "loaded", "disabled"
            elif verb == "enable":
                state[2] = "enabled"
            elif verb in {"start", "restart", "reload"}:
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


def load(test: bool, watched: bool = False) -> ModuleType:
    """Return the state module; with `watched`, in a run in which the file that the state watches has changed."""
    spec = importlib.util.spec_from_file_location("units_state", REPOSITORY / "_states" / "units.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    module.__low__ = {"watch": [{"file": "configuration"}]}  # type: ignore[attr-defined]
    state = {"__id__": "configuration", "name": "/etc/right", "changes": {"diff": "+"} if watched else {}}
    module.__running__ = {"file_|-configuration_|-/etc/right_|-managed": state}  # type: ignore[attr-defined]
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


def test_reloading_ends_nothing(systemd: Systemd) -> None:
    ret = load(test=True).mod_watch("right.service", sfun="running", reload=True)
    assert (ret["result"], ret["changes"]) == (None, {"right.service": {"old": "running", "new": "reloaded"}})
    assert systemd.ran == []
    ret = load(test=False).mod_watch("right.service", sfun="running", reload=True)
    assert ret["changes"] == {"right.service": {"old": "running", "new": "reloaded"}}
    assert systemd.ran == ["reload right.service"]


def test_what_is_only_enabled_again_reads_what_changed_meanwhile(systemd: Systemd) -> None:
    """Salt asks nothing more of a state that has changed something itself, whatever it watches."""
    ret = load(test=False, watched=True).running("disabled.service", reload=True)
    assert systemd.ran == ["enable disabled.service", "reload disabled.service"]
    assert ret["changes"] == {"disabled.service": {"old": "disabled, active", "new": "enabled, active, reloaded"}}
    systemd.known["disabled.service"][2], systemd.ran = "disabled", []
    load(test=False).running("disabled.service", reload=True)
    assert systemd.ran == ["enable disabled.service"]


def test_what_was_just_started_is_not_restarted_and_its_neighbours_are(systemd: Systemd) -> None:
    ret = load(test=False, watched=True).running("all", units=["right.service", "stopped.service"])
    assert systemd.ran == ["reset-failed stopped.service", "start stopped.service", "restart right.service"]
    assert set(ret["changes"]) == {"right.service", "stopped.service"}
    assert all(set(change) == {"old", "new"} for change in ret["changes"].values())


def test_what_a_socket_starts_is_unmasked_and_run_but_not_enabled(systemd: Systemd) -> None:
    systemd.known["ssh.service"] = ["masked", "inactive", "masked"]
    ret = load(test=False).running("ssh.service", boot=False)
    assert ret["result"] is True
    assert systemd.ran == ["unmask ssh.service", "unmask ssh.service", "start ssh.service"]
    assert load(test=False).running("ssh.service", boot=False)["changes"] == {}


def test_what_its_socket_will_start_is_right_while_nobody_needed_it(systemd: Systemd) -> None:
    systemd.known |= {"ssh.service": ["loaded", "inactive", "disabled"], "ssh.socket": ["loaded", "active", "enabled"]}
    for state in (load(test=False, watched=True), load(test=True, watched=True)):
        for run in (state.running, functools.partial(state.mod_watch, sfun="running")):
            ret = run("ssh.service", boot=False, reload=True, socket="ssh.socket")
            assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.ran == []


@pytest.mark.parametrize(
    ("service", "socket", "ran"),
    [
        # It reads its configuration again if it runs, and is brought back if it failed, or if nothing else would start it.
        (["loaded", "active", "disabled"], "active", ["reload ssh.service"]),
        (["loaded", "failed", "disabled"], "active", ["reset-failed ssh.service", "start ssh.service"]),
        (["loaded", "inactive", "disabled"], "inactive", ["start ssh.service"]),
        (["masked", "inactive", "masked"], "active", ["unmask ssh.service", "unmask ssh.service", "start ssh.service"]),
    ],
)
def test_what_its_socket_will_start_is_put_right_otherwise(systemd: Systemd, service: list[str], socket: str, ran: list[str]) -> None:
    systemd.known |= {"ssh.service": service, "ssh.socket": ["loaded", socket, "enabled"]}
    ret = load(test=False, watched=True).running("ssh.service", boot=False, reload=True, socket="ssh.socket")
    assert (ret["result"], systemd.ran) == (True, ran)
    assert set(ret["changes"]) == {"ssh.service"}


def test_nothing_is_asked_for_before_there_is_something_to_run(systemd: Systemd, tmp_path: Path) -> None:
    needed = tmp_path / "release"
    for ret in (
        load(test=False).running("stopped.service", needs=str(needed)),
        load(test=False).mod_watch("stopped.service", sfun="running", needs=str(needed)),
    ):
        assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.ran == []
    needed.touch()
    assert load(test=False).running("stopped.service", needs=str(needed))["changes"]


def test_a_unit_file_that_systemd_has_not_read_is_read_first(systemd: Systemd) -> None:
    systemd.outdated = ["stopped.service"]
    load(test=False).running("stopped.service")
    assert systemd.ran == ["daemon-reload", "reset-failed stopped.service", "start stopped.service"]
