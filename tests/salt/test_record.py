"""The returner through Salt's own loaders: which runs leave a record, and that no run fails over it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gigglekit.health.converge_run import OUTPUTTER

from .conftest import Minion


@pytest.fixture
def recording(minion: Minion, right: dict[str, Any]) -> Minion:
    """A minion with a pillar, whose runs are recorded in its own folder."""
    minion.answer(right)
    places = {"records": str(minion.folder / "records"), "last": str(minion.folder / "last.json")}
    minion.configure(**{"return": "giggles_record", "giggles_record": places})
    return minion


def records(minion: Minion) -> list[dict[str, Any]]:
    path = minion.folder / "records" / "converge.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids(entries: list[dict[str, str]]) -> list[str]:
    return [entry["id"] for entry in entries]


def test_each_run_of_states_is_recorded_and_nothing_else_is(recording: Minion) -> None:
    for quiet in (("test.ping",), ("state.apply", "test=True"), ("state.show_top",)):
        done = recording.call(*quiet)
        assert done.returncode == 0, done.stdout + done.stderr
        assert records(recording) == []
    assert recording.call("state.apply").returncode == 0
    recording.canary.unlink()
    assert recording.call("state.apply").returncode == 0
    first, second = records(recording)
    assert (first["ok"], ids(first["intended"]), ids(first["drift"])) == (True, ["canary-written"], [])
    assert (second["trigger"], ids(second["intended"]), ids(second["drift"])) == ("hand", [], ["canary-written"])
    assert recording.call("state.apply", "canary").returncode == 0
    assert [one["full"] for one in records(recording)] == [True, True, False]


def test_a_run_that_does_not_render_is_recorded_as_failed(recording: Minion) -> None:
    (recording.folder / "states" / "canary.sls").write_text("{{ no.such.thing }}\n")
    assert recording.call("state.apply").returncode != 0
    (only,) = records(recording)
    assert (only["ok"], only["failed"]) == (False, 1)
    assert "no" in only["failures"][0]["comment"]


def test_salt_has_the_outputter_that_the_self_converge_asks_for(recording: Minion) -> None:
    done = recording.call(f"--out={OUTPUTTER}", "--log-level=error", "state.apply")
    assert done.returncode == 0
    assert "outputter" not in done.stderr
    assert len(records(recording)) == 1


def test_a_record_that_cannot_be_written_fails_no_run(recording: Minion) -> None:
    (recording.folder / "records").write_text("in the way")
    done = recording.call("state.apply")
    assert done.returncode == 0
    assert "not recorded" in done.stdout + done.stderr
    assert recording.canary.exists()
