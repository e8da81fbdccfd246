"""Starting the app's nightly script, for all users or for some, so that no list of processes shows their ids."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The script sees `--user-id ID --user-id ID …` as ever. They come by a pipe: what stands in a command line is for everybody to read,
# and there is no room in it for thousands. Its name is a word of the command line, so that the release's own lock is taken.
_WITH_USERS = (
    "import json, os, runpy, sys\n"
    "script = os.path.abspath(sys.argv[1])\n"
    "sys.argv = [sys.argv[1], *(word for user in json.load(sys.stdin) for word in ('--user-id', user))]\n"
    "sys.path[0] = os.path.dirname(script)\n"
    "runpy.run_path(script, run_name='__main__')\n"
)


@dataclass(frozen=True)
class Script:
    """The app's nightly script.

    Arguments:
        python: the release's interpreter.
        name: of the script, in `folder`.
        folder: the app's own; the script is started in it.
        environment: all that it gets.
    """

    python: str
    name: str
    folder: Path
    environment: Mapping[str, str]

    def start(self, users: Sequence[str] | None) -> subprocess.Popen[bytes]:
        """Start it.

        Arguments:
            users: ids of those to process; None for all that it finds itself.

        Raises:
            OSError: it cannot be started.
        """
        words = [self.name] if users is None else ["-c", _WITH_USERS, self.name]
        child = subprocess.Popen(
            [self.python, *words],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL if users is None else subprocess.PIPE,
        )
        if child.stdin is not None:
            try:
                with child.stdin:
                    child.stdin.write(json.dumps(list(users or ())).encode())
            except BrokenPipeError:
                pass  # it has ended already; how, its exit status says
        return child
