"""Dead-man pings in the units of the nightly job, the backup and the converge, as Salt renders them: in their order, and by the role."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import right_settings

from .conftest import REPOSITORY, Minion
from .test_rendering import APPLICATION_KEY, BUCKET, GRAINS

KINDS = ("nightly", "backup", "converge")
Lines = dict[str, list[str]]


def units(folder: Path, roles: list[str] | None) -> Lines:
    """Return of each unit the lines that start something, in the order in which systemd does so, and what ends it well."""
    minion = Minion(folder, folder / "canary")
    minion.droplet_file.parent.mkdir()
    settings = right_settings() | {"backup": BUCKET} | ({"roles": roles} if roles else {})
    settings["secrets"]["backup"] = APPLICATION_KEY
    minion.answer(settings)
    # One call of Salt for all of them.
    sources = "\n".join(f'# {kind}\n{{% include "{kind}/files/etc/systemd/system/giggles-{kind}.service" %}}' for kind in KINDS)
    (folder / "templates").mkdir()
    (folder / "templates" / "units").write_text(sources)
    minion.configure(
        file_roots={"base": [str(REPOSITORY / "salt"), str(folder / "templates")]},
        grains={"giggles_environment": "production", "os_family": "Debian", "virtual": "kvm", **GRAINS["Debian 12"]},
    )
    done = minion.call("--out=json", "--log-level=error", "cp.get_template", "salt://units", str(folder / "made"))
    assert json.loads(done.stdout)["local"] == str(folder / "made"), done.stderr
    parts = re.split(rf"^# ({'|'.join(KINDS)})$", (folder / "made").read_text(), flags=re.MULTILINE)[1:]
    return {
        kind: re.findall(r"^(?:Exec(?:StartPre|Start|StopPost)|SuccessExitStatus)=.*", text, re.MULTILINE)
        for kind, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    return units(tmp_path_factory.mktemp("with"), None)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    return units(tmp_path_factory.mktemp("without"), ["hardening", "vault", "app", "web", "nightly", "backup", "converge"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_tells_its_start_and_its_end_and_neither_can_fail_it(rendered: Lines, kind: str) -> None:
    told = [line for line in rendered[kind] if "/ping " in line]
    assert [line.replace("-+", "-") for line in told] == [
        f"ExecStartPre=-/usr/local/lib/giggles/ping {kind} start",
        f"ExecStopPost=-/usr/local/lib/giggles/ping {kind} end",
    ]
    # As nobody else than root may read the addresses; the job itself is the app's.
    assert all("=-+" in line for line in told) is (kind == "nightly")


def test_the_night_is_told_after_it_was_recorded(rendered: Lines) -> None:
    words = [line.split("/")[-1] for line in rendered["nightly"] if re.match("Exec(?!Start=)", line)]
    assert words == ["ping nightly start", "nightly-record begin 20", "nightly-record end 50", "ping nightly end"]


def test_a_run_that_gave_up_before_it_began_has_not_failed(rendered: Lines, without: Lines) -> None:
    for lines in (rendered, without):
        assert [kind for kind in KINDS if "SuccessExitStatus=75" in lines[kind]] == ["nightly", "converge"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_role_nothing_is_told(without: Lines, kind: str) -> None:
    assert any(line.startswith("ExecStart=") for line in without[kind])
    assert "/ping" not in "".join(without[kind])
