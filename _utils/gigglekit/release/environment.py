"""Which settings the app takes, and from where each comes: the deployment's choices, its secrets, and this server."""

from __future__ import annotations

from collections.abc import Mapping

REQUIRED = ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SECRET_KEY", "ENCRYPTION_KEY", "DATABASE_URL")

OPTIONAL = (
    "ALLOWED_ORIGINS",
    "MAX_FILE_SIZE",
    "RATE_LIMIT_REQUESTS",
    "RATE_LIMIT_WINDOW",
    "YAMNET_MODEL_URL",
    "AUDIO_SAMPLE_RATE",
    "AUDIO_CHANNELS",
    "LAUGHTER_THRESHOLD",
    "CLIP_DURATION",
    "CLEANUP_INTERVAL",
    "MAX_FILE_AGE",
)

# DEBUG is not offered at all: its pages show settings to visitors.
FIXED = ("UPLOAD_DIR", "HOST", "PORT")

# Read from the process environment by one route; in .env it would be an unknown key, and the app would not start.
PROCESS_ONLY = "SUPABASE_ANON_KEY"

# Everything else in .env is treated as secret by whoever reports on it.
NOT_SECRET = frozenset((*OPTIONAL, *FIXED))


def app_environment(choices: Mapping[str, object], secrets: Mapping[str, object], origins: list[str], uploads: str) -> dict[str, str]:
    """Return what goes into the app's `.env`.

    Arguments:
        choices: giggles:app:environment of the pillar.
        secrets: giggles:secrets:app of the pillar.
        origins: addresses the browser may come from unless ALLOWED_ORIGINS is chosen, such as "https://giggles.example".
        uploads: absolute path of the upload folder.

    Raises:
        ValueError: a key that the app does not know (it would refuse to start), or a required one is missing. Names
            the keys, never a value.
    """
    known = {*REQUIRED, *OPTIONAL, PROCESS_ONLY}
    given = {**choices, **secrets}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(
            f"The app does not know {', '.join(unknown)} and refuses to start with an unknown key in its .env. Remove "
            "it from giggles:app:environment or giggles:secrets:app. What this server itself decides "
            f"({', '.join(FIXED)}) cannot be chosen there either."
        )
    missing = [name for name in REQUIRED if given.get(name) in (None, "")]
    if missing:
        raise ValueError(
            f"The app cannot start without {', '.join(missing)}. Put them below giggles:secrets:app in the secrets "
            "pillar, or run bootstrap.sh again, which asks for them."
        )
    values = {name: _text(value) for name, value in given.items() if name != PROCESS_ONLY and value is not None}
    values.setdefault("ALLOWED_ORIGINS", ",".join(origins))
    return values | {
        "UPLOAD_DIR": uploads,
        # Only the manual start `python -m src.main` uses these two; the service is handed its socket.
        "HOST": "127.0.0.1",
        "PORT": "8000",
    }


def process_environment(secrets: Mapping[str, object]) -> dict[str, str]:
    """Return what the app's processes need in their environment and must not find in `.env`."""
    value = secrets.get(PROCESS_ONLY) or secrets.get("SUPABASE_KEY")
    return {} if value in (None, "") else {PROCESS_ONLY: _text(value)}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
