"""Before a release changes the database, a dump is in the bucket; if there is none, that is told in words of the release."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gigglekit.backup.errors import RefusedError
from gigglekit.operations import migrating, saving
from gigglekit.release.errors import MigrationError


class Droplet:
    """A droplet as far as this is concerned."""

    def __init__(self, saves_database: bool = True, database: object = "postgresql://…") -> None:
        self.saves_database = saves_database
        self._database = database

    def settings(self) -> Any:
        return SimpleNamespace(database=self.saves_database)

    def database(self) -> object:
        return self._database


def saves(monkeypatch: pytest.MonkeyPatch, act: Callable[[], dict[str, Any]]) -> None:
    monkeypatch.setattr(saving, "sync", lambda droplet, *, seconds: act())


def test_the_snapshot_that_has_the_dump_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # A problem with a clip is none of the database's.
    saves(monkeypatch, lambda: {"snapshot": "20261130T020000Z-00", "problems": ["One clip could not be read."]})
    assert migrating.save(Droplet()) == "20261130T020000Z-00"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("done", "words"),
    [
        ({"snapshot": "20261130T020000Z-00", "problems": ["The clips were saved, and the database was not: it is away."]}, "it is away:?"),
        ({"snapshot": "", "problems": []}, "has stored nothing"),
    ],
)
def test_without_a_dump_nothing_is_migrated(monkeypatch: pytest.MonkeyPatch, done: dict[str, Any], words: str) -> None:
    saves(monkeypatch, lambda: done)
    with pytest.raises(MigrationError, match=rf"{words}.*giggles:app:migration_dump to false"):
        migrating.save(Droplet())  # type: ignore[arg-type]


def test_a_backup_that_is_refused_or_leaves_the_database_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> dict[str, Any]:
        raise RefusedError("There is no recovery kit yet; make it first: salt-call giggles.recovery_kit")

    saves(monkeypatch, refused)
    with pytest.raises(MigrationError, match=r"no recovery kit yet.*was left as it is, and so was the database") as caught:
        migrating.save(Droplet())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    with pytest.raises(MigrationError, match="leaves the database out"):
        migrating.save(Droplet(saves_database=False))  # type: ignore[arg-type]


def test_a_snapshot_of_clips_alone_is_not_taken_for_one_that_has_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    saves(monkeypatch, lambda: {"snapshot": "20261130T020000Z-00", "problems": []})
    with pytest.raises(MigrationError, match=r"no database is configured \(giggles:secrets:app:DATABASE_URL\)"):
        migrating.save(Droplet(database=None))  # type: ignore[arg-type]
