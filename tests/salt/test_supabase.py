"""The second factor in the database through a real salt-call: announced, put in force, asked once a day, and no password shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.salt.conftest import Minion
from tests.unit.postgres import PASSWORD, Cluster, cluster, execute, rows
from tests.unit.test_database_policies import EVERYTHING, FACTORS

COUNT = "SELECT count(*) FROM pg_policies WHERE policyname = 'giggles_second_factor'"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


class Droplet:
    """A minion with a database, and what the state returns."""

    def __init__(self, minion: Minion, settings: dict[str, Any], server: Cluster) -> None:
        self.minion, self.settings = minion, settings
        self.notes = minion.folder / "notes" / "second_factor.json"
        self.name = server.app()
        self.admin, self.url = server.url(self.name), server.url(self.name, self.name)
        execute(self.url, FACTORS)
        self.use(f"postgresql://{self.name}:{quote(PASSWORD, safe='')}@localhost/{self.name}?host={quote(server.folder, safe='')}")

    def use(self, url: str) -> None:
        """Have the pillar name a database."""
        self.settings["secrets"]["app"]["DATABASE_URL"] = url
        self.minion.answer(self.settings)

    def state(self, enforced: str, *arguments: str) -> dict[str, Any]:
        """Run the state and return what it returned; the password is in nothing that anybody could read."""
        done = self.minion.call(
            "--out=json", "--log-level=debug", "state.single", "supabase.second_factor", "name=x", f"enforced='{enforced}'",
            f"notes={self.notes}", *arguments,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        for form in (PASSWORD, quote(PASSWORD, safe="")):
            assert form not in done.stdout + done.stderr + self.minion.written()
        (one,) = json.loads(done.stdout)["local"].values()
        return dict(one)


@pytest.fixture
def droplet(minion: Minion, right: dict[str, Any], server: Cluster) -> Iterator[Droplet]:
    made = Droplet(minion, right, server)
    yield made
    server.drop(made.name)


def test_it_is_announced_put_in_force_kept_and_taken_back(droplet: Droplet) -> None:
    announced = droplet.state("enrolled", "test=True")
    assert (announced["result"], announced["changes"]) == (None, EVERYTHING)
    assert rows(droplet.admin, COUNT) == [(0,)]
    assert not droplet.notes.exists()
    first = droplet.state("enrolled")
    assert (first["result"], first["changes"]) == (True, EVERYTHING), first["comment"]
    assert rows(droplet.admin, COUNT) == [(5,)]
    # Within a day it is not asked: what is changed meanwhile is found by the next look.
    execute(droplet.url, "DROP POLICY giggles_second_factor ON public.users")
    for arguments in ((), ("test=True",)):
        again = droplet.state("enrolled", *arguments)
        assert (again["result"], again["changes"]) == (True, {})
    noted = json.loads(droplet.notes.read_text())
    noted["policies"]["time"] = time.time() - 25 * 3600
    droplet.notes.write_text(json.dumps(noted))
    assert droplet.state("enrolled")["changes"] == {"policy on public.users": "made"}
    assert set(droplet.state("off")["changes"].values()) == {"removed"}
    assert rows(droplet.admin, COUNT) == [(0,)]
    assert droplet.state("off", "test=True")["changes"] == {}


def test_a_database_that_is_away_fails_only_what_was_never_in_force(droplet: Droplet, server: Cluster) -> None:
    droplet.use(f"postgresql://{droplet.name}:{quote(PASSWORD, safe='')}@127.0.0.1:1/x?connect_timeout=2")
    announced = droplet.state("all", "test=True")
    assert (announced["result"], announced["changes"]) == (None, {"database": "looked at"})
    assert droplet.state("all")["result"] is False
    told = droplet.state("off")
    assert (told["result"], told["changes"]) == (True, {})
    assert "127.0.0.1" in told["comment"]
    assert not droplet.notes.exists()


def test_what_is_no_choice_is_refused(droplet: Droplet) -> None:
    assert droplet.state("on")["result"] is False
