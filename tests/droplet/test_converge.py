"""Promise 1: an apply that has nothing to do does nothing, and looking changes nothing."""

from __future__ import annotations

import pytest

from .conftest import Droplet

CONCERNS = ["hardening", "app", "web", "nightly", "monitoring", "converge"]


def test_a_second_highstate_changes_nothing(droplet: Droplet) -> None:
    droplet.converge()
    again = droplet.converge()
    assert len(again.states) > 50, "this can only be meant if there were states to apply"
    assert again.changed == {}


def test_looking_right_after_an_apply_announces_nothing(droplet: Droplet) -> None:
    looked = droplet.apply("test=True")
    assert looked.code == 0, looked.failed
    assert looked.changed == {}


@pytest.mark.parametrize("concern", CONCERNS)
def test_a_concern_can_be_applied_alone(droplet: Droplet, concern: str) -> None:
    alone = droplet.apply(concern)
    assert alone.code == 0, alone.failed or alone.text
    assert alone.states
    assert alone.changed == {}


def test_the_app_answers_over_https(droplet: Droplet) -> None:
    answer = droplet.request(path="/api/health")
    assert answer.status == 200
    assert b"healthy" in answer.body
