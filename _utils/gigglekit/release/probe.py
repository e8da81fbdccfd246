"""Runs inside the release's own interpreter, as the app's user: does the app import, with its settings?

Given to `python -c` with MODULE:ATTRIBUTE and the folder where the app keeps its scratch files as its arguments. Prints one
JSON object on standard output and nothing else: the app's own output is dropped, since what it prints about wrong settings
quotes them.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

_SOUND = bytes(range(256)) * 16


def _reason(error: BaseException) -> str:
    details: Any = getattr(error, "errors", None)
    if callable(details):
        try:
            return "; ".join(
                "{}: {}".format(".".join(map(str, entry["loc"])) or "settings", entry["msg"])
                for entry in details(include_input=False, include_url=False, include_context=False)
            )
        except (TypeError, KeyError, ValueError):
            # Another library's idea of `errors`.
            return type(error).__name__
    return f"{type(error).__name__}: {error}"


def _place(error: BaseException) -> str:
    here = os.getcwd() + os.sep
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(here)]
    return f"{frames[-1].filename[len(here) :]}:{frames[-1].lineno}" if frames else ""


def _round_trip(folder: str) -> None:
    """Write, read and erase a file as the app does with what is uploaded: as its user, in its sandbox, on the encrypted volume."""
    path = os.path.join(folder, f".giggles-probe-{os.getpid()}")
    try:
        with open(path, "xb") as file:
            file.write(_SOUND)
        with open(path, "rb") as file:
            if file.read() != _SOUND:
                raise OSError("what was read is not what was written")
    except OSError as error:
        raise RuntimeError(f"files cannot be stored in {folder} ({error.strerror or error})") from None
    finally:
        if os.path.exists(path):
            os.unlink(path)


def _main() -> None:
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    module, _, attribute = sys.argv[1].partition(":")
    result: dict[str, object] = {"starts": True}
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        importlib.import_module("uvicorn")
        _round_trip(sys.argv[2])
    except BaseException as error:  # noqa: BLE001 - a SystemExit of the app is an answer too
        result = {"starts": False, "reason": _reason(error), "place": _place(error)}
    os.write(answer, json.dumps(result).encode())
    # Leaving at once: TensorFlow's threads take seconds to wind down, and their noise is nobody's.
    os._exit(0)


_main()
