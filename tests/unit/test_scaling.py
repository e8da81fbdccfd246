"""The arithmetic of docs/SCALING.md: it adds up, more users never need less, and the document holds what it says."""

from __future__ import annotations

import importlib.util
import math
import sys
import uuid
from types import ModuleType
from typing import Any

import pytest
from gigglekit.fleet import sharding
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", REPOSITORY / "bench/scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass asks for the module by name.
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


scaling: Any = load()
USERS = st.integers(1, 20_000_000)
CASE = st.sampled_from(scaling.CASES)


def test_the_document_holds_what_the_arithmetic_prints() -> None:
    assert scaling.tables() in (REPOSITORY / "docs/SCALING.md").read_text(encoding="utf-8"), "run bench/scaling.py, and put it there"


def test_every_assumption_is_in_order_and_says_where_it_comes_from() -> None:
    assert len({each.key for each in scaling.ASSUMPTIONS}) == len(scaling.ASSUMPTIONS)
    for each in scaling.ASSUMPTIONS:
        assert each.low <= each.likely <= each.high, each.key
        assert each.kind in scaling.KINDS, each.key
        assert each.source, each.key
        if each.kind == "measured":
            assert (REPOSITORY / each.source.split(",")[0]).is_file(), each.source


@given(USERS, USERS, CASE)
@settings(max_examples=200, deadline=None)
def test_more_users_never_need_less(one: int, another: int, name: str) -> None:
    few, many = (scaling.needed(users, scaling.case(name)) for users in sorted((one, another)))
    for key in set(few) - {"usd_each", "hours", "shard", "backup_minutes", "unlock_seconds"}:
        assert few[key] <= many[key] * (1 + 1e-9), key


@given(USERS)
@settings(max_examples=100, deadline=None)
def test_the_likely_case_lies_between_the_others(users: int) -> None:
    low, likely, high = (scaling.needed(users, scaling.case(name)) for name in scaling.CASES)
    for key in ("active", "nightly", "web", "droplets", "clips", "disk_tb", "bucket_tb", "database_gb", "uploads", "lists", "usd"):
        assert low[key] <= likely[key] <= high[key], key


@given(USERS, CASE)
@settings(max_examples=200, deadline=None)
def test_every_night_ends_in_time_with_the_fewest_droplets(users: int, name: str) -> None:
    chosen = scaling.case(name)
    found = scaling.needed(users, chosen)
    assert found["hours"] <= chosen["window"]
    # All work of the night is done by somebody.
    assert found["nightly"] * found["shard"] >= found["active"] * (1 - 1e-9)
    assert found["nightly_even"] <= found["nightly"]
    fewer = found["nightly"] - 1
    if fewer:
        assert scaling.largest_shard(found["active"], fewer) * chosen["seconds"] > chosen["window"] * 3600


@given(USERS, CASE)
@settings(max_examples=100, deadline=None)
def test_the_bill_is_the_sum_of_its_parts(users: int, name: str) -> None:
    found = scaling.needed(users, scaling.case(name))
    assert math.isclose(found["usd"], sum(found[key] for key in found if key.startswith("usd_") and key != "usd_each"))
    assert math.isclose(found["usd_each"] * users, found["usd"])
    assert found["droplets"] in (1, found["nightly"] + found["web"])


@pytest.mark.parametrize("droplets", [1, 2, 4, 6])
def test_the_fullest_shard_is_what_hashing_really_gives(droplets: int) -> None:
    names = [f"night-{number}" for number in range(droplets)]
    users = [str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for number in range(10_000)]
    shards = sharding.shards(names, users)
    assert sorted(user for shard in shards.values() for user in shard) == sorted(users), "everybody is processed once"
    fullest = max(map(len, shards.values()))
    assert len(users) / droplets <= fullest <= scaling.largest_shard(len(users), droplets) * 1.02


def test_clips_travel_only_between_droplets() -> None:
    chosen = scaling.case("likely")
    users = scaling.one_droplet(chosen)["users"]
    assert scaling.needed(users, chosen)["downloads"] == 0
    many = scaling.needed(10 * users, chosen)
    assert many["downloads"] == many["active"] * chosen["clips"] * chosen["deliveries"]


def test_one_droplet_is_enough_for_as_many_as_it_says_and_for_no_more() -> None:
    for name in scaling.CASES:
        chosen = scaling.case(name)
        users = scaling.one_droplet(chosen)["users"]
        assert scaling.needed(users, chosen)["nightly"] == 1
        # The share of users who are active makes halves of people.
        assert scaling.needed(users + math.ceil(1 / chosen["active"]), chosen)["nightly"] > 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (0.0456, "0.046"), (44.6, "45"), (2412, "2,400"), (12_345, "12 k"), (43_800_000, "44 m"), (4.38e10, "44 bn")],
)
def test_numbers_are_shown_with_two_digits(value: float, text: str) -> None:
    assert scaling.shown(value) == text
