"""A migration runs once for each commit, after a dump, before the release goes live; if it fails, what is live stays."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from gigglekit.command import CommandTimeoutError, Outcome
from gigglekit.release import migration
from gigglekit.release.errors import MigrationError

from tests.unit.release_droplet import Droplet, Upstream

COMMAND = "migrate --to 'the newest'"
PROGRAM = """#!/bin/bash
echo "$PWD $1 $2 $SECRET_KEY" >> {told}
exec "$(dirname "$0")"/../../app/migrate
"""


class Boxed:
    """Stands in for `run`: does what systemd-run is asked to, without the sandbox, and keeps how it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.hangs = False

    def __call__(self, argv: Sequence[str], *, seconds: float) -> Outcome:
        if self.hangs:
            raise CommandTimeoutError("systemd-run took longer than 1 s")
        self.asked.append(list(argv))
        options = [word for word in argv if word.startswith("--") and argv.index(word) < 100]
        folder = next(word.partition("WorkingDirectory=")[2] for word in options if "WorkingDirectory=" in word)
        file = next(word.partition("EnvironmentFile=")[2] for word in options if "EnvironmentFile=/run/" in word)
        own = list(argv)[1:]
        while own[0].startswith("--"):
            own.pop(0)
        done = subprocess.run(
            ["bash", "-c", 'set -a; . "$0"; set +a; exec "$@"', file, *own], cwd=folder, capture_output=True, text=True, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def boxed(monkeypatch: pytest.MonkeyPatch) -> Boxed:
    made = Boxed()
    monkeypatch.setattr(migration, "run", made)
    return made


@pytest.fixture
def droplet(releasing: Droplet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Droplet:
    make_venv = releasing.make_venv

    def with_program(settings: object, layout: object, folder: Path) -> str:
        python = make_venv(settings, layout, folder)  # type: ignore[arg-type]
        program = folder / ".venv" / "bin" / "migrate"
        program.write_text(PROGRAM.format(told=tmp_path / "told"))
        program.chmod(0o755)
        return python

    monkeypatch.setattr(releasing, "make_venv", with_program)
    releasing.apply(releasing.plan("main").commit)
    releasing.hooks.dump = lambda: "20261130T020000Z"
    return releasing


def with_migration(upstream: Upstream, script: str = "exit 0") -> str:
    """Commit a release whose migration does that."""
    path = upstream.folder / "app" / "migrate"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return upstream.commit({})


def first_of(droplet: Droplet) -> str:
    live = droplet.layout.live()
    assert live is not None
    return live


def test_it_runs_in_the_new_release_with_its_environment_and_only_once(
    droplet: Droplet, upstream: Upstream, boxed: Boxed, tmp_path: Path
) -> None:
    first, second = first_of(droplet), with_migration(upstream)
    done = droplet.deploy(first, second, migration=COMMAND)
    assert "before it, the database was saved as 20261130T020000Z" in done.as_dict()["notes"][0]
    folder = droplet.layout.release(second) / "app"
    assert (tmp_path / "told").read_text() == f"{folder} --to the newest planted-secret-key\n"
    droplet.rollback(first)
    droplet.deploy(first, second, migration=COMMAND)
    assert len(boxed.asked) == 1
    assert migration.ran(droplet.layout, second) is not None
    droplet.deploy(second, migration="migrate --again x")
    # Nothing was to be released, so nothing ran.
    assert len(boxed.asked) == 1


def test_no_secret_is_among_its_arguments_and_its_file_is_gone(droplet: Droplet, upstream: Upstream, boxed: Boxed) -> None:
    droplet.deploy(first_of(droplet), with_migration(upstream), migration=COMMAND)
    assert "planted" not in " ".join(boxed.asked[0])
    assert not list(Path("/run").glob("giggles-migration.*"))


def test_one_that_fails_leaves_the_old_release_and_says_how_to_put_the_database_back(
    droplet: Droplet, upstream: Upstream, boxed: Boxed
) -> None:
    first = first_of(droplet)
    second = with_migration(upstream, 'echo "no column $SECRET_KEY" >&2; exit 7')
    with pytest.raises(MigrationError, match=r"exit code 7: no column .secret.*restore_database snapshot=20261130T020000Z") as caught:
        droplet.deploy(first, second, migration=COMMAND)
    assert "planted" not in str(caught.value)
    assert droplet.layout.live() == first
    assert droplet.releases == [first]
    assert not droplet.layout.journal.exists()
    with pytest.raises(MigrationError):
        droplet.deploy(first, second, migration=COMMAND)
    assert len(boxed.asked) == 2


def test_one_that_hangs_is_told(droplet: Droplet, upstream: Upstream, boxed: Boxed) -> None:
    boxed.hangs = True
    with pytest.raises(MigrationError, match="had not ended after"):
        droplet.deploy(first_of(droplet), with_migration(upstream), migration=COMMAND)


class _Killed(BaseException): ...


def _killed_during(droplet: Droplet, commit: str, boxed: Boxed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploy, and be gone while the migration runs: nothing of this process comes after that."""

    def run(argv: Sequence[str], *, seconds: float) -> Outcome:
        boxed(argv, seconds=seconds)
        raise _Killed

    with monkeypatch.context() as dying:
        dying.setattr(migration, "run", run)
        with pytest.raises(_Killed):
            droplet.deploy(first_of(droplet), commit, migration=COMMAND)


def test_one_that_was_killed_in_the_middle_runs_again_and_that_is_told_with_the_dump_from_before_it(
    droplet: Droplet, upstream: Upstream, boxed: Boxed, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = first_of(droplet), with_migration(upstream, "test ! -e ../../../fail")
    _killed_during(droplet, second, boxed, monkeypatch)
    assert migration.ran(droplet.layout, second) is None
    # Twice: the dump from before all of it is still the one that is named.
    droplet.hooks.dump = lambda: "20261130T030000Z"
    _killed_during(droplet, second, boxed, monkeypatch)
    (droplet.layout.root / "fail").touch()
    with pytest.raises(MigrationError, match=r"ended in the middle.*restore_database snapshot=20261130T020000Z"):
        droplet.deploy(first, second, migration=COMMAND)
    (droplet.layout.root / "fail").unlink()
    (note,) = droplet.deploy(first, second, migration=COMMAND).as_dict()["notes"]
    assert "ended in the middle" in note
    assert "restore_database snapshot=20261130T020000Z" in note
    assert len(boxed.asked) == 4
    droplet.rollback(first)
    assert "notes" not in droplet.deploy(first, second, migration=COMMAND).as_dict()
    assert len(boxed.asked) == 4


def test_one_that_outlived_its_deploy_is_waited_for(
    droplet: Droplet, upstream: Upstream, boxed: Boxed, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = first_of(droplet), with_migration(upstream)
    with monkeypatch.context() as running:
        running.setattr(migration, "ask", lambda argv, **_: (0 if "giggles-migration.service" in argv else 127, ""))
        with pytest.raises(MigrationError, match="is still running"):
            droplet.deploy(first, second, migration=COMMAND)
    assert boxed.asked == []
    droplet.deploy(first, second, migration=COMMAND)
    assert "--unit=giggles-migration" in boxed.asked[0]


def test_without_a_dump_nothing_runs_unless_that_was_chosen(droplet: Droplet, upstream: Upstream, boxed: Boxed) -> None:
    first, second = first_of(droplet), with_migration(upstream)
    droplet.hooks.dump = None
    with pytest.raises(MigrationError, match=r"there is no bucket.*giggles:app:migration_dump to false"):
        droplet.deploy(first, second, migration=COMMAND)

    def refused() -> str:
        raise MigrationError("The bucket is away.")

    droplet.hooks.dump = refused
    with pytest.raises(MigrationError, match="The bucket is away"):
        droplet.deploy(first, second, migration=COMMAND)
    assert boxed.asked == []
    assert first_of(droplet) == first
    done = droplet.deploy(first, second, migration=COMMAND, migration_dump=False)
    assert done.as_dict()["notes"] == ["The migration has run, and nothing was saved before it."]


def test_a_program_of_the_system_is_found_and_one_that_is_nowhere_is_named(droplet: Droplet, upstream: Upstream, boxed: Boxed) -> None:
    first = first_of(droplet)
    droplet.deploy(first, with_migration(upstream), migration="true")
    assert boxed.asked[0][-1].startswith("/")
    upstream.commit({"x": "y"})
    with pytest.raises(MigrationError, match="a-program-nowhere"):
        droplet.deploy(first, "main", migration="a-program-nowhere")


def test_a_damaged_note_means_that_it_runs_again(droplet: Droplet, upstream: Upstream, boxed: Boxed) -> None:
    first, second = first_of(droplet), with_migration(upstream)
    droplet.deploy(first, second, migration=COMMAND)
    droplet.rollback(first)
    droplet.layout.migrated.write_text('{"broken": ')
    droplet.deploy(first, second, migration=COMMAND)
    assert len(boxed.asked) == 2
