"""The vault through a real salt-call: what an operator reads when something is wrong, and what test=True announces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.salt.conftest import Minion

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or Path("/etc/giggles").exists(), reason="looks at this machine as a bare one, which a droplet is not"
)

NO_IDS = {
    "nonsense": "no UUID",
    "../../etc": "no UUID",
    "'*'": "no UUID",
    "''": "empty",
    "6F1C1B1E-1111-4222-8333-944445555666": "upper-case",
    "[6f1c1b1e-1111-4222-8333-944445555666]": "list",
    "{a: b}": "one text",
    "17": "number",
    "null": "none was given",
}


@pytest.fixture(autouse=True)
def answered(minion: Minion, right: dict[str, Any]) -> None:
    minion.answer(right)


@pytest.mark.parametrize("given", NO_IDS)
def test_what_is_no_users_id_is_refused_in_one_paragraph_that_does_not_repeat_it(minion: Minion, given: str) -> None:
    done = minion.call("--log-level=error", "giggles.shred", f"user_id={given}")
    assert done.returncode != 0
    told = (done.stdout + done.stderr).strip()
    assert NO_IDS[given] in told
    assert "Nothing was erased" in told
    assert "\n\n" not in told
    assert "Traceback" not in told
    assert "CLI Example" not in told
    if len(given) > 6:
        assert given.strip("'") not in told


@pytest.mark.parametrize(
    "question", [("shred", "user_id=6f1c1b1e-1111-4222-8333-944445555666"), ("vaults",), ("renew_lobby",), ("rekey",), ("sweep",)]
)
def test_without_a_vault_every_question_says_how_to_get_one(minion: Minion, question: tuple[str, ...]) -> None:
    done = minion.call("--log-level=error", f"giggles.{question[0]}", *question[1:])
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert "salt-call state.apply vault" in told or "/var/lib/giggles/uploads" in told
    assert "Traceback" not in told


def test_a_bare_machine_is_told_what_would_be_made(minion: Minion, tmp_path: Path) -> None:
    image = tmp_path / "vault.img"
    words = {
        "vault.formed": [f"name={image}", "size_mb=16"],
        "vault.filled": ["name=clips", f"device={image}"],
        "vault.ready": ["name=folders"],
        "vault.private": ["name=all", "user=nobody", "group=nogroup"],
    }
    told = {}
    for function, arguments in words.items():
        done = minion.call("--out=json", "state.single", function, *arguments, "test=True")
        (told[function],) = json.loads(done.stdout)["local"].values()
        assert done.returncode == 0, told[function]
    assert told["vault.formed"]["result"] is None
    assert "16 MB" in str(told["vault.formed"]["changes"])
    assert told["vault.filled"]["result"] is True
    assert told["vault.ready"]["result"] is None
    assert told["vault.private"]["result"] is True
    assert not image.exists()
    assert not Path("/etc/giggles").exists()


def test_a_device_that_holds_data_is_refused_and_left_alone(minion: Minion, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_bytes(b"data" * 1000)
    done = minion.call("--out=json", "state.single", "vault.formed", f"name={tmp_path / 'vault.img'}", "size_mb=16", f"device={file}")
    (told,) = json.loads(done.stdout)["local"].values()
    assert done.returncode == 2
    assert "no block device" in told["comment"]
    assert file.read_bytes() == b"data" * 1000


def test_every_function_of_the_module_shows_how_to_call_it(minion: Minion) -> None:
    told = json.loads(minion.call("--out=json", "sys.doc", "giggles").stdout)["local"]
    assert {"giggles.shred", "giggles.receipts", "giggles.verify_receipt", "giggles.vaults", "giggles.rekey", "giggles.sweep"} <= set(told)
    for name, text in told.items():
        assert f"salt-call {name}" in text, name
        assert "CLI Example:" in text, name
