"""A minion of its own for a test: Salt's real pillar compiler on this repository, all else in a temporary folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from gigglekit.settings.droplet import render

from tests.salt.salt_calls import salt_calls

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Minion:
    """A masterless minion whose pillar comes from this repository and from a droplet.sls of its own.

    Attributes:
        folder: everything it writes lies below.
        canary: the file that its only state makes; while it is missing, no state has run.
    """

    folder: Path
    canary: Path

    @property
    def droplet_file(self) -> Path:
        """Its secrets pillar, which tests write or spoil."""
        return self.folder / "secrets" / "droplet.sls"

    def answer(self, settings: dict[str, Any]) -> None:
        """Write its droplet.sls as bootstrap.sh would."""
        self.droplet_file.write_text(render(settings), encoding="utf-8")

    def configure(self, **changes: Any) -> None:
        """Write the minion configuration as bootstrap.sh does, with `changes` on top."""
        config: dict[str, Any] = {
            "id": "droplet",
            "file_client": "local",
            "root_dir": str(self.folder / "root"),
            "file_roots": {"base": [str(self.folder / "states")]},
            "pillar_roots": {"base": [str(REPOSITORY / "pillar"), str(self.droplet_file.parent)]},
            "module_dirs": [str(REPOSITORY)],
            "pillar_dirs": [str(REPOSITORY / "_pillar")],
            "utils_dirs": [str(REPOSITORY / "_utils")],
            "ext_pillar": [{"giggles": {}}],
            "retcode_passthrough": True,
            "enable_fqdns_grains": False,
            "enable_gpu_grains": False,
            "grains": {"giggles_environment": "production"},
        }
        (self.folder / "minion").write_text(yaml.safe_dump(config | changes), encoding="utf-8")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run salt-call as an operator does."""
        return salt_calls().run(["-c", str(self.folder), "--local", "--retcode-passthrough", *arguments], 60)

    def written(self) -> str:
        """Return the text of everything that it left behind, apart from its own secrets pillar: logs and caches."""
        kept = (file for file in (self.folder / "root").rglob("*") if file.is_file())
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in kept)


@pytest.fixture
def minion(tmp_path: Path) -> Minion:
    """A configured minion with one state, which makes the canary file, and no droplet.sls yet."""
    made = Minion(tmp_path, tmp_path / "canary")
    made.droplet_file.parent.mkdir()
    states = tmp_path / "states"
    states.mkdir()
    (states / "top.sls").write_text("base: {'*': [canary]}\n", encoding="utf-8")
    # Rendered with the map of the real tree, as every real state is.
    for name in ("map.jinja", "defaults.yaml", "osmap.yaml"):
        shutil.copy(REPOSITORY / "salt" / name, states / name)
    state = {"canary-written": {"file.managed": [{"name": str(made.canary)}, {"contents": "{{ giggles.domain }}"}]}}
    header = '{% from "map.jinja" import giggles with context %}\n'
    (states / "canary.sls").write_text(header + json.dumps(state), encoding="utf-8")
    made.configure()
    return made
