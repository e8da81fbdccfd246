"""The box for strangers' build scripts is asked for with all its walls, and nothing secret where others can read it."""

from __future__ import annotations

import pwd
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from gigglekit.command import CommandTimeoutError, Outcome
from gigglekit.release import box, single_run, venv
from gigglekit.release.errors import BuildError

SECRET = 'https://u:planted "pass\\word"@index.test/simple'


class Started:
    """Stands in for `run`, and keeps what systemd-run was asked for."""

    def __init__(self) -> None:
        self.argv: list[str] = []
        self.environment: object = None
        self.file = Path()
        self.text = ""
        self.modes: list[int] = []
        self.fails = False

    def __call__(self, argv: Sequence[str], *, seconds: float, environment: object = None) -> Outcome:
        self.argv, self.environment = list(argv), environment
        self.file = Path(re.search(r"EnvironmentFile=(\S+)", " ".join(argv))[1])  # type: ignore[index]
        self.text = self.file.read_text()
        self.modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.file.parent, self.file)]
        if self.fails:
            raise CommandTimeoutError("x took longer than 1 s")
        return Outcome(0, "", "")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr(box, "run", started)
    return started


def test_variables_travel_in_a_file_of_roots_that_is_gone_afterwards(started: Started, tmp_path: Path) -> None:
    box.run_boxed(["uv"], {"UV_INDEX_URL": SECRET}, [tmp_path], seconds=1, desk=tmp_path / "desk")
    assert "planted" not in " ".join(started.argv)
    assert not [argument for argument in started.argv if argument.startswith(("--setenv", "-E", "--property=Environment="))]
    assert 'UV_INDEX_URL="https://u:planted \\"pass\\\\word\\"@index.test/simple"\n' in started.text
    assert started.modes == [0o700, 0o600]
    assert not started.file.exists()


def test_the_file_is_gone_after_a_failure_as_well(started: Started, tmp_path: Path) -> None:
    started.fails = True
    with pytest.raises(CommandTimeoutError):
        box.run_boxed(["uv"], {"UV_INDEX_URL": SECRET}, [tmp_path], seconds=1, desk=tmp_path / "desk")
    assert "planted" in started.text
    assert list((tmp_path / "desk").iterdir()) == []


@pytest.mark.usefixtures("started")
def test_what_a_killed_build_left_is_gone_after_the_next(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "killed.env").write_text(SECRET)
    box.run_boxed(["uv"], {}, [tmp_path], seconds=1, desk=tmp_path / "desk")
    assert list((tmp_path / "desk").iterdir()) == []


def test_the_box_has_its_walls(started: Started, tmp_path: Path) -> None:
    box.run_boxed(["uv"], {}, [tmp_path / "a", tmp_path / "b"], seconds=1, desk=tmp_path / "desk")
    asked = dict(
        argument.removeprefix("--property=").partition("=")[::2] for argument in started.argv if argument.startswith("--property=")
    )
    wanted = {
        "User": "giggles-build",
        "Group": "giggles-build",
        "CapabilityBoundingSet": "",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        # The cloud's metadata service.
        "IPAddressDeny": "link-local",
        "RestrictAddressFamilies": "AF_INET AF_INET6",
        "ReadWritePaths": f"{tmp_path}/a {tmp_path}/b",
    }
    assert {name: asked.get(name) for name in wanted} == wanted
    for path in (
        "/etc/letsencrypt",
        "/etc/giggles",
        "/etc/ssh",
        "/var/lib/giggles",
        "/run/dbus",
        "/run/systemd/private",
        "/srv/giggles-salt",
        "/root",
    ):
        assert f"-{path}" in asked["InaccessiblePaths"].split()


def test_a_missing_account_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "ACCOUNT", "not-made-yet")
    with pytest.raises(BuildError, match=r"salt-call state\.apply app\.account"):
        box.account()


def test_an_account_that_is_root_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid(0))
    with pytest.raises(BuildError, match="number of root"):
        box.account()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    target = tmp_path / ".venv"
    (target / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    return target


def test_the_guard_replaces_links_that_a_package_planted(environment: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    packages = environment / "lib" / "python3.11" / "site-packages"
    for name in ("giggles_single_run.py", "giggles_single_run.pth"):
        (packages / name).symlink_to(outside)
    venv._guard(environment)
    assert outside.read_text() == "kept"
    assert not (packages / "giggles_single_run.pth").is_symlink()
    assert (packages / "giggles_single_run.pth").read_text() == "import giggles_single_run\n"
    assert (packages / "giggles_single_run.py").read_bytes() == Path(single_run.__file__).read_bytes()


@pytest.mark.parametrize("link", ["lib", "lib/python3.11", "lib/python3.11/site-packages"])
def test_the_guard_goes_to_no_site_packages_elsewhere(environment: Path, tmp_path: Path, link: str) -> None:
    moved = tmp_path / "elsewhere"
    (environment / link).rename(moved)
    (environment / link).symlink_to(moved)
    with pytest.raises(BuildError, match="no site-packages of its own"):
        venv._guard(environment)
    assert list(tmp_path.rglob("giggles_single_run*")) == []
