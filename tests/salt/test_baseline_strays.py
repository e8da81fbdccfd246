"""What a package brought stays, what this repository put there stays, and the rest goes and is named."""

from __future__ import annotations

import fnmatch
import grp
import importlib.util
import os
import pwd
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from gigglekit.dpkg import overrides, ownership, strays

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A dpkg database that knows one package with one cron job."""
    info = tmp_path / "dpkg" / "info"
    info.mkdir(parents=True)
    (info / "acct.list").write_text(f"/.\n/etc\n{tmp_path}/cron.daily\n{tmp_path}/cron.daily/acct\n")
    (info / "bash.list").write_text("/.\n/bin/bash\n")
    return tmp_path / "dpkg"


@pytest.fixture
def daily(tmp_path: Path) -> Path:
    folder = tmp_path / "cron.daily"
    folder.mkdir()
    (folder / "acct").write_text("packaged")
    return folder


def load(test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("strays_state", REPOSITORY / "_states" / "strays.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    return module


def test_only_what_nobody_knows_is_a_stray(daily: Path, database: Path) -> None:
    for name in ("giggles-nightly", "evil", "acct.dpkg-dist", "evil.dpkg-dist"):
        (daily / name).write_text("")
    assert strays.find({str(daily): ["giggles-*"]}, database) == [f"{daily}/evil", f"{daily}/evil.dpkg-dist"]


def test_a_folder_that_is_not_there_has_no_strays(tmp_path: Path, database: Path) -> None:
    assert strays.find({str(tmp_path / "nowhere"): []}, database) == []


def test_without_the_package_lists_nothing_is_removed(daily: Path, tmp_path: Path) -> None:
    with pytest.raises(ownership.OwnershipError, match="none was removed"):
        strays.find({str(daily): []}, tmp_path / "empty")


def test_a_link_is_removed_and_not_what_it_points_to(daily: Path, tmp_path: Path, database: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").write_text("")
    (daily / "link").symlink_to(target)
    (daily / "folder").mkdir()
    (daily / "folder" / "file").write_text("")
    for path in strays.find({str(daily): []}, database):
        strays.remove(path)
    assert [entry.name for entry in daily.iterdir()] == ["acct"]
    assert (target / "kept").exists()


def test_the_state_names_each_and_finds_nothing_the_second_time(daily: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays.find, "__defaults__", (database,))
    (daily / "evil").write_text("* * * * * root id")
    folders = {str(daily): []}
    looked = load(test=True).absent("no strays", folders)
    assert looked["result"] is None
    assert (daily / "evil").exists()
    done = load(test=False).absent("no strays", folders)
    assert done["result"] is True
    assert looked["changes"] == done["changes"] == {"removed": [f"{daily}/evil"]}
    assert load(test=False).absent("no strays", folders)["changes"] == {}
    assert (daily / "acct").exists()


def test_an_override_is_missing_until_registered_and_the_file_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "gcc"
    file.write_text("")
    file.chmod(0o755)
    me, mine = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(file.stat().st_gid).gr_name
    wanted = {str(file): overrides.Override(me, mine, "0750"), "/not/there/yet": overrides.Override(me, mine, "0750")}
    assert set(overrides.differences(wanted, tmp_path)) == set(wanted)
    (tmp_path / "statoverride").write_text(f"{me} {mine} 750 {file}\n{me} {mine} 750 /not/there/yet\n")
    assert overrides.differences(wanted, tmp_path) == {str(file): {"old": f"{me}:{mine} 0755", "new": f"{me}:{mine} 0750"}}
    file.chmod(0o750)
    assert overrides.differences(wanted, tmp_path) == {}


def test_every_file_that_hardening_manages_in_a_guarded_folder_is_known() -> None:
    known = yaml.safe_load((REPOSITORY / "salt" / "hardening" / "known-files.yaml").read_text())
    for concern in (REPOSITORY / "salt").iterdir():
        for folder, patterns in known.items():
            for file in (concern / "files" / folder.lstrip("/")).glob("*"):
                assert any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns), (
                    f"{file} would be laid by one state and removed by another"
                )
