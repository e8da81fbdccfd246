"""The one place that decides what is wrong with a droplet. Pure: the same facts give the same judgement.

`giggles.status` and the page show every condition, giggles-watch mails those that are `mailed`; none of them judges by itself. What
cannot be found out is said to be unknown, and with something unknown not everything is all right.
"""

from __future__ import annotations

from collections.abc import Iterable

from gigglekit.health.expected import Expected
from gigglekit.health.facts import Facts
from gigglekit.health.judge import machine, runs
from gigglekit.health.judge.condition import LEVELS, Condition, Memory, Subject


def judge(facts: Facts, wanted: Expected, memory: Memory | None = None) -> list[Subject]:
    """Return everything that is looked at, in a fixed order, with what is wrong with it.

    Arguments:
        facts: the droplet at one moment.
        wanted: what it is meant to have, and the thresholds.
        memory: from earlier looks.
    """
    memory = memory or Memory()
    return [
        *machine.expectations(wanted),
        *machine.services(facts, wanted, memory),
        *runs.judged(facts, wanted, memory),
        *machine.second_factor(facts, wanted),
        *machine.vault(facts, wanted),
        *machine.disks(facts, wanted, memory),
        *machine.certificate(facts, wanted, memory),
        *machine.release(facts, wanted),
        *machine.restart(facts, wanted),
        *machine.alerts(facts, wanted, memory),
    ]


def conditions(subjects: Iterable[Subject]) -> list[Condition]:
    """Return what is wrong with all of them, the worst first."""
    return sorted((one for subject in subjects for one in subject.conditions), key=lambda one: LEVELS.index(one.level))
