"""Drop-ins that nobody packaged are found wherever systemd would read them, and leave no empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from gigglekit.systemd import dropins


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dpkg/info").mkdir(parents=True)
    (tmp_path / "dpkg/info/ssh.list").write_text(f"{tmp_path}/etc/systemd/system/ssh-guard.service.d/packaged.conf\n")
    return tmp_path


def put(root: Path, path: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def test_a_unit_is_altered_by_its_own_folder_and_its_prefixes() -> None:
    assert dropins.folders("giggles-certbot.timer") == ["giggles-certbot.timer.d", "giggles-.timer.d"]
    assert dropins.folders("a-b-c.service") == ["a-b-c.service.d", "a-b-.service.d", "a-.service.d"]


@pytest.mark.parametrize("place", dropins.PLACES)
@pytest.mark.parametrize("folder", ["ssh-guard.service.d", "ssh-.service.d"])
def test_a_drop_in_is_found_in_every_place(root: Path, place: str, folder: str) -> None:
    file = put(root, f"{place}/{folder}/override.conf")
    put(root, f"{place}/cron.service.d/other.conf")
    put(root, "etc/systemd/system/ssh-guard.service.d/packaged.conf")
    assert dropins.find(["ssh-guard.service"], root, root / "dpkg") == [str(file)]


def test_removing_the_last_one_removes_its_folder_too(root: Path) -> None:
    first, second = (put(root, f"etc/systemd/system/ssh.service.d/{name}.conf") for name in "ab")
    dropins.remove(str(first))
    assert second.exists()
    dropins.remove(str(second))
    assert not second.parent.exists()


@pytest.mark.parametrize("place", dropins.PLACES)
def test_a_file_that_is_read_instead_of_a_packages_unit_is_found(root: Path, place: str) -> None:
    put(root, "lib/systemd/system/ssh.service")
    file = put(root, f"{place}/ssh.service")
    put(root, f"{place}/giggles-own.service")
    assert dropins.find(["ssh.service", "giggles-own.service"], root, root / "dpkg") == [str(file)]
    dropins.remove(str(file))
    assert file.parent.is_dir(), "systemd's own folders stay even when they are empty"
    assert dropins.find(["ssh.service"], root, root / "dpkg") == []


def test_a_mask_and_a_link_to_the_packages_unit_are_not_replacements(root: Path) -> None:
    packaged = put(root, "lib/systemd/system/ssh.service")
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system/ssh.service").symlink_to(packaged)
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "run/systemd/system/ssh.service").symlink_to("/dev/null")
    assert dropins.find(["ssh.service"], root, root / "dpkg") == []
    (root / "etc/systemd/system/ssh.service").unlink()
    (root / "etc/systemd/system/ssh.service").symlink_to("/tmp/evil")
    assert dropins.find(["ssh.service"], root, root / "dpkg") == [str(root / "etc/systemd/system/ssh.service")]
