"""Finds a droplet's secrets where they may not be: in files, in the journal, and in what processes show of themselves.

Everything is looked at from the trial's host, so that the search leaves nothing in the droplet and no secret ever is an
argument of a program.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .conftest import Droplet

ALLOWED = frozenset(
    (
        "/etc/giggles/pillar/droplet.sls",
        "/opt/giggles/.env",
        "/opt/giggles/process.env",
        "/root/giggles-answers.yaml",
        "/etc/giggles/backup.json",
        "/etc/giggles/monitoring.json",
        "/etc/msmtprc",
    )
)
"""The only files that may hold a secret; nobody but their owner may read them."""

NO_SECRET = frozenset(("SUPABASE_URL",))
"""An address, kept beside the secrets since it comes with them."""

PLACES = ("/", "/run", "/tmp", "/dev/shm")
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Secrets:
    """What to look for: byte strings, with the name of the secret that each is a form of."""

    forms: Mapping[bytes, str]

    def found_in(self, text: bytes) -> set[str]:
        """Return the names of the secrets that `text` holds in any form."""
        return {self.forms[match] for match in self._pattern().findall(text)}

    def _pattern(self) -> re.Pattern[bytes]:
        # Longest first: one form may begin like another.
        return re.compile(b"|".join(re.escape(form) for form in sorted(self.forms, key=len, reverse=True)))

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets({**self.forms, **other.forms})


def secrets_of(droplet: Droplet) -> Secrets:
    """Return the secrets that the droplet holds now."""
    pillar = yaml.safe_load(droplet.exec(["cat", "/etc/giggles/pillar/droplet.sls"]).stdout)
    return secrets(pillar["giggles"]["secrets"])


def secrets(values: Mapping[str, Any]) -> Secrets:
    """Return what to look for, given a mapping as below `giggles:secrets` in the pillar."""
    forms: dict[bytes, str] = {}
    for name, value in _texts(values):
        for text in {value, urllib.parse.urlsplit(value).password or value}:
            forms.update(dict.fromkeys(_forms(text), name))
    assert len({*forms.values()}) >= 4, "a search for nothing finds nothing"
    return Secrets(forms)


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif name not in NO_SECRET:
            yield name, str(value)


def _forms(text: str) -> Iterator[bytes]:
    raw = text.encode()
    assert len(raw) >= 8, "too short to be told from chance"
    yield raw
    yield urllib.parse.quote(text, safe="").encode()
    yield urllib.parse.quote_plus(text).encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    # As the middle of a longer text that was encoded as a whole, it may begin at any of three places.
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + raw)
        piece = whole[(0, 2, 3)[offset] : len(whole) - (0 if (offset + len(raw)) % 3 == 0 else 4)]
        yield piece
        yield piece.translate(bytes.maketrans(b"+/", b"-_"))


@dataclass
class Witness:
    """What the processes of a droplet showed while they were watched.

    Attributes:
        leaks: one line for every process that showed a secret to others, without the secret.
        looks: how often all processes were looked at.
        seen: the beginnings of the command lines met, with NULs as blanks.
    """

    leaks: set[str] = field(default_factory=set)
    looks: int = 0
    seen: set[str] = field(default_factory=set)


@contextmanager
def watched(droplet: Droplet, wanted: Secrets) -> Iterator[Witness]:
    """Look at the arguments and environment of all processes of the droplet, again and again, until the block ends.

    The environment of the app's own processes is theirs to know, and no other user can read it.
    """
    witness, stop = Witness(), threading.Event()
    namespace = os.readlink(f"/proc/{droplet.info['leader_pid']}/ns/pid")
    app = int(droplet.shell("id -u giggles"))

    def watch() -> None:
        while not stop.is_set():
            for process in _processes(namespace):
                _look(process, wanted, app, witness)
            witness.looks += 1
            stop.wait(_POLL_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield witness
    finally:
        stop.set()
        thread.join(10)


def _processes(namespace: str) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if os.readlink(process / "ns/pid") == namespace:
                    yield process
            except OSError:
                continue


def _look(process: Path, wanted: Secrets, app: int, witness: Witness) -> None:
    try:
        command = (process / "cmdline").read_bytes()
        owner = process.stat().st_uid
        environment = b"" if owner == app else (process / "environ").read_bytes()
    except OSError:
        return
    words = command.replace(b"\0", b" ").decode(errors="replace")[:200]
    witness.seen.add(words)
    for name in wanted.found_in(command):
        witness.leaks.add(f"{name} in the arguments of {words.split(' ')[0]!r}")
    for name in wanted.found_in(environment):
        witness.leaks.add(f"{name} in the environment of {words!r} (user {owner})")


def leaks(droplet: Droplet, wanted: Secrets, *texts: str, since: float | None = None) -> list[str]:
    """Look for secrets everywhere in the droplet where they may not be.

    Args:
        droplet: the droplet.
        wanted: what to look for.
        texts: what a program printed.
        since: look only at files and journal entries from this time on (seconds since 1970); None for all.

    Returns:
        One line for every place, without the secret; an empty list if there is none.
    """
    found = [f"{name} in the output" for text in texts for name in wanted.found_in(text.encode())]
    found += [f"{name} in the journal" for name in wanted.found_in(_journal(droplet, since))]
    root = Path(f"/proc/{droplet.info['leader_pid']}/root")
    for path, content in _files_with(root, wanted, since):
        inside = "/" + str(path.relative_to(root))
        if inside not in ALLOWED:
            found += [f"{name} in {inside}" for name in wanted.found_in(content)]
        elif path.stat().st_mode & 0o077:
            found.append(f"others may read {inside}, which holds secrets")
    return sorted(set(found))


def _journal(droplet: Droplet, since: float | None) -> bytes:
    # With all fields: journald notes the command line of every process that says something.
    begin = [f"--since=@{int(since)}"] if since is not None else []
    return droplet.exec(["journalctl", "--no-pager", "--quiet", "--all", "--output=export", *begin]).stdout


def _files_with(root: Path, wanted: Secrets, since: float | None) -> Iterator[tuple[Path, bytes]]:
    with tempfile.NamedTemporaryFile(prefix="giggles-patterns-") as patterns:
        patterns.write(b"\n".join(wanted.forms) + b"\n")
        patterns.flush()
        changed = ["-newerct", f"@{since:.3f}"] if since is not None else []
        find = subprocess.Popen(
            ["find", *(f"{root}{place}" for place in PLACES), "-xdev", "-type", "f", *changed, "-size", "+0", "-print0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        grep = subprocess.run(
            ["xargs", "-0", "-r", "grep", "--files-with-matches", "--null", "--text", "--fixed-strings", "-s", "-f",
             patterns.name, "--"],
            stdin=find.stdout,
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
            timeout=300,
        )  # fmt: skip
        find.wait(60)
    for name in filter(None, grep.stdout.split(b"\0")):
        path = Path(os.fsdecode(name))
        try:
            yield path, path.read_bytes()
        except FileNotFoundError:
            continue


def now(droplet: Droplet) -> float:
    """Return the time to give to `leaks` as `since`, a little earlier than now (a file's time may lag a clock tick)."""
    return time.time() - 0.1
