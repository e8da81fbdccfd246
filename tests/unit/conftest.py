"""What tests of the vault need: a volume of their own, which is gone afterwards whatever happens; and a bucket for those of the backup."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gigglekit.files import draining
from gigglekit.release import handover, health, switching
from gigglekit.vault import adopt, holders

from tests.unit import postgres, release_droplet, vault_volume
from tests.unit.b2 import b2, b2_locked, b2_server  # noqa: F401 (fixtures for every test here)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare hundreds of killed runs the wait for programs that are held up; a test about those sets its own."""
    monkeypatch.setattr(adopt, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(adopt, "_STILL_SECONDS", 0.0)


class _OwnProcesses:
    """The proc file system as this session's processes have it: itself, and what it started."""

    def __init__(self) -> None:
        self._first = os.getpid()

    def iterdir(self) -> Iterator[Path]:
        waiting = [self._first]
        while waiting:
            process = Path("/proc") / str(waiting.pop())
            yield process
            for children in process.glob("task/*/children"):
                # It may have ended.
                with contextlib.suppress(OSError):
                    waiting += map(int, children.read_text().split())


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare hundreds of erasures a look at what every process of this machine has open; nobody else has files of these tests."""
    monkeypatch.setattr(holders.of_path, "__defaults__", (_OwnProcesses(),))


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare hundreds of killed runs the wait for their disk: what was written outlives a kill without it."""
    monkeypatch.setattr(draining, "sync", lambda _: None)


@pytest.fixture
def droplet() -> Iterator[vault_volume.Droplet]:
    """A droplet with an empty encrypted vault."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with vault_volume.droplet() as made:
        yield made


@pytest.fixture
def plain_droplet() -> Iterator[vault_volume.Droplet]:
    """A droplet whose kernel cannot encrypt folders."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with vault_volume.droplet(features="^encrypt") as made:
        made.places.configure("plain")
        made.keyring.create()
        made.receipts.prepare()
        for kind in ("clips", "audio", "temp"):
            (made.disk.place / kind).mkdir()
        yield made


@pytest.fixture
def a_disk() -> Iterator[vault_volume.Disk]:
    """A small unencrypted disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with vault_volume.base() as folder, vault_volume.disk(folder, features="^encrypt") as made:
        yield made


@pytest.fixture
def a_folder() -> Iterator[Path]:
    """An empty folder that any account can reach."""
    with vault_volume.base() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """A PostgreSQL server; each test makes databases of its own in it."""
    with postgres.cluster() as made:
        yield made


@pytest.fixture
def upstream(tmp_path: Path) -> release_droplet.Upstream:
    """A repository of the app that tests commit to."""
    return release_droplet.Upstream(tmp_path / "upstream")


@pytest.fixture
def releasing(tmp_path: Path, upstream: release_droplet.Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[release_droplet.Droplet]:
    """A droplet that releases the app of `upstream`."""
    # A child that is forked here to be killed has this process's connections open as well, and would wait for itself.
    monkeypatch.setattr(switching, "_DRAIN_SECONDS", 1.0)
    monkeypatch.setattr(handover, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(health, "_PAUSE", 0.02)
    made = release_droplet.Droplet(tmp_path, upstream)
    yield made
    made.close()
