"""Whose nightly job processes which user: rendezvous hashing by its published construction, and what it promises."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from gigglekit.fleet import sharding
from hypothesis import given, settings
from hypothesis import strategies as st

from .postgres import Cluster, cluster

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True), min_size=1, max_size=8, unique=True)
USERS = st.lists(st.uuids(version=4).map(str), max_size=60, unique=True)
TEN_THOUSAND = [str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4)) for seed in range(10_000)]  # noqa: S311


def night(number: int) -> list[str]:
    """Return the names of so many droplets."""
    return [f"night{one}" for one in range(1, number + 1)]


VECTORS = {
    "00000000-0000-4000-8000-000000000000": "night3",
    "00000000-0000-4000-8000-000000000001": "night3",
    "00000000-0000-4000-8000-000000000002": "night1",
    "00000000-0000-4000-8000-000000000003": "night3",
    "00000000-0000-4000-8000-000000000004": "night2",
    "6f1c3d1a-58e5-4b7a-9a52-2f1b7a1f0c11": "night1",
}
"""Found without Python: `printf 'night1\n00000000-…' | sha256sum` for each name, and of the three the highest."""


@pytest.mark.parametrize("user", VECTORS)
def test_the_vectors(user: str) -> None:
    assert sharding.owner(night(3), user) == VECTORS[user]


def test_a_weight_is_what_sha256sum_says_of_name_and_user() -> None:
    weight = sharding.weight("night3", "00000000-0000-4000-8000-000000000000")
    assert weight.hex() == "e8baec546bb57228c03f6f354c6cc6da600e7bf23430f0f0c9aacdb18b471549"


@settings(max_examples=150, deadline=None)
@given(NAMES, USERS, st.randoms())
def test_everybody_has_one_droplet_whatever_the_order(names: list[str], users: list[str], chance: random.Random) -> None:
    shards = sharding.shards(names, users)
    assert sorted(user for shard in shards.values() for user in shard) == sorted(users)
    mixed = list(names)
    chance.shuffle(mixed)
    assert sharding.shards(mixed, users) == shards


@settings(max_examples=150, deadline=None)
@given(NAMES, USERS)
def test_one_more_takes_only_its_own_and_one_less_gives_only_its_own(names: list[str], users: list[str]) -> None:
    *before, new = [*names, "one-more"]
    for user in users:
        old, now = sharding.owner(before, user), sharding.owner([*before, new], user)
        assert now in (old, new)
        for gone in before[:-1]:
            left = sharding.owner([name for name in before if name != gone], user)
            assert left == old or old == gone


@pytest.mark.parametrize("number", [2, 3])
def test_of_ten_thousand_users_the_largest_shard_is_within_five_percent_of_even(number: int) -> None:
    sizes = [len(shard) for shard in sharding.shards(night(number), TEN_THOUSAND).values()]
    assert sum(sizes) == len(TEN_THOUSAND)
    assert max(sizes) <= 1.05 * len(TEN_THOUSAND) / number, sizes


def test_of_more_droplets_the_largest_shard_is_what_chance_makes_it() -> None:
    largest = {
        number: max(map(len, sharding.shards(night(number), TEN_THOUSAND).values())) * number / len(TEN_THOUSAND) - 1
        for number in (2, 3, 4, 6, 8, 12, 16)
    }
    print({number: f"{100 * share:.1f} %" for number, share in largest.items()})
    for number, share in largest.items():
        # Four times what independent throws deviate by.
        assert share < 4 * (number / len(TEN_THOUSAND)) ** 0.5


def test_who_contends_now() -> None:
    names = night(4)
    assert sharding.contenders(names, "night1", ["night1", "night2"], ["night1", "night2", "night3"], True) == [
        "night1",
        "night2",
        "night4",
    ]
    assert sharding.contenders(names, "night1", ["night1", "night2"], ["night1", "night2", "night3"], False) == ["night1", "night2"]
    assert sharding.contenders(names, "stranger", [], [], False) == ["stranger"]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_the_database_comes_to_the_same_answer(server: Cluster) -> None:
    query = f"SELECT u::text, {sharding.WEIGHED.format(droplets='%s::text[]', user='u')} FROM unnest(%s::uuid[]) AS u"  # noqa: S608
    with psycopg.connect(server.admin) as connection:
        for number in (1, 2, 3, 7):
            names = [*night(number), "Zoë", "a.b-c"]
            found = dict(connection.execute(query.encode(), (names, TEN_THOUSAND[:500])).fetchall())
            assert found == {user: sharding.owner(names, user) for user in TEN_THOUSAND[:500]}
