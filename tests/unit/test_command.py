"""A command has an end, leaves nothing behind, and one that cannot be run is told apart from one that failed."""

from __future__ import annotations

import time

import pytest
from gigglekit.command import CommandTimeoutError, Outcome, ask, run


def test_code_output_and_complaint_are_kept_apart() -> None:
    outcome = run(["sh", "-c", "echo said; echo complained >&2; exit 3"], seconds=10)
    assert (outcome.code, outcome.output, outcome.complaint) == (3, "said\n", "complained\n")
    assert ask(["sh", "-c", "echo said; echo complained >&2; exit 3"]) == (3, "said\ncomplained\n")


def test_a_command_reads_what_it_is_given_and_nothing_else() -> None:
    assert ask(["cat"], stdin="a rule\n") == (0, "a rule\n")
    assert ask(["cat"]) == (0, "")


def test_what_is_not_installed_and_what_does_not_end_are_told_in_words() -> None:
    assert ask(["no-such-program"]) == (127, "no-such-program is not installed")
    assert ask(["sleep", "60"], seconds=0.2)[0] == 124


def test_children_do_not_outlive_the_limit() -> None:
    begun = time.monotonic()
    with pytest.raises(CommandTimeoutError, match="took longer"):
        run(["sh", "-c", "sleep 60 & wait"], seconds=0.2)
    assert time.monotonic() - begun < 10


def test_the_surroundings_choose_no_interpreter_or_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("LD_PRELOAD_X", "/nowhere")
    assert run(["env"], seconds=10).output.count("/nowhere") == 0


@pytest.mark.parametrize(
    ("complaint", "told"),
    [
        ("warning: none\n  × Failed to fetch\n  ╰─▶ Hash mismatch\n      Expected:\n        a\n      Computed:\n        b\n",
         "Failed to fetch · Hash mismatch · Expected: · a · Computed: · b"),
        ("remote: hm\nfatal: unable to connect\n10.0.0.1: refused\nplease\ngo\n",
         "fatal: unable to connect · 10.0.0.1: refused · please · go"),
        ("one\ntwo\nthree\nfour\n", "two · three · four"),
    ],
)  # fmt: skip
def test_the_last_words_begin_with_the_first_error(complaint: str, told: str) -> None:
    assert Outcome(1, "", complaint).last_words == told
