"""A file for apt's proxy holds a proxy, and no command that root would run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from gigglekit.apt import settings

REPOSITORY = Path(__file__).resolve().parents[2]
PROXY = "Acquire::(http|https|ftp)::Proxy(::.+)?"


def load(test: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location("apt_settings_state", REPOSITORY / "_states" / "apt_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"test": test}  # type: ignore[attr-defined]
    return module


HARMLESS = [
    'Acquire::http::Proxy "http://10.0.0.1:3128";\n',
    '// by hand\n# as well\nAcquire::https::proxy::mirror.example.org "DIRECT";',
    'Acquire { http { Proxy "http://10.0.0.1:3128/"; }; https::Proxy "false"; }\n',
    "Acquire::http::Proxy {}\n",
    "",
]
HARMFUL = [
    'DPkg::Post-Invoke {"id > /root/proof";};\n',
    'Acquire::http::Proxy "http://10.0.0.1:3128"; DPkg::Post-Invoke {"id";};\n',
    'Acquire::http::Proxy-Auto-Detect "/tmp/evil";\n',
    'Acquire { http { Proxy "x"; Proxy-Auto-Detect "/tmp/evil"; } }\n',
    'Acquire::http::Proxy "//";DPkg { Post-Invoke { "id"; } }\n',
    '#clear Acquire;\n',
    '#include "/tmp/evil";\n',
    '/* Acquire */ DPkg::Post-Invoke {"id";};\n',
    'Acquire::http::Proxy "a\nb"; DPkg::Pre-Invoke {"id";};\n',
    'Acquire::http::Proxy "http://10.0.0.1:3128"',
    "}\n",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "zz-proxy"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", HARMLESS)
def test_a_proxy_may_stay(folder: Path, text: str) -> None:
    assert settings.harmful(write(folder, text), [PROXY]) is None


@pytest.mark.parametrize("text", HARMFUL)
def test_anything_else_may_not(folder: Path, text: str) -> None:
    path = write(folder, text)
    assert settings.harmful(path, [PROXY])


def test_what_others_can_write_or_point_elsewhere_may_not_stay(folder: Path) -> None:
    assert settings.harmful(write(folder, HARMLESS[0], 0o666), [PROXY]) == "others than root can write to it"
    (folder / "link-proxy").symlink_to(folder / "zz-proxy")
    os.mkfifo(folder / "pipe-proxy")
    for name in ("link-proxy", "pipe-proxy"):
        assert settings.harmful(folder / name, [PROXY]) == "it is no plain file"


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="apt's own reading is compared where there is apt")
@pytest.mark.parametrize("text", HARMLESS)
def test_apt_reads_the_same_names(folder: Path, text: str) -> None:
    path = write(folder, text)
    said = subprocess.run(["apt-config", "dump", "-c", path], capture_output=True, text=True, check=True, timeout=30).stdout
    dumped = {line.split(" ", 1)[0].lower() for line in said.splitlines()}
    assert {name.lower() for name in settings.options(text)} <= dumped


def test_the_state_names_each_with_its_reason_and_finds_nothing_the_second_time(folder: Path) -> None:
    kept = folder / "proxy"
    kept.write_text(HARMLESS[0])
    path = write(folder, HARMFUL[0])
    files = {f"{folder}/*proxy*": [PROXY], f"{folder}/nowhere": []}
    looked = load(test=True).limited("proxies", files)
    assert looked["result"] is None
    assert path.exists()
    done = load(test=False).limited("proxies", files)
    assert done["result"] is True
    assert looked["changes"] == done["changes"] == {"removed": {str(path): "it sets DPkg::Post-Invoke"}}
    assert not path.exists()
    assert kept.exists()
    assert load(test=False).limited("proxies", files)["changes"] == {}


def test_every_file_that_is_not_ours_is_looked_into() -> None:
    known = yaml.safe_load((REPOSITORY / "salt" / "hardening" / "known-files.yaml").read_text())["/etc/apt/apt.conf.d"]
    looked_into = yaml.safe_load((REPOSITORY / "salt" / "hardening" / "apt-settings.yaml").read_text())
    assert {f"/etc/apt/apt.conf.d/{name}" for name in known if name != "99-giggles"} <= set(looked_into)
