"""A tree that was somebody else's is taken back whole, and what was planted in it leads root nowhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from gigglekit.release import custody
from gigglekit.release.errors import BuildError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")

OTHER = 65534


def look(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    root = tmp_path / ".venv"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!")
    (root / "bin" / "tool").chmod(0o4777)
    (root / "module.py").write_text("")
    (root / "lib64").symlink_to("lib")
    custody.transfer(root, 0, OTHER, OTHER)
    return root


def test_it_is_given_away_and_taken_back_with_links_themselves(environment: Path) -> None:
    assert {look(path)[:2] for path in [environment, *environment.rglob("*")]} == {(OTHER, OTHER)}
    (environment / "bin" / "tool").chmod(0o6777)
    (environment / "bin").chmod(0o1777)
    custody.transfer(environment, OTHER, 0, 0)
    assert {look(path)[:2] for path in [environment, *environment.rglob("*")]} == {(0, 0)}
    assert look(environment / "bin" / "tool")[2] == 0o755
    assert look(environment / "bin")[2] == 0o755
    assert look(environment / "module.py")[2] == 0o644


def test_what_a_link_leads_to_stays_as_it_is(environment: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "shadow").write_text("s")
    (outside / "shadow").chmod(0o600)
    os.chown(outside, 1, 1)
    before = look(outside), look(outside / "shadow")
    for name in ("outside", "outside/shadow"):
        link = environment / name.replace("/", "-")
        link.symlink_to(tmp_path / name)
        os.lchown(link, OTHER, OTHER)
    custody.transfer(environment, OTHER, 0, 0)
    assert (look(outside), look(outside / "shadow")) == before


@pytest.mark.parametrize("plant", ["foreign", "second name", "fifo", "deep"])
def test_what_no_package_brings_is_refused_and_named(environment: Path, tmp_path: Path, plant: str) -> None:
    planted = environment / "planted"
    if plant == "foreign":
        planted.write_text("")
        os.chown(planted, 1, 1)
    elif plant == "second name":
        other = tmp_path / "other"
        other.write_text("")
        os.chown(other, OTHER, OTHER)
        os.link(other, planted)
    elif plant == "fifo":
        os.mkfifo(planted)
        os.chown(planted, OTHER, OTHER)
    else:
        planted = environment / "/".join(["planted"] + ["d"] * 80)
        planted.mkdir(parents=True)
        for where, _, _ in os.walk(environment):
            os.chown(where, OTHER, OTHER)
    with pytest.raises(BuildError, match="planted"):
        custody.transfer(environment, OTHER, 0, 0)


def test_a_link_in_place_of_the_tree_is_not_followed(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(environment)
    with pytest.raises(OSError, match="link"):
        custody.transfer(tmp_path / "link", OTHER, 0, 0)
    assert look(environment)[:2] == (OTHER, OTHER)
