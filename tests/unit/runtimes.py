"""A folder as /opt/salt is, with programs in it that stand in for Salt, and what makes them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

from gigglekit.runtime.building import LOCK, system_python
from gigglekit.runtime.home import Home, environment_name
from gigglekit.runtime.upgrading import Upgrade, Upgraded, Wanted

# As a lock file says: with `dead` in it salt-call does not start, with `bad` one state fails, with `mute` nothing is rendered.
_SALT = """#!/bin/sh
lock=$(cat "$(dirname "$0")/../lock")
case $lock in *dead*) echo "no module named salt" >&2; exit 1 ;; esac
case "$*" in
  --version) echo "salt-call 3008.3" ;;
  *test=True*)
    case $lock in
      *mute*) echo '{"local": ["Rendering SLS failed"]}'; exit 1 ;;
      *bad*) echo '{"local": {"a": {"__id__": "release-live", "result": false}, "b": {"__id__": "always", "result": false}}}'; exit 2 ;;
      *) echo '{"local": {"a": {"__id__": "release-live", "result": true}, "b": {"__id__": "always", "result": false}}}'; exit 2 ;;
    esac ;;
esac
"""
_PYTHON = "#!/bin/sh\nexit 0\n"
_UV = """#!/bin/sh
echo "$*" >> {log}
test ! -e {fail} || {{ echo "error: no network" >&2; exit 2; }}
for last; do :; done
case $1 in
  venv) mkdir -p "$last/bin" ;;
  pip) cp "$last" "$5/lock"; cp {programs}/* "$5/bin/" ;;
esac
"""


class Runtimes:
    """The folder, the tree that says what should be in it, and uv.

    Arguments:
        folder: an empty one, in which all of it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.tree = folder, Home(folder / "opt"), folder / "tree"
        self.uv, self.log, self.fail, self.configuration = folder / "uv", folder / "uv.log", folder / "fail", folder / "giggles.conf"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._write(self.programs / "salt-call", _SALT)
        self._write(self.programs / "python", _PYTHON)
        self._write(self.uv, _UV.format(log=self.log, fail=self.fail, programs=self.programs))
        self.configuration.touch()
        (self.tree / "requirements").mkdir(parents=True)

    def lock(self, text: str) -> str:
        """Have the tree ask for something else; return what its runtime is called."""
        (self.tree / LOCK).write_text(text)
        return environment_name(text.encode(), system_python()[1])

    def ensure(self, bundle: Wanted | None = None, *, again: bool = False, only_bundle: bool = False) -> Upgraded:
        """Have what the tree asks for."""
        return self.upgrade(again=again).ensure(bundle, only_bundle=only_bundle)

    def upgrade(self, *, again: bool = False) -> Upgrade:
        """Return one look."""
        return Upgrade(self.home, self.tree, uv=self.uv, again=again, configuration=self.configuration)

    def bundle(self, text: str, made_from: str | None = None) -> Wanted:
        """Pack a bundle; what stands in it as the lock file's text says how it behaves.

        Arguments:
            text: says that.
            made_from: the lock file that its sum is of; None for the same.
        """
        place = self.folder / f"bundle-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        (place / "bin").mkdir(parents=True, exist_ok=True)
        for program in self.programs.iterdir():
            self._write(place / "bin" / program.name, program.read_text())
        (place / "lock").write_text(text)
        lock = text if made_from is None else made_from
        (place / "bundle.json").write_text(json.dumps({"lock": hashlib.sha256(lock.encode()).hexdigest(), "glibc": "9.99"}))
        packed = place.with_suffix(".tar.gz")
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(place, ".")
        return Wanted(str(packed), hashlib.sha256(packed.read_bytes()).hexdigest())

    def built(self) -> int:
        """Return how many times something was installed from the lock file."""
        return self.log.read_text().count("pip install") if self.log.exists() else 0

    def works(self) -> bool:
        """Tell whether what is in force starts."""
        program = self.home.folder / "current/bin/salt-call"
        return program.exists() and subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0

    def names(self) -> set[str]:
        """Return what lies in the folder but links and notes."""
        return {path.name for path in self.home.folder.iterdir() if path.is_dir() and not path.is_symlink()}

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
