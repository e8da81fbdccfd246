"""The right Python is recognised, and a missing one is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from gigglekit.release import interpreter
from gigglekit.release.errors import BuildError, ReleaseError
from gigglekit.release.settings import Layout


@pytest.mark.parametrize(
    ("request_", "version", "expected"),
    [
        ("system", (3, 13), True),
        ("3.11", (3, 11), True),
        ("3.11", (3, 1), False),
        ("3.11.4", (3, 11), True),
        (">=3.9,<3.12", (3, 10), True),
        (">=3.9,<3.12", (3, 12), False),
        (">=3.9, <=3.13", (3, 13), True),
    ],
)
def test_a_version_is_compared_by_number(request_: str, version: tuple[int, int], expected: bool) -> None:
    assert interpreter.fits(request_, version) is expected


def test_a_request_that_names_no_python_is_refused() -> None:
    with pytest.raises(ReleaseError, match="names no Python"):
        interpreter.fits("python please", (3, 11))


def test_what_uv_leaves_for_everybody_to_write_is_closed(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nmkdir -p "$UV_PYTHON_INSTALL_DIR"; cd "$UV_PYTHON_INSTALL_DIR"; : > .lock; chmod 666 .lock; exit 2\n')
    uv.chmod(0o755)
    layout = Layout(tmp_path)
    with pytest.raises(BuildError):
        interpreter.choose("3.2", uv, layout, {})
    assert (layout.python / ".lock").stat().st_mode & 0o777 == 0o644


def test_an_interpreter_that_cannot_be_had_is_one_paragraph(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'error: no route to host' >&2\nexit 2\n")
    uv.chmod(0o755)
    with pytest.raises(BuildError, match=r"asks for Python 3\.2, this system has .*no route to host") as caught:
        interpreter.choose("3.2", uv, Layout(tmp_path), {})
    assert "\n" not in str(caught.value)
