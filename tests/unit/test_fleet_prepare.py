"""What salt-ssh runs on a droplet first: it has the commit as it is, and what somebody edited there is kept, not applied and not lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.operators_tree import clone, git

SCRIPT = Path(__file__).resolve().parents[2] / "fleet/prepare.sh"


class Prepared:
    """A droplet's tree in a temporary folder, and the script as fleet/pack makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tree = folder, folder / "srv/giggles-salt"
        self.tree.parent.mkdir()
        made = clone(folder / "made")
        for name in ("requirements/salt.txt", "requirements/uv.txt", "states.sls"):
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(name)
        (made / "bootstrap.sh").write_text("#!/bin/sh\nexit 0\n")
        (made / "bootstrap.sh").chmod(0o755)
        git(made, "add", "--all")
        git(made, "commit", "--quiet", "--no-gpg-sign", "-m", "Second")
        self.commit = git(made, "rev-parse", "HEAD")
        (folder / "opt").mkdir()
        text = SCRIPT.read_text()
        for own, other in (
            ("@COMMIT@", self.commit),
            ("@LINES@", str(text.count("\n") + 1)),
            ("/srv/giggles-salt", str(self.tree)),
            ("/opt/salt", str(folder / "opt")),
            # Whoever may write there may run it here.
            ('"$(id -u)" != 0', "1 = 2"),
        ):
            assert own in text
            text = text.replace(own, other)
        packed = subprocess.run(["tar", "-czf", "-", "-C", str(made), "."], capture_output=True, check=True, timeout=60).stdout
        self._script = folder / "prepare"
        self._script.write_bytes(text.encode() + packed)

    def run(self) -> str:
        """Run it; return what it says."""
        done = subprocess.run(["sh", str(self._script)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert git(self.tree, "rev-parse", "HEAD") == self.commit
        assert git(self.tree, "status", "--porcelain") == ""
        return done.stderr


@pytest.fixture
def droplet(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def test_a_droplet_that_has_the_commit_is_left_alone(droplet: Prepared) -> None:
    assert droplet.run() == ""
    inode = droplet.tree.stat().st_ino
    assert droplet.run() == ""
    assert droplet.tree.stat().st_ino == inode
    assert not droplet.tree.with_name("giggles-salt.before").exists()


@pytest.mark.parametrize("name", ["states.sls", "new.sls"])
def test_edits_at_the_right_commit_are_kept_beside_and_told(droplet: Prepared, name: str) -> None:
    droplet.run()
    (droplet.tree / name).write_text("An edit.\n")
    assert "giggles-salt.before" in droplet.run()
    assert (droplet.tree.with_name("giggles-salt.before") / name).read_text() == "An edit.\n"
    assert droplet.run() == ""
