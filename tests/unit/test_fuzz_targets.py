"""No bytes from the bucket make a parser do anything but refuse them by its own errors; tests/fuzz/run looks for longer."""

from __future__ import annotations

from typing import Any

import pytest
from gigglekit.crypto.chunked import DamagedError

from tests.fuzz.engine import REGRESSIONS, Target, attempt, fuzz
from tests.fuzz.targets import TARGETS

INPUTS = 3000


# Findings that are not repaired yet. Once one is, its test says so, and its line goes.
OPEN: dict[str, str] = {}


def marked(target: Target) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason=OPEN[target.name])] if target.name in OPEN else []
    return pytest.param(target, id=target.name, marks=marks)


@pytest.mark.parametrize("target", [marked(target) for target in TARGETS])
def test_nothing_breaks_a_parser(target: Target) -> None:
    outcome = fuzz(target, inputs=INPUTS)
    assert outcome.finding is None, outcome.finding
    # Otherwise nothing was looked at.
    assert outcome.inputs == INPUTS
    assert outcome.steps > 3


@pytest.mark.parametrize("target", [pytest.param(target, id=target.name) for target in TARGETS if target.name != "ledger"])
def test_every_parser_takes_what_is_right(target: Target) -> None:
    assert any(attempt(target, seed) == (True, None) for seed in target.seeds)


def test_every_regression_belongs_to_a_parser() -> None:
    assert {path.name for path in REGRESSIONS.iterdir()} <= {target.name for target in TARGETS}


# Controls: what is looked for is found, and what is allowed is not.


def reading_a_number(data: bytes) -> None:
    """Refuses what is short, and forgets that a letter is no number."""
    if len(data) < 4:
        raise DamagedError
    int(data[:4])


def test_a_parser_that_forgets_an_error_is_found_out() -> None:
    target = Target("control", reading_a_number, (DamagedError,), (b"0001",))
    outcome = fuzz(target, inputs=INPUTS)
    assert outcome.finding is not None
    assert isinstance(outcome.finding.error, ValueError)
    assert attempt(target, outcome.finding.data)[1] is not None
    assert attempt(target, b"") == (False, None)


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    def tried(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        fuzz(Target("control", seen.append, (), (b"seed", b"another")), seed, inputs=200)
        return seen

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_inputs_that_reach_further_are_gone_on_from() -> None:
    # Four bytes that each have to fit, one in sixteen: all at once is one in 65,536 for who changes just these, one after the other is soon
    # done.
    lines = ["def steps(data):", *(f"{'    ' * (n + 1)}if data[{n}:{n + 1}] and data[{n}] % 16 == {n + 5}:" for n in range(4))]
    source = "\n".join([*lines, "    " * 5 + "raise RuntimeError"])
    found = []
    # The engine follows the lines of gigglekit only.
    for place in ("gigglekit/control.py", "elsewhere/control.py"):
        scope: dict[str, Any] = {}
        exec(compile(source, place, "exec"), scope)  # noqa: S102
        target = Target("control", scope["steps"], (), (bytes(8),))
        found.append([fuzz(target, seed, inputs=20_000).finding is not None for seed in range(3)])
    assert found == [[True] * 3, [False] * 3]
