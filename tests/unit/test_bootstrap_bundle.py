"""bootstrap.sh looks at a bundle before it changes anything."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).resolve().parents[2] / "bootstrap.sh"
_SCRIPT = """
set -euo pipefail
source <(sed '/^main$/d' "$1") "${@:2}"
check_bundle
printf 'PROBLEM %s\\n' "${problems[@]}"
[ -z "$fetched" ] || cat "$fetched"
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar.gz"
    path.write_text("what was built")
    return path


@pytest.fixture
def address(bundle: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(bundle.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def look(*arguments: str) -> str:
    script = ["bash", "-c", _SCRIPT, "bash", str(BOOTSTRAP), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def right(bundle: Path) -> str:
    return hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_a_bundle_with_the_right_sum_is_no_problem(bundle: Path) -> None:
    assert look("--bundle", str(bundle), "--sha256", right(bundle).upper()) == "PROBLEM \n"
    assert look("--non-interactive") == "PROBLEM \n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--bundle", "BUNDLE", "--sha256", "0" * 64], "is not the one that was meant"),
        (["--bundle", "BUNDLE"], "sum of the bundle is missing"),
        (["--bundle", "BUNDLE", "--sha256", "0" * 63], "is not 64 hexadecimal digits"),
        (["--bundle", "/nowhere", "--sha256", "0" * 64], "cannot be read"),
        (["--sha256", "0" * 64], "none is named"),
    ],
)
def test_any_other_is_refused(bundle: Path, arguments: list[str], why: str) -> None:
    said = look(*(str(bundle) if word == "BUNDLE" else word for word in arguments))
    assert said.count("PROBLEM") == 1
    assert why in said


def test_one_that_is_fetched_is_compared_too_and_kept_until_it_is_unpacked(bundle: Path, address: str) -> None:
    assert look("--bundle", f"{address}/{bundle.name}", "--sha256", right(bundle)) == "PROBLEM \nwhat was built"
    assert "is not the one that was meant" in look("--bundle", f"{address}/{bundle.name}", "--sha256", "0" * 64)
    assert "cannot be fetched" in look("--bundle", f"{address}/nothing", "--sha256", "0" * 64)
