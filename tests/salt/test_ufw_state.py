"""The ufw state: faithful under test=True, refusing in one paragraph, and silent when nothing is to be done."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from gigglekit.firewall.ufw import Firewall

from tests.unit.test_ufw_machinery import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = [{"action": "limit", "port": 22, "proto": "tcp"}, {"action": "allow", "port": 443, "proto": "tcp"}]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def load(machine: Machine, *, test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ufw_state", REPOSITORY / "_states" / "ufw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    module.machinery = type(  # type: ignore[attr-defined]
        "Machinery",
        (),
        {
            "Firewall": staticmethod(lambda: Firewall(machine.root, machine)),
            "Wish": module.machinery.Wish,
            "summary": staticmethod(module.machinery.summary),
        },
    )
    return module


def test_what_test_announces_is_what_happens_and_then_nothing(machine: Machine) -> None:
    announced = load(machine, test=True).exactly("firewall", RULES)
    assert announced["result"] is None
    assert machine.commands == []
    done = load(machine, test=False).exactly("firewall", RULES)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    for test in (True, False):
        again = load(machine, test=test).exactly("firewall", RULES)
        assert (again["result"], again["changes"]) == (True, {})


def test_on_a_bare_machine_test_announces_and_a_run_says_what_is_missing(machine: Machine) -> None:
    (machine.root / "usr/sbin/ufw").unlink()
    assert load(machine, test=True).exactly("firewall", RULES)["result"] is None
    ret = load(machine, test=False).exactly("firewall", RULES)
    assert ret["result"] is False
    assert "ufw is not installed" in ret["comment"]


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("rules", "why"),
    [(RULES[1:], "do not let anybody reach ssh"), ([*RULES, {"action": "open"}], "no known action")],
)
def test_wrong_rules_fail_before_anything_happens(machine: Machine, rules: list[dict[str, object]], why: str, test: bool) -> None:
    ret = load(machine, test=test).exactly("firewall", rules)
    assert ret["result"] is False
    assert why in ret["comment"]
    assert machine.commands == []


def test_what_ufw_refuses_fails_the_state(machine: Machine) -> None:
    machine.deaf = True
    ret = load(machine, test=False).exactly("firewall", RULES)
    assert ret["result"] is False
    assert "exit code 1" in ret["comment"]
