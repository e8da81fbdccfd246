"""The command line of `trial/droplet`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from . import entering, host, neighbourhood, record, trial
from .errors import TrialError
from .settings import DEFAULT_NAME, RELEASES, is_valid_name
from .steps import say

_LINES_SHOWN = 60
_OWN_FAILURE_IN_EXEC = 125
"""Told apart from the exit codes of the commands that exec runs."""


def _name(text: str) -> str:
    if not is_valid_name(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a droplet's name: it becomes a host name, so use up to 24 of a-z, 0-9 and -, "
            "beginning with a letter and not ending with -"
        )
    return text


def _roles(text: str) -> tuple[str, ...]:
    return tuple(role for role in text.split(",") if role)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trial/droplet", description="Throwaway droplets on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(title: str, what: str) -> argparse.ArgumentParser:
        result = commands.add_parser(title, help=what, description=what)
        if title != "list":
            result.add_argument("--name", type=_name, default=DEFAULT_NAME, help="which droplet (default: %(default)s)")
        return result

    up = command("up", "boot a droplet with its neighbours, put this working tree on it and run bootstrap.sh there")
    again = up.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="begin again from the base image")
    again.add_argument("--replace", action="store_true", help="a new droplet; its neighbours stay, with database and bucket")
    up.add_argument("--release", choices=RELEASES, help="Debian release of a new droplet (default: bookworm)")
    up.add_argument("--beside", type=_name, metavar="N", help="let it have the neighbours of the droplet N instead of its own")
    up.add_argument("--roles", type=_roles, metavar="A,B", help="what the droplet is for (default: everything)")
    up.add_argument("--bare", action="store_true", help="only boot and copy the tree; run nothing of ours")
    up.add_argument("--bundle", type=Path, metavar="FILE", help="have Salt from this bundle (packaging/build), and from no Python there")
    execute = command("exec", "run a command as root inside the droplet; input, output and exit code untouched")
    execute.add_argument("--role", choices=("droplet", "neighbours"), default="droplet", help="which of its machines")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    info = command("info", "show addresses, paths and credentials of a droplet and its neighbours")
    info.add_argument("--json", action="store_true", help="as one JSON object")
    command("list", "show all droplets").add_argument("--json", action="store_true", help="as a JSON array")
    command("restart", "reboot the droplet and wait until it is up again")
    dns = command("dns", "change what the droplet's domain resolves to")
    answer = dns.add_mutually_exclusive_group(required=True)
    answer.add_argument("--answer", metavar="IP", help="this address instead of the droplet's; `none`: no such name")
    answer.add_argument("--reset", action="store_true", help="the droplet's own address again")
    down = command("down", "stop the droplet and its neighbours, and the droplets beside it")
    down.add_argument("--purge", action="store_true", help="and remove everything of them")
    down.add_argument("--images", action="store_true", help="with --purge: remove the cached base images too")
    return parser


def main() -> NoReturn:
    """Run the command that the process arguments ask for, and end the process with its exit code."""
    arguments = _parser().parse_args()
    try:
        host.require_root()
        sys.exit(_dispatch(arguments))
    except TrialError as error:
        for line in error.output.splitlines()[-_LINES_SHOWN:]:
            print(line, file=sys.stderr)
        print(f"trial/droplet {arguments.command}: {error}", file=sys.stderr)
        sys.exit(_OWN_FAILURE_IN_EXEC if arguments.command == "exec" else 1)
    except BrokenPipeError:
        # The reader of our output has seen enough; keep Python from complaining again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to continue, or `trial/droplet down --purge` to clean up")
        sys.exit(130)


def _dispatch(arguments: argparse.Namespace) -> int:
    name: str = getattr(arguments, "name", "")
    if arguments.command == "up":
        wish = trial.Wish(
            release=arguments.release,
            beside=arguments.beside,
            roles=arguments.roles,
            fresh=arguments.fresh,
            replace=arguments.replace,
            bare=arguments.bare,
            bundle=arguments.bundle,
        )
        code = trial.up(name, wish)
        if code == 0:
            _show_where_to_look(trial.describe(name), bare=arguments.bare)
        return code
    if arguments.command == "exec":
        return _exec(name, arguments.role, arguments.arguments)
    if arguments.command == "info":
        facts = trial.describe(name)
        print(json.dumps(facts, indent=2) if arguments.json else _table(facts))
    elif arguments.command == "list":
        _list(arguments.json)
    elif arguments.command == "restart":
        say(f"{name} is {trial.restart(name)}")
    elif arguments.command == "dns":
        one = record.require(name)
        neighbourhood.answer_dns(one, trial.neighbours(one), None if arguments.reset else arguments.answer)
    elif arguments.command == "down":
        if arguments.images and not arguments.purge:
            raise TrialError("--images removes what droplets are made from, so it needs --purge with it.")
        trial.down(name, arguments.purge)
        trial.tidy(arguments.images)
    return 0


def _exec(name: str, role: str, arguments: list[str]) -> int:
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        raise TrialError("exec needs a command to run, e.g. `trial/droplet exec -- systemctl status`.")
    one = record.require(name)
    leader = (trial.droplet(one) if role == "droplet" else trial.neighbours(one)).leader()
    if leader is None:
        raise TrialError(f"The droplet {name} is not running. Start it with `trial/droplet up --name {name}`.")
    entering.end_like(entering.enter(leader, command))


def _list(as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for name in record.names():
        try:
            one = record.load(name)
        except TrialError:
            one = None
        if one is None:
            rows.append({"name": name, "state": "half-made", "release": None, "ip": None, "domain": None})
        else:
            rows.append(
                {
                    "name": name,
                    "state": trial.state(one),
                    "release": one.release,
                    "ip": one.droplet_port.address,
                    "domain": one.domain,
                }
            )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("  ".join(str(row[key] or "-").ljust(width) for key, width in _COLUMNS).rstrip())


_COLUMNS = (("name", 16), ("state", 10), ("release", 9), ("ip", 13), ("domain", 0))


def _table(facts: dict[str, Any], prefix: str = "") -> str:
    lines: list[str] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines.append(_table(value, f"{prefix}{key}."))
        else:
            lines.append(f"{prefix}{key}".ljust(26) + f" {value if value is not None else '-'}")
    return "\n".join(lines)


def _show_where_to_look(facts: dict[str, Any], bare: bool) -> None:
    ssh, name = facts["ssh"], facts["name"]
    tool = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).exists() else "trial/droplet"
    suffix = "" if name == DEFAULT_NAME else f" --name {name}"
    resolve = f"{facts['domain']}:443:{facts['ip']}"
    lines = [f"The droplet {name} ({facts['release']}, {facts['ip']}) is up{', bare' if bare else ''}."]
    if not bare:
        lines += [
            f"  site   https://{facts['domain']}/",
            f"  curl   curl --cacert {facts['acme_root']} --resolve {resolve} https://{facts['domain']}/api/health",
        ]
    lines += [
        f"  ssh    ssh -i {ssh['private_key']} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no {ssh['user']}@{facts['ip']}",
        f"  root   {tool} exec{suffix} -- bash",
        f"  facts  {tool} info{suffix} --json",
        f"  end    {tool} down{suffix} --purge",
    ]
    print("\n".join(lines))
