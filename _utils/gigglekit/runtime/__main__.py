"""What bootstrap.sh and the self-converge run: `python -m gigglekit.runtime ensure|back|refuse|proven`.

Prints one JSON object: `name` of the runtime in force, whether it was `switched`, a `note` and a `problem`, each one paragraph or "".
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path

from gigglekit.runtime.errors import RuntimeProblem
from gigglekit.runtime.home import FOLDER, Home
from gigglekit.runtime.upgrading import Upgrade, Upgraded, Wanted

_DIGEST = re.compile(r"[0-9a-f]{64}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gigglekit.runtime", description=__doc__)
    parser.add_argument("--home", type=Path, default=FOLDER, help="where runtimes lie")
    commands = parser.add_subparsers(dest="command", required=True)
    ensure = commands.add_parser("ensure", help="have the runtime in force that the repository asks for")
    ensure.add_argument("--tree", type=Path, default=Path("/srv/giggles-salt"), help="the repository")
    ensure.add_argument("--bundle", help="a bundle: file or address")
    ensure.add_argument("--sha256", default="", help="its sum")
    ensure.add_argument("--only-bundle", action="store_true", help="change nothing if the bundle does not run here")
    ensure.add_argument("--again", action="store_true", help="try again what was refused within the last day")
    back = commands.add_parser("back", help="put the runtime into force that was before this one")
    back.add_argument("--tree", type=Path, default=Path("/srv/giggles-salt"), help="the repository")
    refuse = commands.add_parser("refuse", help="leave a runtime alone for a day")
    refuse.add_argument("name")
    refuse.add_argument("why")
    commands.add_parser("proven", help="the runtime in force has applied something")
    return parser


def _do(given: argparse.Namespace, home: Home) -> Upgraded:
    if given.command == "back":
        return Upgrade(home, given.tree).back()
    if given.command == "ensure":
        bundle = Wanted(given.bundle, given.sha256.lower()) if given.bundle else None
        if bundle is not None and not _DIGEST.fullmatch(bundle.digest):
            raise RuntimeProblem("The sum of the bundle is not 64 hexadecimal digits. Take it from the file .sha256 beside the bundle.")
        return Upgrade(home, given.tree, again=given.again).ensure(bundle, only_bundle=given.only_bundle)
    if given.command == "refuse":
        home.refuse(given.name, given.why)
    else:
        home.prove()
    current = home.read("current")
    return Upgraded(current.name if current else "", switched=False)


def main() -> int:
    """Run it; the exit code is 1 if there is a problem."""
    given = _parser().parse_args()
    home = Home(given.home)
    try:
        print(json.dumps({**dataclasses.asdict(_do(given, home)), "problem": ""}))
    except (RuntimeProblem, OSError) as error:
        current = home.read("current")
        print(json.dumps({"name": current.name if current else "", "switched": False, "note": "", "problem": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
