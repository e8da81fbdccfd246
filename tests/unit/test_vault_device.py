"""The image of the volume grows, and growing that was interrupted is taken up again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gigglekit.vault import device
from gigglekit.vault.errors import RefusedError

pytestmark = pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="needs e2fsprogs")
MEBIBYTE = 1024**2


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vault.img"
    device.establish(device.Wanted(path, 64))
    return path


def size_inside(path: Path) -> int:
    found = device.superblock(path)
    assert found is not None
    return found.size // MEBIBYTE


def test_an_image_that_is_as_wanted_is_left_alone(image: Path, tmp_path: Path) -> None:
    assert device.missing(device.Wanted(image, 64), tmp_path / "nowhere") == []


def test_an_image_grows_with_its_file_system(image: Path, tmp_path: Path) -> None:
    wanted = device.Wanted(image, 128)
    assert device.missing(wanted, tmp_path / "nowhere") == [f"{image} grown from 64 to 128 MB"]
    device.establish(wanted)
    assert image.stat().st_size == 128 * MEBIBYTE
    assert size_inside(image) == 128
    assert device.missing(wanted, tmp_path / "nowhere") == []


def test_growing_that_ended_after_the_file_goes_on_with_the_file_system(image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(128 * MEBIBYTE)
    wanted = device.Wanted(image, 128)
    assert device.missing(wanted, tmp_path / "nowhere") == [f"the file system on {image} grown from 64 to 128 MB"]
    device.establish(wanted)
    assert size_inside(image) == 128
    assert device.missing(wanted, tmp_path / "nowhere") == []


def test_an_image_is_never_shrunk(image: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="never shrunk"):
        device.missing(device.Wanted(image, 63), tmp_path / "nowhere")


def test_an_image_that_exists_is_not_left_for_a_device(image: Path, tmp_path: Path) -> None:
    listing = tmp_path / "mountinfo"
    listing.write_text(f"29 1 7:1 / {tmp_path / 'uploads'} rw - ext4 /dev/loop1 rw\n")
    backing = tmp_path / "7:1" / "loop" / "backing_file"
    backing.parent.mkdir(parents=True)
    backing.write_text(f"{image}\n")
    assert device.mounted_from(tmp_path / "uploads", listing, tmp_path) == image
    assert device.mounted_from(tmp_path / "uploads", listing, tmp_path / "elsewhere") == Path("/dev/loop1")
    assert device.mounted_from(tmp_path / "nowhere", listing, tmp_path) is None
