"""Commits of the sample app that are broken, each in a way of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

Change = Callable[[str], str | None]

_MADE = "        os.makedirs(os.path.join(settings.upload_root, folder), exist_ok=True)\n"
_HEALTHY = "def health() -> dict[str, str]:\n"
_PAGE = "def page() -> HTMLResponse:\n"
_GREEDY = "taken = [bytearray(b'x') * (32 << 20) for _ in range(256)]"


@dataclasses.dataclass(frozen=True)
class Broken:
    """A commit that must not stay live.

    Arguments:
        name: what is wrong with it, in words.
        changes: what makes it of the sample, see `release_repository.commit`.
        told: patterns, without regard to case, of what the refusal has to say of it.
        patience: what the pillar has to say of a start and of the judgement, so that it is seen, and soon.
    """

    name: str
    changes: Mapping[str, Change]
    told: tuple[str, ...]
    patience: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _at_start(line: str) -> Mapping[str, Change]:
    """Have the app do something before its first request; importing it does not."""
    return {"src/main.py": lambda text: text.replace(_MADE, f"{_MADE}    {line}\n")}


def _with(file: str, after: str, line: str) -> Mapping[str, Change]:
    return {file: lambda text: text.replace(after, f"{after}    {line}\n")}


BROKEN = (
    Broken(
        "does not import",
        {"src/routes.py": lambda text: "import a_module_that_nobody_has\n" + text},
        (r"a_module_that_nobody_has",),
    ),
    Broken(
        "lacks a setting",
        {"src/settings.py": lambda text: text.replace("    supabase_url: str\n", "    supabase_url: str\n    new_required_key: str\n")},
        (r"new_required_key", "missing|required"),
    ),
    Broken(
        "refuses a setting that it knew before",
        {
            "src/settings.py": lambda text: text.replace("    allowed_origins: str", "    origins: str"),
            "src/main.py": lambda text: text.replace("settings.allowed_origins", "settings.origins"),
        },
        (r"allowed_origins", "not permitted|extra"),
    ),
    Broken(
        "dies after five seconds",
        _at_start("import threading; threading.Timer(5, os._exit, (3,)).start()"),
        (r"\b(?:end(?:s|ed)|died|exited)\b", r"\b3\b"),
        patience={"gate_seconds": 30},
    ),
    Broken(
        "answers 500 to the question whether it is well",
        _with("src/routes.py", _HEALTHY, "raise HTTPException(500)"),
        (r"/api/health", r"\b500\b"),
    ),
    Broken("answers 500 to the page alone", _with("src/main.py", _PAGE, "raise RuntimeError"), (r"\bpage\b| / |'/'", r"\b500\b")),
    Broken(
        "hangs at its start",
        _at_start("import asyncio; await asyncio.sleep(3600)"),
        (r"did not (?:answer|start)",),
        patience={"start_seconds": 10},
    ),
    Broken(
        "hangs on requests",
        _with("src/main.py", "    response = await call_next(request)\n", "import asyncio; await asyncio.sleep(3600)"),
        (r"did not answer",),
        patience={"start_seconds": 10},
    ),
    Broken("takes all memory at its start", _at_start(_GREEDY), ("memory",)),
    Broken(
        "takes all memory after three seconds",
        _at_start(f'import threading; threading.Timer(3, exec, ("{_GREEDY}",)).start()'),
        ("memory",),
        patience={"gate_seconds": 30},
    ),
    Broken(
        "lacks its static files",
        {
            "src/main.py": lambda text: text.replace('StaticFiles(directory="static")', 'StaticFiles(directory="static", check_dir=False)'),
            "static/health.js": lambda _: None,
            "static/style.css": lambda _: None,
        },
        (r"static",),
    ),
)


def renewed(number: int) -> tuple[str, Mapping[str, Change]]:
    """Return a commit that is as good as the sample: what it calls itself in answers, and its changes."""
    name = f"sample, renewed {number} times"
    return name, {"src/routes.py": lambda text: text.replace('"app": "sample"', f'"app": "{name}"')}
